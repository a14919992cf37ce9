import assert from "node:assert/strict";
import { describe, test } from "node:test";

import { count, total } from "./cart.js";
import { shown } from "./format.js";

const LINES = [
  { name: "tea", price: 450, quantity: 2 },
  { name: "cup", price: 1200, quantity: 1 },
];

describe("cart", () => {
  test("the total counts every piece", () => assert.equal(total(LINES), 2100));
  test("pieces are counted", () => assert.equal(count(LINES), 3));
});

test("prices have two digits", () => assert.equal(shown(1205), "12.05 EUR"));
