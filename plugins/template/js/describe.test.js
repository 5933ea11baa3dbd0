// `node --test` in this folder.
import assert from "node:assert";
import test from "node:test";

import { describe } from "./describe.js";

test("the median of an even count lies between", () => {
  assert.equal(describe([4, 1, 2, 3]).median, 2.5);
});

test("there is nothing to say about nothing", () => {
  assert.equal(describe([]), null);
});
