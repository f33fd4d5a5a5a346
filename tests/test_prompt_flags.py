"""--solve-prompt, --feedback-prompt, --refine-prompt and --system-prompt: what they put where, in every script."""

import json

import pytest
from conftest import read_jsonl, small_args
from transformers import AutoTokenizer

import archer
import common
import expert_iteration
import grpo
import intro
import mlmt_rl
import rl_guided_score
import score

TEXTS = {
    "solve_prompt": "SOLVE IT",
    "feedback_prompt": "JUDGE IT",
    "refine_prompt": "AGAIN",
    "system_prompt": "BE GOOD",
}
SCRIPTS = [archer, expert_iteration, grpo, intro, mlmt_rl, rl_guided_score, score]


def flags_of(script) -> dict[str, str]:
    return {name: text for name, text in TEXTS.items() if name in script.Args.__dataclass_fields__}


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda script: script.__name__)
def test_every_turn_reads_the_flags(script, problem_file, tmp_path, coin_rewards, monkeypatch):
    """The prompts of a whole run, as the model reads them: the system message first, each turn's own text last."""
    tokenizer, read = AutoTokenizer.from_pretrained("tiny"), []
    generate = script.generate

    def reading(model, tokenizer_, prompts, *rest):
        read.extend(tokenizer.decode(ids) for ids, _ in prompts)
        return generate(model, tokenizer_, prompts, *rest)

    monkeypatch.setattr(script, "generate", reading)
    sizes = {archer: {"critic_batch_size": 4, "actor_batch_size": 4, "warmup_iterations": 0}}.get(script, {})
    args = small_args(problem_file, tmp_path / "run", script=script, iterations=1, **sizes, **flags_of(script))
    script.main(args)
    assert read and all(text.startswith("BE GOOD\n") for text in read)
    endings = {text.rstrip("\n").rsplit("\n", 1)[-1].split(" ###Answer")[0] for text in read}
    assert endings == {text for name, text in flags_of(script).items() if name != "system_prompt"}
    seen = read_jsonl(tmp_path / "run" / "episodes.jsonl")[0]["question"]
    assert not any(text in seen for text in TEXTS.values())


@pytest.fixture
def problem() -> common.Problem:
    return common.Problem("1 + 1?", "2")


def instructed(problem, **flags) -> common.Problem:
    return common.instruct([problem], mlmt_rl.Args(**flags))[0]


def test_a_text_file(problem, tmp_path):
    (tmp_path / "solve.txt").write_text("First\nlines.\n", encoding="utf-8-sig")  # with the mark of some editors
    instructed_problem = instructed(problem, solve_prompt=str(tmp_path / "solve.txt"))
    assert common.attempt_messages(instructed_problem) == [{"role": "user", "content": "1 + 1?\n\nFirst\nlines."}]
    with pytest.raises(common.InputError, match="--refine-prompt .*none.txt cannot be read"):
        instructed(problem, refine_prompt=str(tmp_path / "none.txt"))


def test_an_empty_text_asks_for_nothing(problem):
    assert common.attempt_messages(instructed(problem, solve_prompt=""))[-1]["content"] == "1 + 1?"
    assert common.feedback_messages(instructed(problem, feedback_prompt=""), "2")[-1]["content"].endswith(
        "solution:\n2"
    )


def test_a_demonstration_asks_the_same_way(problem, tmp_path):
    """Red if the problem before it is asked with another text than the problem."""
    own = instructed(problem, solve_prompt="SOLVE IT", system_prompt="BE GOOD")
    template = common.load_template("concise", [own])
    messages = common.attempt_messages(own, template)
    assert [m["role"] for m in messages] == ["system", "user", "assistant", "user"]
    assert [m["content"].split("\n\n")[1] for m in messages if m["role"] == "user"] == ["SOLVE IT", "SOLVE IT"]
    path = tmp_path / "own.json"
    path.write_text(json.dumps([{"role": "system", "content": "Be brief."}]), encoding="utf-8-sig")
    assert common.load_template(str(path), [problem]) == [{"role": "system", "content": "Be brief."}]
    with pytest.raises(common.InputError, match="own.json has a system message of its own: leave out --system-prompt"):
        common.load_template(str(path), [own])


def test_without_flags_nothing_changes(problem):
    for make in (
        common.attempt_messages,
        lambda p: common.feedback_messages(p, "z"),
        lambda p: common.refine_messages(p, "z", "g"),
        lambda p: common.self_correct_messages(p, "z"),
    ):
        assert make(instructed(problem)) == make(problem)
