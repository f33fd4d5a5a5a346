"""benchmarks/ablations.py: each change can be made, and the pages of docs/methods/ say what came out."""

import importlib
import json
import re
import shlex
import subprocess
from pathlib import Path

import numpy as np
import pytest
from test_project import load

import common

REPO = Path(__file__).resolve().parents[1]
ablations, compare = (load(REPO / "benchmarks" / name) for name in ("ablations.py", "compare.py"))


@pytest.mark.parametrize("script", ablations.ABLATIONS)
def test_every_change_can_be_made(script, monkeypatch):
    """Red if a text that is to be edited has moved, or if a flag is gone."""
    source = (REPO / script).read_text(encoding="utf-8")
    entries = [ablations.parts(entry) for entry in ablations.ABLATIONS[script].values()]
    assert entries[0] == ("", "", "") and len(set(entries)) == len(entries)
    assert len({ablations.folder_name((script, detail, 1)) for detail in ablations.ABLATIONS[script]}) == len(entries)
    for old, new, flags in entries:
        assert not old or (source.count(old) == 1 and new != old), old
        monkeypatch.setattr("sys.argv", [script, *shlex.split(flags)])
        common.check_args(common.parse(importlib.import_module(Path(script).stem).Args, ""))


@pytest.mark.parametrize("script", ablations.ABLATIONS)
def test_the_page_says_what_the_runs_said(script):
    """Red if the table of a page is not that of benchmarks/ablations.json, or if a change was not run."""
    results = json.loads(ablations.PUBLISHED.read_text(encoding="utf-8"))
    page = (ablations.PAGES / f"{Path(script).stem}.md").read_text(encoding="utf-8")
    assert ablations.with_table(page, script, results) == page
    found: dict[str, list[dict]] = {}
    for row in results:
        if row["script"] == script:
            found.setdefault(row["detail"], []).append(row)
    assert found.keys() == ablations.ABLATIONS[script].keys()
    seeds = [row["seed"] for row in found["as it is"]]
    for detail, entry in ablations.ABLATIONS[script].items():
        old, new, flags = ablations.parts(entry)
        assert all((row["edit"], row["flags"]) == ([old, new] if old else None, flags) for row in found[detail])
        assert [row["seed"] for row in found[detail]] == seeds
    figure = ablations.FIGURE.read_text(encoding="utf-8")
    assert script != "mlmt_rl.py" or all(detail in figure for detail in found)
    readme = (REPO / "README.md").read_text(encoding="utf-8")
    row = next(line for line in readme.splitlines() if line.startswith(f"| `{script}`"))
    turn = 2 if "accuracy_2" in found["as it is"][0] else 1
    means = [np.mean([run[f"{name}_{turn}"] for run in found["as it is"]]) for name in ("start", "accuracy")]
    start, end = map(ablations.number, means)
    assert f"{start} → {end}" in row


# Figures of the points that are no cell of the table above them: read in the metrics or the episodes of its runs,
# the difference of two cells, or in benchmarks/RESULTS.md.
READ = {
    "archer": {".67", ".76", ".88", ".98", ".17"},
    "intro": {".91", ".50", ".10", ".99", ".93", ".82", ".07", ".26", ".18"},
}
READ |= {"rl_guided_score": {".21", ".22", ".26", ".36"}, "score": {".48"}, "mlmt_rl": {"9.45", ".25", ".04"}}


@pytest.mark.parametrize("script", ablations.ABLATIONS)
def test_the_points_say_what_the_table_says(script):
    """Red if a run is done again and the sentences below its table keep a figure that the table has lost."""
    name = Path(script).stem
    page = (ablations.PAGES / f"{name}.md").read_text(encoding="utf-8")
    table, points = page.split("## Details that matter")[1].split("## Results here")[0].split("\n- **", 1)
    cells = {*re.findall(r"-?\d*\.\d+", table[table.index("| changed") :])}
    figures = {*re.findall(r"(?<![\d\w.])-?\.\d{2,3}(?!\d)|(?<![\d\w.])\d+\.\d{2}(?!\d)", points)}
    assert figures - cells == READ.get(name, set())


def test_troubleshooting_says_what_the_runs_said():
    """Red if a run is done again and docs/troubleshooting.md keeps a figure of the old one."""
    changed: dict[tuple, dict] = {}
    for row in json.loads(ablations.PUBLISHED.read_text()):
        figures = changed.setdefault((row["script"], row["detail"]), {})
        for name in row.keys() & {"accuracy_1", "accuracy_2", "through_training"}:
            figures.setdefault(name, []).append(row[name])
    changed = {key: {name: np.mean(values) for name, values in row.items()} for key, row in changed.items()}
    compared = json.loads((REPO / "benchmarks/compare.json").read_text())
    grpo, steps = (changed["grpo.py", detail] for detail in ("as it is", "four steps a rollout"))
    shifted = changed["mlmt_rl.py", "each token at the state after it"]
    score, exact = changed["score.py", "as it is"], changed["intro.py", "the whole vocabulary for 5 candidates"]
    slipped = changed["score.py", "turn 1 earns what turn 2 does (γ = 1)"]
    runs = compared["methods"]
    fooled = compare.best_command(runs, "ArCHer", "arithmetic")
    start = compare.mean_curve(runs, fooled)[0, 3]
    ends = [row["accuracy_1"]["all"] for row in runs if row["command"] == fooled]
    lagging = compare.best_command(runs, "MLMT-RL", "functions")
    told = [row for row in compared["told"] if row["command"].endswith(" all")]
    second = np.mean([row["accuracy_2"]["all"] for row in told])
    misled = second - np.mean([row["feedback_quality"]["specificity"] for row in told])
    lags = [compare.summary(runs, lagging, "all", turn=turn)[0] for turn in (1, 2)]
    sentences = [
        ("GRPO stays at {}.", [changed["grpo.py", "a prompt that the model does not know"]["accuracy_1"]]),
        ("suits one: {} → {} (`grpo.py --num", [grpo["accuracy_1"], steps["accuracy_1"]]),
        ("`grpo.py` ends at {} instead of {}.", [steps["accuracy_1"], grpo["accuracy_1"]]),
        ("the model learns to slip: turn 1 ends at {} instead of {}.", [slipped["accuracy_1"], score["accuracy_1"]]),
        ("so turn 1 can lag ({} beside {} on", lags),
        ("and at {} after 40:", [exact["accuracy_1"]]),
        ("({} on average) and ends at {}.", [shifted["through_training"], shifted["accuracy_2"]]),
        ("go from {} to anywhere between {} and {}, and", [start, min(ends), max(ends)]),
        ("falls from {} to {}", [second, misled]),
    ]
    page = " ".join((REPO / "docs/troubleshooting.md").read_text(encoding="utf-8").split())
    for sentence, values in sentences:
        assert sentence.format(*map(ablations.number, values)) in page, (sentence, values)


def test_a_table_by_hand():
    """Means over the seeds with their range; a script of one turn has one attempt, one without a reference no KL."""
    row = {"script": "grpo.py", "edit": None, "flags": "", "start_1": 0.4, "kl": None}
    results = [row | {"detail": "as it is", "accuracy_1": value, "through_training": 0.5} for value in (0.8, 0.9)]
    results += [
        row | {"detail": "no KL", "flags": "--kl-coef 0", "accuracy_1": 1.0, "through_training": 0.25, "kl": 2.0}
    ]
    results += [row | {"detail": "other", "edit": ["a", "b"], "accuracy_1": 0.0, "through_training": 0.0}]
    assert ablations.table("grpo.py", [{"script": "intro.py", "detail": "x"}, *results]).splitlines() == [
        "| changed | by | attempt 1 | mean over training | KL |",
        "|---|---|---|---|---|",
        "| *before training* | | .40 |  |  |",
        "| *as it is* |  | .85 (.80 to .90) | .50 (.50 to .50) | - |",
        "| no KL | `--kl-coef 0` | 1.00 | .25 | 2.00 |",
        "| other | an edit | .00 | .00 | - |",
    ]


def test_an_edit_is_run_from_a_copy(tmp_path, monkeypatch):
    """Red if the change does not reach what is run, or reaches the repository's own script, or if it runs twice."""
    commands, source = [], (REPO / "mlmt_rl.py").read_text(encoding="utf-8")

    def run(command, **_):
        commands.append(command)
        (tmp_path / "run").mkdir(exist_ok=True)
        place = Path(command[command.index("--run-dir") + 1])
        place.mkdir()
        rows = [{"eval/accuracy_1": 0.4, "eval/accuracy_2": 0.5}]
        rows += [
            {"rollout/accuracy_1": 0, "rollout/accuracy_2": value, "losses/kl_solver": 3.0} for value in (0.5, 0.7)
        ]
        rows[-1] |= {"charts/seconds": 90.0, "eval/accuracy_1": 0.6, "eval/accuracy_2": 0.8}
        (place / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
        return subprocess.CompletedProcess(command, 0)

    monkeypatch.setattr(subprocess, "run", run)
    job = "mlmt_rl.py", "no baselines", 3
    first, again = (ablations.run(job, ablations.Args(folder=tmp_path)) for _ in range(2))
    assert first == again and len(commands) == 1
    changed = Path(commands[0][1]).read_text(encoding="utf-8")
    old, new, _ = ablations.parts(ablations.ABLATIONS["mlmt_rl.py"]["no baselines"])
    assert changed == source.replace(old, new) != source == (REPO / "mlmt_rl.py").read_text(encoding="utf-8")
    assert first["accuracy_2"] == 0.8 and first["start_1"] == 0.4 and first["minutes"] == 1.5
    assert first["through_training"] == pytest.approx(0.6) and first["kl"] is None  # the row of iteration 0 has none
