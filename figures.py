"""The figures of evaluations, from the rows of their episodes.jsonl: statistics, tables, two evaluations compared.

With r_ij the verdict on sample j of problem i, accuracy is mean_i p_i, p_i = mean_j r_ij; its standard error
std(p_i) / sqrt(n) and its interval (the middle 95 % of means of p resampled with replacement) are over problems,
because samples of one problem are not independent.

    delta = accuracy_2 - accuracy_1 = fixed - broken  Not gated: right first attempts are refined, and can be broken.
    accuracy_2_oracle_gated = accuracy_1 + fixed      Only wrong ones are, by someone who knows the answers.
    pass@k  unbiased (arXiv 2107.03374, eq. 1)        maj@k  the most frequent answer; of a tie, its right share

Feedback quality, where g' is another problem's feedback and 0 the fixed instruction in its place:

    utility  E[r|g] - E[r|0]     specificity  E[r|g] - E[r|g']     utilisation  mean log pi(y|x,z,g) - log pi(y|x,z,0)
    leakage  share of feedback that states the gold answer (by chance: the gold answer of another problem)
"""

import json
import math
import re
from pathlib import Path

import common

import numpy as np

TURNS = ("attempt", "feedback", "refinement")
QUALITY_COLUMNS = ("reward_without", "reward_shuffled", "logprob", "logprob_without", "leaked", "leaked_by_chance")


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


def summarise(rows: list[dict], args) -> dict:
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

    def answer(row: dict, text: str) -> str | None:
        return common.extract_code(text) if row["code"] else common.extract_answer(text, args.strict_answers)

    for turn, name in turns.items():
        verdicts = by_problem(rows, rewards[turn])
        ks = sorted({2**i for i in range(k.bit_length())} | {k})
        right = [int(sum(samples)) for samples in verdicts.values()]
        figures[f"pass_at_k_{turn}"] = {str(j): float(np.mean([common.pass_at_k(k, c, j) for c in right])) for j in ks}
        found = [answer(row, row[name]) for row in rows]
        voters = [i for i, row in enumerate(rows) if not row["code"]]  # programs do not vote
        pairs = by_problem([rows[i] for i in voters], [(found[i], rewards[turn][i]) for i in voters]).values()
        figures[f"majority_{turn}"] = common.mean([majority(*zip(*pair)) for pair in pairs])
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
            members = [row for row in rows if row[part] == value]
            group = {"problems": len(by_problem(members, members))}
            for turn in turns:
                mean, error, _ = mean_and_error(members, [row[f"reward_{turn}"] for row in members])
                group |= {f"accuracy_{turn}": mean, f"accuracy_{turn}_standard_error": error}
            figures[f"by_{part}"][str(value)] = group
    return figures


# ---- tables --------------------------------------------------------------------------------------------------------


def table(title: str, header: list[str], rows: list[list]) -> str:
    """A table that reads well in a terminal and as Markdown. None becomes an empty cell."""
    cells = [
        ["" if c is None else f"{c:.3f}" if isinstance(c, float) else re.sub(r"\s+|\|", " ", str(c)) for c in row]
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
    heard = ["own" if r["feedback"] == f"{r['solver']}/feedback" else r["feedback"] or "none" for r in results]
    names = [[r["solver"], feedback, r["dataset"]] for r, feedback in zip(results, heard)]
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
    folder, number = (name, "") if "#" not in name or Path(name).is_dir() else name.rsplit("#", 1)
    try:
        saved = json.loads((Path(folder) / "eval.json").read_text(encoding="utf-8"))
        rows = common.read_rows(Path(folder) / "episodes.jsonl")
        solvers = list(dict.fromkeys(result["solver"] for result in saved["results"]))
        flags, written = saved["args"], sum(result["problems"] * result["samples"] for result in saved["results"])
        if not len(rows) == written > 0 or not all({"dataset", "question", "reward_1"} <= row.keys() for row in rows):
            raise ValueError(f"episodes.jsonl is not whole, {len(rows)} rows of {written}")
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
        shown = " (they are told by their prompts, and --tests-in-prompt differs)"
        differs = flags_a.get("tests_in_prompt") != flags_b.get("tests_in_prompt")
        raise common.InputError(f"--compare: {' and '.join(names)} have no problem in common{shown * differs}")
    print(f"A: {names[0]}, {solver_a}\nB: {names[1]}, {solver_b}")
    other = [key for key in flags_a if flags_a[key] != flags_b.get(key) and key not in NOT_COMPARED]
    if other:
        print("other flags: " + ", ".join(f"{key} {flags_a[key]} against {flags_b.get(key)}" for key in other))
    header = ["data set", "attempt", "problems", "A", "B", "A - B", "95 % interval", "A wins", "B wins", "ties"]
    print(table("Accuracy on the problems that both have", header, lines))
