// Takes the place of node:test in a twin: every test fails at its end, and tells whether an altered assertion held.
"use strict";
const real = require("node:test");
const state = require("./state.cjs");

const told = (before) => new Error(`${state.token} ${state.held > before ? "held" : "fell"}`);

function inner(context) {
  if (context === null || typeof context !== "object") return context;
  return new Proxy(context, {
    get(target, name) {
      if (name === "test") return (...args) => target.test(...twinned(args));
      const value = target[name];
      return typeof value === "function" ? value.bind(target) : value;
    },
  });
}

function twinned(args) {
  return args.map((each) => {
    if (typeof each !== "function") return each;
    if (each.length > 1) {
      return function withCallback(context, done) {
        const before = state.held;
        return each.call(this, inner(context), () => done(told(before)));
      };
    }
    return async function twin(context) {
      const before = state.held;
      try {
        await each.call(this, inner(context));
      } catch {
        // It fails all the same.
      }
      throw told(before);
    };
  });
}

function wrapped(run) {
  const made = (...args) => run(...twinned(args));
  for (const name of ["only", "skip", "todo"]) if (run[name]) made[name] = (...args) => run[name](...twinned(args));
  return made;
}

const test = wrapped(real.test);
module.exports = Object.assign(test, real, { test, default: test });
module.exports.it = wrapped(real.it);
module.exports.test = test;
module.exports.describe = real.describe;
module.exports.suite = real.suite;
module.exports.before = real.before;
module.exports.after = real.after;
module.exports.beforeEach = real.beforeEach;
module.exports.afterEach = real.afterEach;
module.exports.mock = real.mock;
module.exports.run = real.run;
for (const name of ["only", "skip", "todo"]) test[name] = (...args) => real.test[name](...twinned(args));
