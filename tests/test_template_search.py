"""template_search.py: which templates are asked what, which one wins, and what is written."""

import json

import pytest

import common
import template_search


def templates(folder, names: list[str]) -> str:
    folder.mkdir()
    for name in names:
        (folder / f"{name}.json").write_text(json.dumps([{"role": "user", "content": name}]), encoding="utf-8")
    return str(folder)


def test_successive_halving():
    """5 templates on problems 0-1, 3 on 2-5, 2 on 6-13; accuracy counts all problems so far; ties go by name."""
    right = {"a": range(14), "b": [0, 1, 2, 3, 4, 5], "c": [0, 1], "d": [0], "e": [1, *range(6, 14)]}
    asked = []

    def measure(name, problems):
        asked.append((name, problems))
        return sum(p in right[name] for p in problems) / len(problems)

    assert template_search.search(list("edcba"), 2, list(range(14)), measure) == "a"
    rounds = [("abcde", [0, 1]), ("abc", [2, 3, 4, 5]), ("ab", list(range(6, 14)))]
    assert asked == [(name, problems) for names, problems in rounds for name in names]


def test_the_best_template_is_written(problem_file, tmp_path, monkeypatch, capsys):
    """On training problems alone; --prompt-template reads the file."""
    asked = []

    def judge_all(responses, problems, *flags):
        asked.append([p.id for p in problems])
        return ["good" in prompts[-1]] * len(problems)

    prompts, encode = [], common.encode_prompt
    monkeypatch.setattr(common, "encode_prompt", lambda t, m: prompts.append(m[0]["content"]) or encode(t, m))
    monkeypatch.setattr(common, "judge_all", judge_all)
    output = tmp_path / "best.json"
    flags = {"templates": templates(tmp_path / "t", ["bad", "good", "worse"]), "output": str(output)}
    template_search.main(template_search.Args(**flags, dataset=problem_file, search_size=2, max_new_tokens=4))
    assert json.loads(output.read_text()) == [{"role": "user", "content": "good"}]
    assert common.load_template(str(output), []) == [{"role": "user", "content": "good"}]
    assert (
        [len(part) for part in asked] == [2, 2, 2, 4, 4] and asked[0] == asked[2] and not set(asked[0]) & set(asked[3])
    )
    held_out = {p.id for p in common.load_problems(problem_file, "test")}
    assert not held_out & {name for part in asked for name in part}
    assert f"--prompt-template {output}" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("names", "flags", "message"),
    [
        ([], {}, "is no folder with .json files"),
        (["a", "b", "c"], {"search_size": 9}, "--search-size 9: 3 templates need 27 problems"),
        (["a", "b"], {"search_size": 2, "output": "taken.json"}, "--output taken.json exists"),
        (["a", "b"], {"search_size": 2, "output": "no/best.json"}, "--output no/best.json: there is no folder no"),
        (["a", "b"], {"search_size": 2, "policy_lm": "none"}, "--policy-lm none cannot be loaded"),
    ],
)
def test_mistakes_end_in_one_sentence(problem_file, tmp_path, monkeypatch, capsys, names, flags, message):
    args = {"templates": templates(tmp_path / "t", names), "dataset": problem_file}
    monkeypatch.chdir(tmp_path)
    (tmp_path / "taken.json").write_text("[]")
    with pytest.raises(SystemExit) as ending:
        common.run(template_search.main, template_search.Args(**args | flags), "template_search.py")
    assert ending.value.code == 2 and message in capsys.readouterr().err
    assert not (tmp_path / "best_template.json").exists()
