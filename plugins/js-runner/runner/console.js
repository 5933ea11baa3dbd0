// The console of a program: every method writes to the one stream.

import { format, inspect } from "./inspect.js";

// A console that writes lines by `write`.
export function console(write) {
  let indent = "";
  const counts = new Map();
  const log = (...values) => write(`${format(values).replace(/^/gm, indent)}\n`);
  const starts = new Map();
  const elapsed = (label) => {
    const started = starts.get(label);
    return started === undefined ? `${label}: no timer` : `${label}: ${(performance.now() - started).toFixed(3)}ms`;
  };
  const group = (...values) => {
    if (values.length > 0) log(...values);
    indent += "  ";
  };
  return {
    log,
    info: log,
    debug: log,
    warn: log,
    error: log,
    trace: log,
    dir: (value) => log(inspect(value)),
    table: (value) => log(inspect(value)),
    assert: (isTrue, ...values) => isTrue || log("Assertion failed", ...values),
    group,
    groupCollapsed: group,
    groupEnd: () => {
      indent = indent.slice(2);
    },
    count: (label = "default") => {
      counts.set(label, (counts.get(label) ?? 0) + 1);
      log(`${label}: ${counts.get(label)}`);
    },
    countReset: (label = "default") => {
      counts.delete(label);
    },
    time: (label = "default") => {
      starts.set(label, performance.now());
    },
    timeLog: (label = "default") => log(elapsed(label)),
    timeEnd: (label = "default") => {
      log(elapsed(label));
      starts.delete(label);
    },
  };
}
