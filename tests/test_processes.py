"""Several processes, as torchrun starts them, do what one does: samples, metrics, weights, checkpoints."""

import multiprocessing
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest
from conftest import read_jsonl, small_args
from processes import work
from replay import TIMES, save_family
from safetensors.torch import load_file
from test_replay_sharedrep import folder as rewards  # noqa: F401, a fixture
from test_resume import PATIENCE
from test_siblings import ARCHER

import archer
import common
import eval
import expert_iteration
import grpo
import intro
import mlmt_rl
import rl_guided_score
import score
import sharedrep_grpo
import sharedrep_reward
import template_search

REPO = Path(__file__).resolve().parents[1]
TWO_TURNS = {"rollout_size": 6, "stage1_iterations": 1}
GROUPS = {"groups_per_batch": 3, "group_size": 2}
CASES = {
    "mlmt_rl": (mlmt_rl, TWO_TURNS | {"value_shaping": 0.5, "num_minibatches": 2}),
    "mlmt_rl, adapters": (mlmt_rl, TWO_TURNS | {"lora_rank": 4, "feedback_every": 2}),
    "score": (score, TWO_TURNS | {"update_epochs": 2}),
    "rl_guided_score": (rl_guided_score, TWO_TURNS | {"tokens_per_micro_batch": 150}),
    "grpo": (grpo, GROUPS | {"dynamic_sampling": 2, "loss_reduction": "token"}),
    "expert_iteration": (expert_iteration, GROUPS | {"kl_coef": 0.1}),
    "intro": (intro, GROUPS | {"estimator": "exact"}),
    "archer": (archer, ARCHER | {"rollout_size": 4, "use_baseline": True}),
    "sharedrep_grpo": (sharedrep_grpo, GROUPS | {"proportion": 0.5}),
}


def free_ports(n: int) -> list[int]:
    sockets = [socket.socket() for _ in range(n)]
    for each in sockets:
        each.bind(("127.0.0.1", 0))
    ports = [each.getsockname()[1] for each in sockets]
    for each in sockets:
        each.close()
    return ports


def run_together(place: Path, jobs: list[tuple], processes: int) -> None:
    """Runs (script, flags) one after the other in so many processes, forked from one that has imported everything."""
    context = multiprocessing.get_context("forkserver")
    libraries = ["transformers.models.auto.modeling_auto", "transformers.models.llama.modeling_llama"]
    context.set_forkserver_preload(["processes", *libraries, *{script.__name__ for script, _ in jobs}])
    rows = [
        {"script": script.__name__, "flags": vars(args), "port": port}
        for (script, args), port in zip(jobs, free_ports(len(jobs)))
    ]
    started = []
    for rank in range(processes):
        environment = {"RANK": rank, "LOCAL_RANK": rank, "WORLD_SIZE": processes, "MASTER_ADDR": "127.0.0.1"}
        environment |= {"TORCHELASTIC_RUN_ID": "none"}
        environment = {name: str(value) for name, value in environment.items()} if processes > 1 else {}
        inputs = (rows, environment, str(place / f"log{processes}-{rank}"))
        started.append(context.Process(target=work, args=inputs))
        started[-1].start()
    for process in started:
        process.join(PATIENCE)
        process.kill()
    codes = [process.exitcode for process in started]
    assert codes == [0] * processes, "".join(path.read_text()[-3000:] for path in place.glob(f"log{processes}-*"))


@pytest.fixture(scope="module")
def flags_of(problem_file, rewards, tmp_path_factory):  # noqa: F811
    """A function of a case and a run folder: the case's flags."""
    model = save_family("llama", tmp_path_factory.mktemp("model") / "llama", 0)

    def flags(case: str, run_dir: Path, **more):
        script, own = CASES[case]
        dataset, own = problem_file, {"policy_lm": model, "micro_batch_size": 2, "eval_size": 3, "seed": 2} | own | more
        if script is sharedrep_grpo:
            dataset = str(rewards / "plain.jsonl")
            own |= {"reward_dir": str(rewards / "rewards"), "policy_lm": str(rewards / "llama")}
        if script is archer:
            own |= {"critic_lm": model}
        return small_args(dataset, run_dir, script=script, **own)

    return flags


@pytest.fixture(scope="module")
def finished(flags_of, tmp_path_factory) -> Path:
    """All cases by 1, 2 and 4 processes, two iterations each: folders 1/CASE, 2/CASE, 4/CASE."""
    place = tmp_path_factory.mktemp("processes")
    for processes in (1, 2, 4):
        run_together(place, [(CASES[c][0], flags_of(c, place / str(processes) / c)) for c in CASES], processes)
    return place


def assert_alike(one: Path, other: Path, tolerance: float) -> None:
    """Every text word for word, every metric and weight up to rounding."""
    for row, found in zip(*(read_jsonl(folder / "metrics.jsonl") for folder in (one, other)), strict=True):
        expected = {name: value for name, value in row.items() if name not in TIMES and value is not None}
        assert {name: found[name] for name in expected} == pytest.approx(expected, rel=tolerance, abs=tolerance)
        assert {name for name in row if row[name] is None} == {name for name in found if found[name] is None}
    for name in {path.name for path in one.glob("*.jsonl")} - {"metrics.jsonl", "checkpoints.jsonl"}:
        texts, found = read_jsonl(one / name), read_jsonl(other / name)  # of sharedrep_grpo.py scores too
        close = [pytest.approx(row) if name == "scores.jsonl" else row for row in texts]
        assert found == close, name
    files = [sorted(path.relative_to(folder) for path in folder.rglob("*.safetensors")) for folder in (one, other)]
    assert files[0] and files[0] == files[1]
    for path in files[0]:
        weights, found = load_file(one / path), load_file(other / path)
        assert all((weights[name] - found[name]).abs().max() <= tolerance for name in weights), path


@pytest.mark.parametrize("processes", [2, 4])
@pytest.mark.parametrize("case", CASES)
def test_they_give_what_one_gives(finished, case, processes):
    """To 1e-6. 4, 5 or 6 rows leave some process with fewer than the others."""
    assert_alike(finished / "1" / case, finished / str(processes) / case, 1e-6)


def test_any_number_of_them_goes_on_with_a_run(finished, flags_of, tmp_path):
    """Red if the shared-out moments of Adam are lost, or are saved for as many processes only."""
    cases = ("mlmt_rl", "mlmt_rl, adapters")
    for after in (1, 2):
        jobs = []
        for before in (1, 2) if after == 1 else (1,):
            for case in cases:
                run_dir = tmp_path / f"{before}-{after}" / case
                shutil.copytree(finished / str(before) / case, run_dir)
                jobs.append((CASES[case][0], flags_of(case, run_dir, iterations=3, if_run_exists="resume")))
        run_together(tmp_path, jobs, after)
    for case in cases:
        assert len(read_jsonl(tmp_path / "1-1" / case / "metrics.jsonl")) == 4
        for other in ("1-2", "2-1"):
            assert_alike(tmp_path / "1-1" / case, tmp_path / other / case, 1e-6)


def torchrun(*command: str) -> subprocess.Popen:
    """A script with its flags, in two processes, by the command that the README gives."""
    start = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", "2", "--master-port"]
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    command = [*start, str(free_ports(1)[0]), *command]
    return subprocess.Popen(command, cwd=REPO, env=environment, stdout=-1, stderr=-1, text=True)


def test_what_runs_in_one_process_is_not_started_twice(monkeypatch):
    for name, value in {"TORCHELASTIC_RUN_ID": "none", "WORLD_SIZE": "2", "RANK": "1", "LOCAL_RANK": "1"}.items():
        monkeypatch.setenv(name, value)
    for script in (eval, sharedrep_reward, template_search):
        flags = {"templates": "templates"} if script is template_search else {}
        with pytest.raises(common.InputError, match=r"py runs in one process: start it with python, not with torchrun"):
            script.main(script.Args(**flags))


def test_a_killed_process_ends_the_job(problem_file, tmp_path):
    """Red if the others wait for ever, or end in a traceback of a script."""
    flags = ["--dataset", problem_file, "--run-dir", str(tmp_path / "run"), "--rollout-size", "4", "--eval-size", "2"]
    flags += ["--save-every", "1", "--iterations", "1000", "--no-report"]
    process = torchrun("mlmt_rl.py", *flags)
    deadline = time.time() + PATIENCE
    while not common.last_checkpoint(tmp_path / "run") and time.time() < deadline:
        time.sleep(0.2)
    children = subprocess.run(["pgrep", "-P", str(process.pid)], capture_output=True, text=True).stdout.split()
    assert len(children) == 2
    os.kill(int(children[1]), signal.SIGKILL)
    out, err = process.communicate(timeout=PATIENCE)
    assert process.returncode and 'mlmt_rl.py", line' not in err, err  # torchrun's own traceback names no script
    assert (
        "another process of this run has ended: interrupted; last checkpoint: " in err
        and "--if-run-exists resume" in err
    )
