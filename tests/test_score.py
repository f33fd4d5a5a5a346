"""SCoRe and RL-Guided SCoRe: their gradients against exact ones, by enumeration, and what each stage trains."""

import functools
import itertools

import pytest
import torch
from enumeration import RESPONSES, TEMPERATURE, TOLERANCE, X, gradient, make_turn, random_model, response_logprob, same

import common
import rl_guided_score
import score

ROUNDING = 5 * TOLERANCE  # the gradients here reach 2, and are summed in float32
SCRIPTS = {"score": score, "rl_guided_score": rl_guided_score}
POLICY, REFERENCE, GUIDANCE, GUIDANCE_REFERENCE = (random_model(seed) for seed in range(4))
EPISODES = torch.tensor(list(itertools.product(range(7), repeat=3)))  # (y_1, g, y_2); without g where g is 0
Y_1, G, Y_2 = EPISODES.T


def second_prompt(y_1: int, g: int) -> list[int]:
    return X + [2, 2] + RESPONSES[y_1] + [1] + RESPONSES[g] + [2]


def guidance_prompt(y_1: int) -> list[int]:
    return X + [2, 2] + RESPONSES[y_1] + [1, 1]


class World:
    """All episodes of one script, their probabilities, and arbitrary rewards r_1(y_1) and r_2(y_1, g, y_2).

    score.py has no guidance: there g is fixed, one instruction for all, and an episode is (y_1, y_2).
    """

    def __init__(self, script):
        self.script = script
        rows = EPISODES if script is rl_guided_score else EPISODES[G == 0]
        y_1, g, y_2 = rows.T
        self.size = len(rows)
        self.args = script.Args(temperature=TEMPERATURE, micro_batch_size=self.size)
        self.models = {"1": (POLICY, REFERENCE), "2": (POLICY, REFERENCE)}
        prompts = {"1": [X] * self.size, "2": [second_prompt(*pair) for pair in rows[:, :2].tolist()]}
        responses = {"1": [RESPONSES[i] for i in y_1], "2": [RESPONSES[i] for i in y_2]}
        if script is rl_guided_score:
            self.models["g"] = (GUIDANCE, GUIDANCE_REFERENCE)
            prompts["g"], responses["g"] = [guidance_prompt(i) for i in y_1], [RESPONSES[i] for i in g]
        self.turns, self.log_pi, self.log_ref = {}, {}, {}
        for name, models in self.models.items():
            self.turns[name] = make_turn(script, self.args, prompts[name], responses[name], *models)
            tables = []
            for model in models:
                known = {}
                for pair in zip(map(tuple, prompts[name]), map(tuple, responses[name])):
                    if pair not in known:
                        known[pair] = response_logprob(model, list(pair[0]), list(pair[1]))
                tables.append([known[tuple(p), tuple(r)] for p, r in zip(prompts[name], responses[name])])
            self.log_pi[name], self.log_ref[name] = torch.stack(tables[0]), torch.stack(tables[1]).detach()
        self.probability = torch.exp(sum(self.log_pi.values())).detach()
        generator = torch.Generator().manual_seed(4)
        self.rewards_1 = torch.rand(7, generator=generator).double()[y_1]
        self.rewards_2 = torch.rand(7, 7, 7, generator=generator).double()[y_1, g, y_2]
        self.kl = {name: (self.log_pi[name] - self.log_ref[name]).detach() for name in self.models}

    def credit(self, stage1=False, **flags) -> dict[str, torch.Tensor]:
        """A_1, A_2 (and A_g) of every episode, with k1 penalties."""
        args = self.script.Args(**flags)
        names = ("1", "g", "2") if self.script is rl_guided_score else ("1", "2")
        advantages = self.script.credit(args, stage1, self.rewards_1, self.rewards_2, *(self.kl[n] for n in names))
        return dict(zip(names, advantages))

    def expected_gradient(self, name: str, advantages: torch.Tensor) -> torch.Tensor:
        """sum over episodes of P(episode) times the gradient of its policy loss, which is linear in the advantage."""
        weighted = (self.size * self.probability * advantages).float()
        rows, model = torch.arange(self.size), self.models[name][0]
        self.script.accumulate_gradients(model, self.turns[name], rows, weighted, 0.0, self.args)
        return gradient(model)

    def exact_gradient(self, name: str, reward: torch.Tensor, beta: float) -> torch.Tensor:
        """grad of E[reward] - beta E[KL of this turn], through this turn's probabilities alone; autograd of the KL."""
        log_pi = self.log_pi[name]
        ratio = torch.exp(log_pi - log_pi.detach())
        value = (self.probability * ratio * (reward - beta * (log_pi - self.log_ref[name]))).sum()
        return gradient(self.models[name][0], value)


@functools.cache
def world_of(script) -> World:
    return World(script)


@pytest.fixture(params=list(SCRIPTS))
def world(request) -> World:
    return world_of(SCRIPTS[request.param])


def test_the_enumeration_is_complete(world):
    assert world.probability.sum().item() == pytest.approx(1, abs=1e-6)
    for name in world.turns:
        assert torch.allclose(world.turns[name]["logprobs"].sum(1).double(), world.log_pi[name], atol=1e-5)


def test_stage_1_trains_the_second_attempt_and_holds_the_first(world):
    """SCoRe, eq. 3: y_1 feels (beta1 + beta2) KL and no reward, y_2 feels r_2 and beta1 KL."""
    A = world.credit(stage1=True, kl_coef=0.2, beta2=0.5)
    exact = world.exact_gradient("1", torch.zeros_like(world.rewards_1), 0.7)
    assert exact.abs().max() > 1e-3
    assert same(world.expected_gradient("1", A["1"]), -exact, ROUNDING)
    exact = world.exact_gradient("2", world.rewards_2, 0.2)
    assert exact.abs().max() > 1e-3
    assert same(world.expected_gradient("2", A["2"]), -exact, ROUNDING)
    no_kl = world.credit(stage1=True, kl_coef=0.0, beta2=0.0)
    assert world.expected_gradient("1", no_kl["1"]).abs().max() == 0


def test_stage_2_trains_both_with_the_bonus_on_the_second(world):
    """SCoRe, eq. 4, gamma = 0: y_1 feels r_1 and its KL alone, y_2 feels r_2 + alpha (r_2 - r_1) and its KL alone."""
    A = world.credit(kl_coef=0.2, beta2=0.5, alpha=3.0)
    shaped = world.rewards_2 + 3.0 * (world.rewards_2 - world.rewards_1)
    for name, reward in (("1", world.rewards_1), ("2", shaped)):
        exact = world.exact_gradient(name, reward, 0.2)
        assert exact.abs().max() > 1e-3
        assert same(world.expected_gradient(name, A[name]), -exact, ROUNDING)


@pytest.mark.parametrize("stage1", [True, False])
def test_without_a_discount_both_objectives_are_followed_exactly(world, stage1):
    """gamma = 1: the gradient of SCoRe's eq. 3 and eq. 4 through both attempts, rewards and penalties alike."""
    A = world.credit(stage1=stage1, kl_coef=0.2, beta2=0.5, alpha=3.0, gamma=1.0)
    mine = world.expected_gradient("1", A["1"]) + world.expected_gradient("2", A["2"])
    gain = 0 if stage1 else 3.0 * (world.rewards_2 - world.rewards_1) + world.rewards_1
    k1 = {name: world.log_pi[name] - world.log_ref[name] for name in "12"}
    value = world.rewards_2 + gain - 0.2 * (k1["1"] + k1["2"]) - 0.5 * stage1 * k1["1"]
    episode = world.log_pi["1"] + world.log_pi["2"]
    exact = gradient(POLICY, (world.probability * torch.exp(episode - episode.detach()) * value).sum())
    assert exact.abs().max() > 1e-3 and same(mine, -exact, 2 * ROUNDING)
    without = world.credit(stage1=stage1, kl_coef=0.2, beta2=0.5, alpha=3.0)
    mine = world.expected_gradient("1", without["1"]) + world.expected_gradient("2", without["2"])
    assert not same(mine, -exact, 1e-3)


def test_without_credit_across_turns_the_bonus_is_a_weight(world):
    """gamma = 0: -alpha r_1 is a baseline of y_2, so that alpha = 3 gives four times the gradient of alpha = 0."""
    weighted, plain = (world.credit(kl_coef=0.0, alpha=alpha)["2"] for alpha in (3.0, 0.0))
    gradients = [world.expected_gradient("2", A) for A in (weighted, plain)]
    assert same(gradients[0], 4 * gradients[1], ROUNDING) and gradients[1].abs().max() > 1e-3


@pytest.mark.parametrize("stage1", [True, False])
def test_the_guidance_model_follows_the_final_reward(stage1):
    """E[R] - beta_H KL(H || H_0), whatever the solver's stage, bonus and weights are."""
    world = world_of(rl_guided_score)
    A = world.credit(stage1=stage1, guidance_kl_coef=0.3, kl_coef=0.9, beta2=0.9, alpha=7.0)
    exact = world.exact_gradient("g", world.rewards_2, 0.3)
    assert exact.abs().max() > 1e-3
    assert same(world.expected_gradient("g", A["g"]), -exact, ROUNDING)


@pytest.mark.parametrize("script", SCRIPTS.values(), ids=SCRIPTS)
def test_the_bonus_pushes_by_the_change_of_verdict(script):
    """Stage II: (r_1, r_2) = (1, 0) pushes y_2 down by alpha, (0, 1) up by 1 + alpha, (1, 1) by 1, (0, 0) by 0."""
    first, second, zeros = torch.tensor([1.0, 0, 1, 0]), torch.tensor([0.0, 1, 1, 0]), torch.zeros(4)
    args = script.Args(alpha=10.0, kl_coef=0.0)
    A_1, *_, A_2 = script.credit(args, False, first, second, *[zeros] * (3 if script is rl_guided_score else 2))
    assert A_2.tolist() == [-10.0, 11.0, 1.0, 0.0]
    assert A_1.tolist() == first.tolist()


def test_baselines_by_hand():
    """Nothing; the mean 0.5; the mean of the other three."""
    rewards = torch.tensor([1.0, 0.0, 0.0, 1.0])
    assert score.baseline(rewards, "none").tolist() == [0, 0, 0, 0]
    assert score.baseline(rewards, "batch").tolist() == [0.5] * 4
    assert score.baseline(rewards, "leave-one-out").tolist() == pytest.approx([1 / 3, 2 / 3, 2 / 3, 1 / 3])


@pytest.mark.parametrize(("kind", "scale"), [("none", 1.0), ("leave-one-out", 1.0), ("batch", 0.5)])
def test_baselines_leave_the_direction(kind, scale):
    """Over all pairs of independent episodes: leave-one-out is unbiased, the batch mean of two halves the gradient."""
    world = world_of(score)
    reward = world.rewards_2
    pairs = torch.stack([reward[:, None].expand(-1, len(reward)), reward[None].expand(len(reward), -1)])  # (2, e, e)
    of_first = torch.stack([score.baseline(pairs[:, i, j], kind)[0] for i in range(49) for j in range(49)])
    A = reward - (of_first.view(49, 49) * world.probability).sum(1)  # the mean over the other episode of the pair
    exact = world.exact_gradient("2", reward, 0.0)
    assert same(world.expected_gradient("2", A), -scale * exact)


@pytest.mark.parametrize(("turns", "trained"), [("both", "12"), ("first", "1"), ("second", "2")])
def test_ablations_leave_a_turn_without_reward(turns, trained):
    world = world_of(score)
    A = world.credit(kl_coef=0.2, alpha=2.0, trained_turns=turns)
    for name in "12":
        without_reward = torch.allclose(A[name], -0.2 * world.kl[name])
        assert without_reward == (name not in trained), name


# ---- the loop ------------------------------------------------------------------------------------------------------


def test_unread_feedback_is_not_trained(small):
    with pytest.raises(common.InputError, match="--no-train-guidance-model"):
        rl_guided_score.main(small(script=rl_guided_score, use_smart_corrections=False))
