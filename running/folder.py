"""A run folder has one owner and an identity, and loses no work: its rows, its checkpoints, whose it is.

One process at a time writes into it: it holds a lock while it lives. config.json says which script (name and text) the
run is of, with which flags and prompts; a run is not resumed with others. No torch here: report.py reads runs too.
"""

import contextlib
import hashlib
import json
import os
import re
import shutil
import subprocess
import time
from collections.abc import Iterable
from dataclasses import asdict
from importlib.metadata import version
from pathlib import Path

from problems import InputError, Problem
from problems.prompts import DATE

import numpy as np

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None

ROW_FILES = ("metrics.jsonl", "episodes.jsonl", "checkpoints.jsonl")
OTHER_PROCESS = "another process is writing into the run folder"
UNFINISHED = {"config.json.tmp", "lock"}  # all that a run leaves which is killed while it writes its first file
# A resumed run gives the same rows whichever value these have (but the last iteration is always evaluated, and those of
# memory can change a last digit); every other flag must be as it was, and --iterations where the rate falls towards it.
RESUME_MAY_CHANGE = ("run_dir", "if_run_exists", "iterations", "save_every", "keep_checkpoints", "report", "track")
RESUME_MAY_CHANGE += ("wandb_project", "generation_batch_size", "micro_batch_size", "tokens_per_micro_batch")
RESUME_MAY_CHANGE += ("gradient_checkpointing",)


# ---- rows of .jsonl files ------------------------------------------------------------------------------------------


def write_file(path: Path, text: str) -> None:
    """Replaces a file in one step: a kill at any moment leaves the old text or the new. Raises InputError."""
    temporary = path.with_name(path.name + ".tmp")
    try:
        temporary.write_text(text, encoding="utf-8")
        os.replace(temporary, path)
    except OSError as error:
        with contextlib.suppress(OSError):
            temporary.unlink()
        raise InputError(f"{path} cannot be written: {error.strerror}") from error


def write_rows(path: Path, rows: list[dict]) -> None:
    """Appends rows to a .jsonl file and forces them to the disk; all of them or, with an InputError, none."""
    size = path.stat().st_size if path.exists() else 0
    try:
        with path.open("a", encoding="utf-8") as file:
            file.writelines(json.dumps(row, allow_nan=False) + "\n" for row in rows)
            file.flush()
            os.fsync(file.fileno())
    except OSError as error:
        if path.exists():
            os.truncate(path, size)
        raise InputError(f"{path} cannot be written: {error.strerror}") from error


def read_rows(path: Path) -> list[dict]:
    """The rows of a .jsonl file; none if it does not exist. A last line that a kill cut short is left out. Raises
    ValueError."""
    lines = path.read_text(encoding="utf-8").split("\n")[:-1] if path.exists() else []
    rows = [json.loads(line) for line in lines]
    if not all(isinstance(row, dict) for row in rows):
        raise ValueError("a line is no object")
    return rows


def sync(paths: Iterable[Path]) -> None:
    """Forces files and folders to the disk; folders only where the system can (Windows opens none)."""
    for path in paths:
        try:
            descriptor = os.open(path, os.O_RDONLY if path.is_dir() else os.O_RDWR)
        except PermissionError:
            if path.is_dir():
                continue
            raise
        os.fsync(descriptor)
        os.close(descriptor)


# ---- checkpoints ---------------------------------------------------------------------------------------------------


def is_checkpoint(path: Path) -> bool:
    """Only checkpoint- and six digits is one; other folders are never touched."""
    return re.fullmatch(r"checkpoint-\d{6}", path.name) is not None


def last_checkpoint(run_dir: Path) -> Path | None:
    """The newest whole checkpoint of a run folder."""
    return max(filter(is_checkpoint, run_dir.glob("checkpoint-*")), default=None)


def checkpoint_score(rows: list[dict]) -> dict[str, float]:
    """What checkpoints are compared by: the mean rollout/reward of the --save-every rows before it."""
    return {"mean_reward": float(np.mean([row["rollout/reward"] for row in rows if row["iteration"]]))}


def best_checkpoint(run_dir: Path) -> Path | None:
    """Of the checkpoints that are kept the one with the highest score, of several the newest."""
    rows = [row for row in read_rows(run_dir / "checkpoints.jsonl") if (run_dir / row["folder"]).is_dir()]
    best = max(rows, key=lambda row: (row["mean_reward"], row["iteration"]), default=None)
    return run_dir / best["folder"] if best else None


def stopped(run, reason: str) -> InputError:
    """What to raise where numbers have gone bad: nothing that came from them is kept."""
    if run is None:  # an optimiser by itself
        return InputError(reason)
    last = last_checkpoint(run.folder)
    return InputError(f"iteration {run.iteration + 1}: {reason}; the last good checkpoint: {last or 'none yet'}")


# ---- whose it is ---------------------------------------------------------------------------------------------------


def find_folder(run, default: str) -> None:
    """Sets run.folder, run.resumed (the checkpoint to go on from, or None) and run.config (what config.json holds).

    default: the folder's name, before the time, where --run-dir gives none. Reads only. Raises InputError.
    """
    args, run.resumed, run.config = run.args, None, {}
    run.folder = Path(args.run_dir or f"{default}__{time.strftime('%Y%m%d-%H%M%S')}")
    if not args.run_dir:
        if args.if_run_exists != "raise":
            raise InputError(f"--if-run-exists {args.if_run_exists} needs a --run-dir: a new folder holds no run")
        return  # `claim` gives it a suffix where it is taken
    folder = run.folder
    try:
        occupied = folder.exists() and (not folder.is_dir() or {path.name for path in folder.iterdir()} - UNFINISHED)
    except OSError as error:
        raise InputError(f"--run-dir {folder} cannot be read: {error.strerror}") from error
    if not occupied:
        return
    owner = script_of(folder)
    if owner is None:
        flag = "--run-dir" if hasattr(type(args), "run_dir") else "--reward-dir"
        raise InputError(
            f"{flag} {folder} holds other files than a run's, so none is resumed or deleted: give another one"
        )
    if owner not in ("", run.script.name):
        raise InputError(f"the run in {folder} is one of {owner}: {run.script.name} needs a folder of its own")
    if args.if_run_exists == "raise":
        raise InputError(f"the run folder {folder} exists: add --if-run-exists resume (go on) or delete (start afresh)")
    if args.if_run_exists == "delete":
        return
    for name in ("config.json", *ROW_FILES):
        try:
            if name == "config.json":
                run.config = json.loads((folder / name).read_text(encoding="utf-8"))
                before = {**run.config["args"]}
            else:
                read_rows(folder / name)
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise InputError(f"{folder / name} is damaged, so the run cannot be resumed: {error}") from error
    for key, now in identity(run.script).items():
        if run.config.get(key, now) != now:
            reason = f"the run in {folder} is one of {run.config['script']}"
            reason += f", whose text was another ({key} in config.json)" if key == "script_sha256" else ""
            raise InputError(f"{reason}: {run.script.name}, as it is now, cannot go on with it")
    now = json.loads(json.dumps(asdict(args)))
    may_change = set(getattr(run, "may_change", RESUME_MAY_CHANGE))
    if before.get("lr_schedule", "constant") != "constant":
        may_change -= {"iterations"}
    for key in now:
        if key not in may_change and before.get(key) != now[key]:
            now_and_then = f"is {now[key]}, but the run in {folder} was started with {before.get(key)}"
            schedule = " and a learning rate that falls until then" if key == "iterations" else ""
            raise InputError(f"--{key.replace('_', '-')} {now_and_then}{schedule}")
    if fcntl is not None and not hasattr(run, "lock"):
        try:
            with (folder / "lock").open() as lock:
                fcntl.flock(lock, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise InputError(f"{OTHER_PROCESS} {folder}: wait until it ends, or give another --run-dir") from error
        except OSError:
            pass  # nobody holds it, or the file system has no locks
    run.resumed = last_checkpoint(folder)
    if run.resumed:
        check_rows(folder, int(run.resumed.name[-6:]), now["iterations"])
    elif noted := [row.get("folder") for row in read_rows(folder / "checkpoints.jsonl")]:
        if not (folder / f"{noted[-1]}.tmp").is_dir():  # which a kill leaves just after the row
            reason = f"its checkpoints, up to {noted[-1]}, are gone"
            raise InputError(f"{folder} cannot be resumed: {reason}; start afresh with --if-run-exists delete")


def script_of(folder: Path) -> str | None:
    """The script whose run a folder holds, "" where config.json does not say; None if it is no run's, but a model's."""
    with contextlib.suppress(OSError, ValueError, TypeError, AttributeError):
        config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
        if "args" in config:
            return config.get("script", "")
    damaged = (folder / "config.json").is_file() and any((folder / name).exists() for name in ROW_FILES)
    return "" if damaged else None


def way_out(checkpoint: Path) -> str:
    """What to do about a checkpoint that is damaged. Only one with its optimisers, trainer.pt, can be resumed."""
    if any(path.parent != checkpoint for path in checkpoint.parent.glob("checkpoint-*/trainer.pt")):
        return f"delete {checkpoint} to resume from the checkpoint before it"
    solver = max(checkpoint.parent.glob("checkpoint-*/solver"), default=None)
    return f"start a new run{f' from {solver}' if solver else ''}: no other checkpoint holds its optimisers"


def check_rows(folder: Path, done: int, iterations: int) -> None:
    """Raises InputError where the files do not tell the whole story up to the last checkpoint, or there is no more."""
    rows = {name: [row.get("iteration") for row in read_rows(folder / name)] for name in ROW_FILES}
    whole = {"metrics.jsonl": list(range(done + 1)), "checkpoints.jsonl": [done]}
    for name, found in rows.items():
        expected, here = whole.get(name, []), [i for i in found if isinstance(i, int) and i <= done]
        if not all(isinstance(i, int) for i in found) or here[len(here) - len(expected) :] != expected:
            reason = f"it does not lead up to checkpoint-{done:06d}"
            raise InputError(f"{folder / name} is damaged, so the run cannot be resumed: {reason}")
    if iterations < done:
        raise InputError(f"--iterations {iterations}: the run in {folder} has done {done}")


def identity(script: Path) -> dict[str, str]:
    """Which script a run is of: its name, and a hash of its text."""
    return {"script": script.name, "script_sha256": hashlib.sha256(script.read_bytes()).hexdigest()}


def fingerprint(rendered: list[list[str]], problems: list[Problem]) -> str:
    """A hash of what a run reads of its problems: the rendered prompts, and what responses are judged by.

    rendered: of each kind of prompt, that of each problem.
    """
    judged_by = [[p.answer, *p.tests, p.setup_code] for p in problems]
    return hashlib.sha256(json.dumps([rendered, judged_by]).encode()).hexdigest()


def claim(run) -> None:
    """Creates the run folder and locks it until the process ends. Raises InputError.

    A default name that another run has taken gets a suffix.
    """
    wanted, number = run.folder, 1
    while True:
        try:
            run.folder.mkdir(parents=True, exist_ok=run.args.run_dir is not None)
            break
        except FileExistsError:
            if run.args.run_dir is not None:
                raise
            number += 1
            run.folder = wanted.with_name(f"{wanted.name}-{number}")
    path = run.folder / "lock"
    run.lock = path.open("a")
    try:
        if fcntl is not None:
            fcntl.flock(run.lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            if not path.exists() or os.fstat(run.lock.fileno()).st_ino != path.stat().st_ino:
                raise BlockingIOError  # its owner has just ended and taken the file along
    except BlockingIOError as error:
        raise InputError(f"{OTHER_PROCESS} {run.folder}: wait until it ends, or give another --run-dir") from error
    except OSError:
        print(f"{run.folder} is on a file system without locks: no second run is kept out of it")


def release(run) -> None:
    """Lets go of the run folder; a process that is killed lets go too, but leaves the file."""
    if fcntl is None:
        run.lock.close()  # Windows deletes no open file
    (run.folder / "lock").unlink(missing_ok=True)
    run.lock.close()


def open_folder(run, iteration: int | None, prompts: dict[str, str], **config) -> None:
    """Claims the run folder, cuts what it holds back to the checkpoint of `iteration`, and writes config.json.

    iteration None: the rows stay as they are. prompts: fingerprints; they must be those that the run was started with.
    config: more entries of config.json. Raises InputError.
    """
    for name, now in prompts.items():
        if run.config.get("prompts", prompts).get(name, now) != now:
            reason = f"the {name} prompts or answers are not those that the run in {run.folder} was started with"
            raise InputError(f"{reason}: its data set, tokenizer, reward or problems/prompts.py has changed")
    found = run.resumed
    try:
        claim(run)
        if run.args.run_dir:  # another run may have written into it since it was found
            find_folder(run, "")
        if run.resumed != found:
            raise InputError(f"the run in {run.folder} went on while this one was starting: start it again")
        run.args.run_dir = str(run.folder)
        if run.args.if_run_exists == "delete":
            empty(run.folder)
        names = ("numpy", "torch", "transformers", "tokenizers", "datasets", "tyro")
        config |= {"prompts": prompts, "date_in_prompts": DATE.isoformat(), "git_commit": git_commit(run.script)}
        config |= {"packages": {name: version(name) for name in names}}
        config = {"args": asdict(run.args)} | identity(run.script) | config
        write_file(run.folder / "config.json", json.dumps(config, indent=2) + "\n")
        scores = ["scores.jsonl"] * (run.folder / "scores.jsonl").exists()  # of scripts that write them
        for name in (*ROW_FILES, *scores) if iteration is not None else ():
            rows = [row for row in read_rows(run.folder / name) if row["iteration"] <= iteration]
            write_file(run.folder / name, "".join(json.dumps(row) + "\n" for row in rows))
        for leftover in run.folder.glob("checkpoint-*.tmp"):
            if is_checkpoint(leftover.with_suffix("")):
                shutil.rmtree(leftover)
    except OSError as error:
        raise InputError(f"the run folder {run.folder} cannot be written: {error.strerror}") from error


def empty(folder: Path) -> None:
    """Deletes what a run folder holds, but not the folder, which may be a link, nor the lock."""
    if (folder / "config.json").exists():
        write_file(folder / "config.json", '{"args": {}}\n')  # what a kill leaves is not resumed, only deleted
    for path in folder.iterdir():
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path)
        elif path.name not in ("config.json", "lock"):
            path.unlink()


def git_commit(script: Path) -> str | None:
    """The commit of a script's repository; None without git."""
    command = ["git", "rev-parse", "HEAD"]
    try:
        return subprocess.run(command, cwd=script.parent, capture_output=True, text=True).stdout.strip() or None
    except OSError:
        return None
