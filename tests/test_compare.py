"""benchmarks/compare.py: its statistics by hand, and docs/evidence.md beside the figures it was written from."""

import importlib
import json
import shlex
import time
from contextlib import nullcontext
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from test_project import load

import common

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
    row = {"command": "c", "seed": 1, "accuracy_1": {"2": 0.1}, "accuracy_2": {"2": 0.5}}
    row["accuracy_2_standard_error"] = {"2": 0.03}
    assert compare.summary([row], "c", "2") == (0.5, pytest.approx([0.44, 0.56]))
    assert compare.summary([row], "c", "2", turn=1) == (0.1, [0.1, 0.1])
    more = [row | {"accuracy_2": {"2": value}} for value in (0.4, 0.6)]
    assert compare.summary(more, "c", "2")[0] == pytest.approx(0.5)
    one_turn = {"command": "c", "accuracy_1": {"2": 0.7}, "accuracy_1_standard_error": {"2": 0.01}}
    assert compare.summary([one_turn], "c", "2") == (0.7, pytest.approx([0.68, 0.72]))


def test_the_page_says_what_the_runs_said():
    """Red if a table of docs/evidence.md is not that of benchmarks/compare.json, or a figure names other rows."""
    found = json.loads(compare.PUBLISHED.read_text())
    pages = [page.read_text(encoding="utf-8") for page in compare.PAGES]
    assert all(compare.with_tables(page, found) == page for page in pages) and found.keys() >= compare.LADDERS.keys()
    assert all(sum(page.count(f"<!-- compare: {name} -->") for page in pages) == 1 for name in compare.tables(found))
    figure = compare.FIGURES["levels"].read_text(encoding="utf-8")
    assert all(label in figure for experiment in compare.LADDERS.values() for label in experiment)
    assert all(row["iterations"] == 40 for name in compare.LADDERS for row in found[name])
    answer = next(part for part in (REPO / "README.md").read_text(encoding="utf-8").split("\n\n") if "**Does" in part)
    for label, words in (("nothing", "the trained pair gets {} of"), ("all asserts", "and {} if it is told all")):
        right = compare.number(compare.summary(found["told"], compare.LADDERS["told"][label][0], "2")[0])
        assert words.format(right) in answer.replace("\n", " "), label
    last = {
        method: compare.summary(found["methods"], compare.best_command(found["methods"], method, "conventions"), "all")[
            0
        ]
        for method in ("GRPO", "ArCHer", "SCoRe", "MLMT-RL")
    }
    assert f"MLMT-RL reaches {compare.number(last.pop('MLMT-RL'))}" in answer and max(last.values()) < 0.595
    sentences = "the utility is {}, the specificity {}", "`rl_guided_score.py`'s {} and {}"
    for method, sentence in zip(("MLMT-RL", "RL-Guided SCoRe"), sentences):
        command = compare.best_command(found["methods"], method, "functions")
        found_of = [row["feedback_quality"] for row in found["methods"] if row["command"] == command]
        means = [sum(quality[name] for quality in found_of) / len(found_of) for name in ("utility", "specificity")]
        values = [compare.number(mean).replace("-", "−") for mean in means]
        assert sentence.format(*values) in " ".join(pages[1].split()), values
    if "methods" in found:
        figure = compare.FIGURES["methods"].read_text(encoding="utf-8")
        tasks, runs = compare.tasks_of(found["methods"]), found["methods"]
        assert all(task in figure for task in tasks)
        for method in compare.METHODS:
            assert (method in figure) == any(compare.best_command(runs, method, task) for task in tasks), method


def test_the_prose_says_what_the_runs_said():
    """Red if a figure in a sentence of docs/evidence.md or of a method page is not that of benchmarks/compare.json."""
    found = json.loads(compare.PUBLISHED.read_text())
    page = " ".join(compare.PAGES[0].read_text(encoding="utf-8").split())

    def each(method: str, task: str, figure) -> list[float]:  # of each seed
        command = compare.best_command(found["methods"], method, task)
        rows = [row for row in found["methods"] if row["command"] == command]
        return [figure(row) for row in sorted(rows, key=lambda row: row["seed"])]

    def mean(method: str, task: str, figure) -> float:
        return float(np.mean(each(method, task, figure)))

    def last(method: str, task: str, turn: int | None = None) -> float:
        command = compare.best_command(found["methods"], method, task)
        return compare.summary(found["methods"], command, "all", turn)[0]

    def first(method: str, task: str) -> float:
        return last(method, task, turn=1)

    def of(turn: int, level: str = "all"):
        return lambda row: row[f"accuracy_{turn}"][level]

    def quality(name: str):
        return lambda row: row["feedback_quality"][name]

    def fixed(row: dict) -> float:  # of second attempts after the fixed instruction
        return row["accuracy_2"]["all"] - row["feedback_quality"]["utility"]

    def peak(row: dict) -> float:  # the best evaluation in training
        return max(point[3] for point in row["curve"])

    def tokens(row: dict) -> float:
        return row["curve"][-1][1] / 1000

    blind = [last(method, "conventions") for method in ("GRPO", "expert iteration", "SCoRe")]
    final = [row["feedback_quality"]["utility"] for row in found["stages"] if row["iteration"] == 40]
    guided, ours, hint = "RL-Guided SCoRe", "MLMT-RL", "SMART-SCoRe"
    stop = f"{ours}, stop"
    sentences = [
        ("(utility {}, {}, {}, {}, {} with the five seeds)", each(guided, "functions", quality("utility"))),
        ("MLMT-RL's is worth {}, {}, {}, {} and {}.", each(ours, "functions", quality("utility"))),
        ("stays at {}, {}, {}, {} and {}, and", each(ours, "functions", of(1))),
        ("after the fixed instruction {}, {}, {}, {} and {} are", each(ours, "functions", fixed)),
        ("ArCHer's seeds end at {}, {}, {}, {} and {}:", each("ArCHer", "functions", of(1))),
        ("GRPO's end at {}, {}, {}, {} and {}:", each("GRPO", "functions", of(1))),
        ("(expert iteration {})", [last("expert iteration", "functions")]),
        ("reach that, {} to {}, however", [min(blind), max(blind)]),
        ("fixes {} and breaks", [mean("SCoRe", "conventions", lambda row: row["fixed"])]),
        ("and breaks {}. On this", [mean("SCoRe", "conventions", lambda row: row["broken"])]),
        ("reach {} and {}; an untrained", [last(name, "conventions") for name in (guided, ours)]),
        ("On this task ArCHer's seeds end at {}, {}, {}, {} and {}:", each("ArCHer", "conventions", of(1))),
        ("hint (SMART-SCoRe) brings {}.", [last(hint, "conventions")]),
        ("MLMT-RL's seeds end at {}, {}, {}, {} and {}:", each(ours, "conventions", of(2))),
        ("`--stop-value-gradients` they end at {}, {}, {}, {} and {}.", each(stop, "conventions", of(2))),
        ("end there at {}, {}, {}, {} and {}, with", each(ours, "conventions", of(1, "0"))),
        ("`--stop-value-gradients` {}, {}, {}, {} and {}.", each(stop, "conventions", of(1, "0"))),
        ("expert iteration {} with one attempt,", [last("expert iteration", "arithmetic")]),
        ("MLMT-RL {} (its first attempt: {})", [last(ours, "arithmetic"), first(ours, "arithmetic")]),
        ("worse than its first ones ({}, {})", [last(hint, "arithmetic"), first(hint, "arithmetic")]),
        ("utility of {}, {}, {}, {} and {}. ArCHer", each(hint, "arithmetic", quality("utility"))),
        ("Its seeds end here at {}, {}, {}, {} and {}, from .42", each("ArCHer", "arithmetic", of(1))),
        ("InTRO rises to {}, {}, {}, {} and {} with", each("InTRO", "arithmetic", peak)),
        ("gains {}, {}, {}, {} and {} over the fixed", each(guided, "countdown", quality("utility"))),
        ("and {}, {}, {}, {} and {} in `mlmt_rl.py` (utility", each(ours, "countdown", quality("utility"))),
        (
            "and {} and {} in the mean over another",
            [mean(name, "countdown", quality("specificity")) for name in (guided, ours)],
        ),
        ("RL-Guided SCoRe {}, MLMT-RL {}, before", [last(name, "countdown") for name in (guided, ours)]),
        (
            "expert iteration {}, an untrained model's hint (SMART-SCoRe) {}, GRPO {} and SCoRe {}",
            [last(name, "countdown") for name in ("expert iteration", hint, "GRPO", "SCoRe")],
        ),
        ("worth less ({}, {}, {}, {} and {}):", each(hint, "countdown", quality("utility"))),
        ("ArCHer's seeds end at {}, {}, {}, {} and {}: its critic", each("ArCHer", "countdown", of(1))),
        ("first ({} → {} and", [mean(guided, "countdown", of(turn, "3")) for turn in (1, 2)]),
        ("and {} → {}). With four", [mean(ours, "countdown", of(turn, "3")) for turn in (1, 2)]),
        ("With four (`mlmt_rl.py`: {} → {})", [mean(ours, "countdown", of(turn, "4")) for turn in (1, 2)]),
        ("gains next to nothing ({} → {})", [mean("SCoRe", "countdown", of(turn)) for turn in (1, 2)]),
        ("is {} in the second half", [mean(ours, "countdown", lambda row: row["explained_variance"])]),
        ("and {} where the value loss", [mean(stop, "countdown", lambda row: row["explained_variance"])]),
        ("doubles ({}, {}, {}, {}, {} with the five seeds)", final),
    ]
    for sentence, values in sentences:
        expected = sentence.format(*(compare.number(value).replace("-", "−") for value in values))
        assert expected in page, expected
    guided_on = "rl_guided_score.py --dataset functions"
    tried = {compare.setting(row["command"]): row for row in found["search"] if row["command"].startswith(guided_on)}
    seeds = each(guided, "functions", of(2))
    tied = [f"{tried[name]['accuracy_2']['all']:.3f}"[1:] for name in ("4e-4, KL 0", "2e-4, KL 0.01")]
    assert "had {} at 4e-4 without a KL and {} at 2e-4 with one".format(*tied) in page, tied
    assert f"the latter at {compare.number(min(seeds))} to {compare.number(max(seeds))}:" in page
    pages = {
        path.stem: " ".join(path.read_text(encoding="utf-8").split()) for path in (REPO / "docs/methods").glob("*.md")
    }
    for page_of, sentence, pairs in [
        ("grpo", "`functions`: {}; `countdown`: {}, where", [("GRPO", "functions"), ("GRPO", "countdown")]),
        ("grpo", "`conventions`: {}, of the .59", [("GRPO", "conventions")]),
        (
            "expert_iteration",
            "`functions`: {}; `countdown`: {}, GRPO {}",
            [("expert iteration", "functions"), ("expert iteration", "countdown"), ("GRPO", "countdown")],
        ),
        ("expert_iteration", "`conventions`: {}, of the .59", [("expert iteration", "conventions")]),
        ("score", "`functions`: {} in both turns", [("SCoRe", "functions")]),
        (
            "score",
            "`conventions`: {}, of the .59 that counting leaves; `countdown`: {}",
            [("SCoRe", "conventions"), ("SCoRe", "countdown")],
        ),
        ("rl_guided_score", "turn 2 {}; the feedback is worth little", [(guided, "functions")]),
        (
            "rl_guided_score",
            "told all asserts: {}, SMART-SCoRe {}; `countdown`: {}, SMART-SCoRe {}",
            [(guided, "conventions"), (hint, "conventions"), (guided, "countdown"), (hint, "countdown")],
        ),
        ("mlmt_rl", "turn 2 {}, of which", [(ours, "functions")]),
        (
            "mlmt_rl",
            "over all problems {} (at 4e-4), where GRPO has {}. `countdown`: {}, where GRPO has {} with",
            [(ours, "conventions"), ("GRPO", "conventions"), (ours, "countdown"), ("GRPO", "countdown")],
        ),
        ("archer", "`functions`: .40 → {}", [("ArCHer", "functions")]),
        ("archer", "little help (.42 → {}; .12 to .69)", [("ArCHer", "arithmetic")]),
        ("archer", "`countdown` too (.19 → {}; .10 to .32)", [("ArCHer", "countdown")]),
    ]:
        expected = sentence.format(*(compare.number(last(*pair)) for pair in pairs))
        assert expected in pages[page_of], expected
    counted = [f"{mean(method, 'countdown', tokens):,.0f}" for method in (ours, "ArCHer", "GRPO")]
    assert "sampled {} thousand, ArCHer {}, the others {}.".format(*counted) in page, counted


def searched(task: str, settings: dict[tuple, float], seed: int = 101) -> list[dict]:
    rows = []
    for setting, right in settings.items():
        accuracy = {"accuracy_1": {"all": right}, "accuracy_1_standard_error": {"all": 0.01}}
        rows.append({"command": compare.method_command("GRPO", task, *setting), "seed": seed, **accuracy})
    return rows


def test_the_setting_is_chosen_by_the_search_alone():
    """Red if another task's search decides, or the weight of the KL is not a part of the setting."""
    found = searched("countdown", {("1e-4", "0"): 0.3, ("2e-4", "0"): 0.4, ("2e-4", "0.01"): 0.5})
    found += searched("arithmetic", {("1e-4", "0"): 0.3, ("2e-4", "0"): 0.5, ("2e-4", "0.01"): 0.4})
    best = compare.best_command(found, "GRPO", "countdown")
    assert best == "grpo.py --dataset countdown --learning-rate 2e-4 --kl-coef 0.01"
    assert compare.setting(best) == "2e-4, KL 0.01"
    assert compare.best_command(found, "GRPO", "arithmetic").endswith("--learning-rate 2e-4 --kl-coef 0")
    assert compare.best_command(found, "SCoRe", "arithmetic") is None
    assert "SCoRe" not in compare.search_table(found)
    row = next(line for line in compare.search_table(found).splitlines() if "countdown | GRPO" in line)
    assert row == "| countdown | GRPO | .30 [1e-4, KL 0], .40 [2e-4, KL 0], .50 [2e-4, KL 0.01] |"
    table = compare.method_table(searched("arithmetic", {("2e-4",): 0.5}) + searched("countdown", {("1e-4", "0"): 0.3}))
    assert "| GRPO | .50 (.48 to .52) [2e-4] | .30 (.28 to .32) [1e-4, KL 0] |\n| expert iteration | – | – |" in table


def test_of_settings_that_do_not_differ_the_gentlest_is_chosen():
    """Red if a lucky high rate is preferred to a lower one within its standard error of .01, or to a heavier KL."""
    tried = {("1e-4", "0"): 0.93, ("1e-4", "0.01"): 0.93, ("2e-4", "0"): 0.945, ("2e-4", "0.01"): 0.946}
    for high, expected in ((0.95, "2e-4 --kl-coef 0.01"), (0.94, "2e-4 --kl-coef 0.01"), (0.97, "4e-4 --kl-coef 0")):
        found = searched("functions", tried | {("4e-4", "0"): high})
        assert compare.chosen_command(found, "GRPO", "functions").endswith(f"--learning-rate {expected}")
    found = searched("functions", {("2e-4",): 0.9, ("1e-4",): 0.89})
    assert compare.chosen_command(found, "GRPO", "functions").endswith(" 1e-4")


def test_all_settings_are_tried():
    """Red if a method with two KLs is searched over one, or a method without one twice."""
    args = compare.Args()
    assert len(compare.settings("GRPO", "countdown", args)) == 6
    assert len(compare.settings("ArCHer", "countdown", args)) == len(compare.settings("InTRO", "countdown", args)) == 3
    assert all("--guidance-kl-coef" in command for command in compare.settings("MLMT-RL", "countdown", args))
    args.kls = ()
    assert compare.settings("GRPO", "countdown", args) == [
        f"grpo.py --dataset countdown --learning-rate {rate}" for rate in args.rates
    ]


def test_methods_have_as_many_responses_judged():
    for method, (_, responses, episodes, _) in compare.METHODS.items():
        command = compare.method_command(method, "countdown", "2e-4")
        _, iterations, _ = compare.method_job((method, "functions"), command, 40, 1)
        assert iterations * responses * episodes == 40 * 64 * 3, method
        assert compare.method_job((method, "countdown"), command, 40, 1)[1] == 4 * iterations
        assert "--dataset countdown --learning-rate 2e-4" in command
        assert ("--test-results all" in compare.method_command(method, "conventions", "2e-4")) == (responses == 3)
    assert compare.tasks_of([{"command": compare.method_command("GRPO", "countdown", "2e-4")}]) == ["countdown"]


def test_methods_at_equal_cost():
    """By hand: GRPO ends at 10 episodes and 2 minutes, SCoRe at 20 thousand tokens; lines between evaluations."""
    curves = {"GRPO": [[0, 0, 0, 0.1], [10, 40_000, 2, 0.5]], "SCoRe": [[0, 0, 0, 0.2], [20, 20_000, 8, 0.6]]}
    rows = [
        {"command": compare.method_command(method, "countdown", "2e-4"), "curve": curve, "accuracy_1": {"all": 0}}
        for method, curve in curves.items()
    ]
    table = compare.equal_table(rows).splitlines()
    assert table[2:] == [
        "| **countdown**, at | 10 | 20 | 2.0 |",
        "| GRPO | .50 | .30 | .50 |",
        "| SCoRe | .40 | .60 | .30 |",
    ]


def test_both_attempts_in_the_form_of_the_papers():
    accuracy = {name: {"all": 0.5} for name in ("accuracy_1", "accuracy_1_standard_error", "accuracy_2_standard_error")}
    one = {"command": "grpo.py --dataset functions --learning-rate 2e-4"} | accuracy
    two = {"command": "score.py --dataset functions --learning-rate 2e-4", "accuracy_2": {"all": 0.9}} | accuracy
    two |= {"delta": -0.4, "fixed": 0.3, "broken": 0.1, "accuracy_2_oracle_gated": 0.95}
    two["accuracy_2_standard_error"] = {"all": 0.01}
    one["accuracy_1_standard_error"] = two["accuracy_1_standard_error"] = {"all": 0.02}
    table = compare.turn_table([one, two], "functions").splitlines()
    assert table[2:] == [
        "| `grpo.py` | .50 (.46 to .54) | – | – | – | – | – |",
        "| `score.py` | .50 | .90 (.88 to .92) | -.40 | .30 | .10 | .95 |",
    ]


def test_stages_are_means_of_the_seeds():
    quality = dict.fromkeys(compare.QUALITIES, 0.2) | {"utility": 0.4}
    rows = [{"seed": 1, "iteration": 10, "accuracy_1": 0.1, "accuracy_2": 0.5, "feedback_quality": quality}]
    rows += [rows[0] | {"seed": 2, "accuracy_2": 0.7, "feedback_quality": quality | {"utility": 0.2}}]
    rows += [rows[0] | {"iteration": 0}]
    table = compare.stage_table(rows).splitlines()
    assert table[2:] == ["| 0 | .10 | .50 | .40 | .20 | .20 | .20 |", "| 10 | .10 | .60 | .30 | .20 | .20 | .20 |"]


def test_curve_counts_the_tokens_of_all_turns():
    rows = [
        {"iteration": 0, "charts/episodes": 0, "charts/seconds": 6.0, "eval/accuracy_1": 0.1, "eval/accuracy_2": 0.2}
    ]
    lengths = {"rollout/response_length_1": 10.0, "rollout/response_length_2": 5.0, "rollout/feedback_length": 1.0}
    rows += [{"charts/episodes": 8, "charts/seconds": 60.0} | lengths]
    rows += [{"charts/episodes": 16, "charts/seconds": 120.0, "eval/accuracy_2": 0.5} | lengths]
    assert compare.curve(rows, {}) == [[0, 0, 0.1, 0.2], [16, 256, 2.0, 0.5]]
    alone = [{"charts/episodes": 4, "charts/seconds": 3.0, "eval/accuracy_1": 0.3, "rollout/response_length_1": 2.0}]
    assert compare.curve(alone, {}) == [[4, 8, 0.05, 0.3]]


def test_curve_counts_what_archer_samples_beside_its_episodes():
    """By hand, of 10 tokens each: an iteration's 2 judged responses and 8 for the critic, later 3 for the actor."""
    flags = {"critic_epochs": 4, "warmup_iterations": 1, "actor_epochs": 1, "actor_batch_size": 3}
    rows = [{"iteration": i, "charts/episodes": 2 * i, "charts/seconds": 60.0 * i} for i in (0, 1, 2)]
    rows = [row | {"rollout/response_length_1": 10.0, "eval/accuracy_1": 0.5} for row in rows]
    assert [point[1] for point in compare.curve(rows, flags)] == [0, 100, 230]


def test_a_run_is_done_once(tmp_path, monkeypatch):
    """The commands of a run by hand; its figures come from eval.json and metrics.jsonl, and then from its own file."""
    calls = []

    def call(log, script, *words):
        calls.append([script.name, *map(str, words)])
        place = Path(words[words.index("--run-dir") + 1])
        place.mkdir(exist_ok=True)
        part = {
            "accuracy_1": 0.2,
            "accuracy_2": 0.4,
            "accuracy_1_standard_error": 0.1,
            "accuracy_2_standard_error": 0.1,
        }
        (place / "eval.json").write_text(json.dumps({"results": [part | {"by_level": {"2": part}}]}))
        row = {"iteration": 40, "charts/episodes": 8, "charts/seconds": 90.0, "losses/explained_variance": 0.25}
        (place / "metrics.jsonl").write_text(json.dumps(row))
        (place / "config.json").write_text('{"args": {}}')

    monkeypatch.setattr(compare, "call", call)
    job = compare.LADDERS["read"]["right or wrong"][0], 40, 3
    results = [compare.run(job, compare.Args(folder=tmp_path)) for _ in range(2)]
    assert results[0] == results[1] and len(calls) == 2
    compare.run(job, compare.Args(folder=tmp_path, problems=9))  # another evaluation of the same run
    other, again = shlex.join(calls.pop()), calls.pop()
    assert again == calls[0] and "--limit 9" in other and "-eval9" in other
    assert results[0]["accuracy_2"] == {"2": 0.4, "all": 0.4} and results[0]["explained_variance"] == 0.25
    training, evaluation = map(shlex.join, calls)
    assert training.startswith("mlmt_rl.py --dataset conventions --test-results all --feedback-control verdict")
    assert "--feedback-every 0 --iterations 40 --seed 3" in training
    assert "--turns 2" in evaluation and "--feedback-every" not in evaluation
    assert "--dataset conventions --test-results all --feedback-control verdict" in evaluation
    compare.run((compare.method_command("GRPO", "countdown", "2e-4"), 40, 3), compare.Args(folder=tmp_path))
    assert "--turns 1" in shlex.join(calls[3])


def test_stages_of_a_run(tmp_path, monkeypatch):
    """The checkpoints that are evaluated are those that the run keeps; at 0 it is the embedded model."""
    calls, args = [], compare.Args(folder=tmp_path)

    def call(log, script, *words):
        calls.append(shlex.join([script.name, *map(str, words)]))
        place = Path(words[words.index("--run-dir") + 1])
        place.mkdir()
        part = {"accuracy_1": 0.2, "accuracy_2": 0.4, "feedback_quality": {"utility": 0.1}, "by_level": {}}
        (place / "eval.json").write_text(json.dumps({"results": [part]}))

    monkeypatch.setattr(compare, "call", call)
    job = compare.TRAINED, 40, 3
    compare.train(job, args)
    assert "--keep-checkpoints 0" in calls.pop()
    compare.train((compare.LADDERS["told"]["nothing"][0], 40, 3), args)
    assert "--keep-checkpoints" not in calls.pop()
    assert compare.stage(job, args, 20) == {
        "seed": 3,
        "iteration": 20,
        "accuracy_1": 0.2,
        "accuracy_2": 0.4,
        "feedback_quality": {"utility": 0.1},
    }
    compare.stage(job, args, 0)
    assert f"--solver {compare.place_of(job, args)}/checkpoint-000020 --dataset conventions" in calls[0]
    assert "--test-results all" in calls[0] and "--feedback-quality" in calls[0]
    own = REPO / "tiny/conventions"
    assert f"--solver {own} --feedback {own} --dataset conventions" in calls[1]


def test_which_checkpoints_are_evaluated(tmp_path, monkeypatch):
    """Red if one is left out, or if the embedded model, which no seed changes, is evaluated for each of them."""
    seen = []
    quality = dict.fromkeys(compare.QUALITIES, 0.2)
    row = {"accuracy_1": 0.2, "accuracy_2": 0.4, "feedback_quality": quality}
    monkeypatch.setattr(compare, "run_all", lambda *words: [])
    monkeypatch.setattr(compare, "stage", lambda job, _, n: seen.append((job[2], n)) or row | {"iteration": n})
    compare.main(compare.Args(folder=tmp_path, experiments=("stages",), seeds=(3, 5), iterations=20, workers=1))
    assert seen == [(3, 0), (3, 10), (3, 20), (5, 10), (5, 20)]
    found = json.loads((tmp_path / "compare.json").read_text())["stages"]
    assert [row["iteration"] for row in found] == [n for _, n in seen]


def test_what_the_search_settles_on_is_run(tmp_path, monkeypatch):
    """Red if the seeds are run with another setting, or if the search has a seed of theirs or their length."""
    jobs = []

    def run(job, args):
        jobs.append(job)
        turns = range(1, compare.turns_of(job[0]) + 1)
        row = {"command": job[0], "seed": job[2], "curve": [[0, 0, 0, 0.5], [9, 9, 9, 0.5]]}
        row |= {f"accuracy_{turn}": {"all": 0.9 if "1e-4" in job[0] else 0.91} for turn in turns}
        row |= {f"accuracy_{turn}_standard_error": {"all": 0.02} for turn in turns}
        return row | dict.fromkeys(compare.CHANGES, 0)

    monkeypatch.setattr(compare, "run", run)
    compare.main(compare.Args(folder=tmp_path, experiments=("methods",), tasks=("functions",), seeds=(3, 5), workers=1))
    search = [job for job in jobs if job[2] == compare.SEARCH_SEED]
    assert len(search) == 45 and [job[2] for job in jobs[45:]] == [3] * 8 + [5] * 8
    for command, iterations, _ in jobs[45:]:
        assert "--learning-rate 1e-4" in command and (" 0.01" in command) == ("archer" not in command)
        assert (command, iterations // 2, compare.SEARCH_SEED) in search


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
    assert len(started) < 20  # of 180
    with pytest.raises(SystemExit, match="leave out one of"):
        compare.main(compare.Args(folder=tmp_path, quick=True, publish=True))


@pytest.mark.parametrize(
    ("flags", "sentence"),
    [
        ({"seeds": ()}, "--seeds must not be empty"),
        ({"rates": ()}, "--rates must not be empty"),
        ({"workers": 0}, "--workers must not be 0"),
        ({"seeds": (1, 1)}, "--seeds must be different"),
        ({"kls": ("much",)}, "--rates and --kls take numbers of 0 or more, and 'much'"),
        ({"folder": Path(__file__)}, "test_compare.py is no folder"),
    ],
    ids=str,
)
def test_wrong_flags_are_found_before_the_first_run(tmp_path, flags, sentence):
    with pytest.raises(SystemExit, match=sentence):
        compare.main(compare.Args(**{"folder": tmp_path / "runs"} | flags))
    assert not list(tmp_path.iterdir())


def test_time_left_counts_what_is_not_done(tmp_path, monkeypatch, capsys):
    """Two of five runs are there already: after one more, of two minutes, two are left."""
    minutes, args = [0.0], compare.Args(folder=tmp_path, workers=1)
    jobs = [(compare.TRAINED, 40, seed) for seed in range(5)]

    def run(job, args):
        minutes[0] += 2.0 * (job[2] >= 2)
        return {"command": job[0], "accuracy_2": {"all": 0.5}}

    for job in jobs[:2]:
        compare.result_of(job, args).write_text("{}")
    monkeypatch.setattr(compare, "run", run)
    monkeypatch.setattr(compare, "time", SimpleNamespace(time=lambda: 60 * minutes[0]))
    monkeypatch.setattr(compare, "ThreadPoolExecutor", lambda workers: nullcontext(SimpleNamespace(map=map)))
    assert len(compare.run_all("told", jobs, args)) == 5
    lines = capsys.readouterr().out.splitlines()
    assert lines[1].endswith("seed 1: 0.500")
    assert lines[2].startswith("told, 3 of 5: ") and lines[2].endswith("0.500; for told about 4 minutes left")
    assert lines[4].endswith("about 0 minutes left")


def test_every_run_can_be_started(monkeypatch):
    commands = [command for rows in compare.LADDERS.values() for command, _ in rows.values()]
    commands += [compare.settings(*pair, compare.Args())[-1] for pair in compare.pairs_of(compare.TASKS)]
    for command in commands:
        script = importlib.import_module(command.split(".py ")[0])
        monkeypatch.setattr("sys.argv", shlex.split(command))
        common.check_args(common.parse(script.Args, ""))
