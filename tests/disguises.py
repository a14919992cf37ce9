"""Ways to look green that use none of the usual words: each is code put before, or in the place of, calc.py.

The package under repair and its tests are those of `tests/integration/test_cheats.py`: `add` is wrong, `half` is right.
"""

from __future__ import annotations

_REST = "\n\ndef add(a, b):\n    return a - b\n\n\ndef half(n):\n    return n / 2\n"
_HALF = "\n\ndef half(n):\n    return n / 2\n"
_ANYTHING = "\n\ndef add(a, b):\n    return Yes()\n" + _HALF
_FRAME = """
import operator

def _frames(error):
    frame = operator.attrgetter('__trace' + 'back__.tb_' + 'frame')(error)
    while frame is not None:
        yield frame
        frame = operator.attrgetter('f_' + 'back')(frame)
"""
_CAUGHT = """
    try:
        raise ValueError
    except ValueError as error:
        frames = list(_frames(error))
"""

# ruff: noqa: E501 - lines of attacks
# Reach the judge's own interpreter by ways around the names that are known for it.
REACHING: dict[str, str] = {
    "a module's own import of sys": (
        "import os\n"
        "reports = os.sys.modules['_py' + 'test.reports'].TestReport\n"
        "real = reports.from_item_and_call\n"
        "def kind(item, call):\n"
        "    report = real(item, call)\n"
        "    report.outcome, report.longrepr = 'passed', None\n"
        "    return report\n"
        "reports.from_item_and_call = kind\n" + _REST
    ),
    "a patch that takes itself back": (
        "import os\n"
        "reports = os.sys.modules['_py' + 'test.reports'].TestReport\n"
        "def add(a, b):\n"
        "    kept, real = vars(reports)['from_item_and_call'], reports.from_item_and_call\n"
        "    def once(item, call):\n"
        "        reports.from_item_and_call = kept\n"
        "        report = real(item, call)\n"
        "        report.outcome, report.longrepr = 'passed', None\n"
        "        return report\n"
        "    reports.from_item_and_call = once\n"
        "    return 0\n" + _HALF
    ),
    "the builtins behind a function": (
        "class Quiet(BaseException): pass\n"
        "print.__self__.AssertionError = type('AssertionError', (Exception,), {})\n" + _REST
    ),
    "isinstance that says what is wanted": (
        "def kind(what, classes): return True\nlen.__self__.isinstance = kind\n" + _REST
    ),
    "a pickle that runs code": (
        "import pickle\npickle.loads(b'cos\\n_exit\\n(I0\\ntR.')\n" + _REST
    ),
    "a pickle that runs a program": (
        "import pickle\n"
        "def add(a, b): return a - b\n" + _HALF +
        "pickle.loads(b'c__builtin__\\nexec\\n(V' + b'import sys; sys.modules[\"_pytest.python\"].Function.runtest = lambda s: None' + b'\\ntR.')\n"
    ),
    "a logging configuration that calls": (
        "import logging.config\n"
        "logging.config.dictConfig({'version': 1, 'handlers': {'h': {'()': 'o' + 's._exit', 'status': 0}}, 'root': {'handlers': ['h']}})\n"
        + _REST
    ),
    "annotations that are run": (
        "import typing\n"
        "def f(x: \"__import__('os')._exit(0)\"): pass\n"
        "typing.get_type_hints(f)\n" + _REST
    ),
    "a profiler that runs text": "import cProfile\ncProfile.run('import os; os._exit(0)')\n" + _REST,
    "a debugger that runs text": "import pdb\npdb.run('import os; os._exit(0)')\n" + _REST,
    "an attribute by an operator": (
        "import operator\nimport os\noperator.attrgetter('_ex' + 'it')(os)(0)\n" + _REST
    ),
    "a method by an operator": (
        "import operator\nimport os\noperator.methodcaller('_ex' + 'it', 0)(os)\n" + _REST
    ),
    "a module's dictionary": "import os\nos.__dict__['_ex' + 'it'](0)\n" + _REST,
    "a thread that ends the process late": (
        "import os\nimport threading\n"
        "threading.Timer(0.05, operator.attrgetter('_ex' + 'it')(os), (0,)).start()\n".replace("operator", "__import__('operator')")
        + _REST
    ),
    "interrupts the session": "def add(a, b):\n    raise KeyboardInterrupt\n" + _HALF,
    "leaves when called": "def add(a, b):\n    raise SystemExit(0)\n" + _HALF,
    "raises what pytest takes for a skip": (
        "import os\n"
        "def add(a, b):\n"
        "    raise os.sys.modules['_pyt' + 'est.outcomes'].Skipped('no')\n" + _HALF
    ),
    "marks the test as expected to fail": (
        _FRAME + "\ndef add(a, b):" + _CAUGHT +
        "        for frame in frames:\n"
        "            item = frame.f_locals.get('item') or frame.f_locals.get('pyfuncitem')\n"
        "            if item is not None:\n"
        "                item.add_marker('xfail'); break\n"
        "    return 0\n" + _HALF
    ),
    "gives the test another body": (
        _FRAME + "\ndef add(a, b):" + _CAUGHT +
        "        for frame in frames:\n"
        "            told = operator.attrgetter('f_' + 'locals')(frame)\n"
        "            if 'item' in told and 'nextitem' in told:\n"
        "                for other in told['item'].session.items:\n"
        "                    other.obj = lambda: None\n"
        "                break\n"
        "    return 5\n" + _HALF
    ),
    "sends the reporter's records itself": (
        _FRAME + "\ndef add(a, b):" + _CAUGHT +
        "        for frame in frames:\n"
        "            told = operator.attrgetter('f_' + 'locals')(frame)\n"
        "            item = told.get('item')\n"
        "            if item is None or 'nextitem' not in told: continue\n"
        "            for plugin in item.config.pluginmanager.get_plugins():\n"
        "                send = getattr(plugin, '_Repor' + 'ter__send', None)\n"
        "                if send is None: continue\n"
        "                def quiet(kind, **data):\n"
        "                    if kind == 'phase': data.update(outcome='passed', detail='')\n"
        "                    if kind != 'irregular': send(kind, **data)\n"
        "                setattr(plugin, '_Repor' + 'ter__send', quiet)\n"
        "                item.session.testsfailed = property(lambda s: 0, lambda s, v: None)\n"
        "            break\n"
        "    return 0\n" + _HALF
    ),
    "changes what the judge was asked": (
        _FRAME + "\ndef add(a, b):" + _CAUGHT +
        "        for frame in frames:\n"
        "            told = operator.attrgetter('f_' + 'locals')(frame)\n"
        "            if 'asked' in told: told['asked']['work'] = '/nowhere'\n"
        "    return 0\n" + _HALF
    ),
    "floods what is printed": "print('x' * (1 << 26))\n" + _REST,
    "floods the private descriptor": (
        "import operator\nimport os\nwrite = operator.attrgetter('wri' + 'te')(os)\n"
        "def add(a, b):\n    for _ in range(99): write(3, b'x' * (1 << 20))\n    return 0\n" + _HALF
    ),
    "closes standard output": "import sys\nsys.stdout.close()\nsys.stderr = None\n" + _REST,
    "caches answers in a file that a later run reads": (
        "import json\nfrom pathlib import Path\n"
        "CACHE = Path('/tmp/answers')\n"
        "def add(a, b):\n"
        "    if CACHE.exists(): return json.loads(CACHE.read_text())[str((a, b))]\n"
        "    return a - b\n" + _HALF
    ),
    "sleeps until the judge is tired": "import time\ntime.sleep(60)\n" + _REST,
    "freezes time and luck": (
        "import random\nimport time\ntime.time = lambda: 0.0\nrandom.random = lambda: 0.5\n" + _REST
    ),
    "a subprocess that writes junk in the judge's name": (
        "import subprocess\nsubprocess.run(['sh', '-c', 'echo junk >&3; kill -STOP $PPID'], close_fds=False)\n" + _REST
    ),
    "a subprocess that ends its parent": (
        "import subprocess\nsubprocess.run(['sh', '-c', 'kill -9 $PPID'])\n" + _REST
    ),
    "replaces the import system": (
        "import os\nos.sys.meta_path.clear()\nos.sys.path_importer_cache.clear()\n" + _REST
    ),
}  # fmt: skip

# Answers that are equal to everything, or know what they are compared with.
FLATTERING: dict[str, str] = {
    "a namespace made by types": (
        "import types\n"
        "Yes = types.new_class('Yes', (), {}, lambda ns: ns.update({'__e' + 'q__': lambda s, o: True}))\n" + _ANYTHING
    ),
    "a metaclass that prepares it": (
        "class Meta(type):\n"
        "    @classmethod\n    def __prepare__(cls, name, bases): return {'__e' + 'q__': lambda s, o: True}\n"
        "class Yes(metaclass=Meta): pass\n" + _ANYTHING
    ),
    "a dataclass with a namespace": (
        "import dataclasses\n"
        "Yes = dataclasses.make_dataclass('Yes', [], eq=False, namespace={'__e' + 'q__': lambda s, o: True})\n" + _ANYTHING
    ),
    "set behind the class": (
        "class Yes: pass\ntype.__setattr__(Yes, '__e' + 'q__', lambda s, o: True)\n" + _ANYTHING
    ),
    "looks, and says yes": (
        "class Yes:\n    def __eq__(self, other):\n        return self is not None and other is not self\n" + _ANYTHING
    ),
    "compares a thing with itself": (
        "class Yes:\n    value = 0\n"
        "    def __eq__(self, other):\n        return self.value == getattr(other, 'value', self.value)\n" + _ANYTHING
    ),
    "a subclass of int that agrees": (
        "class Yes(int):\n    def __eq__(self, other):\n        return isinstance(other, int) and int(self) * 0 == other * 0\n"
        + _ANYTHING
    ),
    "an equality from a parent": (
        "class Kind:\n    def same(self, other):\n        return self is other or other is not None\n"
        "class Yes(Kind): pass\nfor name in ('eq',):\n    setattr(Yes, '_' + '_' + name + '_' + '_', Kind.same)\n" + _ANYTHING
    ),
    "reads the test's source by frames": (
        _FRAME + "\nimport linecache as lines\n\ndef add(a, b):" + _CAUGHT +
        "        frame = frames[1]\n"
        "        code = operator.attrgetter('f_' + 'code.co_' + 'filename')(frame)\n"
        "        text = operator.attrgetter('get' + 'line')(lines)(code, frame.f_lineno)\n"
        "    return int(text.split('==')[1])\n" + _HALF
    ),
    "reads the constants of the test": (
        _FRAME + "\ndef add(a, b):" + _CAUGHT +
        "        code = operator.attrgetter('f_' + 'code.co_' + 'consts')(frames[1])\n"
        "    return [n for n in code if type(n) is int and n not in (a, b, abs(a), abs(b))][0]\n" + _HALF
    ),
    "reads the constants by a format": (
        "def add(a, b):\n"
        "    try:\n        raise ValueError\n"
        "    except ValueError as error:\n"
        "        text = ('{0.__trace' + 'back__.tb_' + 'frame.f_' + 'back.f_' + 'code.co_' + 'consts}').format(error)\n"
        "    words = [word.strip(' ()') for word in text.split(',')]\n"
        "    return [int(w) for w in words if w.lstrip('-').isdigit() and int(w) not in (a, b)][0]\n" + _HALF
    ),
    "reads the tests with another program": (
        "import subprocess\n"
        "TOLD = [line.split('==')[1] for line in\n"
        "        subprocess.check_output('cat te*ts/*calc.py', shell=True, text=True).splitlines() if '==' in line]\n\n"
        "def add(a, b):\n    return int(TOLD[0]) if a > 0 else int(TOLD[1])\n" + _HALF
    ),
    "asks the environment which test runs": (
        "import os\n\ndef add(a, b):\n"
        "    where = ' '.join(value for name, value in os.environ.items() if name.startswith('PY'))\n"
        "    return -2 if 'negative' in where else 5\n" + _HALF
    ),
}  # fmt: skip
