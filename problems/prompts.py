"""Prompts: one text for each task and turn, as chat messages, and how a tokenizer makes token ids of them.

A message is a dict with role and content. Messages become text by the tokenizer's chat template, or plainly where it
has none.
"""

import json
import re
import sys
from dataclasses import replace
from datetime import date
from pathlib import Path

from problems import InputError, Instructions, Problem

Messages = list[dict[str, str]]
DATE = date(2024, 7, 26)  # the date in prompts of chat templates that state today's: a run must not depend on the day

SOLVE = "Solve the problem step by step. Put the final answer in \\boxed{}."
STUDENT = "A student's solution:\n"
VERDICTS = ("The solution is wrong.", "The solution is right.")  # what --test-results verdict tells the feedback model
RESULTS = "What the tests gave:\n"
DOUBT = "There may be a mistake in your solution."  # what the solver reads with --feedback-control fixed
CHECK = "Check the solution step by step and point out the first mistake, if there is one. Do not solve the rest."
FEEDBACK = "Feedback on your solution:\n"
REFINE = "Solve the problem again, using the feedback. Put the final answer in \\boxed{}."
SELF_CORRECT = DOUBT + " Solve it again. Put the final answer in \\boxed{}."
ANSWERED = " ###Answer:{answer} ###Solution:"  # behind the problem where its answer is shown
# The same for code problems.
SOLVE_CODE = "Write the program in Python. Put all of it in one ```python block."
CHECK_CODE = "Check the program line by line and point out the first mistake, if there is one. Do not write the rest."
REFINE_CODE = "Write the program again, using the feedback. Put all of it in one ```python block."
SELF_CORRECT_CODE = "There may be a mistake in your program. Write it again. Put all of it in one ```python block."
SHOW_ONCE = "the tokenizer's chat template must show the last message once: --no-chat-template does"


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


def instruct(problems: list[Problem], args) -> list[Problem]:
    """The problems with the texts of --solve-prompt, --feedback-prompt, --refine-prompt and --system-prompt, where a
    script has them: each a text, or a .txt file that holds it. Raises InputError."""
    texts = {"solve": args.solve_prompt, "system": args.system_prompt}
    if hasattr(args, "refine_prompt"):
        texts["refine"] = args.refine_prompt
    if hasattr(args, "feedback_prompt"):
        texts["feedback"] = args.feedback_prompt
    for name, text in texts.items():
        if text is not None and text.endswith(".txt"):
            try:
                texts[name] = Path(text).read_text(encoding="utf-8-sig").rstrip("\n")
            except (OSError, ValueError, RecursionError) as error:
                raise InputError(f"--{name}-prompt {text} cannot be read: {error}") from error
    return [replace(problem, instructions=Instructions(**texts)) for problem in problems]


def load_template(name: str, problems: list[Problem]) -> Messages:
    """What stands before each problem: one of PROMPT_TEMPLATES, or the messages of a .json file. Raises InputError."""
    own = problems[0].instructions if problems else Instructions()
    if name in PROMPT_TEMPLATES:
        if PROMPT_TEMPLATES[name] and any(problem.tests for problem in problems):
            raise InputError(f"--prompt-template {name} shows a mathematical solution: choose none or a file for code")
        messages = PROMPT_TEMPLATES[name]
        if own.solve is None:
            return messages
        return [
            m | {"content": ask(m["content"].removesuffix(f"\n\n{SOLVE}"), own.solve)} if m["role"] == "user" else m
            for m in messages
        ]
    names = ", ".join(PROMPT_TEMPLATES)
    if not name.endswith(".json"):
        raise InputError(f"unknown --prompt-template {name}: choose {names}, or a .json file with a list of messages")
    try:
        messages = json.loads(Path(name).read_text(encoding="utf-8-sig"))
    except (OSError, ValueError, RecursionError) as error:
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
    if own.system and any(message["role"] == "system" for message in messages):
        raise InputError(f"--prompt-template {name} has a system message of its own: leave out --system-prompt")
    return messages


def ask(text: str, instruction: str) -> str:
    """A text and what is asked about it."""
    return f"{text}\n\n{instruction}" if instruction else text


def instruction(problem: Problem, turn: str, maths: str, code: str) -> str:
    """What a turn is asked for: by a flag's text, or by the one for this kind of problem."""
    own = getattr(problem.instructions, turn)
    return own if own is not None else code if problem.tests else maths


def system_messages(problem: Problem) -> Messages:
    system = problem.instructions.system
    return [{"role": "system", "content": system}] if system else []


def attempt_messages(problem: Problem, template: Messages = ()) -> Messages:
    """Turn 1, x: the prompt of the first attempt z, after the messages of a template."""
    content = ask(problem.statement, instruction(problem, "solve", SOLVE, SOLVE_CODE))
    return [*system_messages(problem), *template, {"role": "user", "content": content}]


def answered_messages(problem: Problem, answer_template: str, template: Messages = ()) -> Messages:
    """(x, y): turn 1's prompt with the gold answer behind it; answer_template is a text with {answer}."""
    *before, last = attempt_messages(problem, template)
    return [*before, last | {"content": last["content"] + answer_template.replace("{answer}", problem.answer)}]


def feedback_messages(problem: Problem, attempt: str, results: str = "") -> Messages:
    """(x, z): the prompt of the feedback g. The statement comes first, so that a prefix of it holds x alone.

    results: what --test-results tells of the attempt; the solver never reads it.
    """
    check = instruction(problem, "feedback", CHECK, CHECK_CODE)
    content = ask("\n\n".join(filter(None, (problem.statement, STUDENT + attempt, results))), check)
    return [*system_messages(problem), {"role": "user", "content": content}]


def refine_messages(problem: Problem, attempt: str, feedback: str, template: Messages = ()) -> Messages:
    """Turn 2, (x, z, g): the prompt of the refinement y."""
    refine = instruction(problem, "refine", REFINE, REFINE_CODE)
    return [
        *attempt_messages(problem, template),
        {"role": "assistant", "content": attempt},
        {"role": "user", "content": ask(f"{FEEDBACK}{feedback}", refine)},
    ]


def self_correct_messages(problem: Problem, attempt: str, template: Messages = ()) -> Messages:
    """Turn 2 with a fixed instruction instead of feedback (SCoRe)."""
    return [
        *attempt_messages(problem, template),
        {"role": "assistant", "content": attempt},
        {"role": "user", "content": instruction(problem, "refine", SELF_CORRECT, SELF_CORRECT_CODE)},
    ]


def render(tokenizer, messages: Messages) -> str:
    """A prompt's text: by the tokenizer's chat template, or plain where it has none. Raises InputError."""
    if not tokenizer.chat_template:
        return "".join(message["content"] + "\n" for message in messages)
    # Templates ask for today's date in two ways, by a call and by a variable.
    asked = r"strftime_now\(\s*(['\"])(.+?)\1\s*\)"
    try:
        template = re.sub(asked, lambda match: repr(DATE.strftime(match[2])), tokenizer.get_chat_template())
        settings = {"chat_template": template, "date_string": DATE.strftime("%d %b %Y"), "add_generation_prompt": True}
        return tokenizer.apply_chat_template(messages, tokenize=False, **settings)
    except Exception as error:  # templates raise errors of their own where they do not know a role, for example
        reason = f"the tokenizer's chat template refuses these messages: {error}"
        raise InputError(f"{reason}; --no-chat-template goes without it") from error


def opening_ids(tokenizer) -> list[int]:
    """What a tokenizer itself puts before a text (BOS), without what it appends (an EOS would end the prompt)."""
    whole, bare = tokenizer("1").input_ids, tokenizer("1", add_special_tokens=False).input_ids
    starts = [start for start in range(len(whole)) if whole[start : start + len(bare)] == bare]
    return whole[: starts[0]] if starts else []


def encode_prompt(tokenizer, messages: Messages, statement: str = "") -> tuple[list[int], int]:
    """Token ids of a prompt, and how many of them come before whatever follows the problem's statement.

    statement: what the last message begins with. The part up to its end is tokenized by itself, so that it is the same
    whatever follows: the value of x is read there. A message that spells a special token, such as <|im_end|>, stays
    text. Ends and spellings are found by marks that are put in their place, whatever the template makes of the rest.
    Raises InputError.
    """
    contents = [message["content"] for message in messages]
    special = [token.content for token in tokenizer.added_tokens_decoder.values() if token.special]
    spelled = [text for text in special if any(text in content for content in contents)]
    text = render(tokenizer, messages)
    opening = [] if tokenizer.chat_template else opening_ids(tokenizer)  # templates write BOS themselves
    if not statement and not spelled:
        ids = opening + tokenizer(text, add_special_tokens=False).input_ids
        return ids, len(ids)

    mark = "10"  # digits, which no template rewrites; whatever stands beside it, it cannot overlap itself
    while mark in text:
        mark += "0"
    if statement:
        contents[-1] = f"{statement}{mark}3{contents[-1].removeprefix(statement)}"
    for number, spelling in enumerate(spelled, 1):
        contents = [content.replace(spelling, f"{mark}{'2' * number}3") for content in contents]
    marked = [message | {"content": content} for message, content in zip(messages, contents)]
    parts = re.split(f"{mark}(2*)3", render(tokenizer, marked))  # texts, and between them the twos of the marks

    def tokenized(first: int, last: int) -> list[int]:
        ids = []
        for index in range(first, last):
            is_mark = index % 2 == 1
            piece = spelled[len(parts[index]) - 1] if is_mark else parts[index]
            flags = {"add_special_tokens": False, "split_special_tokens": is_mark}
            ids += tokenizer(piece, **flags).input_ids if piece else []
        return ids

    if not statement:
        ids = opening + tokenized(0, len(parts))
        return ids, len(ids)
    ends = [index for index in range(1, len(parts), 2) if not parts[index]]
    if len(ends) != 1:
        raise InputError(SHOW_ONCE)
    (end,) = ends
    rest = parts[end + 1].lstrip()  # the blank line after the statement belongs to it
    parts[end - 1] += parts[end + 1][: len(parts[end + 1]) - len(rest)]
    parts[end + 1] = rest
    prefix = opening + tokenized(0, end)
    return prefix + tokenized(end + 1, len(parts)), len(prefix)


def context_length(config) -> int:
    """The most tokens that a model reads."""
    return getattr(config.get_text_config(), "max_position_embeddings", None) or sys.maxsize


def fit_prompts(
    prompts: list[tuple[list[int], int]], config, room: int
) -> tuple[list[tuple[list[int], int]], list[bool]]:
    """Prompts that leave `room` tokens of a model's context, and which of them lost their beginning for it.

    At the start of a run all fit; an earlier turn, tokenized again, can take more tokens than it was sampled with.
    """
    most = context_length(config) - room
    cut = [len(ids) > most for ids, _ in prompts]
    return [(ids[-most:], max(1, length - max(0, len(ids) - most))) for ids, length in prompts], cut


def check_lengths(
    tokenizer, prompts: list[Messages], problems: list[Problem], room: int, config, flag: str
) -> list[str]:
    """The rendered prompts. Raises InputError for the first that leaves less than `room` tokens of the context."""
    context, mark = context_length(config), "1020304"
    for messages in prompts[:1]:
        if mark not in render(tokenizer, [*messages[:-1], messages[-1] | {"content": mark}]):
            raise InputError(f"{flag}: {SHOW_ONCE}")
    texts = [render(tokenizer, messages) for messages in prompts]
    for problem, messages, text in zip(problems, prompts, texts):
        if len(text.encode()) + room > context:  # a prompt has fewer tokens than bytes
            length = len(encode_prompt(tokenizer, messages)[0]) + room
            if length > context:
                name = f"the model of {flag} reads {context}"
                raise InputError(f"{problem.id}: prompt and responses can take {length} tokens, but {name}")
    return texts
