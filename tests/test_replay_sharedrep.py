"""sharedrep_grpo.py: whole runs against their plain recomputation (replay.py), scores and heads included."""

import json
import math
import statistics
from pathlib import Path

import pytest
import torch
from conftest import read_jsonl, small_args, write_jsonl
from replay import Recording, mean, rate_factor, save_family, verdict
from safetensors.torch import load_file
from test_replay_one_turn import OneTurn

import common
import sharedrep_grpo
import sharedrep_reward


@pytest.fixture(scope="module")
def folder(problem_file, tmp_path_factory) -> Path:
    """A random model's reward folder: what it scores has no meaning, but every response another score."""
    place = tmp_path_factory.mktemp("sharedrep")
    problems = common.load_problems(problem_file, "all")
    files = {}
    for name in ("plain", "socratic"):
        rows = [{"question": p.question, "answer": p.answer, "solution": f"{name} {p.answer}"} for p in problems]
        files[name] = write_jsonl(place / f"{name}.jsonl", rows)
    policy_lm = save_family("llama", place / "llama", 0)
    flags = {"dataset": files["plain"], "socratic_dataset": files["socratic"], "policy_lm": policy_lm}
    flags |= {"max_new_tokens": 8, "epochs": 2, "proportion": 0.5, "split": "all", "reward_dir": str(place / "rewards")}
    for method in ("sharedrep", "maxmin", "uniform"):
        for squash in ("tanh",) if method == "maxmin" else ("none",):
            sharedrep_reward.main(sharedrep_reward.Args(**flags, method=method, squash=squash))
    return place


class SharedRep(OneTurn):
    def __init__(self, args, recording):
        super().__init__(args, recording)
        folder = Path(args.reward_dir)
        self.backbone = self.reference  # in these runs the same model
        self.reading = json.loads((folder / "reference.json").read_text())
        self.oracle, name = load_file(folder / "oracle.safetensors"), args.reward + "-k2" * (args.reward == "sharedrep")
        self.head = None if args.reward == "gold" else load_file(folder / f"{name}-{args.proportion}.safetensors")
        self.weights = [0.5, 0.5]

    @torch.no_grad()
    def phi(self, question: str, text: str) -> torch.Tensor:
        """The mean of the states over a response and its end."""
        before = self.tokenizer(question + "\n").input_ids if question else []
        ids = before + self.tokenizer(text).input_ids + [self.tokenizer.eos_token_id]
        states = self.backbone(torch.tensor([ids]), output_hidden_states=True).hidden_states[-1][0]
        return states[len(before) :].mean(0)

    def heads(self, head: dict, phi: torch.Tensor) -> list[float]:
        z = [sum((phi - head["mean"]) / head["deviation"] * column) + b for column, b in zip(head["B"].T, head["b"])]
        r = [sum(w * x for w, x in zip(row, z)).item() for row in head["w"]]
        r = [math.tanh(x) for x in r] if head["squash"] else r
        return [(x - c.item()) / s.item() for x, c, s in zip(r, head["centre"], head["scale"])]

    def score(self, response, problem) -> None:
        """What the two groups want of a response, and what the run rewards."""
        z = {"words": len(response.text.split()), "logit": self.heads(self.oracle, self.phi("", response.text))[0]}
        z = {name: (x - self.reading[name][0]) / self.reading[name][1] for name, x in z.items()}
        concise, socratic = 1 / (1 + math.exp(z["words"])), 1 / (1 + math.exp(-z["logit"]))
        response.traits, right = (concise, socratic), verdict(response.text, problem) is True
        response.gold = 0.2 * right + 0.8 * socratic, 0.2 * right + 0.8 * concise  # minority, majority
        response.r = self.heads(self.head, self.phi(problem.statement, response.text)) if self.head else response.gold

    def scored(self, problems) -> list:
        responses = self.rollout(problems).responses
        for response, problem in zip(responses, problems):
            self.score(response, problem)
        return responses

    def evaluation(self, iteration: int, greedy: bool = False) -> None:
        row, responses = self.recording.rows[iteration], self.scored(self.held_out)
        minority, majority = (mean(r.gold[u] for r in responses) for u in range(2))
        expected = {"accuracy_1": mean(r.right for r in responses), "minority": minority, "majority": majority}
        expected |= {"worst_group": min(minority, majority)}
        expected |= {name: mean(r.traits[i] for r in responses) for i, name in enumerate(("concise", "socratic"))}
        found = {name[5:]: value for name, value in row.items() if name.startswith("eval/") and value is not None}
        assert found == pytest.approx(expected, abs=1e-5)
        written = [r for r in read_jsonl(Path(self.args.run_dir) / "scores.jsonl") if r["iteration"] == iteration]
        assert [w["id"] for w in written] == [p.id for p in self.held_out]
        assert [w["minority"] for w in written] == pytest.approx([r.gold[0] for r in responses], abs=1e-5)

    def rewards(self, responses) -> list[float]:
        means = [mean(r.r[u] for r in responses) for u in range(2)]
        moved = [w * math.exp(-self.args.group_weights_lr * m) for w, m in zip(self.weights, means)]
        self.weights = [w / sum(moved) for w in moved]
        if self.args.minmax == "sample":
            return [min(r.r) for r in responses]
        if self.args.minmax == "batch":
            return [r.r[means.index(min(means))] for r in responses]
        return [sum(w * x for w, x in zip(self.weights, r.r)) for r in responses]

    def run(self) -> None:
        args, G = self.args, self.args.group_size
        self.template = common.load_template(args.prompt_template, self.training)
        self.evaluation(0)
        for iteration in range(1, args.iterations + 1):
            warm = rate_factor(args, iteration, args.iterations)
            problems = [p for p in self.problems(iteration, args.groups_per_batch) for _ in range(G)]
            responses = self.scored(problems)
            for response, reward in zip(responses, self.rewards(responses)):
                response.reward = reward
                self.measure(response, self.solver, self.reference)
            A = []
            for group in (responses[start : start + G] for start in range(0, len(responses), G)):
                rewards, kl = [r.reward for r in group], [r.kl.item() for r in group]
                spread = statistics.stdev(rewards) + 1e-4 if args.advantage_norm == "std" else 1.0
                beta = args.kl_coef if args.kl_estimator == "k1_reward" else 0.0
                A += [(x - mean(rewards)) / spread - beta * (k - mean(kl)) for x, k in zip(rewards, kl)]
            losses = {"policy_solver": [], "grad_norm_solver": []}
            for batch in self.minibatches(len(responses)):
                total = 0.0
                for i in batch:
                    clip = (args.clip_coef, args.clip_coef)
                    policy, kl = self.surrogate(self.solver, responses[i], A[i], args.kl_coef, self.reference, *clip)
                    ((policy + kl) / len(batch)).backward()
                    total += policy.item() / len(batch)
                losses["policy_solver"].append(total)
                losses["grad_norm_solver"].append(self.step(0, args.learning_rate * warm))
            row = {f"losses/{name}": mean(parts) for name, parts in losses.items()}
            row |= {"rollout/accuracy_1": mean(r.right for r in responses)}
            row |= {"rollout/reward": mean(r.reward for r in responses)}
            row |= {"rollout/worst_group": min(mean(r.gold[u] for r in responses) for u in range(2))}
            row |= {"rollout/minority_weight": self.weights[0] if args.minmax == "group_weights" else None}
            row |= {"rollout/response_length_1": mean(len(r.ids) for r in responses)}
            row |= {"rollout/truncated": mean(r.truncated for r in responses)}
            row |= {"losses/kl_solver": mean(r.kl for r in responses)}
            row |= {"losses/entropy": sum(r.entropy for r in responses) / sum(len(r.ids) for r in responses)}
            row |= {"charts/episodes": iteration * len(problems), "charts/learning_rate": args.learning_rate * warm}
            self.row(iteration, row, sum(len(r.ids) for r in responses))
        self.evaluation(args.iterations)


SIZES = {"eval_size": 3, "iterations": 3, "eval_every": 9, "save_every": 9, "micro_batch_size": 4}
SIZES |= {"groups_per_batch": 4, "group_size": 3, "generation_batch_size": 4, "proportion": 0.5}
SIZES |= {"learning_rate": 1e-3, "temperature": 1.0, "kl_coef": 0.2}
STEPS = {"num_minibatches": 2, "update_epochs": 2, "clip_coef": 0.02, "temperature": 0.7}
SLOW = {"lr_warmup_iterations": 1, "lr_schedule": "cosine", "adam_betas": (0.7, 0.8), "max_grad_norm": 0.3}
CASES = {
    "defaults": {},
    "the authors' minimum": {"minmax": "sample", "reward": "maxmin", "kl_estimator": "k2_loss", **STEPS},
    "weights": {"minmax": "group_weights", "reward": "maxmin", "group_weights_lr": 0.3, "kl_estimator": "k1_reward"},
    "gold": {"reward": "gold", "advantage_norm": "none", **SLOW, **STEPS},
    "uniform": {"reward": "uniform", "prompt_template": "concise"},
}


@pytest.mark.parametrize("case", CASES)
def test_sharedrep_grpo_is_what_its_formulas_say(folder, tmp_path, monkeypatch, case):
    """Every step's weights and every metric agree to 1e-5 with the plain recomputation from what was sampled."""
    flags = {"policy_lm": str(folder / "llama"), "reward_dir": str(folder / "rewards")} | SIZES | CASES[case]
    args = small_args(str(folder / "plain.jsonl"), tmp_path / "run", script=sharedrep_grpo, **flags)
    replay = SharedRep(args, Recording(monkeypatch, sharedrep_grpo, args))
    replay.run()
    replay.finish(f"sharedrep_grpo.py, {case}")
