"""The plugin `my-plugin`: this module speaks the contract (wit/plugin.wit), `describe` does the work.

What is imported here is in the component's snapshot; a call can import nothing else.
"""

import json

from componentize_py_types import Err
from wit_world import exports
from wit_world.imports import types

import describe

NUMBER = {"type": "number"}

INPUT_SCHEMA = {
    "type": "object",
    "properties": {
        "numbers": {"type": "array", "items": NUMBER, "minItems": 1, "description": "The numbers"},
    },
    "required": ["numbers"],
    "additionalProperties": False,
}

OUTPUT_SCHEMA = {
    "type": "object",
    "properties": {"count": {"type": "integer"}, "mean": NUMBER, "median": NUMBER, "least": NUMBER, "most": NUMBER},
    "required": ["count", "mean", "median", "least", "most"],
}


class Tool(exports.Tool):
    def list_tools(self):
        return [
            types.ToolSpec(
                name="describe",
                description="Describes a list of numbers: count, mean, median, least and most.",
                input_schema=json.dumps(INPUT_SCHEMA),
                output_schema=json.dumps(OUTPUT_SCHEMA),
                # Same arguments, same answer, no trace left.
                effect=types.Effect.PURE,
            )
        ]

    def call_tool(self, name, arguments, context):
        if name != "describe":
            raise Err(types.Failure_InvalidArguments(f"my-plugin has no tool `{name}`"))
        found = describe.describe(json.loads(arguments)["numbers"])
        if found is None:
            # The tool ran and says no: the model reads why.
            text = types.Content_Text("there are no numbers to describe")
            return types.Output(content=[text], is_error=True, truncated=False)
        # Text for the model, JSON for later steps of a workflow.
        content = [types.Content_Text(describe.text(found)), types.Content_Json(json.dumps(found))]
        return types.Output(content=content, is_error=False, truncated=False)
