"""Evaluates any causal language model, or a checkpoint of ours, on any problems: one attempt or two, k samples of each.

    python eval.py --solver runs/RUN Qwen/Qwen2.5-1.5B-Instruct --dataset math500 gsm8k --samples 4
    python eval.py --solver runs/RUN --as-in-training       # what training evaluated last, once more and exactly
    python eval.py --compare evals/ONE evals/OTHER          # two saved evaluations, paired by problem

The second turn follows a feedback model or a fixed instruction. With r_ij the verdict on sample j of problem i,
accuracy is mean_i p_i, p_i = mean_j r_ij; its standard error std(p_i) / sqrt(n) and its interval (the middle 95 % of
means of p resampled with replacement) are over problems, because samples of one problem are not independent.

    delta = accuracy_2 - accuracy_1 = fixed - broken  Not gated: right first attempts are refined, and can be broken.
    accuracy_2_oracle_gated = accuracy_1 + fixed      Only wrong ones are, by someone who knows the answers.
    pass@k  unbiased (arXiv 2107.03374, eq. 1)        maj@k  the most frequent answer; of a tie, its right share

Feedback quality, where g' is another problem's feedback and 0 the fixed instruction in its place:

    utility  E[r|g] - E[r|0]     specificity  E[r|g] - E[r|g']     utilisation  mean log pi(y|x,z,g) - log pi(y|x,z,0)
    leakage  share of feedback that states the gold answer (by chance: the gold answer of another problem)

The run folder gets episodes.jsonl, block by block, and eval.json. --if-run-exists resume goes on where it stopped.
"""

import json
import math
import os
import re
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Literal

# Waiting threads soon go to sleep: where cores are shared, spinning ones made small models six times slower.
os.environ.setdefault("GOMP_SPINCOUNT", "2000")

import numpy as np
import torch
import transformers
import tyro
from tqdm import tqdm
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer, GenerationConfig

import common


@dataclass
class Args:
    # ---- experiment
    compare: tuple[str, str] | None = None
    """evaluate nothing: compare two saved evaluations; FOLDER#2 is the second solver of one"""
    as_in_training: bool = False
    """take data set, lengths, sampling and seed from the run of the solver's checkpoint; flags given beside it win"""
    device: Literal["auto", "cuda", "cpu"] = "auto"
    """auto: the GPU where there is one, otherwise the CPU"""
    dtype: Literal["auto", "bfloat16", "float32"] = "auto"
    """type of the weights; auto: bfloat16 on a GPU, float32 on a CPU"""
    run_dir: str | None = None
    """folder of the results; by default evals/{dataset}__{eval_seed}__{time}"""
    if_run_exists: Literal["raise", "resume", "delete"] = "raise"
    """what to do if the folder exists: stop, go on where it was cut short, or start afresh in its place"""

    # ---- models and data
    solver: tuple[str, ...] = ()
    """folders or hub names, a run folder (its newest checkpoint) or a checkpoint; by default the embedded model"""
    feedback: str = "own"
    """feedback model of turn 2: folder or hub name; own: the checkpoint's, if it has one; none: a fixed instruction"""
    use_smart_corrections: bool = True
    """the second attempt reads the feedback; without it, the fixed instruction alone"""
    chat_template: Literal["auto", "on", "off"] = "auto"
    """render prompts with the tokenizer's chat template; auto: where it has one, otherwise plain text"""
    prompt_template: str = "none"
    """what stands before each problem: none, baseline, step_by_step, concise, or a .json file: a list of messages"""
    dataset: tuple[str, ...] = ("arithmetic",)
    """any of arithmetic, functions, math, math500, gsm8k, mbpp, mbpp-sanitized, and .csv .json .jsonl .parquet files"""
    split: str = "test"
    """split to evaluate on; a file has train and test (about one question in ten, chosen by its text) and all"""
    limit: int | None = None
    """most problems of each data set; by default all"""
    tests_in_prompt: int = 1
    """tests of a code problem that the models see; the others cannot be hard-coded"""

    # ---- rollout
    turns: Literal[1, 2] = 2
    """attempts at each problem"""
    samples: int = 4
    """independent episodes of each problem (k)"""
    temperature: float = 0.6
    """sampling temperature; 0 is greedy"""
    top_p: float = 0.95
    """nucleus sampling: only the likeliest tokens that make up so much of the probability"""
    max_new_tokens: int = 1024
    """longest response of the solver, in tokens"""
    max_feedback_tokens: int = 512
    """longest feedback, in tokens"""
    eval_seed: int = 0
    """seeds the sampling"""
    block_size: int = 200
    """most episodes that are sampled, judged and written together; what is cut short loses one block"""
    generation_batch_size: int = 32
    """most responses sampled side by side (memory only)"""
    strict_answers: bool = False
    """a mathematical answer counts only in \\boxed{}"""
    code_timeout: float = 5.0
    """seconds after which a program has failed the tests that it has not answered"""
    unsafe_code: bool = False
    """run generated programs without a sandbox, with limits only, where none can be set up"""

    # ---- figures
    feedback_quality: bool = False
    """utility, specificity, utilisation and leakage of each feedback model (two more second turns)"""
    bootstrap_samples: int = 10000
    """resampled sets of problems behind each interval"""


# ---- models and episodes -------------------------------------------------------------------------------------------


def load_lm(name: str, flag: str, args: Args, device: str, dtype: torch.dtype):
    """A causal language model and its tokenizer, from a folder or the hub. Raises InputError.

    Dropout is set to zero: the trainer must see the very policy that sampled.
    """
    source = common.model_source(name)
    try:
        config = AutoConfig.from_pretrained(source)
        for key in [key for key, value in vars(config).items() if "drop" in key and isinstance(value, float)]:
            setattr(config, key, 0.0)
        model = AutoModelForCausalLM.from_pretrained(source, config=config, dtype=dtype).to(device)
        tokenizer = AutoTokenizer.from_pretrained(source)
    except Exception as error:  # a missing folder, no network, a file cut short: each library raises its own types
        raise common.not_loaded(flag, name, error) from error
    if args.chat_template == "on" and not tokenizer.chat_template:
        raise common.InputError(f"--chat-template on: the tokenizer of {flag} {name} has no chat template")
    if args.chat_template == "off":
        tokenizer.chat_template = None
    with torch.no_grad():  # token_logprobs applies the output head to the backbone's states itself
        probe = torch.arange(4, device=device)[None]
        logits = model.eval().get_output_embeddings()(model.base_model(probe).last_hidden_state)
        if not torch.allclose(logits, model(probe).logits, atol=1e-3):
            raise common.InputError(f"{flag} {name} scales or caps its logits, which token_logprobs does not support")
    return model, tokenizer


@torch.no_grad()
def generate(model, tokenizer, prompts: list[tuple[list[int], int]], max_new_tokens: int, args: Args) -> dict:
    """Samples one response for each prompt and returns a turn: the tensors that the losses need, and the texts.

    Temperature 0 is greedy: the likeliest token each time.

    prompts: (token ids, prefix length) from encode_prompt. Prompts are padded on the left, responses on the right.
    response_mask runs to the first end-of-sequence token, inclusive; it never looks at the pad token, often the same.
    """
    model.eval()  # with train mode's gradient checkpointing there is no KV cache
    end_ids = model.generation_config.eos_token_id
    end_ids = {*(end_ids if isinstance(end_ids, list) else [end_ids]), tokenizer.eos_token_id} - {None}
    pad_id = tokenizer.pad_token_id if tokenizer.pad_token_id is not None else min(end_ids)
    P = max(len(ids) for ids, _ in prompts)
    context = getattr(model.config, "max_position_embeddings", None)
    if context and P + max_new_tokens > context:  # an earlier turn, tokenized again, took more tokens than allowed for
        raise common.InputError(f"a prompt of {P} tokens and {max_new_tokens} new ones exceed the context of {context}")
    prompt_ids = torch.tensor([[pad_id] * (P - len(ids)) + ids for ids, _ in prompts], device=model.device)  # (B, P)
    prompt_mask = torch.tensor([[0] * (P - len(ids)) + [1] * len(ids) for ids, _ in prompts], device=model.device)
    greedy = {"do_sample": False}
    sampled = {"do_sample": True, "temperature": args.temperature, "top_k": 0, "top_p": args.top_p}
    sampling = GenerationConfig(**(sampled if args.temperature else greedy))
    sampling.update(repetition_penalty=1.0, max_new_tokens=max_new_tokens)
    sampling.update(eos_token_id=sorted(end_ids), pad_token_id=pad_id)
    own_config, model.generation_config = model.generation_config, sampling  # its defaults must not bend the policy
    response_ids = torch.full((len(prompts), max_new_tokens), pad_id, device=model.device)  # (B, T)
    by_length = prompt_mask.sum(1).argsort(stable=True)  # prompts of like length share a batch: little padding
    for rows in by_length.split(args.generation_batch_size):
        longest = int(prompt_mask[rows].sum(1).max())
        ids, mask = prompt_ids[rows][:, -longest:], prompt_mask[rows][:, -longest:]
        output = model.generate(input_ids=ids, attention_mask=mask, generation_config=sampling)
        response_ids[rows, : output.shape[1] - longest] = output[:, longest:]
    model.generation_config = own_config
    ended = torch.isin(response_ids, torch.tensor(sorted(end_ids), device=model.device))  # (B, T)
    response_mask = (ended.cumsum(1) - ended.long()) == 0  # (B, T): no end of sequence before this token
    responses = [ids[mask].tolist() for ids, mask in zip(response_ids, response_mask)]
    return {
        "prompts": prompts,
        "prompt_ids": prompt_ids,  # (B, P)
        "prompt_mask": prompt_mask,  # (B, P)
        "prefix_length": torch.tensor([length for _, length in prompts], device=model.device),  # (B,)
        "response_ids": response_ids,  # (B, T)
        "response_mask": response_mask,  # (B, T)
        "truncated": ~ended.any(1),  # (B,)
        "texts": tokenizer.batch_decode(responses, skip_special_tokens=True),
    }


def run_episodes(models, tokenizers, problems: list[common.Problem], args: Args) -> dict:
    """One whole episode for each problem: one or two turns, and the verdicts on the attempts."""
    # differs: one turn or two, with or without a feedback model
    solver, feedback = models
    template = common.load_template(args.prompt_template, problems)
    # TURN 1: z ~ L(.|x)
    prompts = [common.encode_prompt(tokenizers[0], common.attempt_messages(p, template)) for p in problems]
    turns = {"attempt": generate(solver, tokenizers[0], prompts, args.max_new_tokens, args)}
    attempts = turns["attempt"]["texts"]
    if args.turns == 2:
        messages = [common.self_correct_messages(p, z, template) for p, z in zip(problems, attempts)]
        if feedback is not None:
            # FEEDBACK: g ~ H(.|x,z)
            asked = [common.feedback_messages(p, z) for p, z in zip(problems, attempts)]
            prompts = [common.encode_prompt(tokenizers[1], m, p.statement) for m, p in zip(asked, problems)]
            turns["feedback"] = generate(feedback, tokenizers[1], prompts, args.max_feedback_tokens, args)
            if args.use_smart_corrections:
                texts = zip(problems, attempts, turns["feedback"]["texts"])
                messages = [common.refine_messages(p, z, g, template) for p, z, g in texts]
        # TURN 2: y ~ L(.|x,z,g), on the same problem
        prompts = [common.encode_prompt(tokenizers[0], m) for m in messages]
        turns["refinement"] = generate(solver, tokenizers[0], prompts, args.max_new_tokens, args)
    answers = [turns[name]["texts"] for name in ("attempt", "refinement") if name in turns]
    rewards, _ = common.verify_turns(answers, problems, args)
    return turns | {f"rewards_{turn}": verdicts for turn, verdicts in enumerate(rewards, 1)}


TURNS = ("attempt", "feedback", "refinement")
QUALITY_COLUMNS = ("reward_without", "reward_shuffled", "logprob", "logprob_without", "leaked", "leaked_by_chance")


@torch.no_grad()
def response_logprobs(model, prompts: list[list[int]], turn: dict, args: Args) -> list[float]:
    """log pi(response | prompt) at the sampling temperature (greedy: 1), summed over the response, end token included.

    prompts: token ids that the responses of `turn` are read after, which need not be those that they were sampled from.
    """
    sums = []
    for ids, response_ids, mask in zip(prompts, turn["response_ids"], turn["response_mask"]):
        response = response_ids[mask]  # (T,)
        tokens = torch.cat([torch.tensor(ids, device=model.device), response])[None]  # (1, P+T)
        states = model.base_model(tokens).last_hidden_state[0, len(ids) - 1 : -1]  # (T, C)
        logits = model.get_output_embeddings()(states).float() / (args.temperature or 1.0)  # (T, V)
        sums.append(logits.log_softmax(-1).gather(-1, response[:, None]).sum().item())
    return sums


def evaluate_block(models, tokenizers, problems: list[common.Problem], args: Args) -> list[dict]:
    """One episode of each problem, as rows of episodes.jsonl."""
    episodes = run_episodes(models, tokenizers, problems, args)
    rows = common.episode_rows(0, "eval", problems, episodes, len(problems))
    for i, (row, problem) in enumerate(zip(rows, problems)):
        del row["iteration"]  # a matter of training
        row |= {"level": problem.level, "subject": problem.subject, "code": bool(problem.tests)}
        for name in TURNS:
            if name in episodes:
                row[f"{name}_length"] = int(episodes[name]["response_mask"][i].sum())
    if args.feedback_quality and models[1] is not None:
        columns = quality_columns(models, tokenizers, problems, episodes, args)
        rows = [row | more for row, more in zip(rows, columns)]
    return rows


def states_answer(feedback: str, problem: common.Problem) -> bool:
    """Whether feedback gives the gold answer away: states it as it is written, or would be judged right itself."""
    stated = re.search(rf"(?<![\w.]){re.escape(problem.answer)}(?!\w|\.\d)", feedback) if problem.answer else None
    return stated is not None or common.verify(feedback, problem) == 1.0


def quality_columns(models, tokenizers, problems: list[common.Problem], episodes: dict, args: Args) -> list[dict]:
    """What feedback quality needs of each episode: two more second turns from the same first attempt z."""
    template = common.load_template(args.prompt_template, problems)
    attempts, feedback = episodes["attempt"]["texts"], episodes["feedback"]["texts"]
    others = [*feedback[1:], feedback[0]]  # g': every problem gets the next one's
    without = [common.self_correct_messages(p, z, template) for p, z in zip(problems, attempts)]
    shuffled = [common.refine_messages(p, z, g, template) for p, z, g in zip(problems, attempts, others)]
    texts, prompts = [], []
    for messages in (without, shuffled):
        prompts.append([common.encode_prompt(tokenizers[0], m) for m in messages])
        texts.append(generate(models[0], tokenizers[0], prompts[-1], args.max_new_tokens, args)["texts"])
    rewards_without, rewards_shuffled = common.verify_turns(texts, problems, args)[0]
    turn = episodes["refinement"]
    logprobs = response_logprobs(models[0], [ids for ids, _ in turn["prompts"]], turn, args)
    logprobs_without = response_logprobs(models[0], [ids for ids, _ in prompts[0]], turn, args)
    leaked = [states_answer(g, p) for g, p in zip(feedback, problems)]
    by_chance = [states_answer(g, p) for g, p in zip(others, problems)]
    columns = (rewards_without, rewards_shuffled, logprobs, logprobs_without, leaked, by_chance)
    return [dict(zip(QUALITY_COLUMNS, values)) for values in zip(*columns)]


# ---- figures, from the rows of episodes.jsonl ----------------------------------------------------------------------


def by_problem(rows: list[dict], values: list) -> dict[str, list]:
    """The values of all samples of each problem; one value belongs to each row."""
    samples: dict[str, list] = {}
    for row, value in zip(rows, values, strict=True):
        samples.setdefault(row["id"], []).append(value)
    return samples


def mean_and_error(rows: list[dict], values: list[float]) -> tuple[float, float | None, np.ndarray]:
    """Mean over all rows, its standard error over problems (None: there is only one), and p_i: (n,)."""
    means = np.array([np.mean(samples) for samples in by_problem(rows, values).values()])
    error = float(means.std(ddof=1) / math.sqrt(len(means))) if len(means) > 1 else None
    return float(np.mean(values)), error, means


def bootstrap_interval(means: np.ndarray, draws: int) -> list[float]:
    """The 2.5th and 97.5th percentile of the mean of n values drawn from `means` with replacement."""
    rng = np.random.default_rng(0)
    resampled = [means[rng.integers(len(means), size=len(means))].mean() for _ in range(draws)]
    return [float(bound) for bound in np.percentile(resampled, [2.5, 97.5])]


def majority(answers: list[str | None], rewards: list[float]) -> float:
    """maj@k of one problem: the share of right answers among its most frequent ones; 0 if no answer was found.

    Answers of one value count as one, however they are written.
    """
    groups: list[tuple[str, list[float]]] = []
    for answer, reward in zip(answers, rewards, strict=True):
        if answer is not None:
            known = [group for text, group in groups if common.verify_math(f"\\boxed{{{answer}}}", text)]
            group = known[0] if known else []
            group.append(reward)
            if not known:
                groups.append((answer, group))
    most = max((len(group) for _, group in groups), default=0)
    return float(np.mean([np.mean(group) for _, group in groups if len(group) == most])) if groups else 0.0


def summarise(rows: list[dict], args: Args) -> dict:
    """All figures of one solver on one data set. rows: its episodes, as many of each problem."""
    turns = {turn: name for turn, name in (("1", "attempt"), ("2", "refinement")) if name in rows[0]}
    rewards = {turn: [row[f"reward_{turn}"] for row in rows] for turn in turns}
    k = len(next(iter(by_problem(rows, rows).values())))
    figures = {"problems": len(rows) // k, "samples": k, "accuracy_1": float(np.mean(rewards["1"]))}
    columns = {f"accuracy_{turn}": values for turn, values in rewards.items()}
    if "2" in turns:
        figures |= common.outcomes(rewards["1"], rewards["2"])
        figures["delta"] = figures["accuracy_2"] - figures["accuracy_1"]
        figures["repeated"] = common.repeated([row["attempt"] for row in rows], [row["refinement"] for row in rows])
        figures["accuracy_2_oracle_gated"] = figures["accuracy_1"] + figures["fixed"]
        columns["delta"] = [second - first for first, second in zip(rewards["1"], rewards["2"])]
    for name, values in columns.items():
        _, figures[f"{name}_standard_error"], means = mean_and_error(rows, values)
        figures[f"{name}_interval"] = bootstrap_interval(means, args.bootstrap_samples)
    code = rows[0]["code"]  # programs do not vote
    extract = common.extract_code if code else lambda text: common.extract_answer(text, args.strict_answers)
    for turn, name in turns.items():
        verdicts = by_problem(rows, rewards[turn])
        ks = sorted({2**i for i in range(k.bit_length())} | {k})
        right = [int(sum(samples)) for samples in verdicts.values()]
        figures[f"pass_at_k_{turn}"] = {str(j): float(np.mean([common.pass_at_k(k, c, j) for c in right])) for j in ks}
        found = [extract(row[name]) for row in rows]
        votes = zip(by_problem(rows, found).values(), verdicts.values())
        figures[f"majority_{turn}"] = None if code else float(np.mean([majority(*pair) for pair in votes]))
        figures[f"no_answer_{turn}"] = float(np.mean([answer is None for answer in found]))
    for name in [name for name in TURNS if name in rows[0]]:
        figures[f"{name}_length"] = float(np.mean([row[f"{name}_length"] for row in rows]))
        figures[f"{name}_truncated"] = float(np.mean([name in row["truncated"] for row in rows]))
    if "logprob" in rows[0]:
        column = {key: np.array([float(row[key]) for row in rows]) for key in ("reward_2", *QUALITY_COLUMNS)}
        quality = {
            "utility": column["reward_2"] - column["reward_without"],
            "specificity": column["reward_2"] - column["reward_shuffled"],
            "utilisation": column["logprob"] - column["logprob_without"],
            "leakage": column["leaked"],
            "leakage_by_chance": column["leaked_by_chance"],
        }
        figures["feedback_quality"] = {}
        for name, values in quality.items():
            mean, error, _ = mean_and_error(rows, list(values))
            figures["feedback_quality"] |= {name: mean, f"{name}_standard_error": error}
    for part in ("level", "subject"):
        figures[f"by_{part}"] = {}
        for value in sorted({row[part] for row in rows if row[part] not in (None, "")}):
            chosen = [row for row in rows if row[part] == value]
            group = {"problems": len(by_problem(chosen, chosen))}
            for turn in turns:
                mean, error, _ = mean_and_error(chosen, [row[f"reward_{turn}"] for row in chosen])
                group |= {f"accuracy_{turn}": mean, f"accuracy_{turn}_standard_error": error}
            figures[f"by_{part}"][str(value)] = group
    return figures


# ---- tables --------------------------------------------------------------------------------------------------------


def table(title: str, header: list[str], rows: list[list]) -> str:
    """A table that reads well in a terminal and as Markdown. None becomes an empty cell."""
    cells = [
        ["" if cell is None else f"{cell:.3f}" if isinstance(cell, float) else str(cell) for cell in row]
        for row in rows
    ]
    widths = [max(len(line[i]) for line in [header, *cells]) for i in range(len(header))]
    lines = [header, ["-" * width for width in widths], *cells]
    return f"\n{title}\n\n" + "\n".join(
        "| " + " | ".join(cell.ljust(width) for cell, width in zip(line, widths)) + " |" for line in lines
    )


def with_error(figures: dict, name: str) -> str | None:
    """ "mean ± standard error", None where the figure does not exist."""
    if figures.get(name) is None:
        return None
    error = figures[f"{name}_standard_error"]
    return f"{figures[name]:.3f}" + (f" ± {error:.3f}" if error is not None else "")


def print_tables(results: list[dict]) -> None:
    """The figures of eval.json that one looks at first."""
    shown = {result["feedback"]: result["feedback"] for result in results} | {None: "none"}
    shown |= {f"{result['solver']}/feedback": "own" for result in results}
    names = [[result["solver"], shown[result["feedback"]], result["dataset"]] for result in results]
    head = ["solver", "feedback", "data set"]
    rows = [
        [*name, f"{r['problems']} x {r['samples']}", with_error(r, "accuracy_1"), with_error(r, "accuracy_2")]
        + [with_error(r, "delta"), *(r.get(key) for key in ("fixed", "broken", "accuracy_2_oracle_gated"))]
        for name, r in zip(names, results)
    ]
    columns = ["problems x k", "accuracy 1", "accuracy 2", "delta", "fixed", "broken", "accuracy 2, oracle-gated"]
    print(table("Accuracy, mean ± standard error over problems", head + columns, rows))
    for turn in ("1", "2"):
        rows = [
            [*name, *(f"{bound:.3f}" for bound in r[f"accuracy_{turn}_interval"])]
            + [list(r[f"pass_at_k_{turn}"].values())[-1], r[f"majority_{turn}"], r[f"{text}_length"]]
            + [r[f"{text}_truncated"], r[f"no_answer_{turn}"]]
            for name, r in zip(names, results)
            for text in [{"1": "attempt", "2": "refinement"}[turn]]
            if f"accuracy_{turn}" in r
        ]
        k = results[0]["samples"]
        columns = ["from", "to", f"pass@{k}", f"maj@{k}", "tokens", "truncated", "no answer"]
        if rows:
            print(table(f"Attempt {turn}: 95 % interval of the accuracy, and the texts", head + columns, rows))
    quality = [(name, r["feedback_quality"]) for name, r in zip(names, results) if "feedback_quality" in r]
    if quality:
        columns = ["utility", "specificity", "utilisation", "leakage", "leakage_by_chance"]
        rows = [[*name, *(with_error(q, column) for column in columns)] for name, q in quality]
        print(table("Feedback quality (utilisation in nats)", head + columns, rows))
    for part in ("level", "subject"):
        rows = [
            [*name, value, group["problems"], with_error(group, "accuracy_1"), with_error(group, "accuracy_2")]
            for name, r in zip(names, results)
            for value, group in r[f"by_{part}"].items()
        ]
        if len({row[len(head)] for row in rows}) > 1:
            print(table(f"By {part}", [*head, part, "problems", "accuracy 1", "accuracy 2"], rows))


# ---- two saved evaluations -----------------------------------------------------------------------------------------


def load_evaluation(name: str) -> tuple[str, dict, dict[str, list[dict]]]:
    """One solver of a saved evaluation: (its name, the flags, its episodes under each data set). Raises InputError."""
    folder, _, number = name.partition("#")
    try:
        saved = json.loads((Path(folder) / "eval.json").read_text(encoding="utf-8"))
        rows = common.read_rows(Path(folder) / "episodes.jsonl")
        solvers = list(dict.fromkeys(result["solver"] for result in saved["results"]))
        flags = saved["args"]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise common.InputError(f"--compare {folder} is not a finished evaluation: {error}") from error
    numbers = [str(i) for i in range(1, len(solvers) + 1)]
    if number not in numbers and (number or len(solvers) > 1):
        choice = ", ".join(f"{folder}#{i} ({solver})" for i, solver in zip(numbers, solvers))
        raise common.InputError(f"--compare {name}: choose one solver of it: {choice}")
    solver = solvers[int(number or 1) - 1]
    datasets: dict[str, list[dict]] = {}
    for row in rows:
        if row["solver"] == solver:
            datasets.setdefault(row["dataset"], []).append(row)
    if not datasets:
        raise common.InputError(f"--compare {folder} is not a finished evaluation: it has no episodes")
    return solver, flags, datasets


def paired(rows_a: list[dict], rows_b: list[dict], turn_a: str, turn_b: str) -> tuple[np.ndarray, np.ndarray]:
    """p_i of A and of B on the problems that both have, told by question and answer: two of (n,)."""
    means = []
    for rows, turn in ((rows_a, turn_a), (rows_b, turn_b)):
        keyed = [{"id": (row["question"], row["answer"])} for row in rows]
        samples = by_problem(keyed, [row[f"reward_{turn}"] for row in rows])
        means.append({key: float(np.mean(values)) for key, values in samples.items()})
    both = [key for key in means[0] if key in means[1]]
    return tuple(np.array([mean[key] for key in both]) for mean in means)


NOT_COMPARED = ("run_dir", "if_run_exists", "solver", "as_in_training", "limit", "block_size", "device")


def compare(names: tuple[str, str], draws: int) -> None:
    """Prints accuracy differences A - B with bootstrap intervals over the paired problems, and wins, losses, ties."""
    (solver_a, flags_a, sets_a), (solver_b, flags_b, sets_b) = (load_evaluation(name) for name in names)
    rows_b = [row for rows in sets_b.values() for row in rows]
    lines = []
    for dataset, rows_a in sets_a.items():
        last = ["2" if "reward_2" in rows[0] else "1" for rows in (rows_a, rows_b)]
        turns = [("1", "1"), *([tuple(last)] if last != ["1", "1"] else [])]
        for turn_a, turn_b in turns:
            a, b = paired(rows_a, rows_b, turn_a, turn_b)
            if not len(a):
                continue
            low, high = bootstrap_interval(a - b, draws)
            which = turn_a if turn_a == turn_b else f"{turn_a} against {turn_b}"
            counts = [int((a > b).sum()), int((a < b).sum()), int((a == b).sum())]
            interval = f"{low:+.3f} to {high:+.3f}"
            lines.append(
                [dataset, which, len(a), float(a.mean()), float(b.mean()), f"{(a - b).mean():+.3f}", interval, *counts]
            )
    if not lines:
        raise common.InputError(f"--compare: {names[0]} and {names[1]} have no problem in common")
    print(f"A: {names[0]}, {solver_a}\nB: {names[1]}, {solver_b}")
    other = [key for key in flags_a if flags_a[key] != flags_b.get(key) and key not in NOT_COMPARED]
    if other:
        print("other flags: " + ", ".join(f"{key} {flags_a[key]} against {flags_b.get(key)}" for key in other))
    header = ["data set", "attempt", "problems", "A", "B", "A - B", "95 % interval", "A wins", "B wins", "ties"]
    print(table("Accuracy on the problems that both have", header, lines))


# ---- command line --------------------------------------------------------------------------------------------------


def find_checkpoint(name: str) -> Path | None:
    """The checkpoint that a name stands for: a run's newest, itself, or the one that a solver folder is a part of."""
    folder = Path(name)
    if (folder / "metrics.jsonl").is_file():
        newest = common.last_checkpoint(folder)
        if newest is None:
            raise common.InputError(f"--solver {name}: this run has no checkpoint yet")
        return newest
    folder = folder.parent if folder.name == "solver" else folder
    return folder if (folder / "trainer.pt").is_file() else None


def weights(solver: str) -> str:
    """The model to load for a solver: of a checkpoint, its folder solver/."""
    return str(Path(solver) / "solver") if (Path(solver) / "trainer.pt").is_file() else solver


def training_settings(args: Args) -> Args:
    """The flags with which a checkpoint's own run evaluates it. Raises InputError."""
    checkpoint = find_checkpoint(args.solver[0]) if len(args.solver) == 1 else None
    if checkpoint is None:
        raise common.InputError("--as-in-training needs one --solver that is a checkpoint or a run folder")
    try:
        config = json.loads((checkpoint.parent / "config.json").read_text(encoding="utf-8"))["args"]
        first_row = common.read_rows(checkpoint.parent / "metrics.jsonl")[0]
    except (OSError, ValueError, KeyError, IndexError) as error:
        reason = f"config.json or metrics.jsonl in {checkpoint.parent} cannot be read"
        raise common.InputError(f"--as-in-training: {reason}: {error}") from error
    same = ("dtype", "use_smart_corrections", "chat_template", "prompt_template", "tests_in_prompt", "temperature")
    same += ("top_p", "max_new_tokens", "max_feedback_tokens", "eval_seed", "generation_batch_size", "strict_answers")
    settings = {name: config[name] for name in (*same, "code_timeout") if name in config}
    settings |= {"dataset": (config["eval_dataset"] or config["dataset"],), "split": config["eval_split"]}
    settings |= {"limit": config["eval_size"], "block_size": config["eval_size"], "samples": 1}
    if (checkpoint.parent / "prompt_template.json").is_file():  # the one that --template-search found
        settings["prompt_template"] = str(checkpoint.parent / "prompt_template.json")
    return replace(args, **settings, turns=2 if "eval/accuracy_2" in first_row else 1)


def check_models(solver: str, feedback: str | None, problems: list[common.Problem], args: Args) -> None:
    """Raises InputError if a model does not exist or cannot read the prompts; reads no weights."""
    attempts, written = args.turns * args.max_new_tokens, args.max_feedback_tokens if feedback else 0
    template = common.load_template(args.prompt_template, problems)
    prompts = [common.refine_messages(p, "", "", template) for p in problems]
    checks = [("--solver", solver, prompts, attempts + written)]
    if feedback:
        prompts = [common.feedback_messages(p, "") for p in problems]
        checks.append(("--feedback", feedback, prompts, args.max_new_tokens + written))
    for flag, name, prompts, room in checks:
        try:
            source = common.model_source(weights(name))
            config, tokenizer = AutoConfig.from_pretrained(source), AutoTokenizer.from_pretrained(source)
        except Exception as error:  # a missing folder, no network: each library raises its own types
            raise common.not_loaded(flag, name, error) from error
        if args.chat_template == "on" and not tokenizer.chat_template:
            raise common.InputError(f"--chat-template on: the tokenizer of {flag} {name} has no chat template")
        tokenizer.chat_template = None if args.chat_template == "off" else tokenizer.chat_template
        common.check_lengths(tokenizer, prompts, problems, room, config, f"{flag} {name}")


def main(args: Args) -> None:
    common.check_args(args)
    if args.compare:
        return compare(args.compare, args.bootstrap_samples)
    # What is wrong with the flags, the files or the models is found before anything is written.
    if args.temperature == 0 and args.samples > 1:
        raise common.InputError("--temperature 0 makes all samples of a problem the same: add --samples 1")
    if args.device == "cuda" and not torch.cuda.is_available():
        raise common.InputError("--device cuda: torch finds no GPU here")
    device = ("cuda" if torch.cuda.is_available() else "cpu") if args.device == "auto" else args.device
    dtype = {"auto": "bfloat16" if device == "cuda" else "float32"}.get(args.dtype, args.dtype)
    place = (args, device, getattr(torch, dtype))
    transformers.utils.logging.set_verbosity_error()
    transformers.utils.logging.disable_progress_bar()
    sets = {}
    for dataset in args.dataset:
        sets[dataset] = common.load_problems(
            dataset, args.split, limit=args.limit, tests_in_prompt=args.tests_in_prompt
        )
        common.load_template(args.prompt_template, sets[dataset])
        if args.feedback_quality and (len(sets[dataset]) < 2 or args.block_size < 2):
            raise common.InputError("--feedback-quality needs at least 2 problems of a set, and a --block-size of 2")
    sandbox = common.sandbox_for([problem for problems in sets.values() for problem in problems], args.unsafe_code)
    plan = []  # (solver, feedback model or None, data set)
    for solver in dict.fromkeys(args.solver) or (None,):
        checkpoint = find_checkpoint(solver) if solver else None
        own = str(checkpoint / "feedback") if checkpoint and (checkpoint / "feedback").is_dir() else None
        feedback = {"own": own, "none": None}.get(args.feedback, args.feedback) if args.turns == 2 else None
        for dataset, problems in sets.items():
            name = str(checkpoint or solver or common.embedded_model(problems))
            plan.append((name, feedback, dataset))
            check_models(name, feedback, problems, args)
    if args.turns == 1 and args.feedback not in ("own", "none"):
        raise common.InputError(f"--feedback {args.feedback} is written for a second turn: it needs --turns 2")
    if args.feedback_quality and not (args.use_smart_corrections and any(feedback for _, feedback, _ in plan)):
        raise common.InputError("--feedback-quality needs --turns 2 and a --feedback model whose feedback is read")
    default_dir = f"evals/{'+'.join(Path(dataset).stem for dataset in sets)}__{args.eval_seed}"
    run_dir, _ = common.find_run_folder(args, default_dir)
    args.run_dir = str(run_dir)
    common.open_run_folder(run_dir, args, None)

    # Rows of a block that a kill cut short are left out: the block is sampled again, from its own seed.
    blocks = {
        dataset: np.array_split(np.arange(len(p)), math.ceil(len(p) / args.block_size)) for dataset, p in sets.items()
    }
    done: dict[tuple, list[dict]] = {}
    for row in common.read_rows(run_dir / "episodes.jsonl"):
        done.setdefault(tuple(row[name] for name in ("solver", "dataset", "sample", "block")), []).append(row)
    done = {key: rows for key, rows in done.items() if len(rows) == len(blocks[key[1]][key[3]])}
    text = "".join(json.dumps(row) + "\n" for rows in done.values() for row in rows)
    common.write_file(run_dir / "episodes.jsonl", text)
    print(f"run folder {run_dir}: device {device}, weights in {dtype}{sandbox}")

    results, loaded, models, tokenizers = [], None, (), ()
    total = sum(len(blocks[dataset]) for _, _, dataset in plan) * args.samples
    progress = tqdm(total=total, initial=len(done), unit="block", disable=None)
    for solver, feedback, dataset in plan:
        rows = []
        for sample in range(args.samples):
            for number, block in enumerate(blocks[dataset]):
                key = (solver, dataset, sample, number)
                if key not in done:
                    if loaded != (solver, feedback):
                        models = tokenizers = ()  # the memory of one solver is free before the next one comes
                        pairs = [load_lm(weights(solver), "--solver", *place), (None, None)]
                        if feedback:
                            pairs[1] = load_lm(feedback, "--feedback", *place)
                        loaded, (models, tokenizers) = (solver, feedback), zip(*pairs)
                    seed = args.eval_seed + 1_000_003 * (sample * len(blocks[dataset]) + number)
                    torch.manual_seed(seed % 2**32)  # each block's own; the first is that of training's evaluations
                    problems = [sets[dataset][i] for i in block]
                    done[key] = evaluate_block(models, tokenizers, problems, args)
                    names = {"solver": solver, "feedback_model": feedback, "dataset": dataset, "sample": sample}
                    done[key] = [names | {"block": number} | row for row in done[key]]
                    common.write_rows(run_dir / "episodes.jsonl", done[key])
                    progress.update()
                rows += done[key]
                progress.set_postfix_str(f"{dataset} accuracy {np.mean([row['reward_1'] for row in rows]):.3f}")
        results.append({"solver": solver, "feedback": feedback, "dataset": dataset} | summarise(rows, args))
        accuracies = [f"{name} {results[-1][name]:.3f}" for name in ("accuracy_1", "accuracy_2") if name in results[-1]]
        tqdm.write(f"{solver} on {dataset}: {'  '.join(accuracies)}")
    progress.close()
    common.write_file(run_dir / "eval.json", json.dumps({"args": asdict(args), "results": results}, indent=2) + "\n")
    print_tables(results)
    print(f"\nall figures: {run_dir / 'eval.json'}; every text and verdict: {run_dir / 'episodes.jsonl'}")


if __name__ == "__main__":
    args = tyro.cli(Args, description=__doc__)
    if args.as_in_training:
        settings = common.run(training_settings, args, "eval.py")
        args = tyro.cli(Args, description=__doc__, default=settings)
    common.run(main, args, "eval.py")
