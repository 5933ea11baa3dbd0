// The plugin `my-plugin`: this module speaks the contract (wit/plugin.wit), `describe.js` does the work.
//
// What is imported here is in the component's snapshot. The functions are synchronous: nothing waits for a promise.
import { describe, text } from "./describe.js";

const NUMBER = { type: "number" };

const INPUT_SCHEMA = {
  type: "object",
  properties: {
    numbers: { type: "array", items: NUMBER, minItems: 1, description: "The numbers" },
  },
  required: ["numbers"],
  additionalProperties: false,
};

const OUTPUT_SCHEMA = {
  type: "object",
  properties: { count: { type: "integer" }, mean: NUMBER, median: NUMBER, least: NUMBER, most: NUMBER },
  required: ["count", "mean", "median", "least", "most"],
};

export const tool = {
  listTools() {
    return [
      {
        name: "describe",
        description: "Describes a list of numbers: count, mean, median, least and most.",
        inputSchema: JSON.stringify(INPUT_SCHEMA),
        outputSchema: JSON.stringify(OUTPUT_SCHEMA),
        // Same arguments, same answer, no trace left.
        effect: "pure",
      },
    ];
  },

  callTool(name, argumentsText, context) {
    if (name !== "describe") {
      throw { tag: "invalid-arguments", val: `my-plugin has no tool \`${name}\`` };
    }
    const found = describe(JSON.parse(argumentsText).numbers);
    if (found === null) {
      // The tool ran and says no: the model reads why.
      const content = [{ tag: "text", val: "there are no numbers to describe" }];
      return { content, isError: true, truncated: false };
    }
    // Text for the model, JSON for later steps of a workflow.
    const content = [
      { tag: "text", val: text(found) },
      { tag: "json", val: JSON.stringify(found) },
    ];
    return { content, isError: false, truncated: false };
  },
};
