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

import collections.abc
import ctypes
import gc
import itertools
import json
import os
import random
import resource
import signal
import socket
import struct
import sys

MAX_ITEMS = 10_000  # of an iterable answer that is no list, tuple, set or dict
MEMORY = 1 << 30  # bytes of address space of a process
OPEN_FILES = 64

# Imported before the first fork: a program finds them loaded, also where a layer forbids it to open files.
PRELOADED = """
    __future__ abc array ast base64 bisect calendar cmath collections contextlib copy dataclasses datetime decimal
    encodings.ascii encodings.idna encodings.latin_1 encodings.utf_16 enum fractions functools hashlib heapq inspect
    itertools math numbers operator pprint queue random re statistics string textwrap threading time traceback types
    typing unicodedata uuid warnings _strptime
""".split()

# ---- layers --------------------------------------------------------------------------------------------------------

LIBC = ctypes.CDLL(None, use_errno=True)
LIBC.prctl.argtypes = [ctypes.c_int, *[ctypes.c_ulong] * 4]
PR_SET_PDEATHSIG, PR_SET_DUMPABLE, PR_SET_SECCOMP, PR_SET_NO_NEW_PRIVS, PR_SET_CHILD_SUBREAPER = 1, 4, 22, 38, 36
CAPSET = {"x86_64": 126, "aarch64": 91}  # the only system call here without a function in every C library
LANDLOCK_CREATE, LANDLOCK_ADD_RULE, LANDLOCK_RESTRICT = 444, 445, 446  # the same on every machine
NOBODY = 65534

# What seccomp refuses: processes, signals, sockets, other processes' memory, changes of files, mounts, clocks, limits,
# privileges. System calls with their numbers on x86_64 and aarch64 (-: there is none).
DENIED = """
    fork 57 -                   vfork 58 -                  execve 59 221               execveat 322 281
    kill 62 129                 tkill 200 130               tgkill 234 131              rt_sigqueueinfo 129 138
    rt_tgsigqueueinfo 297 240   pidfd_send_signal 424 424   pidfd_open 434 434          pidfd_getfd 438 438
    process_mrelease 448 448    process_madvise 440 440     kcmp 312 272                ptrace 101 117
    process_vm_readv 310 270    process_vm_writev 311 271   setpgid 109 154             setsid 112 157
    socket 41 198               socketpair 53 199           connect 42 203              bind 49 200
    listen 50 201               accept 43 202               accept4 288 242             sendmsg 46 211
    sendmmsg 307 269            recvmsg 47 212              recvmmsg 299 243            unshare 272 97
    setns 308 268               mount 165 40                umount2 166 39              mount_setattr 442 442
    move_mount 429 429          open_tree 428 428           fsopen 430 430              fsconfig 431 431
    fsmount 432 432             fspick 433 433              pivot_root 155 41           chroot 161 51
    bpf 321 280                 add_key 248 217             request_key 249 218         keyctl 250 219
    io_uring_setup 425 425      io_uring_enter 426 426      io_uring_register 427 427   userfaultfd 323 282
    perf_event_open 298 241     shmget 29 194               semget 64 190               msgget 68 186
    mq_open 240 180             mq_unlink 241 181           creat 85 -                  openat2 437 437
    open_by_handle_at 304 265   name_to_handle_at 303 264   unlink 87 -                 unlinkat 263 35
    rmdir 84 -                  rename 82 -                 renameat 264 38             renameat2 316 276
    mkdir 83 -                  mkdirat 258 34              link 86 -                   linkat 265 37
    symlink 88 -                symlinkat 266 36            truncate 76 45              chmod 90 -
    fchmod 91 52                fchmodat 268 53             fchmodat2 452 452           chown 92 -
    fchown 93 55                lchown 94 -                 fchownat 260 54             mknod 133 -
    mknodat 259 33              setxattr 188 5              lsetxattr 189 6             fsetxattr 190 7
    setxattrat 463 463          removexattr 197 14          lremovexattr 198 15         fremovexattr 199 16
    removexattrat 466 466       file_setattr 469 469        utime 132 -                 utimes 235 -
    futimesat 261 -             utimensat 280 88            memfd_create 319 279        memfd_secret 447 447
    sched_setaffinity 203 122   sched_setscheduler 144 119  sched_setparam 142 118      sched_setattr 314 274
    setpriority 141 140         ioprio_set 251 30           setrlimit 160 164           prlimit64 302 261
    inotify_init 253 -          inotify_init1 294 26        fanotify_init 300 262       reboot 169 142
    kexec_load 246 104          kexec_file_load 320 294     init_module 175 105         finit_module 313 273
    delete_module 176 106       swapon 167 224              swapoff 168 225             sethostname 170 161
    setdomainname 171 162       settimeofday 164 170        clock_settime 227 112       adjtimex 159 171
    clock_adjtime 305 266       acct 163 89                 quotactl 179 60             quotactl_fd 443 443
    syslog 103 116              vhangup 153 58              iopl 172 -                  ioperm 173 -
    modify_ldt 154 -            personality 135 92          capset 126 91               setuid 105 146
    setgid 106 144              setreuid 113 145            setregid 114 143            setresuid 117 147
    setresgid 119 149           setgroups 116 159           setfsuid 122 151            setfsgid 123 152
"""
# machine: (column of DENIED, AUDIT_ARCH, number of clone, {number of an open: offset of its flags in seccomp_data})
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
    """A filter that refuses DENIED, new processes and opening files for writing, or at all. Classic BPF."""
    column, architecture, clone, opens = MACHINES[os.uname().machine]
    table = DENIED.split()
    denied = {table[i]: int(table[i + column]) for i in range(0, len(table), 3) if table[i + column] != "-"}
    load, equal, at_least, any_bit, leave = 0x20, 0x15, 0x35, 0x45, 0x06  # BPF codes
    allow, kill = 0x7FFF0000, 0x80000000
    refuse, unknown = 0x50001, 0x50026  # EPERM; ENOSYS, after which the C library tries an older call
    program = []

    def add(code: int, k: int, jump_if_true: int = 0, jump_if_false: int = 0) -> None:
        program.append(struct.pack("HBBI", code, jump_if_true, jump_if_false, k))

    add(load, 4)  # the architecture
    add(equal, architecture, 1)
    add(leave, kill)
    add(load, 0)  # the number of the system call
    add(at_least, NEWEST + 1, 0, 1)
    add(leave, unknown)
    add(equal, CLONE3, 0, 1)
    add(leave, unknown)
    for number in denied.values():
        add(equal, number, 0, 1)
        add(leave, refuse)
    add(equal, clone, 0, 4)  # a thread, but no process
    add(load, 16)
    add(any_bit, CLONE_THREAD, 0, 1)
    add(leave, allow)
    add(leave, refuse)
    for number, offset in opens.items():
        add(equal, number, 0, 1 if open_nothing else 4)
        if not open_nothing:
            add(load, offset)
            add(any_bit, WRITING, 0, 1)
            add(leave, refuse)
            add(leave, allow)
        else:
            add(leave, refuse)
    add(leave, allow)
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
    known = {"landlock", "seccomp", "noread", "nobody"}
    if not set(layers) <= known:
        raise OSError(f"unknown layers {set(layers) - known}")
    prepared = {}
    if "landlock" in layers:
        prepared["landlock"] = landlock_ruleset()
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


# ---- plain data ----------------------------------------------------------------------------------------------------


class Opaque:
    """An answer that is not plain data: it equals nothing, but has a truth and perhaps items, as range(3) has."""

    def __init__(self, truth: bool, items: list | None):
        self.truth, self.items = truth, items

    def __bool__(self) -> bool:
        return self.truth

    def __iter__(self):
        return iter(self.items)

    def __eq__(self, other) -> bool:
        return False

    __ne__ = __eq__  # `assert f(x) != 3` must not pass for what cannot be compared
    __hash__ = None


CONTAINERS = {"tuple": tuple, "list": list, "frozenset": frozenset, "set": set}


def encode(value) -> list:
    """[type, content] of a value, subclasses as their plain types."""
    if value is None or isinstance(value, bool):
        return ["constant", value]
    if isinstance(value, int):
        return ["int", hex(value)]  # decimal digits would take quadratic time
    if isinstance(value, float):
        return ["float", float.__repr__(value)]
    if isinstance(value, str):
        return ["str", str(value)]
    if isinstance(value, complex):
        return ["complex", [repr(value.real), repr(value.imag)]]
    if isinstance(value, (bytes, bytearray)):
        return ["bytes", value.hex()]
    for name, container in CONTAINERS.items():
        if isinstance(value, container):
            return [name, [encode(item) for item in value]]
    if isinstance(value, dict):
        return ["dict", [[encode(key), encode(item)] for key, item in value.items()]]
    truth, items = bool(value), None
    if isinstance(value, collections.abc.Iterable):  # a generator, range(3), d.keys(): for `sorted(f(x)) == ...`
        items = [encode(item) for item in itertools.islice(value, MAX_ITEMS + 1)]
    return ["opaque", [truth, items if items is None or len(items) <= MAX_ITEMS else None]]


def decode(code: list):
    """The value of [type, content]; ValueError, TypeError or KeyError for anything that `encode` does not write."""
    name, content = code
    if name in CONTAINERS:
        return CONTAINERS[name](decode(item) for item in content)
    if name == "dict":
        return {decode(key): decode(item) for key, item in content}
    if name == "constant" and (content is None or isinstance(content, bool)):
        return content
    if name == "complex":
        return complex(float(content[0]), float(content[1]))
    if name == "opaque":
        return Opaque(content[0] is True, None if content[1] is None else [decode(x) for x in content[1]])
    return {"int": lambda text: int(text, 16), "float": float, "str": str, "bytes": bytes.fromhex}[name](content)


# ---- jobs ----------------------------------------------------------------------------------------------------------


def answer(job: dict, write) -> None:
    """Runs the program and the setup code, then writes the value of each call, an empty line where it raises."""
    # A real module, because dataclasses and pickle look it up.
    namespace = sys.modules.setdefault("solution", type(sys)("solution")).__dict__
    for source in (job["code"], job["setup_code"]):
        exec(compile(source, "solution", "exec", dont_inherit=True), namespace)
    for call in job["calls"]:
        try:
            line = json.dumps(encode(eval(compile(call, "call", "eval"), namespace)))
        except Exception:  # an exception is no answer: a falsy one would let `assert not f(x)` pass
            line = ""
        write(line.encode() + b"\n")


def judge(job: dict, write) -> None:
    """Writes for each check whether it holds of the answers; a check whose answer is missing or malformed does not."""
    values = {}
    for i, line in enumerate(job["answers"]):
        try:
            values[i] = decode(json.loads(line))
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


def run_job(channel: int, layers: dict) -> None:
    """One job in this process, from the first byte to the last; returns only to end the process."""

    def write(data: bytes) -> None:
        while data:
            data = data[os.write(channel, data) :]

    chunks = []
    while not chunks or not chunks[-1].endswith(b"\n"):
        chunks.append(os.read(channel, 1 << 16))
        if not chunks[-1]:
            return
    job = json.loads(b"".join(chunks))
    try:
        lock_down(channel, layers, job["cpu_seconds"])
    except (OSError, ValueError) as error:
        write(f"error: {error}\n".encode())
        return
    random.seed(0)  # a verdict does not depend on luck
    write(b"ready\n")
    {"answer": answer, "judge": judge}[job["kind"]](job, write)


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


def serve(control: socket.socket, layers: dict) -> None:
    """Forks a process for each channel that comes in, kills it on request; returns when the other side is gone."""
    while True:
        message, descriptors, _, _ = socket.recv_fds(control, 1, 1)
        if not message:
            return
        pid = os.fork()
        if pid == 0:
            try:
                control.close()
                run_job(descriptors[0], layers)
            finally:
                os._exit(0)
        os.close(descriptors[0])
        order = control.recv(1)
        kill_all(pid)
        if not order:
            return
        control.send(b"d")


def main() -> None:
    control = socket.socket(fileno=os.dup(0))
    os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
    os.environ.clear()
    for name in PRELOADED:
        __import__(name)
    try:
        layers = prepare_layers(sys.argv[1:])
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
