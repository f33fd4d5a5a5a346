"""The far side of sandbox.py: a server that forks one locked-down process for each job.

    python -s -P -S -B sandbox_child.py [LAYER ...] <CONTROL

The server imports, then waits on the socket CONTROL. For a job it gets the channel to that job's process, forks, and on
request kills the process and whatever that started. It never reads a job, so no job can learn anything from another. A
process first gives up every right that the layers take away, says "ready", and only then does its job, of which there
are two:
- ANSWER: run an untrusted program, then answer calls of it with plain data, one line for each call;
- JUDGE: evaluate trusted expressions over such answers, one line, 1 or 0, for each. No program ever runs in there.

Nothing of this project and few other modules are imported: the file runs alone, in an interpreter without packages.
"""

import atexit
import collections.abc
import contextlib
import ctypes
import datetime
import decimal
import fractions
import functools
import gc
import itertools
import json
import os
import random
import resource
import select
import signal
import socket
import struct
import sys
import threading
import time

MAX_SHOWN = 100  # characters of an answer that is shown
MAX_ITEMS = 30_000  # of an iterable answer that is no list, tuple, set or dict
MEMORY = 1 << 30  # bytes of address space of a process
OPEN_FILES = 64
MAX_THREADS = 256  # of a job; raw ones take no address space that a limit would count
WATCH = 0.01  # seconds between two counts of them

# Imported before the first fork: a program finds them loaded.
PRELOADED = """
    __future__ abc array ast base64 bisect calendar cmath collections contextlib copy dataclasses datetime decimal
    encodings.ascii encodings.idna encodings.latin_1 encodings.utf_16 enum fractions functools hashlib heapq inspect
    itertools math numbers operator pprint queue random re statistics string textwrap threading time traceback types
    typing unicodedata uuid warnings _strptime
""".split()
# Where programs may not open the library's files; elsewhere they would only make every fork dearer.
UNREADABLE = """
    asyncio concurrent.futures csv difflib fileinput graphlib io logging secrets sqlite3 urllib.parse
    xml.etree.ElementTree zoneinfo
""".split()

# ---- layers --------------------------------------------------------------------------------------------------------

LIBC = ctypes.CDLL(None, use_errno=True)
if sys.platform.startswith("linux"):  # elsewhere there are no layers, only limits
    LIBC.prctl.argtypes = [ctypes.c_int, *[ctypes.c_ulong] * 4]
PR_SET_PDEATHSIG, PR_SET_DUMPABLE, PR_SET_SECCOMP, PR_SET_NO_NEW_PRIVS, PR_SET_CHILD_SUBREAPER = 1, 4, 22, 38, 36
CAPSET = {"x86_64": 126, "aarch64": 91}  # the only system call here without a function in every C library
LANDLOCK_CREATE, LANDLOCK_ADD_RULE, LANDLOCK_RESTRICT = 444, 445, 446  # the same on every machine
NOBODY = 65534

# What seccomp allows: what the interpreter and honest programs need, on files, pipes and pairs of sockets of their own,
# memory, threads, clocks, signals to themselves, and questions. Everything else is refused, also what is not known yet:
# processes, signals to others, the network, changes of files, shared memory, limits, privileges. System calls with
# their numbers on x86_64 and aarch64 (-: there is none).
ALLOWED = """
    read 0 63                   write 1 64                  readv 19 65                 writev 20 66
    pread64 17 67               lseek 8 62                  close 3 57                  close_range 436 436
    dup 32 23                   dup2 33 -                   dup3 292 24                 pipe 22 -
    pipe2 293 59                eventfd2 290 19             poll 7 -                    ppoll 271 73
    select 23 -                 pselect6 270 72             epoll_create1 291 20        epoll_ctl 233 21
    epoll_wait 232 -            epoll_pwait 281 22          recvfrom 45 207             getsockopt 55 209
    getsockname 51 204          shutdown 48 210             stat 4 -                    lstat 6 -
    fstat 5 80                  newfstatat 262 79           statx 332 291               access 21 -
    faccessat 269 48            faccessat2 439 439          readlink 89 -               readlinkat 267 78
    getdents64 217 61           getcwd 79 17                statfs 137 43               fstatfs 138 44
    fadvise64 221 223           mmap 9 222                  munmap 11 215               mprotect 10 226
    mremap 25 216               madvise 28 233              brk 12 214                  futex 202 98
    set_robust_list 273 99      get_robust_list 274 100     rseq 334 293                arch_prctl 158 -
    set_tid_address 218 96      rt_sigaction 13 134         rt_sigprocmask 14 135       rt_sigreturn 15 139
    rt_sigpending 127 136       rt_sigsuspend 130 133       rt_sigtimedwait 128 137     sigaltstack 131 132
    restart_syscall 219 128     pause 34 -                  alarm 37 -                  getitimer 36 102
    setitimer 38 103            nanosleep 35 101            clock_nanosleep 230 115     clock_gettime 228 113
    clock_getres 229 114        gettimeofday 96 169         time 201 -                  times 100 153
    sched_yield 24 124          sched_getaffinity 204 123   sched_getparam 143 121      sched_getscheduler 145 120
    sched_get_priority_max 146 125                          sched_get_priority_min 147 126
    getpid 39 172               getppid 110 173             gettid 186 178              getpgid 121 155
    getpgrp 111 -               getsid 124 156              getuid 102 174              geteuid 107 175
    getgid 104 176              getegid 108 177             getresuid 118 148           getresgid 120 150
    getgroups 115 158           getpriority 140 141         getrusage 98 165            getrlimit 97 163
    uname 63 160                sysinfo 99 179              getcpu 309 168              umask 95 166
    getrandom 318 278           wait4 61 260                waitid 247 95               exit 60 93
    exit_group 231 94
"""
# Allowed with some arguments only; numbers on x86_64 and aarch64.
FCNTL, IOCTL, PRLIMIT64, SOCKETPAIR, SENDTO = (72, 25), (16, 29), (302, 261), (53, 199), (44, 206)
FCNTL_COMMANDS = (0, 1, 2, 3, 4, 1030)  # copies of descriptors and their flags, but no owner, signal, lock or lease
IOCTL_REQUESTS = (0x5401, 0x5413, 0x541B, 0x5421, 0x5450, 0x5451)  # is it a terminal, bytes to read, blocking, on exec
AF_UNIX = 1
# machine: (column of ALLOWED, AUDIT_ARCH, number of clone, {number of an open: offset of its flags in seccomp_data})
MACHINES = {
    "x86_64": (1, 0xC000003E, 56, {2: 24, 257: 32}),
    "aarch64": (2, 0xC00000B7, 220, {56: 32}),
}
CLONE3, NEWEST = 435, 469  # clone3 hides its flags in memory; a system call newer than the table is unknown to us
CLONE_THREAD = 0x10000
WRITING = os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC


def must(result: int, what: str) -> int:
    if result < 0:
        raise OSError(f"{what}: {os.strerror(ctypes.get_errno())}")
    return result


def seccomp_filter(open_nothing: bool) -> bytes:
    """A filter that allows ALLOWED, threads, and opening files for reading, or none at all. Classic BPF."""
    column, architecture, clone, opens = MACHINES[os.uname().machine]
    table = ALLOWED.split()
    allowed = [int(table[i + column]) for i in range(0, len(table), 3) if table[i + column] != "-"]
    load, equal, at_least, any_bit, leave = 0x20, 0x15, 0x35, 0x45, 0x06  # BPF codes
    allow, kill = 0x7FFF0000, 0x80000000
    refuse, unknown = 0x50001, 0x50026  # EPERM; ENOSYS, after which the C library tries an older call
    program = []

    def add(code: int, k: int, jump_if_true: int = 0, jump_if_false: int = 0) -> None:
        program.append(struct.pack("HBBI", code, jump_if_true, jump_if_false, k))

    def only(number: int, *conditions: tuple[int, tuple[int, ...]]) -> None:
        """Allows a call whose 32-bit words at these offsets of seccomp_data each have one of these values."""
        add(equal, number, 0, sum(len(values) + 2 for _, values in conditions) + 1)
        for offset, values in conditions:
            add(load, offset)
            for i, value in enumerate(values):
                add(equal, value, len(values) - i)  # to behind the refusal
            add(leave, refuse)
        add(leave, allow)

    add(load, 4)  # the architecture
    add(equal, architecture, 1)
    add(leave, kill)
    add(load, 0)  # the number of the system call
    add(at_least, NEWEST + 1, 0, 1)
    add(leave, unknown)
    add(equal, CLONE3, 0, 1)
    add(leave, unknown)
    add(equal, clone, 0, 4)  # a thread, but no process
    add(load, 16)
    add(any_bit, CLONE_THREAD, 0, 1)
    add(leave, allow)
    add(leave, refuse)
    for number, offset in () if open_nothing else opens.items():
        add(equal, number, 0, 4)
        add(load, offset)
        add(any_bit, WRITING, 0, 1)
        add(leave, refuse)
        add(leave, allow)
    zero = (0,)
    only(FCNTL[column - 1], (24, FCNTL_COMMANDS))
    only(IOCTL[column - 1], (24, IOCTL_REQUESTS))
    only(PRLIMIT64[column - 1], (32, zero), (36, zero))  # asks for limits, sets none
    only(SOCKETPAIR[column - 1], (16, (AF_UNIX,)))
    only(SENDTO[column - 1], (48, zero), (52, zero))  # to the other end, not to an address
    for number in allowed:
        add(equal, number, 0, 1)
        add(leave, allow)
    add(leave, refuse)
    return b"".join(program)


def restrict_system_calls(instructions: bytes) -> None:
    code = ctypes.create_string_buffer(instructions, len(instructions))
    program = ctypes.create_string_buffer(struct.pack("HxxxxxxP", len(instructions) // 8, ctypes.addressof(code)))
    must(LIBC.prctl(PR_SET_SECCOMP, 2, ctypes.addressof(program), 0, 0), "seccomp")


def landlock_ruleset() -> int:
    """A descriptor of the rules: of all files, only the standard library and shared libraries may be read."""
    version = must(LIBC.syscall(LANDLOCK_CREATE, None, ctypes.c_size_t(0), 1), "Landlock")
    # Every right on files that this version knows, TCP (from version 4), abstract sockets and signals (from version 6).
    files = (1 << {1: 13, 2: 14}.get(version, 15 if version < 5 else 16)) - 1
    rights = struct.pack("QQQ", files, 3, 3)[: 8 if version < 4 else 16 if version < 6 else 24]
    ruleset = must(LIBC.syscall(LANDLOCK_CREATE, rights, ctypes.c_size_t(len(rights)), 0), "Landlock")
    read_file, read_folder = 4, 8
    libraries = [os.path.join(sys.base_prefix, name) for name in ("lib", "lib64")] + [os.path.dirname(os.__file__)]
    for path in (
        *libraries,
        "/usr/lib",
        "/usr/lib64",
        "/lib",
        "/lib64",
        "/usr/share/zoneinfo",
        "/dev/null",
        "/dev/urandom",
    ):
        if os.path.exists(path):
            descriptor = os.open(path, os.O_PATH)
            rights = read_file | (read_folder if os.path.isdir(path) else 0)
            rule = struct.pack("=Qi", rights, descriptor)
            must(LIBC.syscall(LANDLOCK_ADD_RULE, ruleset, 1, rule, 0), f"Landlock, {path}")
            os.close(descriptor)
    return ruleset


def drop_capabilities() -> None:
    """Root without them is an ordinary owner of root's files."""
    if (number := CAPSET.get(os.uname().machine)) is not None:
        header, none = struct.pack("Ii", 0x20080522, 0), struct.pack("6I", *[0] * 6)
        must(LIBC.syscall(number, header, none), "capset")


def prepare_layers(layers: list[str]) -> dict:
    """What lock_down needs of each layer, made once. Raises OSError where the system lacks one."""
    known = {"landlock", "seccomp", "noread", "nobody", "bubblewrap"}
    if not set(layers) <= known:
        raise OSError(f"unknown layers {set(layers) - known}")
    prepared = {}
    if "landlock" in layers:
        prepared["landlock"] = landlock_ruleset()
    if "bubblewrap" in layers and os.uname().machine in MACHINES:  # holds without, where the kernel has no seccomp
        prepared["seccomp if there is"] = seccomp_filter(open_nothing=False)
    if "seccomp" in layers or "noread" in layers:
        if os.uname().machine not in MACHINES:
            raise OSError(f"no table of system calls for {os.uname().machine}")
        prepared["seccomp"] = seccomp_filter(open_nothing="noread" in layers)
    if "nobody" in layers:
        if os.getuid() != 0:
            raise OSError("only root can become nobody")
        prepared["nobody"] = NOBODY
    return prepared


def lock_down(channel: int, layers: dict, cpu_seconds: int) -> None:
    """Leaves this process its channel, memory, time, and what the layers allow. Raises OSError."""
    os.setsid()
    limits = {"CPU": cpu_seconds, "AS": MEMORY, "FSIZE": 0, "CORE": 0, "NOFILE": OPEN_FILES}
    for name, value in limits.items():
        resource.setrlimit(getattr(resource, f"RLIMIT_{name}"), (value, value))
    if not sys.platform.startswith("linux"):
        os.closerange(3, channel)
        os.closerange(channel + 1, OPEN_FILES)
        return
    if "nobody" in layers:
        os.setgroups([])
        os.setresgid(NOBODY, NOBODY, NOBODY)
        os.setresuid(NOBODY, NOBODY, NOBODY)
    for option, value in ((PR_SET_NO_NEW_PRIVS, 1), (PR_SET_DUMPABLE, 0), (PR_SET_PDEATHSIG, signal.SIGKILL)):
        must(LIBC.prctl(option, value, 0, 0, 0), "prctl")
    drop_capabilities()
    if "landlock" in layers:
        must(LIBC.syscall(LANDLOCK_RESTRICT, layers["landlock"], 0), "Landlock")
    os.closerange(3, channel)
    os.closerange(channel + 1, OPEN_FILES)
    if "seccomp" in layers:
        restrict_system_calls(layers["seccomp"])
    elif "seccomp if there is" in layers:
        with contextlib.suppress(OSError):
            restrict_system_calls(layers["seccomp if there is"])


# ---- plain data ----------------------------------------------------------------------------------------------------


class Opaque:
    """An answer that is not plain data: it equals nothing, but has a truth and perhaps items, as a generator has."""

    def __init__(self, truth: bool, items: list | None, length: int | None):
        self.truth, self.items, self.length = truth, items, length

    def __bool__(self) -> bool:
        return self.truth

    def __repr__(self) -> str:
        return "an object" if self.items is None else f"an object of {self.items!r}"

    def __iter__(self):
        return iter(self.items)

    def __len__(self) -> int:
        return self.length

    def __eq__(self, other) -> bool:
        raise TypeError("it cannot be compared")  # so that no check holds, `not f(x) != 3` no more than `f(x) != 3`

    __ne__ = __eq__
    __hash__ = None


SEQUENCES = {"tuple": tuple, "list": list, "frozenset": frozenset, "set": set}
MAPPINGS = {"OrderedDict": collections.OrderedDict, "Counter": collections.Counter, "dict": dict}
VIEWS = {type({}.keys()): "keys", type({}.values()): "values", type({}.items()): "items"}


def encode(value) -> list:
    """[type, content] of a value, subclasses as their plain types."""
    if value is None or isinstance(value, bool):
        return ["constant", value]
    if isinstance(value, int):
        return ["int", hex(value)]  # decimal digits would take quadratic time
    if isinstance(value, float):
        return ["float", float.__repr__(value)]
    if isinstance(value, str):
        return ["str", str.__str__(value)]  # of an Enum too
    if isinstance(value, complex):
        return ["complex", [repr(value.real), repr(value.imag)]]
    if isinstance(value, (bytes, bytearray)):
        return ["bytes", value.hex()]
    if isinstance(value, tuple) and hasattr(value, "_fields"):
        return ["namedtuple", [list(value._fields), [encode(item) for item in value]]]
    for name, kind in SEQUENCES.items():
        if isinstance(value, kind):
            return [name, [encode(item) for item in value]]
    for name, kind in MAPPINGS.items():
        if isinstance(value, kind):
            return [name, [[encode(key), encode(item)] for key, item in value.items()]]
    if isinstance(value, range):
        return ["range", [hex(part) for part in (value.start, value.stop, value.step)]]
    if isinstance(value, collections.deque):
        return ["deque", [[encode(item) for item in value], value.maxlen]]
    if isinstance(value, decimal.Decimal):
        return ["Decimal", str(value)]
    if isinstance(value, fractions.Fraction):
        return ["Fraction", [hex(value.numerator), hex(value.denominator)]]
    for kind in (datetime.datetime, datetime.date, datetime.time):
        if isinstance(value, kind):
            return [kind.__name__, value.isoformat()]
    if isinstance(value, datetime.timedelta):
        return ["timedelta", [value.days, value.seconds, value.microseconds]]
    if type(value) in VIEWS:
        return [VIEWS[type(value)], [encode(item) for item in value]]
    truth, items, length = bool(value), None, None
    if isinstance(value, collections.abc.Iterable):  # a generator, a class of its own: for `sorted(f(x)) == ...`
        items = [encode(item) for item in itertools.islice(value, MAX_ITEMS + 1)]
        length = len(value) if isinstance(value, collections.abc.Sized) else None
    return ["opaque", [truth, items if items is None or len(items) <= MAX_ITEMS else None, length]]


@functools.lru_cache
def row_type(fields: tuple[str, ...]) -> type:
    return collections.namedtuple("Row", fields)  # refuses what is no name, and names that begin with an underscore


def whole(text: str) -> int:
    return int(text, 16)


def decode(code: list):
    """The value of [type, content]; any exception but no effect for what `encode` does not write."""
    name, content = code
    if name in SEQUENCES:
        return SEQUENCES[name](decode(item) for item in content)
    if name in MAPPINGS:
        return MAPPINGS[name]({decode(key): decode(item) for key, item in content})
    if name == "constant" and (content is None or isinstance(content, bool)):
        return content
    if name == "complex":
        return complex(float(content[0]), float(content[1]))
    if name == "namedtuple":
        return row_type(tuple(map(str, content[0])))(*(decode(item) for item in content[1]))
    if name == "range":
        return range(*map(whole, content))
    if name == "deque":
        return collections.deque(map(decode, content[0]), content[1])
    if name == "Fraction":
        return fractions.Fraction(whole(content[0]), whole(content[1]))
    if name in ("datetime", "date", "time"):
        return getattr(datetime, name).fromisoformat(content)
    if name == "timedelta":
        return datetime.timedelta(*content)
    if name == "keys":
        return dict.fromkeys(map(decode, content)).keys()
    if name == "values":
        return dict(enumerate(map(decode, content))).values()
    if name == "items":
        return dict(map(decode, content)).items()
    if name == "opaque":
        items = None if content[1] is None else [decode(item) for item in content[1]]
        return Opaque(content[0] is True, items, content[2])
    return {"int": whole, "float": float, "str": str, "bytes": bytes.fromhex, "Decimal": decimal.Decimal}[name](content)


# ---- jobs ----------------------------------------------------------------------------------------------------------


def answer(job: dict, read_line, write) -> None:
    """Runs the program and the setup code, then reads calls one by one and writes the value of each, or its
    error. A call that has not been answered yet is all that a program can find of the tests."""
    # A real module, because dataclasses and pickle look it up.
    namespace, failure = sys.modules.setdefault("solution", type(sys)("solution")).__dict__, None
    try:
        code, setup_code = (
            compile(job[name], "solution", "exec", dont_inherit=True) for name in ("code", "setup_code")
        )
        if job["reads"]:
            namespace["stdout_of"] = functools.partial(stdout_of, code)
        else:
            exec(code, namespace)
        exec(setup_code, namespace)
    except Exception as error:
        failure = error
    for _ in range(job["calls"]):
        call = read_line()
        try:
            if failure:
                raise failure
            line = json.dumps(encode(eval(compile(json.loads(call), "call", "eval"), namespace)))
        except Exception as error:  # it is no answer: a falsy one would let `assert not f(x)` pass
            line = json.dumps(["error", in_words(error)])
        write(line.encode() + b"\n")


def in_words(error: Exception) -> str:
    try:
        return " ".join(f"{type(error).__name__}: {error}".split())[:MAX_SHOWN]
    except Exception:  # of the program's own __str__
        return "an error"


def stdout_of(code, text: str) -> str:
    """What a program prints that is run as a script and reads `text`; an error where it ends with one."""
    os.dup2(2, 0)  # nothing; a program may have closed them
    os.dup2(2, 1)
    (reading, source), (sink, writing) = os.pipe(), os.pipe()
    os.dup2(reading, 0)
    os.dup2(writing, 1)
    os.close(reading)
    os.close(writing)
    printed: list[bytes] = []

    def feed() -> None:
        with contextlib.suppress(OSError), open(source, "wb") as file:  # it need not read all of it
            file.write(text.encode())

    def collect() -> None:
        with open(sink, "rb") as file:
            printed.extend(iter(lambda: file.read1(1 << 16), b""))

    feeder, collector = (threading.Thread(target=target, daemon=True) for target in (feed, collect))
    feeder.start()
    collector.start()
    sys.stdin = sys.__stdin__ = open(0, encoding="utf-8", closefd=False)
    sys.stdout = sys.__stdout__ = open(1, "w", encoding="utf-8", closefd=False)
    output = sys.stdout
    module = sys.modules["__main__"] = type(sys)("__main__")
    module.exit = module.quit = sys.exit
    try:
        exec(code, module.__dict__)
    except SystemExit as end:
        if end.code not in (None, 0):
            raise ValueError(end.code) from end
    for thread in threading.enumerate():
        if thread is not threading.current_thread() and not thread.daemon:
            thread.join()
    atexit._run_exitfuncs()  # as at the end of a script, which also closes its files
    for stream in (sys.stdout, output):
        with contextlib.suppress(ValueError, AttributeError):  # closed, or no file
            stream.flush()
    module.__dict__.clear()
    sys.stdin, sys.stdout = sys.__stdin__, sys.__stdout__
    gc.collect()
    os.dup2(2, 1)
    collector.join()
    return b"".join(printed).decode(errors="replace")


def judge(job: dict, write) -> None:
    """Writes for each check whether it holds of the answers; a check whose answer is missing or malformed does not.

    Where it is asked to show them, the beginning of each answer follows, or of the error in its place.
    """
    values, errors = {}, {}
    for i, line in enumerate(job["answers"]):
        try:
            answer = json.loads(line)
            if answer[0] == "error":
                errors[i] = " ".join(str(answer[1]).split())[:MAX_SHOWN]  # one line, whoever wrote it
            else:
                values[i] = decode(answer)
        except Exception:  # whatever the untrusted side wrote
            continue
    namespace = {"__v": values}
    exec("import math, sys", namespace)
    for statement in job["imports"]:
        exec(statement, namespace)
    for check in job["checks"]:
        try:
            holds = bool(eval(check, dict(namespace)))
        except Exception:  # as in Python: an assert that raises does not pass
            holds = False
        write(b"1\n" if holds else b"0\n")
    for i in range(len(job["answers"]) if job.get("show") else 0):
        try:
            shown = errors[i] if i in errors else repr(values[i])[:MAX_SHOWN]
        except Exception:  # no answer, or a number too long to be written
            shown = ""
        write(json.dumps(shown).encode() + b"\n")


def run_job(channel: int, layers: dict) -> None:
    """One job in this process, from the first byte to the last; returns only to end the process."""

    def write(data: bytes) -> None:
        while data:
            data = data[os.write(channel, data) :]

    def read_line() -> bytes:
        chunks = []
        while not chunks or not chunks[-1].endswith(b"\n"):  # one line is sent at a time
            chunks.append(os.read(channel, 1 << 16))
            if not chunks[-1]:
                os._exit(0)
        return b"".join(chunks)

    job = json.loads(read_line())
    try:
        lock_down(channel, layers, job["cpu_seconds"])
    except (OSError, ValueError) as error:
        write(f"error: {error}\n".encode())
        return
    random.seed(0)  # a verdict does not depend on luck
    write(b"ready\n")
    if job["kind"] == "answer":
        answer(job, read_line, write)
    else:
        judge(job, write)


# ---- server --------------------------------------------------------------------------------------------------------


def kill_all(pid: int) -> None:
    """Ends the process, its session, and what escaped from that: orphans become children of this subreaper."""
    children = {pid}
    while children:
        for child in children:
            for kill in (os.killpg, os.kill):
                try:
                    kill(child, signal.SIGKILL)
                except ProcessLookupError:
                    pass
            os.waitpid(child, 0)
        try:
            with open(f"/proc/self/task/{os.getpid()}/children") as file:
                children = {int(word) for word in file.read().split()}
        except OSError:  # no /proc here
            children = set()


def fork() -> int:
    """os.fork, patient: a flood of threads in another job takes a moment to be seen and ended."""
    for _ in range(500):
        try:
            return os.fork()
        except OSError:
            time.sleep(WATCH)
    return os.fork()


def threads(pid: int) -> int:
    """How many threads a process has; 0 where there is no /proc."""
    try:
        return len(os.listdir(f"/proc/{pid}/task"))
    except OSError:
        return 0


def serve(control: socket.socket, layers: dict) -> None:
    """Forks a process for each channel that comes in, kills it on request; returns when the other side is gone."""
    while True:
        message, descriptors, _, _ = socket.recv_fds(control, 1, 1)
        if not message:
            return
        pid = fork()
        if pid == 0:
            try:
                control.close()
                run_job(descriptors[0], layers)
            finally:
                os._exit(0)
        os.close(descriptors[0])
        ordered, end = False, b"d"
        while not ordered:
            ordered = bool(select.select([control], [], [], WATCH)[0])
            if threads(pid) > MAX_THREADS:  # also at the end: all may start between two counts
                end = b"t"
                os.kill(pid, signal.SIGKILL)
        order = control.recv(1)
        kill_all(pid)
        if not order:
            return
        control.send(end)


def main() -> None:
    control = socket.socket(fileno=os.dup(0))
    os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
    os.environ.clear()
    unreadable = bool({"noread", "nobody"} & {*sys.argv[1:]})
    for name in PRELOADED + UNREADABLE * unreadable:
        with contextlib.suppress(ImportError):  # an interpreter may be built without one, such as sqlite3
            __import__(name)
    with contextlib.suppress(Exception):
        sys.modules["zoneinfo"].ZoneInfo("UTC")  # keeps what it has read
    try:
        layers = prepare_layers(sys.argv[1:])
        del sys.argv[1:]  # no arguments of a program: fileinput would read them as files
        if sys.platform.startswith("linux"):
            must(LIBC.prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0), "prctl")
    except (OSError, AttributeError) as error:
        control.send(f"error: {error}".encode())
        return
    gc.freeze()  # the forks share this memory as long as no collection writes to it
    control.send(b"up")
    serve(control, layers)


if __name__ == "__main__":
    main()
