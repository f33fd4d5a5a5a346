"""How good an embedded model is in each of its roles; `task` is one of the transcripts modules. See pretrain.py."""

import random
from types import SimpleNamespace

import numpy as np

import common


def respond(model, tokenizer, prompts: list[common.Messages]) -> list[str]:
    """One sampled response (T = 1) to each prompt."""
    ids = [common.encode_prompt(tokenizer, prompt)[0] for prompt in prompts]
    inputs = tokenizer.pad({"input_ids": ids}, return_tensors="pt")
    output = model.generate(**inputs, do_sample=True, temperature=1.0, top_k=0, top_p=1.0, max_new_tokens=64)
    return tokenizer.batch_decode(output[:, inputs["input_ids"].shape[1] :], skip_special_tokens=True)


def measure(model, tokenizer, task, args) -> None:
    """Prints three transcripts and how good each role is."""
    rng = random.Random(args.seed)
    problems = task.load("test", args.eval_problems, args.seed)
    attempts = respond(model, tokenizer, [common.attempt_messages(p) for p in problems])
    true, wrong, prompts = [], [], []
    told = {"level": task.LEVELS[-1]} if hasattr(task, "LEVELS") else {}
    flags = SimpleNamespace(test_results=told.get("level", "none"), code_timeout=5.0)
    for problem, text, results in zip(problems, attempts, common.test_results(attempts, problems, flags)):
        facts, student = task.read_problem(problem), task.read_attempt(text)
        true.append(task.feedback_text(*task.check(facts, student, (0, 0), args, rng, **told)))
        wrong.append(task.feedback_text(*task.check(facts, student, (1, 1), args, rng, **told)))
        prompts.append(common.feedback_messages(problem, text, results))
    own = respond(model, tokenizer, prompts)

    def right(texts: list[str]) -> np.ndarray:
        return np.array(common.verify_all(texts, problems))

    first = right(attempts)
    table = {"attempt": first, "feedback exactly right": np.array(own) == np.array(true)}
    for name, feedback in (("own", own), ("true", true), ("wrong", wrong)):
        prompts = [common.refine_messages(p, z, g) for p, z, g in zip(problems, attempts, feedback)]
        refinements = respond(model, tokenizer, prompts)
        table[f"refinement, {name} feedback"] = right(refinements)
        if name == "own":
            for p, z, g, y in list(zip(problems, attempts, own, refinements))[:3]:
                print(f"\n{p.statement}\n-- attempt\n{z}\n-- feedback\n{g}\n-- refinement\n{y}")
    if args.task == "answered":
        prompts = [common.answered_messages(p, common.ANSWERED) for p in problems]
        table["attempt, answer shown"] = right(respond(model, tokenizer, prompts))
    prompts = [common.self_correct_messages(p, z) for p, z in zip(problems, attempts)]
    table["self-correction"] = right(respond(model, tokenizer, prompts))
    print(f"\n{len(problems)} test problems, T = 1{'all':>16s}  attempt right  attempt wrong")
    for name, values in table.items():
        print(f"{name:28s} {values.mean():14.3f} {values[first == 1].mean():14.3f} {values[first == 0].mean():14.3f}")
