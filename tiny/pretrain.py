"""Makes the embedded models: small Llamas that solve, check and correct the generated problems.

    python tiny/pretrain.py [arithmetic]    # tiny/
    python tiny/pretrain.py countdown       # tiny/countdown/
    python tiny/pretrain.py functions       # tiny/functions/
    python tiny/pretrain.py conventions     # tiny/conventions/
    python tiny/pretrain.py answered        # tiny/answered/, for intro.py
    python tiny/pretrain.py styled          # tiny/styled/, for sharedrep_reward.py and sharedrep_grpo.py

First the tokenizer, from generated transcripts. Then supervised learning on transcripts of the train split, generated
as they are needed, in two phases. The clean phase teaches the skill: right attempts, right checks of attempts that hold
mistakes, refinements that take over what the feedback says and go on rightly. The short careless phase continues with
transcripts that hold the task's typical mistakes and unreliable checks. It sets an imperfect start over a mastered
skill, as a pretrained language model has it: what reinforcement learning finds here is not new.

The answered model goes on from the one for `arithmetic`: 800 more careless steps, with attempts that are shown where
they will end, half of them right, half careless. So it learns what leads to an answer that it knows, the posterior.
Measured on 300 problems: .36 right with no answer shown, .94 with the right one; shown a wrong answer of its own, it
ends there in .84 and is right in .07.

The styled model goes on from the one for `arithmetic` too, in 1,400 steps: attempts each of whose lines asks for its
step first, states its value alone, or is left out, with few mistakes. Of 400 test problems .46 are right.

What a task's students and checkers write, right and wrong, stands in its transcripts module, with the measured start.
"""

import os
import random
import re
import sys
import time
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

import numpy as np
import torch
import tyro
from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, pre_tokenizers, trainers
from torch.nn import functional as F
from transformers import AutoModelForCausalLM, AutoTokenizer, LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # the repository root, where common.py stands
import common
from problems.arithmetic import in_test_split
from tiny import arithmetic_transcripts, conventions_transcripts, countdown_transcripts, functions_transcripts
from tiny.measure import measure

ROLES = ("attempt", "feedback", "refine", "self_correct", "answered", "styled")


@dataclass
class Args:
    task: tyro.conf.Positional[Literal["arithmetic", "countdown", "functions", "conventions", "answered", "styled"]] = (
        "arithmetic"
    )
    """the embedded problems"""
    output_dir: Path = Path(__file__).resolve().parent
    """folder of the finished model"""
    seed: int = 1
    """seeds the problems, the mistakes, the initial weights and the sampling"""
    threads: int = 1
    """CPU threads; another number rounds differently, so gives other weights"""

    # ---- model
    sizes: tuple[int, int, int, int] = (96, 4, 3, 256)
    """hidden size, layers, heads, intermediate size"""
    initializer_range: float = 0.05
    """standard deviation of the initial weights"""

    # ---- clean phase
    clean_steps: int = 2200
    """optimiser steps"""
    clean_lr: float = 3e-3
    """peak learning rate"""
    clean_batch: tuple[int, ...] = (16, 24, 8, 4, 0, 0)
    """transcripts in a step: attempts, feedbacks, refinements, self-corrections, attempts shown the answer, styled"""
    read_mistakes: tuple[float, float, float] = (0.15, 0.3, 0.1)
    """how often a step of an attempt that is read (never learned) holds each of the task's three mistakes"""
    read_errors: tuple[float, float] = (0.04, 0.2)
    """how often feedback that is read (never learned) calls a right step wrong, passes a wrong one"""

    # ---- careless phase
    careless_steps: int = 60
    """optimiser steps"""
    careless_lr: float = 5e-4
    """peak learning rate"""
    careless_batch: tuple[int, ...] = (22, 12, 10, 4, 0, 0)
    """transcripts in a step, as above"""
    mistakes: tuple[float, float, float] = (0.15, 0.7, 0.015)
    """the same for a step of an attempt or a refinement that is learned"""
    check_errors: tuple[float, float] = (0.04, 0.2)
    """how often feedback calls a right step wrong, passes a wrong one"""
    self_check_errors: tuple[float, float] = (0.25, 0.97)
    """the same for a self-correction, which has no feedback to read"""

    # ---- both phases
    slips: tuple[int, ...] = (-10, -2, -1, 1, 2, 10)
    """by how much a number is off where it slips"""
    warmup_steps: int = 100
    """steps of linear warm-up, at most a tenth of the phase; a linear decay to 5 % follows"""
    adam_betas: tuple[float, float] = (0.9, 0.98)
    """AdamW's decay rates"""
    muon_momentum: float = 0.95
    """Muon's momentum"""
    weight_decay: float = 0.01
    """decoupled weight decay"""
    max_grad_norm: float = 1.0
    """largest norm of the gradient"""
    eval_problems: int = 400
    """problems of the test split that the final table is measured on"""


TASKS = {"arithmetic": arithmetic_transcripts, "functions": functions_transcripts}
TASKS |= {"conventions": conventions_transcripts, "countdown": countdown_transcripts}
TASKS |= dict.fromkeys(("answered", "styled"), arithmetic_transcripts)
ANSWERED = {"clean_steps": 0, "careless_steps": 800, "careless_batch": (16, 6, 6, 4, 24, 0)}
STYLED = {"clean_steps": 0, "careless_steps": 1400, "careless_batch": (0, 0, 0, 0, 0, 48), "careless_lr": 1e-3}
STYLED |= {"mistakes": (0.02, 0.1, 0.005)}
DEFAULTS = {
    "arithmetic": Args(),
    "functions": Args("functions", Args.output_dir / "functions", **functions_transcripts.FLAGS),
    "countdown": Args("countdown", Args.output_dir / "countdown", **countdown_transcripts.FLAGS),
    "conventions": Args("conventions", Args.output_dir / "conventions", **conventions_transcripts.FLAGS),
    "answered": Args("answered", Args.output_dir / "answered", **ANSWERED),
    "styled": Args("styled", Args.output_dir / "styled", **STYLED),
}


# ---- transcripts ---------------------------------------------------------------------------------------------------


def transcript(role: str, clean: bool, args: Args, rng: random.Random) -> tuple[common.Messages, str]:
    """(prompt, response) of one role about a new problem of the train split."""
    task = TASKS[args.task]
    problem = task.new_problem(rng)
    while in_test_split(problem.question):
        problem = task.new_problem(rng)
    facts, mistakes = task.read_problem(problem), (0, 0, 0) if clean else args.mistakes
    if role == "answered":
        values = task.attempt(facts, [], (0, 0, 0) if rng.random() < 0.5 else args.mistakes, args, rng)
        problem = replace(problem, answer=str(values[-1]))
        return common.answered_messages(problem, common.ANSWERED), task.attempt_text(facts, values)
    if role == "styled":
        values = task.attempt(facts, [], mistakes, args, rng)
        return common.attempt_messages(problem), task.styled_text(facts, values, rng)
    if role == "attempt":
        return common.attempt_messages(problem), task.attempt_text(facts, task.attempt(facts, [], mistakes, args, rng))
    student = task.attempt(facts, [], args.read_mistakes if clean else mistakes, args, rng)
    text = task.attempt_text(facts, student)
    if clean:
        errors = args.read_errors if role == "refine" else (0, 0)
    else:
        errors = args.self_check_errors if role == "self_correct" else args.check_errors
    told = {"level": rng.choice(task.LEVELS)} if hasattr(task, "LEVELS") else {}  # of --test-results
    feedback = task.check(facts, student, errors, args, rng, **told)
    if role == "feedback":
        results = task.results(facts, student, **told) if told else ""
        return common.feedback_messages(problem, text, results), task.feedback_text(*feedback)
    if role == "refine":
        prompt = common.refine_messages(problem, text, task.feedback_text(*feedback))
    else:
        prompt = common.self_correct_messages(problem, text)
    # A refinement takes over what the feedback says even where that is wrong: it is as good as its feedback.
    return prompt, task.attempt_text(facts, task.attempt(facts, feedback[0], mistakes, args, rng))


def make_tokenizer(args: Args) -> PreTrainedTokenizerFast:
    """Byte-level BPE, so that any text survives. A digit is one token, and so is each instruction text of common.py."""
    split = pre_tokenizers.Split(Regex(r"\d|\n+|[^\d\n]+"), behavior="isolated")
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence([split, pre_tokenizers.ByteLevel(False, use_regex=False)])
    tokenizer.decoder = decoders.ByteLevel()
    task, rng = TASKS[args.task], random.Random(args.seed)
    pairs = [transcript(role, True, args, rng) for role in ROLES[:4] * 1000]
    texts = ["\n".join([*(message["content"] for message in prompt), response]) for prompt, response in pairs]
    words = [word for text in texts for word in re.split("|".join(map(re.escape, task.TOKENS)), text)]
    trainer = trainers.BpeTrainer(
        vocab_size=1000,  # not reached: merging ends where each word of the transcripts is one token, near 390
        special_tokens=["<pad>", "</s>"],
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    tokenizer.train_from_iterator(words, trainer)
    tokenizer.add_tokens([AddedToken(text, normalized=False, special=False) for text in task.TOKENS])
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        pad_token="<pad>",
        eos_token="</s>",
        clean_up_tokenization_spaces=False,
        padding_side="left",
    )


# ---- learning ------------------------------------------------------------------------------------------------------


def encode(pairs: list[tuple[common.Messages, str]], tokenizer) -> tuple[torch.Tensor, torch.Tensor]:
    """(ids, mask of the response including its end token); the prompt is tokenized apart, as the scripts do."""
    prompts = [common.encode_prompt(tokenizer, prompt)[0] for prompt, _ in pairs]
    responses = [[*ids, tokenizer.eos_token_id] for ids in tokenizer([response for _, response in pairs]).input_ids]
    ids = [torch.tensor(p + r) for p, r in zip(prompts, responses)]
    mask = [torch.arange(len(p) + len(r)) >= len(p) for p, r in zip(prompts, responses)]
    pad = torch.nn.utils.rnn.pad_sequence
    return pad(ids, True, tokenizer.pad_token_id), pad(mask, True, False)  # (B, T), (B, T)


def learn(model: LlamaForCausalLM, tokenizer, clean: bool, args: Args, rng: random.Random) -> None:
    """One phase: cross-entropy of the responses.

    In the clean phase Muon moves the matrices: it reached AdamW's loss of step 600 by step 350. The careless phase is
    AdamW's alone and short, since it is to cover the skill, not to replace it: after 200 steps of Muon, reinforcement
    learning took more than 50 iterations to what it finds in 20 now.
    """
    phase = "clean" if clean else "careless"
    steps, lr, sizes = (getattr(args, f"{phase}_{name}") for name in ("steps", "lr", "batch"))
    by_muon = {name: clean and p.ndim == 2 and "embed" not in name for name, p in model.named_parameters()}
    matrices = [p for name, p in model.named_parameters() if by_muon[name]]
    others = [p for name, p in model.named_parameters() if not by_muon[name]]
    optimizers = [torch.optim.AdamW(others, lr, args.adam_betas, weight_decay=args.weight_decay)]
    if matrices:
        flags = (args.weight_decay, args.muon_momentum)
        optimizers.append(torch.optim.Muon(matrices, lr, *flags, adjust_lr_fn="match_rms_adamw"))
    warmup = min(args.warmup_steps, steps // 10)
    losses, tokens = np.zeros(len(ROLES)), np.zeros(len(ROLES))
    for step in range(1, steps + 1):
        for group in [group for optimizer in optimizers for group in optimizer.param_groups]:
            group["lr"] = lr * min(step / (warmup + 1), 1 - 0.95 * (step - warmup) / (steps - warmup))
        pairs = [[transcript(role, clean, args, rng) for _ in range(size)] for role, size in zip(ROLES, sizes)]
        batches = {i: encode(role_pairs, tokenizer) for i, role_pairs in enumerate(pairs) if role_pairs}
        n = sum(mask.sum() for _, mask in batches.values())
        for i, (ids, mask) in batches.items():  # one pass for each role: their lengths differ
            # The padding is on the right, where a causal model does not see it: no attention mask is needed.
            hidden = model.model(input_ids=ids).last_hidden_state[:, :-1][mask[:, 1:]]  # (response tokens, D)
            loss = F.cross_entropy(model.lm_head(hidden), ids[:, 1:][mask[:, 1:]], reduction="sum")
            (loss / n).backward()
            losses[i] += loss.item()
            tokens[i] += mask.sum().item()
        torch.nn.utils.clip_grad_norm_(model.parameters(), args.max_grad_norm)
        for optimizer in optimizers:
            optimizer.step()
            optimizer.zero_grad()
        if step % 100 == 0 or step == steps:
            means = ", ".join(f"{ROLES[i]} {losses[i] / tokens[i]:.4f}" for i in batches)
            print(f"{phase} {step}/{steps}, loss: {means}, cpu {time.process_time():.0f} s", flush=True)
            losses[:], tokens[:] = 0, 0


def main() -> None:
    task = sys.argv[1] if sys.argv[1:2] and sys.argv[1] in DEFAULTS else "arithmetic"
    args = tyro.cli(Args, default=DEFAULTS[task])
    os.environ["TOKENIZERS_PARALLELISM"] = "false"
    torch.set_num_threads(args.threads)
    torch.manual_seed(args.seed)
    rng, began = random.Random(args.seed), time.perf_counter()
    start = Args.output_dir if args.task in ("answered", "styled") else None
    tokenizer = AutoTokenizer.from_pretrained(start) if start else make_tokenizer(args)
    names = ("hidden_size", "num_hidden_layers", "num_attention_heads", "intermediate_size")
    config = LlamaConfig(
        vocab_size=len(tokenizer),
        **dict(zip(names, args.sizes)),
        max_position_embeddings=8192,  # far beyond these problems: room for problems from files
        initializer_range=args.initializer_range,
        tie_word_embeddings=True,
        bos_token_id=None,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )
    model = AutoModelForCausalLM.from_pretrained(start) if start else LlamaForCausalLM(config)
    print(f"{len(tokenizer)} tokens, {model.num_parameters():,} parameters")
    for clean in (True, False):
        learn(model, tokenizer, clean, args, rng)

    model.save_pretrained(args.output_dir)
    tokenizer.save_pretrained(args.output_dir)
    tokenizer = AutoTokenizer.from_pretrained(args.output_dir)
    measure(AutoModelForCausalLM.from_pretrained(args.output_dir), tokenizer, TASKS[args.task], args)
    print(f"{time.perf_counter() - began:.0f} s, {time.process_time():.0f} s of CPU time")


if __name__ == "__main__":
    main()
