"""ArCHer: the actor's gradient against the exact one, the critic's targets by hand, the target network, the buffer."""

import pytest
import torch
from conftest import coins, read_jsonl
from enumeration import (
    RESPONSES,
    TEMPERATURE,
    X,
    distribution,
    gradient,
    make_turn,
    random_model,
    response_logprob,
    same,
)
from transformers import RobertaConfig, RobertaModel

import archer
import common

ACTOR = random_model(0)
ARGS = archer.Args(temperature=TEMPERATURE, micro_batch_size=4)
TURN = make_turn(archer, ARGS, [X] * 7, RESPONSES, ACTOR, ACTOR)
LOG_PI = torch.stack([response_logprob(ACTOR, X, response) for response in RESPONSES])  # (7,)
PROBABILITY = LOG_PI.exp().detach()
REWARDS = torch.tensor([0.3, 0.9, 0.1, 0.5, 0.7, 0.2, 0.8], dtype=torch.double)  # r(a)


def exact_values() -> tuple[torch.Tensor, torch.Tensor]:
    """Q(s,a) = r and V(s) = E[r], the same in both heads: (7, 2), (7, 2)."""
    value = (PROBABILITY * REWARDS).sum().expand(7)
    return torch.stack([REWARDS, REWARDS], 1), torch.stack([value, value], 1)


def expected_gradient(advantages: torch.Tensor, head=None) -> torch.Tensor:
    """sum_a pi(a) times the gradient of a's policy loss, a mean over its rows and linear in the advantage."""
    archer.accumulate_gradients(ACTOR, TURN, (7 * PROBABILITY * advantages).float(), ARGS, head)
    return gradient(ACTOR)


def test_the_actors_gradient_is_exact_with_exact_values():
    """-E[grad loss] = grad E[r], and the state's value does not change it."""
    exact = gradient(ACTOR, (LOG_PI.exp() * REWARDS).sum())
    assert exact.abs().max() > 1e-3
    assert same(expected_gradient(archer.advantage(*exact_values())), -exact)
    q, v = exact_values()
    assert same(expected_gradient(archer.advantage(q, v + 5.0)), -exact, 1e-5)


def test_the_smaller_of_each_pair_makes_the_advantage():
    q, v = torch.tensor([[0.9, 0.4], [0.1, 0.2]]), torch.tensor([[0.3, 0.5], [0.6, 0.2]])
    assert archer.advantage(q, v).tolist() == pytest.approx([0.4 - 0.3, 0.1 - 0.2])


def test_any_token_baseline_leaves_the_gradient(monkeypatch):
    """b_t may depend on everything before token t. One of token t itself, or of later ones, biases the gradient."""
    generator = torch.Generator().manual_seed(1)
    table = {prefix: torch.randn(1, generator=generator).item() for prefix in [(), (1,), (2,)]}

    def baselines(shift: int) -> torch.Tensor:
        prefixes = [[tuple(r[: t + shift]) for t in range(2)] for r in RESPONSES]
        return torch.tensor([[table.get(prefix, 0.0) for prefix in row] for row in prefixes])

    head = torch.nn.Linear(12, 1)
    exact = gradient(ACTOR, (LOG_PI.exp() * REWARDS).sum())
    for shift, unbiased in ((0, True), (1, False)):
        total = 0.0
        for row in range(7):
            values = baselines(shift)[[row]]
            monkeypatch.setattr(archer, "token_baseline", lambda *_, values=values: values)
            turn = {key: value[[row]] if isinstance(value, torch.Tensor) else value for key, value in TURN.items()}
            archer.accumulate_gradients(ACTOR, turn, REWARDS[[row]].float(), ARGS, head)
            total = total + PROBABILITY[row] * gradient(ACTOR)
        assert same(total, -exact, 1e-5) == unbiased


def test_the_token_baseline_is_read_before_its_token_and_moves_no_actor():
    torch.manual_seed(2)
    head = torch.nn.Linear(12, 1)
    hidden = archer.hidden_states(ACTOR, TURN, torch.arange(7))
    b = archer.token_baseline(head, hidden, TURN, torch.arange(7))  # (7, 2)
    for row, response in enumerate(RESPONSES):
        for t in range(len(response)):
            state = ACTOR.model(torch.tensor([X + response[:t]])).last_hidden_state[0, -1]
            assert b[row, t].item() == pytest.approx(head(100 * state / state.abs().sum()).item(), abs=1e-5)
    assert torch.allclose(archer.token_baseline(head, 37 * hidden, TURN, torch.arange(7)), b, atol=1e-5)
    A = torch.tensor(REWARDS.tolist())
    plain = archer.accumulate_gradients(ACTOR, TURN, torch.zeros(7), ARGS)
    assert plain == (0.0, 0.0)
    gradient(ACTOR)
    _, loss = archer.accumulate_gradients(ACTOR, TURN, A, ARGS, head)
    mask = TURN["response_mask"]
    squares = ((b - A[:, None]).pow(2) * mask).sum() / 7
    assert loss == pytest.approx(squares.item(), rel=1e-5)
    of_head = gradient(head)  # of its own loss alone, not of the policy's
    assert same(of_head, gradient(head, squares), 1e-5) and of_head.abs().max() > 0.1
    # Only the policy's part reaches the actor: -(A - b_t) grad log pi(a_t), by autograd from plain forward passes.
    mine = gradient(ACTOR)
    total = 0.0
    for row, response in enumerate(RESPONSES):
        for t, token in enumerate(response):
            weight = (A[row] - b[row, t]).detach().double()
            total = total - weight * distribution(ACTOR, X, response[:t])[token] / 7
    assert same(mine, gradient(ACTOR, total), 1e-5)


# ---- the critic ----------------------------------------------------------------------------------------------------


def test_critic_losses_by_hand():
    """Q regresses on the reward, V on the target network's Q of a fresh response, each head on its own."""
    q, v = torch.tensor([[0.5, 1.0], [0.0, 0.25]]), torch.tensor([[0.5, 0.0], [1.0, 1.0]])
    rewards, target_q = torch.tensor([1.0, 0.0]), torch.tensor([[0.75, 0.5], [0.5, 1.0]])
    q_loss, v_loss = archer.critic_losses(q, v, rewards, target_q)
    assert q_loss.tolist() == pytest.approx([0.25 + 0, 0 + 0.0625])
    assert v_loss.tolist() == pytest.approx([0.0625 + 0.25, 0.25 + 0])


@pytest.fixture
def critic() -> archer.Critic:
    torch.manual_seed(3)
    return archer.Critic(*archer.load_encoder("tiny", "cpu"), joint=True)


def test_one_polyak_step(critic):
    """theta^- moves a tenth of the way; the critic does not move."""
    target = archer.copy.deepcopy(critic)
    with torch.no_grad():
        for weight in critic.parameters():
            weight += 1.0
    before = [weight.clone() for weight in critic.parameters()]
    start = [weight.clone() for weight in target.parameters()]
    archer.polyak_step(target, critic, 0.1)
    for old, new, weight, same_weight in zip(start, target.parameters(), critic.parameters(), before):
        assert torch.allclose(new, 0.9 * old + 0.1 * weight, atol=1e-6)
        assert torch.equal(weight, same_weight)


def test_auc_by_hand():
    """Of the four pairs (right, wrong) two are in order, one is tied, one is not."""
    scores, rewards = torch.tensor([0.9, 0.2, 0.2, 0.5]), torch.tensor([1.0, 1.0, 0.0, 0.0])
    assert archer.auc(scores, rewards) == (2 + 0.5) / 4
    assert archer.auc(scores, torch.ones(4)) is None


@pytest.mark.parametrize("joint", [True, False])
def test_q_sees_the_response_and_v_does_not(joint):
    torch.manual_seed(4)
    critic = archer.Critic(*archer.load_encoder("tiny", "cpu"), joint)
    states, actions = ["Ann has 2 keys.\n", "Ann has 2 keys.\n", "Bob has 31 hats.\n"], ["\\boxed{2}", "", "1:3"]
    q, v = archer.grade(critic, states, actions, 2)
    assert q.shape == v.shape == (3, 2) and len({round(x, 5) for x in q.flatten().tolist()}) == 6
    assert torch.allclose(v[0], v[1], atol=1e-6) and (v[0] - v[2]).abs().min() > 1e-5
    alone = [archer.grade(critic, [s], [a], 8) for s, a in zip(states, actions)]  # padding changes nothing
    assert torch.allclose(torch.cat([q for q, _ in alone]), q, atol=1e-5)
    if joint:  # one text, whose end the critic sees
        inputs = critic.tokenize(states, actions)
        assert critic.tokenizer.decode(inputs.input_ids[0][inputs.attention_mask[0].bool()]).startswith(states[0])
        assert (inputs.input_ids == critic.tokenizer.eos_token_id).sum(1).tolist() == [1, 1, 1]


def test_a_roberta_is_pooled_truncated_and_graded_without_dropout(tmp_path):
    """The paper's encoder: pooler, pairs of texts, 512 positions less two, dropout in training only."""
    _, tokenizer = archer.load_encoder("tiny", "cpu")
    config = RobertaConfig(
        vocab_size=len(tokenizer),
        hidden_size=16,
        num_hidden_layers=1,
        num_attention_heads=2,
        intermediate_size=16,
        max_position_embeddings=42,
        hidden_dropout_prob=0.5,
        pad_token_id=tokenizer.pad_token_id,
    )
    RobertaModel(config).save_pretrained(tmp_path)
    tokenizer.save_pretrained(tmp_path)
    critic = archer.Critic(*archer.load_encoder(str(tmp_path), "cpu"), joint=True)
    assert critic.max_length == 40
    cut = critic.tokenize(["How many? " * 20], ["so \\boxed{1}"], max_length=40).input_ids[0]
    assert len(cut) == 40 and tokenizer.decode(cut).endswith("so \\boxed{1}</s>")  # what is cut is the beginning
    states, actions = ["How many? " * 20] * 4, ["\\boxed{1}"] * 4
    critic.train()
    first, second = (archer.grade(critic, states, actions, 4) for _ in range(2))
    assert torch.equal(first[0], second[0]) and torch.equal(first[1], second[1])
    critic.train()
    assert not torch.equal(critic(states, actions)[0], critic(states, actions)[0])


def test_the_critic_learns_with_dropout_and_grades_without(small, monkeypatch, coin_rewards):
    """Train mode where gradients are recorded, eval mode elsewhere."""
    modes, forward = [], archer.Critic.forward

    def recording(critic, *texts):
        modes.append((critic.training, torch.is_grad_enabled()))
        return forward(critic, *texts)

    monkeypatch.setattr(archer.Critic, "forward", recording)
    flags = {"critic_batch_size": 4, "actor_batch_size": 2, "warmup_iterations": 0, "critic_epochs": 2}
    archer.main(small(script=archer, iterations=2, **flags))
    assert set(modes) == {(True, True), (False, False)}


# ---- the loop ------------------------------------------------------------------------------------------------------


def test_the_buffer_holds_the_newest_transitions(small, tmp_path, coin_rewards):
    flags = {"script": archer, "iterations": 3, "capacity": 6, "critic_batch_size": 2, "actor_batch_size": 2}
    args = small(**flags, save_every=1, eval_every=1)
    archer.main(args)
    rows = read_jsonl(tmp_path / "run" / "episodes.jsonl")
    rollouts = [row for row in rows if row["phase"] == "rollout"]
    buffer = torch.load(tmp_path / "run" / "checkpoint-000003" / "trainer.pt", weights_only=True)["state"]["buffer"]
    assert buffer["responses"] == [row["attempt"] for row in rollouts][-6:]
    assert buffer["rewards"] == [row["reward_1"] for row in rollouts][-6:]
    problems, _ = common.load_train_and_eval(args.dataset, "train", args.dataset, "test", 4)
    assert [problems[i].id for i in buffer["problems"]] == [row["id"] for row in rollouts][-6:]


def test_the_actor_waits_for_the_critic_and_learns_from_it_alone(small, tmp_path, monkeypatch):
    """Warm-up trains the critic only. Then the actor moves by the critic's grades: a fresh response is never judged."""
    judged = []

    def judge_all(responses, problems, *flags):
        judged.append(len(responses))
        return coins(responses, problems)

    monkeypatch.setattr(common, "judge_all", judge_all)
    flags = {"script": archer, "iterations": 2, "warmup_iterations": 1, "critic_batch_size": 4, "actor_batch_size": 3}
    archer.main(small(**flags, eval_every=9, save_every=1, use_baseline=True, policy_lm="tiny"))
    assert judged == [4, 4, 4, 4]  # evaluation, two rollouts, evaluation
    first, second = read_jsonl(tmp_path / "run" / "metrics.jsonl")[1:]
    assert first.keys() - {"eval/accuracy_1"} == second.keys() - {"eval/accuracy_1"}
    for name in ("policy_solver", "grad_norm_solver", "baseline", "grad_norm_baseline"):
        assert first[f"losses/{name}"] is None and second[f"losses/{name}"] is not None, name
    for row in (first, second):
        assert row["losses/critic_q"] > 0 and row["losses/critic_v"] >= 0 and row["losses/grad_norm_critic"] > 0
