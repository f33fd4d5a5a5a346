"""score.py, rl_guided_score.py and mlmt_rl.py: whole runs against their plain recomputation (replay.py)."""

import copy
import types

import pytest
import torch
from conftest import small_args
from replay import (
    ADAPTERS,
    add_adapters,
    Recording,
    Replay,
    baseline,
    load,
    mean,
    outcomes,
    rate_factor,
    save_family,
    verdict,
)

import common
import mlmt_rl
import rl_guided_score
import score


@pytest.fixture(scope="module")
def folders(tmp_path_factory) -> dict[str, str]:
    place = tmp_path_factory.mktemp("families")
    return {name: save_family(name, place / name, seed) for seed, name in enumerate(("llama", "qwen3"))}


def credit(script, args, stage1, r_1, r_2, values, kl, star) -> dict[str, torch.Tensor]:
    """What multiplies log pi of z, g and y in each episode, by the docstrings' formulas: three times (B,)."""
    k1 = {name: part if args.kl_estimator == "k1_reward" else 0 * part for name, part in kl.items()}
    beta_1 = args.kl_coef + (args.beta2 if stage1 else 0)
    alpha = 0 if stage1 else args.alpha
    if script is mlmt_rl:
        V_x, V_xz, V_xzg = values.T
        delta = [V_xz - V_x, V_xzg - V_xz, r_2 - V_xzg]
        L = args.gae_lambda
        A = {"1": delta[0] + L * delta[1] + L * L * delta[2], "g": delta[1] + L * delta[2], "2": delta[2]}
        if args.shared_baseline:
            A["1"] = A["2"]
        A["1"] = A["1"] - args.kl_coef * (k1["1"] + k1["2"]) - args.joint_kl * args.guidance_kl_coef * k1["g"]
        A["g"] = A["g"] - args.guidance_kl_coef * k1["g"] - args.joint_kl * args.kl_coef * k1["2"]
        A["2"] = A["2"] - args.kl_coef * k1["2"] + alpha * (r_2 - r_1)
        if stage1:
            A["1"] = -beta_1 * k1["1"]
        if star is not None:
            A["g"] = A["g"] + args.value_shaping * (r_2 - star)
        return A
    R_2 = r_2 + alpha * (r_2 - r_1)
    R_1 = args.gamma * R_2 if stage1 else r_1 + args.gamma * R_2
    turns = getattr(args, "trained_turns", "both")
    R_1, R_2 = 0 * R_1 if turns == "second" else R_1, 0 * R_2 if turns == "first" else R_2
    A = {"1": R_1 - baseline(R_1, args.baseline) - beta_1 * k1["1"] - args.gamma * args.kl_coef * k1["2"]}
    A["2"] = R_2 - baseline(R_2, args.baseline) - args.kl_coef * k1["2"]
    if script is rl_guided_score:
        A["g"] = r_2 - baseline(r_2, args.baseline) - args.guidance_kl_coef * k1["g"]
    return A


class TwoTurns(Replay):
    """Solver, feedback model and value head, as far as the script has them, and one iteration after the other."""

    def __init__(self, script, args, recording):
        super().__init__(args, recording)
        self.script, names = script, (args.policy_lm, getattr(args, "feedback_lm", None) or args.policy_lm)
        self.solver, self.solver_tokenizer = load(names[0])
        self.reference = copy.deepcopy(self.solver)
        self.add_network(add_adapters(self.solver, args, recording.networks[0]), args.learning_rate)
        if script is not score:
            self.feedback, self.feedback_tokenizer = load(names[1])
            self.feedback_reference = copy.deepcopy(self.feedback)
            self.add_network(add_adapters(self.feedback, args, recording.networks[1]), args.guidance_lr)
        if script is mlmt_rl:
            self.head = torch.nn.Linear(16, 1)
            torch.nn.init.zeros_(self.head.weight)
            self.add_network(self.head.parameters(), args.value_lr)

    def rollout(self, problems, offline: int = 0) -> types.SimpleNamespace:
        """Turn 1, feedback, turn 2, each a list of responses, with the verdicts r_1 and r_2, (B,)."""
        messages = [common.attempt_messages(p) for p in problems]
        longest = self.args.max_new_tokens
        z, replaced = self.turn(self.solver, self.solver_tokenizer, messages, longest), []
        if offline:
            replaced, rest = z[:offline], z[offline:]
            z = self.turn(self.reference, self.solver_tokenizer, messages[:offline], longest) + rest
        g = None
        messages = [common.self_correct_messages(p, a.text) for p, a in zip(problems, z)]
        if self.script is not score:
            right = [verdict(a.text, p) is True for a, p in zip(z, problems)]
            stated = [f"The solution is {'right' if each else 'wrong'}." for each in right]
            told = stated if self.args.test_results == "verdict" else [""] * len(problems)
            asked = [common.feedback_messages(p, a.text, results) for p, a, results in zip(problems, z, told)]
            statements = [p.statement for p in problems]
            g = self.turn(self.feedback, self.feedback_tokenizer, asked, self.args.max_feedback_tokens, statements)
        if g and getattr(self.args, "use_smart_corrections", True):
            read = [f.text for f in g]
            control = getattr(self.args, "feedback_control", "none")
            read = {"shuffled": read[1:] + read[:1], "verdict": stated}.get(control, read)
            messages = [common.refine_messages(p, a.text, text) for p, a, text in zip(problems, z, read)]
        y = self.turn(self.solver, self.solver_tokenizer, messages, longest)
        verdicts = [[verdict(response.text, p) for response, p in zip(turn, problems)] for turn in (z, y)]
        r_1, r_2 = (torch.tensor([float(v is True) for v in turn]) for turn in verdicts)
        undecided = mean(v is None for turn in verdicts for v in turn)
        repeated = mean(a.text == b.text for a, b in zip(z, y))
        parts = {"z": z, "g": g, "y": y, "replaced": replaced, "messages": messages}
        return types.SimpleNamespace(**parts, r_1=r_1, r_2=r_2, undecided=undecided, repeated=repeated)

    def evaluation(self, iteration: int) -> None:
        episodes, row = self.rollout(self.held_out), self.recording.rows[iteration]
        expected = outcomes(episodes.r_1.tolist(), episodes.r_2.tolist()) | {"repeated": episodes.repeated}
        expected["delta"] = expected["accuracy_2"] - expected["accuracy_1"]
        assert expected.keys() == {name[5:] for name in row if name.startswith("eval/")}
        for name, value in expected.items():
            self.compare("metrics", value, row[f"eval/{name}"], f"eval/{name}")

    def values(self, response) -> torch.Tensor:
        """V(x), V(x,z), V(x,z,g): the head on the trunk's state at the end of each prefix, each read alone: (3,)."""
        sequence = response.prompt + response.ids
        ends = (response.prefix, len(response.prompt), len(sequence))
        states = [self.feedback.model(torch.tensor([sequence[:end]])).last_hidden_state[0, -1] for end in ends]
        states = torch.stack([100 * state / state.abs().sum() for state in states])
        return self.head(states.detach() if self.args.stop_value_gradients else states).squeeze(-1)

    def gradients(self, model, reference, turns: list, batch, value_loss=None) -> tuple[float, float]:
        """Of the mean loss over the batch; turns: (responses, their A, beta, rows that are trained)."""
        policy, value, eps = 0.0, 0.0, self.args.clip_coef
        for responses, A, beta, trained in turns:
            for i in batch:
                if i in trained:
                    loss, kl = self.surrogate(model, responses[i], A[i], beta, reference, eps, eps)
                    ((loss + kl) / len(batch)).backward()
                    policy += loss.item() / len(batch)
        if value_loss:
            for i in batch:
                error = value_loss(i) / len(batch)
                (self.args.value_coef * error).backward()
                value += error.item()
        return policy, value

    def run(self, offline_share: float = 0.0) -> None:
        args, B = self.args, self.args.rollout_size
        self.evaluation(0)
        for iteration in range(1, args.iterations + 1):
            stage1 = iteration <= args.stage1_iterations
            warm = rate_factor(args, iteration, args.iterations)
            offline = 0 if stage1 else round(offline_share * B)
            own, everyone = range(offline, B), range(B)
            problems = self.problems(iteration, B)
            e = self.rollout(problems, offline)
            tokens = sum(len(response.ids) for turn in (e.z, e.g or [], e.y, e.replaced) for response in turn)
            for response in e.z + e.y:
                self.measure(response, self.solver, self.reference)
            for response in e.g or []:
                self.measure(response, self.feedback, self.feedback_reference)
            values = None
            if self.script is mlmt_rl:
                if iteration == 1:
                    self.head.bias.data.fill_(e.r_2.mean())
                with torch.no_grad():
                    values = torch.stack([self.values(response) for response in e.g])  # (B, 3)
            named = {"1": e.z, "g": e.g, "2": e.y}
            kl = {name: torch.stack([r.kl for r in turn]) for name, turn in named.items() if turn}
            A = credit(self.script, args, stage1, e.r_1, e.r_2, values, kl, None)
            batches, losses = self.minibatches(B), {}

            beta_1 = args.kl_coef + (args.beta2 if stage1 else 0)
            turns = [(e.z, A["1"], beta_1, own), (e.y, A["2"], args.kl_coef, everyone)]
            for batch in batches:
                policy, _ = self.gradients(self.solver, self.reference, turns, batch)
                losses.setdefault("policy_solver", []).append(policy)
                losses.setdefault("grad_norm_solver", []).append(self.step(0, args.learning_rate * warm))
            every = getattr(args, "feedback_every", 1)
            trains = self.script is not score and getattr(args, "train_guidance_model", True)
            trains = trains and every > 0 and iteration % every == 0
            star = None
            if getattr(args, "value_shaping", 0) and trains:
                again = self.turn(
                    self.solver, self.solver_tokenizer, e.messages * args.star_samples, args.max_new_tokens
                )
                tokens += sum(len(response.ids) for response in again)
                rights = [verdict(r.text, p) is True for r, p in zip(again, problems * args.star_samples, strict=True)]
                star = torch.tensor([mean(rights[i::B]) for i in everyone])
            A = credit(self.script, args, stage1, e.r_1, e.r_2, values, kl, star)
            for batch in batches if trains or self.script is mlmt_rl else []:
                value_loss = None
                if self.script is mlmt_rl:
                    value_loss = lambda i: (self.values(e.g[i]) - e.r_2[i]).pow(2).mean()  # noqa: B023, E731
                turns = [(e.g, A["g"], args.guidance_kl_coef, everyone)] if trains else []
                policy, value = self.gradients(self.feedback, self.feedback_reference, turns, batch, value_loss)
                if not trains:
                    self.feedback.zero_grad()
                if value_loss:
                    losses.setdefault("value", []).append(value)
                    losses.setdefault("grad_norm_value", []).append(self.step(2, args.value_lr))
                if trains:
                    losses.setdefault("policy_feedback", []).append(policy)
                    losses.setdefault("grad_norm_feedback", []).append(self.step(1, args.guidance_lr * warm))

            names = {"solver": "policy_solver grad_norm_solver"}
            names |= {} if self.script is score else {"feedback": "policy_feedback grad_norm_feedback"}
            names |= {"value": "value grad_norm_value"} if self.script is mlmt_rl else {}
            measured = " ".join(names.values()).split()
            row = {f"losses/{name}": mean(losses[name]) if name in losses else None for name in measured}
            row |= {f"rollout/{name}": value for name, value in outcomes(e.r_1.tolist(), e.r_2.tolist()).items()}
            row |= {"rollout/repeated": e.repeated, "rollout/undecided": e.undecided, "rollout/reward": e.r_2.mean()}
            row["rollout/response_length_1"] = mean(len(r.ids) for r in e.z)
            row["rollout/response_length_2"] = mean(len(r.ids) for r in e.y)
            row["rollout/truncated"] = mean(r.truncated for r in e.z + e.y + (e.g or []))
            sampled = [e.z[i] for i in own] + e.y  # the policy's own
            own_kl = kl["1"][offline:].mean() if own else torch.tensor(0.0)
            row["losses/kl_solver"] = own_kl + kl["2"].mean()
            row["losses/entropy"] = sum(r.entropy for r in sampled) / sum(len(r.ids) for r in sampled)
            if e.g:
                row["rollout/feedback_length"] = mean(len(r.ids) for r in e.g)
                row["losses/kl_feedback"] = kl["g"].mean()
                row["losses/entropy_feedback"] = sum(r.entropy for r in e.g) / sum(len(r.ids) for r in e.g)
            if self.script is mlmt_rl:
                row["rollout/reward_star"] = None if star is None else star.mean()
                errors, found = (
                    [r - v for r, of in zip(e.r_2, values) for v in of],
                    [r for r in e.r_2 for _ in range(3)],
                )
                unexplained, whole = (sum((x - mean(part)) ** 2 for x in part) for part in (errors, found))
                row["losses/explained_variance"] = 1 - unexplained / whole if whole else None
            row |= {"charts/episodes": iteration * B, "charts/learning_rate": args.learning_rate * warm}
            self.row(iteration, row, tokens)
        self.evaluation(args.iterations)


# Coefficients at which every term is a visible part of a step; three iterations, evaluated at both ends.
SIZES = {"rollout_size": 6, "eval_size": 3, "iterations": 3, "eval_every": 9, "save_every": 9, "micro_batch_size": 4}
RATES = {"learning_rate": 4e-3, "temperature": 1.0, "kl_coef": 0.2, "generation_batch_size": 4}
TWO = {"feedback_lm": "qwen3", "max_feedback_tokens": 6, "guidance_lr": 3e-3, "guidance_kl_coef": 0.3}
STEPS = {"num_minibatches": 2, "update_epochs": 2, "clip_coef": 0.02, "temperature": 0.7}
# Losses that grow fast with what a step moves, and rounding errors with them.
K2 = {"kl_estimator": "k2_loss", "learning_rate": 2e-3, "guidance_lr": 1e-3}
K3 = {"kl_estimator": "k3_loss", "learning_rate": 1e-3, "guidance_lr": 5e-4}
STAGES = {"stage1_iterations": 2, "beta2": 0.5, "alpha": 1.0}
CASES = {
    "score": {
        "defaults": {"kl_coef": 0.01},
        "stages": {**STAGES, "lr_warmup_iterations": 5, "adam_betas": (0.7, 0.8)},
        "stages, KL loss": {**STAGES, **STEPS, **K2},
        "offline": {**STAGES, **STEPS, "stage1_iterations": 1, "offline_first_turn": 0.5, "baseline": "leave-one-out"},
        "offline, all": {"stage1_iterations": 0, "offline_first_turn": 1.0, **K3},
        "discounted": {**STAGES, "gamma": 0.6, "baseline": "batch", "max_grad_norm": 0.3, "lr_schedule": "linear"},
        "first": {**STAGES, **STEPS, "stage1_iterations": 0, "trained_turns": "first", "baseline": "batch"},
        "adapters": {**STAGES, **STEPS, **ADAPTERS},
        "second": {**STAGES, "gamma": 1.0, "trained_turns": "second", "kl_estimator": "k2_loss"},
    },
    "rl_guided_score": {
        "defaults": {"kl_coef": 0.01, "feedback_lm": None},
        "stages": {
            **STAGES,
            "lr_warmup_iterations": 1,
            "lr_schedule": "cosine",
            "adam_betas": (0.7, 0.8),
            "baseline": "batch",
        },
        "stages, KL loss": {**STAGES, **STEPS, **K3, "max_grad_norm": 0.3},
        "discounted": {**STAGES, **STEPS, "gamma": 0.6, "baseline": "leave-one-out"},
        "told the verdict": {"test_results": "verdict"},
        "a frozen hint": {"train_guidance_model": False, "stage1_iterations": 1},
        "adapters, a frozen hint": {**ADAPTERS, "train_guidance_model": False, "stage1_iterations": 1},
        "unread": {"train_guidance_model": False, "use_smart_corrections": False, "kl_estimator": "k2_loss"},
    },
    "mlmt_rl": {
        "defaults": {"kl_coef": 0.01, "guidance_kl_coef": 0.01, "feedback_lm": None},
        "several steps": {**STEPS, "lr_schedule": "linear", "min_lr_ratio": 0.3, "adam_betas": (0.7, 0.8)},
        "stop-grad, lambda": {"stop_value_gradients": True, "gae_lambda": 0.4, "max_grad_norm": 0.3},
        "adapters": {**ADAPTERS, "gae_lambda": 0.4, "kl_coef": 0.01, "feedback_lm": None},
        "adapters, two models": {**ADAPTERS, **STEPS, "stop_value_gradients": True},
        "shared baseline": {**STEPS, "shared_baseline": True, "value_coef": 2.0},
        "shaped": {"value_shaping": 0.7, "star_samples": 2, "joint_kl": True, "alpha": 1.5},
        "stages": {**STAGES, "joint_kl": True, "value_shaping": 0.7, "star_samples": 1},
        "stages, KL loss": {**STAGES, **STEPS, **K2},
        "k3": {**K3, "num_minibatches": 3},
        "k2": {**K2, "update_epochs": 2, "value_lr": 2e-2},
        "frozen": {"feedback_every": 0, **STEPS},
        "another's feedback": {"feedback_every": 0, "feedback_control": "shuffled"},
        "the verdict instead": {"feedback_every": 0, "feedback_control": "verdict"},
        "told the verdict": {"test_results": "verdict"},
        "alternating": {"feedback_every": 2, "update_epochs": 2, "value_shaping": 0.7, "star_samples": 1},
    },
}


@pytest.mark.parametrize(("name", "case"), [(name, case) for name, cases in CASES.items() for case in cases])
def test_the_run_is_what_its_formulas_say(problem_file, tmp_path, monkeypatch, folders, name, case):
    """Every step's weights and every metric agree to 1e-5 with the plain recomputation from what was sampled."""
    script = {"score": score, "rl_guided_score": rl_guided_score, "mlmt_rl": mlmt_rl}[name]
    flags = {"policy_lm": "llama"} | SIZES | RATES | (TWO if script is not score else {}) | CASES[name][case]
    flags = {key: value for key, value in flags.items() if key in script.Args.__dataclass_fields__}
    flags |= {key: folders[flags[key]] for key in ("policy_lm", "feedback_lm") if flags.get(key)}
    args = small_args(problem_file, tmp_path / "run", script=script, **flags)
    replay = TwoTurns(script, args, Recording(monkeypatch, script, args))
    replay.run(getattr(args, "offline_first_turn", 0.0))
    replay.finish(f"{name}.py, {case}")
