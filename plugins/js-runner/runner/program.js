// A program's text to a text that the engine can run to its end without an event loop of its own.
//
// `async` functions become generators which yield what they await (`event_loop.js` drives them), and a program that
// awaits at its top level becomes such a generator as a whole. Everything else stays as it was written, and every line
// keeps its number, so that errors name the program's own lines.

import { parse } from "acorn";

// What the rewritten program calls, by the names that it knows them by.
export const HELPERS = {
  main: "$main",
  runAsync: "$async",
  streamAsync: "$stream",
  yielded: "$yielded",
  delegate: "$delegate",
  each: "$each",
};

// What cannot be written as a generator.
class Unsupported extends SyntaxError {
  constructor(what, node) {
    super(`${what} is not supported here (${node.loc.start.line}:${node.loc.start.column})`);
    this.loc = node.loc.start;
  }
}
Object.defineProperty(Unsupported.prototype, "name", { value: "SyntaxError" });

// The program to run; `hasValue`: its last statement is an expression; `isAsync`: it awaits at its top level.
export function compile(code) {
  const tree = parse(code, {
    ecmaVersion: "latest",
    sourceType: "script",
    allowAwaitOutsideFunction: true,
    allowReturnOutsideFunction: false,
    locations: true,
  });
  const last = tree.body.at(-1);
  const hasValue = last?.type === "ExpressionStatement";
  const writer = new Writer(code);
  const parts = writer.list(tree.body, 0, code.length, { kind: "program" }, hasValue && last);
  if (!writer.awaitsAtTop) return { source: parts.plain, hasValue, isAsync: false };
  return { source: `${HELPERS.main}(function*(){${parts.returning}\n})`, hasValue, isAsync: true };
}

class Writer {
  awaitsAtTop = false;
  #code;

  constructor(code) {
    this.#code = code;
  }

  // The code of `node`. `scope` is the innermost function: its `kind`, and whether that is asynchronous.
  write(node, scope) {
    switch (node.type) {
      case "FunctionDeclaration":
      case "FunctionExpression":
        return node.async ? this.#asyncFunction(node) : this.#plain(node, { kind: "function" });
      case "ArrowFunctionExpression":
        return node.async ? this.#asyncArrow(node, scope) : this.#plain(node, scope);
      case "Property":
      case "MethodDefinition":
        return node.value?.async && (node.method || node.type === "MethodDefinition")
          ? this.#asyncMethod(node, scope)
          : this.#plain(node, scope);
      case "AwaitExpression":
        this.awaitsAtTop ||= scope.kind === "program";
        return `(yield(${this.#after("await", node, node.argument, scope)}))`;
      case "YieldExpression":
        return scope.isStream ? this.#yield(node, scope) : this.#plain(node, scope);
      case "ForOfStatement":
        return node.await ? this.#forAwait(node, "", scope) : this.#plain(node, scope);
      case "LabeledStatement":
        return this.#labeled(node, scope);
      case "Program":
      case "BlockStatement":
      case "StaticBlock":
      case "SwitchCase":
        return this.#block(node, scope);
      case "Identifier":
        if (node.name === "arguments" && scope.isArrow) {
          throw new Unsupported("`arguments` in an async arrow function", node);
        }
        return this.#plain(node, scope);
      case "Super":
        if (scope.isAsync) throw new Unsupported("`super` in an async method", node);
        return "super";
      case "ImportExpression":
        throw new Unsupported("`import`", node);
      default:
        return this.#plain(node, scope);
    }
  }

  // The statements between `start` and `end`; `returning` gives the value of `last` back.
  list(statements, start, end, scope, last) {
    let [plain, returning, at] = ["", "", start];
    for (const statement of statements) {
      const between = this.#code.slice(at, statement.start);
      let text = this.write(statement, scope);
      // Where the text now begins with a parenthesis, the line before may not go on into it.
      if (text.startsWith("(") && this.#code[statement.start] !== "(") text = `;${text}`;
      plain += between + text;
      returning += between + (statement === last ? `return (${text.replace(/^;/, "").replace(/;$/, "")});` : text);
      at = statement.end;
    }
    const rest = this.#code.slice(at, end);
    return { plain: plain + rest, returning: returning + rest };
  }

  #block(node, scope) {
    const statements = node.type === "SwitchCase" ? node.consequent : node.body;
    const head = node.test ? this.#between(node.start, node.test.end, [node.test], scope) : "";
    const from = node.test ? node.test.end : node.start;
    const first = statements[0]?.start ?? node.end;
    return head + this.#code.slice(from, first) + this.list(statements, first, node.end, scope).plain;
  }

  // `node` as it was written, with what is inside of it rewritten.
  #plain(node, scope) {
    return this.#between(node.start, node.end, children(node), scope);
  }

  #between(start, end, nodes, scope) {
    let [text, at] = ["", start];
    for (const node of nodes.sort((a, b) => a.start - b.start || b.end - a.end)) {
      if (node.start < at) continue; // `{ name }` is key and value in one
      text += this.#code.slice(at, node.start) + this.write(node, scope);
      at = node.end;
    }
    return text + this.#code.slice(at, end);
  }

  // What follows the word at the start of `node`, up to its end.
  #after(word, node, child, scope) {
    return this.#between(node.start + word.length, node.end, child ? [child] : [], scope);
  }

  // `(parameters) { body }` of an asynchronous function, as a function that starts a generator.
  #started(node, open) {
    const scope = { kind: "function", isAsync: true, isStream: node.generator };
    const driver = node.generator ? HELPERS.streamAsync : HELPERS.runAsync;
    const text = this.#between(open, node.end, [...node.params, node.body], scope);
    return `(){return ${driver}(function*${text}.apply(this,arguments))}`;
  }

  #asyncFunction(node) {
    const open = this.#code.indexOf("(", node.id ? node.id.end : node.start);
    const lines = this.#code.slice(node.start, open).replace(/[^\n]/g, "");
    return `function ${node.id ? node.id.name : ""}${lines}${this.#started(node, open)}`;
  }

  #asyncMethod(node, scope) {
    const head = this.#between(node.start, node.value.start, [node.key], scope);
    return head.replace(/^(static\s+)?async\s*\*?/, "$1") + this.#started(node.value, node.value.start);
  }

  #asyncArrow(node, scope) {
    const inner = { ...scope, kind: "arrow", isAsync: true, isStream: false, isArrow: true };
    const arrow = this.#code.lastIndexOf("=>", node.body.start);
    const head = this.#between(node.start + "async".length, arrow, [...node.params], inner);
    const parameters = head.trimStart().startsWith("(") ? head : `(${head})`;
    const tail = this.#between(arrow + 2, node.end, [node.body], inner);
    const body = node.expression ? `{return(${tail}\n)}`.replace(/\n\)\}$/, ")}") : tail;
    return `(...$given)=>${HELPERS.runAsync}(function*${parameters}${body}.apply(this,$given))`;
  }

  #yield(node, scope) {
    const after = this.#after("yield", node, node.argument, scope);
    return node.delegate
      ? `(yield*${HELPERS.delegate}(${after.replace(/^\s*\*/, "")}))`
      : `(yield ${HELPERS.yielded}(${after}))`;
  }

  #labeled(node, scope) {
    return node.body.type === "ForOfStatement" && node.body.await
      ? this.#forAwait(node.body, `${node.label.name}:`, scope)
      : this.#plain(node, scope);
  }

  #forAwait(node, label, scope) {
    this.awaitsAtTop ||= scope.kind === "program";
    const right = this.write(node.right, scope);
    const left =
      node.left.type === "VariableDeclaration"
        ? `${this.write(node.left, scope)}=$values.value;`
        : `(${this.write(node.left, scope)}=$values.value);`;
    const body = this.write(node.body, scope);
    return (
      `{const $values=${HELPERS.each}(${right});try{${label}for(;yield*$values.step();){${left}${body}}}` +
      `finally{yield*$values.close()}}`
    );
  }
}

function children(node) {
  const found = [];
  for (const value of Object.values(node)) {
    for (const child of Array.isArray(value) ? value : [value]) {
      if (typeof child?.type === "string" && typeof child.start === "number") found.push(child);
    }
  }
  return found;
}
