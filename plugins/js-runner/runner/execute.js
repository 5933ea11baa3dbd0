// Runs one program and turns its end, whatever it is, into a text that a model can act on.
//
// Invariant: no exception of the program leaves `run`, and the answer fits `maxOutputBytes`. A trap (stack overflow,
// deadline, memory) is the host's to report.

import * as loop from "./event_loop.js";
import { console } from "./console.js";
import { inspect } from "./inspect.js";
import { Recorder, clean, cutMiddle } from "./output.js";
import { HELPERS, compile } from "./program.js";
import { seeded } from "./random.js";

// The name of the program in errors.
const FILE_NAME = "<code>";
// The error or last value gets a quarter of the answer, at most this.
const MAX_REPORT_BYTES = 8 * 1024;
// Room for the marks that tell where text was left out.
const MARK_BYTES = 256;
// Lines of a stack that are shown.
const MAX_FRAMES = 10;
// What `compile` is for. Every other program runs as it is, and is not parsed twice.
const REWRITTEN = /\b(async|await|import)\b/;
// What a program may look for in vain.
const ABSENT = /\b(require|process|fetch|module|exports|Buffer|window|document|XMLHttpRequest|WebSocket|Deno|Bun|Intl|crypto|TextEncoder|TextDecoder|URL|structuredClone)\b/;
// What the toolchain leaves in the global object, and none of a program's business.
const TOOLCHAIN = ["__cqjs", "wit"];
// Where it goes: to free it would cost every call more than all the rest.
const putAway = [];

const evaluate = globalThis.eval;

// Runs `code`; calls `emit(text)` with what it prints while it runs.
export function run({ code, input, seed, maxOutputBytes, emit }) {
  const reportBytes = Math.min(Math.floor(maxOutputBytes / 4), MAX_REPORT_BYTES);
  const printedBytes = Math.max(maxOutputBytes - reportBytes - MARK_BYTES, MARK_BYTES);
  recorder.begin(printedBytes, emit);
  prepare(input, seed);
  try {
    return answer(settled(code), reportBytes);
  } catch {
    // The program has changed what the runner itself is made of: `String.prototype`, for example.
    const text = "the program broke the functions that its output is shown with";
    return { text, isError: true, truncated: false };
  }
}

function answer(outcome, reportBytes) {
  recorder.emitRest();
  const [report, isReportCut] = cutMiddle(clean(outcome.report), reportBytes);
  let printed = recorder.text();
  if (printed && report && !printed.endsWith("\n")) printed += "\n";
  return {
    text: printed + report || "(the program ended without printing anything)",
    isError: outcome.isError,
    truncated: recorder.isTruncated || isReportCut,
  };
}

function define(values) {
  for (const [name, value] of Object.entries(values)) {
    Object.defineProperty(globalThis, name, { value, writable: true, configurable: true, enumerable: false });
  }
}

// Where the program prints. There is one: an instance runs one program.
const recorder = new Recorder();

// What every program finds in the global object: put there once, when the snapshot is made.
function furnish() {
  const { setTimeout, setInterval, clearTimer, queueMicrotask, Promise } = loop;
  define({ console: console((text) => recorder.write(text)), input: undefined, queueMicrotask, Promise });
  define({ setTimeout, setInterval, clearTimeout: clearTimer, clearInterval: clearTimer });
  define({ setImmediate: (callback, ...values) => setTimeout(callback, 0, ...values), clearImmediate: clearTimer });
  define({ [HELPERS.runAsync]: loop.runAsync, [HELPERS.streamAsync]: loop.streamAsync, [HELPERS.each]: loop.each });
  define({ [HELPERS.yielded]: loop.yielded, [HELPERS.delegate]: loop.delegate });
  define({ [HELPERS.main]: (program) => loop.runAsync(program.call(globalThis)) });
}

furnish();

// What is different in every call.
function prepare(input, seed) {
  for (const name of TOOLCHAIN) {
    putAway.push(globalThis[name]);
    delete globalThis[name];
  }
  globalThis.input = input;
  Math.random = seeded(seed, Date.now(), performance.now() * 1000);
}

// Runs the program until nothing of it is left to run: what to show below what it printed.
function settled(code) {
  try {
    const program = REWRITTEN.test(code) ? compile(code) : { source: code, hasValue: true, isAsync: false };
    const value = evaluate(program.source);
    const ending = value instanceof loop.Promise && (program.hasValue || program.isAsync) ? watch(value) : { value };
    const uncaught = loop.runToEnd();
    if (uncaught) return { report: errorReport(uncaught.reason, linesOf(code)), isError: true };
    if (program.isAsync && !("value" in ending)) {
      const report = "the program waits for a promise that nothing is left to settle";
      return { report, isError: true };
    }
    const last = "value" in ending ? ending.value : value;
    return { report: program.hasValue && last !== undefined ? `=> ${inspect(last)}` : "", isError: false };
  } catch (error) {
    return { report: syntaxReport(error, code) ?? errorReport(error, linesOf(code)), isError: true };
  }
}

function linesOf(code) {
  return code.split(/\r\n|[\n\r\u2028\u2029]/);
}

// An object that gets `value` when `promise` is fulfilled. A rejection goes on to a promise that nobody handles.
function watch(promise) {
  const ending = {};
  promise.then((value) => {
    ending.value = value;
  });
  return ending;
}

// What is wrong with a program that is none, in the parser's words, which are clearer than the engine's; `null` for
// an error that the program threw.
function syntaxReport(error, code) {
  if (!(error instanceof SyntaxError)) return null;
  try {
    compile(code);
    return null;
  } catch (found) {
    return syntaxError(found, linesOf(code));
  }
}

// The parser's message without its place, and the line that it is about.
function syntaxError(error, lines) {
  const message = String(error.message).replace(/ \(\d+:\d+\)$/, "");
  const { line = 1, column = 0 } = error.loc ?? {};
  const hint = /import|export/.test(message) ? hintAbout("import") : "";
  return `SyntaxError: ${message}\n    at ${FILE_NAME}:${line}:${column + 1}${quote(lines, line)}${hint}`;
}

// The error, and the frames of the program alone: those of the runner it cannot change.
function errorReport(error, lines) {
  try {
    if (!(error instanceof Error)) return `Uncaught ${inspect(error)}`;
    let text = String(error.message ? `${error.name}: ${error.message}` : error.name) + frames(error, lines);
    if (error.cause !== undefined) text += `\ncaused by: ${errorReport(error.cause, lines)}`;
    if (error instanceof AggregateError) {
      for (const one of error.errors) text += `\none of its errors: ${errorReport(one, lines)}`;
    }
    return text + hint(error);
  } catch (second) {
    return `an error whose description could not be made (${second?.name ?? typeof second})`;
  }
}

function frames(error, lines) {
  const shown = [];
  for (const frame of String(error.stack ?? "").split("\n")) {
    const found = /^\s*at (?:(.*) \()?<input>:(\d+)(?::\d+)?\)?$/.exec(frame);
    if (!found) continue;
    if (shown.length === MAX_FRAMES) {
      shown.push("\n    ...");
      break;
    }
    const [, name, line] = found;
    const where = `${FILE_NAME}:${line}`;
    const isNamed = name && name !== "<eval>" && name !== "<anonymous>";
    shown.push(`\n    at ${isNamed ? `${name} (${where})` : where}${quote(lines, Number(line))}`);
  }
  return shown.join("");
}

function quote(lines, line) {
  const text = lines[line - 1]?.trim();
  return text ? `\n      ${cutMiddle(clean(text), 200)[0]}` : "";
}

// What a model cannot know about this place.
function hint(error) {
  const isMissing = error instanceof ReferenceError && / is not defined$/.test(error.message);
  const name = isMissing && ABSENT.exec(error.message)?.[1];
  return name ? hintAbout(name) : "";
}

function hintAbout(name) {
  return `\nhint: there is no \`${name}\` here: only the language itself, without modules, files, network and processes`;
}

// A first use makes shapes, atoms and tables that every call would have to make again: with this, they are in the
// snapshot.
recorder.begin(MARK_BYTES, () => {});
recorder.write(inspect([1, "a", { b: evaluate("1 + 1") }]));
seeded("", 1, 2)();
cutMiddle(clean(""), MARK_BYTES);
