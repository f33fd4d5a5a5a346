"""Programs in responses: find the program, run it against the asserts in the sandbox."""

import re

from verifiers.asserts import defined_names, parse
from verifiers.sandbox import TIMEOUT, judge_and_show, judge_tests

MAX_RESPONSE = 50_000  # characters of a response that are read, counted from its end
MAX_UNFENCED = 10_000  # characters of a program without a fence
# Possessive, so that what does not match fails in linear time. A fence may stand in a list item and name a file.
OPENING = re.compile(r"(\s*+(?:(?:[-*+]|\d{1,3}[.)])\s++)?+)(```++|~~~++)([^`\n]*+)")
CLOSING = re.compile(r"\s*+(```++|~~~++)\s*+")


def extract_code(response: str) -> str | None:
    """The last fenced block of a response, whatever its language; without a block the whole text, if it is Python.

    Only the text after the last </think> counts. A block that is not closed is none: its response was cut short. A
    fence in a docstring of the block does not close it.
    """
    text = response.rsplit("</think>", 1)[-1][-MAX_RESPONSE:].replace("\ufeff", "")
    lines = text.split("\n")
    block, closed = last_block(lines, docstrings=True)
    if not closed:
        block, _ = last_block(lines, docstrings=False)
    if block is not None or OPENING.match(text):
        return block
    return text if is_python(text) else None


def last_block(lines: list[str], docstrings: bool) -> tuple[str | None, bool]:
    """(the last block, whether no block is left open at the end); its lines lose the indentation of the first.

    docstrings: a fence between triple quotes closes nothing.
    """
    block, fence, quotes, content = None, None, 0, []
    for line in lines:
        opening, closing = OPENING.fullmatch(line), CLOSING.fullmatch(line)
        if fence is None:
            if opening:
                fence, quotes, content = opening[2], 0, []
        elif closing and closing[1].startswith(fence) and not (docstrings and quotes % 2):
            width = next((len(line) - len(line.lstrip()) for line in content if line.strip()), 0)
            block = "\n".join(line[min(width, len(line) - len(line.lstrip())) :] for line in content)
            fence = None
        else:
            content.append(line)
            quotes += line.count('"""') + line.count("'''")
    return block, fence is None


def is_python(text: str) -> bool:
    try:
        return bool(text.strip()) and len(text) <= MAX_UNFENCED and bool(parse(text))
    except ValueError:
        return False


def judge_code(
    response: str, tests: tuple[str, ...], setup_code: str = "", reference: str = "", timeout: float = TIMEOUT
) -> bool | None:
    """True if the program in a response passes every test, False if not, None if a bound cut it short: time or output.

    reference: a solution whose names the tests call; needed where one shadows a builtin. Raises ValueError for tests
    that cannot be split (verifiers/asserts.py) and SandboxError, never anything for what a response contains.
    """
    code = extract_code(response)
    if code is None:
        return False
    passed, ended = judge_tests(code, tests, setup_code, defined_names(reference), timeout)
    return all(passed) or (False if ended else None)


def verify_code(
    response: str, tests: tuple[str, ...], setup_code: str = "", reference: str = "", timeout: float = TIMEOUT
) -> bool:
    """True if the program in a response passes every test; see judge_code."""
    return judge_code(response, tests, setup_code, reference, timeout) is True


def tell_tests(
    response: str, tests: tuple[str, ...], setup_code: str = "", reference: str = "", timeout: float = TIMEOUT
) -> str:
    """A line for each test: what its calls gave, and whether it passed. Raises as judge_code does."""
    code = extract_code(response)
    if code is None:
        return "\n".join(f"{test.strip()} -> no program: fails" for test in tests)
    passed, _, shown = judge_and_show(code, tests, setup_code, defined_names(reference), timeout, show=True)
    values = [", ".join(value or "no value" for value in found) for found in shown]
    outcomes = ["passes" if holds else "fails" for holds in passed]
    return "\n".join(f"{test.strip()} -> {value}: {outcome}" for test, value, outcome in zip(tests, values, outcomes))
