"""A run folder has one owner and an identity, and loses no work, whatever its user or its machine does."""

import fcntl
import importlib
import json
import os
import re
import resource
import shutil
import subprocess
import sys
import time
import types
from dataclasses import make_dataclass, replace
from pathlib import Path

import pytest
import torch
from conftest import read_jsonl
from test_bad_input import contents, refused  # noqa: F401
from test_resume import REPO, assert_same_run, metric_lines

import common
import mlmt_rl
import runs
import score
from running import command_line, folder


@pytest.fixture
def copied(finished, tmp_path) -> mlmt_rl.Args:
    """The flags that go on with a copy of the finished run."""
    shutil.copytree(finished.run_dir, tmp_path / "run")
    return replace(finished, run_dir=str(tmp_path / "run"), if_run_exists="resume", iterations=13)


# ---- one owner -----------------------------------------------------------------------------------------------------


def test_two_runs_of_one_second_have_two_folders(quick, tmp_path, coin_rewards, monkeypatch):
    """Red if a default name that is taken is written into, or refused."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(time, "strftime", lambda _: "20260101-000000")
    args = [replace(quick(iterations=1), run_dir=None, seed=1) for _ in range(3)]
    for each in args:
        mlmt_rl.main(each)
    name = "runs/three_steps__mlmt_rl__1__20260101-000000"
    assert [each.run_dir for each in args] == [name, f"{name}-2", f"{name}-3"]
    assert len({tuple(metric_lines(each.run_dir)) for each in args}) == 1


def test_a_folder_in_use_is_left_alone(quick, refused, tmp_path, coin_rewards):  # noqa: F811
    """Red if a second process writes into the folder of a run that lives, or if it may not after its end."""
    args = quick(iterations=1)
    mlmt_rl.main(args)
    code = "import pathlib, time; from types import SimpleNamespace; from running import folder; "
    code += "run = SimpleNamespace(folder=pathlib.Path('run'), args=SimpleNamespace(run_dir='run')); "
    code += "folder.claim(run); print('claimed', flush=True); time.sleep(999)"
    environment = os.environ | {"PYTHONPATH": str(REPO)}
    owner = subprocess.Popen([sys.executable, "-c", code], cwd=tmp_path, env=environment, stdout=-1, text=True)
    try:
        assert owner.stdout.readline() == "claimed\n"
        for if_run_exists in ("resume", "delete"):
            if if_run_exists == "resume":  # as where the owner has gone on and deleted it
                shutil.rmtree(tmp_path / "run" / "checkpoint-000001" / "solver")
            error = refused(replace(args, if_run_exists=if_run_exists))
            assert f"another process is writing into the run folder {tmp_path / 'run'}" in error
    finally:
        owner.kill()
        owner.communicate()
    mlmt_rl.main(replace(args, if_run_exists="delete"))
    assert len(metric_lines(tmp_path / "run")) == 2 and not (tmp_path / "run" / "lock").exists()


def test_a_lock_file_that_its_owner_took_along_is_no_lock(tmp_path):
    """Red if two runs can hold one folder: one the file that was deleted, one the new file of that name."""
    run = types.SimpleNamespace(folder=tmp_path, args=types.SimpleNamespace(run_dir=str(tmp_path)))
    flock = fcntl.flock

    def too_late(file, how):
        (tmp_path / "lock").unlink()
        flock(file, how)

    with pytest.MonkeyPatch.context() as patch, pytest.raises(common.InputError, match="another process"):
        patch.setattr(fcntl, "flock", too_late)
        folder.claim(run)
    folder.claim(run)
    folder.release(run)


@pytest.mark.parametrize(
    ("name", "text", "reason"),
    [
        ("metrics.jsonl", None, "does not lead up to checkpoint-000012"),
        ("metrics.jsonl", '{"iteration": 0}\n', "does not lead up to checkpoint-000012"),
        ("metrics.jsonl", "1\n", "a line is no object"),
        ("episodes.jsonl", '{"a": 1}\n', "does not lead up"),
        ("checkpoints.jsonl", None, "does not lead up"),
        ("config.json", '{"args": []}', "is damaged"),
        ("config.json", "[]", "is damaged"),
    ],
)
def test_a_folder_that_does_not_tell_the_whole_story_is_not_resumed(copied, refused, tmp_path, name, text, reason):  # noqa: F811
    """Red if a run goes on without its past, or ends in a traceback where it is used."""
    path = tmp_path / "run" / name
    path.unlink() if text is None else path.write_text(text)
    error = refused(copied)
    assert str(path) in error and "so the run cannot be resumed" in error and reason in error


def test_a_run_goes_on_where_its_numbers_are_the_same(copied, refused, tmp_path):  # noqa: F811
    """Red if float32 weights are loaded into a bfloat16 model, or a GPU's random numbers are left out unnoticed."""
    config = json.loads((tmp_path / "run" / "config.json").read_text())
    assert config["placed"] == {"device": "cpu", "dtype": "float32"}
    (tmp_path / "run" / "config.json").write_text(
        json.dumps(config | {"placed": {"device": "cuda", "dtype": "bfloat16"}})
    )
    error = refused(copied)
    assert "was started on cuda in bfloat16, and goes on only so: here it would be cpu in float32" in error


def test_what_else_is_not_resumed(copied, refused, tmp_path):  # noqa: F811
    assert f"--iterations 9: the run in {tmp_path / 'run'} has done 12" in refused(replace(copied, iterations=9))
    torch.save({"model": 1}, tmp_path / "run" / "checkpoint-000012" / "trainer.pt")
    assert "trainer.pt is damaged: delete" in refused(copied)
    (tmp_path / "run" / "metrics.jsonl").unlink()
    (tmp_path / "run" / "metrics.jsonl").mkdir()
    assert "metrics.jsonl is damaged, so the run cannot be resumed" in refused(copied)


def test_a_run_that_went_on_meanwhile_is_not_written_into(copied, refused, monkeypatch, tmp_path):  # noqa: F811
    """Red if a run goes on from a checkpoint that is not the newest any more when it gets the folder."""
    claim = folder.claim

    def claim_late(run):
        (tmp_path / "run" / "checkpoint-000013").mkdir()
        for name in ("metrics.jsonl", "checkpoints.jsonl"):
            common.write_rows(tmp_path / "run" / name, [{"iteration": 13}])
        claim(run)

    monkeypatch.setattr(folder, "claim", claim_late)
    with pytest.raises(common.InputError, match="went on while this one was starting"):
        mlmt_rl.main(copied)


# ---- an identity ---------------------------------------------------------------------------------------------------


def test_only_six_digits_are_a_checkpoint(quick, tmp_path, coin_rewards):
    """Red if a copy that a user made is deleted, resumed from, or counted."""
    mlmt_rl.main(quick(iterations=1, save_every=1, keep_checkpoints=1))
    others = [
        "checkpoint-000001-copy1",
        "checkpoint-best2",
        "checkpoint-9",
        "checkpoint-best.tmp",
        "checkpoint-0000009",
    ]
    for name in others:
        shutil.copytree(tmp_path / "run" / "checkpoint-000001", tmp_path / "run" / name)
    mlmt_rl.main(quick(iterations=4, save_every=1, keep_checkpoints=1, if_run_exists="resume"))
    left = {path.name for path in (tmp_path / "run").glob("checkpoint-*")}
    assert {*others} <= left and len(left) <= len(others) + 2 and "checkpoint-000004" in left


def test_without_git(quick, tmp_path, coin_rewards, monkeypatch):
    """Red if a run needs git."""
    monkeypatch.setenv("PATH", str(tmp_path))
    mlmt_rl.main(quick(iterations=1))
    assert json.loads((tmp_path / "run" / "config.json").read_text())["git_commit"] is None


@pytest.mark.parametrize("part", ["training", "evaluation"])
@pytest.mark.parametrize("column", ["question", "answer"])
def test_other_problems_are_refused_by_name(quick, refused, tmp_path, coin_rewards, part, column):  # noqa: F811
    """Red if a run goes on with other problems, or other answers, than it was started with."""
    rows = [{"question": f"What is {n} + 1?", "answer": str(n + 1)} for n in range(40)]
    path = tmp_path / "problems.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    mlmt_rl.main(quick(dataset=str(path), iterations=1))
    problems = common.load_problems(str(path), "train" if part == "training" else "test")
    evaluated = {row["question"] for row in read_jsonl(tmp_path / "run" / "episodes.jsonl") if row["phase"] == "eval"}
    problems = [p for p in problems if part == "training" or p.question in evaluated]
    if column == "answer":
        changed = next(row for row in rows if row["question"] == problems[0].question)
        changed["answer"] += "0"
    else:  # a longer question of the same split
        split = "train" if part == "training" else "test"
        changed = next(row for row in rows if row["question"] == problems[0].question)
        words = (f"{changed['question']} {'Think. ' * n}".strip() for n in range(1, 99))
        changed["question"] = next(
            w for w in words if common.load_problems.__globals__["in_test_split"](w) == (split == "test")
        )
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    error = refused(quick(dataset=str(path), iterations=2, if_run_exists="resume"))
    assert f"the {part} prompts or answers are not those that the run in {tmp_path / 'run'} was started with" in error


def test_other_prompt_texts_are_refused(copied, refused, monkeypatch):  # noqa: F811
    """Red if an edit of problems/prompts.py in the middle of a run goes unnoticed."""
    from problems import prompts

    monkeypatch.setattr(prompts, "REFINE", "Once more, please.")
    assert "the training prompts or answers are not those" in refused(copied)


def test_the_date_of_a_template_is_fixed(tmp_path, copied):
    """Red if a prompt depends on the day, for either way in which templates ask for it."""
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(REPO / "tiny")
    texts = []
    for asked in ("{{ strftime_now('%d %b %Y') }}", "{{ date_string }}"):
        tokenizer.chat_template = asked + "{% for m in messages %} {{ m.content }}{% endfor %}"
        texts.append(common.render(tokenizer, [{"role": "user", "content": "x"}]))
    assert texts == ["26 Jul 2024 x"] * 2
    assert json.loads((tmp_path / "run" / "config.json").read_text())["date_in_prompts"] == "2024-07-26"


def test_another_script_does_not_go_on_with_a_run(copied, refused, tmp_path, monkeypatch):  # noqa: F811
    """Red if a copied script's run is continued by its original, or by the script after an edit."""
    config = json.loads((tmp_path / "run" / "config.json").read_text())
    assert config["script"] == "mlmt_rl.py" and len(config["script_sha256"]) == 64
    for changes, named in (({"script": "my_mlmt.py"}, "is one of my_mlmt.py"), ({"script_sha256": "0"}, "was another")):
        (tmp_path / "run" / "config.json").write_text(json.dumps(config | changes))
        error = refused(copied)
        assert named in error and "mlmt_rl.py" in error
    (tmp_path / "run" / "config.json").write_text(json.dumps(config | {"script": "grpo.py"}))
    for if_run_exists in ("raise", "delete"):  # red if a run of another method is deleted
        assert "is one of grpo.py" in refused(replace(copied, if_run_exists=if_run_exists))


def test_a_run_that_has_lost_its_checkpoints_is_not_started_over(copied, refused, tmp_path):  # noqa: F811
    """Red if all rows are erased because someone has made room on the disk."""
    for checkpoint in (tmp_path / "run").glob("checkpoint-*"):
        shutil.rmtree(checkpoint)
    assert "its checkpoints, up to checkpoint-000012, are gone" in refused(copied)


def test_a_copied_script_names_itself(small, tmp_path, problem_file):
    """Red if the command that a copy prints runs the original, or another interpreter."""
    for name in ("problems", "verifiers", "running", "tiny"):
        (tmp_path / name).symlink_to(REPO / name)
    for name in ("common.py", "runs.py", "report.py"):
        shutil.copy(REPO / name, tmp_path)
    shutil.copy(REPO / "grpo.py", tmp_path / "my_grpo.py")
    flags = ["--dataset", problem_file, "--no-report"]
    flags += "--iterations 1 --eval-size 2 --groups-per-batch 2 --group-size 2 --max-new-tokens 8".split()
    command = [sys.executable, "my_grpo.py", *flags]
    ended = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True)
    assert ended.returncode == 0, ended.stderr
    again = re.search(r"to train on: (.+)", ended.stdout)[1]
    assert again.startswith(f"{sys.executable} my_grpo.py ")
    ended = subprocess.run(again, shell=True, cwd=tmp_path, capture_output=True, text=True)
    (run_dir,) = (tmp_path / "runs").iterdir()
    assert ended.returncode == 0 and len(metric_lines(run_dir)) == 3, ended.stderr
    assert json.loads((run_dir / "config.json").read_text())["script"] == "my_grpo.py"


# ---- no work is lost -----------------------------------------------------------------------------------------------


def test_a_full_disk(small, tmp_path, coin_rewards, capsys):
    """Red if a checkpoint that finds no room ends in a traceback, leaves half a folder, or spoils what was written."""
    args = small(iterations=3, save_every=2, eval_every=3)
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (500_000, limits[1]))  # bytes of a file: the weights take more
    try:
        with pytest.raises(SystemExit) as ending:
            common.run(mlmt_rl.main, args, "mlmt_rl.py")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    error = capsys.readouterr().err
    assert ending.value.code == 2 and error.startswith("error: ") and "Traceback" not in error
    del ending  # and with it the frames of the run, which hold its lock
    assert "checkpoint-000002 cannot be written" in error and "make room, then go on with" in error
    assert not list((tmp_path / "run").glob("checkpoint-*")) and len(metric_lines(tmp_path / "run")) == 3
    mlmt_rl.main(replace(args, if_run_exists="resume"))
    mlmt_rl.main(replace(args, run_dir=str(tmp_path / "whole")))
    assert_same_run(tmp_path / "run", tmp_path / "whole")


def test_rows_are_written_whole_or_not_at_all(tmp_path):
    """Red if a row that finds no room stays behind in part, where the next one would be written onto it."""
    code = "import resource, pathlib, common; path = pathlib.Path('rows.jsonl'); common.write_rows(path, [{'a': 1}]); "
    code += "resource.setrlimit(resource.RLIMIT_FSIZE, (40, 40)); common.write_rows(path, [{'a': 'x' * 99}])"
    environment = os.environ | {"PYTHONPATH": str(REPO)}
    ended = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, env=environment, capture_output=True, text=True)
    assert "InputError: rows.jsonl cannot be written: File too large" in ended.stderr
    assert (tmp_path / "rows.jsonl").read_text() == '{"a": 1}\n'


def test_too_little_room_is_found_at_the_start(small, refused, monkeypatch):  # noqa: F811
    """Red if a run starts whose first checkpoint cannot be written."""
    monkeypatch.setattr(shutil, "disk_usage", lambda _: types.SimpleNamespace(free=1_000_000))
    assert re.search(r"a checkpoint takes 0.01 GB, but .* has 0.00 GB free", refused(small()))


def test_sizes_are_named_at_the_start(small, tmp_path, coin_rewards, capsys):
    """Red if the memory or the room that is named is not what the run takes: two models of 1.7 MB and their state."""
    mlmt_rl.main(small(iterations=1, save_every=1))
    output = capsys.readouterr().out
    lines = output.splitlines()
    assert max(map(len, lines[:3])) <= 80
    found = re.search(r"memory without activations ([\d.]+) GB; a\s+checkpoint takes ([\d.]+) GB", output)
    files = [path.stat().st_size for path in (tmp_path / "run" / "checkpoint-000001").rglob("*.*")]
    assert float(found[2]) == pytest.approx(sum(files) / 1e9, abs=0.006)
    weights = (tmp_path / "run" / "checkpoint-000001" / "solver" / "model.safetensors").stat().st_size
    assert float(found[1]) == pytest.approx((3 + 2 * 3) * weights / 1e9, abs=0.006)  # gradient and two moments each


@pytest.mark.parametrize(("keep", "kept"), [(1, 11), (2, 14), (9, 17), (0, 32)])
def test_room_for_all_that_are_kept(tmp_path, monkeypatch, keep, kept):
    """Models of 3 GB and a state of 5 GB, saved after iterations 2, 4, 6 and 7; keep 0: everything. The best one may be
    kept besides."""
    state = {"part": torch.nn.ParameterList([torch.empty(1_250_000_000, device="meta")])}
    args = types.SimpleNamespace(keep_checkpoints=keep, iterations=7, save_every=2)
    run = types.SimpleNamespace(sizes={"models": 0, "saved": 3e9}, args=args, folder=tmp_path)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: types.SimpleNamespace(free=1e12))
    assert f"{kept}.00 GB for all that are kept" in runs.expected_sizes(run, state)


def test_only_the_newest_checkpoint_holds_the_optimisers(quick, tmp_path, coin_rewards):
    """Red if older checkpoints take three times the room, or if the newest lacks what a resumed run needs."""
    mlmt_rl.main(quick(iterations=4, save_every=1, keep_checkpoints=3))
    kept = sorted(path.parent.name for path in (tmp_path / "run").glob("checkpoint-*/solver"))
    assert kept[-3:] == [f"checkpoint-{n:06d}" for n in (2, 3, 4)]
    assert [path.parent.name for path in (tmp_path / "run").glob("*/trainer.pt")] == ["checkpoint-000004"]
    shutil.rmtree(tmp_path / "run" / "checkpoint-000004")
    with pytest.raises(
        common.InputError, match="checkpoint-000003/trainer.pt is missing .older.* start a new run from"
    ):
        mlmt_rl.main(quick(iterations=5, keep_checkpoints=3, if_run_exists="resume"))


@pytest.mark.parametrize("where", ["link", "here", "beside a leftover"])
def test_delete_works_everywhere(quick, tmp_path, coin_rewards, monkeypatch, where):
    """Red if --if-run-exists delete renames a link, fails on the working directory, or is refused."""
    mlmt_rl.main(quick(iterations=1))
    (tmp_path / "run" / "note").write_text("old")
    (tmp_path / "link").symlink_to(tmp_path / "run")
    (tmp_path / "run.deleted").mkdir()
    (tmp_path / "run.deleted" / "precious").write_text("kept")
    if where == "here":
        monkeypatch.chdir(tmp_path / "run")
    name = {"link": tmp_path / "link", "here": ".", "beside a leftover": tmp_path / "run"}[where]
    mlmt_rl.main(quick(iterations=2, seed=2, run_dir=name, if_run_exists="delete"))
    assert (tmp_path / "link").is_symlink() and (tmp_path / "run.deleted" / "precious").exists()
    names = {path.name for path in (tmp_path / "run").iterdir()}
    assert names == {"config.json", "metrics.jsonl", "episodes.jsonl", "checkpoints.jsonl", "checkpoint-000002"}


def test_a_delete_that_is_cut_short_can_be_repeated(quick, tmp_path, coin_rewards, monkeypatch):
    """Red if a kill while a run is deleted leaves a folder that is neither deleted nor refused on resume."""
    mlmt_rl.main(quick(iterations=1))
    with monkeypatch.context() as patch:
        patch.setattr(Path, "unlink", lambda *_, **__: (_ for _ in ()).throw(KeyboardInterrupt))
        with pytest.raises(KeyboardInterrupt):
            mlmt_rl.main(quick(iterations=1, if_run_exists="delete"))
    with pytest.raises(common.InputError, match="was started with None"):
        mlmt_rl.main(quick(iterations=1, if_run_exists="resume"))
    mlmt_rl.main(quick(iterations=1, if_run_exists="delete"))
    assert len(metric_lines(tmp_path / "run")) == 2


def test_where_folders_cannot_be_opened(quick, tmp_path, coin_rewards, monkeypatch):
    """Red if Windows, which opens no folder and syncs no file that is open for reading only, writes no checkpoint."""
    opened, os_open, fsync = {}, os.open, os.fsync

    def windows_open(path, flags, *mode, **more):
        if Path(path).is_dir():
            raise PermissionError(13, "Permission denied", str(path))
        descriptor = os_open(path, flags, *mode, **more)
        opened[descriptor] = flags
        return descriptor

    def windows_fsync(descriptor):
        assert opened.get(descriptor, os.O_RDWR) & (os.O_RDWR | os.O_WRONLY)
        fsync(descriptor)

    monkeypatch.setattr(os, "open", windows_open)
    monkeypatch.setattr(os, "fsync", windows_fsync)
    monkeypatch.setattr(folder, "fcntl", None)
    mlmt_rl.main(quick(iterations=1))
    assert (tmp_path / "run" / "checkpoint-000001" / "trainer.pt").exists()


# ---- numbers that go bad -------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("network", "named"), [(0, "solver"), (1, "feedback"), (2, "value")])
def test_a_gradient_that_is_not_finite_stops_before_the_step(
    quick, tmp_path, coin_rewards, monkeypatch, network, named
):
    """Red if a step is made with NaN, or if iteration, network or last good checkpoint are not named."""
    steps, clip = [], torch.nn.utils.clip_grad_norm_
    order = [0, 2, 1]  # in an iteration the solver steps first, then the value head, then the feedback model

    def spoil(weights, max_norm):
        steps.append([weight.detach().clone() for weight in weights])
        if len(steps) == 2 * 3 + order.index(network) + 1:  # in iteration 3
            weights[0].grad.view(-1)[0] = float("nan")
            spoil.weights, spoil.before = weights, steps[-1]
        return clip(weights, max_norm)

    monkeypatch.setattr(torch.nn.utils, "clip_grad_norm_", spoil)
    message = f"iteration 3: the norm of the gradient of {named} is nan, so no step was made; the last good checkpoint"
    with pytest.raises(common.InputError, match=f"{message}: .*checkpoint-000002"):
        mlmt_rl.main(quick(iterations=4, save_every=2))
    assert all(torch.equal(weight, before) for weight, before in zip(spoil.weights, spoil.before))
    assert len(metric_lines(tmp_path / "run")) == 3 and common.last_checkpoint(tmp_path / "run").name[-1] == "2"
    monkeypatch.undo()


def test_a_loss_that_is_not_finite_stops_before_the_step(quick, coin_rewards, monkeypatch):
    """Red if a step is made with an infinite loss, even where its gradient is finite, or if the loss is not named."""
    monkeypatch.setattr(score, "policy_loss", lambda new, *_: new.sum(1) + new.detach().sum(1) * float("inf"))
    steps = []
    monkeypatch.setattr(torch.optim.Adam, "step", lambda *_: steps.append(1))
    message = "iteration 1: policy_solver is (nan|-?inf), so no step of solver was made; .*: none yet"
    with pytest.raises(common.InputError, match=message):
        score.main(quick(script=score, kl_coef=0.0))
    assert not steps


def test_a_metric_that_is_not_finite_is_not_written(quick, tmp_path, coin_rewards, monkeypatch):
    """Red if metrics.jsonl can hold NaN, which is no JSON."""
    monkeypatch.setattr(common, "repeated", lambda *_: float("nan"))
    with pytest.raises(common.InputError, match="eval/repeated is nan; .*: none yet"):
        score.main(quick(script=score))
    assert "NaN" not in (tmp_path / "run" / "metrics.jsonl").read_text()
    with pytest.raises(ValueError):
        common.write_rows(tmp_path / "rows.jsonl", [{"a": float("nan")}])


# ---- Weights & Biases ----------------------------------------------------------------------------------------------


class FakeWandb(types.ModuleType):
    """Records what is sent."""

    def __init__(self, key):
        super().__init__("wandb")
        self.key, self.rows, self.inits = key, [], []

    def login(self, prompt):
        return self.key is not None and not prompt

    def init(self, **flags):
        self.inits.append(flags)

    def log(self, row, step):
        self.rows.append((step, dict(row)))


def test_every_row_goes_to_weights_and_biases(quick, tmp_path, coin_rewards, monkeypatch):
    """Red if iteration 0 is not sent, if two runs share an id, or if a resumed one gets another."""
    wandb = FakeWandb("key")
    monkeypatch.setitem(sys.modules, "wandb", wandb)
    monkeypatch.delenv("WANDB_MODE", raising=False)
    for name in ("a", "b"):
        mlmt_rl.main(quick(track=True, wandb_project="mine", run_dir=tmp_path / name / "run", iterations=2))
    mlmt_rl.main(quick(track=True, run_dir=tmp_path / "a" / "run", iterations=3, if_run_exists="resume"))
    assert [step for step, _ in wandb.rows] == [0, 1, 2, 0, 1, 2, 3]
    assert [row for _, row in wandb.rows[:3]] == read_jsonl(tmp_path / "a" / "run" / "metrics.jsonl")[:3]
    first, second, resumed = wandb.inits
    assert first["project"] == "mine" and first["id"] == resumed["id"] != second["id"]


def test_weights_and_biases_without_login(small, refused, monkeypatch):  # noqa: F811
    """Red if a missing login is found after files were written, or ends in a traceback."""
    monkeypatch.setitem(sys.modules, "wandb", FakeWandb(None))
    monkeypatch.delenv("WANDB_MODE", raising=False)
    assert "--track: log in first (wandb login)" in refused(small(track=True))
    wandb = FakeWandb("wrong")
    wandb.init = lambda **_: (_ for _ in ()).throw(RuntimeError("invalid key\nmore"))
    monkeypatch.setitem(sys.modules, "wandb", wandb)
    assert "--track: Weights & Biases cannot be reached: invalid key" in refused(small(track=True))


def test_a_flag_without_its_text_is_no_flag_that_nothing_sets(monkeypatch):
    """Whoever copies a script adds a line: red if the flag is left out of the command line without a word."""
    source = "class Args:\n    # ---- rollout\n    my_coef: float = 0.5\n    top_p: float = 1.0  # nucleus sampling\n"
    Args = make_dataclass("Args", [("my_coef", float, 0.5), ("top_p", float, 1.0)])
    monkeypatch.setattr("inspect.getsource", lambda _: source)
    with pytest.raises(TypeError, match="my_coef: a flag is one line, its text a comment on it"):
        common.parse(Args, "")


# ---- the screen ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("script", ["grpo", "eval", "report"])
def test_help_shows_groups_in_80_columns(script, monkeypatch, capsys):
    """Red if the flags stand in one box, if a flag is missing, or if a line needs a wider window."""
    module = importlib.import_module(script)
    monkeypatch.delenv("COLUMNS", raising=False)
    monkeypatch.setattr("sys.argv", [f"{script}.py", "--help"])
    with pytest.raises(SystemExit) as ending:
        common.parse(module.Args, module.__doc__)
    text = capsys.readouterr().out
    assert not ending.value.code and max(map(len, text.splitlines())) <= 80
    source = (REPO / f"{script}.py").read_text()
    headings = re.findall(r"^    # ---- (.+)$", source.split("class Args")[1].split("\n\n\n")[0], re.MULTILINE)
    boxes = re.findall(r"^(?:╭─)? ([\w-]+) options\b", text, re.MULTILINE)
    assert boxes == [name.replace(" ", "-") for name in headings]
    flags = source.split("class Args")[1].split("\n\n\n")[0]
    for name in re.findall(r"^    (\w+): (?!Annotated\[tuple)", flags, re.MULTILINE):
        assert f"--{name.replace('_', '-')} " in text or f"--{name.replace('_', '-')}," in text, name


def test_an_equation_is_broken_where_its_columns_part():
    """Red if what explains a formula is wrapped into it, or a short name stands alone on a line."""
    equation = f"    A = R - V(x)      B = R - V(x,z)      {'what explains them, ' * 2}in words"
    assert command_line.narrow(equation).splitlines() == [
        "    A = R - V(x)      B = R - V(x,z)",
        "        what explains them, what explains them, in words",
    ]
    long = f"    critic    {'sum_i Q_i ' * 8}".rstrip()
    assert command_line.narrow(long).splitlines()[0].startswith("    critic    sum_i")


def test_help_into_head():
    """Red if a reader that goes away, such as head, leaves a traceback."""
    for reader, lines in (("head -3", 3), ("true", 0)):  # one that goes early, one that is gone before the first line
        command = f"{sys.executable} report.py --help | {reader}"
        ended = subprocess.run(command, shell=True, cwd=REPO, capture_output=True, text=True)
        assert ended.stderr == "" and len(ended.stdout.splitlines()) == lines


def test_evaluations_fit_80_columns(small, coin_rewards, capsys):
    """Red if the line of an evaluation breaks in a window of 80 columns."""
    mlmt_rl.main(small(iterations=1))
    output = capsys.readouterr().out + "\n"
    lines = [line for line in output.splitlines() if "eval  " in line or line.startswith("  ")]
    assert len(lines) >= 2 and max(map(len, lines)) <= 80
    assert all(re.search(r"[a-z_12] \d\.\d{3}$", line) for line in lines)  # no figure without its name


def test_explained_variance():
    """1 where all is foreseen, 0 for a constant, below 0 for worse; nothing where nothing varies."""
    found = torch.tensor([[0.0], [1.0], [1.0], [0.0]])
    for predicted, expected in ((found, 1.0), (found + 3, 1.0), (0 * found, 0.0), (found / 2, 0.75), (1 - found, -3.0)):
        assert runs.explained_variance(predicted, found) == pytest.approx(expected)
    assert runs.explained_variance(found, 0 * found) is None
