"""benchmarks/compare.py: its statistics by hand, and docs/evidence.md beside the figures it was written from."""

import json
import shlex
import time
from pathlib import Path

import numpy as np
import pytest
from test_project import load

import common
import mlmt_rl

REPO = Path(__file__).resolve().parents[1]
compare = load(REPO / "benchmarks" / "compare.py")


def test_statistics_of_five_seeds():
    """The middle three count; the interval holds their mean, is no wider than the values, and one value has none."""
    values = [0.1, 0.5, 0.9, 0.4, 0.6]
    assert compare.interquartile_mean(np.array(values)) == pytest.approx(0.5)
    low, high = compare.interval(values)
    assert 0.1 <= low < 0.5 < high <= 0.9
    assert compare.interval([0.3] * 5) == pytest.approx([0.3, 0.3])
    assert compare.interquartile_mean(np.array([[0.0, 1.0], [1.0, 1.0]])).tolist() == [0.5, 1.0]


def test_one_seed_has_the_error_of_its_problems():
    row = {"flags": "f", "seed": 1, "accuracy_2": {"2": 0.5}, "error_2": {"2": 0.03}}
    assert compare.summary([row], "f", "accuracy_2", "2") == (0.5, pytest.approx([0.44, 0.56]))
    more = [row | {"accuracy_2": {"2": value}} for value in (0.4, 0.6)]
    assert compare.summary(more, "f", "accuracy_2", "2")[0] == pytest.approx(0.5)


def test_the_page_says_what_the_runs_said():
    """Red if a table of docs/evidence.md is not that of benchmarks/compare.json, or the figure names other rows."""
    results = json.loads(compare.PUBLISHED.read_text())
    page = compare.PAGE.read_text(encoding="utf-8")
    assert compare.with_tables(page, results) == page
    figure = compare.FIGURE.read_text(encoding="utf-8")
    assert all(label in figure for experiment in compare.EXPERIMENTS.values() for label in experiment)
    assert all(row["iterations"] == 40 for row in results)


def test_a_run_that_fails_ends_the_rest(tmp_path, monkeypatch):
    """Red if it goes on for hours before it says so."""
    started = []

    def fails(job, args):
        started.append(job)
        time.sleep(0.05)
        raise SystemExit("error: a run failed")

    monkeypatch.setattr(compare, "run", fails)
    with pytest.raises(SystemExit, match="a run failed"):
        compare.main(compare.Args(folder=tmp_path, seeds=tuple(range(20)), workers=1))
    assert len(started) < 20  # of 160
    with pytest.raises(SystemExit, match="leave out one of"):
        compare.main(compare.Args(folder=tmp_path, quick=True, publish=True))


def test_every_run_can_be_started(monkeypatch):
    for experiment in compare.EXPERIMENTS.values():
        for flags, ceiling in experiment.values():
            monkeypatch.setattr("sys.argv", ["mlmt_rl.py", *shlex.split(flags)])
            args = common.parse(mlmt_rl.Args, "")
            common.check_args(args)
            assert 0.25 <= ceiling <= 1
