"""Programs in responses: find the program, run it against the asserts in the sandbox."""

import re

from verifiers.asserts import defined_names, parse
from verifiers.sandbox import TIMEOUT, judge_tests

MAX_RESPONSE = 50_000  # characters of a response that are read, counted from its end
MAX_UNFENCED = 10_000  # characters of a program without a fence
FENCE = re.compile(r"\s*+(```++|~~~++)\s*+([\w+#.-]*+)\s*+")  # possessive: what does not match fails in linear time


def extract_code(response: str) -> str | None:
    """The last fenced block of a response, whatever its language; without a block the whole text, if it is Python.

    Only the text after the last </think> counts. A block that is not closed is none: its response was cut short.
    """
    text = response.rsplit("</think>", 1)[-1][-MAX_RESPONSE:]
    block, fence, lines = None, None, []
    for line in text.split("\n"):
        mark = FENCE.fullmatch(line)
        if fence is None and mark:
            fence, lines = mark[1], []
        elif mark and not mark[2] and mark[1].startswith(fence):
            block, fence = "\n".join(lines), None
        elif fence is not None:
            lines.append(line)
    if block is not None or FENCE.match(text):
        return block
    return text if is_python(text) else None


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
