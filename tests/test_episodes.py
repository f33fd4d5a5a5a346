"""Episodes are whole: one problem from attempt to verdict, and what is logged is what happened."""

from collections import Counter
from pathlib import Path

import pytest
import torch
from conftest import read_jsonl, small_args, three_steps
from transformers import AutoModelForCausalLM, AutoTokenizer

import common
import mlmt_rl
import runs

REPO = Path(__file__).resolve().parents[1]
TURNS = ("attempt", "feedback", "refinement")


def metric_rows(args: mlmt_rl.Args) -> list[dict]:
    return read_jsonl(Path(args.run_dir) / "metrics.jsonl")


def episode_rows(args: mlmt_rl.Args) -> list[dict]:
    return read_jsonl(Path(args.run_dir) / "episodes.jsonl")


# ---- one episode ---------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def sampled() -> tuple:
    """16 episodes of the embedded model: (problems, episodes, tokenizer)."""
    model = AutoModelForCausalLM.from_pretrained(REPO / "tiny")
    tokenizer = AutoTokenizer.from_pretrained(REPO / "tiny")
    problems = three_steps("train")[:16]
    args = small_args("arithmetic", "none", temperature=1.0, max_new_tokens=32, max_feedback_tokens=32)
    torch.manual_seed(3)
    return problems, mlmt_rl.run_episodes((model, model), (tokenizer, tokenizer), problems, args), tokenizer


def test_the_texts_are_those_of_the_tokens_under_training(sampled):
    """Red if a text that another turn reads is not decoded from the very tokens that the losses use."""
    problems, episodes, tokenizer = sampled
    for turn in TURNS:
        ids, mask, texts = (episodes[turn][key] for key in ("response_ids", "response_mask", "texts"))
        assert len(set(texts)) > len(problems) // 2  # or a swap of two episodes could not show
        for row in range(len(problems)):
            assert texts[row] == tokenizer.decode(ids[row][mask[row]], skip_special_tokens=True)


def test_each_turn_reads_its_own_episode(sampled):
    """Red if a prompt holds another row's problem, attempt or feedback, or lacks one of them."""
    problems, episodes, tokenizer = sampled
    attempts, feedback = episodes["attempt"]["texts"], episodes["feedback"]["texts"]
    for row, (problem, z, g) in enumerate(zip(problems, attempts, feedback)):
        read = {}
        for turn in TURNS:
            mask = episodes[turn]["prompt_mask"][row].bool()
            read[turn] = tokenizer.decode(episodes[turn]["prompt_ids"][row][mask])
        assert read["attempt"] == f"{problem.question}\n\n{common.SOLVE}\n"
        assert read["feedback"] == f"{problem.question}\n\n{common.STUDENT}{z}\n\n{common.CHECK}\n"
        assert read["refinement"].startswith(read["attempt"] + z + "\n")
        assert read["refinement"].endswith(f"{z}\n{common.FEEDBACK}{g}\n\n{common.REFINE}\n")


def test_verdicts_are_those_of_the_row(sampled):
    """Red if a response is judged by another row's answer, or the first attempt's verdict stands for the second's."""
    problems, episodes, _ = sampled
    for turn, name in (("attempt", "rewards_1"), ("refinement", "rewards_2")):
        verdicts = [common.verify(text, problem) for text, problem in zip(episodes[turn]["texts"], problems)]
        assert episodes[name].tolist() == verdicts
    assert episodes["rewards_1"].tolist() != episodes["rewards_2"].tolist()


def test_the_value_of_x_is_read_behind_the_question(sampled):
    """Red if the prefix of the feedback prompt ends inside the question or in the attempt."""
    problems, episodes, tokenizer = sampled
    turn = episodes["feedback"]
    for row, problem in enumerate(problems):
        ids = turn["prompt_ids"][row][turn["prompt_mask"][row].bool()]
        assert tokenizer.decode(ids[: turn["prefix_length"][row]]) == f"{problem.question}\n\n"


@pytest.fixture
def stubbed(monkeypatch):
    """A function that makes every model answer what a stub makes of its prompt; returns the problems judged, in order.

    A response is right if it names the question that it was asked and says "right".
    """

    def use(stub, problems_by_name: dict[str, common.Problem]) -> list[list[str]]:
        judged = []

        def generate(model, tokenizer, prompts, max_new_tokens, args):
            texts = []
            for ids, _ in prompts:
                prompt = tokenizer.decode(ids)
                (name,) = [name for name, problem in problems_by_name.items() if problem.question in prompt]
                texts.append(stub(name, prompt))
            turn = sample(model, tokenizer, prompts, max_new_tokens, args)
            return turn | {"texts": texts}

        def judge_all(responses, problems, *flags):
            judged.append([problem.id for problem in problems])
            names = {problem.question: name for name, problem in problems_by_name.items()}
            return [text == f"{names[p.question]} right" for text, p in zip(responses, problems, strict=True)]

        sample = mlmt_rl.generate
        monkeypatch.setattr(mlmt_rl, "generate", generate)
        monkeypatch.setattr(common, "judge_all", judge_all)
        return judged

    return use


@pytest.mark.parametrize(
    ("stub", "expected"),
    [
        (lambda name, prompt: f"{name} right", {"accuracy_1": 1, "accuracy_2": 1, "fixed": 0, "broken": 0}),
        (lambda name, prompt: f"{name} wrong", {"accuracy_1": 0, "accuracy_2": 0, "fixed": 0, "broken": 0}),
        (
            lambda name, prompt: f"{name} {'right' if common.REFINE in prompt else 'wrong'}",
            {"accuracy_1": 0, "accuracy_2": 1, "fixed": 1, "broken": 0},
        ),
        (
            lambda name, prompt: f"{name} {'wrong' if common.REFINE in prompt else 'right'}",
            {"accuracy_1": 1, "accuracy_2": 0, "fixed": 0, "broken": 1},
        ),
    ],
    ids=["perfect", "adversary", "fixes", "breaks"],
)
def test_stub_solvers_get_the_metrics_they_deserve(small, problem_file, stubbed, stub, expected):
    """Red if turn 2 is judged on other problems than turn 1, or if fixed and broken are mixed up."""
    problems = {f"problem {n}": p for n, p in enumerate(common.load_problems(problem_file, "all"))}
    judged = stubbed(stub, problems)
    args = small(iterations=1, rollout_size=8, value_shaping=0.5, star_samples=2)
    mlmt_rl.main(args)
    row = metric_rows(args)[1]
    for phase in ("rollout", "eval"):
        assert {name: row[f"{phase}/{name}"] for name in expected} == expected
    assert row["rollout/reward"] == row["rollout/reward_star"] == expected["accuracy_2"]
    assert row["eval/delta"] == expected["accuracy_2"] - expected["accuracy_1"]
    first_eval, rollout, last_eval = judged[:2], judged[2:5], judged[5:]  # the third of a rollout is R*
    assert first_eval == last_eval and first_eval[0] == first_eval[1] and len(first_eval[0]) == 4
    assert rollout[0] == rollout[1] and rollout[2] == 2 * rollout[0] and len(set(rollout[0])) == 8
    assert not set(rollout[0]) & set(first_eval[0])


# ---- what is logged ------------------------------------------------------------------------------------------------


def test_outcomes_of_known_verdicts():
    """Red if one of the four fractions is of other problems than its name says."""
    known = common.outcomes([0, 0, 0, 0, 1, 1, 1, 1, 1, 1], [1, 1, 1, 0, 0, 0, 1, 1, 1, 1])
    assert known == pytest.approx({"accuracy_1": 0.6, "accuracy_2": 0.7, "fixed": 0.3, "broken": 0.2})


def test_every_row_has_every_key(finished):
    """Red if a key or a row is missing, or if a key is null where it was measured or a number where it was not."""
    rows = metric_rows(finished)
    assert [row["iteration"] for row in rows] == list(range(finished.iterations + 1))
    for row in rows:
        assert all(value is None or isinstance(value, int | float) for value in row.values())
        assert all(value == value and abs(value) != float("inf") for value in row.values() if value is not None)
        last = row["iteration"] == finished.iterations
        evaluated = last or row["iteration"] % finished.eval_every == 0
        for name, value in row.items():
            nothing_varies = name == "losses/explained_variance" and row["rollout/accuracy_2"] in (0, 1)
            assert (value is None) == (name == "rollout/reward_star" or nothing_varies), name
        figures = {"accuracy_1", "accuracy_2", "delta", "fixed", "broken", "repeated"}
        assert {name for name in row if name.startswith("eval/")} == (
            {f"eval/{f}" for f in figures} if evaluated else set()
        )
        others = {name for name in row if not name.startswith("eval/")}
        known = {"iteration", "charts/episodes", "charts/seconds"}
        assert others == known if row["iteration"] == 0 else others == {n for n in rows[1] if not n.startswith("eval/")}
        assert row["charts/episodes"] == row["iteration"] * finished.rollout_size


def test_the_gain_is_what_was_fixed_less_what_was_broken(finished):
    """Red if accuracy_2 - accuracy_1 = fixed - broken fails in a row, or if nothing was ever fixed or broken."""
    rows = metric_rows(finished)
    for row in rows:
        for phase in ("rollout", "eval"):
            if f"{phase}/accuracy_1" in row:
                gain = row[f"{phase}/accuracy_2"] - row[f"{phase}/accuracy_1"]
                assert gain == pytest.approx(row[f"{phase}/fixed"] - row[f"{phase}/broken"], abs=1e-12)
    assert any(row["rollout/fixed"] or row["rollout/broken"] for row in rows[1:])


def test_metrics_follow_from_the_episodes(finished):
    """Red if a metric is of other episodes than those that episodes.jsonl holds, or a verdict not that of its text."""
    rows, episodes = metric_rows(finished), episode_rows(finished)
    training, held_out = (
        {p.question: p.answer for p in common.load_problems(finished.dataset, split)} for split in ("train", "test")
    )
    for episode in episodes:
        problem = common.Problem(episode["question"], episode["answer"])
        assert (training if episode["phase"] == "rollout" else held_out)[problem.question] == problem.answer
        assert episode["reward_1"] == common.verify(episode["attempt"], problem)
        assert episode["reward_2"] == common.verify(episode["refinement"], problem)
    sizes = {"rollout": finished.rollout_size, "eval": finished.eval_size}
    expected = Counter({(n, "eval"): 4 for n in (0, 5, 10, 12)} | {(n, "rollout"): 4 for n in (5, 10, 12)})
    assert Counter((episode["iteration"], episode["phase"]) for episode in episodes) == expected
    for iteration, phase in expected:
        part = [e for e in episodes if (e["iteration"], e["phase"]) == (iteration, phase)]
        first, second = ([episode[name] for episode in part] for name in ("reward_1", "reward_2"))
        metrics = {
            "accuracy_1": sum(first) / sizes[phase],
            "accuracy_2": sum(second) / sizes[phase],
            "fixed": sum(a < b for a, b in zip(first, second)) / sizes[phase],
            "broken": sum(a > b for a, b in zip(first, second)) / sizes[phase],
        }
        if phase == "rollout":
            metrics |= {"reward": metrics["accuracy_2"]}
            metrics |= {"truncated": sum(len(episode["truncated"]) for episode in part) / sizes[phase] / 3}
        else:
            metrics |= {"delta": metrics["accuracy_2"] - metrics["accuracy_1"]}
        logged = {name: rows[iteration][f"{phase}/{name}"] for name in metrics}
        assert logged == pytest.approx(metrics), (iteration, phase)


def test_truncated_responses_are_counted(small, coin_rewards):
    """Red if a response that no end of sequence closed is not counted, or one that was closed is."""
    args = small(iterations=1, temperature=1.0, max_new_tokens=2, max_feedback_tokens=100)
    mlmt_rl.main(args)
    rollout = [row for row in episode_rows(args) if row["phase"] == "rollout"]
    assert [row["truncated"] for row in rollout] == [["attempt", "refinement"]] * 4
    row = metric_rows(args)[1]
    assert row["rollout/truncated"] == pytest.approx(2 / 3)
    assert row["rollout/response_length_1"] == row["rollout/response_length_2"] == 2
    assert 2 < row["rollout/feedback_length"] < 100


def test_only_some_episodes_are_saved(small, coin_rewards, monkeypatch):
    """Red if SAVED_EPISODES is not a limit for each evaluation, or changes a metric."""
    monkeypatch.setattr(runs, "SAVED_EPISODES", 3)
    args = small(iterations=1)
    mlmt_rl.main(args)
    counts = Counter((row["iteration"], row["phase"]) for row in episode_rows(args))
    assert counts == {(0, "eval"): 3, (1, "rollout"): 3, (1, "eval"): 3}


def test_evaluation_does_not_disturb_training(small, tmp_path, coin_rewards):
    """Red if an evaluation draws from training's random numbers or changes a weight."""
    often = small(run_dir=tmp_path / "often", iterations=3, eval_every=1)
    seldom = small(run_dir=tmp_path / "seldom", iterations=3, eval_every=100, eval_size=3, eval_seed=5)
    for args in (often, seldom):
        mlmt_rl.main(args)
    skipped = ("charts/seconds", "charts/verify_seconds", "charts/tokens_per_second")
    rows, other_rows = (
        [{k: v for k, v in row.items() if not k.startswith("eval/") and k not in skipped} for row in metric_rows(args)]
        for args in (often, seldom)
    )
    assert rows == other_rows
    assert rows[3]["losses/kl_solver"] != 0


def test_evaluations_differ_only_by_the_weights(small, tmp_path, coin_rewards):
    """Red if the sampling seed of an evaluation depends on the iteration, or --eval-seed does not reach it."""
    frozen = {"learning_rate": 1e-30, "guidance_lr": 1e-30, "value_lr": 1e-30, "eval_every": 1, "kl_coef": 0.0}
    texts = {}
    for seed in (0, 1):
        args = small(run_dir=tmp_path / str(seed), eval_seed=seed, **frozen)
        mlmt_rl.main(args)
        for row in episode_rows(args):
            if row["phase"] == "eval":
                texts.setdefault((seed, row["iteration"]), []).append((row["attempt"], row["feedback"]))
    assert texts[0, 0] == texts[0, 1] == texts[0, 2]
    assert texts[0, 0] != texts[1, 0]


# ---- the order of the problems -------------------------------------------------------------------------------------


@pytest.mark.parametrize(("rollout_size", "num_problems"), [(4, 12), (5, 12), (12, 12), (30, 12), (64, 5000), (1, 1)])
def test_each_problem_comes_once_an_epoch(rollout_size, num_problems):
    """Red if a problem is left out or comes twice before all others have come, at the seam of two epochs too."""
    iterations = 3 * num_problems // rollout_size + 3
    rows = [common.problem_rows(i, rollout_size, num_problems, seed=1) for i in range(1, iterations + 1)]
    assert all(len(part) == rollout_size for part in rows)
    order = [row for part in rows for row in part]
    for epoch in range(3):
        assert sorted(order[epoch * num_problems : (epoch + 1) * num_problems]) == list(range(num_problems))
    if num_problems > 1:
        assert order[:num_problems] != order[num_problems : 2 * num_problems]


def test_the_order_depends_on_the_seed_alone():
    """Red if the order ignores the seed, or depends on the rollout size or on what was asked before."""
    order = common.problem_rows(1, 60, 50, seed=1)
    assert order == common.problem_rows(1, 60, 50, seed=1)
    assert order != common.problem_rows(1, 60, 50, seed=2)
    assert order == [row for i in range(1, 7) for row in common.problem_rows(i, 10, 50, seed=1)]


def test_training_follows_that_order(finished):
    """Red if the loop trains on other problems than problem_rows says."""
    problems, _ = common.load_train_and_eval(finished.dataset, "train", finished.dataset, "test", 4)
    for iteration in (5, 10, 12):
        rows = common.problem_rows(iteration, finished.rollout_size, len(problems), finished.seed)
        episodes = [e for e in episode_rows(finished) if (e["iteration"], e["phase"]) == (iteration, "rollout")]
        assert [episode["id"] for episode in episodes] == [problems[row].id for row in rows]
