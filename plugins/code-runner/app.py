"""The plugin `code-runner`: one tool, `run`, which executes a Python program and tells what happened.

This module only speaks the contract (plugins/wit/plugin.wit); `chaski_runner` does the work and can be tested
with any Python. Everything imported here, the whole standard library included, is in the component's
snapshot: a call starts from it and never reads a source file.

The program and this module share one interpreter, so the program can do whatever the plugin can. That is why
the manifest grants a clock and randomness and nothing else.
"""

import json

from componentize_py_types import Err
from wit_world import exports
from wit_world.imports import host, types

from chaski_runner import execute, stdlib

stdlib.import_all()

DESCRIPTION = """\
Runs a Python 3.14 program and answers with what it printed, then the value of its last expression as
`=> value`, or the traceback of the exception that ended it. Use it for arithmetic, dates, parsing, checking
an idea or testing a small function. Every call starts afresh: variables of earlier calls are gone. Only the
standard library is there; there are no files, no network, no subprocesses and no threads."""

INPUT_SCHEMA = {
    "type": "object",
    "properties": {
        "code": {"type": "string", "minLength": 1, "description": "The program: one or more lines of Python"},
        "stdin": {"type": "string", "description": "Text that the program can read from standard input"},
    },
    "required": ["code"],
    "additionalProperties": False,
}


class Tool(exports.Tool):
    def list_tools(self):
        return [
            types.ToolSpec(
                name="run",
                description=DESCRIPTION.replace("\n", " "),
                input_schema=json.dumps(INPUT_SCHEMA),
                output_schema=None,
                # A program may read the clock and random numbers: two runs may differ, none leaves a trace.
                effect=types.Effect.IDEMPOTENT,
            )
        ]

    def call_tool(self, name, arguments, context):
        if name != "run":
            raise Err(types.Failure_InvalidArguments(f"code-runner has no tool `{name}`, only `run`"))
        arguments = json.loads(arguments)
        ending = execute.run(
            code=arguments["code"],
            stdin=arguments.get("stdin") or "",
            max_output_bytes=context.max_output_bytes,
            emit=host.emit,
        )
        return types.Output(
            content=[types.Content_Text(ending.text)], is_error=ending.is_error, truncated=ending.truncated
        )
