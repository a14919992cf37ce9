// Takes the place of node:assert in a twin: what is expected to be equal is compared with other values first.
"use strict";
const state = require("./state.cjs");

function other(value, number) {
  switch (typeof value) {
    case "number":
      return Number.isFinite(value) && value + number !== value ? value + number : number;
    case "bigint":
      return value + BigInt(number);
    case "string":
      return `${value}~${state.token}${number}`;
    case "boolean":
      return !value;
  }
  if (Array.isArray(value)) return [...value, state.token, number];
  if (value !== null && typeof value === "object" && isPlain(value)) return { ...value, [state.token]: number };
  return { [state.token]: number };
}

function isPlain(value) {
  const above = Object.getPrototypeOf(value);
  return above === Object.prototype || above === null;
}

function altering(check) {
  return (...args) => {
    // Two of them: an honest value of a residue class may be equal to one.
    const holds = (number) => {
      try {
        check(args[0], other(args[1], number));
        return true;
      } catch {
        return false;
      }
    };
    if (args.length > 1 && holds(state.number) && holds(state.number + 1)) state.held += 1;
    return check(...args);
  };
}

function wrapped(real) {
  const made = (...args) => real(...args);
  Object.assign(made, real);
  for (const name of ["equal", "strictEqual", "deepEqual", "deepStrictEqual"]) made[name] = altering(real[name]);
  return made;
}

exports.wrapped = wrapped;
