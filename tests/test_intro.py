"""InTRO: which logits belong to which token, the gradient of each estimator, what the teacher reads, the data."""

import json
from pathlib import Path

import pytest
import torch
from conftest import read_jsonl, write_jsonl
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM, AutoTokenizer

import common
import intro
from problems.arithmetic import load_arithmetic

W = 8  # tokens of the vocabulary
torch.manual_seed(0)
Q, P = torch.randn(W) * 1.5, torch.randn(W) * 1.5  # logits of the student and the teacher at one position


def flags(**changes) -> intro.Args:
    return intro.Args(temperature=1.0, **changes)


class Oracle:
    """A model whose states say what comes next: logits of 20 for the coming token."""

    def get_output_embeddings(self):
        return lambda states: 20 * torch.nn.functional.one_hot(states.squeeze(-1).long(), W)


def test_each_token_meets_the_logits_that_predict_it():
    """A language model that always knows the next token gives each more than .99; shifted by one, less than .01."""
    turn = {"response_ids": torch.tensor([[3, 5, 1, 0], [2, 0, 7, 7]])}
    turn["response_mask"] = torch.tensor([[True, True, True, True], [True, True, False, False]])
    rows, args = torch.arange(2), flags(n_candidates=1)
    turns = [turn | {"prompt_mask": torch.ones(2, P, dtype=torch.long)} for P in (2, 3)]

    def states(prompt: list[int], shift: int) -> torch.Tensor:
        """(2, P+T, 1): the token that comes after each position, or another one from there."""
        ids = torch.cat([torch.tensor([prompt] * 2), turn["response_ids"]], 1)
        return ids.roll(-1 + shift, 1)[..., None].float()

    right, _ = intro.token_losses(
        Oracle(), states([4, 6], 0), states([4, 6, 6], 0), *turns, torch.rand(2, 4, 0).double(), rows, args
    )
    assert (torch.exp(-right[turn["response_mask"]]) > 0.99).all() and (right[~turn["response_mask"]] == 0).all()
    for hidden in ((states([4, 6], 1), states([4, 6, 6], 1)), (states([4, 6], -1), states([4, 6, 6], -1))):
        shifted, _ = intro.token_losses(Oracle(), *hidden, *turns, torch.rand(2, 4, 0).double(), rows, args)
        assert (torch.exp(-shifted[turn["response_mask"]]) < 0.01).all()


def losses_of(log_q, log_p, own, args: intro.Args) -> tuple[torch.Tensor, ...]:
    return intro.position_losses(log_q, log_p, own, torch.rand(len(own), args.n_candidates - 1).double(), args)


def gradients(args: intro.Args, positions: int = 1, own=None) -> tuple[torch.Tensor, torch.Tensor]:
    """Gradient of the loss at each of so many equal positions with respect to both logits: 2 x (positions, W)."""
    q, p = (logits.repeat(positions, 1).requires_grad_() for logits in (Q, P))
    own = torch.multinomial(Q.softmax(0), positions, replacement=True) if own is None else own
    losses, *_ = losses_of(q.log_softmax(1), p.log_softmax(1), own, args)
    losses.sum().backward()
    return q.grad, torch.zeros_like(P).expand_as(q) if p.grad is None else p.grad


def test_the_exact_gradient_is_q_minus_p():
    """With w a constant the student learns the forward KL, and the teacher learns nothing."""
    student, teacher = gradients(flags(estimator="exact"))
    assert torch.allclose(student[0], Q.softmax(0) - P.softmax(0), atol=1e-6) and not teacher.any()


@pytest.mark.parametrize("stop", [True, False])
@pytest.mark.parametrize("n", [1, 2, 5])
def test_the_sampled_gradient_is_the_exact_one_on_average(n, stop):
    """Red if a candidate is counted twice, overwritten or left out, for the student and the teacher."""
    exact = gradients(flags(estimator="exact", stop_weight_gradients=stop))
    torch.manual_seed(1)
    sampled = gradients(flags(n_candidates=n, stop_weight_gradients=stop), positions=40_000)
    for mine, target in zip(sampled, exact):
        error = mine.std(0) / len(mine) ** 0.5
        assert ((mine.mean(0) - target[0]).abs() <= 5 * error + 1e-6).all()
    assert bool(exact[1].any()) != stop


def test_candidates_are_the_own_token_and_draws():
    """The own token counts once in n, also where it is one that q hardly ever draws."""
    rare = torch.full((20_000,), int(Q.argmin()))
    student, _ = gradients(flags(n_candidates=4), 20_000, rare)
    w = (P.log_softmax(0) - Q.log_softmax(0)).exp()[rare[0]]
    own = w * (Q.softmax(0) - torch.nn.functional.one_hot(rare[0], W))
    expected = own / 4 + 3 / 4 * (Q.softmax(0) - P.softmax(0))
    assert ((student.mean(0) - expected).abs() <= 5 * student.std(0) / len(student) ** 0.5 + 1e-6).all()


def test_top_k_draws_from_the_likeliest_alone():
    top = Q.topk(2).indices
    q = Q.repeat(500, 1).requires_grad_()
    losses, *_ = losses_of(
        q.log_softmax(1), P.repeat(500, 1).log_softmax(1), top[0].repeat(500), flags(n_candidates=3, candidate_top_k=2)
    )
    losses.sum().backward()
    values = (P.log_softmax(0) - Q.log_softmax(0)).exp() * -Q.log_softmax(0)  # the loss of each candidate
    a, b = values[top].tolist()
    assert {round(loss.item(), 4) for loss in losses} == {round((a + k * a + (2 - k) * b) / 3, 4) for k in (0, 1, 2)}


def test_the_weight_is_clipped():
    own = torch.tensor([int((P - Q).argmax())])
    log_q, log_p = Q.log_softmax(0)[None], P.log_softmax(0)[None]
    w = (log_p - log_q).exp()[0, own].item()
    for clip, clipped in ((w + 0.1, 0.0), (w - 0.1, 1.0)):
        loss, weight, share = losses_of(log_q, log_p, own, flags(n_candidates=1, weight_clip=clip))
        assert weight.item() == pytest.approx(min(w, clip)) and share.item() == clipped
        assert loss.item() == pytest.approx(-min(w, clip) * log_q[0, own].item())


@pytest.mark.parametrize(
    "template", ["", "{% for m in messages %}<{{ m.role }}>{{ m.content }}\n{% endfor %}<assistant>"]
)
def test_the_teacher_reads_the_answer_and_the_very_tokens(template):
    """x (+) y + z token by token: the answer behind the question, z as it was sampled, nothing between."""
    model, tokenizer = AutoModelForCausalLM.from_pretrained("tiny"), AutoTokenizer.from_pretrained("tiny")
    tokenizer.chat_template = template or None
    problems = load_arithmetic("train", 2, 0)
    args = flags(max_new_tokens=6)
    prompts = [common.encode_prompt(tokenizer, common.attempt_messages(problem)) for problem in problems]
    turn = intro.generate(model, tokenizer, prompts, 6, args)
    answered = intro.teacher_turn(turn, model, tokenizer, problems, args)
    for row, problem in enumerate(problems):
        asked = f"{problem.question}\n\n{common.SOLVE} ###Answer:{problem.answer} ###Solution:"
        text = f"<user>{asked}\n<assistant>" if template else f"{asked}\n"
        prompt = answered["prompt_ids"][row][answered["prompt_mask"][row].bool()].tolist()
        assert prompt == tokenizer(text, add_special_tokens=False).input_ids
        student = turn["prompt_ids"][row][turn["prompt_mask"][row].bool()].tolist()
        assert tokenizer.decode(student) == text.replace(f" ###Answer:{problem.answer} ###Solution:", "")
    assert torch.equal(answered["response_ids"], turn["response_ids"])
    assert torch.equal(answered["response_mask"], turn["response_mask"])


def test_without_a_right_rationale_nothing_moves(small, tmp_path, monkeypatch):
    """Wrong rationales have no gradient; the row says null, and the run goes on."""
    monkeypatch.setattr(common, "judge_all", lambda responses, *_: [False] * len(responses))
    intro.main(small(script=intro, iterations=2))
    last = read_jsonl(tmp_path / "run" / "metrics.jsonl")[-1]
    assert last["rollout/kept"] == 0 and last["losses/policy_solver"] is last["losses/kl_teacher"] is None
    start, end = (
        load_file(path / "model.safetensors")
        for path in (Path("tiny/answered"), tmp_path / "run/checkpoint-000002/solver")
    )
    assert all(torch.equal(start[name], end[name]) for name in start)


def test_micro_batches_change_nothing(small, tmp_path, coin_rewards):
    """The exact loss of an optimiser batch is the same in one piece and one by one."""
    rows = []
    for size in (16, 1):
        args = small(script=intro, estimator="exact", micro_batch_size=size, run_dir=tmp_path / str(size), group_size=4)
        intro.main(args)
        rows.append(read_jsonl(tmp_path / str(size) / "metrics.jsonl")[-1])
    for name in ("losses/policy_solver", "losses/kl_teacher", "losses/grad_norm_solver"):
        assert rows[0][name] == pytest.approx(rows[1][name], rel=1e-4)


# ---- data ----------------------------------------------------------------------------------------------------------


def test_the_list_of_prepare(small, tmp_path, capsys):
    """Problem, solution and last box of the training problems from the level on; a file that exists is kept."""
    rows = [
        {"problem": f"What is {n}?", "solution": f"\\boxed{{0}} no, $\\boxed{{{n}}}$.", "level": f"Level {n % 5 + 1}"}
        for n in range(60)
    ]
    path, output = write_jsonl(tmp_path / "math.jsonl", rows), tmp_path / "list.json"
    args = small(script=intro, dataset=path, min_level=3, prepare=str(output))
    intro.main(args)
    written = json.loads(output.read_text(encoding="utf-8"))
    held_out = {problem.question for problem in common.load_problems(path, "test")}
    kept = [row for n, row in enumerate(rows) if n % 5 >= 2 and row["problem"] not in held_out]
    assert [row["problem"] for row in written] == [row["problem"] for row in kept]
    assert all(row["answer"] == row["problem"][8:-1] and row["solution"].endswith("$.") for row in written)
    assert not (tmp_path / "run").exists()
    with pytest.raises(common.InputError, match="list.json exists"):
        intro.main(args)


def test_the_test_split_is_trained_on_only_if_asked(small, problem_file, capsys):
    common.say.cache_clear()  # it says a sentence once in a process, and another test may have had it said
    plain, asked = (intro.training_problems(small(script=intro, include_test_split=asked)) for asked in (False, True))
    held_out = {problem.question for problem in plain[1]}
    assert held_out and not held_out & {problem.question for problem in plain[0]}
    assert held_out < {problem.question for problem in asked[0]}
    assert "test split are trained on" in capsys.readouterr().err
    args = small(script=intro, split="all", eval_dataset="arithmetic", include_test_split=True)
    both, _ = intro.training_problems(args)
    assert len({problem.id for problem in both}) == len(both)  # each once, though --split all has the test split too


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"dataset": "functions"}, "--dataset functions: a program has no answer"),
        ({"dataset": "countdown", "policy_lm": None}, "sums only, not countdown: give a model by --policy-lm"),
        ({"eval_dataset": "countdown", "policy_lm": None}, "sums only, not countdown: give a model by --policy-lm"),
        ({"answer_template": "The answer"}, "--answer-template must contain {answer}"),
        ({"candidate_top_k": 100_000}, "--candidate-top-k 100000: tiny/answered has "),
        ({"n_candidates": 0}, "--n-candidates must not be 0"),
        ({"min_lr_ratio": 1.5}, "--min-lr-ratio 1.5 must be at most 1"),
    ],
)
def test_flags_that_cannot_work(small, changes, message):
    with pytest.raises(common.InputError, match=message.replace("{", r"\{")):
        common.check_args(args := small(script=intro, **changes))
        intro.main(args)


def test_the_learning_rates_follow_their_schedule():
    """By hand: up over two iterations, then constant, a line or half a cosine, down to a fifth at the tenth."""
    for schedule, expected in {
        "constant": [0.5, 1, 1, 1, 1, 1, 1, 1, 1, 1],
        "linear": [0.5, 1, 0.9, 0.8, 0.7, 0.6, 0.5, 0.4, 0.3, 0.2],
        "cosine": [0.5, 1, 0.9696, 0.8828, 0.7531, 0.6, 0.4469, 0.3172, 0.2304, 0.2],
    }.items():
        args = flags(lr_warmup_iterations=2, lr_schedule=schedule, min_lr_ratio=0.2)
        assert [common.lr_scale(args, n, 10) for n in range(1, 11)] == pytest.approx(expected, abs=1e-4)
    assert common.lr_scale(flags(lr_warmup_iterations=0), 0, 10) == 0.0


def test_tokenizers_of_the_embedded_models_are_one():
    """Red if tiny/answered was made from another tokenizer than tiny."""
    one, other = (AutoTokenizer.from_pretrained(name) for name in ("tiny", "tiny/answered"))
    assert one.get_vocab() == other.get_vocab()
