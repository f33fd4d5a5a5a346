"""grpo.py, expert_iteration.py and archer.py: whole runs against their plain recomputation (replay.py)."""

import copy
import statistics
import types

import pytest
import torch
from conftest import small_args
from replay import (
    ADAPTERS,
    Recording,
    Replay,
    add_adapters,
    copies,
    load,
    mean,
    rate_factor,
    save_family,
    verdict,
    well_formed,
)

import archer
import common
import expert_iteration
import grpo
import intro


@pytest.fixture(scope="module")
def folders(tmp_path_factory) -> dict[str, str]:
    place = tmp_path_factory.mktemp("families")
    return {name: save_family(name, place / name, seed) for seed, name in enumerate(("llama", "qwen3"))}


class OneTurn(Replay):
    def __init__(self, args, recording):
        super().__init__(args, recording)
        self.solver, self.tokenizer = load(args.policy_lm)
        self.reference = copy.deepcopy(self.solver)
        self.add_network(add_adapters(self.solver, args, recording.networks[0]), args.learning_rate)

    def rollout(self, problems, temperature=None) -> types.SimpleNamespace:
        """A response to each problem, its verdict, its form and whether it was cut."""
        messages = [common.attempt_messages(p, self.template) for p in problems]
        responses = self.turn(self.solver, self.tokenizer, messages, self.args.max_new_tokens, temperature=temperature)
        verdicts = [verdict(response.text, p) for response, p in zip(responses, problems)]
        for response, right, problem in zip(responses, verdicts, problems):
            response.right = float(right is True)
            response.form = float(well_formed(response.text, problem) and not response.truncated)
        return types.SimpleNamespace(responses=responses, undecided=mean(v is None for v in verdicts))

    def evaluation(self, iteration: int, greedy: bool) -> None:
        row = self.recording.rows[iteration]
        expected = {"eval/accuracy_1": mean(r.right for r in self.rollout(self.held_out).responses)}
        if greedy:
            expected["eval/greedy_accuracy_1"] = mean(r.right for r in self.rollout(self.held_out, 0.0).responses)
        for name in (name for name in row if name.startswith("eval/")):
            assert row[name] == pytest.approx(expected.get(name)), name


# ---- GRPO ----------------------------------------------------------------------------------------------------------


class Grpo(OneTurn):
    def shaped(self, response) -> float:
        args, length = self.args, len(response.ids)
        reward = response.right + args.format_coef * (response.form - 1)
        if args.overlong_buffer:
            over = (length - args.max_new_tokens + args.overlong_buffer) / args.overlong_buffer
            reward -= args.overlong_coef * min(1.0, max(0.0, over))
        return reward

    def keep(self, group: list, mixed: bool) -> list:
        return group if mixed or not self.args.dynamic_sampling else []

    def advantages(self, trained: list) -> list[float]:
        args, A = self.args, []
        for start in range(0, len(trained), args.group_size):
            group = trained[start : start + args.group_size]
            rewards, kl = ([getattr(r, name) for r in group] for name in ("reward", "kl"))
            spread = statistics.stdev(rewards) + 1e-4 if args.advantage_norm == "std" else 1.0
            beta = args.kl_coef if args.kl_estimator == "k1_reward" else 0.0
            A += [(r - mean(rewards)) / spread - beta * (k.item() - mean(kl)) for r, k in zip(rewards, kl)]
        return A

    def objective(self, new, response, A) -> torch.Tensor:
        """What is maximised, summed over a response's tokens."""
        args, ratio = self.args, torch.exp(new - response.logprobs)
        clipped = ratio.clamp(1 - args.clip_low, 1 + args.clip_high)
        if args.loss_fn == "cispo":
            return (clipped.detach() * A * new).sum()
        return (ratio * A if args.loss_fn == "importance_sampling" else torch.minimum(ratio * A, clipped * A)).sum()

    def gradients(self, trained: list, A: list[float], batch: list[int]) -> float:
        args, policy = self.args, 0.0
        tokens = sum(len(trained[i].ids) for i in batch)
        for i in batch:
            length = len(trained[i].ids)
            divisor = {"sequence": len(batch) * length, "token": tokens, "constant": len(batch) * args.max_new_tokens}
            log_pi = self.log_policy(self.solver, trained[i])
            new = log_pi[range(length), trained[i].ids]
            loss = -self.objective(new, trained[i], A[i])
            kl = args.kl_coef * self.kl_loss(log_pi, new, trained[i], self.reference)
            ((loss + kl) / divisor[args.loss_reduction]).backward()
            policy += loss.item() / divisor[args.loss_reduction]
        return policy

    def run(self) -> None:
        args, rounds = self.args, 0
        self.template = common.load_template(args.prompt_template, self.training)
        size = args.groups_per_batch * args.group_size
        self.evaluation(0, args.greedy_eval)
        for iteration in range(1, args.iterations + 1):
            warm = rate_factor(args, iteration, args.iterations)
            sampled, trained, undecided = [], [], []
            for _ in range(max(1, args.dynamic_sampling)):
                rounds += 1
                problems = [p for p in self.problems(rounds, args.groups_per_batch) for _ in range(args.group_size)]
                e = self.rollout(problems)
                undecided.append(e.undecided)
                for start in range(0, size, args.group_size):
                    group = e.responses[start : start + args.group_size]
                    sampled.append(group)
                    for response in group:
                        response.reward = self.shaped(response)
                    mixed = 0 < sum(r.right for r in group) < args.group_size
                    trained += self.keep(group, mixed)
                if len(trained) >= size:
                    break
            trained = trained[:size]
            for response in trained:
                self.measure(response, self.solver, self.reference)
            A, losses = self.advantages(trained), {"policy_solver": [], "grad_norm_solver": []}
            for batch in self.minibatches(len(trained)):
                losses["policy_solver"].append(self.gradients(trained, A, batch))
                losses["grad_norm_solver"].append(self.step(0, args.learning_rate * warm))

            everything = [response for group in sampled for response in group]
            right = [mean(r.right for r in group) for group in sampled]
            row = {f"losses/{name}": mean(parts) if parts else None for name, parts in losses.items()}
            row |= {"rollout/accuracy_1": mean(r.right for r in everything)}
            row |= {"rollout/reward": mean(r.reward for r in everything)}
            row |= {"rollout/format": mean(r.form for r in everything)}
            row |= {"rollout/groups_mixed": mean(0 < share < 1 for share in right)}
            row |= {"rollout/groups_right": mean(share == 1 for share in right)}
            row |= {"rollout/groups_wrong": mean(share == 0 for share in right)}
            row |= {"rollout/response_length_1": mean(len(r.ids) for r in everything)}
            row |= {"rollout/truncated": mean(r.truncated for r in everything)}
            row |= {"rollout/undecided": mean(undecided), "rollout/trained_responses": len(trained)}
            row |= {"losses/kl_solver": mean(r.kl for r in trained) if trained else None}
            tokens = sum(len(r.ids) for r in trained)
            row |= {"losses/entropy": sum(r.entropy for r in trained) / tokens if trained else None}
            row |= {"charts/episodes": rounds * size, "charts/learning_rate": args.learning_rate * warm}
            self.row(iteration, row, sum(len(r.ids) for r in everything))
        self.evaluation(args.iterations, args.greedy_eval)


SIZES = {"eval_size": 3, "iterations": 3, "eval_every": 9, "save_every": 9, "micro_batch_size": 4}
SIZES |= {"groups_per_batch": 4, "group_size": 3, "generation_batch_size": 4}
RATES = {"learning_rate": 4e-3, "temperature": 1.0, "kl_coef": 0.2}
STEPS = {"num_minibatches": 2, "update_epochs": 2, "clip_low": 0.02, "clip_high": 0.04, "temperature": 0.7}
K3 = {"kl_estimator": "k3_loss", "learning_rate": 1e-3}  # it grows exponentially with what a step moves
K1 = {"kl_estimator": "k1_reward"}
SLOW = {"lr_warmup_iterations": 1, "lr_schedule": "cosine", "adam_betas": (0.7, 0.8), "max_grad_norm": 0.3}
CASES = {
    "defaults": {"kl_coef": 0.04, **K3},
    "several steps": {**STEPS, **K3, **SLOW},
    "Dr.GRPO": {**STEPS, **K1, "loss_reduction": "constant", "advantage_norm": "none", "greedy_eval": False},
    "DAPO": {**STEPS, **K1, "loss_reduction": "token", "dynamic_sampling": 3},
    "long ones": {**K1, "overlong_buffer": 5, "overlong_coef": 0.5, "format_coef": 0.3, "dynamic_sampling": 3},
    "CISPO": {**STEPS, "kl_estimator": "k2_loss", "loss_fn": "cispo", "loss_reduction": "token"},
    "importance sampling": {**STEPS, "kl_estimator": "k2_loss", "loss_fn": "importance_sampling"},
    "adapters": {**STEPS, **K3, **ADAPTERS, **SLOW},
    "a template": {**K1, "prompt_template": "concise"},
}


@pytest.mark.parametrize("case", CASES)
def test_grpo_is_what_its_formulas_say(problem_file, tmp_path, monkeypatch, folders, case):
    """Every step's weights and every metric agree to 1e-5 with the plain recomputation from what was sampled."""
    flags = {"policy_lm": folders["qwen3" if case == "CISPO" else "llama"]} | SIZES | RATES | CASES[case]
    args = small_args(problem_file, tmp_path / "run", script=grpo, **flags)
    replay = Grpo(args, Recording(monkeypatch, grpo, args))
    replay.run()
    replay.finish(f"grpo.py, {case}")


# ---- expert iteration ----------------------------------------------------------------------------------------------


class Expert(Grpo):
    """Kept are the right responses, with advantage 1 and no ratio."""

    def __init__(self, args, recording):
        without = {"format_coef": 0.0, "overlong_buffer": 0, "kl_estimator": "k3_loss"}
        without |= {"dynamic_sampling": args.sampling_rounds}
        super().__init__(types.SimpleNamespace(**vars(args), **without), recording)

    def keep(self, group: list, mixed: bool) -> list:
        return [response for response in group if response.right]

    def advantages(self, trained: list) -> list[float]:
        return [1.0] * len(trained)

    def objective(self, new, response, A) -> torch.Tensor:
        return (A * new).sum()

    def row(self, iteration: int, expected: dict, tokens: int) -> None:
        unknown = ("format", "groups_mixed", "groups_right", "groups_wrong")
        super().row(
            iteration, {k: v for k, v in expected.items() if k not in {f"rollout/{n}" for n in unknown}}, tokens
        )


EXPERT_CASES = {
    "defaults": K3,
    "adapters": {**K3, **ADAPTERS},
    "several rounds": {**STEPS, **K3, "sampling_rounds": 2, "loss_reduction": "token", **SLOW},
}


@pytest.mark.parametrize("case", EXPERT_CASES)
def test_expert_iteration_is_what_its_formulas_say(problem_file, tmp_path, monkeypatch, folders, case):
    """Every step's weights and every metric agree to 1e-5 with the plain recomputation from what was sampled."""
    flags = {"policy_lm": folders["llama"]} | SIZES | RATES | EXPERT_CASES[case]
    flags = {key: value for key, value in flags.items() if key in expert_iteration.Args.__dataclass_fields__}
    args = small_args(problem_file, tmp_path / "run", script=expert_iteration, **flags)
    replay = Expert(args, Recording(monkeypatch, expert_iteration, args))
    replay.run()
    replay.finish(f"expert_iteration.py, {case}")


# ---- InTRO ---------------------------------------------------------------------------------------------------------


class Intro(OneTurn):
    def answered_prompt(self, problem) -> list[int]:
        messages = common.attempt_messages(problem, self.template)
        messages[-1]["content"] += f" ###Answer:{problem.answer} ###Solution:"
        return common.encode_prompt(self.tokenizer, messages)[0]

    def evaluation(self, iteration: int, greedy: bool) -> None:
        row, args = self.recording.rows[iteration], self.args
        sampled = self.rollout(self.held_out)
        messages = [common.answered_messages(p, args.answer_template, self.template) for p in self.held_out]
        shown = self.turn(self.solver, self.tokenizer, messages, args.max_new_tokens)
        assert [response.prompt for response in shown] == [self.answered_prompt(p) for p in self.held_out]
        right = mean(verdict(response.text, p) is True for response, p in zip(shown, self.held_out))
        assert row["eval/accuracy_1"] == pytest.approx(mean(r.right for r in sampled.responses))
        assert row["eval/accuracy_answered"] == pytest.approx(right)
        assert row["eval/greedy_accuracy_1"] == pytest.approx(
            mean(r.right for r in self.rollout(self.held_out, 0.0).responses)
        )

    def objective(self, response, problem, logged: list) -> torch.Tensor:
        """Sum over the positions of what eq. 7 maximises, with the rationale's own token as the only candidate."""
        args, ids = self.args, response.ids
        log_q = self.log_policy(self.solver, response)  # (T, W)
        teacher = types.SimpleNamespace(prompt=self.answered_prompt(problem), ids=ids)
        log_p = self.log_policy(self.solver, teacher)
        p, q, own = log_p.exp(), log_q.exp(), range(len(ids))
        w = (p / q)[own, ids].detach()
        parts = [w.clamp(max=args.weight_clip), (w > args.weight_clip).float(), (p * (log_p - log_q)).sum(1)]
        logged += torch.stack([*parts, -(q * log_q).sum(1), -(p * log_p).sum(1)], 1).tolist()
        if args.estimator == "sampled":
            w = w if args.stop_weight_gradients else (p / q)[own, ids]
            return (w.clamp(max=args.weight_clip) * log_q[own, ids]).sum()
        if args.stop_weight_gradients:
            return (p.detach() * log_q).sum()
        return (q.detach() * (p / q).clamp(max=args.weight_clip) * log_q).sum()

    def run(self) -> None:
        args = self.args
        self.template = common.load_template(args.prompt_template, self.training)
        self.evaluation(0, True)
        for iteration in range(1, args.iterations + 1):
            warm = rate_factor(args, iteration, args.iterations)
            problems = [p for p in self.problems(iteration, args.groups_per_batch) for _ in range(args.group_size)]
            e = self.rollout(problems)
            kept = [(r, p) for r, p in zip(e.responses, problems) if r.right or not args.only_correct]
            losses, logged = {"policy_solver": [], "grad_norm_solver": []}, []
            for batch in self.minibatches(len(kept)):
                tokens, loss = sum(len(kept[i][0].ids) for i in batch), 0.0
                for i in batch:
                    divisor = len(batch) * len(kept[i][0].ids) if args.loss_norm == "sequence" else tokens
                    part = -self.objective(*kept[i], logged) / divisor
                    part.backward()
                    loss += part.item()
                losses["policy_solver"].append(loss)
                losses["grad_norm_solver"].append(self.step(0, args.learning_rate * warm))
            row = {f"losses/{name}": mean(parts) if parts else None for name, parts in losses.items()}
            names = ("weight", "weight_clipped", "kl_teacher", "entropy", "entropy_teacher")
            row |= {f"losses/{name}": mean(column) for name, column in zip(names, zip(*logged), strict=True)}
            row |= {"rollout/accuracy_1": mean(r.right for r in e.responses), "rollout/kept": len(kept) / len(problems)}
            row |= {"rollout/reward": row["rollout/accuracy_1"], "rollout/undecided": e.undecided}
            row |= {"rollout/response_length_1": mean(len(r.ids) for r in e.responses)}
            row |= {"rollout/truncated": mean(r.truncated for r in e.responses)}
            row |= {"charts/episodes": iteration * len(problems), "charts/learning_rate": args.learning_rate * warm}
            self.row(iteration, row, sum(len(r.ids) for r in e.responses))
        self.evaluation(args.iterations, True)


INTRO = {"n_candidates": 1, "learning_rate": 1e-3, "weight_clip": 1.05}
INTRO_CASES = {
    "adapters": ADAPTERS,
    "exact": {"estimator": "exact", "prompt_template": "concise"},
    "exact, gradient through w": {"estimator": "exact", "stop_weight_gradients": False, **SLOW},
    "its own tokens": {"num_minibatches": 2, "update_epochs": 2, "temperature": 0.7},
    "gradient through w": {
        "stop_weight_gradients": False,
        "loss_norm": "token",
        "only_correct": False,
        "num_minibatches": 2,
    },
}


@pytest.mark.parametrize("case", INTRO_CASES)
def test_intro_is_what_its_formulas_say(problem_file, tmp_path, monkeypatch, folders, case):
    """Every step's weights and every metric agree to 1e-5 with the plain recomputation from what was sampled."""
    flags = {"policy_lm": folders["qwen3" if "w" in case else "llama"]} | SIZES | RATES | INTRO | INTRO_CASES[case]
    flags = {key: value for key, value in flags.items() if key in intro.Args.__dataclass_fields__}
    args = small_args(problem_file, tmp_path / "run", script=intro, **flags)
    replay = Intro(args, Recording(monkeypatch, intro, args))
    replay.run()
    replay.finish(f"intro.py, {case}")


# ---- ArCHer --------------------------------------------------------------------------------------------------------


class Grader:
    """Two Q and two V heads on an encoder, for one text or pair at a time; its weights in the order of the script's."""

    def __init__(self, folder: str, joint: bool, weights: list[torch.Tensor]):
        model, self.tokenizer = load(folder)
        self.encoder, self.joint = model.model, joint
        own = list(self.encoder.parameters())
        for weight, initial in zip(own, weights):
            assert torch.equal(weight, initial)
        heads = [weight.requires_grad_() for weight in copies(weights[len(own) :])]
        self.weights = own + heads
        self.q_heads, self.v_heads = ([heads[i : i + 6] for i in starts] for starts in ((0, 6), (12, 18)))

    def encode(self, *texts: str) -> torch.Tensor:
        """The mean of the states over all tokens of the texts, of which the last one is closed: (C,)."""
        texts = [*texts[:-1], texts[-1] + self.tokenizer.eos_token]
        ids = [token for text in texts for token in self.tokenizer(text).input_ids]
        return self.encoder(torch.tensor([ids])).last_hidden_state[0].mean(0)

    def grade(self, state: str, action: str) -> tuple[torch.Tensor, torch.Tensor]:
        """Q_1, Q_2 and V_1, V_2: (2,), (2,)."""
        s = self.encode(state)
        both = self.encode(state, action) if self.joint else torch.cat([s, self.encode(action)])
        return tuple(
            torch.stack([perceptron(head, x) for head in heads])
            for heads, x in ((self.q_heads, both), (self.v_heads, s))
        )


def perceptron(weights, x) -> torch.Tensor:
    W_1, b_1, W_2, b_2, W_3, b_3 = weights
    return (W_3 @ torch.relu(W_2 @ torch.relu(W_1 @ x + b_1) + b_2) + b_3).squeeze()


def auc(scores: list[float], rights: list[float]) -> float | None:
    pairs = [(a, b) for a, x in zip(scores, rights) for b, y in zip(scores, rights) if x == 1 and y == 0]
    return mean((a > b) + 0.5 * (a == b) for a, b in pairs) if pairs else None


class Archer(OneTurn):
    template = ()

    def __init__(self, args, recording):
        super().__init__(args, recording)
        initial = recording.networks
        self.critic, self.target = (Grader(args.critic_lm, args.critic_input == "joint", initial[1]) for _ in range(2))
        self.add_network(self.critic.weights, args.critic_lr)
        if args.use_baseline:
            assert not any(weight.any() for weight in initial[2])  # b_t starts at 0
            self.add_network([weight.requires_grad_() for weight in copies(initial[2])], args.baseline_lr)

    def drawn(self, count: int) -> list[tuple]:
        """(problem, response, reward) of so many draws with replacement, from the whole buffer."""
        high, (size,), draws = next(self.draws["randint"])
        assert (high, size) == (len(self.buffer), count)
        return [self.buffer[i] for i in draws]

    def train_critic(self, losses: dict) -> int:
        args, tokens = self.args, 0
        transitions = self.drawn(args.critic_epochs * args.rollout_size)
        fresh = self.rollout([problem for problem, _, _ in transitions]).responses
        tokens = sum(len(response.ids) for response in fresh)
        n = args.critic_batch_size
        for start in range(0, len(transitions), n):
            q_loss = v_loss = 0.0
            for (problem, action, reward), response in zip(transitions[start : start + n], fresh[start : start + n]):
                with torch.no_grad():
                    target_q, _ = self.target.grade(state_of(problem), response.text)
                q, v = self.critic.grade(state_of(problem), action)
                errors = ((q - reward) ** 2).sum() / n, ((v - target_q) ** 2).sum() / n
                sum(errors).backward()
                q_loss, v_loss = q_loss + errors[0].item(), v_loss + errors[1].item()
            losses["critic_q"].append(q_loss)
            losses["critic_v"].append(v_loss)
            losses["grad_norm_critic"].append(self.step(1, args.critic_lr))
            for average, weight in zip(self.target.weights, self.critic.weights):
                average.data = (1 - args.tau) * average.data + args.tau * weight.data
        return tokens

    def train_actor(self, losses: dict, lr: float) -> int:
        args, n = self.args, self.args.actor_batch_size
        problems = [problem for problem, _, _ in self.drawn(n)]
        responses, policy, baseline = self.rollout(problems).responses, 0.0, 0.0
        for problem, response in zip(problems, responses):
            with torch.no_grad():
                q, v = self.critic.grade(state_of(problem), response.text)
                A = q.min() - v.min()
            new, b = self.logprobs(self.solver, response), torch.zeros(len(response.ids))
            if args.use_baseline:
                ids = torch.tensor([response.prompt + response.ids])
                states = self.solver.model(ids).last_hidden_state[0, len(response.prompt) - 1 : -1].detach()  # (T, C)
                states = 100 * states / states.abs().sum(1, keepdim=True)
                weight, bias = self.networks[2]
                b = (states @ weight.T + bias).squeeze(1)
                error = ((b - A) ** 2).sum() / n
                error.backward()
                baseline += error.item()
            loss = -((A - b.detach()) * new).sum() / n
            loss.backward()
            policy += loss.item()
        losses["policy_solver"].append(policy)
        losses["grad_norm_solver"].append(self.step(0, lr))
        if args.use_baseline:
            losses["baseline"].append(baseline)
            losses["grad_norm_baseline"].append(self.step(2, args.baseline_lr))
        return sum(len(response.ids) for response in responses)

    def run(self) -> None:
        args, B = self.args, self.args.rollout_size
        self.buffer = []
        self.evaluation(0, False)
        for iteration in range(1, args.iterations + 1):
            after = max(0, iteration - args.warmup_iterations)
            warm = rate_factor(args, after, args.iterations - args.warmup_iterations)
            problems = self.problems(iteration, B)
            e = self.rollout(problems)
            self.buffer += [(p, r.text, r.right) for p, r in zip(problems, e.responses)]
            self.buffer = self.buffer[-args.capacity :]
            rights = [r.right for r in e.responses]
            with torch.no_grad():
                grades = [self.critic.grade(state_of(p), r.text) for p, r in zip(problems, e.responses)]
            row = {"rollout/critic_auc": auc([q.min().item() for q, _ in grades], rights)}
            row |= {"rollout/advantage_auc": auc([(q.min() - v.min()).item() for q, v in grades], rights)}
            for response in e.responses:
                self.measure(response, self.solver, self.reference)
            names = "policy_solver critic_q critic_v baseline grad_norm_solver grad_norm_critic grad_norm_baseline"
            losses = {name: [] for name in names.split()}
            tokens = sum(len(r.ids) for r in e.responses) + self.train_critic(losses)
            for _ in range(args.actor_epochs if after else 0):
                tokens += self.train_actor(losses, args.learning_rate * warm)
            row |= {f"losses/{name}": mean(parts) if parts else None for name, parts in losses.items()}
            row |= {"rollout/accuracy_1": mean(rights), "rollout/reward": mean(rights)}
            row |= {"rollout/response_length_1": mean(len(r.ids) for r in e.responses)}
            row |= {"rollout/truncated": mean(r.truncated for r in e.responses)}
            row |= {"rollout/undecided": e.undecided, "rollout/critic_truncated": 0.0}
            entropy = sum(r.entropy for r in e.responses) / sum(len(r.ids) for r in e.responses)
            row |= {"losses/entropy": entropy, "charts/episodes": iteration * B}
            row |= {"charts/learning_rate": args.learning_rate * warm}
            self.row(iteration, row, tokens)
        self.evaluation(args.iterations, False)


def state_of(problem: common.Problem) -> str:
    """What the critic reads of a problem: the text of its prompt."""
    return common.attempt_messages(problem)[0]["content"] + "\n"


ARCHER = {"rollout_size": 8, "critic_batch_size": 4, "critic_epochs": 1, "actor_batch_size": 5, "micro_batch_size": 3}
ARCHER |= {"warmup_iterations": 1, "critic_lr": 3e-3, "baseline_lr": 4e-3, "tau": 0.3}
ARCHER_CASES = {
    "defaults": {"tau": 0.1, "critic_epochs": 4, "lr_schedule": "linear"},
    "token baseline": {"use_baseline": True, "actor_epochs": 2, "temperature": 0.7, "warmup_iterations": 0, **SLOW},
    "adapters": {**ADAPTERS, "use_baseline": True, "warmup_iterations": 0},
    "separate": {"critic_input": "separate", "capacity": 10, "lr_warmup_iterations": 2, "max_grad_norm": 0.3},
}


@pytest.mark.parametrize("case", ARCHER_CASES)
def test_archer_is_what_its_formulas_say(problem_file, tmp_path, monkeypatch, folders, case):
    """Actor, critic, target network and token baseline: every step and every metric agree to 1e-5."""
    flags = {"policy_lm": folders["llama"], "critic_lm": folders["qwen3"]} | SIZES | RATES | ARCHER | ARCHER_CASES[case]
    flags = {key: value for key, value in flags.items() if key in archer.Args.__dataclass_fields__}
    args = small_args(problem_file, tmp_path / "run", script=archer, **flags)
    replay = Archer(args, Recording(monkeypatch, archer, args))
    replay.run()
    replay.finish(f"archer.py, {case}")
