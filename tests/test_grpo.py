"""GRPO: advantages and losses by hand, the expected gradient by enumeration, what a run samples, keeps and chooses."""

import itertools
import statistics
from pathlib import Path

import pytest
import torch
from conftest import read_jsonl
from enumeration import (
    RESPONSES,
    TEMPERATURE,
    TOLERANCE,
    X,
    distribution,
    gradient,
    make_turn,
    random_model,
    response_logprob,
    same,
)
from safetensors.torch import load_file
from test_bad_input import refused  # noqa: F401, a fixture
from transformers import AutoModelForCausalLM, AutoTokenizer

import common
import grpo

POLICY, REFERENCE = random_model(0), random_model(1)
ARGS = grpo.Args(temperature=TEMPERATURE, max_new_tokens=2, micro_batch_size=4)


def make_args(**flags) -> grpo.Args:
    return grpo.replace(ARGS, **flags)


# ---- advantages and rewards ----------------------------------------------------------------------------------------


def test_advantages_by_hand():
    """Groups (1, 0, 0, 0) and (1, 1, 0, 0): means 1/4 and 1/2, sample standard deviations 1/2 and 1/sqrt(3)."""
    rewards = torch.tensor([1.0, 0, 0, 0, 1, 1, 0, 0])
    centred = torch.tensor([0.75, -0.25, -0.25, -0.25, 0.5, 0.5, -0.5, -0.5])
    assert torch.allclose(grpo.group_advantages(rewards, 4, "none"), centred)
    deviations = torch.tensor([0.5] * 4 + [3**-0.5] * 4)
    assert torch.allclose(grpo.group_advantages(rewards, 4, "std"), centred / (deviations + 1e-4))


@pytest.mark.parametrize("reward", [0.0, 1.0, 0.9, -0.1, 1 / 3])
@pytest.mark.parametrize("norm", ["std", "none"])
def test_a_constant_group_has_no_advantage(reward, norm):
    """Exactly zero, though the mean of seven times 0.9 is not 0.9 in float32."""
    assert grpo.group_advantages(torch.full((14,), reward), 7, norm).tolist() == [0.0] * 14


def test_the_kl_keeps_its_weight_whatever_the_rewards_are():
    """k1_reward: - beta (KL - mean KL), not divided by the rewards' std; in a constant group that is all there is."""
    rewards, kl = torch.tensor([1.0, 1.0, 1.0, 0.0]), torch.tensor([0.5, 0.1, 0.4, 0.2])
    centred = torch.tensor([0.2, -0.2, 0.1, -0.1])
    for norm, spread in (("std", 2**-0.5 + 1e-4), ("none", 1.0)):
        args = make_args(group_size=2, kl_estimator="k1_reward", kl_coef=0.01, advantage_norm=norm)
        expected = torch.tensor([0.0, 0.0, 0.5, -0.5]) / spread - 0.01 * centred
        assert torch.allclose(grpo.credit(args, rewards, kl), expected, atol=1e-7)
        args = grpo.replace(args, kl_estimator="k3_loss")
        assert torch.equal(grpo.credit(args, rewards, kl), grpo.group_advantages(rewards, 2, norm))


def test_rewards_by_hand():
    """Right and of the right form: 1; without it 0.9; wrong: 0 and -0.1. The length penalty rises over the last 4."""
    verdicts, form = torch.tensor([1.0, 1, 0, 0]), torch.tensor([True, False, True, False])
    lengths = torch.tensor([10, 10, 10, 10])
    rewards = grpo.shaped_rewards(verdicts, form, lengths, make_args(max_new_tokens=10, format_coef=0.1))
    assert torch.allclose(rewards, torch.tensor([1.0, 0.9, 0.0, -0.1]))
    args = make_args(max_new_tokens=10, format_coef=0.0, overlong_buffer=4, overlong_coef=0.5)
    rewards = grpo.shaped_rewards(torch.ones(5), torch.ones(5).bool(), torch.tensor([2, 6, 7, 8, 10]), args)
    assert torch.allclose(rewards, 1 - 0.5 * torch.tensor([0, 0, 0.25, 0.5, 1]))


def test_the_right_form():
    """A box for maths, a program for code; anything else is none, right or not."""
    problem = common.Problem("2 + 3?", "5")
    assert common.well_formed(r"so \boxed{7}", problem) and not common.well_formed("The answer is 5.", problem)
    problem = common.Problem("Write f.", "", tests=("assert f(1) == 1",))
    assert common.well_formed("```python\nx = 1\n```", problem) and not common.well_formed("I cannot.", problem)


# ---- losses --------------------------------------------------------------------------------------------------------

# loss and its derivative by log pi at ratios 1/2, 1, 2, with clip(ratio) in [0.9, 1.3]
HAND = {
    ("ppo", 1.0): ([-0.5, -1.0, -1.3], [-0.5, -1.0, 0.0]),
    ("ppo", -1.0): ([0.9, 1.0, 2.0], [0.0, 1.0, 2.0]),
    ("importance_sampling", 1.0): ([-0.5, -1.0, -2.0], [-0.5, -1.0, -2.0]),
    ("importance_sampling", -1.0): ([0.5, 1.0, 2.0], [0.5, 1.0, 2.0]),
    ("cispo", 1.0): ([0.9 * 3, 1.0 * 3, 1.3 * 3], [-0.9, -1.0, -1.3]),  # log pi is -3
    ("cispo", -1.0): ([-0.9 * 3, -1.0 * 3, -1.3 * 3], [0.9, 1.0, 1.3]),
}


@pytest.mark.parametrize(("loss_fn", "A"), HAND)
def test_losses_by_hand(loss_fn, A):
    new_logprobs = torch.full((1, 4), -3.0, requires_grad=True)
    logprobs = -3.0 - torch.log(torch.tensor([[0.5, 1.0, 2.0, 7.0]]))
    mask = torch.tensor([[True, True, True, False]])
    args = make_args(loss_fn=loss_fn, clip_low=0.1, clip_high=0.3)
    loss = grpo.policy_loss(new_logprobs, logprobs, torch.tensor([A]), mask, args)
    values, derivatives = HAND[loss_fn, A]
    assert loss.item() == pytest.approx(sum(values), abs=1e-5)
    assert torch.allclose(torch.autograd.grad(loss.sum(), new_logprobs)[0], torch.tensor([[*derivatives, 0.0]]))


def test_weights_by_hand():
    """Responses of 1 and 3 tokens, at most 4: 1/(2 |o|), 1 / 4, 1 / (2 * 4)."""
    mask = torch.tensor([[True, False, False], [True, True, True]])
    for reduction, expected in (("sequence", [1 / 2, 1 / 6]), ("token", [1 / 4] * 2), ("constant", [1 / 8] * 2)):
        assert torch.allclose(grpo.loss_weights(mask, reduction, 4), torch.tensor(expected)), reduction


# ---- gradients -----------------------------------------------------------------------------------------------------


def world(args) -> tuple[dict, torch.Tensor, torch.Tensor]:
    """All 7 responses to one prompt as a turn, and their exact log-probabilities under policy and reference."""
    turn = make_turn(grpo, args, [X] * 7, RESPONSES, POLICY, REFERENCE)
    log_pi, log_ref = (torch.stack([response_logprob(m, X, r) for r in RESPONSES]) for m in (POLICY, REFERENCE))
    return turn, log_pi, log_ref.detach()


REWARDS = torch.tensor([0.3, 1.0, 0.0, 0.9, 0.5, 0.0, 0.7]).double()


@pytest.mark.parametrize("beta", [0.0, 0.3])
def test_the_expected_gradient_without_std_is_the_exact_one(beta):
    """Over all 7^3 groups: (1 - 1/G) grad of E[R] - beta KL, as a group's mean holds a response's own reward."""
    args = make_args(kl_estimator="k1_reward", loss_reduction="constant", advantage_norm="none")
    args = grpo.replace(args, kl_coef=beta, group_size=3)
    turn, log_pi, log_ref = world(args)
    groups = torch.tensor(list(itertools.product(range(7), repeat=3)))
    kl = (log_pi - log_ref).detach()
    A = grpo.credit(args, REWARDS[groups].flatten(), kl[groups].flatten()).view(-1, 3)
    expected = expected_advantages(groups, A, log_pi)
    exact = gradient(POLICY, (log_pi.exp() * (REWARDS - beta * (log_pi - log_ref))).sum())
    grpo.accumulate_gradients(POLICY, turn, torch.arange(7), (7 * 2 * expected).float(), 0.0, args)
    assert exact.abs().max() > 1e-3 and same(gradient(POLICY), -2 / 3 * exact, 5 * TOLERANCE)


def expected_advantages(groups: torch.Tensor, A: torch.Tensor, log_pi: torch.Tensor) -> torch.Tensor:
    """sum over groups of P(group) A_k / G for each response o_k: (7,), which multiplies grad log pi(o)."""
    probability = log_pi.detach()[groups].sum(1).exp()  # (groups,)
    return torch.zeros(7).double().index_add_(0, groups.flatten(), (probability[:, None] * A / 3).flatten())


@pytest.mark.parametrize("reduction", ["sequence", "token", "constant"])
@pytest.mark.parametrize("estimator", ["k3_loss", "k2_loss"])
def test_the_gradient_of_a_batch(reduction, estimator, monkeypatch):
    """Against autograd of the loss written token by token, off-policy, with std; the memory knobs change nothing."""
    args = make_args(loss_reduction=reduction, kl_estimator=estimator, clip_low=0.1, clip_high=0.3)
    turn, _, _ = world(args)
    shift = torch.tensor([[0.05, -0.4], [0.5, 0.1], [0.0, 0.02], [-0.02, 0.3], [0.1, -0.1], [0.3, 0.2], [0.0, -0.3]])
    turn["old_logprobs"] = (turn["logprobs"] + shift) * turn["response_mask"]
    rows, rewards = [5, 0, 3, 1, 6, 2], [1.0, 0.0, 0.0, 1.0, 1.0, 0.0]
    A = torch.zeros(7)
    A[rows] = grpo.group_advantages(torch.tensor(rewards), 3, "std")
    loss, policy_part, tokens = 0, 0, sum(len(RESPONSES[i]) for i in rows)
    for group in (range(0, 3), range(3, 6)):
        mean, std = (f([rewards[k] for k in group]) for f in (statistics.mean, statistics.stdev))
        for k in group:
            o = RESPONSES[rows[k]]
            weight = {"sequence": 1 / (6 * len(o)), "token": 1 / tokens, "constant": 1 / (6 * 2)}[reduction]
            advantage = (rewards[k] - mean) / (std + 1e-4)
            for t, token in enumerate(o):
                new = distribution(POLICY, X, o[:t])[token]
                ratio = torch.exp(new - turn["old_logprobs"][rows[k], t].double())
                surrogate = torch.min(ratio * advantage, ratio.clamp(0.9, 1.3) * advantage)
                log_ratio = new - distribution(REFERENCE, X, o[:t])[token].detach()
                kl = torch.exp(-log_ratio) - 1 + log_ratio if estimator == "k3_loss" else log_ratio**2 / 2
                loss = loss + weight * (-surrogate + 0.5 * kl)
                policy_part -= weight * surrogate.item()
    exact = gradient(POLICY, loss)
    gradients = []
    for size, chunk in ((1, 100), (4, 5), (7, 1)):
        monkeypatch.setattr(grpo, "LOGITS_CHUNK", chunk)
        sized = grpo.replace(args, micro_batch_size=size)
        policy = grpo.accumulate_gradients(POLICY, turn, torch.tensor(rows), A, 0.5, sized)
        assert policy == pytest.approx(policy_part, abs=1e-5)
        gradients.append(gradient(POLICY))
    assert exact.abs().max() > 1e-3 and all(same(found, exact, 5 * TOLERANCE) for found in gradients)


def test_a_response_that_does_not_end_has_not_the_right_form():
    """Cut behind its box, it states an answer, but it goes on."""
    models, tokenizers = (AutoModelForCausalLM.from_pretrained("tiny"),), (AutoTokenizer.from_pretrained("tiny"),)
    problems = common.load_problems("arithmetic", "test", limit=1)
    whole = grpo.run_episodes(models, tokenizers, problems, grpo.Args(temperature=0.0))
    length = int(whole["attempt"]["response_mask"].sum())
    cut = grpo.run_episodes(models, tokenizers, problems, grpo.Args(temperature=0.0, max_new_tokens=length - 1))
    assert whole["attempt"]["texts"] == cut["attempt"]["texts"] and common.well_formed(
        *cut["attempt"]["texts"], *problems
    )
    assert whole["well_formed"].tolist() == [True] and cut["well_formed"].tolist() == [False]


def test_rows_of_several_turns_are_one_turn():
    """Prompts of other lengths are padded; no log-probability changes."""
    model, tokenizer = AutoModelForCausalLM.from_pretrained("tiny"), AutoTokenizer.from_pretrained("tiny")
    problems = common.load_problems("arithmetic", "test", limit=12)
    args = grpo.Args(max_new_tokens=30)
    torch.manual_seed(0)
    problems = sorted(problems, key=lambda p: len(p.question))
    turns = [grpo.run_episodes((model,), (tokenizer,), part, args)["attempt"] for part in (problems[:6], problems[6:])]
    assert turns[0]["prompt_ids"].shape[1] < turns[1]["prompt_ids"].shape[1]
    rows = [torch.tensor([4, 1]), torch.tensor([0, 5, 2])]
    selected = grpo.select(turns, rows)
    logprobs = torch.cat([grpo.rollout_logprobs(model, turn, args)[chosen] for turn, chosen in zip(turns, rows)])
    assert torch.allclose(grpo.rollout_logprobs(model, selected, args), logprobs, atol=1e-4)


# ---- runs ----------------------------------------------------------------------------------------------------------


@pytest.fixture
def verdicts(monkeypatch):
    """A function that makes the verifier follow a list: for each group of a round, how many of its responses are right.

    Rounds beyond the list, and evaluations (of 4 problems), are wrong throughout.
    """

    def use(rounds: list[list[int]], group_size: int) -> list[list[str]]:
        asked, coming = [], iter(rounds)

        def judge_all(responses, problems, *flags):
            if len({p.id for p in problems}) == len(problems):  # an evaluation
                return [False] * len(problems)
            asked.append([p.id for p in problems[::group_size]])
            # the responses to one problem stand beside each other
            assert [p.id for p in problems] == [name for name in asked[-1] for _ in range(group_size)]
            groups = next(coming, [0] * (len(problems) // group_size))
            return [k < right for right in groups for k in range(group_size)]

        monkeypatch.setattr(common, "judge_all", judge_all)
        return asked

    return use


def rows_of(args, name="metrics.jsonl") -> list[dict]:
    return read_jsonl(Path(args.run_dir) / name)


def grpo_args(small, **flags) -> grpo.Args:
    return small(
        **{"script": grpo, "groups_per_batch": 3, "group_size": 2, "iterations": 1, "format_coef": 0.0} | flags
    )


def test_constant_groups(small, tmp_path, verdicts):
    """Kept by default; dropped; replaced from further rounds, of new problems, up to the batch and no further."""
    for name, flags, rounds, trained in (
        ("kept", {}, 1, 6),
        ("dropped", {"dynamic_sampling": 1}, 1, 2),
        ("replaced", {"dynamic_sampling": 4}, 3, 6),
        ("too few", {"dynamic_sampling": 2}, 2, 4),
    ):
        asked = verdicts([[0, 1, 2], [1, 2, 0], [1, 1, 1], [1, 1, 1]], 2)
        args = grpo_args(small, run_dir=tmp_path / name, **flags)
        grpo.main(args)
        row = rows_of(args)[1]
        assert len(asked) == rounds and len({problem for part in asked for problem in part}) == 3 * rounds
        assert row["rollout/trained_responses"] == trained and row["charts/episodes"] == 6 * rounds
        right = [n for part in [[0, 1, 2], [1, 2, 0], [1, 1, 1]][:rounds] for n in part]
        assert row["rollout/accuracy_1"] == pytest.approx(sum(right) / (2 * len(right)))  # of all that was sampled
        shares = [row[f"rollout/groups_{kind}"] for kind in ("wrong", "mixed", "right")]
        assert shares == pytest.approx([right.count(n) / len(right) for n in (0, 1, 2)])


def test_groups_are_dropped_by_their_verdicts(small, verdicts, monkeypatch):
    """DAPO: responses that are all wrong are no mixed group, though one of them loses its reward for form."""
    verdicts([[0, 1, 2]], 2)
    forms = itertools.cycle([True, False])
    monkeypatch.setattr(common, "well_formed", lambda *_: next(forms))
    args = grpo_args(small, format_coef=0.5, dynamic_sampling=1, max_new_tokens=40, temperature=1.0)
    grpo.main(args)
    row = rows_of(args)[1]
    assert row["rollout/trained_responses"] == 2 and 0 < row["rollout/format"] < 1


def test_nothing_to_learn_from(small, tmp_path, verdicts):
    """No step is taken where no group is mixed; the row says null, and the run goes on."""
    verdicts([], 2)
    args = grpo_args(small, iterations=2, dynamic_sampling=1)
    grpo.main(args)
    last = rows_of(args)[-1]
    assert last["rollout/trained_responses"] == 0 and last["losses/grad_norm_solver"] is None
    start, end = (
        load_file(path / "model.safetensors") for path in (Path("tiny"), tmp_path / "run/checkpoint-000002/solver")
    )
    assert all(torch.equal(start[name], end[name]) for name in start)


def test_one_template_in_training_and_evaluation(small, tmp_path, monkeypatch):
    """Every prompt of a run starts with it; evaluations are sampled as the rollout is, and greedy."""
    prompts, temperatures = [], []
    generate = grpo.generate
    monkeypatch.setattr(grpo, "generate", lambda *a: temperatures.append(a[-1].temperature) or generate(*a))
    encode = common.encode_prompt
    monkeypatch.setattr(common, "encode_prompt", lambda t, m, *rest: prompts.append(m) or encode(t, m, *rest))
    grpo.main(grpo_args(small, prompt_template="step_by_step"))
    assert len(prompts) == 2 * 2 * 4 + 6  # two evaluations, sampled and greedy, and the rollout
    assert temperatures == [2.0, 0.0, 2.0, 2.0, 0.0]
    assert all(messages[:2] == common.PROMPT_TEMPLATES["step_by_step"] and len(messages) == 3 for messages in prompts)


def test_training_and_evaluation_share_no_problem(small, problem_file):
    args = grpo_args(small, iterations=9, eval_every=3, max_new_tokens=4)
    grpo.main(args)
    episodes = rows_of(args, "episodes.jsonl")
    asked = {phase: {e["question"] for e in episodes if e["phase"] == phase} for phase in ("eval", "rollout")}
    assert asked["eval"] and asked["rollout"] and not asked["eval"] & asked["rollout"]
