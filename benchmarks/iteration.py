"""One iteration of grpo.py beside one of TRL's GRPOTrainer: same model, prompts, lengths, batch and threads.

    pip install --target trl-packages --no-deps trl==1.16.0 accelerate==1.15.0 psutil==7.2.2
    PYTHONPATH=trl-packages python benchmarks/iteration.py
    PYTHONPATH=trl-packages python benchmarks/iteration.py --policy-lm HuggingFaceTB/SmolLM2-135M-Instruct --groups 2

Both sample the groups, judge them, and make one step of AdamW or Adam, with the KL and without it. They take turns of a
warm-up iteration and two that count. Prints medians of wall time and the ratio.
"""

import contextlib
import os
import statistics
import sys
import tempfile
import time
import warnings
from dataclasses import dataclass
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # the repository root
import common  # first: it sets how idle threads wait, for both
import grpo
import runs

import torch
import tyro
from datasets import Dataset
from transformers import AutoModelForCausalLM, AutoTokenizer, LlamaConfig, TrainerCallback


@dataclass
class Args:
    policy_lm: str | None = None
    """a folder or hub name; by default a random Llama of a million weights, which hardly ever ends"""
    groups: int = 8
    """problems of an iteration, 8 responses each"""
    max_new_tokens: int = 64
    """longest response"""
    micro_batch_size: int = 16
    """sequences of one forward and backward pass"""
    turns: int = 4
    """times that each is run"""
    threads: int = 1
    """of torch"""


def save_llama(folder: str) -> str:
    tokenizer = AutoTokenizer.from_pretrained(runs.model_source("tiny"))
    torch.manual_seed(0)
    sizes = {"hidden_size": 128, "intermediate_size": 352, "num_hidden_layers": 5, "num_attention_heads": 4}
    ends = {"bos_token_id": None, "eos_token_id": tokenizer.eos_token_id, "pad_token_id": tokenizer.pad_token_id}
    AutoModelForCausalLM.from_config(LlamaConfig(vocab_size=len(tokenizer), **sizes, **ends)).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def ours(policy_lm: str, beta: float, args: Args) -> list[float]:
    """Seconds of two iterations."""
    with tempfile.TemporaryDirectory() as folder:
        flags = grpo.Args(policy_lm=policy_lm, kl_coef=beta, groups_per_batch=args.groups, iterations=3, eval_size=1)
        flags.run_dir, flags.max_new_tokens, flags.report = f"{folder}/run", args.max_new_tokens, False
        flags.micro_batch_size, flags.eval_every, flags.save_every, flags.greedy_eval = (
            args.micro_batch_size,
            9,
            9,
            False,
        )
        flags.device, flags.chat_template = "cpu", False
        ends = []
        original, runs.log = runs.log, lambda *inputs: ends.append(time.perf_counter()) or original(*inputs)
        evaluate, grpo.evaluate = grpo.evaluate, lambda *inputs: {}
        try:
            grpo.main(flags)
        finally:
            runs.log, grpo.evaluate = original, evaluate
    return [end - start for start, end in zip(ends[1:], ends[2:])]


def trls(policy_lm: str, beta: float, args: Args) -> list[float]:
    """Seconds of two iterations."""
    from trl import GRPOConfig, GRPOTrainer

    problems = common.load_problems("arithmetic")[: 3 * args.groups]
    rows = {"prompt": [common.attempt_messages(p)[0]["content"] + "\n" for p in problems]}
    rows["answer"] = [p.answer for p in problems]
    ends = []

    class Clock(TrainerCallback):
        def on_step_begin(self, *inputs, **more):
            ends.append(time.perf_counter())

        def on_step_end(self, *inputs, **more):
            ends.append(time.perf_counter())

    def rewards(prompts, completions, answer, **more):
        return [common.verify(text, common.Problem("", gold)) for text, gold in zip(completions, answer)]

    with tempfile.TemporaryDirectory() as folder:
        steps = 8 * args.groups // args.micro_batch_size
        config = GRPOConfig(
            output_dir=folder,
            per_device_train_batch_size=args.micro_batch_size,
            gradient_accumulation_steps=steps,
            num_generations=8,
            max_completion_length=args.max_new_tokens,
            beta=beta,
            max_steps=3,
            use_cpu=True,
            bf16=False,
            gradient_checkpointing=False,
            learning_rate=2e-4,
            report_to=[],
            logging_strategy="no",
            save_strategy="no",
            disable_tqdm=True,
        )
        model = AutoModelForCausalLM.from_pretrained(policy_lm, dtype=torch.float32)
        tokenizer = AutoTokenizer.from_pretrained(policy_lm)
        common_flags = {"args": config, "train_dataset": Dataset.from_dict(rows), "processing_class": tokenizer}
        trainer = GRPOTrainer(model=model, reward_funcs=rewards, callbacks=[Clock()], **common_flags)
        trainer.train()
    starts, stops = ends[::2], ends[1::2]
    return [stop - start for start, stop in zip(stops, stops[1:])] if len(starts) == len(stops) else []


def main(args: Args) -> None:
    torch.set_num_threads(args.threads)
    warnings.simplefilter("ignore")
    with tempfile.TemporaryDirectory() as folder:
        policy_lm = args.policy_lm or save_llama(folder)
        print("| KL | grpo.py, s | TRL, s | ratio |\n|---|---|---|---|")
        for beta in (0.04, 0.0):
            seconds = {ours: [], trls: []}
            for _ in range(args.turns):
                for run, found in seconds.items():
                    with open(os.devnull, "w") as nothing:
                        with contextlib.redirect_stdout(nothing), contextlib.redirect_stderr(nothing):
                            found += run(policy_lm, beta, args)
            mine, theirs = (statistics.median(found) for found in seconds.values())
            print(f"| {'on' if beta else 'off'} | {mine:.2f} | {theirs:.2f} | {theirs / mine:.2f} |", flush=True)


if __name__ == "__main__":
    main(tyro.cli(Args))
