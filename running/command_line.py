"""The command line of every script: its flags, their checks, the command that goes on with a run, how a run ends."""

import dataclasses
import errno
import inspect
import math
import os
import re
import shlex
import signal
import sys
import textwrap
from dataclasses import fields
from pathlib import Path
from typing import Annotated

from problems import InputError
from running.folder import last_checkpoint
from verifiers.sandbox import SandboxError

import tyro

WIDTH = 80  # of what is printed; commands, which are to be pasted, stay on one line


def parse(Args, description: str, default=None):
    """The flags of the command line, as Args; the headings `# ---- name` in its source are the boxes of --help."""
    kinds = {field.name: field for field in fields(Args)}
    _, *parts = re.split(r"^    # ---- (.+)\n", inspect.getsource(Args), flags=re.MULTILINE)
    groups = []
    for heading, source in zip(parts[::2], parts[1::2]):
        members = []
        for name, help_text in re.findall(r"^    (\w+): .+?  # (.+)$", source, re.MULTILINE):
            kind = Annotated[kinds[name].type, tyro.conf.arg(help=help_text)]
            value = getattr(default, name) if default else kinds[name].default
            members.append((name, kind, dataclasses.field(default=value)))
            kinds.pop(name)
        group = dataclasses.make_dataclass(heading.replace(" ", "_"), members, kw_only=True)
        groups.append((group.__name__, tyro.conf.OmitArgPrefixes[group]))
    if kinds:
        heading = "under a heading '# ---- name'"
        raise TypeError(f"{', '.join(kinds)}: a flag is one line, its text a comment on it, {heading}")
    try:
        try:
            if {"-h", "--help"} & {*sys.argv}:
                print(narrow(description))
            nested = tyro.cli(dataclasses.make_dataclass("Flags", groups), description="")
        finally:
            print(end="", flush=True)  # --help leaves by SystemExit
    except OSError as error:
        stop_printing(error)
    return Args(**{name: value for group in vars(nested).values() for name, value in vars(group).items()})


def narrow(text: str) -> str:
    """A docstring in WIDTH columns: paragraphs and numbered points filled, equations (four blanks) broken at gaps."""
    lines = []
    for line in text.splitlines():
        goes_on = lines and lines[-1] and not lines[-1].startswith("    ") and not re.match(r"$|    |\d+\. ", line)
        lines[-1:] = [f"{lines[-1]} {line.strip()}"] if goes_on else [*lines[-1:], line]
    wrapped = []
    for line in lines:
        equation = line.startswith("    ")
        point = re.match(r"\d+\. ", line)
        indent = " " * (len(line) - len(line.lstrip()) + 4) if equation else "   " if point else ""
        columns = re.split(r"(?<=\S)( {4,})", line) if equation else [line]
        parts = columns[:1]
        for gap, column in zip(columns[1::2], columns[2::2]):
            fits = len(parts[-1] + gap + column) <= WIDTH or len(parts[-1]) < 12  # "critic    sum_i ..." stays together
            parts[-1:] = [parts[-1] + gap + column] if fits else [parts[-1], indent + column]
        wrapped += [textwrap.fill(p, WIDTH, subsequent_indent=indent, break_on_hyphens=False) for p in parts]
    return "\n".join(wrapped) + "\n"


def command_line(args, script: str | Path, **changes) -> str:
    """The command that starts this run, with some flags changed: every flag that is not at its default.

    It names this interpreter and this script, and works in the directory that it is printed in.
    """
    script = Path(script).absolute()
    torchrun = ["-m", "torch.distributed.run", "--nproc-per-node", os.environ.get("LOCAL_WORLD_SIZE", "1")]
    torchrun = torchrun if "TORCHELASTIC_RUN_ID" in os.environ else []
    words = [
        sys.executable,
        *torchrun,
        str(script.relative_to(Path.cwd()) if script.is_relative_to(Path.cwd()) else script),
    ]
    for field in fields(args):
        value = changes.get(field.name, getattr(args, field.name))
        if value == field.default:
            continue
        flag = field.name.replace("_", "-")
        if isinstance(value, bool):
            words.append(f"--{flag}" if value else f"--no-{flag}")
        elif str(value).startswith("-"):  # by itself it would be read as a flag
            words.append(f"--{flag}={value}")
        else:
            words += [f"--{flag}", *(map(str, value) if isinstance(value, tuple) else [str(value)])]
    return shlex.join(words)


MAY_BE_ZERO = ("seed", "eval_seed", "stage1_iterations", "lr_warmup_iterations", "keep_checkpoints", "feedback_every")
MAY_BE_ZERO += ("candidate_top_k", "lora_rank", "generation_batch_size", "tokens_per_micro_batch")
MAY_BE_ZERO += ("tests_in_prompt", "warmup_iterations", "dynamic_sampling", "overlong_buffer")


def check_args(args) -> None:
    """Raises InputError for sizes and rates that cannot work, in any script."""
    for field in fields(args):
        value, flag = getattr(args, field.name), f"--{field.name.replace('_', '-')}"
        if value == () != field.default:
            raise InputError(f"{flag} is empty: give it a value, or leave it out")
        for item in value if isinstance(value, tuple) else (value,):
            if isinstance(item, str) and item.encode(errors="replace") != item.encode(errors="surrogatepass"):
                raise InputError(f"{flag} {ascii(item)} is not UTF-8")
            if item == "" and value != field.default and not field.name.endswith(("_prompt", "_strings")):
                raise InputError(f"{flag} is empty: give it a value, or leave it out")
            if isinstance(item, float) and not math.isfinite(item):
                raise InputError(f"{flag} must not be {item}")
        lowest = 0 if isinstance(value, float) or field.name in MAY_BE_ZERO else 1
        if isinstance(value, (int, float)) and not isinstance(value, bool) and not lowest <= value < 2**32:
            raise InputError(f"{flag} must not be {value}")
    if Path(getattr(args, "exp_name", "x")).name != getattr(args, "exp_name", "x"):
        raise InputError(f"--exp-name {args.exp_name} is part of a folder's name, and may hold no slash")
    if "" in getattr(args, "stop_strings", ()):
        raise InputError("--stop-strings: an empty text ends every response before it begins")
    training = hasattr(args, "adam_betas")
    if training and not all(0 <= beta < 1 for beta in args.adam_betas):
        raise InputError(f"--adam-betas {' '.join(map(str, args.adam_betas))} must be in [0, 1)")
    if training and not args.temperature > 0:
        raise InputError(f"--temperature {args.temperature} must be above 0: nothing is learned from greedy responses")
    if 0 < args.temperature < 0.01:
        raise InputError(f"--temperature {args.temperature} must be at least 0.01")
    if not 0 < args.top_p <= 1:
        raise InputError(f"--top-p {args.top_p} must be in (0, 1]")
    for name in ("tau", "offline_first_turn", "gae_lambda", "gamma", "min_lr_ratio", "proportion", "test_fraction"):
        if getattr(args, name, 0.0) > 1:
            raise InputError(f"--{name.replace('_', '-')} {getattr(args, name)} must be at most 1")
    if getattr(args, "baseline", "") == "leave-one-out" and args.rollout_size == 1:
        raise InputError("--baseline leave-one-out needs a --rollout-size of 2 or more")
    if not getattr(args, "code_timeout", 1) > 0:
        raise InputError(f"--code-timeout {args.code_timeout} must be above 0")
    for name in ("num_minibatches", "critic_batch_size"):
        if hasattr(args, "rollout_size") and args.rollout_size % getattr(args, name, 1):
            size = f"--{name.replace('_', '-')} {getattr(args, name)}"
            raise InputError(f"--rollout-size {args.rollout_size} does not divide by {size}")
    if hasattr(args, "advantage_norm") and args.group_size == 1:
        raise InputError("--group-size 1: a group needs at least 2 responses to be compared")
    if getattr(args, "overlong_buffer", 0) > args.max_new_tokens:
        limit = f"--max-new-tokens {args.max_new_tokens}"
        raise InputError(f"--overlong-buffer {args.overlong_buffer} must be at most {limit}")
    if getattr(args, "feedback_control", "none") != "none" and getattr(args, "feedback_every", 0) > 0:
        reason = "needs --feedback-every 0: what nobody reads is not trained"
        raise InputError(f"--feedback-control {args.feedback_control} {reason}")
    if getattr(args, "feedback_control", "none") == "shuffled" and 1 in (
        getattr(args, "rollout_size", 2),
        getattr(args, "eval_size", 2),
    ):
        sizes = "a --rollout-size and an --eval-size of 2 or more"
        raise InputError(f"--feedback-control shuffled needs another problem's feedback: {sizes}")
    if getattr(args, "max_grad_norm", 1.0) == 0:
        raise InputError("--max-grad-norm 0 lets no weight move: to clip nothing give a large one, such as 1e9")
    frozen = getattr(args, "feedback_every", 1) == 0
    for name in ("value_shaping", "joint_kl"):
        if frozen and getattr(args, name, False):
            raise InputError(f"--{name.replace('_', '-')} trains feedback, which --feedback-every 0 leaves as it is")
    if getattr(args, "joint_kl", False) and args.kl_estimator != "k1_reward":
        raise InputError(f"--joint-kl needs --kl-estimator k1_reward: {args.kl_estimator} is in no return")
    if hasattr(args, "group_size") and args.group_size * args.groups_per_batch % args.num_minibatches:
        size = f"--group-size {args.group_size} times --groups-per-batch {args.groups_per_batch}"
        raise InputError(f"{size} does not divide by --num-minibatches {args.num_minibatches}")


def run(main, args, script: str):
    """Runs a script's main; a user's mistake, no sandbox and Ctrl-C end in one line, with exit codes 2, 2 and 130."""
    signal.signal(signal.SIGINT, signal.default_int_handler)  # the script had it end the imports without a word
    try:
        for stream in (sys.stdout, sys.stderr):
            if hasattr(stream, "reconfigure"):
                stream.reconfigure(errors="backslashreplace")  # on a terminal that knows ASCII alone
        result = main(args)
        print(end="", flush=True)
        return result
    except (InputError, SandboxError) as error:
        if first_here():
            print(f"error: {error}", file=sys.stderr)
        sys.exit(2)
    except PermissionError as error:
        if error.filename is None:
            raise
        if first_here():
            print(f"error: no permission to use {error.filename}", file=sys.stderr)
        sys.exit(2)
    except OSError as error:
        stop_printing(error)
    except KeyboardInterrupt as interrupt:
        if first_here():
            print(f"\n{where_it_stands(args, script)}", file=sys.stderr)
        sys.exit(143 if interrupt.args else 130)  # runs.py raises it with the name of the signal SIGTERM
    except (RuntimeError, MemoryError) as error:
        kind = f"{type(error)} {error}"
        if re.search("MemoryError|DefaultCPUAllocator", kind):
            reason = f"the memory is full; less is needed with {savings(args)}; "
        elif "TORCHELASTIC_RUN_ID" in os.environ and re.search("DistBackend|by peer", kind):
            reason = "another process of this run has ended: " * first_here()
        else:
            raise
        if reason:
            print(f"\nerror: {reason}{where_it_stands(args, script)}", file=sys.stderr)
        sys.exit(1)


def savings(args) -> str:
    """What makes a script need less memory."""
    flags = []
    for name in ("generation_batch_size", "micro_batch_size"):
        now = getattr(args, name, 1)
        flags += [f"--{name.replace('_', '-')} below {now or 1024}"] * (now != 1)
    flags += ["--gradient-checkpointing"] * (not getattr(args, "gradient_checkpointing", True))
    flags += ["--lora-rank 16"] * (getattr(args, "lora_rank", 1) == 0)
    return ", ".join([*flags, "or a smaller model"])


def first_here() -> bool:
    """Whether this process speaks for those that torchrun has started on this machine."""
    return os.environ.get("LOCAL_RANK", "0") == "0"


def where_it_stands(args, script: str) -> str:
    """What is left of a run that stops before its end, and how to go on."""
    folder = Path(getattr(args, "run_dir", None) or "")
    if not hasattr(args, "if_run_exists") or not (folder / "config.json").is_file():
        return "interrupted; nothing was written"
    message = "interrupted"
    if hasattr(args, "save_every"):
        message += f"; last checkpoint: {last_checkpoint(folder) or 'none yet'}"
    return f"{message}; go on with: {command_line(args, script, if_run_exists='resume')}"


def stop_printing(error: OSError) -> None:
    """Ends where what is printed goes nowhere: whoever read it, such as head, has gone, or its disk is full."""
    if error.filename or error.errno not in (errno.EPIPE, errno.ENOSPC):
        raise error
    if error.errno == errno.ENOSPC:
        print(f"error: output cannot be written: {error.strerror}", file=sys.stderr)
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    sys.exit(1)
