"""A run that is killed and resumed gives what a run that was never stopped gives: rows, episodes, weights."""

import json
import os
import random
import shlex
import shutil
import signal
import subprocess
import sys
import time
from dataclasses import asdict, replace
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
import tyro
from conftest import read_jsonl
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM, AutoTokenizer

import archer
import common
import grpo
import intro
import mlmt_rl
import rl_guided_score
import runs
import score

REPO = Path(__file__).resolve().parents[1]
TIMINGS = ("charts/seconds", "charts/verify_seconds", "charts/tokens_per_second")
PATIENCE = 300  # seconds to wait for a process on a busy machine


def metric_lines(run_dir) -> list[str]:
    """The lines of metrics.jsonl without what depends on the clock."""
    rows = read_jsonl(Path(run_dir) / "metrics.jsonl")
    return [json.dumps({key: value for key, value in row.items() if key not in TIMINGS}) for row in rows]


def assert_same_run(run_dir, other) -> None:
    """Equal rows, episodes and scores, and equal tensors in the last checkpoints."""
    assert metric_lines(run_dir) == metric_lines(other)
    for name in ("episodes.jsonl", "checkpoints.jsonl"):
        assert (Path(run_dir) / name).read_text() == (Path(other) / name).read_text(), name
    last, other_last = (common.last_checkpoint(Path(folder)) for folder in (run_dir, other))
    assert last.name == other_last.name
    folders = [sorted(path.name for path in folder.iterdir() if path.is_dir()) for folder in (last, other_last)]
    assert folders[0] == folders[1] and "solver" in folders[0]
    for model in folders[0]:
        (path,) = (last / model).glob("*.safetensors")  # of a whole model or an adapter
        weights, other_weights = (load_file(folder / model / path.name) for folder in (last, other_last))
        assert weights.keys() == other_weights.keys()
        assert all(torch.equal(weights[name], other_weights[name]) for name in weights), model
    trainer, other_trainer = (torch.load(folder / "trainer.pt", weights_only=True) for folder in (last, other_last))
    trainer["seconds"] = other_trainer["seconds"]
    assert_same_state(trainer, other_trainer)


def assert_same_state(state, other) -> None:
    """Equality of nested dicts and lists that hold tensors."""
    assert type(state) is type(other)
    if isinstance(state, torch.Tensor):
        assert torch.equal(state, other)
    elif isinstance(state, dict):
        assert state.keys() == other.keys()
        for key in state:
            assert_same_state(state[key], other[key])
    elif isinstance(state, list | tuple):
        assert len(state) == len(other)
        for part, other_part in zip(state, other):
            assert_same_state(part, other_part)
    else:
        assert state == other


# ---- processes that are killed -------------------------------------------------------------------------------------


def start(args) -> subprocess.Popen:
    """The script of these flags in a process of its own, by the command that common.command_line makes of them."""
    words = shlex.split(common.command_line(args, f"{type(args).__module__}.py"))
    return subprocess.Popen(
        [sys.executable, *words[1:]],
        cwd=REPO,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
        preexec_fn=interruptible,
    )


def interruptible() -> None:
    """A shell's background jobs ignore Ctrl-C, and so would what they start."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)


def file_number(path: Path) -> int | None:
    """Tells a file from the one that replaced it; None: there is none."""
    return path.stat().st_ino if path.exists() else None


def wait_until(process: subprocess.Popen, condition) -> None:
    deadline = time.time() + PATIENCE
    while not condition():
        assert process.poll() is None, f"the run ended before the moment came: {process.stderr.read()}"
        assert time.time() < deadline, "the moment never came"
        time.sleep(0.001)


def wait_for_rows(process: subprocess.Popen, run_dir: Path, old_file: int | None, count: int) -> None:
    """Until this process, not the one before it, has written its metrics.jsonl up to `count` rows."""
    path = run_dir / "metrics.jsonl"
    wait_until(process, lambda: file_number(path) not in (None, old_file) and len(read_whole_rows(path)) >= count)


def read_whole_rows(path: Path) -> list[dict]:
    """The rows of a .jsonl file that another process may be writing."""
    text = path.read_text(encoding="utf-8") if path.exists() else ""
    return [json.loads(line) for line in text.split("\n")[:-1]]


def unfinished_checkpoints(run_dir: Path) -> list[Path]:
    """Folders of checkpoints that are being written (those that are being deleted have lower numbers)."""
    last = common.last_checkpoint(run_dir)
    return [path for path in run_dir.glob("checkpoint-*.tmp") if last is None or path.name > last.name]


def kill_while_a_checkpoint_is_written(process: subprocess.Popen, run_dir: Path) -> None:
    """Stops the process before it is killed, so that it cannot get on between the look and the kill."""
    while True:
        wait_until(process, lambda: unfinished_checkpoints(run_dir))
        process.send_signal(signal.SIGSTOP)
        os.waitid(os.P_PID, process.pid, os.WSTOPPED | os.WEXITED | os.WNOWAIT)
        if unfinished_checkpoints(run_dir):
            break
        process.send_signal(signal.SIGCONT)
    process.kill()


def test_two_kills_change_nothing(finished, tmp_path):
    """Red if anything that a run goes on from is missing in a checkpoint, or if what came after one is not cut."""
    run_dir = tmp_path / "killed"
    args = replace(finished, run_dir=str(run_dir), if_run_exists="resume", keep_checkpoints=2)
    process = start(args)
    try:
        wait_for_rows(process, run_dir, None, 5)
        seconds = [row["charts/seconds"] for row in read_whole_rows(run_dir / "metrics.jsonl")[-2:]]
        time.sleep(
            random.random() * min(0.9, seconds[1] - seconds[0]) / 2
        )  # somewhere in the iteration after the fourth
    finally:
        process.kill()
    _, errors = process.communicate()
    assert process.returncode == -signal.SIGKILL, errors
    assert common.last_checkpoint(run_dir).name == "checkpoint-000003"

    old_file = file_number(run_dir / "metrics.jsonl")
    process = start(args)
    try:
        wait_for_rows(process, run_dir, old_file, 1)
        kill_while_a_checkpoint_is_written(process, run_dir)
    finally:
        process.kill()
    _, errors = process.communicate()
    assert process.returncode == -signal.SIGKILL, errors
    assert unfinished_checkpoints(run_dir), "the kill came too late to leave an unfinished checkpoint"

    mlmt_rl.main(args)
    assert not list(run_dir.glob("*.tmp"))
    assert_same_run(run_dir, finished.run_dir)
    seconds = [row["charts/seconds"] for row in read_jsonl(run_dir / "metrics.jsonl")]
    assert seconds == sorted(seconds)


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)], ids=["Ctrl-C", "SIGTERM"])
def test_a_stopped_run_keeps_its_iteration_and_says_how_to_go_on(finished, tmp_path, number, code):
    """Red if the iteration under way is lost, if there is a traceback, or if the command does not finish the run."""
    run_dir = tmp_path / "a folder"  # the blank must survive the shell
    process = start(replace(finished, run_dir=str(run_dir), iterations=10, save_every=100))
    try:
        wait_for_rows(process, run_dir, None, 4)
        process.send_signal(number)
        _, errors = process.communicate(timeout=PATIENCE)
    finally:
        process.kill()
    assert process.returncode == code, errors
    notice, line = filter(None, errors.splitlines())
    assert "this iteration ends and is saved; again to stop at once" in notice
    before = metric_lines(run_dir)
    assert 4 <= len(before) < 11 and not list(run_dir.glob("*.tmp"))
    last = common.last_checkpoint(run_dir)
    assert last.name == f"checkpoint-{len(before) - 1:06d}" and str(last) in line

    command = line.split("go on with: ")[1]
    if number == signal.SIGTERM:
        return
    ended = subprocess.run(command, shell=True, cwd=REPO, capture_output=True, text=True)
    assert ended.returncode == 0, ended.stderr
    assert metric_lines(run_dir) == metric_lines(finished.run_dir)[:11]  # iteration 10 is evaluated in both


def test_the_second_ctrl_c_stops_at_once(finished, tmp_path):
    """Red if a run cannot be stopped in the middle of an iteration, or then prints a traceback."""
    process = start(replace(finished, run_dir=str(tmp_path / "run"), rollout_size=2048, save_every=100))
    try:
        wait_for_rows(process, tmp_path / "run", None, 1)
        for _ in range(2):
            process.send_signal(signal.SIGINT)
            time.sleep(0.5)
        _, errors = process.communicate(timeout=20)
    finally:
        process.kill()
    assert process.returncode == 130 and "Traceback" not in errors, errors
    assert "last checkpoint: none yet; go on with: " in errors and len(metric_lines(tmp_path / "run")) == 1


def test_ctrl_c_while_importing(tmp_path):
    """Red if Ctrl-C in the seconds before a run begins prints a traceback, whenever it comes."""
    for tenths in (0, 5, 15):
        command = [sys.executable, str(REPO / "mlmt_rl.py"), "--run-dir", str(tmp_path / "run")]
        process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True, preexec_fn=interruptible)
        while process.poll() is None and "numpy" not in Path(f"/proc/{process.pid}/maps").read_text():
            time.sleep(0.01)  # the standard library comes first
        time.sleep(tenths / 10)
        process.send_signal(signal.SIGINT)
        try:
            _, errors = process.communicate(timeout=PATIENCE)
        finally:
            process.kill()
        assert process.returncode in (-signal.SIGINT, 130) and "Traceback" not in errors, (tenths, errors)


# ---- in this process -----------------------------------------------------------------------------------------------

BF16 = {"dtype": "bfloat16", "learning_rate": 1e-5}
ARCHER = {"warmup_iterations": 1, "capacity": 10, "critic_batch_size": 4, "actor_batch_size": 4, "tau": 0.3}
GRPO = {"groups_per_batch": 3, "group_size": 2}
VARIANTS = {
    "default": (mlmt_rl, {}),
    "several steps a rollout": (
        mlmt_rl,
        {"update_epochs": 2, "num_minibatches": 2, "value_shaping": 0.5, "feedback_every": 2},
    ),
    "bfloat16 with float32 masters": (mlmt_rl, BF16 | {"guidance_lr": 1e-5}),
    "stage 1, warm-up": (
        mlmt_rl,
        {"stage1_iterations": 3, "alpha": 1.0, "lr_warmup_iterations": 4, "kl_estimator": "k3_loss"},
    ),
    "adapters in bfloat16": (mlmt_rl, BF16 | {"lora_rank": 4}),
    "SCoRe": (score, {"stage1_iterations": 3, "offline_first_turn": 0.5, "baseline": "batch", "num_minibatches": 2}),
    "RL-Guided SCoRe": (rl_guided_score, {"stage1_iterations": 1, "baseline": "leave-one-out"}),
    "ArCHer": (archer, ARCHER | {"use_baseline": True}),
    "ArCHer in bfloat16": (archer, ARCHER | BF16),
    "GRPO": (grpo, GRPO | {"update_epochs": 2, "num_minibatches": 2, "kl_estimator": "k1_reward"}),
    "GRPO, further rounds": (grpo, GRPO | {"dynamic_sampling": 3}),
    "InTRO": (intro, GRPO | {"update_epochs": 2, "lr_schedule": "linear", "lr_warmup_iterations": 4}),
}


@pytest.mark.parametrize(("script", "flags"), VARIANTS.values(), ids=VARIANTS)
def test_two_iterations_and_two_more_are_four(quick, tmp_path, coin_rewards, script, flags):
    """Red if a counter, an optimiser's state, a head, a buffer, a master or a random number is not taken over."""
    flags = {"script": script, "iterations": 4, "eval_every": 2, "save_every": 2, "keep_checkpoints": 0} | flags
    script.main(quick(run_dir=tmp_path / "whole", **flags))
    shutil.copytree(tmp_path / "whole", tmp_path / "parts")
    shutil.rmtree(tmp_path / "parts" / "checkpoint-000004")
    script.main(quick(run_dir=tmp_path / "parts", if_run_exists="resume", **flags))
    assert_same_run(tmp_path / "parts", tmp_path / "whole")
    last = read_jsonl(tmp_path / "whole" / "metrics.jsonl")[-1]
    norms = {name: value for name, value in last.items() if "grad_norm" in name and value is not None}
    assert "losses/grad_norm_solver" in norms and all(value > 0 for value in norms.values()), norms


def test_a_killed_sibling_goes_on(small, tmp_path):
    """Red if what test_two_kills_change_nothing shows of mlmt_rl.py does not hold for the script of most state."""
    flags = {"script": archer, "iterations": 4, "save_every": 2, "eval_every": 3, "max_new_tokens": 32} | ARCHER
    whole, killed = (small(run_dir=tmp_path / name, **flags) for name in ("whole", "killed"))
    archer.main(whole)
    process = start(killed)
    try:
        wait_for_rows(process, tmp_path / "killed", None, 4)  # iteration 3, which no checkpoint holds
    finally:
        process.kill()
        process.communicate()
    archer.main(replace(killed, if_run_exists="resume"))
    assert_same_run(tmp_path / "killed", tmp_path / "whole")


def test_a_seed_fixes_the_run(quick, tmp_path, coin_rewards):
    """Red if something random is not seeded, or if the seed does not reach the problems' order or the sampling."""
    for name, seed in (("one", 1), ("again", 1), ("other", 2)):
        mlmt_rl.main(quick(run_dir=tmp_path / name, seed=seed))
    assert_same_run(tmp_path / "one", tmp_path / "again")
    assert metric_lines(tmp_path / "one")[0] == metric_lines(tmp_path / "other")[0]  # the evaluation has its own seed
    questions = [
        [row["question"] for row in read_jsonl(tmp_path / name / "episodes.jsonl") if row["phase"] == "rollout"]
        for name in ("one", "other")
    ]
    assert questions[0] != questions[1]
    assert metric_lines(tmp_path / "one")[1:] != metric_lines(tmp_path / "other")[1:]


def test_resuming_a_finished_run_changes_nothing(finished, tmp_path, capsys):
    """Red if a run that has nothing left to do writes a row, or loses one."""
    shutil.copytree(finished.run_dir, tmp_path / "run")
    mlmt_rl.main(replace(finished, run_dir=str(tmp_path / "run"), if_run_exists="resume"))
    assert_same_run(tmp_path / "run", finished.run_dir)


@pytest.mark.parametrize(
    "changes",
    [{"learning_rate": 3e-3}, {"seed": 2}, {"gae_lambda": 0.5}, {"adam_betas": (0.9, 0.99)}, {"feedback_lm": "tiny"}],
    ids=lambda changes: next(iter(changes)),
)
def test_resuming_with_another_flag_is_refused(finished, capsys, changes):
    """Red if a resumed run could go on with other flags than it was started with, and so be no one run."""
    before = {path: path.stat().st_mtime_ns for path in Path(finished.run_dir).rglob("*")}
    with pytest.raises(SystemExit) as ending:
        common.run(mlmt_rl.main, replace(finished, if_run_exists="resume", **changes), "mlmt_rl.py")
    error = capsys.readouterr().err
    assert ending.value.code == 2 and error.count("\n") == 1
    (name,) = changes
    assert f"--{name.replace('_', '-')} " in error
    assert before == {path: path.stat().st_mtime_ns for path in Path(finished.run_dir).rglob("*")}


def test_a_falling_rate_cannot_be_drawn_out(quick, coin_rewards, capsys):
    """Red if a run whose rate has come to its end goes on at a higher one, which is the schedule of no run."""
    run = quick(iterations=1, save_every=1, lr_schedule="cosine")
    mlmt_rl.main(run)
    assert "done: " in (said := capsys.readouterr().out) and "to train on:" not in said
    with pytest.raises(common.InputError, match="--iterations is 2, .* with 1 and a learning rate that falls"):
        mlmt_rl.main(replace(run, iterations=2, if_run_exists="resume"))


def test_full_memory_ends_in_one_line_and_the_run_goes_on_with_less(small, tmp_path, coin_rewards, monkeypatch, capsys):
    """Red if it ends in a traceback, names a flag that the script has not, or refuses the remedy it names."""
    run = small(save_every=1, micro_batch_size=4)
    train = mlmt_rl.accumulate_gradients

    def full(*inputs):
        if read_jsonl(tmp_path / "run" / "metrics.jsonl")[-1]["iteration"] == 1:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 594.00 MiB.")
        return train(*inputs)

    monkeypatch.setattr(mlmt_rl, "accumulate_gradients", full)
    with pytest.raises(SystemExit) as ending:
        common.run(mlmt_rl.main, run, "mlmt_rl.py")
    error = capsys.readouterr().err.strip().splitlines()[-1]
    assert ending.value.code == 1 and "--micro-batch-size below 4, --gradient-checkpointing, --lora-rank 16" in error
    assert "last checkpoint: " in error and "checkpoint-000001; go on with: " in error
    del ending  # with it the run that it came from, and its lock
    monkeypatch.setattr(mlmt_rl, "accumulate_gradients", train)
    mlmt_rl.main(replace(run, if_run_exists="resume", micro_batch_size=2, gradient_checkpointing=True))
    assert [row["iteration"] for row in read_jsonl(tmp_path / "run" / "metrics.jsonl")] == [0, 1, 2]


def test_full_memory_of_a_cpu_is_told_too(small, capsys):
    with pytest.raises(SystemExit):
        common.run(lambda args: torch.empty(10**18), small(generation_batch_size=1), "mlmt_rl.py")
    error = capsys.readouterr().err
    assert "the memory is full; less is needed with --micro-batch-size below" in error and "Traceback" not in error


def test_delete_starts_afresh(small, tmp_path, coin_rewards):
    """Red if --if-run-exists delete keeps rows or files of the run before."""
    mlmt_rl.main(small(save_every=1, keep_checkpoints=0))
    (tmp_path / "run" / "note").write_text("old")
    mlmt_rl.main(small(iterations=1, seed=2, if_run_exists="delete"))
    assert [row["iteration"] for row in read_jsonl(tmp_path / "run" / "metrics.jsonl")] == [0, 1]
    names = {path.name for path in (tmp_path / "run").iterdir()}
    expected = {"config.json", "metrics.jsonl", "episodes.jsonl", "checkpoints.jsonl", "checkpoint-000001"}
    assert names == expected


def test_killed_before_its_first_file_is_written(small, tmp_path, coin_rewards):
    """Red if a kill in the first moment of a run leaves a folder that can be neither resumed nor deleted."""
    for if_run_exists in ("resume", "delete"):
        run_dir = tmp_path / if_run_exists
        run_dir.mkdir()
        (run_dir / "config.json.tmp").write_text('{"args": {')
        mlmt_rl.main(small(run_dir=run_dir, iterations=1, if_run_exists=if_run_exists))
        assert len(metric_lines(run_dir)) == 2
        assert not list(run_dir.glob("*.tmp"))


# ---- what a checkpoint is ------------------------------------------------------------------------------------------


def test_checkpoints_are_plain_model_folders(finished):
    """Red if a checkpoint needs this project's code to be loaded, or code that a pickle could run."""
    folders = sorted(Path(finished.run_dir).glob("checkpoint-*"))
    assert [folder.name for folder in folders] == [f"checkpoint-{n:06d}" for n in (3, 6, 9, 12)]
    rows = read_jsonl(Path(finished.run_dir) / "checkpoints.jsonl")
    assert [row["folder"] for row in rows] == [folder.name for folder in folders]
    for folder in folders:
        trainer = torch.load(folder / "trainer.pt", weights_only=True)
        assert trainer["iteration"] == int(folder.name[-6:])
        assert trainer["state"]["value_head"]["weight"].abs().max() > 0
        for name in ("solver", "feedback"):
            model = AutoModelForCausalLM.from_pretrained(folder / name)
            weights = load_file(folder / name / "model.safetensors")
            assert all(torch.equal(model.state_dict()[key], weights[key]) for key in weights)
            tokenizer, own = (AutoTokenizer.from_pretrained(path) for path in (folder / name, REPO / "tiny"))
            text = "Ann has 12 keys.\n1:gets 5"
            assert tokenizer(text).input_ids == own(text).input_ids


class Killed(BaseException):
    """Ends a function where a kill would."""


class Saved:
    """Stands for a model, its configuration or a tokenizer: writes one file."""

    def __init__(self, name: str, config=None):
        self.name = name
        self.config = config

    def save_pretrained(self, folder: Path) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        (folder / self.name).write_text("first half, ")
        os.stat(folder)  # a moment at which a kill finds half a file
        (folder / self.name).write_text("first half, second half")


CHECKPOINT_FILES = {"solver/weights", "solver/config.json", "solver/tokenizer", "trainer.pt"}


def test_a_kill_at_any_moment_leaves_whole_checkpoints(tmp_path, monkeypatch):
    """Red if a folder has a checkpoint's name before all its files are on the disk, or while it is being deleted."""
    events = []  # what was called, in order; the last call of each round is one later than in the round before

    def killed_at(moment: int, function):
        def call(*args, **kwargs):
            events.append((function.__name__, str(args[0])))
            if function is os_fsync:
                events[-1] = ("fsync", os.fstat(args[0]).st_ino)
            if len(events) == moment:
                raise Killed
            return function(*args, **kwargs)

        return call

    os_fsync = os.fsync
    watched = [(torch, "save"), (os, "fsync"), (os, "replace"), (os, "stat"), (os, "rename"), (shutil, "rmtree")]
    watched += [(os, "unlink"), (os, "rmdir"), (os, "mkdir")]
    for moment in range(1, 1000):
        run_dir = tmp_path / str(moment)
        run_dir.mkdir()
        models = {"solver": (Saved("weights", Saved("config.json")), Saved("tokenizer"))}
        args = SimpleNamespace(keep_checkpoints=1, save_every=1)
        run = SimpleNamespace(folder=run_dir, args=args, start_time=0.0, device="cpu")
        common.write_rows(run_dir / "metrics.jsonl", [{"iteration": 1, "rollout/reward": 0.0}])
        runs.save(run, 1, models, {})
        common.write_rows(run_dir / "metrics.jsonl", [{"iteration": 2, "rollout/reward": 1.0}])
        events.clear()
        finished = True
        with monkeypatch.context() as patch:
            for module, name in watched:
                patch.setattr(module, name, killed_at(moment, getattr(module, name)))
            try:
                runs.save(run, 2, models, {})
            except Killed:
                finished = False
        last = common.last_checkpoint(run_dir)
        assert last is not None, events[-1]
        for folder in run_dir.glob("checkpoint-*[0-9]"):
            files = {str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file()}
            assert files == CHECKPOINT_FILES, events[-1]
            assert torch.load(folder / "trainer.pt")["iteration"] == int(folder.name[-6:])
            assert (folder / "solver" / "weights").read_text() == "first half, second half"
        if finished:
            break
    assert last.name == "checkpoint-000002" and moment > 10
    renamed = [number for number, (name, _) in enumerate(events) if name in ("replace", "rename")][0]
    synced = {number for name, number in events[:renamed] if name == "fsync"}
    assert {file_number(last / name) for name in CHECKPOINT_FILES} <= synced


@pytest.mark.parametrize("keep", [2, 5])
def test_only_the_newest_checkpoints_are_kept(quick, tmp_path, coin_rewards, monkeypatch, keep):
    """Red if --keep-checkpoints deletes too many, too few, or leaves half-deleted folders behind."""
    monkeypatch.setattr(common, "best_checkpoint", common.last_checkpoint)  # an older one would be kept besides
    mlmt_rl.main(quick(iterations=5, save_every=1, keep_checkpoints=keep, seed=2))
    names = sorted(path.name for path in (tmp_path / "run").glob("checkpoint-*"))
    assert names == [f"checkpoint-{n:06d}" for n in range(6 - keep, 6)]
    rows = read_jsonl(tmp_path / "run" / "checkpoints.jsonl")
    assert [row["iteration"] for row in rows] == [1, 2, 3, 4, 5]


def test_the_best_checkpoint_by_training_reward_is_kept_too(quick, tmp_path, monkeypatch):
    """Red if the best is taken from an evaluation, from one iteration alone, or is deleted with the old ones."""
    shares = {1: 0.0, 2: 0.75, 3: 0.25, 4: 0.25, 5: 0.5, 6: 0.0, 7: 0.0, 8: 0.25}  # right refinements, by iteration
    calls = []

    def judge_all(responses, problems, *flags):
        calls.append(len(responses))
        turn = len(calls) - 3  # two evaluated turns before the first iteration, then two turns an iteration
        share = shares.get(turn // 2 + 1, 1.0) if turn >= 0 else 1.0  # every evaluation is all right
        return [i < share * len(responses) for i in range(len(responses))]

    monkeypatch.setattr(common, "judge_all", judge_all)
    mlmt_rl.main(quick(iterations=8, save_every=2, keep_checkpoints=1, eval_every=100))
    rows = read_jsonl(tmp_path / "run" / "checkpoints.jsonl")
    assert [row["mean_reward"] for row in rows] == [0.375, 0.25, 0.25, 0.125]
    assert sorted(path.name for path in (tmp_path / "run").glob("checkpoint-*")) == [
        "checkpoint-000002",
        "checkpoint-000008",
    ]
    assert common.best_checkpoint(tmp_path / "run").name == "checkpoint-000002"
    assert common.last_checkpoint(tmp_path / "run").name == "checkpoint-000008"


def test_of_equally_good_checkpoints_the_newest_is_the_best(tmp_path):
    """Red if a tie is decided otherwise, or by a checkpoint that is not there any more."""
    for iteration in (1, 2, 3, 4):
        row = {
            "iteration": iteration,
            "folder": f"checkpoint-{iteration:06d}",
            "mean_reward": [0.5, 0.7, 0.7, 0.7][iteration - 1],
        }
        common.write_rows(tmp_path / "checkpoints.jsonl", [row])
        if iteration < 4:
            (tmp_path / row["folder"]).mkdir()
    assert common.best_checkpoint(tmp_path).name == "checkpoint-000003"


def test_config_holds_every_flag(finished):
    """Red if a run cannot be told from its folder: a flag, the commit or a version is missing."""
    config = json.loads((Path(finished.run_dir) / "config.json").read_text())
    assert config["args"] == json.loads(json.dumps(asdict(finished)))
    assert "git_commit" in config and config["packages"]["torch"] == torch.__version__
    train, held_out = common.load_problems_for(finished)
    assert config["problems"] == {"training": len(train), "evaluation": len(held_out)} and len(train) != len(held_out)
    assert config["command"] == common.command_line(finished, config["script"], run_dir=None)
    assert "--run-dir" not in config["command"] and "--dataset" in config["command"]


def test_a_command_line_gives_its_flags_back():
    """Red if a printed command loses a flag, or quotes one so that the shell or tyro reads another value."""
    args = mlmt_rl.Args(
        run_dir="runs/it's a $HOME; folder",
        if_run_exists="resume",
        feedback_lm="tiny",
        min_level=3,
        temperature=0.7,
        learning_rate=1e-06,
        adam_betas=(0.8, 0.999),
        shared_baseline=True,
        chat_template=False,
        lr_warmup_iterations=0,
        system_prompt="-- be brief",
    )
    words = shlex.split(common.command_line(args, "mlmt_rl.py"))
    assert words[:2] == [sys.executable, "mlmt_rl.py"]
    assert tyro.cli(mlmt_rl.Args, args=words[2:]) == args
    assert common.command_line(mlmt_rl.Args(), "mlmt_rl.py") == shlex.join([sys.executable, "mlmt_rl.py"])
