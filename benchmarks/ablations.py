"""What breaks without it? Each method with one detail changed at a time; the tables of docs/methods/.

    python benchmarks/ablations.py --publish                  198 runs, some two hours on two cores

A detail is changed by flags, or by an edit of the script in a copy of the repository. Every run is as long as the
script's default and on its default problems. What is done is not done again. --publish puts the figures into
benchmarks/ablations.json and the tables between the marks of the pages, in place of those of the same scripts.
"""

import json
import os
import re
import shutil
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import matplotlib
import numpy as np
import tyro

matplotlib.use("Agg")
import matplotlib.pyplot as plt  # noqa: E402

ROOT = Path(__file__).resolve().parents[1]
PAGES, PUBLISHED = ROOT / "docs/methods", ROOT / "benchmarks/ablations.json"
FIGURE = PAGES / "mlmt_rl.svg"

FROZEN = "--feedback-every 0 --feedback-control"
FOUR_STEPS = "--num-minibatches 2 --update-epochs 2"
OTHER_ROWS = (
    "torch.tensor(rewards, device=solver.device)\n",
    "torch.tensor(rewards, device=solver.device).roll(1, 1)\n",
)
STATE_AFTER = (
    "hidden[(t >= 0) & (t < mask.sum(1, keepdim=True))]",
    "hidden[(t >= 1) & (t < 1 + mask.sum(1, keepdim=True))]",
    "",
)
NO_END = (
    '{"response_mask": response_mask.bool(),',
    '{"response_mask": response_mask.bool() & ~torch.isin(response_ids, end_ids),',
    "",
)
# script: {what is changed: flags, or an edit (a text of the script, what takes its place) with flags}
ABLATIONS: dict[str, dict[str, str | tuple[str, str, str]]] = {
    "mlmt_rl.py": {
        "as it is": "",
        "no baselines": (
            "values = rollout_values(feedback, value_head, turn_g, args)",
            "values = 0 * rollout_values(feedback, value_head, turn_g, args)",
            "",
        ),
        "one baseline for both attempts": "--shared-baseline",
        "each value trusts the next one (λ = 0)": "--gae-lambda 0",
        "the value loss kept out of the trunk": "--stop-value-gradients",
        "feedback model not trained": "--feedback-every 0",
        "feedback model trained every fifth time": "--feedback-every 5",
        "feedback on another problem": f"{FROZEN} shuffled",
        "a fixed sentence for feedback": f"{FROZEN} fixed",
        "verdicts on another problem": (*OTHER_ROWS, ""),
        "each token at the state after it": STATE_AFTER,
        "end tokens not trained": NO_END,
        "no KL": "--kl-coef 0 --guidance-kl-coef 0",
        "both models answer for both KLs": "--joint-kl",
        "bilevel term, λ = 0.1, R* of 4 samples": "--value-shaping 0.1",
        "bilevel term, λ = 1, R* of 4 samples": "--value-shaping 1",
        "bilevel term, λ = 1, R* of 1 sample": "--value-shaping 1 --star-samples 1",
    },
    "score.py": {
        "as it is": "",
        "no Stage I": "--stage1-iterations 0",
        "no bonus (α = 0)": "--alpha 0",
        "the batch's mean as baseline": "--baseline batch",
        "turn 1 earns what turn 2 does (γ = 1)": "--gamma 1",
        "the same, no bonus": "--gamma 1 --alpha 0",
        "no reward for turn 1": "--trained-turns second",
        "no reward for turn 2": "--trained-turns first --stage1-iterations 0",
        "no KL": "--kl-coef 0 --beta2 0",
        "verdicts on another problem": (*OTHER_ROWS, ""),
    },
    "rl_guided_score.py": {
        "as it is": "",
        "guidance model not trained": "--no-train-guidance-model",
        "no Stage I": "--stage1-iterations 0",
        "no bonus (α = 0)": "--alpha 0",
    },
    "grpo.py": {
        "as it is": "",
        "no baseline": (
            "    centred = centred - centred.mean(1, keepdim=True)\n",
            "    centred = groups\n",
            "--advantage-norm none",
        ),
        "not divided by the group's deviation": "--advantage-norm none",
        "pairs for groups of 8": "--groups-per-batch 32 --group-size 2",
        "credit for another problem's responses": ("centred.flatten()", "centred.flatten().roll(group_size)", ""),
        "each token at the state after it": STATE_AFTER,
        "end tokens not trained": NO_END,
        "sampled at temperature .5": "--temperature 0.5",
        "sampled at temperature .5, scored at 1": ("float() / args.temperature)", "float())", "--temperature 0.5"),
        "no KL": "--kl-coef 0",
        "KL in the reward": "--kl-estimator k1_reward --kl-coef 0.01",
        "no reward for the form": "--format-coef 0",
        "a prompt that the model does not know": "--prompt-template concise",
        "each token weighs as much as another": "--loss-reduction token",
        "Dr.GRPO": "--loss-reduction constant --advantage-norm none --kl-coef 0",
        "DAPO": "--loss-reduction token --clip-high 0.28 --kl-coef 0 --dynamic-sampling 4",
        "four steps a rollout": FOUR_STEPS,
        "four steps a rollout, not clipped": f"{FOUR_STEPS} --loss-fn importance_sampling",
        "four steps a rollout, CISPO": f"{FOUR_STEPS} --loss-fn cispo --loss-reduction token "
        "--clip-low 1 --clip-high 4 --kl-coef 0",
    },
    "expert_iteration.py": {
        "as it is": "",
        "wrong responses kept too": ('keep = episodes["rewards_1"] == 1', 'keep = episodes["rewards_1"] >= 0', ""),
        "each token weighs as much as another": "--loss-reduction token",
        "two passes over what is kept": "--update-epochs 2",
    },
    "archer.py": {
        "as it is": "",
        "one critic for the smaller of two": (
            "return q.min(1).values - v.min(1).values",
            "return q[:, 0] - v[:, 0]",
            "",
        ),
        "no V (A = Q)": ("return q.min(1).values - v.min(1).values", "return q.min(1).values", ""),
        "no head start for the critic": "--warmup-iterations 0",
        "problem and response read apart": "--critic-input separate",
    },
    "intro.py": {
        "as it is": "",
        "each token at the state after it": ("[(t >= 0) & (t < turn", "[(t >= 1) & (t < 1 + turn", ""),
        "gradient through w": "--no-stop-weight-gradients",
        "wrong rationales too": "--no-only-correct",
        "a teacher that is shown no answer": ("args.answer_template, template)", '" ", template)', ""),
        "the whole vocabulary for 5 candidates": "--estimator exact",
        "the same at a third of the rate": "--estimator exact --learning-rate 3e-5",
    },
}


@dataclass
class Args:
    folder: Path = Path("ablation_runs")
    """where the runs go"""
    only: tuple[str, ...] = tuple(ABLATIONS)
    """scripts to run"""
    seeds: tuple[int, ...] = (1, 2, 3)
    """seeds of each run"""
    workers: int = 2
    """runs side by side, one thread each"""
    publish: bool = False
    """put figures and tables into the repository"""


def parts(entry: str | tuple[str, str, str]) -> tuple[str, str, str]:
    """Old text, new text (both empty without an edit), flags."""
    return ("", "", entry) if isinstance(entry, str) else entry


def folder_name(job: tuple[str, str, int]) -> str:
    return re.sub("[^a-z0-9]+", "_", " ".join(map(str, job)).lower())


def run(job: tuple[str, str, int], args: Args) -> dict:
    """Trains one run, where that has not been done; its figures."""
    script, detail, seed = job
    old, new, flags = parts(ABLATIONS[script][detail])
    place = args.folder / folder_name(job)
    done = place.with_name(place.name + ".json")
    if done.exists():
        return json.loads(done.read_text())
    root = ROOT
    if old:
        root = place.with_name(place.name + "_code")
        unneeded = shutil.ignore_patterns(".*", "runs", "evals", "*_runs", "__pycache__", "tests", args.folder.name)
        shutil.copytree(ROOT, root, ignore=unneeded, dirs_exist_ok=True)
        source = (ROOT / script).read_text(encoding="utf-8")
        (root / script).write_text(source.replace(old, new), encoding="utf-8")
    command = [sys.executable, str(root.resolve() / script), *flags.split(), "--seed", str(seed), "--no-report"]
    command += ["--device", "cpu", "--run-dir", str(place), "--if-run-exists", "resume"]
    with place.with_name(place.name + ".log").open("a") as log:
        environment = os.environ | {"OMP_NUM_THREADS": "1"}
        ended = subprocess.run(command, stdout=log, stderr=log, env=environment)
    if ended.returncode:
        sys.exit(
            f"error: a run failed, its last lines are in {log.name}; mend it and start again, what is done is kept"
        )
    rows = [json.loads(line) for line in (place / "metrics.jsonl").read_text().splitlines()]
    result = {"script": script, "detail": detail, "edit": [old, new] if old else None, "flags": flags, "seed": seed}
    result["minutes"] = round(rows[-1]["charts/seconds"] / 60, 1)
    for turn in (1, 2):
        if f"eval/accuracy_{turn}" in rows[0]:
            result[f"start_{turn}"] = rows[0][f"eval/accuracy_{turn}"]
            result[f"accuracy_{turn}"] = rows[-1][f"eval/accuracy_{turn}"]
    last = "rollout/accuracy_2" if "accuracy_2" in result else "rollout/accuracy_1"
    result["through_training"] = float(np.mean([row[last] for row in rows[1:]]))
    kl = [row.get("losses/kl_solver") for row in rows[-10:]]
    result["kl"] = float(np.mean(kl)) if None not in kl else None
    done.write_text(json.dumps(result))
    return result


def number(value: float | None) -> str:
    return "-" if value is None else f"{value:.2f}".replace("0.", ".", 1) if abs(value) < 1 else f"{value:.2f}"


def cell(values: list[float | None]) -> str:
    """The mean over the seeds; of several seeds also the lowest and the highest."""
    if None in values:
        return "-"
    spread = f" ({number(min(values))} to {number(max(values))})" if len(values) > 1 else ""
    return number(float(np.mean(values))) + spread


def table(script: str, results: list[dict]) -> str:
    """The table of one script's page."""
    found = [row for row in results if row["script"] == script]
    headings = {"accuracy_1": "attempt 1", "accuracy_2": "attempt 2"}
    headings |= {"through_training": "mean over training", "kl": "KL"}
    names = [name for name in headings if any(row.get(name) is not None for row in found)]
    lines = [f"| changed | by | {' | '.join(headings[name] for name in names)} |", "|---" * (len(names) + 2) + "|"]
    start = [number(found[0].get(name.replace("accuracy", "start"))) if "acc" in name else "" for name in names]
    lines.append(f"| *before training* | | {' | '.join(start)} |")
    for detail in dict.fromkeys(row["detail"] for row in found):
        rows = [row for row in found if row["detail"] == detail]
        how = ["an edit"] * bool(rows[0]["edit"]) + [f"`{rows[0]['flags']}`"] * bool(rows[0]["flags"])
        cells = [cell([row[name] for row in rows]) for name in names]
        lines.append(f"| {detail if how else f'*{detail}*'} | {', '.join(how)} | {' | '.join(cells)} |")
    return "\n".join(lines)


def with_table(page: str, script: str, results: list[dict]) -> str:
    """The page, with a new table between its marks."""
    marks = f"<!-- ablations: {script} -->", "<!-- end of ablations -->"
    before, rest = page.split(marks[0])
    return f"{before}{marks[0]}\n{table(script, results)}\n{marks[1]}{rest.split(marks[1])[1]}"


def draw(results: list[dict], path: Path) -> None:
    """The changes of mlmt_rl.py: how much is right in the mean over training, beside the script as it is."""
    found: dict[str, list[float]] = {}
    for row in results:
        if row["script"] == "mlmt_rl.py":
            found.setdefault(row["detail"], []).append(row["through_training"])
    means = {detail: float(np.mean(values)) for detail, values in found.items()}
    plt.rcParams.update({"svg.hashsalt": "ablations", "svg.fonttype": "none", "font.size": 9})
    drawing, ax = plt.subplots(figsize=(7, 3.6), layout="constrained")
    ax.barh(range(len(means)), list(means.values())[::-1], color="#4878a8", height=0.6)
    ax.hlines(range(len(means)), *zip(*[(min(found[name]), max(found[name])) for name in list(means)[::-1]]), "black")
    ax.axvline(means["as it is"], color="#c04040", linewidth=1)
    ax.set(yticks=range(len(means)), yticklabels=list(means)[::-1], xlim=(0, 1))
    ax.set_xlabel("attempt 2 right, mean over training (red: as it is; black: the seeds)")
    ax.spines[["top", "right"]].set_visible(False)
    drawing.savefig(path, metadata={"Date": None})
    plt.close(drawing)


def main(args: Args) -> None:
    unknown = [script for script in args.only if script not in ABLATIONS]
    if unknown or not args.only or not args.seeds or args.workers < 1:
        sys.exit(f"error: --only takes some of {' '.join(ABLATIONS)}, --seeds and --workers one or more")
    if args.folder.exists() and not args.folder.is_dir():
        sys.exit(f"error: --folder {args.folder} is no folder")
    args.folder.mkdir(parents=True, exist_ok=True)
    jobs = [(script, detail, seed) for script in args.only for detail in ABLATIONS[script] for seed in args.seeds]
    results = []
    with ThreadPoolExecutor(args.workers) as pool:
        for job, result in zip(jobs, pool.map(lambda job: run(job, args), jobs)):
            results.append(result)
            print(
                f"{len(results)} of {len(jobs)}: {job[0]}, {job[1]}: {result['through_training']:.2f}",
                flush=True,
            )
    for script in args.only:
        print(f"\n{script}\n\n{table(script, results)}")
    if args.publish:
        kept = json.loads(PUBLISHED.read_text()) if PUBLISHED.exists() else []
        results += [row for row in kept if row["script"] not in args.only]
        results.sort(key=lambda row: list(ABLATIONS).index(row["script"]))
        PUBLISHED.write_text(json.dumps(results, indent=1) + "\n", encoding="utf-8")
        draw(results, FIGURE)
        for script in args.only:
            page = PAGES / f"{Path(script).stem}.md"
            page.write_text(with_table(page.read_text(encoding="utf-8"), script, results), encoding="utf-8")


if __name__ == "__main__":
    main(tyro.cli(Args, description=__doc__))
