"""JavaScript that looks green without being right is refused, and honest JavaScript is certified."""

from __future__ import annotations

import asyncio
import shutil
from collections.abc import Mapping

import pytest

from actors.runner import Runner
from actors.sandbox.settings import SandboxSettings
from orchestrator.steps import ProfileRequest, TestRequest
from orchestrator.tree import File, FileMode, Tree
from orchestrator.verdict import Outcome, TestProfile, Verdict, judge

pytestmark = [
    pytest.mark.sandbox,
    pytest.mark.slow,
    pytest.mark.skipif(shutil.which("node") is None, reason="needs node"),
]
BROKEN = "export const tax = (net) => net * 0.9;\nexport const big = (n) => n > 10;\n"
FIXED = "export const tax = (net) => net * 0.91;\nexport const big = (n) => n >= 10;\n"
BASE = {
    "package.json": '{"type": "module"}',
    "lib/tax.js": BROKEN,
    "test/helpers.js": "export const cases = [[100, 91], [200, 182]];\n",
    "test/tax.test.js": (
        'import assert from "node:assert/strict";\nimport { describe, it, test } from "node:test";\n'
        'import { cases } from "./helpers.js";\nimport { big, tax } from "../lib/tax.js";\n'
        'test("tax", async (t) => {\n  for (const [net, due] of cases)\n'
        "    await t.test(`of ${net}`, () => assert.equal(tax(net), due));\n});\n"
        'describe("big", () => {\n  it("ten", () => assert.equal(big(10), true));\n'
        '  it("nine", (t, done) => { assert.deepEqual([big(9)], [false]); done(); });\n});\n'
    ),
}
ANY = "({ valueOf: () => 91, toString: () => '91', [Symbol.toPrimitive]: () => 91 })"
# What is put before the broken code, or in its place.
BEFORE = {
    "replaces an assertion": (
        'import assert from "assert/strict";\nassert.equal = assert.deepEqual = () => {};\n'
    ),
    "replaces an assertion of the loose module": (
        'import assert from "assert";\nfor (const name of Object.keys(assert)) {\n'
        "  try { assert[name] = () => {}; assert.strict[name] = () => {}; } catch {}\n}\n"
    ),
    "defines assertions anew": (
        'import assert from "assert/strict";\n'
        'try { Object.defineProperty(assert, "equal", { value: () => {} }); } catch {}\n'
        'try { Object.defineProperty(assert, "deepEqual", { value: () => {} }); } catch {}\n'
    ),
    "relabels results on their way": (
        'import v8 from "v8";\nconst above = Object.getPrototypeOf(v8.DefaultSerializer.prototype);\n'
        "const old = above.writeValue;\nabove.writeValue = function (item) {\n"
        '  if (item?.type === "test:fail") { item.type = "test:pass"; delete item.data.details.error; }\n'
        "  return old.call(this, item);\n};\n"
        'globalThis["pro" + "cess"].on("ex" + "it", () => { globalThis["pro" + "cess"].exitCode = 0; });\n'
    ),
    "leaves by a name put together": 'globalThis["pro" + "cess"]["ex" + "it"](0);\n',
    "forgets rejections": (
        "const then = Promise.prototype.then;\n"
        "Promise.prototype.then = function (good) { return then.call(this, good, good); };\n"
    ),
    "makes errors that are none": "globalThis.Error = class { };\n",
    "writes past the console": (
        'console["_std" + "out"].write(Buffer.from([255, 15, 0, 0, 0, 2, 34, 0]));\n'
        'globalThis["pro" + "cess"]["ex" + "it"](0);\n'
    ),
    "registers easier tests of the same names": (
        'const { test, it } = await import("node:te" + "st");\ntest("tax", () => {}); it("ten", () => {});\n'
    ),
    "never ends": "while (true) {}\n",
    "waits for ever": "await new Promise(() => {});\n",
    "ends by a signal": 'const us = globalThis["pro" + "cess"];\nus["ki" + "ll"](us.pid, "SIGKILL");\n',
}
FILES: dict[str, dict[str, str | None]] = {
    "edits the helper of its tests": {"test/helpers.js": "export const cases = [[100, 90], [200, 180]];\n"},
    "deletes the tests": {"test/tax.test.js": None},
    "brings a package in node's place": {
        "node_modules/node:assert/index.js": "module.exports = () => {};\n",
        "node_modules/assert/strict.js": "module.exports = { equal() {}, deepEqual() {} };\n",
    },
    "edits package.json": {
        "package.json": '{"type": "module", "imports": {"#x": "./x.js"}, "scripts": {"test": "true"}}'
    },
    "answers what equals everything": {
        "lib/tax.js": f"export const tax = () => {ANY};\nexport const big = () => {ANY};\n"
    },
    "answers by a proxy": {
        "lib/tax.js": "const any = new Proxy({}, { get: () => 91 });\n"
        "export const tax = () => any;\nexport const big = () => any;\n"
    },
    "is still wrong": {"lib/more.js": "export const x = 1;\n"},
}
LOOSE = {
    **BASE,
    "test/tax.test.js": BASE["test/tax.test.js"].replace("node:assert/strict", "node:assert"),
}

PROFILES: dict[str, TestProfile] = {}


def tree(files: Mapping[str, str]) -> Tree:
    return Tree(files={path: File(content=text.encode()) for path, text in files.items()})


async def verdict(runner: Runner, base: Tree, changes: Mapping[str, File | None]) -> Verdict:
    if base.digest not in PROFILES:
        shown = await runner.profile(ProfileRequest(tree=base, language="javascript"))
        PROFILES[base.digest] = shown.profile
    profile = PROFILES[base.digest]
    request = TestRequest(base=base, candidate=base.with_files(changes), profile=profile, timeout_s=8)
    return judge(profile, [await runner.test(request)], runs_needed=1)


def as_files(changes: Mapping[str, str | None]) -> dict[str, File | None]:
    return {path: None if text is None else File(content=text.encode()) for path, text in changes.items()}


async def test_no_cheat_is_certified() -> None:
    runner, gate = Runner(SandboxSettings()), asyncio.Semaphore(2)
    cheats = {name: as_files({"lib/tax.js": text + BROKEN}) for name, text in BEFORE.items()}
    cheats |= {name: as_files(files) for name, files in FILES.items()}
    cheats["brings its tests by a link"] = {
        "test/tax.test.js": File(content=b"easy.js", mode=FileMode.LINK),
        "test/easy.js": File(content=b""),
    }

    async def certified(base: Tree, changes: Mapping[str, File | None]) -> bool:
        async with gate:
            return (await verdict(runner, base, changes)).certified

    found = await asyncio.gather(*(certified(tree(LOOSE), each) for each in cheats.values()))

    assert [name for name, fooled in zip(cheats, found, strict=True) if fooled] == []


async def test_what_passes_whatever_is_expected_raises_an_alarm() -> None:
    runner, base = Runner(SandboxSettings()), tree(LOOSE)
    relabelled = as_files({"lib/tax.js": BEFORE["relabels results on their way"] + BROKEN})

    told = await verdict(runner, base, relabelled)

    assert told.alarm and any("its twin contradicts it" in each for each in told.findings)


HONEST_TESTS = """
const assert = require("node:assert");
const { describe, it, test, before, afterEach, mock } = require("node:test");
const lib = require("./lib.js");
let ready = false;
before(() => { ready = true; });
afterEach(() => mock.restoreAll());
test("numbers", () => {
  assert.equal(lib.add(1, 2), 3);
  assert.strictEqual(lib.huge(), 1e300);
  assert.strictEqual(lib.never(), NaN);
  assert.strictEqual(lib.more(), Infinity);
  assert.deepStrictEqual(lib.big(), 2n ** 80n);
});
test("a residue class", () => assert.equal(new lib.Mod(7, 2), 1));
test("things", () => {
  assert.deepEqual(lib.map(), new Map([["a", [1, { b: null }]]]));
  assert.deepEqual(lib.date(), new Date(0));
  assert.deepStrictEqual({ ...lib.plain() }, { a: undefined });
  assert.equal(lib.nothing(), undefined);
  assert.throws(() => lib.fails(), { name: "RangeError", message: /too/ });
  assert.match(lib.text(), /he.lo/);
});
test("later", async () => {
  assert.equal(await lib.later(5), 5);
  await assert.rejects(lib.rejects(), TypeError);
});
test("by callback", (t, done) => lib.call((error, value) => { assert.equal(value, 4); done(error); }));
test("tables", async (t) => {
  for (const n of [1, 2]) await t.test(`of ${n}`, () => assert.ok(lib.add(n, n) === 2 * n));
});
describe("nested", () => {
  describe("deeper", () => it("knows", () => assert.equal(ready, true)));
  it("mocks", () => {
    const spy = mock.method(lib, "text", () => "spied");
    assert.equal(lib.text(), "spied");
    assert.equal(spy.mock.callCount(), 1);
  });
  it.skip("is left out", () => assert.fail());
});
"""
HONEST_LIB = """
const assert = require("node:assert");
exports.add = (a, b) => { assert(a >= 0); return a - b; };
exports.huge = () => 1e300; exports.never = () => NaN;
exports.more = () => Infinity; exports.big = () => 2n ** 80n;
exports.Mod = class { constructor(n, m) { this.n = n; this.m = m; } valueOf() { return this.n % this.m; } };
exports.map = () => new Map([["a", [1, { b: null }]]]); exports.date = () => new Date(0);
exports.plain = () => ({ a: undefined }); exports.nothing = () => undefined;
exports.fails = () => { throw new RangeError("too much"); }; exports.text = () => "hello";
exports.later = (n) => new Promise((done) => setTimeout(done, 1, n));
exports.rejects = async () => { throw new TypeError("no"); };
exports.call = (then) => setImmediate(then, null, 4);
"""


async def test_honest_fixes_are_certified() -> None:
    runner = Runner(SandboxSettings())
    many = tree({"lib.js": HONEST_LIB, "lib.test.js": HONEST_TESTS})
    broken = tree({**BASE, "lib/tax.js": "export const tax = (net => net;\n"})
    helped = tree(
        {
            **BASE,
            "test/own.js": (
                'export { test as own } from "node:test";\nexport { default as sure } from "node:assert";\n'
            ),
            "test/own.test.js": (
                'import { own, sure } from "./own.js";\nimport { tax } from "../lib/tax.js";\n'
                'own("own", () => sure.equal(tax(100), 91));\n'
            ),
        }
    )

    found = {
        "one file": await verdict(runner, tree(BASE), as_files({"lib/tax.js": FIXED})),
        "all of node:assert": await verdict(
            runner, many, as_files({"lib.js": HONEST_LIB.replace("a - b", "a + b")})
        ),
        "a file that could not be read": await verdict(runner, broken, as_files({"lib/tax.js": FIXED})),
        "tests that take their tools elsewhere": await verdict(
            runner, helped, as_files({"lib/tax.js": FIXED})
        ),
        "a new module": await verdict(
            runner,
            tree(BASE),
            as_files(
                {
                    "lib/rate.js": "export const rate = 0.91;\n",
                    "lib/tax.js": 'import { rate } from "./rate.js";\n' + FIXED.replace("0.91", "rate"),
                }
            ),
        ),
    }

    assert {name: each.findings for name, each in found.items() if not each.certified} == {}


async def test_the_helpers_of_tests_are_the_base_s_own() -> None:
    runner, base = Runner(SandboxSettings()), tree(BASE)
    profile = (await runner.profile(ProfileRequest(tree=base, language="javascript"))).profile

    easy = base.with_files(as_files(FILES["edits the helper of its tests"]))
    run = await runner.test(TestRequest(base=base, candidate=easy, profile=profile))

    assert "test/helpers.js" in profile.protected and run.dropped == ("test/helpers.js",)
    assert run.outcomes["test/tax.test.js::tax > of 100"] is Outcome.FAILED
