"""What every training script needs and no method changes: models, Adam with float32 masters, run folder, checkpoints.

    run = runs.find(args, __file__)  # checks flags, seeds, picks device and folder; writes nothing
    solver, tokenizer = runs.load_lm(run, "tiny", "--policy-lm", "solver")  # or from the checkpoint to go on from
    optimizer = runs.Adam(solver, lr=args.learning_rate, betas=args.adam_betas)
    start = runs.begin(run, {"optimizer": optimizer}, train_problems, eval_problems)  # restores the state; first write
    runs.log(run, row)
    runs.save(run, iteration, {"solver": (solver, tokenizer)}, {"optimizer": optimizer})
    runs.finish(run)

A run folder holds config.json, metrics.jsonl, episodes.jsonl, checkpoints.jsonl and checkpoint-000010/ ...
"""

import json
import os
import random
import shlex
import shutil
import subprocess
import sys
import time
import types
from dataclasses import asdict
from importlib.metadata import version
from pathlib import Path

import numpy as np
import torch
import transformers
from tqdm import tqdm
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer

import common

SAVED_EPISODES = 200  # of each evaluation, and of the rollout before it, at most
ROW_FILES = ("metrics.jsonl", "episodes.jsonl", "checkpoints.jsonl")
UNFINISHED = {"config.json.tmp"}  # all that a run leaves which is killed while it writes its first file
# A resumed run gives the same rows whichever value these have (but the last iteration is always evaluated); every other
# flag must be as it was.
RESUME_MAY_CHANGE = ("run_dir", "if_run_exists", "iterations", "save_every", "keep_checkpoints", "report", "track")


# ---- models --------------------------------------------------------------------------------------------------------

EMBEDDED_MODELS = ("tiny", "tiny/functions")  # one writes solutions, the other programs


def embedded_model(problems: list[common.Problem]) -> str:
    """The folder of the embedded model for these problems."""
    return EMBEDDED_MODELS[any(problem.tests for problem in problems)]


def model_source(name: str) -> str:
    """A folder or hub name as transformers takes it; "tiny" is found from any working directory."""
    beside = Path(__file__).parent / name
    return str(beside) if beside.is_dir() and not Path(name).is_dir() else name


def not_loaded(flag: str, name: str, error: Exception) -> common.InputError:
    """What to raise where a model cannot be loaded: the first line of the library's error, whatever its type is."""
    reason = (str(error).strip() or type(error).__name__).splitlines()[0]
    reason = reason if Path(model_source(name)).is_dir() else f"there is no such folder, and from the hub: {reason}"
    return common.InputError(f"{flag} {name} cannot be loaded: {reason}")


def load_lm(run, name: str, flag: str, trained_as: str | None = None):
    """A causal language model and its tokenizer, from a folder or the hub. Raises InputError.

    trained_as: the model's folder in a checkpoint, from which it is loaded where the run goes on; None: it is frozen.
    Dropout is set to zero: the trainer must see the very policy that sampled.
    """
    if run.resumed and trained_as:
        name, flag = str(run.resumed / trained_as), "the checkpoint"
    source = model_source(name)
    try:
        config = AutoConfig.from_pretrained(source)
        for key in [key for key, value in vars(config).items() if "drop" in key and isinstance(value, float)]:
            setattr(config, key, 0.0)
        model = AutoModelForCausalLM.from_pretrained(source, config=config, dtype=run.dtype).to(run.device)
        tokenizer = AutoTokenizer.from_pretrained(source)
    except Exception as error:  # a missing folder, no network, a file cut short: each library raises its own types
        raise not_loaded(flag, name, error) from error
    if not run.args.chat_template:
        tokenizer.chat_template = None
    with torch.no_grad():  # the scripts apply the output head to the backbone's states themselves
        probe = torch.arange(4, device=run.device)[None]
        logits = model.eval().get_output_embeddings()(model.base_model(probe).last_hidden_state)
        if not torch.allclose(logits, model(probe).logits, atol=1e-3):
            raise common.InputError(f"{flag} {name} scales or caps its logits, which is not supported")
    if trained_as is None:
        model.requires_grad_(False)
    elif run.args.gradient_checkpointing:
        model.activation_checkpointing_enable({"use_reentrant": False})
    return model, tokenizer


class Adam:
    """Adam over float32 tensors: the weights of a module, or masters of those that are bfloat16.

    A bfloat16 weight does not move at a learning rate near 1e-6: the update is below half a bf16 ulp. The masters also
    gather the gradients of the micro-batches in float32.
    """

    def __init__(self, module, lr: float, betas: tuple[float, float]):
        self.weights, self.masters = list(module.parameters()), []
        for weight in self.weights:
            master = weight
            if weight.dtype != torch.float32:
                master = torch.nn.Parameter(weight.detach().float())

                def move_gradient(weight, master=master):
                    gradient = weight.grad.float()
                    master.grad = gradient if master.grad is None else master.grad.add_(gradient)
                    weight.grad = None

                weight.register_post_accumulate_grad_hook(move_gradient)
            self.masters.append(master)
        self.lr, self.adam = lr, torch.optim.Adam(self.masters, lr=lr, betas=betas)

    def step(self, max_norm: float) -> float:
        """Clips, steps at self.lr, updates the weights, clears the gradients. Returns the norm before clipping."""
        self.adam.param_groups[0]["lr"] = self.lr
        norm = torch.nn.utils.clip_grad_norm_(self.masters, max_norm).item()
        self.adam.step()
        with torch.no_grad():
            for weight, master in zip(self.weights, self.masters):
                if weight is not master:
                    weight.copy_(master)
        self.adam.zero_grad()
        return norm

    def state_dict(self) -> dict:
        masters = [m.data for w, m in zip(self.weights, self.masters) if w is not m]  # float32 weights are the model's
        return {"adam": self.adam.state_dict(), "masters": masters}

    def load_state_dict(self, state: dict) -> None:
        self.adam.load_state_dict(state["adam"])
        masters = [m for w, m in zip(self.weights, self.masters) if w is not m]
        for master, saved in zip(masters, state["masters"], strict=True):
            master.data.copy_(saved)


# ---- the run folder ------------------------------------------------------------------------------------------------


def find(args, script: str) -> types.SimpleNamespace:
    """The run that the flags ask for: args, script, device, dtype, folder, and the checkpoint to go on from (or None).

    Seeds python, numpy and torch. Reads only: nothing is written until `begin`. Raises InputError.
    """
    common.check_args(args)
    run = place(args)
    if args.track:
        try:
            import wandb  # noqa: F401
        except ImportError as error:
            raise common.InputError("--track needs Weights & Biases: pip install wandb") from error
    default = f"runs/{Path(args.dataset).stem}__{args.exp_name}__{args.seed}"
    folder, resumed = find_folder(args, default)
    args.run_dir = str(folder)
    random.seed(args.seed)
    np.random.seed(args.seed)
    torch.manual_seed(args.seed)
    run.script, run.folder, run.resumed = Path(script), folder, resumed
    return run


def place(args) -> types.SimpleNamespace:
    """Where models go: device and dtype, the flags beside them, and both in words. Raises InputError."""
    if args.device == "cuda" and not torch.cuda.is_available():
        raise common.InputError("--device cuda: torch finds no GPU here")
    device = ("cuda" if torch.cuda.is_available() else "cpu") if args.device == "auto" else args.device
    dtype = {"auto": "bfloat16" if device == "cuda" else "float32"}.get(args.dtype, args.dtype)
    transformers.utils.logging.set_verbosity_error()
    transformers.utils.logging.disable_progress_bar()
    named = f"device {device}, weights in {dtype}"
    return types.SimpleNamespace(args=args, device=device, dtype=getattr(torch, dtype), named=named, resumed=None)


def find_folder(args, default: str) -> tuple[Path, Path | None]:
    """The run folder that the flags ask for, and the checkpoint to resume from (None: start at the beginning).

    default: its name, before the time, where --run-dir gives none. Reads only. Raises InputError.
    """
    folder = Path(args.run_dir or f"{default}__{time.strftime('%Y%m%d-%H%M%S')}")
    try:
        occupied = folder.exists() and (not folder.is_dir() or {path.name for path in folder.iterdir()} - UNFINISHED)
    except OSError as error:
        raise common.InputError(f"--run-dir {folder} cannot be read: {error.strerror}") from error
    if not occupied:
        return folder, None
    if args.if_run_exists == "raise":
        raise common.InputError(
            f"the run folder {folder} exists: add --if-run-exists resume (go on) or delete (start afresh)"
        )
    if not (folder / "config.json").is_file():
        raise common.InputError(f"--run-dir {folder} holds other files than a run's: none is resumed or deleted")
    if args.if_run_exists == "delete":
        return folder, None
    for name in ("config.json", *ROW_FILES):
        try:
            if name == "config.json":
                before = json.loads((folder / name).read_text(encoding="utf-8"))["args"]
            else:
                common.read_rows(folder / name)
        except (ValueError, KeyError) as error:
            raise common.InputError(f"{folder / name} is damaged, so the run cannot be resumed: {error}") from error
    now = json.loads(json.dumps(asdict(args)))
    for key in now:
        if key not in RESUME_MAY_CHANGE and before.get(key) != now[key]:
            now_and_then = f"is {now[key]}, but the run in {folder} was started with {before.get(key)}"
            raise common.InputError(f"--{key.replace('_', '-')} {now_and_then}")
    return folder, common.last_checkpoint(folder)


def open_folder(folder: Path, args, iteration: int | None) -> None:
    """Creates the run folder, or cuts what it holds back to the checkpoint of `iteration`, and writes config.json.

    iteration None: the rows stay as they are. Raises InputError.
    """
    try:
        if args.if_run_exists == "delete" and folder.exists():
            shutil.rmtree(folder.rename(folder.with_name(folder.name + ".deleted")))
        folder.mkdir(parents=True, exist_ok=True)
        names = ("numpy", "torch", "transformers", "tokenizers", "datasets", "tyro")
        packages = {name: version(name) for name in names}
        config = {"args": asdict(args), "git_commit": git_commit(), "packages": packages}
        common.write_file(folder / "config.json", json.dumps(config, indent=2) + "\n")
        for name in ROW_FILES if iteration is not None else ():
            rows = [row for row in common.read_rows(folder / name) if row["iteration"] <= iteration]
            common.write_file(folder / name, "".join(json.dumps(row) + "\n" for row in rows))
        for leftover in folder.glob("checkpoint-*.tmp"):
            shutil.rmtree(leftover)
    except OSError as error:
        raise common.InputError(f"the run folder {folder} cannot be written: {error.strerror}") from error


def git_commit() -> str | None:
    """The commit of this repository; None without git."""
    command = ["git", "rev-parse", "HEAD"]
    try:
        return subprocess.run(command, cwd=Path(__file__).parent, capture_output=True, text=True).stdout.strip() or None
    except FileNotFoundError:
        return None


def begin(run, state: dict, train_problems: list[common.Problem], eval_problems: list[common.Problem]) -> int:
    """Restores `state` where the run goes on, opens the run folder, says so; returns the iteration it stands at.

    state: what a checkpoint holds beside the models: things with state_dict, or dicts, each restored in place.
    Raises InputError, SandboxError.
    """
    sandbox = common.sandbox_for(train_problems + eval_problems, run.args.unsafe_code)
    start, run.start_time = 0, time.time()
    if run.resumed:
        try:
            trainer = torch.load(run.resumed / "trainer.pt", map_location="cpu", weights_only=True)
        except Exception as error:  # a file cut short fails in the zip reader or in the unpickler
            advice = f"delete {run.resumed} to resume from the checkpoint before it"
            raise common.InputError(f"{run.resumed / 'trainer.pt'} is damaged: {advice}") from error
        start, run.start_time = trainer["iteration"], time.time() - trainer["seconds"]
        for name, part in state.items():
            (part.update if isinstance(part, dict) else part.load_state_dict)(trainer["state"][name])
        torch.set_rng_state(trainer["rng"])
        if run.device == "cuda":
            torch.cuda.set_rng_state(trainer["cuda_rng"])
    open_folder(run.folder, run.args, start if run.resumed else -1)
    if run.args.track:
        import wandb

        wandb.init(project="textual-feedback-rl", id=run.folder.name, resume="allow", config=asdict(run.args))
    sizes = f"{len(train_problems)} problems to train on, {len(eval_problems)} held out"
    print(f"run folder {run.folder}: {sizes}; {run.named}{sandbox}")
    return start


def log(run, row: dict) -> None:
    """Appends a row to metrics.jsonl, sends it to Weights & Biases, prints its evaluation on a line that stays."""
    row["charts/seconds"] = time.time() - run.start_time
    common.write_rows(run.folder / "metrics.jsonl", [row])
    if run.args.track:
        import wandb

        wandb.log(row, step=row["iteration"])
    figures = [f"{name[5:]} {value:.3f}" for name, value in row.items() if name.startswith("eval/")]
    if figures:
        tqdm.write(f"iteration {row['iteration']:4d}  eval  " + "  ".join(figures))


def log_episodes(run, iteration: int, phase: str, problems: list[common.Problem], episodes: dict) -> None:
    """Appends the first SAVED_EPISODES episodes to episodes.jsonl."""
    rows = common.episode_rows(iteration, phase, problems, episodes, SAVED_EPISODES)
    common.write_rows(run.folder / "episodes.jsonl", rows)


def save(run, iteration: int, models: dict, state: dict) -> None:
    """Writes checkpoint-{iteration}/: a save_pretrained folder for each (model, tokenizer), and trainer.pt.

    Written under a temporary name, forced to the disk, then renamed: a kill leaves the last whole one. A row goes to
    checkpoints.jsonl. All but the newest --keep-checkpoints and the best one are deleted (0: none is).
    """
    final = run.folder / f"checkpoint-{iteration:06d}"
    temporary = final.with_name(final.name + ".tmp")
    for name, (model, tokenizer) in models.items():
        model.save_pretrained(temporary / name)
        tokenizer.save_pretrained(temporary / name)
    parts = {name: part if isinstance(part, dict) else part.state_dict() for name, part in state.items()}
    trainer = {"iteration": iteration, "seconds": time.time() - run.start_time}
    trainer |= {"state": parts, "rng": torch.get_rng_state()}
    if run.device == "cuda":
        trainer["cuda_rng"] = torch.cuda.get_rng_state()
    torch.save(trainer, temporary / "trainer.pt")
    for path in [*temporary.rglob("*"), temporary]:
        descriptor = os.open(path, os.O_RDONLY)
        os.fsync(descriptor)
        os.close(descriptor)
    recent = common.read_rows(run.folder / "metrics.jsonl")[-run.args.save_every :]
    row = {"iteration": iteration, "folder": final.name} | common.checkpoint_score(recent)
    row |= {name: value for name, value in recent[-1].items() if name.startswith("eval/")}
    common.write_rows(run.folder / "checkpoints.jsonl", [row])
    os.replace(temporary, final)
    keep = run.args.keep_checkpoints
    old = sorted(path for path in run.folder.glob("checkpoint-*") if common.is_checkpoint(path))[:-keep] if keep else []
    for folder in {*old} - {common.best_checkpoint(run.folder)}:
        shutil.rmtree(folder.rename(folder.with_name(folder.name + ".tmp")))


def finish(run) -> None:
    """Says where everything is and how to go on; with --report has report.py draw the run."""
    changes = {"if_run_exists": "resume", "iterations": 2 * run.args.iterations}
    more = common.command_line(run.args, run.script.name, **changes)
    last = common.last_checkpoint(run.folder)
    print(f"done: metrics.jsonl and episodes.jsonl are in {run.folder}, the models in {last}")
    print(f"the best in training: {common.best_checkpoint(run.folder)}; to train on: {more}")
    if run.args.report:
        print(write_report(run.folder))


def write_report(folder: Path) -> str:
    """Has report.py draw a run, in a process of its own; returns a line that says where its page is, or why not."""
    command = [sys.executable, str(Path(__file__).with_name("report.py")), str(folder)]
    page = folder / "report.html"
    try:
        result = subprocess.run([*command, "--output", str(page)], capture_output=True, text=True, timeout=600)
    except subprocess.TimeoutExpired:
        return f"the page of curves and episodes took more than 10 minutes; try: {shlex.join(['python', *command[1:]])}"
    if result.returncode == 0:
        return f"curves and episodes: open {page} in a browser"
    reason = (result.stderr.strip() or f"it ended with code {result.returncode}").splitlines()[-1]
    return f"the page of curves and episodes could not be written: {reason}"
