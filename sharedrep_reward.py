"""SharedRep-RLHF's reward models: what two groups of people want, learned from their choices between two responses.

    score_u(x, y) = sum_t GROUPS[u][t] tau_t(x, y)    what group u wants
    tau  correct, concise, socratic, each in [0, 1]   phi(x, y)  a frozen model's states
    r_u(x, y) = f(w_u' z),  z = B' phi + b in R^k    B (d, k), f by --squash
    minimises the mean over pairs of -log sigma(r_u(x, chosen) - r_u(x, rejected))
    (Bradley-Terry), u the group that chose.  --method
      sharedrep  w_u learned, given, or in the simplex (--simplex: the paper)
      maxmin     w_u = e_u, k = U: a model a group    uniform  w_u = 1, k = 1

Paper: https://arxiv.org/abs/2509.03672 (r_u = phi' B w_u). Run: python sharedrep_reward.py, then sharedrep_grpo.py.
--stage oracle, generate, score, pairs, train: each writes a file into one folder; all: what is not done yet, and train.
Departures from the authors' code, which fails in evaluation and whose two methods differ in more than B:
1. All methods take the same steps: pairs of all groups in one batch, one rate, one number of epochs (theirs gave
   SharedRep ten times MaxMin's rate and half its epochs).
2. Bradley-Terry fixes r_u up to a constant, and a minimum over groups depends on it: heads are calibrated (mean 0 and
   deviation 1 over all responses to the training questions).
3. The oracle that tells a socratic response is a linear head too. It reads the response alone, as it did in training,
   without the marks ("**", "<<3+4=7>>") by which one token would tell the two kinds of solution apart.
4. tau standardises words, counted on the response alone, and the oracle's logit over all responses together.
5. phi is standardised; --pooling mean (the paper: last) averages it over the response. Ties are no pair.
n responses or pairs, d width of the backbone, k traits that are shared, U groups (0 is the minority).
"""

import json
import re
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

import common
import runs

import numpy as np
import torch
from tqdm import tqdm

GROUPS = {  # weights of a response's traits in what a group wants: correct, concise, socratic
    "minority": (0.2, 0.0, 0.8),
    "majority": (0.2, 0.8, 0.0),
}
CHUNK = 100  # responses that are sampled, or scored, and written together: a cut loses no more
STAGES = ("oracle", "generate", "score", "pairs", "train")
# Flags that no file made before the pairs depends on: a folder serves several of their values.
LATER_FLAGS = ("stage", "proportion", "method", "k", "simplex", "mixture", "squash", "calibrate_heads", "reward_lr")
LATER_FLAGS += ("epochs", "reward_dir")


@dataclass
class Args:
    # ---- experiment
    stage: Literal["all", "oracle", "generate", "score", "pairs", "train"] = "all"  # what to do; all: what is missing
    seed: int = 1  # seeds the sampling of responses and the order of the problems
    device: Literal["auto", "cuda", "cpu"] = "auto"  # auto: a GPU if there is one, otherwise the CPU
    dtype: Literal["auto", "bfloat16", "float32"] = "auto"  # of the weights; auto: bfloat16 on a GPU, else float32
    reward_dir: str | None = None  # folder of sharedrep_reward.py; by default runs/{dataset}__sharedrep_reward__{seed}

    # ---- model and data
    policy_lm: str | None = None  # solver: a folder or hub name; by default an embedded one
    backbone: str | None = None  # frozen model behind phi (the paper: gpt2-large); by default policy_lm
    chat_template: bool = True  # render prompts with the tokenizer's chat template, if it has one
    solve_prompt: str | None = None  # instruction for the first attempt: a text or a .txt file; "" for none
    system_prompt: str | None = None  # system message before every prompt, likewise; by default none
    dataset: str = "arithmetic"  # arithmetic, countdown, functions, conventions, math, gsm8k, mbpp(-sanitized), a file
    split: str = "train"  # split to train on; a file has train, test (one question in ten, by its text) and all
    socratic_dataset: str | None = None  # the same questions with socratic solutions; by default {dataset}-socratic
    prompt_template: str = "none"  # none, baseline, step_by_step, concise, or a .json file: a list of messages

    # ---- rollout
    num_prompts: int = 1500  # questions with two responses each, at most
    max_new_tokens: int = 64  # longest response of the solver, in tokens
    temperature: float = 1.0  # sampling temperature; the log-probabilities in training use the same
    top_p: float = 1.0  # nucleus sampling; below 1 the sampler is no longer exactly the policy that is trained
    generation_batch_size: int = 0  # most responses sampled at once (memory only); 0: as many as memory allows
    stop_strings: tuple[str, ...] = ()  # texts that end a response (a base model's next question)

    # ---- algorithm
    proportion: float = 0.1  # share of questions whose pair the minority judges
    test_fraction: float = 0.1  # share of questions held out; on these both groups choose
    method: Literal["sharedrep", "maxmin", "uniform"] = "sharedrep"  # B and w learned; w_u = e_u; one reward for all
    k: int = 2  # traits that the groups share (sharedrep)
    simplex: bool = False  # w_u is positive and sums to 1 (the paper's Delta)
    mixture: tuple[float, ...] = ()  # w, U times k numbers that are given, group by group; none: learned
    squash: Literal["none", "tanh"] = "none"  # f (the authors' code: tanh for sharedrep alone)
    pooling: Literal["mean", "last"] = "mean"  # phi: the states averaged over the response, or the last one (the paper)
    calibrate_heads: bool = True  # each r_u has mean 0 and deviation 1 over all responses to training questions

    # ---- optimisation
    oracle_pairs: int = 1000  # questions whose two solutions the oracle learns from, at most
    oracle_lr: float = 3e-3  # learning rate of the oracle (Adam)
    oracle_epochs: int = 5  # passes over its pairs
    reward_lr: float = 3e-3  # learning rate of the heads (Adam)
    epochs: int = 20  # passes over the pairs
    batch_size: int = 16  # pairs of a step
    adam_betas: tuple[float, float] = (0.9, 0.95)  # Adam's decay rates


# ---- responses -----------------------------------------------------------------------------------------------------


@torch.no_grad()
def generate(model, tokenizer, prompts: list[tuple[list[int], int]], max_new_tokens: int, args: Args) -> dict:
    """Samples one response for each prompt (greedily at temperature 0): a turn, with its tensors and texts.

    prompts: (token ids, prefix length) from encode_prompt. Prompts are padded on the left, responses on the right.
    response_mask runs to the first end-of-sequence token, inclusive. Padding is told by the masks, never by its id.
    """
    model.eval()  # with train mode's gradient checkpointing there is no KV cache
    end_ids = torch.tensor(runs.end_ids(model, tokenizer), device=model.device)
    prompts, cut = common.fit_prompts(prompts, model.config, max_new_tokens)
    prompt_ids, prompt_mask = runs.pad_left([ids for ids, _ in prompts], model.device)  # (B, P)
    B, T = len(prompts), max_new_tokens
    response_ids, response_mask = torch.zeros(2, B, T, dtype=torch.long, device=model.device)  # (B, T)
    logprobs, entropies = torch.zeros(2, B, T, device=model.device)  # (B, T)
    truncated = torch.tensor(cut, device=model.device).long()  # (B,)
    uniforms = torch.rand(B, T, dtype=torch.float64, device=model.device)  # so that no batch decides what is drawn
    by_length = prompt_mask.sum(1).argsort(stable=True)  # sorted by length to limit padding
    for rows in runs.batches(by_length, runs.generation_batch_size(args, model, prompt_ids.shape[1] + T)):
        P = int(prompt_mask[rows].sum(1).max())
        ids_and_mask = torch.cat([prompt_ids[rows, -P:], prompt_mask[rows, -P:]], 1)  # (b, 2 P)
        unique, places = ids_and_mask.unique(dim=0, return_inverse=True)  # a prompt is read once for all its responses
        (ids, mask), decoder = unique.chunk(2, 1), runs.Decoder(model)
        position_ids = (mask.cumsum(1) - 1).clamp(min=0)
        for t in range(T):
            logits = model.get_output_embeddings()(decoder.last_states(ids, mask, position_ids))
            sampled = runs.sample(logits[places], uniforms[rows, t], args.temperature, args.top_p)  # 3 x (b,)
            response_ids[rows, t], logprobs[rows, t], entropies[rows, t] = sampled
            response_mask[rows, t] = 1
            going = ~torch.isin(sampled[0], end_ids)  # (b,)
            rows, places = rows[going], places[going]  # what has ended leaves the batch
            if len(rows) == 0:
                break
            if t == 0 or not going.all():
                mask, position_ids = mask[places], position_ids[places]
                decoder.keep(places)
            ids, position_ids = response_ids[rows, t, None], position_ids[:, -1:] + 1  # (b, 1)
            mask, places = torch.nn.functional.pad(mask, (0, 1), value=1), torch.arange(len(rows), device=model.device)
        truncated[rows] = 1  # those that are left
    runs.total(response_ids, response_mask, logprobs, entropies, truncated)  # each process has filled its own rows
    responses = [ids[mask == 1].tolist() for ids, mask in zip(response_ids, response_mask)]
    turn = {"prompts": prompts, "prompt_ids": prompt_ids, "prompt_mask": prompt_mask, "response_ids": response_ids}
    turn |= {"response_mask": response_mask.bool(), "logprobs": logprobs, "entropies": entropies}
    turn["prefix_length"] = torch.tensor([length for _, length in prompts], device=model.device)  # (B,)
    return turn | {"truncated": truncated > 0, "texts": tokenizer.batch_decode(responses, skip_special_tokens=True)}


# ---- traits --------------------------------------------------------------------------------------------------------


# new in SHAREDREP
def traits(correct, words, logits, reference: dict) -> torch.Tensor:
    """tau: correct, concise = 1 - sigma(z(words)), socratic = sigma(z(logit)), each (n,), as (n, 3).

    reference: mean and deviation of words and of the oracle's logit, over the responses that z standardises by.
    """

    def z(name: str, values) -> torch.Tensor:
        return (torch.as_tensor(values, dtype=torch.float32).cpu() - reference[name][0]) / reference[name][1]

    correct = torch.as_tensor(correct, dtype=torch.float32).cpu()
    return torch.stack([correct, (-z("words", words)).sigmoid(), z("logit", logits).sigmoid()], 1)


# ---- the method ----------------------------------------------------------------------------------------------------


# new in SHAREDREP
def reward_heads(h: torch.Tensor, head: dict[str, torch.Tensor]) -> torch.Tensor:
    """r_u = f(w_u' (B' phi + b)) of each group, calibrated: (n, U), from phi (n, d)."""
    z = (h - head["mean"]) / head["deviation"] @ head["B"] + head["b"]  # (n, k)
    r = z @ head["w"].T  # (n, U)
    r = torch.tanh(r) if head["squash"] else r
    return (r - head["centre"]) / head["scale"]


def bradley_terry_loss(r_chosen, r_rejected, groups) -> torch.Tensor:
    """-log sigma(r_u(chosen) - r_u(rejected)), u the group that chose, averaged over the pairs; r: (n, U)."""
    margin = (r_chosen - r_rejected).gather(1, groups[:, None]).squeeze(1)  # (n,)
    return -torch.nn.functional.logsigmoid(margin).mean()


def fit(chosen, rejected, groups, U: int, args: Args) -> dict[str, torch.Tensor]:
    """The heads that --method, --k, --simplex and --mixture ask for, trained on pairs: phi (n, d), groups (n,)."""
    torch.manual_seed(args.seed)
    both, k = torch.cat([chosen, rejected]), {"sharedrep": args.k, "maxmin": U, "uniform": 1}[args.method]
    head = {"mean": both.mean(0), "deviation": both.std(0) + 1e-6, "squash": torch.tensor(args.squash == "tanh")}
    head |= {"centre": torch.zeros(U), "scale": torch.ones(U)}
    head["B"] = (torch.randn(both.shape[1], k) / both.shape[1] ** 0.5).requires_grad_()  # (d, k)
    head["b"], fixed = torch.zeros(k, requires_grad=True), {"maxmin": torch.eye(U), "uniform": torch.ones(U, 1)}
    if args.mixture and args.method == "sharedrep":
        fixed["sharedrep"] = torch.tensor([*map(float, args.mixture)]).view(U, k)
    theta = torch.randn(U, k, requires_grad=True)  # w where it is learned, or its logits

    def mixture() -> torch.Tensor:  # w, (U, k)
        return fixed.get(args.method, theta.softmax(1) if args.simplex else theta)

    optimizer = torch.optim.Adam([head["B"], head["b"], theta], lr=args.reward_lr, betas=args.adam_betas)
    for _ in range(args.epochs):
        for batch in torch.randperm(len(chosen)).split(args.batch_size):  # the last one may be a single pair
            head["w"] = mixture()
            r_chosen, r_rejected = reward_heads(chosen[batch], head), reward_heads(rejected[batch], head)
            optimizer.zero_grad()
            bradley_terry_loss(r_chosen, r_rejected, groups[batch]).backward()
            optimizer.step()
    head["w"] = mixture()
    return {name: part.detach() for name, part in head.items()}


def calibrated(head: dict[str, torch.Tensor], h: torch.Tensor) -> dict[str, torch.Tensor]:
    """The heads, of mean 0 and deviation 1 over the responses whose phi is h: (n, d)."""
    r = reward_heads(h, head)  # (n, U)
    return head | {"centre": r.mean(0), "scale": r.std(0) + 1e-6}


def draw_pairs(rows: list[dict], scores: torch.Tensor, args: Args) -> tuple[list[dict], int]:
    """The pairs of responses, two rows a question, by what each group wants, (n, U); and how many are left out as ties.

    A group is drawn for each question, the minority with probability `proportion`. Of the held-out questions there is
    a pair for each group.
    """
    rng, pairs, ties = np.random.default_rng(args.seed), [], 0
    for i in range(0, len(rows), 2):
        held_out, minority = rng.random() < args.test_fraction, rng.random() < args.proportion
        for group in range(len(GROUPS)) if held_out else (0,) if minority else (1,):
            better = i + int(scores[i + 1, group] > scores[i, group])
            if scores[i, group] == scores[i + 1, group]:
                ties += 1
                continue
            pair = {"group_id": group, "prompt": rows[i]["question"], "split": "test" if held_out else "train"}
            worse = rows[2 * i + 1 - better]
            pairs.append(pair | {"chosen": rows[better]["response"], "rejected": worse["response"]})
    return pairs, ties


# ---- stages --------------------------------------------------------------------------------------------------------


def solution_pairs(args: Args) -> list[tuple[str, str]]:
    """(socratic, plain) solutions of the same questions, without the marks by which one token would tell them apart."""
    names = args.socratic_dataset or f"{args.dataset}-socratic", args.dataset
    if not args.socratic_dataset and args.dataset not in ("arithmetic", "gsm8k"):
        raise common.InputError(f"--dataset {args.dataset} needs a --socratic-dataset: its questions, solved otherwise")
    socratic, plain = (
        {p.question: p.solution for p in common.load_problems(n, args.split, seed=args.seed)} for n in names
    )
    both = [question for question in socratic if plain.get(question, socratic[question]) != socratic[question]]
    if len(both) < 2:
        raise common.InputError(f"{names[0]} and {names[1]} share {len(both)} questions with two different solutions")

    def unmarked(solution: str) -> str:
        return re.sub(r"<<.*?>>", "", solution).replace(" ** ", " ")

    return [(unmarked(socratic[q]), unmarked(plain[q])) for q in both[: args.oracle_pairs]]


def rows_in(path: Path) -> list[dict]:
    """The rows of a .jsonl file. Raises InputError where it is damaged."""
    try:
        return common.read_rows(path)
    except ValueError as error:
        raise common.InputError(f"{path} is damaged: delete it to have it made again") from error


def made(run, name: str, stage: str, lines: int = 1) -> Path:
    """A file of the run folder. Raises InputError, with the command that makes it, where it is missing or not whole."""
    path = run.folder / name
    if not path.is_file() or (lines > 1 and len(rows_in(path)) < lines):
        command = common.command_line(run.args, run.script, stage=stage)
        raise common.InputError(f"{path} is missing or not whole; this makes it: {command}")
    return path


def in_chunks(path: Path, total: int, size: int, rows_of, what: str) -> list[dict]:
    """The rows of a file, to which rows_of(start, end) adds chunks; one that a kill cut short is made again."""
    rows = rows_in(path)
    if len(rows) < total:
        start = len(rows) // size * size
        common.write_file(path, "".join(json.dumps(row) + "\n" for row in rows[:start]))
        for first in tqdm(range(start, total, size), desc=what, disable=None):
            common.write_rows(path, rows_of(first, min(first + size, total)))
    return rows_in(path)


def main(args: Args) -> None:
    common.check_args(args)
    run, U = runs.place(args, __file__), len(GROUPS)
    run.may_change, stages = LATER_FLAGS, STAGES if args.stage == "all" else (args.stage,)
    args.reward_dir = args.reward_dir or f"runs/{Path(args.dataset).stem}__sharedrep_reward__{args.seed}"
    args.run_dir, args.if_run_exists = args.reward_dir, "resume"
    if args.method != "sharedrep" and (args.mixture or args.simplex):
        raise common.InputError(f"--mixture and --simplex are of --method sharedrep: the w of {args.method} is fixed")
    if args.mixture and (args.simplex or len(args.mixture) != U * args.k):
        raise common.InputError(
            f"--mixture needs {U} groups times --k {args.k} numbers, not {len(args.mixture)}, and no --simplex"
        )
    problems = common.load_problems(args.dataset, args.split, limit=args.num_prompts, seed=args.seed)
    problems = common.instruct(problems, args)
    if any(problem.tests for problem in problems):
        raise common.InputError(f"--dataset {args.dataset} holds programs: the traits are those of a worked solution")
    solutions = solution_pairs(args) if "oracle" in stages else []
    m = int(len(solutions) * (1 - args.test_fraction))  # pairs that the oracle learns from
    if "oracle" in stages and m < 2:
        raise common.InputError(f"--oracle-pairs and --test-fraction leave {m} of {len(solutions)} pairs: it needs two")
    template = common.load_template(args.prompt_template, problems)
    runs.find_folder(run, "")
    solver, tokenizer = runs.load_lm(run, args.policy_lm or runs.EMBEDDED_MODELS[-1], "--policy-lm")
    backbone = runs.load_lm(run, args.backbone, "--backbone") if args.backbone else (solver, tokenizer)
    prompts = [common.attempt_messages(problem, template) for problem in problems]
    runs.check_prompts(run, solver, tokenizer, prompts, problems, args.max_new_tokens, "--policy-lm")
    runs.open_folder(run, None, {"training": runs.fingerprint(run.prompts, problems)})
    print(f"run folder {run.folder}: {len(problems)} questions; {run.placed}")
    asked = [problem for problem in problems for _ in range(2)]  # of each response
    n = len(asked)  # responses in all

    def phi(questions: list[str], texts: list[str]) -> torch.Tensor:  # (n, d)
        return runs.features(*backbone, questions, texts, args.pooling, CHUNK // 2)

    # ---- ORACLE
    path = run.folder / "oracle.safetensors"
    if "oracle" in stages and not path.is_file():
        chosen, rejected = (phi([""] * len(texts), texts) for texts in map(list, zip(*solutions)))  # (m, d)
        groups = torch.zeros(len(solutions), dtype=torch.long)
        flags = replace(args, method="uniform", reward_lr=args.oracle_lr, epochs=args.oracle_epochs, squash="none")
        oracle = fit(chosen[:m], rejected[:m], groups[:m], 1, flags)
        runs.save_tensors(path, oracle)
        told = reward_heads(chosen[m:], oracle) > reward_heads(rejected[m:], oracle)
        print(f"oracle: {m} pairs of solutions; tells {told.float().mean():.3f} of {len(told)} held-out ones apart")

    # ---- GENERATE
    if "generate" in stages:

        def sample(start: int, end: int) -> list[dict]:
            torch.manual_seed(args.seed + 1_000_003 * start)  # each chunk's own
            messages = [common.attempt_messages(problem, template) for problem in asked[start:end]]
            turn = generate(
                solver, tokenizer, [common.encode_prompt(tokenizer, m) for m in messages], args.max_new_tokens, args
            )
            runs.cut_at_stops(turn, tokenizer, args.stop_strings)
            rows = zip(asked[start:end], turn["texts"], turn["truncated"].tolist())
            return [{"id": p.id, "question": p.statement, "response": y, "truncated": cut} for p, y, cut in rows]

        in_chunks(run.folder / "responses.jsonl", n, CHUNK, sample, "generate")

    # ---- SCORE
    if "score" in stages:
        oracle = runs.load_tensors(made(run, "oracle.safetensors", "oracle"))
        responses = rows_in(made(run, "responses.jsonl", "generate", n))

        def score(start: int, end: int) -> list[dict]:
            texts = [row["response"] for row in responses[start:end]]
            logits = reward_heads(phi([""] * len(texts), texts), oracle).squeeze(1).tolist()
            columns = common.verify_all(texts, asked[start:end]), [len(text.split()) for text in texts], logits
            scores = [dict(zip(("correct", "words", "logit"), values)) for values in zip(*columns)]
            return [row | values for row, values in zip(responses[start:end], scores)]

        rows = in_chunks(run.folder / "scores.jsonl", n, CHUNK, score, "score")
        columns = {name: np.array([row[name] for row in rows]) for name in ("words", "logit")}
        reference = {name: [column.mean(), column.std() + 1e-6] for name, column in columns.items()}
        common.write_file(run.folder / "reference.json", json.dumps(reference | {"groups": GROUPS}, indent=1) + "\n")

    # ---- PAIRS
    pairs_path = run.folder / f"pairs-{args.proportion}.jsonl"
    if "pairs" in stages and not pairs_path.is_file():
        rows = rows_in(made(run, "scores.jsonl", "score", n))
        reference = json.loads(made(run, "reference.json", "score").read_text(encoding="utf-8"))
        tau = traits(*([row[name] for row in rows] for name in ("correct", "words", "logit")), reference)  # (n, 3)
        pairs, ties = draw_pairs(rows, tau @ torch.tensor(list(GROUPS.values())).T, args)
        common.write_file(pairs_path, "".join(json.dumps(pair) + "\n" for pair in pairs))
        print(f"pairs: {len(pairs)}, {ties} ties left out")

    # ---- TRAIN
    if "train" in stages:
        rows = rows_in(made(run, "scores.jsonl", "score", n))
        pairs = rows_in(made(run, pairs_path.name, "pairs"))
        path = run.folder / "phi.safetensors"
        if not path.is_file():
            runs.save_tensors(path, {"phi": phi([r["question"] for r in rows], [r["response"] for r in rows])})
        h = runs.load_tensors(path)["phi"]  # (n, d), of all responses
        place = {(row["question"], row["response"]): i for i, row in enumerate(rows)}
        parts = {}
        for split in ("train", "test"):
            ours = [pair for pair in pairs if pair["split"] == split]
            chosen, rejected = ([place[p["prompt"], p[name]] for p in ours] for name in ("chosen", "rejected"))
            parts[split] = h[chosen], h[rejected], torch.tensor([pair["group_id"] for pair in ours])
        if len(parts["train"][2]) < 2:
            raise common.InputError(f"{pairs_path} has no two pairs to learn from: all others are ties or held out")
        head = fit(*parts["train"], U, args)
        held_out = {pair["prompt"] for pair in pairs if pair["split"] == "test"}
        if args.calibrate_heads:
            head = calibrated(head, h[[i for i, row in enumerate(rows) if row["question"] not in held_out]])
        chosen, rejected, groups = parts["test"]
        right = (reward_heads(chosen, head) > reward_heads(rejected, head)).float()  # (n, U)
        row = {"method": args.method, "k": head["w"].shape[1], "proportion": args.proportion}
        row |= {f"pairs_{name}": int((parts["train"][2] == u).sum()) for u, name in enumerate(GROUPS)}
        row |= {f"accuracy_{name}": common.mean(right[groups == u, u].tolist()) for u, name in enumerate(GROUPS)}
        name = f"{args.method}{f'-k{args.k}' * (args.method == 'sharedrep')}-{args.proportion}.safetensors"
        runs.save_tensors(run.folder / name, head)
        flags = {flag: getattr(args, flag) for flag in ("simplex", "mixture", "squash", "calibrate_heads")}
        common.write_rows(run.folder / "heads.jsonl", [row | flags | {"file": name}])
        print(", ".join(f"{key} {value}" if value is None or isinstance(value, str) else f"{key} {value:.3f}"
                        for key, value in row.items()))  # fmt: skip
    runs.release(run)


if __name__ == "__main__":
    common.run(main, common.parse(Args, __doc__), __file__)
