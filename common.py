"""What training and evaluation share: problems, prompt texts, the verifiers, pass@k and the command line.

No torch here: what needs a tensor is a part of a method and stands in that method's script.

    problems = load_problems("arithmetic", split="train")  # or functions, math, gsm8k, mbpp, a .csv .jsonl ... file
    messages = attempt_messages(problems[0])  # chat messages; the script renders and tokenizes them
    reward = verify(response, problems[0])  # 1.0 or 0.0
"""

import json
import math
import os
import re
import shlex
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import fields
from pathlib import Path

import numpy as np

from problems import InputError, Problem
from problems.loading import load_problems, load_train_and_eval
from problems.prompts import *  # noqa: F403, scripts find all of it here: SOLVE, attempt_messages, encode_prompt, ...
from verifiers.code_answers import extract_code, judge_code, verify_code
from verifiers.math_answers import extract_answer, judge_math, verify_math
from verifiers.sandbox import TIMEOUT, SandboxError, cores, start_sandbox

__all__ = [
    "InputError",
    "Problem",
    "extract_answer",
    "extract_code",
    "load_problems",
    "load_train_and_eval",
]
__all__ += ["start_sandbox", "verify_code", "verify_math"]


# ---- rewards and order ---------------------------------------------------------------------------------------------


def judge(response: str, problem: Problem, strict_answers: bool = False, code_timeout: float = TIMEOUT) -> bool | None:
    """Whether a response is right, None if that could not be decided within the verifier's bounds.

    It sees the response, never the prompt. Maths: the final answer equals the gold answer; strict_answers accepts a box
    only. Code: the program passes all tests within code_timeout seconds. Raises SandboxError, and nothing else.
    """
    if problem.tests:
        return judge_code(response, problem.tests, problem.setup_code, problem.solution, code_timeout)
    return judge_math(response, problem.answer, strict_answers)


def judge_all(
    responses: list[str], problems: list[Problem], strict_answers: bool = False, code_timeout: float = TIMEOUT
) -> list[bool | None]:
    """`judge` for each pair, in order; programs run side by side on the machine's cores."""
    pairs = list(zip(responses, problems, strict=True))
    if not any(problem.tests for problem in problems):
        return [judge(*pair, strict_answers) for pair in pairs]
    with ThreadPoolExecutor(cores()) as pool:
        return list(pool.map(lambda pair: judge(*pair, strict_answers, code_timeout), pairs))


def verify(response: str, problem: Problem, strict_answers: bool = False, code_timeout: float = TIMEOUT) -> float:
    """The reward: 1.0 if `judge` finds the response right, else 0.0; undecided counts as wrong."""
    return float(judge(response, problem, strict_answers, code_timeout) is True)


def well_formed(response: str, problem: Problem) -> bool:
    """Whether a response states an answer in the form asked for: a box, or a program."""
    return (extract_code(response) if problem.tests else extract_answer(response, strict=True)) is not None


def verify_all(
    responses: list[str], problems: list[Problem], strict_answers: bool = False, code_timeout: float = TIMEOUT
) -> list[float]:
    """The rewards of all pairs, in order."""
    return [float(verdict is True) for verdict in judge_all(responses, problems, strict_answers, code_timeout)]


def verify_turns(turns: list[list[str]], problems: list[Problem], args) -> tuple[list[list[float]], dict[str, float]]:
    """The rewards of each turn's responses, and the metrics that a verifier has of its own."""
    start_time = time.time()
    verdicts = [judge_all(responses, problems, args.strict_answers, args.code_timeout) for responses in turns]
    undecided = np.mean([verdict is None for turn in verdicts for verdict in turn])
    metrics = {"rollout/undecided": float(undecided), "charts/verify_seconds": time.time() - start_time}
    return [[float(verdict is True) for verdict in turn] for turn in verdicts], metrics


def sandbox_for(problems: list[Problem], unsafe: bool) -> str:
    """Starts the sandbox if there are code problems, and says what it is. Raises SandboxError if none works here."""
    return f"; programs run under {start_sandbox(unsafe)}" if any(problem.tests for problem in problems) else ""


def load_problems_for(args) -> tuple[list[Problem], list[Problem]]:
    """The problems to train on and the held-out ones that the flags ask for. Raises InputError."""
    eval_dataset, limits = args.eval_dataset or args.dataset, (args.eval_size, args.min_level, args.tests_in_prompt)
    return load_train_and_eval(args.dataset, args.split, eval_dataset, args.eval_split, *limits)


def mean(parts: list[float]) -> float | None:
    """The mean of what was measured; None if nothing was."""
    return float(np.mean(parts)) if parts else None


def outcomes(rewards_1: list[float], rewards_2: list[float]) -> dict[str, float]:
    """Fractions of all problems: right at turn 1 and 2, wrong then right (fixed), right then wrong (broken)."""
    first, second = np.array(rewards_1), np.array(rewards_2)
    parts = {"accuracy_1": first, "accuracy_2": second, "fixed": (1 - first) * second, "broken": first * (1 - second)}
    return {name: float(part.mean()) for name, part in parts.items()}


def repeated(attempts: list[str], refinements: list[str]) -> float:
    """Share of second attempts that are the first one over again."""
    return float(np.mean([first == second for first, second in zip(attempts, refinements, strict=True)]))


def pass_at_k(n: int, c: int, k: int) -> float:
    """Probability that of k responses, drawn from n without replacement, c of them right, at least one is right.

    1 - C(n-c, k) / C(n, k), the unbiased estimate of pass@k (Chen et al. 2021, arXiv 2107.03374, eq. 1).
    """
    if not 0 <= c <= n or not 1 <= k <= n:
        raise ValueError(f"pass@k needs 0 <= c <= n and 1 <= k <= n, not n={n}, c={c}, k={k}")
    return 1 - math.comb(n - c, k) / math.comb(n, k)


def problem_rows(iteration: int, rollout_size: int, num_problems: int, seed: int) -> list[int]:
    """The problems of one iteration: each comes once an epoch, in an order that depends on the seed alone."""
    positions = range((iteration - 1) * rollout_size, iteration * rollout_size)
    epochs = {position // num_problems for position in positions}
    orders = {epoch: np.random.default_rng([seed, epoch]).permutation(num_problems) for epoch in epochs}
    return [int(orders[position // num_problems][position % num_problems]) for position in positions]


# ---- rows of .jsonl files --------------------------------------------------------------------------------------------


def write_file(path: Path, text: str) -> None:
    """Replaces a file in one step: a kill at any moment leaves the old text or the new."""
    temporary = path.with_name(path.name + ".tmp")
    temporary.write_text(text, encoding="utf-8")
    os.replace(temporary, path)


def write_rows(path: Path, rows: list[dict]) -> None:
    """Appends rows to a .jsonl file and forces them to the disk."""
    with path.open("a", encoding="utf-8") as file:
        file.writelines(json.dumps(row) + "\n" for row in rows)
        file.flush()
        os.fsync(file.fileno())


def episode_rows(iteration: int, phase: str, problems: list[Problem], episodes: dict, limit: int) -> list[dict]:
    """Rows of episodes.jsonl for the first `limit` problems: what was said in each turn and how it was judged.

    episodes: a turn under each of attempt, feedback and refinement that the method has, with its texts and what was
    truncated, and rewards_1 and rewards_2, the verdicts on attempt and refinement, where there are two.
    """
    turns = [name for name in ("attempt", "feedback", "refinement") if name in episodes]
    rewards = [name for name in ("rewards_1", "rewards_2") if name in episodes]
    rows = []
    for i, problem in enumerate(problems[:limit]):
        row = {"iteration": iteration, "phase": phase, "id": problem.id}
        row |= {"question": problem.statement, "answer": problem.answer or "\n".join(problem.tests)}
        row |= {name: episodes[name]["texts"][i] for name in turns}
        row |= {name.replace("rewards", "reward"): float(episodes[name][i]) for name in rewards}
        rows.append(row | {"truncated": [name for name in turns if episodes[name]["truncated"][i]]})
    return rows


def read_rows(path: Path) -> list[dict]:
    """The rows of a .jsonl file; none if it does not exist. A last line that a kill cut short is left out."""
    lines = path.read_text(encoding="utf-8").split("\n")[:-1] if path.exists() else []
    return [json.loads(line) for line in lines]


# ---- command line --------------------------------------------------------------------------------------------------


def command_line(args, script: str, **changes) -> str:
    """The command that starts this run, with some flags changed: every flag that is not at its default."""
    words = ["python", script]
    for field in fields(args):
        value = changes.get(field.name, getattr(args, field.name))
        if value == field.default:
            continue
        flag = field.name.replace("_", "-")
        if isinstance(value, bool):
            words.append(f"--{flag}" if value else f"--no-{flag}")
        else:
            words += [f"--{flag}", *(map(str, value) if isinstance(value, tuple) else [str(value)])]
    return shlex.join(words)


def last_checkpoint(run_dir: Path) -> Path | None:
    """The newest whole checkpoint of a run folder: only checkpoint- and six digits is one."""
    return max(filter(is_checkpoint, run_dir.glob("checkpoint-*")), default=None)


def checkpoint_score(rows: list[dict]) -> dict[str, float]:
    """What checkpoints are compared by: the mean rollout/reward of the rows since the one before."""
    return {"mean_reward": float(np.mean([row["rollout/reward"] for row in rows if row["iteration"]]))}


def best_checkpoint(run_dir: Path) -> Path | None:
    """Of the checkpoints that are kept the one with the highest score, of several the newest."""
    rows = [row for row in read_rows(run_dir / "checkpoints.jsonl") if (run_dir / row["folder"]).is_dir()]
    best = max(rows, key=lambda row: (row["mean_reward"], row["iteration"]), default=None)
    return run_dir / best["folder"] if best else None


def is_checkpoint(path: Path) -> bool:
    return re.fullmatch(r"checkpoint-\d{6}", path.name) is not None


MAY_BE_ZERO = ("seed", "eval_seed", "stage1_iterations", "lr_warmup_iterations", "keep_checkpoints", "feedback_every")
MAY_BE_ZERO += ("tests_in_prompt", "warmup_iterations", "dynamic_sampling", "overlong_buffer")


def check_args(args) -> None:
    """Raises InputError for sizes and rates that cannot work, in any script."""
    for field in fields(args):
        value = getattr(args, field.name)
        lowest = 0 if isinstance(value, float) or field.name in MAY_BE_ZERO else 1
        if isinstance(value, (int, float)) and not isinstance(value, bool) and not lowest <= value < 2**32:
            raise InputError(f"--{field.name.replace('_', '-')} must not be {value}")
    training = hasattr(args, "learning_rate")
    if training and not all(0 <= beta < 1 for beta in args.adam_betas):
        raise InputError(f"--adam-betas {' '.join(map(str, args.adam_betas))} must be in [0, 1)")
    if training and not args.temperature > 0:
        raise InputError(f"--temperature {args.temperature} must be above 0: nothing is learned from greedy responses")
    if not 0 < args.top_p <= 1:
        raise InputError(f"--top-p {args.top_p} must be in (0, 1]")
    for name in ("tau", "offline_first_turn", "gae_lambda", "gamma"):
        if getattr(args, name, 0.0) > 1:
            raise InputError(f"--{name.replace('_', '-')} {getattr(args, name)} must be at most 1")
    if getattr(args, "baseline", "") == "leave-one-out" and args.rollout_size == 1:
        raise InputError("--baseline leave-one-out needs a --rollout-size of 2 or more")
    if not args.code_timeout > 0:
        raise InputError(f"--code-timeout {args.code_timeout} must be above 0")
    for name in ("num_minibatches", "critic_batch_size"):
        if hasattr(args, "rollout_size") and args.rollout_size % getattr(args, name, 1):
            size = f"--{name.replace('_', '-')} {getattr(args, name)}"
            raise InputError(f"--rollout-size {args.rollout_size} does not divide by {size}")
    if hasattr(args, "group_size") and args.group_size * args.groups_per_batch % args.num_minibatches:
        size = f"--group-size {args.group_size} times --groups-per-batch {args.groups_per_batch}"
        raise InputError(f"{size} does not divide by --num-minibatches {args.num_minibatches}")


def run(main, args, script: str):
    """Runs a script's main; a user's mistake, no sandbox and Ctrl-C end in one line, with exit codes 2, 2 and 130."""
    try:
        result = main(args)
        sys.stdout.flush()
        return result
    except (InputError, SandboxError) as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(2)
    except BrokenPipeError:  # whoever read the output, such as head, has gone
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(1)
    except KeyboardInterrupt:
        message = "interrupted"
        if hasattr(args, "save_every"):
            checkpoint = last_checkpoint(Path(args.run_dir)) if args.run_dir else None
            message += f"; last checkpoint: {checkpoint or 'none yet'}"
        if hasattr(args, "if_run_exists"):
            message += f"; go on with: {command_line(args, script, if_run_exists='resume')}"
        print(f"\n{message}", file=sys.stderr)
        sys.exit(130)
