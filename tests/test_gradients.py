"""The losses' gradients of mlmt_rl.py against exact ones, by enumeration.

Seven responses in each of three turns are 343 episodes (enumeration.py). The expected gradient of a loss over all of
them, each weighted by its probability, is compared with autograd through the objective itself, written here without
anything of the script.
"""

import itertools

import pytest
import torch
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

import mlmt_rl

EPISODES = list(itertools.product(range(7), repeat=3))  # (z, g, y)


def prompt_of(turn: str, z: int, g: int) -> list[int]:
    if turn == "1":
        return X
    return X + [2, 2] + RESPONSES[z] + ([1, 1] if turn == "g" else [1] + RESPONSES[g] + [2])


def turn_of(turn: str, model, reference) -> dict:
    """All 343 episodes' responses of one turn."""
    prompts = [prompt_of(turn, z, g) for z, g, _ in EPISODES]
    responses = [RESPONSES[{"1": z, "g": g, "2": y}[turn]] for z, g, y in EPISODES]
    return make_turn(mlmt_rl, ARGS, prompts, responses, model, reference)


def tables(solver, feedback) -> dict[str, torch.Tensor]:
    """log L(z|x), log H(g|x,z), log L(y|x,z,g) for all episodes, with gradient: each (343,)."""
    log_z = torch.stack([response_logprob(solver, X, r) for r in RESPONSES])
    log_g = torch.stack(
        [torch.stack([response_logprob(feedback, prompt_of("g", z, 0), r) for r in RESPONSES]) for z in range(7)]
    )
    pairs = itertools.product(range(7), range(7))
    log_y = torch.stack(
        [torch.stack([response_logprob(solver, prompt_of("2", z, g), r) for r in RESPONSES]) for z, g in pairs]
    ).view(7, 7, 7)
    z, g, y = torch.tensor(EPISODES).T
    return {"1": log_z[z], "g": log_g[z, g], "2": log_y[z, g, y]}


ARGS = mlmt_rl.Args(temperature=TEMPERATURE, kl_coef=0.0, guidance_kl_coef=0.0, micro_batch_size=343)
SOLVER, FEEDBACK = random_model(0), random_model(1)
SOLVER_REF, FEEDBACK_REF = random_model(2), random_model(3)
MODELS = {"1": (SOLVER, SOLVER_REF), "g": (FEEDBACK, FEEDBACK_REF), "2": (SOLVER, SOLVER_REF)}
TURNS = {name: turn_of(name, *models) for name, models in MODELS.items()}
LOG_PI = tables(SOLVER, FEEDBACK)
with torch.no_grad():
    LOG_REF = tables(SOLVER_REF, FEEDBACK_REF)
PROBABILITY = torch.exp(sum(LOG_PI.values())).detach()  # (343,) of each episode
RANDOM = torch.Generator().manual_seed(4)
REWARDS = torch.rand(7, 7, 7, generator=RANDOM).flatten().double()  # R of (z, g, y), arbitrary
REWARDS_1 = torch.rand(7, generator=RANDOM).double()[torch.tensor(EPISODES)[:, 0]]
ZEROS = torch.zeros(343, dtype=torch.double)
KL = {name: (LOG_PI[name] - LOG_REF[name]).detach() for name in LOG_PI}  # (343,) log pi - log pi_ref of each response


def mean_given(*turns: int) -> torch.Tensor:
    """E[R | the actions of these turns] of each episode: the exact values."""
    weight, value = PROBABILITY.view(7, 7, 7), (PROBABILITY * REWARDS).view(7, 7, 7)
    others = [turn for turn in range(3) if turn not in turns]
    mean = value.sum(others, keepdim=True) / weight.sum(others, keepdim=True)
    return mean.expand(7, 7, 7).flatten()


EXACT_VALUES = torch.stack([mean_given(), mean_given(0), mean_given(0, 1)], 1)  # (343, 3)


def arbitrary_values() -> torch.Tensor:
    """Any V(x), V(x,z), V(x,z,g), each a function of its own prefix alone: (343, 3)."""
    z, g, _ = torch.tensor(EPISODES).T
    generator = torch.Generator().manual_seed(5)
    draw = [torch.randn(shape, generator=generator).double() for shape in ((1,), (7,), (7, 7))]
    return torch.stack([draw[0].expand(343), draw[1][z], draw[2][z, g]], 1)


def expected_gradient(name: str, advantages: torch.Tensor) -> torch.Tensor:
    """sum over episodes of P(episode) times the gradient of its policy loss.

    The loss is linear in the advantage and a mean over its rows, so the probabilities go in as 343 P A.
    """
    model = MODELS[name][0]
    weighted = (343 * PROBABILITY * advantages).float()
    mlmt_rl.accumulate_gradients(model, TURNS[name], torch.arange(343), weighted, 0.0, ARGS)
    return gradient(model)


def exact_gradient(name: str, reward: torch.Tensor) -> torch.Tensor:
    """d/dtheta sum_episodes P(episode) reward, through the probability of this turn's action alone."""
    return gradient(MODELS[name][0], (PROBABILITY * LOG_PI[name] * reward).sum())


def credit(values, stage1=False, kl=None, rewards_star=None, **flags) -> dict[str, torch.Tensor]:
    args = mlmt_rl.Args(**{"kl_coef": 0.0, "guidance_kl_coef": 0.0} | flags)
    kl = kl or dict.fromkeys("1g2", ZEROS)
    advantages = mlmt_rl.credit(args, stage1, REWARDS_1, REWARDS, values, kl["1"], kl["g"], kl["2"], rewards_star)
    return dict(zip(("1", "g", "2"), advantages))


def test_the_enumeration_is_complete():
    """Every turn's probabilities sum to 1, and the script's log-probabilities are those of the plain forward pass."""
    assert PROBABILITY.sum().item() == pytest.approx(1, abs=1e-6)
    for name in LOG_PI:
        assert torch.allclose(TURNS[name]["logprobs"].sum(1).double(), LOG_PI[name], atol=1e-5)


@pytest.mark.parametrize("name", ["1", "g", "2"])
def test_policy_gradient_is_exact_for_any_values(name):
    """-E[grad loss] = grad E[R] for z, g and y: each baseline sees only what came before its action."""
    exact = exact_gradient(name, REWARDS)
    assert exact.abs().max() > 1e-3
    assert same(expected_gradient(name, credit(arbitrary_values())[name]), -exact)


def test_shared_baseline_biases_the_first_attempt():
    """V(x,z,g) as the baseline of z: wrong for arbitrary values, exactly zero with the exact ones; y stays right."""
    shared = credit(arbitrary_values(), shared_baseline=True)
    assert (expected_gradient("1", shared["1"]) + exact_gradient("1", REWARDS)).abs().max() > 1e-3
    assert same(expected_gradient("2", shared["2"]), -exact_gradient("2", REWARDS))
    with_exact_values = credit(EXACT_VALUES, shared_baseline=True)
    assert expected_gradient("1", with_exact_values["1"]).abs().max() < TOLERANCE


@pytest.mark.parametrize("name", ["1", "g", "2"])
def test_gae_is_unbiased_with_exact_values_only(name):
    """lambda < 1 trusts the values: the gradient is exact where they are, and not otherwise (y has no later value)."""
    exact = exact_gradient(name, REWARDS)
    assert same(expected_gradient(name, credit(EXACT_VALUES, gae_lambda=0.5)[name]), -exact)
    biased = expected_gradient(name, credit(arbitrary_values(), gae_lambda=0.5)[name]) + exact
    assert (biased.abs().max() > 1e-3) == (name != "2")


def test_k1_in_the_reward_follows_the_objective():
    """Default estimator: each model follows E[R] - beta KL(pi || pi_ref), later tokens and turns included."""
    beta, beta_h = 0.3, 0.2
    advantages = credit(arbitrary_values(), kl=KL, kl_coef=beta, guidance_kl_coef=beta_h)
    solver = expected_gradient("1", advantages["1"]) + expected_gradient("2", advantages["2"])
    log_episode = LOG_PI["1"] + LOG_PI["2"]  # the solver's part of an episode's log-probability
    # d/dtheta sum_e P(e) (R - beta log pi/pi_ref): P changes through the solver's responses, and so does the penalty.
    penalty = log_episode - LOG_REF["1"] - LOG_REF["2"]
    objective = (PROBABILITY * torch.exp(log_episode - log_episode.detach()) * (REWARDS - beta * penalty)).sum()
    assert same(solver, -gradient(SOLVER, objective))
    penalty = LOG_PI["g"] - LOG_REF["g"]
    ratio = torch.exp(LOG_PI["g"] - LOG_PI["g"].detach())
    objective = (PROBABILITY * ratio * (REWARDS - beta_h * penalty)).sum()
    assert same(expected_gradient("g", advantages["g"]), -gradient(FEEDBACK, objective))


def test_the_joint_kl_follows_both_penalties():
    """--joint-kl: both models follow E[R] - beta_L KL(L) - beta_H KL(H) of whole episodes; without it they do not."""
    flags = {"kl": KL, "kl_coef": 0.3, "guidance_kl_coef": 0.2}
    total = {name: torch.exp(LOG_PI[name] - LOG_PI[name].detach()) for name in LOG_PI}
    penalty = 0.3 * (LOG_PI["1"] - LOG_REF["1"] + LOG_PI["2"] - LOG_REF["2"]) + 0.2 * (LOG_PI["g"] - LOG_REF["g"])
    objective = (PROBABILITY * total["1"] * total["g"] * total["2"] * (REWARDS - penalty)).sum()
    exact = {"solver": -gradient(SOLVER, objective), "feedback": -gradient(FEEDBACK, objective)}
    for joint in (True, False):
        A = credit(arbitrary_values(), joint_kl=joint, **flags)
        solver = expected_gradient("1", A["1"]) + expected_gradient("2", A["2"])
        assert same(solver, exact["solver"], 2 * TOLERANCE) == joint
        assert same(expected_gradient("g", A["g"]), exact["feedback"], 2 * TOLERANCE) == joint


def kl_loss_gradient(estimator: str, reference) -> torch.Tensor:
    """E[grad of the KL term of turn 2's loss], episode by episode through accumulate_gradients; advantages are zero."""
    args = mlmt_rl.Args(temperature=TEMPERATURE, kl_estimator=estimator)
    turn = TURNS["2"] | {"ref_logprobs": mlmt_rl.rollout_logprobs(reference, TURNS["2"], args)}
    total = 0.0
    for row in range(343):
        zero = torch.zeros(343)
        mlmt_rl.accumulate_gradients(SOLVER, turn, torch.tensor([row]), zero, 1.0, args)
        total = total + PROBABILITY[row] * gradient(SOLVER)
    return total


def prefix_kl_gradient(reverse: bool) -> torch.Tensor:
    """Exact: sum over prefixes of y of P(prefix), held fixed, times grad of KL at the next token, either direction."""
    total = 0.0
    weight = PROBABILITY.view(7, 7, 7)
    for z, g in itertools.product(range(7), range(7)):
        prompt = prompt_of("2", z, g)
        for prefix in ([], [1], [2]):
            starts = [i for i, r in enumerate(RESPONSES) if r[: len(prefix)] == prefix]
            p, q = distribution(SOLVER, prompt, prefix), distribution(SOLVER_REF, prompt, prefix).detach()
            kl = (q.exp() * (q - p)).sum() if reverse else (p.exp() * (p - q)).sum()
            total = total + weight[z, g, starts].sum() * kl
    return gradient(SOLVER, total)


@pytest.fixture(scope="module")
def kl_gradients() -> dict[str, torch.Tensor]:
    return {name: kl_loss_gradient(name, SOLVER_REF) for name in ("k2_loss", "k3_loss")}


def test_k2_follows_kl_without_later_tokens(kl_gradients):
    """As a loss, k2 gives grad KL(pi || pi_ref) token by token, and misses the effect on later tokens."""
    token_by_token = prefix_kl_gradient(reverse=False)
    assert same(kl_gradients["k2_loss"], token_by_token)
    whole = -expected_gradient("2", -KL["2"])  # score-function form of grad KL of the whole response
    assert (whole + token_by_token).abs().max() > 1e-2 or (whole - token_by_token).abs().max() > 1e-2


def test_k3_follows_the_other_direction(kl_gradients):
    """As a loss, k3's expected gradient is grad KL(pi_ref || pi), not grad KL(pi || pi_ref)."""
    assert same(kl_gradients["k3_loss"], prefix_kl_gradient(reverse=True))
    assert (kl_gradients["k3_loss"] - prefix_kl_gradient(reverse=False)).abs().max() > 1e-2


def test_k1_as_a_loss_has_no_gradient():
    """Why k1 is not offered as a loss: its expected gradient is zero away from the reference too."""
    turn, rows = TURNS["2"], torch.arange(343)
    hidden = mlmt_rl.hidden_states(SOLVER, turn, rows)
    new_logprobs = mlmt_rl.token_logprobs(SOLVER, hidden, turn, rows, ARGS)
    k1 = (new_logprobs - turn["ref_logprobs"]).sum(1)
    assert (PROBABILITY * k1).sum() > 0.1
    assert gradient(SOLVER, (PROBABILITY.float() * k1).sum()).abs().max() < TOLERANCE


@pytest.mark.parametrize("estimator", ["k2_loss", "k3_loss"])
def test_kl_losses_vanish_at_the_reference_only(estimator, kl_gradients):
    assert kl_loss_gradient(estimator, SOLVER).abs().max() < TOLERANCE
    assert kl_gradients[estimator].abs().max() > 1e-3


def test_k1_in_the_reward_vanishes_at_the_reference_only():
    assert expected_gradient("2", -KL["2"]).abs().max() > 1e-3
    assert expected_gradient("2", ZEROS).abs().max() == 0


@pytest.mark.parametrize("advantage", [0.0, 0.1])
def test_full_and_stop_differ_on_the_trunk_by_the_value_term(advantage):
    """--stop-value-gradients removes exactly the value loss's gradient from the trunk, and nothing from the head."""
    torch.manual_seed(6)
    head = torch.nn.Linear(12, 1)
    rows, rewards = torch.arange(343), REWARDS.float()
    results = {}
    for stop in (False, True):
        args = mlmt_rl.Args(temperature=TEMPERATURE, value_coef=0.1, stop_value_gradients=stop, micro_batch_size=343)
        advantages = torch.full((343,), advantage)
        mlmt_rl.accumulate_gradients(FEEDBACK, TURNS["g"], rows, advantages, 0.0, args, head, rewards)
        results[stop] = gradient(FEEDBACK), gradient(head)
    values = mlmt_rl.prefix_values(head, mlmt_rl.hidden_states(FEEDBACK, TURNS["g"], rows), TURNS["g"], rows)
    value_term = gradient(FEEDBACK, 0.1 * (values - rewards[:, None]).pow(2).mean())
    assert value_term.abs().max() > 1e-2
    assert torch.allclose(results[False][0], results[True][0] + value_term, rtol=1e-5, atol=TOLERANCE)
    assert same(results[False][1], results[True][1]) and results[True][1].abs().max() > 1e-3


def test_values_see_their_prefix_and_nothing_after_it():
    """V(x) is one number, V(x,z) one for each z, V(x,z,g) one for each (z, g): plain states at prefix ends."""
    torch.manual_seed(7)
    head, rows = torch.nn.Linear(12, 1), torch.arange(343)
    values = mlmt_rl.prefix_values(head, mlmt_rl.hidden_states(FEEDBACK, TURNS["g"], rows), TURNS["g"], rows)
    for column, key in enumerate((lambda z, g: 0, lambda z, g: z, lambda z, g: (z, g))):
        groups: dict = {}
        for value, (z, g, _) in zip(values[:, column].tolist(), EPISODES):
            groups.setdefault(key(z, g), []).append(value)
        assert len(groups) == (1, 7, 49)[column]
        assert all(max(group) - min(group) < 1e-5 for group in groups.values())
    for row, (z, g, _) in list(enumerate(EPISODES))[::25]:
        for column, prefix in enumerate((X, prompt_of("g", z, g), prompt_of("g", z, g) + RESPONSES[g])):
            state = FEEDBACK.model(torch.tensor([prefix])).last_hidden_state[0, -1]
            assert torch.allclose(head(100 * state / state.abs().sum())[0], values[row, column], atol=1e-5)


def test_a_step_moves_a_value_as_far_in_any_model():
    """Red if large states, such as Qwen's (sum |h_i| of 3,000), let one step of Adam throw the values out of [0, 1]."""
    rows = torch.arange(343)
    hidden = mlmt_rl.hidden_states(FEEDBACK, TURNS["g"], rows).detach()
    moved = []
    for size in (1.0, 37.0):
        head = torch.nn.Linear(12, 1)
        torch.nn.init.zeros_(head.weight)
        before = mlmt_rl.prefix_values(head, size * hidden, TURNS["g"], rows)
        (before - 5.0).pow(2).mean().backward()
        torch.optim.Adam(head.parameters(), lr=1e-3).step()
        moved.append(mlmt_rl.prefix_values(head, size * hidden, TURNS["g"], rows) - before)
    assert torch.allclose(moved[0], moved[1], atol=1e-5) and 0.02 < moved[0].max() <= 0.1011


def test_stage_1_gives_z_its_kl_and_nothing_else():
    """Stage I: no reward reaches z, its KL weighs beta1 + beta2; y is credited without the bonus."""
    values = arbitrary_values()
    stage1 = credit(values, stage1=True, kl=KL, kl_coef=0.1, beta2=0.3, alpha=5.0)
    assert torch.allclose(stage1["1"], -0.4 * KL["1"])
    assert torch.allclose(stage1["2"], REWARDS - values[:, 2] - 0.1 * KL["2"])


def test_bonus_pushes_by_the_change_of_verdict():
    """Stage II with alpha: (r1, R) = (1, 0), (0, 1), (1, 1) push y by -alpha, 1 + alpha, 1 (no baseline)."""
    args = mlmt_rl.Args(alpha=10.0, kl_coef=0.0)
    first, second, zeros = torch.tensor([1.0, 0, 1]), torch.tensor([0.0, 1, 1]), torch.zeros(3)
    _, _, A_2 = mlmt_rl.credit(args, False, first, second, torch.zeros(3, 3), zeros, zeros, zeros)
    assert A_2.tolist() == [-10.0, 11.0, 1.0]


def test_value_shaping_rewards_what_the_solver_can_already_use():
    """A_g = R + lambda (R - R*) - V(x,z); z and y do not feel it."""
    values, star = arbitrary_values(), ZEROS + 0.25
    plain, shaped = credit(values), credit(values, value_shaping=0.5, rewards_star=star)
    assert torch.allclose(shaped["g"], 1.5 * REWARDS - 0.125 - values[:, 1])
    assert torch.equal(shaped["1"], plain["1"]) and torch.equal(shaped["2"], plain["2"])


def test_ratio_is_clipped_on_the_side_that_matters():
    """The surrogate is -min(ratio A, clip(ratio) A): no gradient past 1 + eps for A > 0, past 1 - eps for A < 0."""
    for log_ratio, advantage, slope in ((0.5, 1.0, 0.0), (0.5, -1.0, 1.0), (-0.5, 1.0, 1.0), (-0.5, -1.0, 0.0)):
        new = torch.tensor([[log_ratio]], requires_grad=True)
        mask = torch.ones(1, 1, dtype=torch.bool)
        mlmt_rl.policy_loss(new, torch.zeros(1, 1), torch.tensor([advantage]), mask, 0.2).sum().backward()
        expected = -advantage * torch.exp(new.detach()) * slope
        assert torch.allclose(new.grad, expected)
