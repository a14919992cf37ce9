// Loaded before any test: what decides cannot be replaced by the code under test.
"use strict";
const assert = require("node:assert");
const test = require("node:test");

for (const each of [assert, assert.strict]) {
  for (const name of Object.keys(each)) if (typeof each[name] === "function") Object.freeze(each[name]);
  Object.freeze(each);
}
Object.freeze(assert.AssertionError.prototype);
for (const name of ["test", "it", "describe", "suite"]) Object.freeze(test[name]);
Object.freeze(test);
