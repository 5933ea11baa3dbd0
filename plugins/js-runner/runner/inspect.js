// Values as a person reads them, in the way of Node: `{ a: 1, b: [ 'x' ] }`.
//
// Reading a value can run the program's code (getters are not run, proxies are); whatever that throws is the
// program's own error.

// Deeper levels are `[Object]`, further items are counted: a value's text has to stay readable.
const MAX_DEPTH = 5;
const MAX_ITEMS = 100;
const LINE_WIDTH = 76;

// The text of `value`; strings with quotes.
export function inspect(value, depth = 0, path = []) {
  switch (typeof value) {
    case "string":
      return quoted(value);
    case "bigint":
      return `${value}n`;
    case "symbol":
      return value.toString();
    case "number":
      return Object.is(value, -0) ? "-0" : String(value);
    case "function":
      return withProperties(functionName(value), value, depth, path);
    case "object":
      return value === null ? "null" : object(value, depth, path);
    default:
      return String(value);
  }
}

// The text of console.log's arguments, `%s` and its like filled in.
export function format(values) {
  let [first, ...rest] = values;
  if (typeof first === "string" && rest.length > 0) {
    first = first.replace(/%[sdifjoOc%]/g, (mark) => {
      if (mark === "%%") return "%";
      if (rest.length === 0) return mark;
      const value = rest.shift();
      switch (mark) {
        case "%d":
          return typeof value === "bigint" ? `${value}n` : String(Number(value));
        case "%i":
          return String(parseInt(value, 10));
        case "%f":
          return String(parseFloat(value));
        case "%j":
          return JSON.stringify(value);
        case "%s":
          return typeof value === "string" ? value : inspect(value, MAX_DEPTH);
        case "%c":
          return "";
        default:
          return inspect(value);
      }
    });
  }
  return [...(values.length > 0 ? [first] : []), ...rest]
    .map((value) => (typeof value === "string" ? value : inspect(value)))
    .join(" ");
}

function quoted(text) {
  const quote = !text.includes("'") ? "'" : !text.includes('"') ? '"' : !text.includes("`") ? "`" : "'";
  const escapes = { "\n": "\\n", "\r": "\\r", "\t": "\\t", "\b": "\\b", "\f": "\\f", "\v": "\\v", "\\": "\\\\" };
  const body = text.replace(/[\u0000-\u001f\u007f\\]/g, (character) => {
    return escapes[character] ?? `\\x${character.charCodeAt(0).toString(16).padStart(2, "0")}`;
  });
  return quote + (quote === "'" ? body.replaceAll("'", "\\'") : body) + quote;
}

function functionName(value) {
  const isClass = /^class\b/.test(Function.prototype.toString.call(value));
  const name = typeof value.name === "string" && value.name ? value.name : "(anonymous)";
  return `[${isClass ? "class" : "Function:"} ${name}]`;
}

function object(value, depth, path) {
  if (path.includes(value)) return "[Circular]";
  if (value instanceof Error) return withProperties(errorText(value), value, depth, path);
  if (value instanceof Date) return Number.isNaN(value.getTime()) ? "Invalid Date" : value.toISOString();
  if (value instanceof RegExp) return String(value);
  const name = constructorName(value);
  if (depth >= MAX_DEPTH) return `[${name ?? "Object: null prototype"}]`;
  const within = [...path, value];
  const show = (item) => inspect(item, depth + 1, within);
  const prefix = (plain) => (name === plain ? "" : `${name ?? "[Object: null prototype]"} `);
  if (Array.isArray(value)) return braced(prefix("Array"), "[", items(value, show), properties(value, show), "]");
  if (value instanceof Map) {
    const pairs = listed(value.size, value, ([key, item]) => `${show(key)} => ${show(item)}`);
    return braced(`Map(${value.size}) `, "{", pairs, properties(value, show), "}");
  }
  if (value instanceof Set) {
    return braced(`Set(${value.size}) `, "{", listed(value.size, value, show), properties(value, show), "}");
  }
  if (ArrayBuffer.isView(value) && !(value instanceof DataView)) {
    return braced(`${name}(${value.length}) `, "[", listed(value.length, value, show), [], "]");
  }
  if (value instanceof ArrayBuffer) return `ArrayBuffer { byteLength: ${value.byteLength} }`;
  if (value instanceof Promise && value.inspected) return `Promise { ${value.inspected(show)} }`;
  for (const Wrapper of [Number, String, Boolean, Symbol, BigInt]) {
    if (value instanceof Wrapper) return `[${Wrapper.name}: ${inspect(value.valueOf())}]`;
  }
  return braced(prefix("Object"), "{", [], properties(value, show), "}");
}

// `Error: message` and where it came from is for uncaught errors; a value shows the first alone.
function errorText(error) {
  const name = String(error.name ?? "Error");
  const text = error.message ? `${name}: ${error.message}` : name;
  return error.cause === undefined ? `[${text}]` : `[${text}; cause: ${inspect(error.cause)}]`;
}

function constructorName(value) {
  for (let proto = Object.getPrototypeOf(value); proto; proto = Object.getPrototypeOf(proto)) {
    const descriptor = Object.getOwnPropertyDescriptor(proto, "constructor");
    if (typeof descriptor?.value === "function" && descriptor.value.name) return descriptor.value.name;
  }
  return null;
}

function items(array, show) {
  const shown = [];
  for (let at = 0; at < array.length && shown.length < MAX_ITEMS; ) {
    if (at in array) {
      shown.push(show(array[at++]));
      continue;
    }
    const from = at;
    while (at < array.length && !(at in array)) at++;
    shown.push(`<${at - from} empty item${at - from > 1 ? "s" : ""}>`);
  }
  if (array.length > MAX_ITEMS) shown.push(`... ${array.length - MAX_ITEMS} more`);
  return shown;
}

function listed(count, iterable, show) {
  const shown = [];
  for (const item of iterable) {
    if (shown.length === MAX_ITEMS) break;
    shown.push(show(item));
  }
  if (count > MAX_ITEMS) shown.push(`... ${count - MAX_ITEMS} more`);
  return shown;
}

function properties(value, show) {
  const isIndex = (key) => Array.isArray(value) && typeof key === "string" && /^\d+$/.test(key);
  const keys = Reflect.ownKeys(value).filter((key) => {
    return !isIndex(key) && Object.getOwnPropertyDescriptor(value, key)?.enumerable;
  });
  const shown = keys.slice(0, MAX_ITEMS).map((key) => {
    const name = typeof key === "symbol" ? `[${key.toString()}]` : /^[\p{ID_Start}$_][\p{ID_Continue}$]*$/u.test(key) ? key : quoted(key);
    const { get, set, value: item } = Object.getOwnPropertyDescriptor(value, key);
    if (get || set) return `${name}: [${[get && "Getter", set && "Setter"].filter(Boolean).join("/")}]`;
    return `${name}: ${show(item)}`;
  });
  if (keys.length > MAX_ITEMS) shown.push(`... ${keys.length - MAX_ITEMS} more`);
  return shown;
}

function withProperties(text, value, depth, path) {
  const shown = properties(value, (item) => inspect(item, depth + 1, [...path, value]));
  return shown.length === 0 || depth >= MAX_DEPTH ? text : braced(`${text} `, "{", [], shown, "}");
}

function braced(prefix, open, first, second, close) {
  const parts = [...first, ...second];
  if (parts.length === 0) return `${prefix}${open}${close}`;
  const line = `${prefix}${open} ${parts.join(", ")} ${close}`;
  if (line.length <= LINE_WIDTH && !line.includes("\n")) return line;
  const width = Math.max(...parts.map((part) => part.length));
  // Many short items share lines, as numbers in a list do.
  const perLine = first.length > 6 && width <= 16 ? Math.max(1, Math.floor(LINE_WIDTH / (width + 2))) : 1;
  const lines = [];
  for (let at = 0; at < parts.length; at += perLine) lines.push(parts.slice(at, at + perLine).join(", "));
  return `${prefix}${open}\n${lines.join(",\n").replace(/^/gm, "  ")}\n${close}`;
}
