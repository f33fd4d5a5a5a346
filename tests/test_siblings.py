"""Whole small runs of all scripts but mlmt_rl.py: what is logged is what happened, for code too."""

import json

import pytest
from conftest import read_jsonl, write_jsonl

import archer
import common
import expert_iteration
import grpo
import intro
import rl_guided_score
import score
from problems.functions import load_functions

ARCHER = {"critic_batch_size": 4, "actor_batch_size": 4, "warmup_iterations": 0}
SCRIPTS = {script.__name__: script for script in (score, rl_guided_score, archer, grpo, expert_iteration, intro)}
OWN_FLAGS = {
    archer: ARCHER,
    grpo: {"groups_per_batch": 4},
    expert_iteration: {"groups_per_batch": 4},
    intro: {"groups_per_batch": 4},
}


@pytest.fixture(params=list(SCRIPTS))
def script(request):
    return SCRIPTS[request.param]


def whole_responses(script) -> dict:
    """Flags of a run whose responses are not cut, so that some are right."""
    flags = {"script": script, "iterations": 2, "eval_every": 1, "max_new_tokens": 40, "temperature": 1.0, "seed": 3}
    return flags | OWN_FLAGS.get(script, {"stage1_iterations": 1, "rollout_size": 8})


def test_metrics_follow_from_the_episodes(small, tmp_path, script):
    args = small(**whole_responses(script))
    script.main(args)
    rows = read_jsonl(tmp_path / "run" / "metrics.jsonl")
    episodes = read_jsonl(tmp_path / "run" / "episodes.jsonl")
    assert [row["iteration"] for row in rows] == [0, 1, 2]
    assert len({frozenset(row) for row in rows[1:]}) == 1 and rows[0].keys() < rows[1].keys()
    problems = {p.statement: p for p in common.load_problems(args.dataset, "all")}
    one_turn = script in (archer, grpo, expert_iteration, intro)
    turns = {"reward_1": "attempt"} if one_turn else {"reward_1": "attempt", "reward_2": "refinement"}
    rollout_size = (
        args.groups_per_batch * args.group_size if script in (grpo, expert_iteration, intro) else args.rollout_size
    )
    for episode in episodes:
        for reward, turn in turns.items():
            assert episode[reward] == common.verify(episode[turn], problems[episode["question"]])
    for row in rows:
        for phase in ("rollout", "eval") if row["iteration"] else ("eval",):
            part = [e for e in episodes if (e["iteration"], e["phase"]) == (row["iteration"], phase)]
            assert len(part) == (rollout_size if phase == "rollout" else args.eval_size)
            for reward in turns:
                mean = sum(episode[reward] for episode in part) / len(part)
                assert row[f"{phase}/accuracy_{reward[-1]}"] == pytest.approx(mean)
            if not one_turn:
                repeated = sum(e["attempt"] == e["refinement"] for e in part) / len(part)
                assert row[f"{phase}/repeated"] == pytest.approx(repeated)
                gain = row[f"{phase}/accuracy_2"] - row[f"{phase}/accuracy_1"]
                assert gain == pytest.approx(row[f"{phase}/fixed"] - row[f"{phase}/broken"])
    empty = {name for name, value in rows[-1].items() if value is None}
    may_be = {"rollout/critic_auc", "rollout/advantage_auc", "losses/baseline", "losses/grad_norm_baseline"}
    assert empty <= (may_be if script is archer else set())


@pytest.mark.parametrize("script", [script for script in SCRIPTS.values() if script is not intro])
def test_code_problems(small, tmp_path, script):
    """The code prompts, the sandbox and the embedded model for code are found by each script."""
    problems = [p for split, n in (("train", 16), ("test", 4)) for p in load_functions(split, n, 0)]
    rows = [{"question": p.question, "test_list": list(p.tests), "code": p.solution} for p in problems]
    path = write_jsonl(tmp_path / "functions.jsonl", rows)
    args = small(dataset=path, eval_dataset=path, eval_split="test", **whole_responses(script) | {"iterations": 1})
    script.main(args)
    episodes = read_jsonl(tmp_path / "run" / "episodes.jsonl")
    assert {e["phase"] for e in episodes} == {"eval", "rollout"}
    for episode in episodes:
        assert episode["answer"].startswith("assert ") and episode["question"].count("assert ") == 1
        assert episode["attempt"].startswith("```python")  # tiny/functions wrote it
    assert sum(e["reward_1"] for e in episodes) > 0
    assert json.loads((tmp_path / "run" / "config.json").read_text())["args"]["policy_lm"] is None


@pytest.mark.parametrize("script", [grpo, expert_iteration, intro], ids=lambda script: script.__name__)
def test_evaluations_leave_training_as_it_was(small, tmp_path, coin_rewards, script):
    """Red if an evaluation, sampled or greedy, draws from training's random numbers."""
    rows = []
    for often in (True, False):
        run_dir = tmp_path / str(often)
        script.main(small(script=script, run_dir=run_dir, eval_every=1 if often else 9, greedy_eval=often))
        row = read_jsonl(run_dir / "metrics.jsonl")[2]
        rows.append({name: row[name] for name in row if name.startswith(("rollout/", "losses/"))})
    assert rows[0] == rows[1]
