"""What several test files share: small runs of a script, mlmt_rl.py unless said, on a small file of problems."""

import json
import os
import zlib

# Before any import of transformers: a test that asks for a model that does not exist must not wait for a network.
os.environ["HF_HUB_OFFLINE"] = "1"
if "PYTEST_XDIST_WORKER" in os.environ:
    os.environ.setdefault("OMP_NUM_THREADS", "1")  # two processes of two threads each wait for one another

import pytest

import common
import mlmt_rl
from problems.arithmetic import load_arithmetic


def write_jsonl(path, rows) -> str:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return str(path)


def read_jsonl(path) -> list[dict]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").split("\n") if line]


@pytest.fixture(scope="session")
def problem_file(tmp_path_factory) -> str:
    """24 problems to train on and 8 held-out ones, all of three steps: a run starts faster than with 6000."""
    problems = [p for split, n in (("train", 24), ("test", 8)) for p in three_steps(split)[:n]]
    rows = [{"question": p.question, "answer": p.answer} for p in problems]
    return write_jsonl(tmp_path_factory.mktemp("problems") / "three_steps.jsonl", rows)


def three_steps(split: str) -> list[common.Problem]:
    return [problem for problem in load_arithmetic(split, 200, 0) if problem.level == 3]


def small_args(dataset: str, run_dir, script=mlmt_rl, **flags):
    """Flags of a run whose iteration takes a fraction of a second.

    The responses are cut short after 8 tokens; the temperature makes them differ, however sure the model is.
    """
    sizes = {
        "rollout_size": 4,
        "groups_per_batch": 2,
        "group_size": 2,
        "eval_size": 4,
        "max_new_tokens": 8,
        "max_feedback_tokens": 8,
        "iterations": 2,
    }
    rates = {"report": False, "temperature": 2.0, "lr_warmup_iterations": 0, "learning_rate": 1e-3, "guidance_lr": 1e-3}
    defaults = {name: value for name, value in (sizes | rates).items() if name in script.Args.__dataclass_fields__}
    return script.Args(**{"dataset": dataset, "run_dir": str(run_dir)} | defaults | flags)


@pytest.fixture
def small(problem_file, tmp_path):
    """A function of some flags: the flags of a small run, by default in the folder tmp_path / "run"."""
    return lambda **flags: small_args(**{"dataset": problem_file, "run_dir": tmp_path / "run"} | flags)


@pytest.fixture(scope="session")
def random_lm(tmp_path_factory) -> str:
    from replay import save_family  # which imports this file

    return save_family("llama", tmp_path_factory.mktemp("random") / "llama", 0)


@pytest.fixture
def quick(small, random_lm):
    """`small` with a random model of one layer, for tests of what is kept and not of what is written."""

    def flags(script=mlmt_rl, **flags):
        critic = {"critic_lm": random_lm} if hasattr(script.Args, "critic_lm") else {}
        return small(**{"script": script, "policy_lm": random_lm} | critic | flags)

    return flags


@pytest.fixture(scope="session")
def finished(problem_file, tmp_path_factory) -> mlmt_rl.Args:
    """The flags of a finished run: 12 iterations of whole responses, really verified, every checkpoint kept."""
    flags = {"iterations": 12, "eval_every": 5, "save_every": 3, "keep_checkpoints": 0}
    flags |= {"max_new_tokens": 32, "max_feedback_tokens": 32}
    flags |= {"temperature": 1.0, "learning_rate": 2e-4, "guidance_lr": 2e-4}
    args = small_args(problem_file, tmp_path_factory.mktemp("finished") / "run", **flags)
    mlmt_rl.main(args)
    return args


def coins(responses: list[str], problems: list[common.Problem], *flags) -> list[bool]:
    """Verdicts that depend on nothing but the texts; both values come up, whatever the model can do."""
    texts = [f"{problem.question} {response}" for response, problem in zip(responses, problems, strict=True)]
    verdicts = [zlib.crc32(text.encode()) % 2 == 0 for text in texts]
    return verdicts if len(set(verdicts)) == 2 else [not verdicts[0], *verdicts[1:]]


@pytest.fixture
def coin_rewards(monkeypatch):
    """Rewards by `coins`, so that everything learns, from responses of 8 tokens too."""
    monkeypatch.setattr(common, "judge_all", coins)
