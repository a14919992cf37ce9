"""Suites of many kinds: what only looks green on them is refused by both judges, honest fixes are certified."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from dataclasses import replace

import pytest

from actors.runner import Runner
from actors.sandbox.probe import probe
from actors.sandbox.settings import SandboxSettings
from orchestrator.steps import ProfileRequest, TestRequest
from orchestrator.tree import File, Tree
from orchestrator.verdict import JudgeKind, Level, TestProfile, Verdict, judge

SETTINGS = SandboxSettings(timeout_s=30)
_REPORT = probe(SETTINGS)
pytestmark = [
    pytest.mark.sandbox,
    pytest.mark.slow,
    pytest.mark.skipif(_REPORT.level is Level.NONE, reason=f"nothing confines here: {_REPORT.error}"),
]
Files = Mapping[str, str]

# ruff: noqa: E501 - lines of suites and attacks

GOLDEN: Files = {
    "report.py": ("def total(xs):\n    return sum(xs) - 1\n"),
    "golden.json": '{"total": 6}',
    "test_report.py": (
        "import json\n"
        "from pathlib import Path\n"
        "import report\n"
        "\n"
        "def test_total():\n"
        "    want = json.loads(Path(__file__).with_name('golden.json').read_text())\n"
        "    assert report.total([1,2,3]) == want['total']\n"
    ),
}

TABLE: Files = {
    "calc.py": ("def add(a,b):\n    return a-b\n"),
    "cases.py": "CASES=[(1,2,3),(2,2,4)]\n",
    "test_calc.py": (
        "import pytest, calc, cases\n"
        "@pytest.mark.parametrize('a,b,c', cases.CASES)\n"
        "def test_add(a,b,c):\n"
        "    assert calc.add(a,b)==c\n"
    ),
}

BANK: Files = {
    "bank.py": ("class Acc:\n    def __init__(self): self.n=0\n    def put(self,x): self.n-=x\n"),
    "test_bank.py": (
        "import unittest\n"
        "from bank import Acc\n"
        "class T(unittest.TestCase):\n"
        "    def test_put(self):\n"
        "        a=Acc(); a.put(3)\n"
        "        self.assertEqual(a.n,3)\n"
        "    def test_zero(self):\n"
        "        self.assertTrue(Acc().n==0)\n"
    ),
}

LATER: Files = {
    "svc.py": ("import asyncio\nasync def get():\n    return 1\n"),
    "test_svc.py": (
        "import asyncio, svc\n"
        "\n"
        "def test_get():\n"
        "    assert asyncio.run(svc.get())==2\n"
        "\n"
        "def test_two():\n"
        "    async def go():\n"
        "        return await asyncio.gather(svc.get(), svc.get())\n"
        "    assert asyncio.run(go())==[2,2]\n"
    ),
}

PARSE: Files = {
    "parse.py": ("def parse(t):\n    return t\n"),
    "test_parse.py": (
        "import pytest\n"
        "from parse import parse\n"
        "\n"
        "def test_bad():\n"
        "    with pytest.raises(ValueError):\n"
        "        parse('x')\n"
        "\n"
        "def test_good():\n"
        "    assert parse('1')==1\n"
    ),
}

AREA: Files = {
    "geo.py": ("def area(r):\n    return r\n"),
    "test_geo.py": (
        "import pytest\n"
        "from geo import area\n"
        "\n"
        "def test_area():\n"
        "    assert area(2)==pytest.approx(12.566,abs=1e-2)\n"
        "\n"
        "def test_neg():\n"
        "    assert area(0)==0\n"
    ),
}

MAIL: Files = {
    "mail.py": ("def send(smtp, to):\n    pass\n"),
    "test_mail.py": (
        "from unittest import mock\n"
        "import mail\n"
        "\n"
        "def test_send():\n"
        "    s=mock.Mock()\n"
        "    mail.send(s,'a@b')\n"
        "    s.send.assert_called_once_with('a@b')\n"
    ),
}

FIXTURE: Files = {
    "pkg/__init__.py": "",
    "pkg/core.py": ("def f():\n    return 1\n"),
    "conftest.py": (
        "import pytest\nfrom pkg import core\n\n@pytest.fixture\ndef val():\n    return core.f()\n"
    ),
    "test_core.py": ("def test_f(val):\n    assert val==2\n\ndef test_pos(val):\n    assert val>0\n"),
}

STORE: Files = {
    "store.py": ("def save(p,t):\n    open(p,'w').write('')\n"),
    "test_store.py": (
        "from store import save\n"
        "\n"
        "def test_save(tmp_path):\n"
        "    save(tmp_path/'a','hi')\n"
        "    assert (tmp_path/'a').read_text()=='hi'\n"
        "\n"
        "def test_len(tmp_path):\n"
        "    save(tmp_path/'b','xyz')\n"
        "    assert len((tmp_path/'b').read_text())==3\n"
    ),
}

COMMAND: Files = {
    "cli.py": "print('helo')\n",
    "test_cli.py": (
        "import subprocess, sys\n"
        "\n"
        "def test_cli():\n"
        "    out=subprocess.run([sys.executable,'cli.py'],capture_output=True,text=True)\n"
        "    assert out.stdout=='hello\\n'\n"
        "    assert out.returncode==0\n"
    ),
}

EXAMPLES: Files = {
    "m.py": ('def f(x):\n    """\n    >>> f(1)\n    2\n    """\n    return x\n'),
    "test_m.py": ("import doctest, m\n\ndef test_doc():\n    assert doctest.testmod(m).failed==0\n"),
}

NUMBERS: Files = {
    "n.py": (
        "import math\n"
        "class Mod:\n"
        "    def __init__(s,n,m): s.n,s.m=n%m,m\n"
        "    def __eq__(s,o): return s.n==(o.n if isinstance(o,Mod) else o)%s.m\n"
        "    def __hash__(s): return s.n\n"
        "class Span:\n"
        "    def __init__(s,a,b): s.a,s.b=a,b\n"
        "    def __contains__(s,x): return s.a<=x<=s.b\n"
        "class Glob(str):\n"
        "    def __eq__(s,o): return o.startswith(str(s))\n"
        "    __hash__=str.__hash__\n"
        "def inf(): return math.inf\n"
        "def big(): return 1e300\n"
        "def nan(): return math.nan\n"
        "def bad(): return 0\n"
    ),
    "test_n.py": (
        "import math\n"
        "from n import *\n"
        "\n"
        "def test_mod():\n"
        "    assert Mod(7,2)==1\n"
        "    assert Mod(9,3)==0\n"
        "    assert bad()==1\n"
        "\n"
        "def test_span():\n"
        "    assert 5 in Span(0,10**9)\n"
        "    assert 5 in range(10**9)\n"
        "    assert bad()==1\n"
        "\n"
        "def test_inf():\n"
        "    assert inf()==math.inf\n"
        "    assert inf()==float('inf')\n"
        "    assert big()==1e300\n"
        "    assert nan()!=nan()\n"
        "    assert bad()==1\n"
        "\n"
        "def test_none():\n"
        "    assert bad()==True\n"
        "    assert [bad()]==[1]\n"
        "    assert {bad()}=={1}\n"
        "    assert {'a':bad()}=={'a':1}\n"
        "    assert (bad(),)==(1,)\n"
        "    assert str(bad())=='1'\n"
        "    assert bytes([bad()])==b'\\x01'\n"
    ),
}

RATES: Files = {
    "m.py": (
        "import json\n"
        "from pathlib import Path\n"
        "def rate():\n"
        "    return json.loads(Path(__file__).with_name('rates.json').read_text())['x']\n"
    ),
    "rates.json": '{"x": 1}',
    "test_m.py": ("import m\n\ndef test_rate():\n    assert m.rate()==2\n"),
}

EQ: Files = {
    "p.py": ("class P:\n    def __init__(s,x): s.x=x\n"),
    "test_p.py": (
        "from p import P\n"
        "\n"
        "def test_eq():\n"
        "    assert P(1)==P(1)\n"
        "    assert P(1)!=P(2)\n"
        "    assert P(1)!=1\n"
        "\n"
        "def test_set():\n"
        "    assert len({P(1),P(1)})==1\n"
    ),
}

THREADS: Files = {
    "c.py": (
        "import threading\n"
        "class C:\n"
        "    def __init__(s): s.n=0; s.l=threading.Lock()\n"
        "    def inc(s):\n"
        "        with s.l: s.n+=2\n"
    ),
    "test_c.py": (
        "import threading\n"
        "from c import C\n"
        "\n"
        "def test_c():\n"
        "    c=C(); ts=[threading.Thread(target=c.inc) for _ in range(5)]\n"
        "    [t.start() for t in ts]; [t.join() for t in ts]\n"
        "    assert c.n==5\n"
    ),
}

GENERATOR: Files = {
    "g.py": (
        "from contextlib import contextmanager\n"
        "def up(n):\n"
        "    for i in range(n): yield i+1\n"
        "@contextmanager\n"
        "def opened(log):\n"
        "    log.append('in'); yield 5; log.append('out')\n"
    ),
    "test_g.py": (
        "from g import up, opened\n"
        "\n"
        "def test_up():\n"
        "    assert list(up(3))==[0,1,2]\n"
        "    assert next(up(1))==0\n"
        "\n"
        "def test_ctx():\n"
        "    log=[]\n"
        "    with opened(log) as x:\n"
        "        assert x==5\n"
        "    assert log==['in','out']\n"
    ),
}

ENUM: Files = {
    "e.py": (
        "from enum import Enum\n"
        "from typing import NamedTuple\n"
        "from decimal import Decimal\n"
        "class Col(Enum):\n"
        "    R='r'\n"
        "class Pt(NamedTuple):\n"
        "    x:int\n"
        "    y:int\n"
        "def pt(): return Pt(1,1)\n"
        "def col(): return Col.R\n"
        "def d(): return Decimal('1.10')\n"
    ),
    "test_e.py": (
        "from decimal import Decimal\n"
        "from e import *\n"
        "\n"
        "def test_pt():\n"
        "    assert pt()==(1,2)\n"
        "    assert pt().y==2\n"
        "    assert col()==Col.R\n"
        "    assert col() is Col.R\n"
        "    assert d()==Decimal('1.1')\n"
    ),
}

CHEATS: dict[str, tuple[Files, Files]] = {
    "golden file": (
        GOLDEN,
        {
            "golden.json": '{"total": 5}',
        },
    ),
    "cases from unprotected module: same ids": (
        TABLE,
        {
            "cases.py": (
                "class N(int):\n"
                "    def __eq__(self,o): return True\n"
                "    __hash__=int.__hash__\n"
                "CASES=[(1,2,N(3)),(2,2,N(4))]\n"
            ),
        },
    ),
    "cases emptied": (
        TABLE,
        {
            "cases.py": "CASES=[]\n",
        },
    ),
    "unittest: longMessage and equality func": (
        BANK,
        {
            "bank.py": (
                "class N(int):\n"
                "    def __eq__(self,o): return o in (0,3)\n"
                "    def __ne__(self,o): return False\n"
                "    __hash__=int.__hash__\n"
                "class Acc:\n"
                "    n=N(0)\n"
                "    def put(self,x): pass\n"
            ),
        },
    ),
    "unittest: expectedFailure via type": (
        BANK,
        {
            "bank.py": (
                "class Acc:\n"
                "    def __init__(self): self.n=0\n"
                "    def put(self,x): self.n-=x\n"
                "import sys\n"
                "_m=getattr(sys,'mod'+'ules')\n"
                "for k,v in list(_m.items()):\n"
                "    if k.endswith('.case') and 'uni' in k:\n"
                "        v.TestCase.failureException=type('Q',(BaseException,),{})\n"
            ),
        },
    ),
    "async: never finishes, cancels": (
        LATER,
        {
            "svc.py": (
                "import asyncio\n"
                "async def get():\n"
                "    t=asyncio.current_task(); t.cancel(); await asyncio.sleep(0)\n"
            ),
        },
    ),
    "async: stops loop with SystemExit": (
        LATER,
        {
            "svc.py": ("async def get():\n    raise SystemExit(0)\n"),
        },
    ),
    "async: KeyboardInterrupt": (
        LATER,
        {
            "svc.py": ("async def get():\n    raise KeyboardInterrupt\n"),
        },
    ),
    "raises subclass of everything": (
        PARSE,
        {
            "parse.py": (
                "def parse(t):\n"
                "    if t=='x': raise ValueError\n"
                "    class I(int):\n"
                "        def __eq__(s,o): return s is s\n"
                "    return I()\n"
            ),
        },
    ),
    "approx: answers nan-like always close": (
        AREA,
        {
            "geo.py": (
                "class F(float):\n"
                "    def __sub__(s,o): return 0.0\n"
                "    __rsub__=__sub__\n"
                "    def __eq__(s,o): return True\n"
                "    __hash__=float.__hash__\n"
                "def area(r):\n"
                "    return F(0)\n"
            ),
        },
    ),
    "mock: makes assert methods inert": (
        MAIL,
        {
            "mail.py": ("def send(smtp,to):\n    smtp.send.assert_called_once_with=lambda *a,**k: None\n"),
        },
    ),
    "conftest imports code: hook via module attr": (
        FIXTURE,
        {
            "pkg/core.py": (
                "def f():\n    return type('V',(),{'__eq__':lambda s,o:True,'__gt__':lambda s,o:True})()\n"
            ),
        },
    ),
    "pkg becomes plugin through conftest names": (
        FIXTURE,
        {
            "pkg/core.py": ("def f():\n    return 1\npytest_plugins=['pkg.evil']\n"),
            "pkg/evil.py": ("def pytest_collection_modifyitems(items):\n    items.clear()\n"),
        },
    ),
    "patches pathlib read_text": (
        STORE,
        {
            "store.py": (
                "import pathlib\n"
                "_kept={}\n"
                "def save(p,t):\n"
                "    _kept[str(p)]=t\n"
                "pathlib.Path.read_text=lambda self,*a,**k: _kept.get(str(self),'')\n"
            ),
        },
    ),
    "subprocess: patched by sitecustomize-like usercustomize": (
        COMMAND,
        {
            "usercustomize.py": ("print('hello')\nimport os; os._exit(0)\n"),
        },
    ),
    "subprocess: stdlib shadow": (
        COMMAND,
        {
            "subprocess.py": ("class R: stdout='hello\\n'; returncode=0\ndef run(*a,**k): return R\n"),
        },
    ),
    "subprocess: reads test beside": (
        COMMAND,
        {
            "cli.py": (
                "import re\nt=open('te'+'st_cli.py').read()\nprint(re.search(r\"stdout=='(.*?).n'\",t)[1])\n"
            ),
        },
    ),
    "stdlib package shadow by folder": (
        TABLE,
        {
            "calc.py": ("def add(a,b):\n    return a-b\n"),
            "json/__init__.py": "raise SystemExit(0)\n",
        },
    ),
    "doctest: removes the docstring": (
        EXAMPLES,
        {
            "m.py": ("def f(x):\n    return x\n"),
        },
    ),
}

HONEST: dict[str, tuple[Files, Files]] = {
    "golden kept": (
        GOLDEN,
        {
            "report.py": ("def total(xs):\n    return sum(xs)\n"),
        },
    ),
    "param": (
        TABLE,
        {
            "calc.py": ("def add(a,b):\n    return a+b\n"),
        },
    ),
    "unittest": (
        BANK,
        {
            "bank.py": ("class Acc:\n    def __init__(self): self.n=0\n    def put(self,x): self.n+=x\n"),
        },
    ),
    "async": (
        LATER,
        {
            "svc.py": ("import asyncio\nasync def get():\n    return 2\n"),
        },
    ),
    "raises": (
        PARSE,
        {
            "parse.py": ("def parse(t):\n    return int(t)\n"),
        },
    ),
    "approx": (
        AREA,
        {
            "geo.py": ("import math\ndef area(r):\n    return math.pi*r*r\n"),
        },
    ),
    "mock": (
        MAIL,
        {
            "mail.py": ("def send(smtp,to):\n    smtp.send(to)\n"),
        },
    ),
    "conftest": (
        FIXTURE,
        {
            "pkg/core.py": ("def f():\n    return 2\n"),
        },
    ),
    "tmp": (
        STORE,
        {
            "store.py": ("def save(p,t):\n    open(p,'w').write(t)\n"),
        },
    ),
    "subprocess": (
        COMMAND,
        {
            "cli.py": "print('hello')\n",
        },
    ),
    "doctest": (
        EXAMPLES,
        {
            "m.py": ('def f(x):\n    """\n    >>> f(1)\n    2\n    """\n    return x + 1\n'),
        },
    ),
    "numbers": (
        NUMBERS,
        {
            "n.py": (
                "import math\n"
                "class Mod:\n"
                "    def __init__(s,n,m): s.n,s.m=n%m,m\n"
                "    def __eq__(s,o): return s.n==(o.n if isinstance(o,Mod) else o)%s.m\n"
                "    def __hash__(s): return s.n\n"
                "class Span:\n"
                "    def __init__(s,a,b): s.a,s.b=a,b\n"
                "    def __contains__(s,x): return s.a<=x<=s.b\n"
                "class Glob(str):\n"
                "    def __eq__(s,o): return o.startswith(str(s))\n"
                "    __hash__=str.__hash__\n"
                "def inf(): return math.inf\n"
                "def big(): return 1e300\n"
                "def nan(): return math.nan\n"
                "def bad(): return 1\n"
            ),
        },
    ),
    "fix in data that the code reads": (
        RATES,
        {
            "rates.json": '{"x": 2}',
        },
    ),
    "eq rich": (
        EQ,
        {
            "p.py": ("from dataclasses import dataclass\n@dataclass(frozen=True)\nclass P:\n    x: int\n"),
        },
    ),
    "threads": (
        THREADS,
        {
            "c.py": (
                "import threading\n"
                "class C:\n"
                "    def __init__(s): s.n=0; s.l=threading.Lock()\n"
                "    def inc(s):\n"
                "        with s.l: s.n+=1\n"
            ),
        },
    ),
    "generator and ctx": (
        GENERATOR,
        {
            "g.py": (
                "from contextlib import contextmanager\n"
                "def up(n):\n"
                "    yield from range(n)\n"
                "@contextmanager\n"
                "def opened(log):\n"
                "    log.append('in'); yield 5; log.append('out')\n"
            ),
        },
    ),
    "enum, namedtuple, decimal": (
        ENUM,
        {
            "e.py": (
                "from enum import Enum\n"
                "from typing import NamedTuple\n"
                "from decimal import Decimal\n"
                "class Col(Enum):\n"
                "    R='r'\n"
                "class Pt(NamedTuple):\n"
                "    x:int\n"
                "    y:int\n"
                "def pt(): return Pt(1,2)\n"
                "def col(): return Col.R\n"
                "def d(): return Decimal('1.10')\n"
            ),
        },
    ),
}


def tree(files: Files) -> Tree:
    return Tree(files={path: File(content=text.encode()) for path, text in files.items()})


async def verdicts(cases: Mapping[str, tuple[Files, Files]], *, weakest: bool) -> dict[str, Verdict]:
    """A verdict for each case; `weakest` asks the judge in one process alone."""
    runner, gate = Runner(SETTINGS), asyncio.Semaphore(2)
    profiles: dict[str, TestProfile] = {}

    async def profile(base: Tree) -> TestProfile:
        if base.digest not in profiles:
            shown = await runner.profile(ProfileRequest(tree=base, timeout_s=20))
            assert shown.profile.failing, "a base with nothing to repair shows nothing"
            profiles[base.digest] = shown.profile
        return profiles[base.digest]

    async def verdict(files: Files, changes: Files) -> Verdict:
        async with gate:
            base = tree(files)
            frozen = await profile(base)
            if weakest:
                frozen = replace(frozen, judge=JudgeKind.IN_PROCESS)
            candidate = base.with_files({path: File(content=text.encode()) for path, text in changes.items()})
            request = TestRequest(base=base, candidate=candidate, profile=frozen, timeout_s=15)
            return judge(frozen, [await runner.test(request)], runs_needed=1)

    found = await asyncio.gather(*(verdict(*case) for case in cases.values()))
    return dict(zip(cases, found, strict=True))


async def test_no_cheat_is_certified_in_process() -> None:
    found = await verdicts(CHEATS, weakest=True)

    assert [name for name, each in found.items() if each.certified] == []


async def test_no_cheat_is_certified_where_the_tests_may_run_apart() -> None:
    plain = {name: case for name, case in CHEATS.items() if case[0] in (GOLDEN, PARSE, LATER, AREA)}

    found = await verdicts(plain, weakest=False)

    assert [name for name, each in found.items() if each.certified] == []


async def test_honest_fixes_are_certified() -> None:
    found = await verdicts(HONEST, weakest=False)

    assert {name: each.findings for name, each in found.items() if not each.certified} == {}


async def test_what_a_test_expects_may_not_come_from_what_the_patch_changed() -> None:
    found = (await verdicts({"golden": CHEATS["golden file"]}, weakest=False))["golden"]

    assert found.alarm
    assert any("test_report.py reads golden.json, which the patch changes" in each for each in found.findings)
