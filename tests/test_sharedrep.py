"""SharedRep-RLHF: its formulas by hand, min-max gradients by enumeration, every stage of the reward models."""

import dataclasses
import json
import math
import re
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import read_jsonl, write_jsonl
from replay import save_family
from safetensors.torch import load_file
from test_bad_input import refused  # noqa: F401, a fixture
from test_project import load
from transformers import AutoModelForCausalLM, AutoTokenizer

import common
import eval as evaluation
import report
import runs
import sharedrep_grpo as grpo
import sharedrep_reward as reward

REPO = Path(__file__).resolve().parents[1]
DATA = REPO.parent / "shared" / "data" / "gsm8k"
benchmark = load(REPO / "benchmarks" / "sharedrep.py")
REFERENCE = {"words": [4.0, 2.0], "logit": [1.0, 0.5], "groups": reward.GROUPS}


def sigmoid(x: float) -> float:
    return 1 / (1 + math.exp(-x))


# ---- what groups want ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("script", [reward, grpo])
def test_traits_by_hand(script):
    """More words are less concise, a higher logit is more socratic, each by its own mean and deviation."""
    tau = script.traits([1.0, 0.0], [8, 3], torch.tensor([1.0, 2.0]), REFERENCE)
    expected = [[1, sigmoid(-2), 0.5], [0, sigmoid(0.5), sigmoid(2)]]
    assert torch.allclose(tau, torch.tensor(expected))


def test_a_pair_is_what_its_group_prefers():
    """Of held-out questions there is a pair for each group; a tie is no pair."""
    rows = [{"question": f"q{i // 2}", "response": f"r{i}"} for i in range(2000)]
    scores = torch.rand(2000, 2, generator=torch.Generator().manual_seed(0))
    scores[10] = scores[11]
    args = reward.Args(proportion=0.1, test_fraction=0.2, seed=3)
    pairs, ties = reward.draw_pairs(rows, scores, args)
    number = {row["response"]: i for i, row in enumerate(rows)}
    for pair in pairs:
        chosen, rejected = number[pair["chosen"]], number[pair["rejected"]]
        assert chosen // 2 == rejected // 2 == int(pair["prompt"][1:]) and chosen != rejected
        assert scores[chosen, pair["group_id"]] > scores[rejected, pair["group_id"]]
    training = [pair["group_id"] for pair in pairs if pair["split"] == "train"]
    held_out = [pair["group_id"] for pair in pairs if pair["split"] == "test"]
    assert held_out.count(0) == held_out.count(1) and ties in (1, 2)
    assert abs(training.count(0) / len(training) - 0.1) < 4 * (0.09 / len(training)) ** 0.5
    assert abs(len(held_out) / 2 - 200) < 60 and len(training) + len(held_out) // 2 in (998, 999)
    assert reward.draw_pairs(rows, scores, args)[0] == pairs
    assert reward.draw_pairs(rows, scores, dataclasses.replace(args, seed=4))[0] != pairs


@pytest.mark.skipif(not DATA.is_dir(), reason="the real data sets are not here")
def test_all_answers_of_gsm8k_are_read_in_three_forms():
    """All 8,792, those of four digits and more too, and no solution counts where another answer is asked for."""
    rows = [row for name in ("train", "test") for row in read_jsonl(DATA / f"{name}.jsonl")]
    problems = [common.Problem(row["question"], row["final"].replace(",", "")) for row in rows]
    assert len(problems) == 8792
    for form in ("So\n#### {}", "so $\\boxed{{{}}}$.", "The final answer is {}."):
        texts = [form.format(row["final"]) for row in rows]
        assert common.verify_all(texts, problems) == [1.0] * len(rows), form
        others = [dataclasses.replace(p, answer=str(int(float(p.answer)) + 1)) for p in problems[::20]]
        assert not any(common.verify_all(texts[::20], others)), form


@pytest.mark.skipif(not DATA.is_dir(), reason="the real data sets are not here")
def test_socratic_solutions_are_told_by_no_mark():
    """The same questions twice; neither the marks of sub-questions nor those of the calculator are left."""
    flags = {"dataset": str(DATA / "test.jsonl"), "socratic_dataset": str(DATA / "test_socratic.jsonl"), "split": "all"}
    pairs = reward.solution_pairs(reward.Args(**flags, oracle_pairs=2000))
    assert len(pairs) == 1319
    for socratic, plain in pairs:
        assert socratic != plain and not any(mark in text for text in (socratic, plain) for mark in ("**", "<<", ">>"))
    assert np.mean(["?" in socratic for socratic, _ in pairs]) > 0.99 > 0.05 > np.mean(["?" in p for _, p in pairs])


# ---- reward models -------------------------------------------------------------------------------------------------


def test_bradley_terry_by_hand():
    """log(1 + e^-m) of each pair's own group, and its gradient -sigma(-m) / n; a shift of a head changes nothing."""
    chosen = torch.tensor([[2.0, 9.0], [9.0, 0.5]], requires_grad=True)
    rejected, groups = torch.tensor([[1.0, -9.0], [-9.0, 1.5]]), torch.tensor([0, 1])
    loss = reward.bradley_terry_loss(chosen, rejected, groups)
    assert loss.item() == pytest.approx((math.log(1 + math.exp(-1)) + math.log(1 + math.exp(1))) / 2)
    loss.backward()
    assert torch.allclose(chosen.grad, torch.tensor([[-sigmoid(-1) / 2, 0], [0, -sigmoid(1) / 2]]))
    shift = torch.tensor([5.0, -3.0])
    assert torch.allclose(reward.bradley_terry_loss(chosen + shift, rejected + shift, groups), loss)


def preferences(n: int = 400, d: int = 6) -> tuple[torch.Tensor, ...]:
    """Two groups, each of which follows a direction of its own: (chosen, rejected, groups)."""
    torch.manual_seed(0)
    a, b, groups = torch.randn(n, d), torch.randn(n, d), torch.arange(n) % 2
    better = (a - b)[range(n), groups] > 0  # group u looks at coordinate u
    return torch.where(better[:, None], a, b), torch.where(better[:, None], b, a), groups


FIT = reward.Args(reward_lr=0.02, epochs=20)


def accuracy(head: dict) -> float:
    chosen, rejected, groups = preferences()
    margin = reward.reward_heads(chosen, head) - reward.reward_heads(rejected, head)
    return (margin[range(len(groups)), groups] > 0).float().mean().item()


@pytest.mark.parametrize("simplex", [False, True])
def test_two_traits_hold_two_groups_and_one_does_not(simplex):
    """The rank of B w' is k at most: with k >= U both groups are learned as by a model each, with k = 1 not."""
    heads = {k: reward.fit(*preferences(), 2, dataclasses.replace(FIT, k=k, simplex=simplex)) for k in (1, 2, 5)}
    ranks = {k: int(torch.linalg.matrix_rank(head["B"] @ head["w"].T)) for k, head in heads.items()}
    assert ranks == {1: 1, 2: 2, 5: 2}
    assert accuracy(heads[1]) < 0.9 < 0.95 < min(accuracy(heads[2]), accuracy(heads[5]))
    assert not simplex or all(torch.allclose(head["w"].sum(1), torch.ones(2)) for head in heads.values())
    assert not simplex or all((head["w"] > 0).all() for head in heads.values())


def test_maxmin_is_sharedrep_with_one_trait_a_group():
    maxmin = reward.fit(*preferences(), 2, dataclasses.replace(FIT, method="maxmin", k=7))
    given = reward.fit(*preferences(), 2, dataclasses.replace(FIT, mixture=(1, 0, 0, 1)))
    assert all(torch.equal(maxmin[name], given[name]) for name in maxmin)
    assert torch.equal(maxmin["w"], torch.eye(2)) and accuracy(maxmin) > 0.95
    uniform = reward.fit(*preferences(), 2, dataclasses.replace(FIT, method="uniform"))
    r = reward.reward_heads(preferences()[0], uniform)
    assert torch.equal(r[:, 0], r[:, 1]) and uniform["B"].shape == (6, 1) and accuracy(uniform) < 0.9


def test_heads_by_hand():
    head = {"mean": torch.tensor([1.0, 0]), "deviation": torch.tensor([2.0, 1]), "B": torch.tensor([[1.0], [3]])}
    head |= {"b": torch.tensor([0.5]), "w": torch.tensor([[2.0], [-1]]), "squash": torch.tensor(False)}
    head |= {"centre": torch.tensor([0.0, 1]), "scale": torch.tensor([1.0, 4])}
    z = (3 - 1) / 2 + 3 * 0.1 + 0.5
    assert torch.allclose(reward.reward_heads(torch.tensor([[3.0, 0.1]]), head), torch.tensor([[2 * z, (-z - 1) / 4]]))
    squashed = reward.reward_heads(torch.tensor([[3.0, 0.1]]), head | {"squash": torch.tensor(True)})
    assert torch.allclose(squashed, torch.tensor([[math.tanh(2 * z), (math.tanh(-z) - 1) / 4]]))
    assert reward.fit(*preferences(), 2, dataclasses.replace(FIT, squash="tanh", epochs=1))["squash"]


def test_a_shift_that_bradley_terry_cannot_see_does_not_move_the_calibrated_minimum():
    """Nor does a scale. Without the calibration the shift decides which group is the worst."""
    h, head = preferences()[0], reward.fit(*preferences(), 2, dataclasses.replace(FIT, method="maxmin"))
    moved = head | {"b": head["b"] + torch.tensor([3.0, 0.0])}
    worst = [reward.reward_heads(h, part).argmin(1) for part in (head, moved)]
    assert (worst[0] != worst[1]).float().mean() > 0.1
    moved["w"] = moved["w"] * torch.tensor([[2.0], [1.0]])
    calibrated = [reward.reward_heads(h, reward.calibrated(part, h)).min(1).values for part in (head, moved)]
    assert torch.allclose(*calibrated, atol=1e-4)
    r = reward.reward_heads(h, reward.calibrated(moved, h))
    assert torch.allclose(r.mean(0), torch.zeros(2), atol=1e-4) and torch.allclose(r.std(0), torch.ones(2), atol=1e-3)


@pytest.fixture(scope="module")
def family(tmp_path_factory) -> str:
    return save_family("llama", tmp_path_factory.mktemp("family") / "llama", 0)


@pytest.mark.parametrize("pooling", ["mean", "last"])
def test_features_are_those_of_each_text_alone(family, pooling):
    """No padding, no order, no last batch of one shows; the prompt is read but not averaged."""
    model, tokenizer = AutoModelForCausalLM.from_pretrained(family).eval(), AutoTokenizer.from_pretrained(family)
    prompts, responses = ["", "gets 5", "", "loses 6 and 7", "9"], ["1:20\n2:30", "", "1</s>2", "1:gets 5? 13", "4"]
    h = runs.features(model, tokenizer, prompts, responses, pooling, 2)
    assert h.shape == (5, 16)
    for row, prompt, response in zip(h, prompts, responses):
        before = tokenizer(f"{prompt}\n").input_ids if prompt else []
        ids = before + tokenizer(response, split_special_tokens=True).input_ids + [tokenizer.eos_token_id]
        assert ids.count(tokenizer.eos_token_id) == 1  # an end that is spelled out ends nothing
        with torch.no_grad():
            states = model(torch.tensor([ids]), output_hidden_states=True).hidden_states[-1][0]
        expected = states[len(before) :].mean(0) if pooling == "mean" else states[-1]
        assert torch.allclose(row, expected, atol=1e-5)


def test_a_response_ends_before_a_stop_string(family):
    """The mask runs to the token that completes it; other responses stay as they are."""
    tokenizer = AutoTokenizer.from_pretrained(family)
    texts = ["1:20\n2:30", "1:20", "\n5"]
    rows = [tokenizer(text).input_ids for text in texts]
    T = max(map(len, rows))
    ids = torch.tensor([row + [tokenizer.pad_token_id] * (T - len(row)) for row in rows])
    mask = torch.tensor([[t < len(row) for t in range(T)] for row in rows])
    turn = {"texts": list(texts), "response_ids": ids, "response_mask": mask.clone(), "truncated": torch.ones(3).bool()}
    runs.cut_at_stops(turn, tokenizer, ("\n2", "\n"))
    assert turn["texts"] == ["1:20", "1:20", ""] and turn["truncated"].tolist() == [False, True, False]
    kept = [tokenizer.decode(row[row_mask]) for row, row_mask in zip(ids, turn["response_mask"])]
    assert kept == ["1:20\n", "1:20", "\n"]


# ---- the worst-off group -------------------------------------------------------------------------------------------

R = torch.tensor([[1.0, 0.0], [0.0, 1.0], [0.4, 0.4]])  # of three responses: each group's, and a compromise


def test_the_mean_of_minima_is_not_the_minimum_of_means():
    """Two responses, each for one group: 0 for every sample, .5 for both groups."""
    equal = torch.tensor([0.5, 0.5])
    assert grpo.worst_group_rewards(R[:2], "sample", equal).mean() == 0
    assert grpo.worst_group_rewards(R[:2], "batch", equal).mean() == 0.5
    assert torch.equal(
        grpo.worst_group_rewards(R, "group_weights", torch.tensor([0.25, 0.75])), R @ torch.tensor([0.25, 0.75])
    )


def objective(pi: torch.Tensor, minmax: str, weights: torch.Tensor) -> torch.Tensor:
    r = pi @ R.to(pi.dtype)  # (U,)
    if minmax == "sample":
        return (pi * R.min(1).values).sum()
    return r.min() if minmax == "batch" else r @ weights.to(pi.dtype)


@pytest.mark.parametrize("minmax", ["sample", "batch", "group_weights"])
def test_the_gradient_is_that_of_the_objective(minmax):
    """A batch in which each response comes as often as the policy says: mean R_i grad log pi is the exact gradient."""
    counts, weights = [2, 1, 5], torch.tensor([0.3, 0.7])
    theta = torch.tensor(counts).double().log().requires_grad_()
    pi = theta.softmax(0)
    batch = [i for i, count in enumerate(counts) for _ in range(count)]
    rewards = grpo.worst_group_rewards(R[batch], minmax, weights)
    (mine,) = torch.autograd.grad((rewards.double() * pi[batch].log()).mean(), theta, retain_graph=True)
    (exact,) = torch.autograd.grad(objective(pi, minmax, weights), theta)
    assert torch.allclose(mine, exact, atol=1e-6) and mine.abs().max() > 0.01


def test_weights_move_to_the_group_that_is_worse_off():
    weights = grpo.moved_weights(torch.tensor([0.5, 0.5]), torch.tensor([[0.2, 1.0], [0.4, 0.8]]), 2.0)
    a, b = math.exp(-2 * 0.3), math.exp(-2 * 0.9)
    assert torch.allclose(weights, torch.tensor([a / (a + b), b / (a + b)]))
    for _ in range(300):  # long enough for a float32 of 0
        weights = grpo.moved_weights(weights, torch.tensor([[1.0, 0.0]]), 1.0)
    for _ in range(300):
        weights = grpo.moved_weights(weights, torch.tensor([[0.0, 1.0]]), 1.0)
    assert weights[0] > 0.99


def test_the_two_objectives_lead_to_different_policies():
    """The compromise is the best of every single response; the mixture of the others is better for both groups."""
    policies = {}
    for minmax in ("sample", "batch", "group_weights"):
        theta, weights = torch.tensor([0.2, -0.1, 0.0], requires_grad=True), torch.tensor([0.5, 0.5])
        average = torch.zeros(3)
        for step in range(2000):
            pi = theta.softmax(0)
            r = pi.detach() @ R
            weights = grpo.moved_weights(weights, r[None], 0.05)
            # The expectation of a large batch: its responses, weighted by how often they come.
            worst = R[:, r.argmin()] if minmax == "batch" else grpo.worst_group_rewards(R, minmax, weights)
            (gradient,) = torch.autograd.grad((pi * worst).sum(), theta)
            with torch.no_grad():
                theta += 0.3 * gradient
            average += (step >= 1000) * pi.detach() / 1000
        policies[minmax] = average
    assert policies["sample"][2] > 0.95
    for minmax in ("batch", "group_weights"):
        assert policies[minmax][2] < 0.05 and (policies[minmax] @ R).min() > 0.45, minmax


def test_win_rates_by_hand():
    """Two wins, a tie and a loss are .625 for one group; all ties are .5, and their interval is a point."""
    ours = [{"id": str(i), "minority": m, "majority": 0.5} for i, m in enumerate((1.0, 1.0, 0.5, 0.0))]
    theirs = {str(i): {"minority": 0.5, "majority": 0.5} for i in range(4)}
    rates = common.win_rates(ours, theirs, ["minority", "majority"], 0)
    assert rates["win_minority"] == 0.625 and rates["win_minority_low"] < 0.625 < rates["win_minority_high"]
    assert [rates[f"win_majority{end}"] for end in ("", "_low", "_high")] == [0.5] * 3
    assert set(common.win_rates(ours, {}, ["minority"], 0).values()) == {None}


# ---- the pipeline --------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def solution_files(tmp_path_factory) -> dict[str, str]:
    """25 questions of the embedded problems and their solutions in both styles."""
    folder, files = tmp_path_factory.mktemp("solutions"), {}
    for name in ("arithmetic", "arithmetic-socratic"):
        problems = [p for split, n in (("train", 18), ("test", 7)) for p in common.load_problems(name, split)[:n]]
        assert len({p.question for p in problems}) == 25
        rows = [{"question": p.question, "answer": p.answer, "solution": p.solution} for p in problems]
        files[name] = write_jsonl(folder / f"{name}.jsonl", rows)
    return files


def reward_args(files: dict[str, str], folder: Path, **flags) -> reward.Args:
    names = {"dataset": files["arithmetic"], "socratic_dataset": files["arithmetic-socratic"], "split": "all"}
    sizes = {"proportion": 0.4, "test_fraction": 0.3, "epochs": 2, "oracle_pairs": 25}
    return reward.Args(**names | sizes | {"reward_dir": str(folder)} | flags)


@pytest.fixture(scope="module", autouse=True)
def small_chunks():
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(reward, "CHUNK", 16)
        yield


@pytest.fixture(scope="module")
def made(solution_files, tmp_path_factory, small_chunks) -> Path:
    """A whole reward folder; 25 questions in chunks of eight leave a last one of one question."""
    folder = tmp_path_factory.mktemp("rewards") / "made"
    reward.main(reward_args(solution_files, folder))
    return folder


def test_every_file_of_the_pipeline(made):
    """Lengths are those of responses alone, verdicts the verifier's, pairs and heads follow from the scores."""
    names = ("config.json", "heads.jsonl", "oracle.safetensors", "pairs-0.4.jsonl", "phi.safetensors", "reference.json")
    names += ("responses.jsonl", "scores.jsonl", "sharedrep-k2-0.4.safetensors")
    assert sorted(path.name for path in made.iterdir()) == sorted(names)
    config = json.loads((made / "config.json").read_text())["args"]
    problems = {p.question: p for p in common.load_problems(config["dataset"], "all")}
    rows = read_jsonl(made / "scores.jsonl")
    assert len(rows) == 50 and all(
        first["question"] == second["question"] for first, second in zip(rows[::2], rows[1::2])
    )
    for row in rows:
        assert row["words"] == len(row["response"].split())
        assert row["correct"] == common.verify(row["response"], problems[row["question"]])
    assert len({row["response"] for row in rows}) > 25
    reference = json.loads((made / "reference.json").read_text())
    for name in ("words", "logit"):
        column = [row[name] for row in rows]
        assert reference[name] == pytest.approx([np.mean(column), np.std(column)], abs=1e-5)
    model, tokenizer = (
        AutoModelForCausalLM.from_pretrained("tiny/styled").eval(),
        AutoTokenizer.from_pretrained("tiny/styled"),
    )
    oracle, texts = load_file(made / "oracle.safetensors"), [row["response"] for row in rows]
    logits = reward.reward_heads(runs.features(model, tokenizer, [""] * 50, texts, "mean", 50), oracle)
    assert torch.allclose(logits[:, 0], torch.tensor([row["logit"] for row in rows]), atol=1e-3)
    phi = runs.features(model, tokenizer, [row["question"] for row in rows], texts, "mean", 50)
    assert torch.allclose(load_file(made / "phi.safetensors")["phi"], phi, atol=1e-4)
    pairs, (head,) = read_jsonl(made / "pairs-0.4.jsonl"), read_jsonl(made / "heads.jsonl")
    assert head["pairs_minority"] == sum(p["split"] == "train" and p["group_id"] == 0 for p in pairs) > 0
    held_out = {p["prompt"] for p in pairs if p["split"] == "test"}
    ours = torch.tensor([row["question"] not in held_out for row in rows])
    r = reward.reward_heads(phi[ours], load_file(made / "sharedrep-k2-0.4.safetensors"))
    assert torch.allclose(r.mean(0), torch.zeros(2), atol=1e-3) and torch.allclose(r.std(0), torch.ones(2), atol=1e-3)


@pytest.mark.parametrize("stopped_in", ["generate", "verify_all", "fit"])
def test_killed_and_resumed_is_uninterrupted(made, solution_files, tmp_path, monkeypatch, stopped_in):
    """Whole chunks stay; half a chunk, as a kill leaves it, is made again."""
    module, calls = (common if stopped_in == "verify_all" else reward), []
    original = getattr(module, stopped_in)

    def failing(*inputs, **flags):
        calls.append(None)
        if len(calls) == (2 if stopped_in == "fit" else 3):
            raise KeyboardInterrupt
        return original(*inputs, **flags)

    args = reward_args(solution_files, tmp_path / "rewards")
    with monkeypatch.context() as patch:
        patch.setattr(module, stopped_in, failing)
        with pytest.raises(KeyboardInterrupt):
            reward.main(args)
    for name in ("responses.jsonl", "scores.jsonl"):
        path = tmp_path / "rewards" / name
        if path.exists() and len(lines := path.read_text().splitlines()) < 50:
            path.write_text("\n".join(lines[:-5]) + '\n{"id": "half a')
    (tmp_path / "rewards" / "lock").unlink(missing_ok=True)
    reward.main(reward_args(solution_files, tmp_path / "rewards"))
    for path in made.iterdir():
        if path.name not in ("config.json", "lock"):
            assert path.read_bytes() == (tmp_path / "rewards" / path.name).read_bytes(), path.name


def test_stages_one_by_one_are_all(made, solution_files, tmp_path):
    for stage in reward.STAGES:
        reward.main(reward_args(solution_files, tmp_path / "rewards", stage=stage))
    for path in made.iterdir():
        assert (
            path.name in ("config.json", "lock") or path.read_bytes() == (tmp_path / "rewards" / path.name).read_bytes()
        )


def test_the_oracle_is_one_head_whatever_the_groups_have(made, solution_files, tmp_path):
    flags = {"stage": "oracle", "mixture": (1.0, 0.0, 0.0, 1.0), "squash": "tanh"}
    reward.main(reward_args(solution_files, tmp_path / "rewards", **flags))
    name = "oracle.safetensors"
    assert (tmp_path / "rewards" / name).read_bytes() == (made / name).read_bytes()


@pytest.mark.parametrize(("stage", "missing"), [("score", "oracle"), ("pairs", "score"), ("train", "score")])
def test_a_missing_stage_is_named_with_its_command(solution_files, tmp_path, stage, missing):
    with pytest.raises(common.InputError, match=rf"is missing or not whole; this makes it: .* --stage {missing} "):
        reward.main(reward_args(solution_files, tmp_path / "rewards", stage=stage))


def test_bad_flags_are_refused(solution_files, made, tmp_path):
    for flags, message in (
        ({"mixture": (1, 0, 1)}, "--mixture needs 2 groups times --k 2 numbers, not 3, and no --simplex"),
        ({"mixture": (1, 0, 0, 1), "simplex": True}, "not 4, and no --simplex"),
        ({"mixture": (1, 0, 0, 1), "method": "maxmin"}, "are of --method sharedrep: the w of maxmin is fixed"),
        ({"temperature": 0.0}, "--temperature 0.0 must be above 0"),
        ({"dataset": "functions", "split": "train"}, "--dataset functions holds programs"),
        ({"socratic_dataset": "gsm"}, "unknown data set 'gsm'"),
        ({"socratic_dataset": None}, " needs a --socratic-dataset: its questions, solved otherwise"),
        ({"socratic_dataset": solution_files["arithmetic"]}, "share 0 questions with two different solutions"),
        ({"policy_lm": "no/model"}, "--policy-lm no/model cannot be loaded"),
        ({"oracle_pairs": 1}, "--oracle-pairs and --test-fraction leave 0 of 1 pairs: it needs two"),
        ({"mixture": (1.0, 0.0, float("nan"), 1.0)}, "--mixture must not be nan"),
    ):
        with pytest.raises(common.InputError, match=message.replace(".", r"\.")):
            reward.main(reward_args(solution_files, tmp_path / "rewards", **flags))
        assert not (tmp_path / "rewards").exists()
    damaged = shutil.copytree(made, tmp_path / "damaged")
    for name in ("reference.json", "responses.jsonl"):
        (damaged / name).write_text('{"cut\n')
    with pytest.raises(common.InputError, match="reference.json in .*damaged is damaged"):
        grpo.main(grpo_args(solution_files, damaged, tmp_path / "run", reward="gold"))
    with pytest.raises(common.InputError, match="responses.jsonl is damaged: delete it to have it made again"):
        reward.main(reward_args(solution_files, damaged))
    with pytest.raises(common.InputError, match="--temperature is 0.7, but the run in .* was started with 1.0"):
        reward.main(reward_args(solution_files, made, temperature=0.7))
    with pytest.raises(
        common.InputError, match="has no maxmin-0.4.safetensors; python sharedrep_reward.py .*--method maxmin"
    ):
        grpo.main(grpo_args(solution_files, made, tmp_path / "run", reward="maxmin"))
    with pytest.raises(common.InputError, match="--win-rate-against .* was not evaluated on these problems"):
        grpo.main(grpo_args(solution_files, made, tmp_path / "run", win_rate_against=str(tmp_path)))
    for other in (made, damaged):  # a reward folder, whose scores.jsonl is of no evaluation; a line that is cut
        with pytest.raises(common.InputError, match=f"{other} was not evaluated on these problems"):
            common.opponent(str(other), [common.Problem("1 + 1?", "2", id="a")])
    assert not (tmp_path / "run").exists()


# ---- training on them ----------------------------------------------------------------------------------------------


def grpo_args(files: dict[str, str], rewards: Path, run_dir: Path, **flags) -> grpo.Args:
    sizes = {"groups_per_batch": 2, "group_size": 4, "eval_size": 3, "iterations": 2, "eval_every": 1, "report": False}
    names = {"dataset": files["arithmetic"], "reward_dir": str(rewards), "run_dir": str(run_dir), "proportion": 0.4}
    return grpo.Args(**names | sizes | {"max_new_tokens": 24, "lr_warmup_iterations": 0} | flags)


@pytest.mark.parametrize("flags", [{"reward": "gold"}, {"minmax": "group_weights"}])
def test_resumed_is_uninterrupted(solution_files, made, tmp_path, flags):
    """Rows, episodes, scores of the evaluations and the groups' weights."""
    from test_resume import assert_same_run

    grpo.main(grpo_args(solution_files, made, tmp_path / "whole", save_every=1, **flags))
    grpo.main(grpo_args(solution_files, made, tmp_path / "two", save_every=1, **flags | {"iterations": 1}))
    extra = tmp_path / "two" / "scores.jsonl"
    extra.write_text(extra.read_text() + '{"iteration": 2, "id": "later", "minority": 0.1, "majority": 0.2}\n')
    grpo.main(grpo_args(solution_files, made, tmp_path / "two", save_every=1, if_run_exists="resume", **flags))
    assert_same_run(tmp_path / "two", tmp_path / "whole")
    assert extra.read_text() == (tmp_path / "whole" / "scores.jsonl").read_text()


def test_a_run_does_not_go_on_with_another_reward(solution_files, made, tmp_path):
    folder = shutil.copytree(made, tmp_path / "rewards")
    args = grpo_args(solution_files, folder, tmp_path / "run", iterations=1, if_run_exists="resume")
    grpo.main(args)
    name = f"{args.reward}-k{args.k}-{args.proportion}.safetensors"
    head = runs.load_tensors(folder / name)
    runs.save_tensors(folder / name, head | {"b": head["b"] + 0.1})
    with pytest.raises(common.InputError, match="are not those that the run in .* reward"):
        grpo.main(dataclasses.replace(args, iterations=2))


def test_evaluations_are_of_the_scores_they_write(solution_files, made, tmp_path, capsys):
    """And a run against itself wins half; two responses a group are warned of."""
    args = grpo_args(solution_files, made, tmp_path / "one", reward="gold", group_size=2)
    grpo.main(args)
    assert "every advantage is .707 or -.707" in capsys.readouterr().out
    rows, scores = read_jsonl(tmp_path / "one" / "metrics.jsonl"), read_jsonl(tmp_path / "one" / "scores.jsonl")
    n = len(common.load_problems(args.dataset, "test", limit=3))
    assert [row["iteration"] for row in scores] == [0] * n + [1] * n + [2] * n
    for row in rows:
        ours = [score for score in scores if score["iteration"] == row["iteration"]]
        means = {name: np.mean([score[name] for score in ours]) for name in ("minority", "majority")}
        assert [row[f"eval/{name}"] for name in means] == pytest.approx(list(means.values()), abs=1e-6)
        assert row["eval/worst_group"] == pytest.approx(min(means.values()), abs=1e-6)
        assert row["eval/win_minority"] is None
    again = grpo_args(solution_files, made, tmp_path / "two", reward="gold", win_rate_against=str(tmp_path / "one"))
    grpo.main(dataclasses.replace(again, group_size=2))
    last = read_jsonl(tmp_path / "two" / "metrics.jsonl")[-1]
    assert [last[f"eval/win_majority{end}"] for end in ("", "_low", "_high")] == [0.5] * 3


def test_stop_strings_end_responses_in_training_too(solution_files, made, tmp_path):
    """Those that the reward folder was made with, whose scores saw no more."""
    rewards = tmp_path / "rewards"
    shutil.copytree(made, rewards)
    config = json.loads((rewards / "config.json").read_text())
    config["args"]["stop_strings"] = ["\n"]
    (rewards / "config.json").write_text(json.dumps(config))
    grpo.main(grpo_args(solution_files, rewards, tmp_path / "run", iterations=1))
    texts = [episode["attempt"] for episode in read_jsonl(tmp_path / "run" / "episodes.jsonl")]
    assert texts and not any("\n" in text for text in texts)
    tokenizer = AutoTokenizer.from_pretrained("tiny/styled")
    longest = max(len(tokenizer(text).input_ids) for text in texts) + 1
    last = read_jsonl(tmp_path / "run" / "metrics.jsonl")[-1]
    assert last["rollout/response_length_1"] <= longest
    again = evaluation.Args(solver=(str(tmp_path / "run"),), run_dir=str(tmp_path / "eval"))
    evaluation.main(evaluation.training_settings(again))
    (figures,) = json.loads((tmp_path / "eval" / "eval.json").read_text())["results"]
    assert figures["accuracy_1"] == last["eval/accuracy_1"]
    held_out = [row["attempt"] for row in read_jsonl(tmp_path / "run" / "episodes.jsonl") if row["phase"] == "eval"]
    again_held_out = [row["attempt"] for row in read_jsonl(tmp_path / "eval" / "episodes.jsonl")]
    assert again_held_out == held_out[len(held_out) // 2 :]  # of the last of two evaluations
    shutil.rmtree(rewards)
    with pytest.raises(common.InputError, match="or its reward folder, cannot be read"):
        evaluation.training_settings(again)


def test_seeds_of_one_reward_share_a_line_of_the_report(solution_files, tmp_path, monkeypatch):
    """Each seed has its own reward folder by default, which is no difference between runs; the reward is one."""
    monkeypatch.chdir(tmp_path)
    for seed in (1, 2):
        reward.main(reward_args(solution_files, None, reward_dir=None, seed=seed, epochs=1))
        for kind in ("gold", "sharedrep"):
            run_dir = tmp_path / f"{kind}-{seed}"
            grpo.main(grpo_args(solution_files, None, run_dir, reward_dir=None, seed=seed, reward=kind, iterations=1))
    loaded = [report.load_run(path) for path in sorted(tmp_path.glob("*-[12]"))]
    groups = report.group_runs(loaded)
    assert [len(group["runs"]) for group in groups] == [2, 2]
    assert [group["label"] for group in groups] == [f"sharedrep_grpo, reward {kind}" for kind in ("gold", "sharedrep")]


# ---- the page -------------------------------------------------------------------------------------------------------


def test_an_interval_by_hand():
    """Three values with mean .2 and deviation .1: half of the interval is 4.303 * .1 / sqrt(3)."""
    assert benchmark.interval([0.1, 0.2, 0.3]) == ".200 ± .248"
    assert benchmark.interval([-0.5]) == "−.500 ± .000"


def test_the_page_says_what_the_runs_said():
    """Red if a table or a figure in a sentence of docs/sharedrep.md is not that of benchmarks/sharedrep.json."""
    found = json.loads(benchmark.PUBLISHED.read_text())
    page = benchmark.PAGE.read_text(encoding="utf-8")
    assert benchmark.with_tables(page, found) == page

    def each(reward: str, proportion: float, name: str) -> list[float]:  # of the seeds
        return [row[name] for row in found["runs"] if (row["reward"], row["proportion"]) == (reward, proportion)]

    def mean(*of) -> float:
        return float(np.mean(each(*of)))

    start = {name: np.mean([row["before"][name] for row in found["runs"]]) for name in found["runs"][0]["before"]}
    right, majority, minority = (
        [mean("uniform", p, name) for p in (0.01, 0.05, 0.1, 0.2)] for name in ("accuracy_1", "majority", "minority")
    )
    heads = [
        np.mean(
            [row["accuracy_minority"] for row in found["heads"] if (row["method"], row["proportion"]) == (name, 0.01)]
        )
        for name in ("sharedrep", "maxmin")
    ]
    logits = [np.mean([row[kind] for row in found["logits"]]) for kind in list(found["logits"][0])[1:]]
    shared, alone = (mean(name, 0.01, "minority") for name in ("sharedrep", "maxmin"))
    worst = mean("gold", 0.01, "worst_group")
    sentences = [
        ("asks (mean logit {:.1f}) is more", logits[:1]),
        ("of which two ask ({:.1f}).", logits[1:]),
        ("at the start {:.2f} of its answers", [start["accuracy_1"]]),
        ("scores are {:.3f} (minority) and {:.3f} (majority)", [start["minority"], start["majority"]]),
        ("the higher one ({:.3f} against {:.3f},", [shared, alone]),
        ("worst group {:.3f} against {:.3f})", [mean(name, 0.01, "worst_group") for name in ("sharedrep", "maxmin")]),
        ("below the others ({:.2f}, {:.2f})", sorted(each("maxmin", 0.01, "minority"))[:2]),
        ("one of SharedRep's ({:.2f})", [min(each("sharedrep", 0.01, "minority"))]),
        ("from 13 pairs ({:.2f} against {:.2f})", heads),
        ("at most {:.2f} are right", [max(right)]),
        ("rises to {:.2f} or more", [min(majority)]),
        ("falls to {:.2f} or less", [max(minority)]),
        ("its start** ({:.3f}), where gold reaches {:.3f}", [start["worst_group"], worst]),
        ("rises from {:.2f} to {:.2f}, in", [mean("sharedrep", 0.1, f"reward_{name}") for name in ("first", "last")]),
        ("accuracy falls from {:.2f} to {:.2f}", [start["accuracy_1"], mean("sharedrep", 0.1, "accuracy_1")]),
    ]
    text = " ".join(page.split())
    for sentence, values in sentences:
        expected = re.sub(r"\b0\.", ".", sentence.format(*values)).replace("-.", "−.")
        assert expected in text, expected
    readme = (REPO / "README.md").read_text(encoding="utf-8")
    row = "worst group {:.2f} → {:.2f}, gold {:.2f} (5 seeds)"
    values = start["worst_group"], mean("sharedrep", 0.1, "worst_group"), worst
    assert row.format(*values).replace("0.", ".") in readme
