"""Runs untrusted programs against asserts: safely, and so that a program has no say in its verdict.

    start_sandbox()  # finds the layers that hold on this machine, or raises SandboxError
    run_tests("def f(n): return 2 * n", ["assert f(3) == 6"])  # [True]

Two locked-down processes share the work (sandbox_child.py). The first runs the program and answers the calls that
stand in the asserts, as plain data; it never sees an expected value. The second, in which no program ever runs, judges
the asserts over these answers. This process starts them, passes lines on and kills them: it evaluates neither programs
nor asserts. So leaving early, patching builtins, an __eq__ that is always true, searching the memory for the tests or
printing "passed" cannot become a pass; and what a program cannot do is what the layers below forbid.

What is guaranteed with the first layers: no writing, no sockets but pairs of its own, no new processes, no signals to
others, no reading but the standard library and shared libraries; an empty environment, no inherited descriptors;
bounded time, memory, threads and output; when run_tests returns, everything that the program started is dead. What is
not on the list of system calls that honest programs need is refused. A program that breaks the protocol has failed; a
server that is lost is replaced, and only where none can be started is there an error. This process uses no signals and
may be called from threads. A hole in the kernel is out of scope.
"""

import atexit
import json
import math
import os
import queue
import re
import socket
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path

from verifiers.asserts import split_tests

CHILD = str(Path(__file__).with_name("sandbox_child.py"))
TIMEOUT = 5.0  # seconds of a program, all calls together
JUDGE_TIMEOUT = 5.0  # seconds for the verdicts on its answers
START_TIMEOUT = 60.0  # seconds until a server or a process must be ready; only a broken machine needs them
MAX_OUTPUT = 1 << 20  # bytes of all answers together

# Sets of layers in the order in which they are tried; all have limits of time, memory and output besides.
LAYERS = {
    ("landlock", "seccomp"): "Landlock and seccomp",
    ("noread",): "seccomp without opening any file",
    ("bubblewrap",): "bubblewrap",
    ("nobody", "seccomp"): "seccomp as user nobody",
}
UNSAFE = "NO ISOLATION (--unsafe-code), only limits of time, memory and output"


class SandboxError(RuntimeError):
    """The sandbox cannot be set up: a fault of the machine, in one sentence, never a verdict on a program."""


def bubblewrap_prefix() -> list[str]:
    """A command that starts Python where it sees system libraries and itself, read-only, and nothing else."""
    prefix = ["bwrap", "--unshare-all", "--new-session", "--clearenv", "--setenv", "PYTHONHASHSEED", "0"]
    for path in ("/usr", "/lib", "/lib64", sys.base_prefix, CHILD):
        if os.path.exists(path):
            prefix += ["--ro-bind", path, path]
    return [*prefix, "--proc", "/proc", "--dev", "/dev", "--"]


class Server:
    """One server process of sandbox_child.py. It does one job at a time; not for several threads at once."""

    def __init__(self, layers: tuple[str, ...]):
        self.lost = False
        self.control, theirs = socket.socketpair()
        self.control.settimeout(START_TIMEOUT)
        prefix = bubblewrap_prefix() if "bubblewrap" in layers else []
        python = [os.path.realpath(sys.executable), "-s", "-P", "-S", "-B", CHILD]  # no site, no packages, no .pyc
        with theirs:
            try:
                self.process = subprocess.Popen(
                    [*prefix, *python, *layers],
                    stdin=theirs,
                    stdout=subprocess.DEVNULL,
                    stderr=subprocess.DEVNULL,
                    cwd="/",
                    env={"LC_ALL": "C.UTF-8", "PYTHONHASHSEED": "0"} | ({"PATH": os.defpath} if prefix else {}),
                    start_new_session=True,
                )
            except OSError as error:
                self.control.close()
                raise SandboxError(f"{(prefix or python)[0]} does not start: {error.strerror}") from error
        answer = self.receive()
        if answer != b"up":
            self.close()
            raise SandboxError(answer.decode(errors="replace").removeprefix("error: ") or "the server does not start")

    def receive(self, order: bytes = b"") -> bytes:
        """What the server says, after an order if there is one; nothing if it is gone."""
        try:
            self.control.sendall(order)
            return self.control.recv(500)
        except OSError:
            return b""

    def do(self, job: dict, timeout: float, lines: int) -> tuple[list[bytes], bool]:
        """(lines of the answer, whether it ended by itself within `timeout` seconds and MAX_OUTPUT bytes).

        job["calls"], where there are any, are sent one by one, each after the answer to the one before: what one assert
        expects may be an argument of another. When this returns, the process of the job and everything that it started
        are dead. Raises SandboxError.
        """
        mine, theirs = socket.socketpair()  # not a pipe, which its own writer could open for reading
        received, ended = b"", False
        with mine:
            with theirs:
                socket.send_fds(self.control, [b"j"], [theirs.fileno()])
            try:
                mine.settimeout(START_TIMEOUT)
                calls = [json.dumps(call).encode() + b"\n" for call in job.get("calls", ())]
                job = job | {"calls": len(calls), "cpu_seconds": math.ceil(timeout)}
                mine.sendall(json.dumps(job).encode() + b"\n")
                while b"\n" not in received and (data := mine.recv(1000)):
                    received += data
                ready, _, received = received.partition(b"\n")  # written before the program's first line
                if ready != b"ready":
                    raise SandboxError(ready.decode(errors="replace").removeprefix("error: ") or "a process died early")
                received, ended = self.exchange(mine, received, calls, lines, time.monotonic() + timeout)
            except OSError as error:
                raise SandboxError(f"a process does not answer: {error}") from error
            finally:
                dead = self.receive(b"k")
        if dead == b"t":  # killed for its threads, whatever it had answered before
            return [], True
        if dead != b"d":
            self.lost = True
            self.close()
            return [], False
        return received.split(b"\n")[:-1][:lines], ended

    @staticmethod
    def exchange(channel, received: bytes, calls: list[bytes], lines: int, deadline: float) -> tuple[bytes, bool]:
        """(what comes back, whether that was in time). A program has a hand in it: nothing it does is an error here."""
        answers, done, asked = bytearray(received), received.count(b"\n"), 0
        try:
            while True:
                if calls and done > asked:  # the answer to a call that it has not seen breaks the protocol
                    return b"", True
                if done >= lines or len(answers) > MAX_OUTPUT:
                    return bytes(answers), done >= lines
                channel.settimeout(max(deadline - time.monotonic(), 1e-6))
                if calls and done == asked:
                    channel.sendall(calls[asked])
                    asked += 1
                data = channel.recv(1 << 16)
                if not data:
                    return bytes(answers), True
                answers += data
                done += data.count(b"\n")
        except TimeoutError:
            return bytes(answers), False
        except OSError:  # the process is gone
            return bytes(answers), True

    def close(self) -> None:
        self.control.close()  # the server ends, and with it what it runs
        try:
            self.process.wait(START_TIMEOUT)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()


class Sandbox:
    """A server for each core, started when first needed, that share a set of layers. Safe in threads."""

    def __init__(self, layers: tuple[str, ...]):
        self.layers = layers
        self.idle: queue.LifoQueue[Server | None] = queue.LifoQueue()
        for _ in range(cores()):
            self.idle.put(None)

    def do(self, job: dict, timeout: float, lines: int) -> tuple[list[bytes], bool]:
        server = self.idle.get()
        try:
            if server is None or server.lost:
                server = Server(self.layers)
            result = server.do(job, timeout, lines)
            if server.lost:  # killed from outside, or by a program in spite of the layers: once more, with a new one
                server = Server(self.layers)
                result = server.do(job, timeout, lines)
            return result
        except BaseException:
            if server:
                server.close()
            server = None  # the next job starts a new one
            raise
        finally:
            self.idle.put(server)

    def close(self) -> None:
        for server in [self.idle.get() for _ in range(cores())]:
            if server:
                server.close()
            self.idle.put(None)


def cores() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


# ---- tests ---------------------------------------------------------------------------------------------------------


def run_tests(
    code: str, tests, setup_code: str = "", names=(), timeout: float = TIMEOUT, sandbox: Sandbox | None = None
) -> list[bool]:
    """Whether each assert holds of the program `code`; see judge_tests. Raises ValueError and SandboxError."""
    return judge_tests(code, tests, setup_code, names, timeout, sandbox)[0]


def judge_tests(
    code: str, tests, setup_code: str = "", names=(), timeout: float = TIMEOUT, sandbox: Sandbox | None = None
) -> tuple[list[bool], bool]:
    """(whether each assert holds, whether program and judge ended within their bounds).

    code: the untrusted program. tests, setup_code: trusted text; the setup code runs after the program, in its process.
    names: what the reference solution defines (see split_tests, which raises ValueError). A program that runs out of
    time fails its unfinished asserts. Raises SandboxError, never a wrong verdict, if the sandbox fails.
    """
    passed, ended, _ = judge_and_show(code, tests, setup_code, names, timeout, sandbox)
    return passed, ended


def judge_and_show(
    code: str, tests, setup_code: str = "", names=(), timeout: float = TIMEOUT, sandbox=None, show: bool = False
) -> tuple[list[bool], bool, list[list[str]]]:
    """As judge_tests, and with `show` the values of each assert's calls as texts, "" where a call gave none."""
    split = split_tests(tuple(tests), setup_code, frozenset(names))
    sandbox = sandbox or current_sandbox()
    job = {"kind": "answer", "code": code, "setup_code": setup_code, "calls": split.calls}
    job["reads"] = any(call.startswith("stdout_of(") for call in split.calls)  # each call runs the whole program
    answers, ended = sandbox.do(job, timeout, len(split.calls))
    job = {"kind": "judge", "imports": split.imports, "checks": split.checks, "show": show}
    job["answers"] = [answer.decode("latin-1") for answer in answers]  # an encoded answer is ASCII
    n = len(split.checks)
    lines, judged = sandbox.do(job, JUDGE_TIMEOUT, n + show * len(answers))
    passed = [line == b"1" for line in lines[:n]]
    values = [json.loads(line) for line in lines[n:]] + [""] * len(split.calls)
    shown = [[values[int(i)] for i in re.findall(r"\b__v\[(\d+)\]", check)] for check in split.checks]
    return passed + [False] * (n - len(passed)), ended and judged, shown


# ---- which layers hold here ----------------------------------------------------------------------------------------

HONEST = "import math, re\ndef add(a, b): return a + b"
LEAVING = "import os\ndef add(a, b): os._exit(0)"
READING = "def add(a, b): return open({path!r}).read()"
CONNECTING = """
import socket
def add(a, b):
    connection = socket.create_connection(('127.0.0.1', {port}), 1)
    return 'connected'
"""
OWNING = "import ctypes\ndef add(a, b): return ctypes.CDLL(None).fcntl(0, 8, 1)"  # F_SETOWN: whom the kernel signals


def failed_probe(sandbox: Sandbox, attacks: bool = True) -> str | None:
    """What goes wrong first: an honest program or one of four attacks; None if the layers hold."""
    if run_tests(HONEST, ["assert add(1, 2) == 3"], sandbox=sandbox) != [True]:
        return "an honest program fails"
    if not attacks:
        return None
    if run_tests(LEAVING, ["assert add(1, 2) == 3"], sandbox=sandbox) != [False]:
        return "a program passes by leaving"
    with tempfile.NamedTemporaryFile("w", dir=Path.home() if os.access(Path.home(), os.W_OK) else None) as file:
        file.write("secret")
        file.flush()
        if run_tests(READING.format(path=file.name), ["assert add(1, 2) == 'secret'"], sandbox=sandbox) != [False]:
            return "a program reads the user's files"
    with socket.create_server(("127.0.0.1", 0)) as listener:
        program = CONNECTING.format(port=listener.getsockname()[1])
        if run_tests(program, ["assert add(1, 2) == 'connected'"], sandbox=sandbox) != [False]:
            return "a program reaches the network"
    if {"seccomp", "noread"} & {*sandbox.layers}:  # bubblewrap shows no process to signal
        if run_tests(OWNING, ["assert add(1, 2) == 0"], sandbox=sandbox) != [False]:
            return "a program has the kernel signal other processes"
    return None


def find_sandbox(unsafe: bool) -> tuple[Sandbox, str]:
    """The first set of layers that holds, and its name. Raises SandboxError if none does, with the reason for each."""
    reasons = []
    for layers, name in (LAYERS | ({(): UNSAFE} if unsafe else {})).items():
        sandbox = Sandbox(layers)
        try:
            reason = failed_probe(sandbox, attacks=layers != ())
        except SandboxError as error:
            reason = str(error)
        if reason is None:
            return sandbox, name
        sandbox.close()
        reasons.append(f"{name}: {reason}")
    hint = "" if unsafe else "; --unsafe-code would run them without one"
    raise SandboxError(f"no sandbox for generated programs works on this machine ({'; '.join(reasons)}){hint}")


_lock = threading.Lock()
_current: Sandbox | None = None


def start_sandbox(unsafe: bool = False) -> str:
    """Finds the first set of layers that holds on this machine, keeps it for all later programs, returns its name.

    unsafe: where none holds, limits alone will do. Raises SandboxError.
    """
    global _current
    stop_sandbox()
    with _lock:
        _current, name = find_sandbox(unsafe)
    return name


def current_sandbox() -> Sandbox:
    global _current
    with _lock:
        if _current is None:
            _current, _ = find_sandbox(unsafe=False)
        return _current


@atexit.register
def stop_sandbox() -> None:
    """Ends all servers."""
    global _current
    with _lock:
        if _current is not None:
            _current.close()
        _current = None


def _forget() -> None:
    global _current, _lock
    _current, _lock = None, threading.Lock()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_forget)  # a forked process must not talk to its parent's servers
