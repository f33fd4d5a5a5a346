"""What training and evaluation share: problems, prompt texts, the verifiers, pass@k and the command line.

No torch here: what needs a tensor is a part of a method and stands in that method's script.

    problems = load_problems("arithmetic", split="train")  # or functions, math, gsm8k, mbpp, a .csv .jsonl ... file
    messages = attempt_messages(problems[0])  # chat messages; the script renders and tokenizes them
    reward = verify(response, problems[0])  # 1.0 or 0.0
    args = parse(Args, __doc__)  # the flags of the command line
    run(main, args, __file__)
"""

import os
import signal
import sys
from pathlib import Path

os.environ.setdefault("GOMP_SPINCOUNT", "2000")  # idle threads sleep: spinning ones slow small models sixfold
if Path(getattr(sys.modules["__main__"], "__file__", None) or "").absolute().parent == Path(__file__).parent:
    signal.signal(signal.SIGINT, signal.SIG_DFL)  # in a script of ours: Ctrl-C ends the imports without a traceback

import math
import time
from concurrent.futures import ThreadPoolExecutor

from problems import InputError, Problem
from problems.loading import load_problems, load_train_and_eval, say
from problems.prompts import *  # noqa: F403, scripts find all of it here: SOLVE, attempt_messages, encode_prompt, ...
from problems.prompts import DOUBT, RESULTS, VERDICTS, instruct
from running.command_line import check_args, command_line, parse, run
from running.folder import best_checkpoint, is_checkpoint, last_checkpoint, read_rows, write_file, write_rows
from verifiers.code_answers import extract_code, judge_code, tell_tests, verify_code
from verifiers.countdown import judge_countdown
from verifiers.math_answers import extract_answer, judge_math, verify_math
from verifiers.sandbox import TIMEOUT, cores, start_sandbox

import numpy as np

__all__ = ["InputError", "Problem", "extract_answer", "extract_code", "load_problems", "load_train_and_eval"]
__all__ += ["best_checkpoint", "is_checkpoint", "last_checkpoint", "read_rows", "write_file", "write_rows"]
__all__ += ["check_args", "command_line", "parse", "run", "start_sandbox", "verify_code", "verify_math"]


# ---- rewards and order ---------------------------------------------------------------------------------------------


def judge_all(
    responses: list[str], problems: list[Problem], strict_answers: bool = False, code_timeout: float = TIMEOUT
) -> list[bool | None]:
    """The verdict on each response: right, wrong, or None if it could not be decided within the verifier's bounds.

    It sees the response, never the prompt. Maths: the final answer equals the gold answer; strict_answers accepts a box
    only. Code: the program passes all tests within code_timeout seconds. Programs run side by side on the machine's
    cores. Raises SandboxError, and nothing else.
    """

    def judge(response: str, problem: Problem) -> bool | None:
        if problem.tests:
            return judge_code(response, problem.tests, problem.setup_code, problem.solution, code_timeout)
        if problem.numbers:
            return judge_countdown(response, problem.numbers, problem.target, strict_answers)
        return judge_math(response, problem.answer, strict_answers)

    if not any(problem.tests for problem in problems):
        return [judge(*pair) for pair in zip(responses, problems, strict=True)]
    with ThreadPoolExecutor(cores()) as pool:
        return list(pool.map(lambda pair: judge(*pair), zip(responses, problems, strict=True)))


def verify(response: str, problem: Problem, strict_answers: bool = False, code_timeout: float = TIMEOUT) -> float:
    """The reward: 1.0 for a right response, else 0.0; undecided counts as wrong."""
    return float(judge_all([response], [problem], strict_answers, code_timeout) == [True])


def verify_all(
    responses: list[str], problems: list[Problem], strict_answers: bool = False, code_timeout: float = TIMEOUT
) -> list[float]:
    """The rewards of all pairs, in order."""
    return [float(verdict is True) for verdict in judge_all(responses, problems, strict_answers, code_timeout)]


def well_formed(response: str, problem: Problem) -> bool:
    """Whether a response states an answer in the form asked for: a box, or a program."""
    return (extract_code(response) if problem.tests else extract_answer(response, strict=True)) is not None


def verify_turns(turns: list[list[str]], problems: list[Problem], args) -> tuple[list[list[float]], dict[str, float]]:
    """The rewards of each turn's responses, and the metrics that a verifier has of its own."""
    start_time = time.time()
    verdicts = [judge_all(responses, problems, args.strict_answers, args.code_timeout) for responses in turns]
    undecided = np.mean([verdict is None for turn in verdicts for verdict in turn])
    metrics = {"rollout/undecided": float(undecided), "charts/verify_seconds": time.time() - start_time}
    return [[float(verdict is True) for verdict in turn] for turn in verdicts], metrics


def test_results(responses: list[str], problems: list[Problem], args) -> list[str]:
    """What the feedback model is told of how each attempt did, by --test-results; "" for none.

    Asserts come with the values that were found: those in the prompt, or all of them, which the solver never sees.
    Raises InputError for maths, which has none, and SandboxError.
    """
    if args.test_results == "none":
        return [""] * len(responses)
    if args.test_results == "verdict":
        return stated_verdicts(responses, problems, args)
    if not all(problem.tests for problem in problems):
        raise InputError(f"--test-results {args.test_results} tells of asserts, which maths has not: choose verdict")
    if args.test_results == "shown" and not any(problem.tests_in_prompt for problem in problems):
        reason = "it needs problems with asserts (input_output has none) and a --tests-in-prompt of 1 or more"
        raise InputError(f"--test-results shown tells of the prompt's asserts: {reason}")

    def told(response: str, problem: Problem) -> str:
        tests = problem.tests[: problem.tests_in_prompt] if args.test_results == "shown" else problem.tests
        results = tell_tests(response, tests, problem.setup_code, problem.solution, args.code_timeout)
        return f"{RESULTS}{results}" if tests else ""

    with ThreadPoolExecutor(cores()) as pool:
        return list(pool.map(told, responses, problems))


def stated_verdicts(responses: list[str], problems: list[Problem], args) -> list[str]:
    verdicts = judge_all(responses, problems, args.strict_answers, args.code_timeout)
    return [VERDICTS[verdict is True] for verdict in verdicts]


def feedback_read(feedback: list[str], attempts: list[str], problems: list[Problem], args) -> list[str]:
    """What the solver reads as feedback, by --feedback-control: what was written, or what a control puts in its place.

    Raises InputError where no other problem's can be read.
    """
    if args.feedback_control == "shuffled" and len(problems) == 1:
        raise InputError("--feedback-control shuffled needs two problems at once or more, and here is one")
    controls = {
        "none": lambda: feedback,
        "shuffled": lambda: [*feedback[1:], *feedback[:1]],  # what was written to the next problem's attempt
        "verdict": lambda: stated_verdicts(attempts, problems, args),
        "fixed": lambda: [DOUBT] * len(problems),
    }
    return controls[args.feedback_control]()


def sandbox_for(problems: list[Problem], unsafe: bool) -> str:
    """Starts the sandbox if there are code problems, and says what it is. Raises SandboxError if none works here."""
    return f"; programs run under {start_sandbox(unsafe)}" if any(problem.tests for problem in problems) else ""


GENERATED_IDS = tuple(f"{name}/{split}/" for name in ("functions", "conventions") for split in ("train", "test"))


def solvable(problems: list[Problem], unsafe: bool) -> list[Problem]:
    """The problems without those whose reference solution fails its own tests, which it names. Raises SandboxError.

    The embedded ones are not tried.
    """
    given = {p.id: p for p in problems if p.tests and p.solution and not p.id.startswith(GENERATED_IDS)}
    if not given:
        return problems
    start_sandbox(unsafe)
    failing = [*given]
    for seconds in (TIMEOUT, 60.0):  # the second for those that a busy machine kept from an end
        programs = [f"~~~~~~\n{given[where].solution}\n~~~~~~" for where in failing]
        verdicts = judge_all(programs, [given[where] for where in failing], code_timeout=seconds)
        failing = [where for where, verdict in zip(failing, verdicts, strict=True) if not verdict]
    if failing:
        say(f"left out {', '.join(failing)}: the reference solution fails its own tests")
    return [problem for problem in problems if problem.id not in failing]


def load_problems_for(args) -> tuple[list[Problem], list[Problem]]:
    """The problems to train on and the held-out ones that the flags ask for. Raises InputError, SandboxError."""
    eval_dataset, limits = args.eval_dataset or args.dataset, (args.eval_size, args.min_level, args.tests_in_prompt)
    train, held_out = load_train_and_eval(args.dataset, args.split, eval_dataset, args.eval_split, *limits)
    train, held_out = (instruct(solvable(problems, args.unsafe_code), args) for problems in (train, held_out))
    if not train or not held_out:
        raise InputError(f"no reference solution of {args.dataset if not train else eval_dataset} passes its own tests")
    return train, held_out


def lr_scale(args, iteration: int, iterations: int) -> float:
    """What the learning rates are multiplied by: a linear rise over lr_warmup_iterations, then lr_schedule.

    linear and cosine fall to min_lr_ratio, which the last of `iterations` reaches.
    """
    if iteration <= 0 or iteration < args.lr_warmup_iterations:
        return max(0, iteration) / max(1, args.lr_warmup_iterations)
    done = (iteration - args.lr_warmup_iterations) / max(1, iterations - args.lr_warmup_iterations)
    fallen = {"constant": 0.0, "linear": done, "cosine": (1 - math.cos(math.pi * done)) / 2}[args.lr_schedule]
    return 1 - (1 - args.min_lr_ratio) * fallen


def mean(parts: list[float]) -> float | None:
    """The mean of what was measured; None if nothing was."""
    return float(np.mean(parts)) if parts else None


def outcomes(rewards_1: list[float], rewards_2: list[float]) -> dict[str, float]:
    """Fractions of all problems: right at turn 1 and 2, wrong then right (fixed), right then wrong (broken)."""
    first, second = np.array(rewards_1), np.array(rewards_2)
    parts = {"accuracy_1": first, "accuracy_2": second, "fixed": (1 - first) * second, "broken": first * (1 - second)}
    return {name: float(part.mean()) for name, part in parts.items()}


def second_turn_metrics(episodes: dict) -> dict[str, float]:
    """The eval/ metrics of two turns: their outcomes, delta = accuracy_2 - accuracy_1, repeated."""
    metrics = outcomes(episodes["rewards_1"].tolist(), episodes["rewards_2"].tolist())
    metrics["delta"] = metrics["accuracy_2"] - metrics["accuracy_1"]
    metrics["repeated"] = repeated(episodes["attempt"]["texts"], episodes["refinement"]["texts"])
    return {f"eval/{key}": value for key, value in metrics.items()}


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


def opponent(run_dir: str | None, problems: list[Problem]) -> dict[str, dict]:
    """The scores.jsonl rows of a run's last evaluation by problem; {} for no run. Raises InputError."""
    if run_dir is None:
        return {}
    try:
        rows = read_rows(Path(run_dir) / "scores.jsonl")
        by_problem = {row["id"]: row for row in rows if row["iteration"] == rows[-1]["iteration"]}
        return {problem.id: by_problem[problem.id] for problem in problems}
    except (ValueError, KeyError) as error:
        raise InputError(f"--win-rate-against {run_dir} was not evaluated on these problems") from error


def win_rates(rows: list[dict], theirs: dict[str, dict], groups: list[str], seed: int) -> dict[str, float | None]:
    """For each group, how often our response has the higher score, a tie counting one half; None without an opponent.

    With the ends of the 95 % bootstrap interval over the questions.
    """
    rates = {}
    for group in groups:
        figures = [None] * 3
        if theirs:
            gains = np.sign([row[group] - theirs[row["id"]][group] for row in rows])
            wins = (gains + 1) / 2
            resampled = np.random.default_rng(seed).choice(wins, (1000, len(wins))).mean(1)
            figures = [float(wins.mean()), *map(float, np.quantile(resampled, (0.025, 0.975)))]
        rates |= {f"win_{group}{end}": value for end, value in zip(("", "_low", "_high"), figures)}
    return rates


def problem_rows(iteration: int, rollout_size: int, num_problems: int, seed: int) -> list[int]:
    """The problems of one iteration: each comes once an epoch, in an order that depends on the seed alone."""
    positions = range((iteration - 1) * rollout_size, iteration * rollout_size)
    epochs = {position // num_problems for position in positions}
    orders = {epoch: np.random.default_rng([seed, epoch]).permutation(num_problems) for epoch in epochs}
    return [int(orders[position // num_problems][position % num_problems]) for position in positions]


# ---- rows of episodes.jsonl ----------------------------------------------------------------------------------------


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
