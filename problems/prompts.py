"""Prompts: one text for each task and turn, as chat messages, and how a tokenizer makes token ids of them.

A message is a dict with role and content. Messages become text by the tokenizer's chat template, or plainly where it
has none.
"""

import json
import sys
from pathlib import Path

from problems import InputError, Problem

Messages = list[dict[str, str]]

SOLVE = "Solve the problem step by step. Put the final answer in \\boxed{}."
STUDENT = "A student's solution:\n"
CHECK = "Check the solution step by step and point out the first mistake, if there is one. Do not solve the rest."
FEEDBACK = "Feedback on your solution:\n"
REFINE = "Solve the problem again, using the feedback. Put the final answer in \\boxed{}."
SELF_CORRECT = "There may be a mistake in your solution. Solve it again. Put the final answer in \\boxed{}."
# The same for code problems.
SOLVE_CODE = "Write the program in Python. Put all of it in one ```python block."
CHECK_CODE = "Check the program line by line and point out the first mistake, if there is one. Do not write the rest."
REFINE_CODE = "Write the program again, using the feedback. Put all of it in one ```python block."
SELF_CORRECT_CODE = "There may be a mistake in your program. Write it again. Put all of it in one ```python block."


def demonstration(question: str, response: str) -> Messages:
    """A solved problem, as it stands before the one to solve."""
    return [{"role": "user", "content": f"{question}\n\n{SOLVE}"}, {"role": "assistant", "content": response}]


# What stands before a mathematical problem: nothing, or one demonstration.
PROMPT_TEMPLATES: dict[str, Messages] = {
    "none": [],
    "baseline": demonstration(
        "How often does the letter e occur in the word “cheese”?",
        "The letters are 1) c, 2) h, 3) e, 4) e, 5) s, 6) e. The letter e stands at places 3, 4 and 6. \\boxed{3}",
    ),
    "step_by_step": demonstration(
        "A ticket costs 7 dollars and a guide 4 dollars. What do 3 tickets and 2 guides cost together?",
        "Step 1: the tickets. 3 tickets at 7 dollars cost 3 * 7 = 21 dollars.\n"
        "Step 2: the guides. 2 guides at 4 dollars cost 2 * 4 = 8 dollars.\n"
        "Step 3: the sum. 21 + 8 = 29.\n"
        "\\boxed{29}",
    ),
    "concise": demonstration("What is 30 % of 70?", "0.3 * 70 = \\boxed{21}"),
}


def load_template(name: str, problems: list[Problem]) -> Messages:
    """What stands before each problem: one of PROMPT_TEMPLATES, or the messages of a .json file. Raises InputError."""
    if name in PROMPT_TEMPLATES:
        if PROMPT_TEMPLATES[name] and any(problem.tests for problem in problems):
            raise InputError(f"--prompt-template {name} shows a mathematical solution: choose none or a file for code")
        return PROMPT_TEMPLATES[name]
    names = ", ".join(PROMPT_TEMPLATES)
    if not name.endswith(".json"):
        raise InputError(f"unknown --prompt-template {name}: choose {names}, or a .json file with a list of messages")
    try:
        messages = json.loads(Path(name).read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise InputError(f"--prompt-template {name} cannot be read as JSON: {error}") from error
    if not isinstance(messages, list):
        raise InputError(f"--prompt-template {name} is not a list of messages")
    for number, message in enumerate(messages, 1):
        whole = isinstance(message, dict) and message.keys() == {"role", "content"}
        if (
            not whole
            or not isinstance(message["content"], str)
            or message["role"] not in ("system", "user", "assistant")
        ):
            parts = "role (system, user or assistant) and content (a text)"
            raise InputError(f"--prompt-template {name}, message {number}: it must have {parts} and nothing else")
    return messages


def attempt_messages(problem: Problem, template: Messages = ()) -> Messages:
    """Turn 1, x: the prompt of the first attempt z, after the messages of a template."""
    solve = SOLVE_CODE if problem.tests else SOLVE
    return [*template, {"role": "user", "content": f"{problem.statement}\n\n{solve}"}]


def feedback_messages(problem: Problem, attempt: str) -> Messages:
    """(x, z): the prompt of the feedback g. The statement comes first, so that a prefix of it holds x alone."""
    check = CHECK_CODE if problem.tests else CHECK
    return [{"role": "user", "content": f"{problem.statement}\n\n{STUDENT}{attempt}\n\n{check}"}]


def refine_messages(problem: Problem, attempt: str, feedback: str, template: Messages = ()) -> Messages:
    """Turn 2, (x, z, g): the prompt of the refinement y."""
    refine = REFINE_CODE if problem.tests else REFINE
    return [
        *attempt_messages(problem, template),
        {"role": "assistant", "content": attempt},
        {"role": "user", "content": f"{FEEDBACK}{feedback}\n\n{refine}"},
    ]


def self_correct_messages(problem: Problem, attempt: str, template: Messages = ()) -> Messages:
    """Turn 2 with a fixed instruction instead of feedback (SCoRe)."""
    return [
        *attempt_messages(problem, template),
        {"role": "assistant", "content": attempt},
        {"role": "user", "content": SELF_CORRECT_CODE if problem.tests else SELF_CORRECT},
    ]


def render(tokenizer, messages: Messages) -> str:
    """A prompt's text: by the tokenizer's chat template, or plain where it has none."""
    if tokenizer.chat_template:
        return tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=True)
    return "".join(message["content"] + "\n" for message in messages)


def encode_prompt(tokenizer, messages: Messages, statement: str = "") -> tuple[list[int], int]:
    """Token ids of a prompt, and how many of them come before whatever follows the problem's statement.

    statement: what the last message begins with. Its end is found by a mark that is put behind it and taken out of the
    rendered text again, whatever the template makes of the statement. The part up to there is tokenized by itself, so
    that it is the same whatever follows: the value of x is read there. Raises InputError.
    """
    text, cut = render(tokenizer, messages), None
    if statement:
        mark = "10"  # digits, which no template rewrites; however long, it cannot overlap itself
        while mark in text:
            mark += "0"
        content = messages[-1]["content"].removeprefix(statement)
        marked = render(tokenizer, [*messages[:-1], messages[-1] | {"content": statement + mark + content}])
        before, found, after = marked.partition(mark)
        if not found or mark in after:
            raise InputError("the tokenizer's chat template must show the last message once: --no-chat-template does")
        text = before + after
        cut = len(text) - len(after.lstrip())  # the blank line after the statement belongs to it
    prefix = tokenizer(text[:cut], add_special_tokens=not tokenizer.chat_template).input_ids  # templates write BOS
    rest = tokenizer(text[cut:], add_special_tokens=False).input_ids if cut is not None else []
    return prefix + rest, len(prefix)


def check_lengths(tokenizer, prompts: list[Messages], problems: list[Problem], room: int, config, flag: str) -> None:
    """Raises InputError for the first problem whose prompt and `room` more tokens do not fit a model's context."""
    context = getattr(config, "max_position_embeddings", None) or sys.maxsize
    for problem, messages in zip(problems, prompts):
        if len(render(tokenizer, messages).encode()) + room > context:  # a prompt has fewer tokens than bytes
            length = len(encode_prompt(tokenizer, messages)[0]) + room
            if length > context:
                name = f"the model of {flag} reads {context}"
                raise InputError(f"{problem.id}: prompt and responses can take {length} tokens, but {name}")
