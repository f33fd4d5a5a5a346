"""report.py on run folders made by hand: curves, groups, figures, and the page as a browser shows it."""

import base64
import json
import re
import shutil
import subprocess
from pathlib import Path

import numpy as np
import pytest
from conftest import small_args, write_jsonl
from test_bad_input import refused  # noqa: F401, a fixture

import common
import mlmt_rl
import report
import runs
from templates import charts

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
needs_chromium = pytest.mark.skipif(CHROMIUM is None, reason="Chromium is not installed")


def metrics(iteration: int, **values) -> dict:
    row = {"iteration": iteration, "rollout/reward": None, "eval/accuracy_1": None, "eval/accuracy_2": None}
    row |= {"charts/episodes": 64 * iteration, "charts/seconds": 2.0 * iteration}
    return row | {name.replace("__", "/"): value for name, value in values.items()}


def episode(iteration: int, problem: str, rewards: tuple, feedback: str = "all ok", **more) -> dict:
    row = {"iteration": iteration, "phase": "eval", "id": problem, "question": f"question of {problem}", "answer": "5"}
    row |= {"attempt": f"attempt {iteration}", "reward_1": float(rewards[0]), "truncated": []}
    if len(rewards) == 2:
        row |= {"feedback": feedback, "refinement": f"refinement {iteration}", "reward_2": float(rewards[1])}
    return row | more


def make_run(folder: Path, rows: list[dict], episodes=(), **flags) -> str:
    folder.mkdir(parents=True)
    flags = {"exp_name": "mlmt_rl", "seed": 1, "iterations": 20, "alpha": 0.0, "run_dir": str(folder)} | flags
    (folder / "config.json").write_text(json.dumps({"args": flags}), encoding="utf-8")
    write_jsonl(folder / "metrics.jsonl", rows)
    write_jsonl(folder / "episodes.jsonl", episodes)
    return str(folder)


def draw(tmp_path, *runs: str, **flags) -> str:
    """The page of some runs."""
    report.main(report.Args(runs=runs, output=str(tmp_path / "page.html"), **flags))
    return (tmp_path / "page.html").read_text(encoding="utf-8")


def browser_data(page: str) -> dict:
    return json.loads(re.search(r'<script type="application/json" id="data">(.*?)</script>', page, re.DOTALL)[1])


# ---- curves, groups and figures ------------------------------------------------------------------------------------


def test_curve_is_the_mean_and_range_of_the_seeds(tmp_path):
    """By hand; rows without the value, or with NaN, are left out; over seconds, x is the seeds' mean time."""
    values = {"a": [0.2, None, 0.6], "b": [0.4, 0.5, float("nan")]}
    rows = {
        name: [metrics(i, rollout__reward=value, charts__seconds=i * scale) for i, value in enumerate(series)]
        for (name, series), scale in zip(values.items(), (2.0, 4.0))
    }
    runs = [report.load_run(Path(make_run(tmp_path / name, rows[name]))) for name in rows]
    expected = np.array([[0, 0.3, 0.2, 0.4], [64, 0.5, 0.5, 0.5], [128, 0.6, 0.6, 0.6]]).T
    assert np.allclose(charts.curve(runs, "rollout/reward", "episodes", 300), expected)
    over_seconds = charts.curve(runs, "rollout/reward", "seconds", 300)
    assert over_seconds[0].tolist() == [0.0, 4.0, 4.0] and np.allclose(over_seconds[1:], expected[1:])
    assert charts.curve(runs, "eval/accuracy_1", "episodes", 300).shape == (4, 0)


def test_long_curves_are_averaged(tmp_path):
    rows = [metrics(i, rollout__reward=float(i)) for i in range(1000)]
    run = report.load_run(Path(make_run(tmp_path / "run", rows)))
    x, mean, _, _ = charts.curve([run], "rollout/reward", "episodes", 10)
    assert mean.tolist() == [49.5 + 100 * part for part in range(10)] and np.allclose(x, 64 * mean)


def test_runs_that_differ_in_the_seed_alone_share_a_colour(tmp_path):
    """A label names what the runs of one method differ in; flags of other methods do not stand in it."""
    flags = [{"seed": 1}, {"seed": 2, "keep_checkpoints": 0}, {"alpha": 10.0}, {"exp_name": "score", "beta2": 0.1}]
    runs = [report.load_run(Path(make_run(tmp_path / str(number), [], **more))) for number, more in enumerate(flags)]
    groups = report.group_runs(runs)
    assert [group["label"] for group in groups] == ["mlmt_rl, alpha 0.0", "mlmt_rl, alpha 10.0", "score"]
    assert [len(group["runs"]) for group in groups] == [2, 1, 1]
    assert len({(group["colour"], group["style"]) for group in groups}) == 3
    assert report.differing_flags(runs) == ["exp_name", "alpha"]
    page = draw(tmp_path, *(str(tmp_path / number) for number in "02"))
    table = page.split('id="flags"')[1].split("</table>")[0]
    assert re.findall("<th>(.*?)</th>", table) == ["", "alpha"], "only what differs"
    assert re.findall("<td>([0-9.]+)</td>", table) == ["0.0", "10.0"] and table.count("chip") == 2


def test_fifty_methods_have_fifty_lines(tmp_path):
    """More groups than colours: the line styles tell them apart, as far as they go; there is room for episodes."""
    names = [f"losses__of_{n}" for n in range(10)]
    rows = [metrics(i, **{name: 0.1 * i + 0.0123456789 for name in names}) for i in range(100)]
    episodes = [episode(i, f"problem {n}", (0, 1), "words " * 60) for i in range(10) for n in range(10)]
    runs = [make_run(tmp_path / str(n), rows, episodes, exp_name=f"method {n}") for n in range(50)]
    groups = report.group_runs([report.load_run(Path(run)) for run in runs])
    assert len({(group["colour"], group["style"]) for group in groups}) == 32
    page = draw(tmp_path, *runs)
    assert len(page.encode()) <= 5_000_000 and all(f"method {n}" in page for n in range(50))
    assert len(browser_data(page)["episodes"]) == 5000


def test_final_figures(tmp_path):
    rows = [metrics(0, eval__accuracy_1=0.4, eval__accuracy_2=0.5), metrics(1)]
    rows += [metrics(2, eval__accuracy_1=0.7, eval__accuracy_2=0.9, eval__delta=0.2), metrics(3)]
    page = draw(tmp_path, make_run(tmp_path / "run", rows, seed=7))
    table = re.search(r'<table id="figures">.*?</table>', page, re.DOTALL)[0]
    cells = [re.sub("<.*?>", "", cell).strip() for cell in re.findall(r"<td.*?</td>", table, re.DOTALL)]
    assert cells.pop() == str(tmp_path / "run")
    assert cells == ["mlmt_rl", "7", "3 of 20", "192", "6", "0.400 → 0.700", "0.500 → 0.900"]


# ---- the page ------------------------------------------------------------------------------------------------------

HOSTILE = "</script><script>document.title = 'broken into'</script><img src=x onerror=alert(1)> & \u2028 <!--"


def test_two_scripts_of_one_name_are_two_methods(tmp_path):
    """Red if runs of two scripts, or a run that is given twice, are called seeds of one."""
    folders = [make_run(tmp_path / str(seed), [metrics(0)], exp_name="foo", seed=seed) for seed in (1, 2, 3)]
    again = make_run(tmp_path / "again", [metrics(0)], exp_name="foo", seed=1)
    for folder, script in zip(folders, ("grpo.py", "grpo.py", "expert_iteration.py")):
        config = json.loads((Path(folder) / "config.json").read_text())
        (Path(folder) / "config.json").write_text(json.dumps(config | {"script": script}))
    page = draw(tmp_path, *folders)
    assert "foo (grpo.py)" in page and "foo (expert_iteration.py)" in page and "(2 seeds: mean and range)" in page
    (Path(again) / "config.json").write_text((Path(folders[0]) / "config.json").read_text())
    assert "(2 runs: mean and range)" in draw(tmp_path, folders[0], again)


def test_seeds_that_stand_at_different_iterations_say_so(tmp_path):
    values = {"eval__accuracy_1": 0.5, "eval__accuracy_2": 0.7, "eval__fixed": 0.3, "eval__broken": 0.1}
    folders = [make_run(tmp_path / str(n), [metrics(n, **values)], seed=n) for n in (2, 8)]
    (line,) = report.answers(report.group_runs([report.load_run(Path(folder)) for folder in folders]))
    assert line["label"] == "mlmt_rl, at iterations 2 to 8"


def test_whether_the_second_attempt_helps(tmp_path):
    """By hand: two seeds on the same 50 problems, fixed .3 and .2, broken .1 and 0; their mean is .25 - .05."""
    rows = [metrics(0, eval__accuracy_1=0.4, eval__accuracy_2=0.4, eval__fixed=0.0, eval__broken=0.0)]
    last = {"eval__accuracy_1": 0.5, "eval__accuracy_2": 0.7, "eval__fixed": 0.3, "eval__broken": 0.1}
    other = {"eval__accuracy_1": 0.5, "eval__accuracy_2": 0.7, "eval__fixed": 0.2, "eval__broken": 0.0}
    folders = [
        make_run(tmp_path / "a", [*rows, metrics(20, **last), metrics(21)], seed=1, dataset="gsm8k", policy_lm="m"),
        make_run(tmp_path / "b", [*rows, metrics(20, **other)], seed=2, dataset="gsm8k", policy_lm="m"),
        make_run(tmp_path / "one turn", [metrics(20, eval__accuracy_1=0.5)], exp_name="grpo", dataset="gsm8k"),
    ]
    groups = report.group_runs([report.load_run(Path(folder)) for folder in folders])
    (line,) = report.answers(groups)
    assert [value for value, _ in line["cells"]] == pytest.approx([0.5, 0.7, 0.2, 0.25, 0.05])
    assert line["n"] is None and {error for _, error in line["cells"]} == {None} and "unknown" in line["verdict"]
    config = {"problems": {"training": 9, "evaluation": 50}, "git_commit": "0123456789abcdef"}
    config["command"] = "/usr/bin/python3 mlmt_rl.py --dataset gsm8k --solve-prompt 'a b'"
    for group in groups:
        for run in group["runs"]:
            run["config"] |= config
    (line,) = report.answers(groups)
    spreads = (0.25, 0.21, 0.3 - 0.04, 0.1875, 0.0475)
    assert [error for _, error in line["cells"]] == pytest.approx([2 * (v / 50) ** 0.5 for v in spreads])
    assert line["n"] == 50 and line["verdict"] == "it mends more than it breaks"
    for run, (fixed, broken), verdict in (
        (groups[0]["runs"], (0.0, 0.3), "it breaks more than it mends"),
        (groups[0]["runs"], (0.1, 0.08), "no difference seen"),
    ):
        for each in run:
            each["rows"][1] |= {"eval/fixed": fixed, "eval/broken": broken}
        assert report.answers(groups)[0]["verdict"] == verdict
    about = report.about(groups[0])
    assert about == "gsm8k · m · commit 0123456789 · python mlmt_rl.py --dataset gsm8k --solve-prompt 'a b'"
    page = draw(tmp_path, *folders)
    assert "3 runs on gsm8k" in page and page.count("Does the second attempt help?") == 1
    assert "Does the second attempt help?" not in draw(tmp_path, folders[2])


def test_charts_say_what_they_count(tmp_path):
    """Units, a line at zero, the glossary's words on hover; one seed's accuracy with its standard error."""
    values = {"eval__accuracy_1": 0.5, "losses__kl_solver": -0.1, "rollout__response_length_1": 9.0}
    run = report.load_run(Path(make_run(tmp_path / "run", [metrics(i, **values) for i in (0, 10)])))
    groups = report.group_runs([run])

    def drawn(metric: str) -> str:
        return base64.b64decode(charts.chart(groups, metric, "episodes", 10).split(",")[1]).decode()

    plain = drawn("eval/accuracy_1")
    run["config"]["problems"] = {"evaluation": 25}
    assert len(drawn("eval/accuracy_1")) > len(plain) + 100  # a band
    for metric, words in (
        ("eval/accuracy_1", "share"),
        ("losses/kl_solver", "nats an episode"),
        ("rollout/response_length_1", "tokens"),
    ):
        assert words in drawn(metric), metric
    assert charts.MEANINGS["losses/entropy"].startswith("entropy in nats per token")
    page = draw(tmp_path, run["name"])
    assert f'title="losses/kl_solver: {charts.MEANINGS["losses/kl_solver"][:30]}' in page
    units = {name: charts.unit(name) for name in charts.MEANINGS}
    assert units["charts/tokens_per_second"] == "tokens a second" and units["losses/value"] == "loss"
    assert units["losses/grad_norm_value"] == "norm" and units["eval/delta"] == "share"
    assert units["losses/kl_teacher"] == "nats a token" and units["losses/explained_variance"] == "share"
    assert units["losses/weight"] == "weight" and units["losses/weight_clipped"] == "share"
    assert units["charts/verify_seconds"] == "seconds" and units["losses/policy_solver"] == "loss"


def test_texts_are_escaped_and_whole(tmp_path):
    """Red if a response can leave its place in the page, or does not come back as it was written."""
    rows = [metrics(0, eval__accuracy_1=0.4)]
    texts = {"attempt": HOSTILE, "question": HOSTILE, "feedback": HOSTILE, "refinement": HOSTILE, "answer": HOSTILE}
    run = make_run(tmp_path / "run", rows, [episode(0, HOSTILE, (0, 1), **texts)], exp_name=HOSTILE)
    page = draw(tmp_path, run)
    assert "<script>document" not in page and "<img src=x" not in page and page.count("</script>") == 2
    data = browser_data(page)
    assert data["problems"] == [[HOSTILE] * 3] and data["episodes"][0][4:7] == [HOSTILE] * 3


def test_the_page_needs_no_network(tmp_path):
    rows = [metrics(i, eval__accuracy_1=0.4, rollout__reward=0.1) for i in range(3)]
    page = draw(tmp_path, make_run(tmp_path / "run", rows, [episode(0, "a", (0,))]))
    assert not re.search(r"https?://|<link|@import|url\(", page)
    sources = re.findall(r'<img class="(\w+)" alt=".*?" src="(.*?)"', page)
    assert len(sources) == page.count("src=") == 4
    for axis, source in sources:  # each chart over its own axis
        svg = base64.b64decode(source.removeprefix("data:image/svg+xml;base64,")).decode()
        assert f">{axis}</text>" in svg


def test_ten_thousand_episodes_fit(tmp_path):
    """Whole problems are left out, the same ones in both runs; the page says so."""
    long = "a line where x < y & y > z\n" * 20  # escaped, it is longer
    for name in ("one", "two"):
        rows = [metrics(i, rollout__reward=0.5) for i in range(50)]
        episodes = [episode(i, f"problem {n}", (0, 1), long) for i in range(50) for n in range(100)]
        make_run(tmp_path / name, rows, episodes, exp_name=name)
    page = draw(tmp_path, str(tmp_path / "one"), str(tmp_path / "two"))
    assert 4_000_000 < len(page.encode()) <= 5_000_000
    data = browser_data(page)
    shown = len(data["episodes"])
    assert f"{shown:,} of 10,000 saved episodes" in page
    kept = [[row[:3] for row in data["episodes"] if row[0] == run] for run in (0, 1)]
    histories = [{(problem, iteration) for _, problem, iteration in rows} for rows in kept]
    problems = [{problem for problem, _ in history} for history in histories]
    assert len(problems[0] ^ problems[1]) <= 1 and len(histories[0]) == 50 * len(problems[0])
    assert "All 3 saved episodes" in draw(
        tmp_path, make_run(tmp_path / "small", [], [episode(i, "a", (1, 1)) for i in range(3)])
    )


def browse(tmp_path, page: str, script: str) -> str:
    """The document after Chromium has opened the page and run a script in it."""
    (tmp_path / "browsed.html").write_text(
        page.replace("</body>", f"<script>{script}</script></body>"), encoding="utf-8"
    )
    command = [CHROMIUM, "--headless", "--no-sandbox", "--disable-gpu", "--dump-dom", f"file://{tmp_path}/browsed.html"]
    return subprocess.run(command, capture_output=True, text=True, timeout=120).stdout


@needs_chromium
def test_filters_in_a_browser(tmp_path):
    """Every outcome's button shows its episodes and no others; a problem's history is one click away."""
    outcomes = {"fixed": (0, 1), "broken": (1, 0), "right-right": (1, 1), "wrong-wrong": (0, 0)}
    episodes = [
        episode(i, f"{name} problem", rewards, feedback=f"Feedback at {i}")
        for i in (0, 10)
        for name, rewards in outcomes.items()
    ]
    episodes.append(episode(10, "hostile", (0, 1), feedback=HOSTILE))
    page = draw(tmp_path, make_run(tmp_path / "run", [metrics(0, eval__accuracy_1=0.4)], episodes))
    script = """
        const seen = {}, all = (selector) => [...document.querySelectorAll(selector)];
        const texts = (selector) => all(selector).map((node) => node.textContent).filter(Boolean).sort();
        const names = () => texts(".card header .dim");
        for (const name of ["all", "fixed", "broken", "right-right", "wrong-wrong"]) {
          document.querySelector(`[data-outcome="${name}"]`).click();
          seen[name] = [document.querySelector(`[data-outcome="${name}"]`).textContent, names()];
        }
        document.querySelector('[data-outcome="fixed"]').click();
        byId("iteration").value = "10"; byId("iteration").onchange();
        seen.fixed_at_10 = names();
        seen.hostile = texts("pre");
        byId("iteration").value = ""; byId("iteration").onchange();
        byId("search").value = "FEEDBACK AT 0"; byId("search").oninput();
        seen.search = names();
        document.querySelector(".card button").click();
        seen.history = texts(".turns > div:nth-child(3) pre");
        document.querySelector('[data-axis="seconds"]').click();
        seen.axis = all("img").filter((image) => getComputedStyle(image).display !== "none").map((i) => i.className);
        document.body.replaceChildren(element("pre", JSON.stringify(seen)));
    """
    document = browse(tmp_path, page, script)
    shown = re.search(r"<pre>(.*)</pre>", document, re.DOTALL)[1]
    seen = json.loads(shown.replace("&lt;", "<").replace("&gt;", ">").replace("&amp;", "&"))
    assert seen["all"][0] == "all 9" and seen["fixed"] == ["fixed 3", ["fixed problem", "fixed problem", "hostile"]]
    for name in ("broken", "right-right", "wrong-wrong"):
        assert seen[name] == [f"{name} 2", [f"{name} problem"] * 2]
    assert seen["fixed_at_10"] == ["fixed problem", "hostile"] and HOSTILE in seen["hostile"]
    assert seen["search"] == ["fixed problem"] and seen["history"] == ["Feedback at 0", "Feedback at 10"]
    assert set(seen["axis"]) == {"seconds"} and "<title>mlmt_rl</title>" in document


# ---- folders that are no whole run ---------------------------------------------------------------------------------


def test_runs_that_are_not_whole_are_drawn(tmp_path):
    """One that has just started, and one whose last line is being written."""
    started = make_run(tmp_path / "started", [])
    writing = make_run(tmp_path / "writing", [metrics(0, eval__accuracy_1=0.4)], [episode(0, "a", (0, 1))], seed=2)
    for name in ("metrics.jsonl", "episodes.jsonl"):
        with (Path(writing) / name).open("a") as file:
            file.write('{"iteration": 1, "eval/accu')
    page = draw(tmp_path, started, writing)
    assert "0 of 20" in page and "All 1 saved episodes" in page


def test_other_folders_are_named_and_skipped(tmp_path, capsys):
    good = make_run(tmp_path / "good", [metrics(0)])
    damaged = make_run(tmp_path / "damaged", [metrics(0)])
    (Path(damaged) / "metrics.jsonl").write_text('{"iteration": 0}\nnot json\n')
    (tmp_path / "empty").mkdir()
    others = ["damaged", "empty", "none", "flags", "metric", "number", "command"]
    for name, row in (("flags", {}), ("metric", {"eval/accuracy_1": "high"}), ("number", {"iteration": "1"})):
        make_run(tmp_path / name, [metrics(0) | row])
    (tmp_path / "flags" / "config.json").write_text('{"args": []}')
    (Path(make_run(tmp_path / "command", [])) / "config.json").write_text('{"args": {}, "command": "python \'x"}')
    page = draw(tmp_path, good, *(str(tmp_path / name) for name in others))
    error = capsys.readouterr().err
    assert [re.search(r"skipped: \S*/(\w+)", line)[1] for line in error.splitlines()] == others
    assert "1 run" in page
    for size in (float("nan"), 0.0, float("inf")):
        with pytest.raises(common.InputError, match="--max-megabytes"):
            draw(tmp_path, good, max_megabytes=size)


def test_runs_of_one_folder_name_are_two(tmp_path):
    """Runs of two machines, say: red if the episodes of one are shown as the other's."""
    runs = [make_run(tmp_path / part / "run", [metrics(0)], [episode(0, "a", (0, 1))]) for part in ("one", "two")]
    data = browser_data(draw(tmp_path, *runs))
    assert data["runs"] == runs and sorted(row[0] for row in data["episodes"]) == [0, 1]


def test_patterns_are_expanded(tmp_path, capsys):
    """On Windows no shell does it."""
    for name in ("one", "two"):
        make_run(tmp_path / "runs" / name, [metrics(0)])
    draw(tmp_path, str(tmp_path / "runs" / "*"))
    assert "2 runs" in capsys.readouterr().out
    make_run(tmp_path / "runs" / "[one]", [metrics(0)])  # which as a pattern is a folder o, n or e
    draw(tmp_path, str(tmp_path / "runs" / "[one]"))
    assert "1 runs" in capsys.readouterr().out


def test_nothing_to_draw(refused, tmp_path):  # noqa: F811
    with pytest.raises(common.InputError, match="no run to draw in .*/none"):
        report.main(report.Args(runs=(f"{tmp_path}/none",)))
    run = make_run(tmp_path / "run", [metrics(0)])
    assert "--output" in refused(report.Args(runs=(run,), output=f"{tmp_path}/no/folder/page.html"))
    assert "--output '.' names no file" in refused(report.Args(runs=(run,), output="."))


# ---- at the end of a run -------------------------------------------------------------------------------------------


def test_a_run_ends_with_its_page(problem_file, tmp_path, capsys):
    """And is a success all the same where the page cannot be written, which one line says."""
    mlmt_rl.main(small_args(problem_file, tmp_path / "run", report=True))
    last = capsys.readouterr().out.splitlines()[-1]
    assert last == f"curves and episodes: open {tmp_path}/run/report.html in a browser"
    page = (tmp_path / "run" / "report.html").read_text(encoding="utf-8")
    assert "2 of 2" in page and "losses/kl_solver over seconds" in page
    (tmp_path / "run" / "config.json").unlink()
    line = runs.write_report(tmp_path / "run")
    assert line.startswith("the page of curves and episodes could not be written: error: ") and "\n" not in line
