"""A mistake of the person who starts a run ends it at once: one sentence, exit code 2, and not a byte written."""

import importlib.util
import json
import os
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
import tyro
from conftest import read_jsonl, write_jsonl
from transformers import AutoTokenizer, LlamaConfig

import archer
import common
import expert_iteration
import grpo
import mlmt_rl
import rl_guided_score
import score

REPO = Path(__file__).resolve().parents[1]


def contents(folder: Path) -> dict[str, tuple]:
    """Everything below a folder: names, bytes and times."""
    files = {}
    for path in sorted(folder.rglob("*")):
        files[str(path)] = (path.stat().st_mtime_ns, path.read_bytes() if path.is_file() else None)
    return files


@pytest.fixture
def refused(tmp_path, monkeypatch, capsys):
    """A function of flags: runs main, asserts that it is refused as it should be, and returns the sentence."""

    def refuse(args) -> str:
        script = type(args).__module__
        monkeypatch.chdir(tmp_path)
        before = contents(tmp_path)
        capsys.readouterr()
        with pytest.raises(SystemExit) as ending:
            common.run(sys.modules[script].main, args, f"{script}.py")
        output, error = capsys.readouterr()
        assert ending.value.code == 2
        assert error.startswith("error: ") and error.endswith("\n") and error.count("\n") == 1, error
        assert output == "" and contents(tmp_path) == before
        return error.strip()

    return refuse


# ---- data sets -----------------------------------------------------------------------------------------------------

GOOD = [{"question": f"What is {n} + 1?", "answer": str(n + 1)} for n in range(40)]


def test_unknown_data_set(small, refused):
    """Red if a misspelt name is looked for on the hub, or if the message hides the names there are."""
    error = refused(small(dataset="arithmetics"))
    assert "'arithmetics'" in error and "gsm8k" in error and ".jsonl" in error


def test_missing_file(small, refused, tmp_path):
    """Red if a file that is not there ends in a traceback."""
    assert f"{tmp_path}/none.csv does not exist" in refused(small(dataset=f"{tmp_path}/none.csv"))
    assert f"{tmp_path}/none.csv does not exist" in refused(small(eval_dataset=f"{tmp_path}/none.csv"))


@pytest.mark.parametrize("column", ["question", "answer"])
def test_missing_column(small, refused, tmp_path, column):
    """Red if the message does not name the file, the column and the columns that are there."""
    rows = [{("other" if key == column else key): value for key, value in row.items()} for row in GOOD]
    path = write_jsonl(tmp_path / "rows.jsonl", rows)
    error = refused(small(dataset=path))
    assert path in error and f"no column {column}" in error
    assert error.endswith(f"its columns are {', '.join(rows[0])}")


@pytest.mark.parametrize("empty", ["", "  \n", None])
@pytest.mark.parametrize("column", ["question", "answer"])
def test_empty_cell(small, refused, tmp_path, column, empty):
    """Red if an empty cell is trained on, or if its row is counted from another start than 1."""
    rows = [row | {column: empty} if number == 17 else row for number, row in enumerate(GOOD, 1)]
    path = write_jsonl(tmp_path / "rows.jsonl", rows)
    error = refused(small(dataset=path))
    assert f"{path} row 17:" in error and f"{column} is empty" in error


BROKEN_FILES = {
    "line.jsonl": b'{"question": "1 + 1?", "answer": "2"}\n{"question": "1 + 2?", "ans\n',
    "list.json": b'[{"question": "1 + 1?", "answer": "2"},',
    "object.json": b'{"question": "1 + 1?", "answer": "2"}',
    "numbers.jsonl": b"1\n2\n",
    "empty.jsonl": b"",
    "empty.csv": b"",
    "header_only.csv": b"question,answer\n",
    "latin.csv": "question,answer\ncafé,2\n".encode("latin-1"),
    "nul.jsonl": b'\x00\x00{"question": 1}\n',
    "text.parquet": b"question,answer\n1 + 1?,2\n",
}


@pytest.mark.parametrize("name", BROKEN_FILES)
def test_broken_file(small, refused, tmp_path, name):
    """Red if a file that cannot be read ends in a traceback, or is read in part."""
    (tmp_path / name).write_bytes(BROKEN_FILES[name])
    assert str(tmp_path / name) in refused(small(dataset=str(tmp_path / name)))


def test_split_that_does_not_exist(small, refused, tmp_path):
    """Red if a split is replaced by another one."""
    path = write_jsonl(tmp_path / "rows.jsonl", GOOD)
    for flags in ({"dataset": "arithmetic"}, {"dataset": path}, {"eval_dataset": path}, {"eval_dataset": "gsm8k"}):
        name = "eval_split" if "eval_dataset" in flags else "split"
        error = refused(small(**flags, **{name: "validation"}))
        assert "'validation'" in error and "train" in error and "test" in error
    assert "'train'" in refused(small(eval_dataset="math500", eval_split="train"))


def test_nothing_left_to_train_on(small, refused, tmp_path):
    """Red if a run starts without a problem to train on or to evaluate on."""
    path = write_jsonl(tmp_path / "rows.jsonl", GOOD)
    assert path in refused(small(dataset=path, eval_split="all"))
    assert "level 9" in refused(small(dataset=path, min_level=9))
    path = write_jsonl(tmp_path / "two.jsonl", [row for row in GOOD if row["question"] == "What is 0 + 1?"] * 2)
    assert path in refused(small(dataset=path))


# ---- flags ---------------------------------------------------------------------------------------------------------


def test_prompt_longer_than_the_context(small, refused, tmp_path, problem_file):
    """Red if a prompt that does not fit is cut, or found out in the middle of a run."""
    shutil.copytree(REPO / "tiny", tmp_path / "short")
    config = json.loads((tmp_path / "short" / "config.json").read_text())
    (tmp_path / "short" / "config.json").write_text(json.dumps(config | {"max_position_embeddings": 30}))
    error = refused(small(policy_lm=str(tmp_path / "short")))
    assert f"{problem_file} row 1:" in error and "--policy-lm reads 30" in error
    error = refused(small(feedback_lm=str(tmp_path / "short")))
    assert f"{problem_file} row 1:" in error and "--feedback-lm reads 30" in error


def test_a_prompt_that_just_fits():
    """Red if the room for the responses is counted one token too small or too large."""
    tokenizer = AutoTokenizer.from_pretrained(REPO / "tiny")
    problems = [common.Problem(row["question"], row["answer"], id=row["question"]) for row in GOOD]
    prompts = [common.attempt_messages(problem) for problem in problems]
    longest = max(len(common.encode_prompt(tokenizer, prompt)[0]) for prompt in prompts)
    fits, short = (LlamaConfig(max_position_embeddings=longest + 10 - less) for less in (0, 1))
    common.check_lengths(tokenizer, prompts, problems, 10, fits, "--policy-lm")
    with pytest.raises(common.InputError, match=f"--policy-lm reads {longest + 9}"):
        common.check_lengths(tokenizer, prompts, problems, 10, short, "--policy-lm")


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_no_gpu(small, refused):
    """Red if --device cuda falls back to the CPU."""
    assert "--device cuda" in refused(small(device="cuda"))


@pytest.mark.parametrize(
    ("flags", "named"),
    [
        ({"rollout_size": 10, "num_minibatches": 3}, ("--rollout-size 10", "--num-minibatches 3")),
        ({"rollout_size": 0}, ("--rollout-size", "0")),
        ({"iterations": -1}, ("--iterations", "-1")),
        ({"eval_every": 0}, ("--eval-every", "0")),
        ({"keep_checkpoints": -1}, ("--keep-checkpoints", "-1")),
        ({"temperature": 0.0}, ("--temperature 0",)),
        ({"temperature": 1e-300}, ("--temperature 1e-300", "at least 0.01")),
        ({"policy_lm": ""}, ("--policy-lm is empty",)),
        ({"eval_dataset": ""}, ("--eval-dataset is empty",)),
        ({"adam_betas": (0.9, float("nan"))}, ("--adam-betas must not be nan",)),
        ({"exp_name": "../x"}, ("--exp-name ../x",)),
        ({"feedback_control": "shuffled", "feedback_every": 0, "eval_size": 1}, ("--feedback-control", "--eval-size")),
        ({"min_level": 9}, ("--min-level 9", "no problem has a level")),
        ({"top_p": 1.5}, ("--top-p 1.5",)),
        ({"seed": 2**32}, ("--seed", str(2**32))),
        ({"learning_rate": -1e-4}, ("--learning-rate", "-0.0001")),
        ({"value_lr": float("nan")}, ("--value-lr", "nan")),
    ],
    ids=str,
)
def test_sizes_that_cannot_work(small, refused, flags, named):
    """Red if a size that cannot work is rounded, or fails later than at the start."""
    error = refused(small(**flags))
    assert all(part in error for part in named), error


@pytest.mark.parametrize(
    ("script", "flags", "named"),
    [
        (score, {"baseline": "leave-one-out", "rollout_size": 1}, "--baseline leave-one-out needs"),
        (score, {"offline_first_turn": 1.5}, "--offline-first-turn 1.5 must be at most 1"),
        (rl_guided_score, {"gamma": 1.1}, "--gamma 1.1 must be at most 1"),
        (mlmt_rl, {"feedback_control": "fixed"}, "--feedback-control fixed needs --feedback-every 0"),
        (mlmt_rl, {"joint_kl": True, "feedback_every": 0}, "--joint-kl trains feedback, which --feedback-every 0"),
        (mlmt_rl, {"value_shaping": 0.5, "feedback_every": 0}, "--value-shaping trains feedback"),
        (mlmt_rl, {"max_grad_norm": 0.0}, "--max-grad-norm 0 lets no weight move"),
        (mlmt_rl, {"joint_kl": True, "kl_estimator": "k3_loss"}, "--joint-kl needs --kl-estimator k1_reward"),
        (mlmt_rl, {"star_samples": 0}, "--star-samples must not be 0"),
        (score, {"rollout_size": 10, "num_minibatches": 3}, "--num-minibatches 3"),
        (rl_guided_score, {"use_smart_corrections": False}, "--no-use-smart-corrections needs"),
        (archer, {"tau": 1.5}, "--tau 1.5 must be at most 1"),
        (archer, {"capacity": 0}, "--capacity must not be 0"),
        (archer, {"critic_batch_size": 3}, "--critic-batch-size 3"),
        (archer, {"critic_lm": "none", "critic_batch_size": 4}, "--critic-lm none cannot be loaded"),
        (grpo, {"group_size": 1}, "--group-size 1: a group needs at least 2 responses"),
        (
            grpo,
            {"num_minibatches": 3},
            "--group-size 2 times --groups-per-batch 2 does not divide by --num-minibatches 3",
        ),
        (expert_iteration, {"sampling_rounds": 0}, "--sampling-rounds must not be 0"),
        (grpo, {"overlong_buffer": 9}, "--overlong-buffer 9 must be at most --max-new-tokens 8"),
        (grpo, {"prompt_template": "brief"}, "unknown --prompt-template brief"),
    ],
    ids=str,
)
def test_sizes_that_a_sibling_cannot_work_with(small, refused, script, flags, named):
    """Red if a flag of its own escapes the checks."""
    assert named in refused(small(script=script, **flags))


@pytest.mark.parametrize(
    "script", [score, rl_guided_score, archer, grpo, expert_iteration], ids=lambda script: script.__name__
)
def test_siblings_refuse_the_same_mistakes(small, refused, tmp_path, script):
    """Red if a block that every script has for itself is missing in one."""
    sizes = {"critic_batch_size": 4} if script is archer else {}
    mistakes = {
        "'arithmetics'": {"dataset": "arithmetics"},
        "--policy-lm none cannot be loaded": {"policy_lm": "none"},
        "--device cuda": {"device": "cuda"},
        "the model of --policy-lm reads 8192": {"max_new_tokens": 9000},
    }
    for message, flags in mistakes.items():
        if message != "--device cuda" or not torch.cuda.is_available():
            error = refused(small(script=script, **sizes | flags))
            assert message in error
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "metrics.jsonl").write_text("precious\n")
    assert "holds other files than a run's" in refused(small(script=script, **sizes))


@pytest.mark.skipif(importlib.util.find_spec("wandb") is not None, reason="wandb is installed")
def test_track_without_wandb(small, refused):
    """Red if a missing package ends in a traceback, or in a run that is not tracked."""
    error = refused(small(track=True))
    assert "--track" in error and "pip install wandb" in error


# ---- models --------------------------------------------------------------------------------------------------------


def test_model_that_does_not_exist(small, refused, tmp_path):
    """Red if the message does not name the flag and the folder."""
    for flag in ("policy_lm", "feedback_lm"):
        error = refused(small(**{flag: str(tmp_path / "none")}))
        assert f"--{flag.replace('_', '-')} {tmp_path / 'none'} cannot be loaded" in error


# ---- run folders ---------------------------------------------------------------------------------------------------


def test_run_folder_that_exists(small, refused, tmp_path):
    """Red if a run writes into a folder that it was not told to go on with."""
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "metrics.jsonl").write_text("precious\n")
    error = refused(small())
    assert f"--run-dir {tmp_path / 'run'} holds other files than a run's" in error


@pytest.mark.parametrize("if_run_exists", ["resume", "delete"])
def test_folder_that_is_no_run(small, refused, tmp_path, if_run_exists):
    """Red if a folder of other files, or a file, is resumed or deleted because --run-dir names it."""
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "thesis.tex").write_text("precious\n")
    assert str(tmp_path / "run") in refused(small(if_run_exists=if_run_exists))
    file = tmp_path / "run" / "thesis.tex"
    assert str(file) in refused(small(if_run_exists=if_run_exists, run_dir=file))
    model = shutil.copytree(REPO / "tiny" / "functions", tmp_path / "model")  # which has a config.json too
    error = refused(small(if_run_exists=if_run_exists, run_dir=model))
    assert f"--run-dir {model} holds other files than a run's" in error
    error = refused(replace(small(if_run_exists=if_run_exists), run_dir=None))
    assert f"--if-run-exists {if_run_exists} needs a --run-dir" in error


@pytest.mark.parametrize("if_run_exists", ["raise", "resume", "delete"])
def test_run_folder_that_cannot_be_written(small, refused, tmp_path, if_run_exists):
    """Red if a folder that cannot be made ends in a traceback."""
    (tmp_path / "file").write_text("precious\n")
    assert str(tmp_path / "file" / "run") in refused(small(run_dir=tmp_path / "file" / "run"))


@pytest.fixture
def copied(finished, tmp_path) -> mlmt_rl.Args:
    """The flags that go on with a copy of the finished run."""
    shutil.copytree(finished.run_dir, tmp_path / "run")
    return replace(finished, run_dir=str(tmp_path / "run"), if_run_exists="resume", iterations=14)


DAMAGED = ["trainer.pt", "solver/model.safetensors", "feedback/model.safetensors", "solver/config.json"]


@pytest.mark.parametrize("size", ["half", "nothing", "missing"])
@pytest.mark.parametrize("name", DAMAGED)
def test_checkpoint_that_is_cut_short(copied, refused, tmp_path, name, size):
    """Red if a damaged checkpoint ends in a traceback, is passed over in silence, or damages the run further."""
    path = tmp_path / "run" / "checkpoint-000012" / name
    if size == "missing":
        path.unlink()
    else:
        os.truncate(path, path.stat().st_size // 2 if size == "half" else 0)
    error = refused(copied)
    named = path if name == "trainer.pt" else path.parent
    assert str(named) in error


def test_advice_that_can_be_followed(copied, refused, tmp_path):
    """Red if a checkpoint is to be deleted where the one before it cannot be resumed, having lost its optimisers."""
    shutil.rmtree(tmp_path / "run" / "checkpoint-000012" / "solver")
    assert "solver is missing: delete" in refused(copied)
    for path in (tmp_path / "run").glob("checkpoint-0000[01][0-9]/trainer.pt"):
        path.unlink()
    error = refused(copied)
    assert f"solver is missing: start a new run from {tmp_path / 'run' / 'checkpoint-0000'}" in error
    for name, reason in (("run", "it is no model, but holds some, such as"), ("empty", "it holds no model")):
        (tmp_path / name).mkdir(exist_ok=True)
        error = refused(replace(copied, policy_lm=str(tmp_path / name), run_dir=str(tmp_path / "other")))
        assert f"--policy-lm {tmp_path / name} cannot be loaded: {reason}" in error


def test_the_checkpoint_before_a_damaged_one_still_works(copied, finished, tmp_path):
    """Red if the advice of the message, to delete the damaged checkpoint, does not lead to a whole run again."""
    shutil.rmtree(tmp_path / "run" / "checkpoint-000012")
    mlmt_rl.main(replace(copied, iterations=10))
    rows, whole = (read_jsonl(Path(args.run_dir) / "metrics.jsonl") for args in (copied, finished))
    assert [row["iteration"] for row in rows] == list(range(11))
    assert rows[10]["rollout/response_length_1"] == whole[10]["rollout/response_length_1"]
    assert rows[10]["losses/grad_norm_solver"] == whole[10]["losses/grad_norm_solver"]


@pytest.mark.parametrize("name", ["config.json", "metrics.jsonl"])
def test_run_files_that_are_damaged(copied, refused, tmp_path, name):
    """Red if a damaged file of the run folder ends in a traceback, or takes others with it."""
    path = tmp_path / "run" / name
    path.write_text("{\n" + path.read_text()[:-20] + "\n")
    assert str(path) in refused(copied)


def test_delete_waits_until_everything_else_is_right(copied, refused, tmp_path):
    """Red if --if-run-exists delete has deleted the old run when the new one turns out not to work."""
    refused(replace(copied, if_run_exists="delete", policy_lm=str(tmp_path / "none")))
    refused(replace(copied, if_run_exists="delete", dataset=str(tmp_path / "none.csv")))


# ---- as a user sees it ---------------------------------------------------------------------------------------------


def test_unknown_flag(capsys):
    """Red if a misspelt flag is taken for another one."""
    with pytest.raises(SystemExit) as ending:
        tyro.cli(mlmt_rl.Args, args=["--learning-rat", "1e-3"])
    assert ending.value.code == 2 and "learning-rat" in capsys.readouterr().err


def test_from_the_shell(tmp_path):
    """Red if the script itself does not turn mistakes into one line and exit code 2."""
    write_jsonl(tmp_path / "rows.jsonl", [row | {"answer": ""} if n == 16 else row for n, row in enumerate(GOOD)])
    before = contents(tmp_path)
    command = [sys.executable, str(REPO / "mlmt_rl.py"), "--dataset", "rows.jsonl"]
    ended = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True)
    assert ended.returncode == 2 and "rows.jsonl row 17: the answer is empty" in ended.stderr
    assert ended.stderr.startswith("error: ") and ended.stderr.count("\n") == 1, ended.stderr
    assert contents(tmp_path) == before


def test_a_file_of_someone_else(capsys):
    """Red if a folder that may not be read ends in a traceback, or a mistake of ours that names no file is hidden."""

    def main(name):
        raise PermissionError(13, "Permission denied", name)

    with pytest.raises(SystemExit) as ending:
        common.run(main, "model/config.json", "")
    assert (ending.value.code, capsys.readouterr().err) == (2, "error: no permission to use model/config.json\n")
    with pytest.raises(PermissionError):
        common.run(main, None, "")


def test_a_terminal_that_knows_ascii_alone():
    """Red if ± ends an evaluation in a traceback, after hours."""
    command = [sys.executable, "-c", "import common; common.run(lambda args: print('\xb1'), None, '')"]
    environment = os.environ | {"PYTHONIOENCODING": "ascii", "PYTHONPATH": str(REPO)}
    ended = subprocess.run(command, env=environment, capture_output=True, text=True)
    assert (ended.stdout, ended.stderr) == ("\\xb1\n", "")


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="/dev/full is a Linux device")
def test_output_onto_a_full_disk():
    """Red if `python grpo.py > log` ends in a traceback where the disk is full, or as if nothing had happened."""
    command = [sys.executable, "-c", "import common; common.run(lambda args: print('x', flush=True), None, '')"]
    with open("/dev/full", "w") as full:
        ended = subprocess.run(command, cwd=REPO, stdout=full, stderr=subprocess.PIPE, text=True)
    assert ended.stderr == "error: output cannot be written: No space left on device\n"
    assert ended.returncode == 1


def test_more_than_the_memory_holds(capsys):
    """Red if numpy's word for a full memory, which is not torch's, ends in a traceback."""
    with pytest.raises(SystemExit) as ending:
        common.run(lambda args: np.empty(2**50), None, "")
    assert ending.value.code == 1 and "error: the memory is full; less is needed with " in capsys.readouterr().err


@pytest.mark.parametrize(
    ("script", "flag"),
    [(mlmt_rl, "feedback_lm"), (rl_guided_score, "feedback_lm"), (score, "policy_lm"), (grpo, "policy_lm")],
    ids=lambda part: getattr(part, "__name__", part),
)
def test_a_template_without_the_question_is_refused_at_the_start(small, refused, tmp_path, script, flag):
    """Red if a template in which the question's end cannot be found is met in the first rollout only."""
    shutil.copytree(REPO / "tiny", tmp_path / "silent", ignore=shutil.ignore_patterns("functions"))
    tokenizer = AutoTokenizer.from_pretrained(tmp_path / "silent")
    tokenizer.chat_template = "{{ messages[0].role }}"
    tokenizer.save_pretrained(tmp_path / "silent")
    error = refused(small(script=script, **{flag: str(tmp_path / "silent")}))
    assert "must show the last message once: --no-chat-template" in error
