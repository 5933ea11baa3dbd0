// The plugin `js-runner`: one tool, `run`, which executes a JavaScript program and tells what happened.
//
// This module only speaks the contract (plugins/wit/plugin.wit); `runner/` does the work. All of it is in the
// component's snapshot: a call starts from the evaluated modules and never reads a source file.
//
// The program and this module share one interpreter, so the program can do whatever the plugin can. That is why the
// manifest grants a clock and nothing else.
import host from "chaski:plugin/host@0.1.0";

import * as execute from "./runner/execute.js";

const DESCRIPTION =
  "Runs a JavaScript program and answers with what it printed by console.log, then the value of its last expression " +
  "as `=> value`, or the error that ended it with the program's lines. `await` works at the top level. Use it for " +
  "arithmetic, JSON, text, dates, checking an idea or testing a small function. Every call starts afresh: variables " +
  "of earlier calls are gone. Only the language itself is there (no Node, no packages, no Intl): no files, no " +
  "network, no processes; timers fire in order without waiting.";

const INPUT_SCHEMA = {
  type: "object",
  properties: {
    code: { type: "string", minLength: 1, description: "The program: one or more lines of JavaScript" },
    input: { description: "Any JSON value; the program reads it as the variable `input`" },
  },
  required: ["code"],
  additionalProperties: false,
};

export const tool = {
  listTools() {
    return [
      {
        name: "run",
        description: DESCRIPTION,
        inputSchema: JSON.stringify(INPUT_SCHEMA),
        outputSchema: null,
        // A program may read the clock: two runs may differ, none leaves a trace.
        effect: "idempotent",
      },
    ];
  },

  callTool(name, argumentsText, context) {
    if (name !== "run") {
      throw { tag: "invalid-arguments", val: `js-runner has no tool \`${name}\`, only \`run\`` };
    }
    const { code, input } = JSON.parse(argumentsText);
    const ending = execute.run({
      code,
      input,
      seed: context.callId,
      maxOutputBytes: context.maxOutputBytes,
      emit: host.emit,
    });
    return {
      content: [{ tag: "text", val: ending.text }],
      isError: ending.isError,
      truncated: ending.truncated,
    };
  },
};
