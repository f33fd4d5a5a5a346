"""The sandbox: what programs must not be able to do, what they must be able to do, and who decides the verdict."""

import ast
import json
import os
import platform
import re
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

import common
from problems import Problem
from problems.code_forms import STREAM_SETUP, stream_asserts
from problems.loading import load_problems
from verifiers import sandbox, sandbox_child
from verifiers.asserts import defined_names, split_tests
from verifiers.code_answers import extract_code
from verifiers.sandbox import LAYERS, Sandbox, SandboxError, judge_tests, run_tests

ROOT = Path(__file__).resolve().parents[1]
SHARED = ROOT.parent / "shared"  # attacks, honest programs and data sets, not part of the repository
ADD = ("assert add(1, 2) == 3", "assert add(-1, 5) == 4", "assert add(10, 20) == 30")

pytestmark = pytest.mark.skipif(not sys.platform.startswith("linux"), reason="the layers are Linux's")


@pytest.fixture(scope="module", autouse=True)
def own_child(tmp_path_factory):
    """The sandboxes of this file run a copy of the server's file, which tells their processes from all others here."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sandbox, "CHILD", shutil.copy(sandbox.CHILD, tmp_path_factory.mktemp("own") / "child.py"))
        yield


@pytest.fixture(scope="module", params=LAYERS, ids="+".join)
def box(request):
    """A sandbox for each set of layers that holds on this machine."""
    candidate = Sandbox(request.param)
    try:
        reason = sandbox.failed_probe(candidate)
    except SandboxError as error:
        reason = str(error)
    if reason:
        candidate.close()
        pytest.skip(reason)
    yield candidate
    candidate.close()


def processes() -> set[int]:
    """Our servers and whatever programs left behind: a fork of a program still has the server's command line."""
    found = set()
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            if str(sandbox.CHILD).encode() in path.read_bytes():
                found.add(int(path.parent.name))
        except OSError:  # it ended meanwhile
            continue
    return found


def wait_until(condition, seconds: float = 20) -> bool:
    deadline = time.monotonic() + seconds
    while not condition() and time.monotonic() < deadline:
        time.sleep(0.02)
    return condition()


class Watch:
    """What an attack could harm or learn: files, a listener, processes, what reaches the trusted side."""

    def __init__(self, folder: Path):
        self.folder = folder
        folder.mkdir(exist_ok=True)
        (folder / "secret.txt").write_text("TOP-SECRET")
        self.folder_before, self.processes_before = self.files(), processes()
        self.elsewhere_before = self.elsewhere()
        self.listener = socket.create_server(("127.0.0.1", 0))
        self.listener.setblocking(False)

    def files(self) -> dict:
        return {path.name: (path.read_bytes(), path.stat().st_mode) for path in self.folder.iterdir()}

    def elsewhere(self) -> set[Path]:
        """What attacks write outside the folder, by name: other tests write there at the same time."""
        places, names = (Path.home(), Path("/dev/shm")), ("written", "secret.txt", "rl_sandbox_written")
        return {place / name for place in places for name in names if (place / name).exists()}

    def assert_no_harm(self) -> None:
        assert self.files() == self.folder_before
        assert self.elsewhere() == self.elsewhere_before
        with pytest.raises(BlockingIOError):
            self.listener.accept()

    def close(self) -> None:
        self.listener.close()


# Programs that must fail every test of `add`. {folder} is a folder of the user, {port} listens.
ATTACKS = {
    "leaves": "import os\ndef add(a, b): os._exit(0)",
    "leaves at once": "import sys\nsys.exit(0)",
    "raises": "def add(a, b): raise KeyboardInterrupt",
    "becomes true(1)": "import os\nos.execv('/bin/true', ['true'])",
    "equals everything": """
class Any(int):
    def __eq__(self, other): return True
    __ne__ = __bool__ = lambda self, *other: True
    __hash__ = int.__hash__
def add(a, b): return Any(7)""",
    "shadows what tests use": """
import builtins, math
for name in ('set', 'sorted', 'abs', 'all', 'isinstance', 'len', 'eval', 'bool'):
    setattr(builtins, name, lambda *a, **k: True)
math.isclose = lambda *a, **k: True
builtins.AssertionError = type('AssertionError', (BaseException,), {{}})
def add(a, b): return True""",
    "patches the runner": """
import __main__, json, os
for name in ('encode', 'judge', 'run_job', 'decode'):
    setattr(__main__, name, lambda *a, **k: ['constant', True])
json.dumps = lambda *a, **k: '["constant", true]'
def add(a, b): return 0""",
    "writes verdicts to every descriptor": """
import os
for fd in range(64):
    try: os.write(fd, b'1\\n1\\n1\\n["opaque", [true, null]]\\n' * 9)
    except OSError: pass
def add(a, b): os._exit(0)""",
    "searches frames and objects for expected values": """
import gc, re, sys
def add(a, b):
    texts, frame = [], sys._getframe()
    while frame:
        texts += map(repr, [frame.f_locals, frame.f_globals, frame.f_code.co_consts])
        frame = frame.f_back
    texts += [repr(o) for o in gc.get_objects() if isinstance(o, (str, list, tuple, dict))]
    for x, y, z in re.findall(r'add\\((-?\\d+), (-?\\d+)\\) == (-?\\d+)', ' '.join(texts)):
        if (int(x), int(y)) == (a, b): return int(z)""",
    "searches its memory and its parents'": """
import os, re
def add(a, b):
    for pid in ('self', os.getppid()):
        try:
            maps = open(f'/proc/{{pid}}/maps').read().splitlines()
            memory = open(f'/proc/{{pid}}/mem', 'rb')
        except OSError: continue
        for line in maps:
            start, end = (int(word, 16) for word in line.split()[0].split('-'))
            try:
                memory.seek(start)
                found = re.search(rb'__v\\\\[0\\\\] == (\\\\d+)', memory.read(end - start))
            except (OSError, ValueError, OverflowError): continue
            if found: return int(found[1])""",
    "loops": "def add(a, b):\n    while True: pass",
    "loops while it is imported": "while True: pass",
    "sleeps": "import time\ndef add(a, b): time.sleep(1000)",
    "swallows every exception": """
import signal
for number in range(1, 65):
    try: signal.signal(number, signal.SIG_IGN)
    except (OSError, ValueError): pass
def add(a, b):
    while True:
        try:
            while True: pass
        except BaseException: pass""",
    "takes all memory": "def add(a, b):\n    hog = []\n    while True: hog.append(bytearray(1 << 24))",
    "floods its outputs": """
import os, sys
def add(a, b):
    while True:
        for fd in range(16):
            try: os.write(fd, b'x' * 65536)
            except OSError: pass""",
    "returns too much": "def add(a, b): return 'x' * (64 << 20)",
    "returns too deep": "def add(a, b):\n    x = []\n    for _ in range(100000): x = [x]\n    return x",
    "answers too deep": """
import os
for fd in range(3, 64):
    try: os.write(fd, b'["list",[' * 50000 + b']]' * 50000 + b'\\n')
    except OSError: pass
def add(a, b): return 0""",
    "slows the judge by colliding hashes": """
def add(a, b): return set() if a == 10 else [{{k * (2**61 - 1): 0 for k in range(1, 9000)}}]""",
    "crashes": "import ctypes\ndef add(a, b): ctypes.string_at(0)",
    "overflows the stack": "import sys\nsys.setrecursionlimit(10**9)\ndef add(a, b): return add(a, b)",
    "does not parse": "def add(a, b: return a + b",
    "holds NUL": "def add(a, b): return a + b\0",
    "is empty": "",
    "is wrong": "def add(a, b): return a - b - 1",
    "forks": """
import os, time
def add(a, b):
    for _ in range(20):
        if os.fork() == 0: time.sleep(60); os._exit(0)""",
    "leaves a daemon": """
import os, time
def add(a, b):
    if os.fork() == 0:
        os.setsid()
        if os.fork() == 0:
            for fd in range(64):
                try: os.close(fd)
                except OSError: pass
            time.sleep(1)
            open({folder!r} + '/daemon', 'w')
            time.sleep(60)
        os._exit(0)""",
    "kills its relatives": """
import os, signal
def add(a, b):
    for kill, who in ((os.kill, os.getppid()), (os.killpg, os.getpgid(os.getppid())), (os.kill, -1)):
        try: kill(who, 9)
        except OSError: pass""",
    "writes files": """
import os
for folder in ({folder!r}, '/dev/shm', os.path.expanduser('~'), {home!r}, '.'):
    for name, mode in (('written', 'w'), ('secret.txt', 'a'), ('secret.txt', 'r+')):
        try: open(os.path.join(folder, name), mode).write('x')
        except OSError: pass
    for act in (lambda: os.mkdir(folder + '/made'), lambda: os.symlink('/', folder + '/link'),
                lambda: os.mkfifo(folder + '/pipe'), lambda: os.link(folder + '/secret.txt', folder + '/hard')):
        try: act()
        except OSError: pass""",
    "deletes and changes files": """
import os
path = {folder!r} + '/secret.txt'
for act in (lambda: os.chmod(path, 0o777), lambda: os.truncate(path, 0), lambda: os.utime(path, (0, 0)),
            lambda: os.rename(path, path + '.bak'), lambda: os.chown(path, 1, 1), lambda: os.unlink(path)):
    try: act()
    except OSError: pass""",
    "reads a file": "def add(a, b): return open({folder!r} + '/secret.txt').read()",
    "connects": """
import socket
def add(a, b):
    socket.create_connection(('127.0.0.1', {port}), 1)
    return 3""",
    "raises its limits": """
import resource
for name in ('RLIMIT_CPU', 'RLIMIT_AS', 'RLIMIT_FSIZE', 'RLIMIT_NOFILE'):
    try: resource.setrlimit(getattr(resource, name), (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
    except (OSError, ValueError): pass
def add(a, b): return len(bytearray(2 << 30))""",
    "sends an out-of-band byte": """
import socket, time
def add(a, b):
    for fd in range(3, 64):
        try: socket.socket(fileno=fd).send(b'x', socket.MSG_OOB)
        except OSError: pass
    time.sleep(100)""",
    "has the kernel signal its parent": """
import ctypes, os, time
libc = ctypes.CDLL(None)
def add(a, b):
    r, w = os.pipe()
    refused = [libc.fcntl(r, 8, os.getppid()), libc.fcntl(r, 10, 9), libc.ioctl(r, 0x8901, b'1234')]
    libc.fcntl(r, 4, os.O_ASYNC)
    os.write(w, b'x')
    time.sleep(0.1)
    if 0 in refused: return a + b""",
    "is dumpable again": """
import ctypes
libc = ctypes.CDLL(None)
def add(a, b):
    if libc.prctl(4, 1, 0, 0, 0) == 0 or libc.prctl(1, 0, 0, 0, 0) == 0: return a + b""",
    "leaves something in the kernel": """
import ctypes, fcntl, os
libc = ctypes.CDLL(None)
def add(a, b):
    library = os.open(ctypes.__file__, os.O_RDONLY)
    made = [libc.shmget(0, 4096, 0o1600), libc.syscall(206, 9, ctypes.byref(ctypes.c_ulong()))]  # io_setup
    made += [libc.flock(library, 1), libc.ioctl(library, ctypes.c_ulong(0x80086601), ctypes.byref(ctypes.c_long()))]
    if max(made) >= 0: return a + b""",
    "floods with threads": """
import threading, time
def add(a, b):
    threading.stack_size(32768)
    for _ in range(2000): threading.Thread(target=time.sleep, args=(9,)).start()
    return a + b""",
    "has too many threads between two counts": """
import threading, time
def add(a, b):
    threading.stack_size(32768)
    for _ in range(300): threading.Thread(target=time.sleep, args=(9,)).start()
    return a + b""",
    "makes system calls": """
import ctypes
libc = ctypes.CDLL(None)
for number in (56, 57, 58, 435, 220):  # clone, fork, vfork, clone3
    if libc.syscall(number, 17, 0, 0, 0, 0) == 0:
        while True: pass
def add(a, b): return 0""",
}


@pytest.mark.parametrize("name", ATTACKS)
def test_attacks_fail_and_do_no_harm(box, name, tmp_path):
    """Every test False, and the files, the network, the processes and this process are as they were."""
    watch = Watch(tmp_path / "user")
    place = {"folder": str(watch.folder), "home": str(Path.home()), "port": watch.listener.getsockname()[1]}
    try:
        started = time.monotonic()
        passed, _ = judge_tests(ATTACKS[name].format(**place), ADD, timeout=0.5, sandbox=box)
        assert passed == [False] * 3
        assert time.monotonic() - started < 30
        if box.layers == ("bubblewrap",):  # each server there is three processes
            box.close()
        alive = {server.process.pid for server in list(box.idle.queue) if server}
        assert processes() - watch.processes_before <= alive
        watch.assert_no_harm()
    finally:
        watch.close()
    assert run_tests("def add(a, b): return a + b", ADD, sandbox=box) == [True] * 3  # the sandbox still works


def test_many_descriptors_and_tools_of_asyncio(box):
    """A trainer with more than 1,023 open files still gets verdicts; pairs of sockets are for the program itself."""
    import resource

    limits = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (min(3000, limits[1]), limits[1]))
    files = [open(os.devnull) for _ in range(1100)]
    program = "import asyncio, resource\nasync def later(n):\n    await asyncio.sleep(0.01)\n    return n\n"
    program += "def f(n): return asyncio.run(later(n))\ndef g(): return resource.getrlimit(resource.RLIMIT_CORE)"
    try:
        assert run_tests(program, ["assert f(3) == 3", "assert g() == (0, 0)"], sandbox=box) == [True] * 2
    finally:
        for file in files:
            file.close()
        resource.setrlimit(resource.RLIMIT_NOFILE, limits)


def test_the_layers_keep_secrets_in(box, monkeypatch):
    """A program sees no environment, no inherited descriptor, no file of the user, no job but its own."""
    monkeypatch.setenv("TOKEN", "TOP-SECRET")
    program = """
import os
def environment(): return sorted(os.environ)
def descriptors():
    found = []
    for fd in range(3, 256):
        try: os.fstat(fd); found.append(fd)
        except OSError: pass
    return len(found)
def readable(path):
    try: return bool(open(path, 'rb').read(1))
    except OSError: return False
"""
    private = ["/etc/passwd", "/proc/self/environ", "/proc/1/cmdline", str(ROOT / "common.py"), "/var/log/dpkg.log"]
    if box.layers == ("bubblewrap",):  # there /proc shows the processes of the sandbox alone
        private = [path for path in private if not path.startswith("/proc")]
    if "nobody" in box.layers:  # what every user may read, nobody may
        private = ["/proc/1/environ"]
    tests = ["assert environment() in ([], ['LC_CTYPE'])", "assert descriptors() == 1"]
    tests += [f"assert readable({path!r}) == False" for path in private]
    assert run_tests(program, tests, sandbox=box) == [True] * len(tests)


def test_limits(box):
    """A process has its memory and no more, no capability even as root, and its answers are cut off at MAX_OUTPUT."""
    program = """
import ctypes, os
def holds(size):
    try: return len(bytearray(size)) == size
    except MemoryError: return False
def capabilities():
    header, data = (ctypes.c_uint32 * 2)(0x20080522, 0), (ctypes.c_uint32 * 6)()
    ctypes.CDLL(None).capget(header, data)
    return list(data)
def flood():
    while True:
        for fd in range(3, 64):
            try: os.write(fd, b'x' * 65536)
            except OSError: pass
"""
    tests = ["assert holds(1 << 28)", "assert holds(1 << 30) is False", "assert capabilities() == [0] * 6"]
    assert run_tests(program, tests, sandbox=box) == [True] * 3
    started = time.monotonic()
    assert judge_tests(program, ["assert flood()"], timeout=60, sandbox=box) == ([False], False)
    assert time.monotonic() - started < 30  # it was not the time that ended it


def test_programs_that_must_run(box):
    """Imports, classes, output, threads, recursion, big numbers, state, and iterables that are no lists."""
    program = """
from __future__ import annotations
import collections, dataclasses, enum, functools, heapq, itertools, math, re, threading
@dataclasses.dataclass(order=True)
class Node:
    value: int
    kids: list[Node] = dataclasses.field(default_factory=list)
    def total(self): return self.value + sum(kid.total() for kid in self.kids)
class Color(enum.IntEnum):
    RED = 1
@functools.lru_cache(None)
def fib(n): return n if n < 2 else fib(n - 1) + fib(n - 2)
def noisy(n):
    print('x' * 10000)
    return n
def threaded(n):
    out = []
    threads = [threading.Thread(target=out.append, args=(i,)) for i in range(n)]
    [t.start() for t in threads]; [t.join() for t in threads]
    return sorted(out)
def counts(text): return collections.Counter(text)
def evens(n): return (i for i in range(n) if i % 2 == 0)
def keys(): return {'b': 1, 'a': 2}.keys()
def match(text): return re.match('a+', text)
def falsy(): return {}
def set(*a): return 'mine'
"""
    tests = [
        "assert Node(1, [Node(2), Node(3)]).total() == 6",
        "assert Color(1) == 1",
        "assert fib(90) == 2880067194370816120",
        "assert noisy(3) == 3 and not noisy(0)",
        "assert threaded(5) == [0, 1, 2, 3, 4]",
        "assert counts('aab') == {'a': 2, 'b': 1}",
        "assert list(evens(5)) == [0, 2, 4]",
        "assert sorted(keys()) == ['a', 'b'] and list(keys()) == ['b', 'a']",
        "assert match('aab')",
        "assert not match('b')",
        "assert not falsy()",
        "assert set(threaded(2)) == {0, 1}, 'a message'",
        "assert math.isclose(sum(evens(5)) / 7, 0.857, rel_tol=0.01)",
        "assert all(n % 2 == 0 for n in evens(9))",
        "assert fib(300) % 1000 == 600",
    ]
    assert run_tests(program, tests, sandbox=box) == [True] * len(tests)


def test_answers_that_cannot_be_compared_equal_nothing(box):
    """Neither == nor != passes for an object of the program; raising is no falsy answer."""
    program = "class A: pass\ndef f(): return A()\ndef g(): raise ValueError\ndef h(): return range(3)"
    tests = ["assert f() == 3", "assert f() != 3", "assert not g()", "assert g() is None", "assert h() == [0, 1, 2]"]
    assert run_tests(program, tests, sandbox=box) == [False] * 5


RICH = """
import collections, datetime, decimal, fractions, itertools
Point = collections.namedtuple("Point", "x y")
class Bag(collections.UserList): pass
def money(): return decimal.Decimal("1.50")
def ratio(): return fractions.Fraction(1, 3)
def day(): return datetime.date(2024, 2, 29)
def moment(): return datetime.datetime(2024, 2, 29, 12, tzinfo=datetime.timezone.utc)
def span(): return datetime.timedelta(days=-1, seconds=5)
def queue(): return collections.deque([1, 2, 3], 3)
def count(): return collections.Counter("aab")
def order(): return collections.OrderedDict(a=1, b=2)
def points(): return [Point(1, 2), Point(3, 4)]
def numbers(n): return range(n)
def views(): return {"a": 1, "b": 2}
def keys(): return views().keys()
def pairs(): return views().items()
def parts(): return views().values()
def squares(): return (i * i for i in itertools.count())
def many(n): return (i for i in range(n))
def bag(): return Bag([1, 2])
"""
SETUP = "import datetime, itertools, collections\nfrom decimal import Decimal\nfrom fractions import Fraction"
HOLD = """
assert money() == Decimal("1.5")
assert money() + 1 == Decimal("2.5")
assert ratio() == Fraction(1, 3) and ratio() != 1 / 3
assert day() == datetime.date(2024, 2, 29) and day().year == 2024
assert moment() == datetime.datetime(2024, 2, 29, 13, tzinfo=datetime.timezone(datetime.timedelta(hours=1)))
assert span() == datetime.timedelta(seconds=-86395)
assert queue() == collections.deque([1, 2, 3]) and queue()[0] == 1
assert count() == {"a": 2, "b": 1} and count().most_common(1) == [("a", 2)]
assert order() == {"b": 2, "a": 1} and order() == collections.OrderedDict([("a", 1), ("b", 2)])
assert [p.x for p in points()] == [1, 3] and points()[1].y == 4 and points() == [(1, 2), (3, 4)]
assert numbers(3) == range(3) and len(numbers(3)) == 3 and numbers(5)[-1] == 4
assert keys() == {"a", "b"} and list(keys()) == ["a", "b"] and len(keys()) == 2
assert pairs() == {("a", 1), ("b", 2)} and list(parts()) == [1, 2]
assert next(squares()) == 0 and list(itertools.islice(squares(), 3)) == [0, 1, 4]
assert list(many(20_000))[-1] == 19_999
assert len(bag()) == 2 and list(bag()) == [1, 2]
"""
DO_NOT_HOLD = """
assert money() == 1.51
assert ratio() == 1 / 3
assert day() == datetime.date(2024, 2, 28)
assert span() == datetime.timedelta(days=-1)
assert queue() == [1, 2, 3]
assert count() == {"a": 2}
assert order() == collections.OrderedDict([("b", 2), ("a", 1)])
assert points()[0].x == 2
assert numbers(3) == [0, 1, 2]
assert keys() == ["a", "b"]
assert parts() == [1, 2]
assert next(squares()) == 1
assert len(many(3)) == 3
"""


def test_results_that_are_more_than_plain_data(box):
    for tests, holds in ((HOLD, True), (DO_NOT_HOLD, False)):
        tests = tests.strip().split("\n")
        assert run_tests(RICH, tests, SETUP, sandbox=box) == [holds] * len(tests)


@pytest.mark.parametrize("kind", ["attacks", "attacks_2", "honest", "honest_2"])
def test_cases_at_hand(kind, tmp_path):
    """The collected programs: attacks fail every test and do no harm, honest ones pass every test."""
    files = sorted((SHARED / f"cases/sandbox_{kind}").glob("*.py"))
    if not files:
        pytest.skip(f"no cases/sandbox_{kind}")
    canary = Path("/", "tmp", "rl_sandbox_canary")
    watch, verdicts, timeout = Watch(canary), {}, 0.5 if "attacks" in kind else 5.0
    try:
        for path in files:
            lines = path.read_text(encoding="utf-8").split("\n")
            header = {
                m[1]: m[2]
                for m in (re.match(r"# (attack|tests|names|must|setup|raw): (.*)", line) for line in lines)
                if m
            }
            code = "\n".join(lines[len(header) :])
            names = json.loads(header.get("names", "[]"))
            setup, tests = ast.literal_eval(header.get("setup", "''")), json.loads(header["tests"])
            if "raw" in header:  # the text of a response
                code = extract_code(code.replace("{BLANKS}", " " * 49_990)) or ""
            verdicts[path.name] = run_tests(code, tests, setup, names, timeout)
            watch.assert_no_harm()
    finally:
        watch.close()
    right = [all(verdict) if "honest" in kind else not any(verdict) for verdict in verdicts.values()]
    print(f"{sum(right)} of {len(right)} as they must be")
    assert all(right), [name for name, ok in zip(verdicts, right) if not ok]


# Appended to a reference solution: the functions that the tests call return something else.
CHANGED = """
def _change(name):
    inner, depth = globals()[name], [0]
    def changed(*args, **kwargs):
        depth[0] += 1
        try:
            value = inner(*args, **kwargs)
        finally:
            depth[0] -= 1
        if depth[0] or isinstance(inner, type):
            return value
        if isinstance(value, (int, float, complex)) and not isinstance(value, bool):
            return 3 * value + 1.5  # which changes every integer
        if isinstance(value, str):
            return value + 'x'
        return ('changed', value) if isinstance(value, (list, tuple, set, dict)) else not value
    globals()[name] = changed
"""


@pytest.mark.parametrize(
    ("file", "size", "step"),
    [("mbpp/mbpp.jsonl", 974, 3), ("mbpp/sanitized-mbpp.jsonl", 427, 3), ("humaneval/HumanEval.jsonl", 156, 1)],
)
def test_references(file, size, step):
    """Every reference passes all its tests; of some, at even steps, none passes once its return value is changed."""
    path = SHARED / "data" / file
    if not path.exists():
        pytest.skip(f"no {file}")

    def judge(problem: Problem) -> list[bool]:
        names = defined_names(problem.solution)
        calls = split_tests(problem.tests, problem.setup_code, names).calls
        change = CHANGED + "".join(f"_change({name!r})\n" for name in {re.match(r"\w+", call)[0] for call in calls})
        more = (problem.tests, problem.setup_code, names, 60)  # patient: what is right is the question, not how fast
        return run_tests(f"{problem.solution}\n{change}", *more)

    problems = load_problems(str(path), "all")
    with ThreadPoolExecutor(sandbox.cores()) as pool:
        verdicts = list(pool.map(judge, problems[::step]))
    assert len(common.solvable(problems, unsafe=False)) == len(problems) == size
    assert [problem.id for problem, wrong in zip(problems[::step], verdicts, strict=True) if any(wrong)] == []


STREAM = [("2\n1 2\n", "3\n"), ("3\n10 20 30", "60"), ("1\n7", "7")]
READING = {
    "input": "n = int(input())\nprint(sum(map(int, input().split())))",
    "read": "import sys\nprint(sum(map(int, sys.stdin.read().split()[1:])))",
    "buffer": "import sys\nd = sys.stdin.buffer.read().split()\nsys.stdout.buffer.write(b'%d' % sum(map(int, d[1:])))",
    "open": "print(sum(map(int, open(0).read().split()[1:])))",
    "descriptors": "import os\nos.write(1, b'%d' % sum(map(int, os.read(0, 99).split()[1:])))",
    "fileinput": "import fileinput, sys\nd = ' '.join(fileinput.input()).split()\n"
    "print(sum(map(int, d[1:])) if len(sys.argv) == 1 else 0)",
    "main": "def main():\n    input()\n    print(sum(map(int, input().split())))\n"
    "if __name__ == '__main__':\n    main()\n    exit()",
    "thread": "import threading\ndef f():\n    input()\n    print(sum(map(int, input().split())))\n"
    "threading.Thread(target=f).start()",
    "float": "input()\nprint(sum(map(int, input().split())) + 1e-9)",
    "layout": "input()\nprint('\\n ', sum(map(int, input().split())), end='  ')",
    "closing": "import sys\ninput()\nprint(sum(map(int, input().split())), flush=True)\nsys.stdin.close()",
}
NOT_READING = {
    "another sum": "input()\nprint(sum(map(int, input().split())) + 1)",
    "two words": "input()\nprint(sum(map(int, input().split())), 0)",
    "an error": "input()\nprint(sum(map(int, input().split())))\nexit(1)",
    "an exception": "input()\nprint(sum(map(int, input().split())))\nraise ValueError",
    "nothing": "input()",
    "no Python": "print(",
    "a word that equals all": "class S(str):\n    split = lambda *a: ['3']\n    __eq__ = lambda *a: 1\nprint(S(4))",
    "the function of the judge": "def same_output(*a): return True\ndef stdout_of(*a): return '3'",
    "leaving": "import os\nprint(3)\nos._exit(0)",
    "an answer on the channel": "import os\nfor fd in range(3, 64):\n"
    '    try: os.write(fd, b\'["str", "3"]\\n\' * 9)\n    except OSError: pass',
}


@pytest.mark.parametrize("name", [*READING, *NOT_READING])
def test_programs_that_read_and_print(box, name):
    """Each case is a run of the whole program; what it prints is compared word by word."""
    program = READING.get(name) or NOT_READING[name]
    verdicts = run_tests(program, stream_asserts(STREAM), STREAM_SETUP, sandbox=box)
    assert verdicts == [name in READING] * 3


@pytest.mark.parametrize(
    ("printed", "expected", "same"),
    [
        ("1 2\n3\n", "1\n2 3", True),
        ("1 2", "1 2 3", False),
        ("yes", "YES", False),
        ("0.3333333", "0.333333333", True),
        ("0.3334", "0.333333", False),
        ("3.0", "3", True),
        ("3.01", "3", False),
        ("3", "3.0000001", True),
        ("1000000000000000001", "1000000000000000000", False),
        ("1000000000000000001.0", "1000000000000000001", False),
        ("2e6", "2000000.5", True),
        ("010", "10", False),
        ("nan", "0.5", False),
        ("1_0.0", "10.0", False),
        ("inf", "inf", True),
        ("", "", True),
        ("", "0", False),
    ],
)
def test_words_and_numbers_that_are_printed(printed, expected, same):
    """The helper as the judge runs it: integers exactly, numbers with a decimal point to six digits."""
    program = f"print({printed!r})"
    assert run_tests(program, stream_asserts([("", expected)]), STREAM_SETUP) == [same]


def test_an_answer_to_a_call_that_was_not_made_fails():
    """Calls come one by one: a program sees no later one, and one that answers ahead has failed."""
    line = b'["constant", true]\n' * 9
    program = f"import os\nfor fd in range(3, 64):\n    try: os.write(fd, {line!r})\n    except OSError: pass\n"
    program += "def f(x): return x"
    assert run_tests(program, ["assert f(True)", "assert f(1) == 1"]) == [False] * 2
    seen = "import sys\ndef f(x):\n    frame, found = sys._getframe(), 0\n    while frame:\n"
    seen += "        found += repr(frame.f_locals).count('xyz' + 'zy')\n        frame = frame.f_back\n    return found"
    assert run_tests(seen, ["assert f(1) == 0", "assert f('xyzzy') > 0"]) == [True] * 2


# ---- the trusted side ----------------------------------------------------------------------------------------------


def test_the_program_never_sees_a_check():
    """The job of the program holds the calls, not what they must equal; that of the judge holds no program."""
    jobs = []

    class Recorder:
        def do(self, job, timeout, lines):
            jobs.append(json.dumps(job))
            return [b'["int", "0x3"]'] * lines, True

    run_tests("def add(a, b): return 'PROGRAM'", ["assert add(1, 2) == 48271"], sandbox=Recorder())
    assert "48271" not in jobs[0] and "add(1, 2)" in jobs[0]
    assert "PROGRAM" not in jobs[1] and "__v[0] == 48271" in jobs[1]


@pytest.mark.parametrize(
    "line",
    [
        b"",
        b"[]",
        b"3",
        b'["int"]',
        b'["int", 3, 4]',
        b'["int", "three"]',
        b'["unknown", 1]',
        b'["constant", 3]',
        b'["list", 3]',
        b'["set", [["list", []]]]',
        b'["opaque", 3]',
        b'["list", [' * 5_000 + b"]]" * 5_000,
        b"[" * 100_000,
        b"\xff\xfe",
    ],
)
def test_malformed_answers_fail(line):
    """Whatever stands in place of an answer, the judge says False and goes on to the next."""
    job = {"imports": [], "checks": ["not __v[0]", "__v[1] == 3"]}
    job["answers"] = [line.decode("latin-1"), '["int", "0x3"]']
    written = []
    sandbox_child.judge(job, written.append)
    assert written == [b"0\n", b"1\n"]


VALUES = [None, True, 0, -(10**50), 0.1, float("inf"), 2j, "ü\ud800\n", b"\0", [1, [2]], (1,), {1, 2}, frozenset({"a"})]


@pytest.mark.parametrize("value", [*VALUES, {"a": [1], 2: None}, {(1, 2): {3}}, VALUES], ids=lambda v: repr(v)[:30])
def test_plain_data_survives(value):
    """What is encoded, written as JSON, read and decoded is equal and of the same type."""
    copy = sandbox_child.decode(json.loads(json.dumps(sandbox_child.encode(value))))
    assert copy == value and type(copy) is type(value)


def test_a_slow_assert_is_cut_short(monkeypatch):
    """The judge is bounded too: an assert that never ends is False, and reported as cut short."""
    monkeypatch.setattr(sandbox, "JUDGE_TIMEOUT", 0.5)
    passed = judge_tests("def f(): return 9 ** 9", ["assert f() == 387420489", "assert f() ** f() ** f() == 1"])
    assert passed == ([True, False], False)


def test_verdicts_in_threads_stay_with_their_programs():
    """Sixteen threads share the servers, and each gets its own verdicts."""

    def judge(n: int) -> list[bool]:
        return run_tests(
            f"import time\ntime.sleep({n % 3} / 100)\ndef f(): return {n}", [f"assert f() == {n // 2 * 2}"]
        )

    with ThreadPoolExecutor(16) as pool:
        assert list(pool.map(judge, range(120))) == [[n % 2 == 0] for n in range(120)]


def test_verdicts_do_not_depend_on_the_server():
    """Hashes of strings and random numbers are the same in every process."""
    program = "import random\ndef order(): return [*{'a', 'b', 'c', 'd', 'e'}, random.random()]"
    seen = []
    for _ in range(3):
        box = Sandbox(("landlock", "seccomp"))
        job = {"kind": "answer", "code": program, "setup_code": "", "calls": ["order()"]}
        try:
            seen.append(box.do(job, 5.0, 1)[0])
        except SandboxError as error:
            pytest.skip(str(error))
        finally:
            box.close()
    assert seen[0] == seen[1] == seen[2] != [b""]


def test_a_lost_server_is_replaced(monkeypatch):
    """If a server dies, its program runs once more on a new one; only where none starts there is no verdict."""
    box = Sandbox(("seccomp",))
    try:
        assert run_tests("def f(): return 1", ["assert f() == 1"], sandbox=box) == [True]
        (server,) = [server for server in box.idle.queue if server]
        assert os.getpgid(server.process.pid) != os.getpgid(0)  # Ctrl-C in a terminal is for the trainer alone
        slow = "import time\ndef f():\n    time.sleep(1)\n    return 1"
        threading.Timer(0.5, os.kill, (server.process.pid, signal.SIGKILL)).start()
        assert run_tests(slow, ["assert f() == 1"], timeout=20, sandbox=box) == [True]
        (server,) = [server for server in box.idle.queue if server]
        threading.Timer(0.5, os.kill, (server.process.pid, signal.SIGKILL)).start()
        monkeypatch.setattr(sandbox, "CHILD", "/nowhere")
        with pytest.raises(SandboxError, match="the server does not start"):
            run_tests(slow, ["assert f() == 1"], timeout=20, sandbox=box)
        monkeypatch.undo()
        assert run_tests("def f(): return 1", ["assert f() == 1"], sandbox=box) == [True]
    finally:
        box.close()


def test_nothing_outlives_a_killed_trainer(tmp_path):
    """After SIGKILL of the process that asked for verdicts, its servers and the program end."""
    script = f"from verifiers import sandbox\nsandbox.CHILD = {str(sandbox.CHILD)!r}\n"
    script += "from verifiers.sandbox import *\nprint(start_sandbox(), flush=True)\n"
    script += "run_tests('while True: pass', ['assert f()'], timeout=100)"
    before = processes()
    trainer = subprocess.Popen([sys.executable, "-c", script], cwd=ROOT, stdout=subprocess.PIPE)
    trainer.stdout.readline()
    assert wait_until(lambda: len(processes() - before) >= 2)  # a server and the program
    trainer.kill()
    trainer.wait()
    trainer.stdout.close()
    assert wait_until(lambda: not processes() - before)


def test_no_sandbox_is_refused_with_the_reasons(monkeypatch):
    """Where no layers hold there is one sentence, not a reward; --unsafe-code still kills what a program started."""
    monkeypatch.setattr(sandbox, "LAYERS", {("landlock", "tardis"): "Landlock and time", ("bare",): "nothing"})
    try:
        with pytest.raises(SandboxError, match=r"Landlock and time: unknown layers.*; nothing: .*--unsafe-code"):
            sandbox.start_sandbox()
        assert sandbox.start_sandbox(unsafe=True) == sandbox.UNSAFE  # after the layers have been tried
        assert run_tests("def add(a, b): return a + b", ADD) == [True] * 3
        before = processes()
        assert run_tests(ATTACKS["leaves a daemon"].format(folder="/nowhere"), ADD) == [False] * 3
        assert processes() <= before
        # Its server alone: os.kill(-1) would end this test too.
        program = ATTACKS["kills its relatives"].replace(", (os.kill, -1)", "")
        assert run_tests(program, ADD) == [False] * 3
        assert run_tests("def add(a, b): return a + b", ADD) == [True] * 3
    finally:
        sandbox.stop_sandbox()


def test_unsafe_code_takes_the_layers_that_hold():
    """Red if --unsafe-code gives up an isolation that the machine has."""
    try:
        assert sandbox.start_sandbox(unsafe=True) == sandbox.start_sandbox()
    except SandboxError as error:
        pytest.skip(str(error))
    finally:
        sandbox.stop_sandbox()


def test_each_layer_is_needed_by_the_probe(monkeypatch):
    """Without isolation the probe finds a hole, so it can tell a layer that holds from one that does not."""
    for layers, hole in (((), "files"), (("landlock",), None), (("seccomp",), "files")):
        box = Sandbox(layers)
        try:
            reason = sandbox.failed_probe(box)
        except SandboxError as error:
            pytest.skip(str(error))
        finally:
            box.close()
        assert (hole in reason) if hole else (reason is None)


HEADERS = {"x86_64": "/usr/include/x86_64-linux-gnu/asm/unistd_64.h", "aarch64": "/usr/include/asm-generic/unistd.h"}


@pytest.mark.parametrize("machine", HEADERS)
def test_the_table_of_system_calls(machine):
    """Every number in ALLOWED is the kernel's; every call that is there on this machine is listed with a number."""
    if not Path(HEADERS[machine]).exists():
        pytest.skip("no kernel headers")
    defined = re.findall(r"#define __NR(?:3264)?_(\w+) (\d+)", Path(HEADERS[machine]).read_text())
    numbers = {name: int(number) for name, number in defined}
    table, column = sandbox_child.ALLOWED.split(), sandbox_child.MACHINES[machine][0]
    listed = {table[i]: table[i + column] for i in range(0, len(table), 3)}
    for name in ("fcntl", "ioctl", "prlimit64", "socketpair", "sendto"):
        listed[name] = str(getattr(sandbox_child, name.upper())[column - 1])
    numbers["newfstatat"] = numbers.get("newfstatat", numbers.get("fstatat"))  # its name in the generic table
    for name, number in listed.items():
        assert number == str(numbers.get(name, "-")), name


@pytest.mark.skipif(platform.machine() not in sandbox_child.MACHINES, reason="no table for this machine")
def test_the_filter_allows_what_it_lists():
    """A small interpreter runs the filter: what is not listed is refused, and what is listed with other arguments."""
    column, architecture, clone, opens = sandbox_child.MACHINES[platform.machine()]
    table = sandbox_child.ALLOWED.split()
    listed = {int(table[i + column]) for i in range(0, len(table), 3) if table[i + column] != "-"}
    fcntl, ioctl, prlimit64, socketpair, sendto = (
        getattr(sandbox_child, name)[column - 1] for name in ("FCNTL", "IOCTL", "PRLIMIT64", "SOCKETPAIR", "SENDTO")
    )
    special = {clone, *opens, fcntl, ioctl, prlimit64, socketpair, sendto}
    allow, refuse, unknown = 0x7FFF0000, 0x50001, 0x50026
    anything = (0xDEADBEEF,) * 6
    for nothing in (False, True):
        run = bpf(sandbox_child.seccomp_filter(open_nothing=nothing))
        for number in {*range(470)} - special - {435}:
            assert run(architecture, number, anything) == (allow if number in listed else refuse), number
        assert run(architecture, 435) == run(architecture, 470) == run(architecture, 0x40000000) == unknown
        assert run(0x40000003, 1) == 0x80000000  # another architecture's calls end the process
        assert run(architecture, clone, (0x10F00, 0, 0, 0, 0, 0)) == allow
        assert run(architecture, clone, (0x11, 0, 0, 0, 0, 0)) == refuse
        for number, offset in opens.items():
            position = (offset - 16) // 8
            for flags in (os.O_RDONLY, os.O_WRONLY, os.O_RDWR, os.O_CREAT, os.O_TRUNC):
                arguments = tuple(flags if i == position else 0 for i in range(6))
                assert run(architecture, number, arguments) == (refuse if nothing or flags else allow)
        for command in range(1100):
            allowed = command in (0, 1, 2, 3, 4, 1030)  # neither F_SETOWN (8) nor F_SETSIG (10) nor F_SETLEASE (1024)
            assert run(architecture, fcntl, (5, command, 9, 0, 0, 0)) == (allow if allowed else refuse), command
        for request in (0x8901, 0x8902, 0x40086602, 0x5412):  # FIOSETOWN, SIOCSPGRP, FS_IOC_SETFLAGS, TIOCSTI
            assert run(architecture, ioctl, (5, request, 0, 0, 0, 0)) == refuse
        assert run(architecture, ioctl, (5, 0x5401, 0, 0, 0, 0)) == allow
        assert run(architecture, prlimit64, (0, 7, 0, 1 << 40, 0, 0)) == allow
        assert run(architecture, prlimit64, (0, 7, 1 << 40, 0, 0, 0)) == refuse
        assert run(architecture, socketpair, (1, 1, 0, 0, 0, 0)) == allow
        assert run(architecture, socketpair, (30, 1, 0, 0, 0, 0)) == refuse
        assert run(architecture, sendto, (3, 9, 9, 0, 0, 0)) == allow
        assert run(architecture, sendto, (3, 9, 9, 0, 1 << 40, 16)) == refuse


def bpf(program: bytes):
    """A function (architecture, number, arguments) -> verdict that interprets the classic BPF codes in use here."""
    import struct

    instructions = [struct.unpack("HBBI", program[i : i + 8]) for i in range(0, len(program), 8)]

    def run(architecture: int, number: int, arguments: tuple = (0,) * 6) -> int:
        data = struct.pack("IIQ6Q", number, architecture, 0, *arguments)
        position = value = 0
        while True:
            code, if_true, if_false, k = instructions[position]
            position += 1
            if code == 0x20:
                value = struct.unpack_from("I", data, k)[0]
            elif code == 0x06:
                return k
            else:
                true = {0x15: value == k, 0x35: value >= k, 0x45: bool(value & k)}[code]
                position += if_true if true else if_false

    return run


# ---- verdicts that a program could buy, and honest programs that could not be read ----------------------------------

SAME = "def same(a, b):\n    for x, y in zip(a, b):\n        if x != y: return False\n    return len(a) == len(b)"
LEAKY = "class E:\n    def __sub__(self, other): return 0\ndef f(x): return E()"


@pytest.mark.parametrize(
    ("program", "test", "setup"),
    [
        ("def f(x): return object()", "assert not f(3) != 4", ""),
        ("def f(x): return [object(), object()]", "assert not f(3) != [1, 2]", ""),
        ("def f(x): return [object(), object()]", "assert not any(a != b for a, b in zip(f(3), [1, 2]))", ""),
        ("def f(x): return object()", "assert (f(3) == 4) == False", ""),
        ("def f(x): return [object(), object()]", "assert same(f(3), [1, 2])", SAME),
        (
            "import math\nmath.isclose = lambda *a: True\ndef f(x): return 0",
            "assert isclose(f(3), 4.0)",
            "from math import *",
        ),
    ],
)
def test_what_cannot_be_compared_passes_no_check(program, test, setup):
    assert run_tests(program, [test], setup) == [False]


@pytest.mark.parametrize(
    ("test", "setup", "reason"),
    [
        ("assert near(f(3), 4)", "near = lambda a, b: abs(a - b) < 1e-6", "decided by near of the setup code"),
        ("assert C.same(f(3), 4)", "class C:\n    @staticmethod\n    def same(a, b): return a == b", "decided by C"),
        ("assert dist(f(3), 4) < 1e-6", "K = 1\ndef dist(a, b): return K * abs(a - b)", "decided by dist"),
        ("assert same(f(3), 4)", "if True:\n    def same(a, b): return a == b", "decided by same"),
        ("assert isfile(f(3))", "from os.path import *", r"imports \* of os.path"),
        ("assert (f(3) == 4, 'wrong')", "", "is a tuple, which is always true"),
    ],
)
def test_checkers_that_the_program_would_decide_are_refused(test, setup, reason):
    with pytest.raises(ValueError, match=reason):
        run_tests(LEAKY, [test], setup)


@pytest.mark.parametrize(
    "ending",
    [
        "sys.stdout = io.TextIOWrapper(sys.stdout.buffer, encoding='utf-8'); print(2 * n)",
        "sys.stdout = open(1, 'w'); print(2 * n)",
        "print(2 * n); sys.stdout.close()",
        "out = os.fdopen(1, 'w'); out.write(str(2 * n))",
        "atexit.register(lambda: print(2 * n))",
    ],
)
def test_what_a_script_prints_at_its_end_counts(ending):
    program = f"import atexit, io, os, sys\nn = int(input())\n{ending}"
    setup = STREAM_SETUP
    tests = [f"assert same_output(stdout_of({text!r}), {wanted!r})" for text, wanted in (("4\n", "8"), ("5\n", "10"))]
    assert run_tests(program, tests, setup) == [True, True]
    assert run_tests("print(5)", [f"assert same_output(stdout_of('4'), '1{'0' * 320}.0')"], setup) == [False]


def test_the_value_of_a_text_enum_is_its_text():
    program = "import enum\nclass C(str, enum.Enum):\n    R = 'red'\ndef f(x): return C.R"
    assert run_tests(program, ["assert f(1) == 'red'"]) == [True]
