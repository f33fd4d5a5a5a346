"""What every training script needs and no method changes: models, Adam with float32 masters, run folder, checkpoints.

    run = runs.find(args, __file__)  # checks flags, seeds, picks device and folder; writes nothing
    solver, tokenizer = runs.load_lm(run, "tiny", "--policy-lm", "solver")  # or from the checkpoint to go on from
    runs.check_prompts(run, solver, tokenizer, prompts, problems, room, "--policy-lm")
    optimizer = runs.Adam(solver, lr=args.learning_rate, betas=args.adam_betas)
    start = runs.begin(run, {"solver_optimizer": optimizer}, train_problems, eval_problems)  # restores it; first write
    runs.log(run, row)
    runs.checkpoint(run, iteration, {"solver": (solver, tokenizer)}, {"solver_optimizer": optimizer})  # where due
    runs.finish(run)

A run folder holds config.json, metrics.jsonl, episodes.jsonl, checkpoints.jsonl, lock and checkpoint-000010/ ...
"""

import math
import os
import random
import shlex
import shutil
import signal
import subprocess
import sys
import textwrap
import time
import types
import uuid
from dataclasses import asdict
from pathlib import Path

import common
from running import folder, ranks
from running.folder import find_folder, fingerprint, open_folder, release, stopped  # noqa: F401, scripts find them here
from running.models import *  # noqa: F403, load_lm, save_tensors, ...
from running.optimizer import Adam
from running.passes import *  # noqa: F403, sample, final_states, micro_batches, ...
from running.ranks import batches, from_all, from_first, total, world_size  # noqa: F401

import numpy as np
import torch
import transformers
from tqdm import tqdm

SAVED_EPISODES = 200  # of each evaluation, and of the rollout before it, at most


# ---- a run: its start ----------------------------------------------------------------------------------------------


def find(args, script: str) -> types.SimpleNamespace:
    """The run that the flags ask for, with what `place` and `find_folder` say of it.

    Seeds python, numpy and torch. Reads only: nothing is written until `begin`. Raises InputError.
    """
    common.check_args(args)
    run = place(args, script, several=True)
    if args.track:
        try:
            import wandb
        except ImportError as error:
            raise common.InputError("--track needs Weights & Biases: pip install wandb") from error
        if os.environ.get("WANDB_MODE", "online") == "online" and not wandb.login(prompt=False):
            raise common.InputError("--track: log in first (wandb login), or set WANDB_MODE=offline")

    def found() -> tuple:
        find_folder(run, f"runs/{Path(args.dataset).stem}__{args.exp_name}__{args.seed}")
        return run.folder, run.resumed, run.config

    run.folder, run.resumed, run.config = from_first(found)
    random.seed(args.seed)
    np.random.seed(args.seed)
    torch.manual_seed(args.seed)
    return run


def place(args, script: str, several: bool = False) -> types.SimpleNamespace:
    """Where models go: device and dtype, and both in words; with them the flags and the script. Raises InputError.

    several: whether it may be one of several processes of a run.
    """
    if not several and world_size() > 1:
        raise common.InputError(f"{Path(script).name} runs in one process: start it with python, not with torchrun")
    if args.device == "cuda" and not torch.cuda.is_available():
        raise common.InputError("--device cuda: torch finds no GPU here")
    device = ("cuda" if torch.cuda.is_available() else "cpu") if args.device == "auto" else args.device
    dtype = {"auto": "bfloat16" if device == "cuda" else "float32"}.get(args.dtype, args.dtype)
    if device == "cuda":
        # cuDNN's attention with an explicit mask gives NaN gradients at some lengths (pytorch#196678), and plans anew
        # for every shape.
        torch.backends.cuda.enable_cudnn_sdp(False)
    transformers.utils.logging.set_verbosity_error()
    transformers.utils.logging.disable_progress_bar()
    run = types.SimpleNamespace(args=args, script=Path(script), device=ranks.join(device), dtype=getattr(torch, dtype))
    run.placed, run.resumed, run.prompts = f"device {device}, weights in {dtype}", None, []
    if world_size() > 1:
        run.placed = f"{world_size()} processes, {run.placed}"
    return run


def check_prompts(run, model, tokenizer, prompts: list, problems: list[common.Problem], room: int, flag: str) -> None:
    """Raises InputError for the first prompt that does not leave `room` tokens of a model's context; notes them all."""
    run.prompts.append(common.check_lengths(tokenizer, prompts, problems, room, model.config, flag))


def begin(run, state: dict, train_problems: list[common.Problem], eval_problems: list[common.Problem]) -> int:
    """Restores `state` where the run goes on, opens the run folder, says so; returns the iteration it stands at.

    state: what a checkpoint holds beside the models: things with state_dict, or dicts, each restored in place.
    From here on the first Ctrl-C or SIGTERM lets the iteration end. Raises InputError, SandboxError.
    """
    args, sandbox = run.args, common.sandbox_for(train_problems + eval_problems, run.args.unsafe_code)
    run.iteration, run.start_time = 0, time.time()
    placed = {"device": run.device.split(":")[0], "dtype": str(run.dtype).removeprefix("torch.")}
    if (then := run.config.get("placed", placed)) != placed:
        reason = f"the run in {run.folder} was started on {then['device']} in {then['dtype']}, and goes on only so"
        raise common.InputError(f"{reason}: here it would be {placed['device']} in {placed['dtype']}")
    for name, part in state.items():
        if isinstance(part, Adam):
            part.run, part.name = run, name.removesuffix("_optimizer")
    if run.resumed:
        trainer = load_trainer(run.resumed / "trainer.pt")
        run.iteration, run.start_time = trainer["iteration"], time.time() - trainer["seconds"]
        for name, part in state.items():
            (part.update if isinstance(part, dict) else part.load_state_dict)(trainer["state"][name])
        torch.set_rng_state(trainer["rng"])
        if run.device != "cpu":
            torch.cuda.set_rng_state(trainer["cuda_rng"])
    sizes = expected_sizes(run, state)
    wandb_id = run.config.get("wandb_id") or uuid.uuid4().hex[:12]
    if run.args.track and ranks.rank() == 0:
        import wandb

        name = {"project": run.args.wandb_project, "name": run.folder.name, "id": wandb_id, "resume": "allow"}
        try:
            wandb.init(**name, config=asdict(run.args))
        except Exception as error:  # of the package's own types, or a time-out
            reason = (str(error).strip() or type(error).__name__).splitlines()[0]
            raise common.InputError(f"--track: Weights & Biases cannot be reached: {reason}") from error
    n = len(train_problems)
    prompts = {"training": fingerprint([texts[:n] for texts in run.prompts], train_problems)}
    prompts["evaluation"] = fingerprint([texts[n:] for texts in run.prompts], eval_problems)

    said = {"wandb_id": wandb_id, "placed": placed, "problems": {"training": n, "evaluation": len(eval_problems)}}
    said["command"] = common.command_line(args, run.script, run_dir=None, if_run_exists="raise")

    def opened() -> tuple:
        open_folder(run, run.iteration if run.resumed else -1, prompts, **said)
        return run.folder, args.run_dir

    run.folder, args.run_dir = from_first(opened)
    lines = [f"run folder {run.folder}: {n} problems to train on, {len(eval_problems)} held out"]
    print("\n".join(textwrap.fill(line, 80) for line in [*lines, f"{run.placed}{sandbox}", sizes]))
    run.stop = stop = types.SimpleNamespace(signal=None, handlers={})
    for number in (signal.SIGINT, signal.SIGTERM):
        stop.handlers[number] = signal.signal(number, lambda number, frame: stop_later(stop, number))
    return run.iteration


def load_trainer(path: Path) -> dict:
    """The state of a checkpoint beside its models. Raises InputError."""
    advice = folder.way_out(path.parent)
    try:
        trainer = torch.load(path, map_location="cpu", weights_only=True)
        return {name: trainer[name] for name in ("iteration", "seconds", "state", "rng")} | trainer
    except FileNotFoundError as error:
        raise common.InputError(f"{path} is missing (older checkpoints hold no optimisers): {advice}") from error
    except Exception as error:  # a file cut short fails in the zip reader or in the unpickler
        raise common.InputError(f"{path} is damaged: {advice}") from error


def expected_sizes(run, state: dict) -> str:
    """Memory and disk that the run needs, in words. Raises InputError where its first checkpoint finds no room."""
    memory, models, trainer = run.sizes["models"], run.sizes["saved"], 0
    for part in state.values():
        if isinstance(part, torch.nn.Module):
            memory += sum(weight.nbytes for weight in part.parameters())
            trainer += sum(weight.nbytes for weight in part.parameters())
        elif isinstance(part, Adam):
            elements = sum(master.numel() for master in part.masters)
            masters = sum(master.nbytes for weight, master in zip(part.weights, part.masters) if weight is not master)
            memory += masters + (4 + 8 / world_size()) * elements  # gradient, this process's part of the moments
            trainer += masters + 8 * elements
    existing = next(path for path in (run.folder, *run.folder.absolute().parents) if path.exists())
    free, one = shutil.disk_usage(existing).free, models + trainer
    keep, all_of_them = run.args.keep_checkpoints, math.ceil(run.args.iterations / run.args.save_every)
    kept, trainers = (min(keep + 1, all_of_them), 1) if keep else (all_of_them, all_of_them)
    if one > free:
        raise common.InputError(f"a checkpoint takes {one / 1e9:.2f} GB, but {existing} has {free / 1e9:.2f} GB free")
    all_kept = f"{(kept * models + trainers * trainer) / 1e9:.2f} GB for all that are kept"
    checkpoints = f"a checkpoint takes {one / 1e9:.2f} GB, {all_kept}, of {free / 1e9:.0f} GB free"
    return f"memory without activations {memory / 1e9:.2f} GB; {checkpoints}"


def stop_later(stop, number: int) -> None:
    """The first Ctrl-C or SIGTERM: the iteration ends and is saved; the second stops at once, as it did before."""
    stop.signal = signal.Signals(number)
    restore_handlers(stop)
    os.write(2, f"\n{stop.signal.name}: this iteration ends and is saved; again to stop at once\n".encode())


def restore_handlers(stop) -> None:
    for number, handler in stop.handlers.items():
        signal.signal(number, handler)


# ---- a run: its rows and checkpoints -------------------------------------------------------------------------------


def explained_variance(predicted: torch.Tensor, found: torch.Tensor) -> float | None:
    """1 - Var(found - predicted) / Var(found): 1 where all is foreseen, 0 for a constant; None where nothing varies."""
    return (1 - (found - predicted).var() / found.var()).item() if (found != found.flatten()[0]).any() else None


def log(run, row: dict) -> None:
    """Appends a row to metrics.jsonl, sends it to Weights & Biases, prints its evaluation. Refuses NaN: InputError."""
    row["charts/seconds"] = time.time() - run.start_time
    if run.device != "cpu":
        row["charts/gpu_memory_gb"] = torch.cuda.max_memory_allocated() / 1e9
    for name, value in row.items():
        if isinstance(value, float) and not math.isfinite(value):
            raise stopped(run, f"{name} is {value}")
    from_first(common.write_rows, run.folder / "metrics.jsonl", [row])
    run.iteration = row["iteration"]
    if run.args.track and ranks.rank() == 0:
        import wandb

        wandb.log(row, step=row["iteration"])
    figures = [f"{name[5:]}\xa0{value:.3f}" for name, value in row.items() if "eval/" in name and value is not None]
    if figures:
        line = f"iteration {row['iteration']:4d}  eval  " + "  ".join(figures)
        tqdm.write(textwrap.fill(line, 80, subsequent_indent=" " * 22).replace("\xa0", " "))


def log_episodes(run, iteration: int, phase: str, problems: list[common.Problem], episodes: dict) -> None:
    """Appends the first SAVED_EPISODES episodes to episodes.jsonl."""
    rows = common.episode_rows(iteration, phase, problems, episodes, SAVED_EPISODES)
    from_first(common.write_rows, run.folder / "episodes.jsonl", rows)


def checkpoint(run, iteration: int, models: dict, state: dict) -> None:
    """Saves every --save-every iterations, after the last one, and where a signal asked the run to stop, which it then
    does: raises KeyboardInterrupt."""
    if world_size() > 1:  # all stop where one is asked to
        signals = from_all(run.stop.signal)
        run.stop.signal = next(filter(None, signals), None)
    if run.stop.signal or iteration == run.args.iterations or iteration % run.args.save_every == 0:
        save(run, iteration, models, state)
    if run.stop.signal and iteration < run.args.iterations:
        raise KeyboardInterrupt(*[run.stop.signal.name] * (run.stop.signal == signal.SIGTERM))


def save(run, iteration: int, models: dict, state: dict) -> None:
    """Writes checkpoint-{iteration}/, in the first process: see write_checkpoint. Raises InputError."""
    parts = {name: part if isinstance(part, dict) else part.state_dict() for name, part in state.items()}
    trainer = {"iteration": iteration, "seconds": time.time() - run.start_time}
    trainer |= {"state": parts, "rng": torch.get_rng_state()}
    if run.device != "cpu":
        trainer["cuda_rng"] = torch.cuda.get_rng_state()
    from_first(write_checkpoint, run, iteration, models, trainer)


def write_checkpoint(run, iteration: int, models: dict, trainer: dict) -> None:
    """Writes checkpoint-{iteration}/: a save_pretrained folder for each (model, tokenizer), and trainer.pt.

    Written under a temporary name, forced to the disk, then renamed: a kill leaves the last whole one. A row goes to
    checkpoints.jsonl. All but the newest --keep-checkpoints and the best one are deleted, and but for the newest their
    trainer.pt, which takes most of the room (0: none is). Raises InputError where it cannot be written.
    """
    final = run.folder / f"checkpoint-{iteration:06d}"
    temporary = final.with_name(final.name + ".tmp")
    try:
        for name, (model, tokenizer) in models.items():
            model.config.save_pretrained(temporary / name)  # which an adapter alone would leave out
            model.save_pretrained(temporary / name)
            tokenizer.save_pretrained(temporary / name)
        torch.save(trainer, temporary / "trainer.pt")
        folder.sync([*temporary.rglob("*"), temporary])
    except Exception as error:  # a full disk: safetensors and torch raise types of their own
        shutil.rmtree(temporary, ignore_errors=True)
        again = common.command_line(run.args, run.script, if_run_exists="resume")
        reason = f"{final} cannot be written: {(str(error).strip() or type(error).__name__).splitlines()[0]}"
        raise common.InputError(f"{reason}; make room, then go on with: {again}") from error
    recent = common.read_rows(run.folder / "metrics.jsonl")[-run.args.save_every :]
    row = {"iteration": iteration, "folder": final.name} | folder.checkpoint_score(recent)
    row |= {name: value for name, value in recent[-1].items() if name.startswith("eval/")}
    common.write_rows(run.folder / "checkpoints.jsonl", [row])
    os.replace(temporary, final)
    folder.sync([run.folder])
    older = sorted(path for path in run.folder.glob("checkpoint-*") if common.is_checkpoint(path) and path != final)
    keep = run.args.keep_checkpoints - 1
    best = common.best_checkpoint(run.folder)
    for path in older if run.args.keep_checkpoints else ():
        if path in (*older[max(0, len(older) - keep) :], best):
            (path / "trainer.pt").unlink(missing_ok=True)
        else:
            shutil.rmtree(path.rename(path.with_name(path.name + ".tmp")))


def finish(run) -> None:
    """Says where everything is and how to go on; with --report has report.py draw the run."""
    restore_handlers(run.stop)
    ranks.leave()
    if ranks.rank():
        return
    changes = {"if_run_exists": "resume", "iterations": 2 * run.args.iterations}
    newest, best = folder.last_checkpoint(run.folder), common.best_checkpoint(run.folder)
    print(f"done: the newest checkpoint is {newest.name}, the best in training {best.name}, both in {run.folder}")
    if run.args.lr_schedule == "constant":  # elsewhere the learning rate has come to its end
        print(f"to train on: {common.command_line(run.args, run.script, **changes)}")
    if run.args.report:
        print(write_report(run.folder))
    release(run)


def write_report(folder: Path) -> str:
    """Has report.py draw a run, in a process of its own; returns a line that says where its page is, or why not."""
    command = [sys.executable, str(Path(__file__).with_name("report.py")), str(folder)]
    page = folder / "report.html"
    try:
        result = subprocess.run([*command, "--output", str(page)], capture_output=True, text=True, timeout=600)
    except subprocess.TimeoutExpired:
        return f"the page of curves and episodes took more than 10 minutes; try: {shlex.join(command)}"
    if result.returncode == 0:
        return f"curves and episodes: open {page} in a browser"
    reason = (result.stderr.strip() or f"it ended with code {result.returncode}").splitlines()[-1]
    return f"the page of curves and episodes could not be written: {reason}"
