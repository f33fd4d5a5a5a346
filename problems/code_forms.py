"""Code problems of other forms than a list of asserts: HumanEval's check(candidate), programs that read and print.

Both become asserts with setup code, as verifiers/asserts.py splits them.
"""

import ast
import json

from verifiers.asserts import parse

# A program that reads and prints: what it prints is a call of the sandbox's stdout_of; these helpers judge, without it.
# The same words; numbers of which one has a decimal point may differ by 1e-6, relative or absolute.
SAME_OUTPUT = r"""
def same_output(printed, expected):
    words, wanted = printed.split(), expected.split()
    return len(words) == len(wanted) and all(same_word(*pair) for pair in zip(words, wanted))
def same_word(word, wanted):
    number = r"[-+]?(\d+(\.\d*)?|\.\d+)([eE][-+]?\d+)?"
    whole = [re.fullmatch(r"[-+]?\d+", each) is not None for each in (word, wanted)]
    if word == wanted or all(whole) or not (re.fullmatch(number, word) and re.fullmatch(number, wanted)):
        return word == wanted
    size, difference = abs(float(wanted)), abs(float(word) - float(wanted))
    if whole[1]:  # a float cannot stand for a large integer
        return size < 2**53 and difference <= 1e-6
    return difference <= 1e-6 * max(1.0, size) < 1e300
"""
STREAM_SETUP = "import re\n" + SAME_OUTPUT.strip()


def check_tests(test: str, entry_point: str) -> tuple[list[str], str]:
    """(asserts, setup code) from the source of check(candidate), as HumanEval has it.

    Raises ValueError for a check that does more than assert: its asserts cannot be judged one by one.
    """
    body = parse(test).body
    checks = [node for node in body if isinstance(node, ast.FunctionDef) and node.name == "check" and node.args.args]
    if not checks:
        raise ValueError("test defines no check(candidate)")
    setup = [node for node in body if isinstance(node, (ast.Import, ast.ImportFrom, ast.FunctionDef, ast.Assign))]
    tests, candidate = [], checks[-1].args.args[0].arg
    for node in checks[-1].body:
        if isinstance(node, ast.Assert) and any(isinstance(part, ast.Name) for part in ast.walk(node.test)):
            for part in ast.walk(node):
                if isinstance(part, ast.Name) and part.id == candidate:
                    part.id = entry_point
            tests.append(ast.unparse(ast.Assert(node.test)))
        elif not isinstance(node, (ast.Assert, ast.Pass)) and not is_constant(node):  # `assert True` says nothing
            raise ValueError(f"check does more than assert: {ast.unparse(node).splitlines()[0][:60]}")
    if not tests:
        raise ValueError("check asserts nothing")
    return tests, "\n".join(ast.unparse(node) for node in setup if node is not checks[-1])


def is_constant(node: ast.stmt) -> bool:
    return isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant)  # a docstring


def stream_tests(value) -> list[tuple[str, str]]:
    """(input, output) of each case of an input_output cell: {"inputs": [...], "outputs": [...]}, or JSON of one.

    An item that is a list holds the lines. Raises ValueError.
    """
    if isinstance(value, str):
        try:
            value = json.loads(value)
        except RecursionError as error:
            raise ValueError("input_output is nested too deeply") from error
        except ValueError as error:
            try:  # as a CSV has it, whose column held dicts
                value = ast.literal_eval(value)
            except (ValueError, SyntaxError, RecursionError, MemoryError):
                raise error from None
    if (
        not isinstance(value, dict)
        or not isinstance(value.get("inputs"), list)
        or not isinstance(value.get("outputs"), list)
    ):
        raise ValueError("input_output is no object with the lists inputs and outputs")
    if value.get("fn_name"):
        raise ValueError("input_output names a function (fn_name): write its tests as asserts in test_list")
    inputs, outputs = (
        ["\n".join(map(str, item)) if isinstance(item, list) else str(item) for item in value[name]]
        for name in ("inputs", "outputs")
    )
    if not inputs or len(inputs) != len(outputs):
        raise ValueError(f"input_output has {len(inputs)} inputs and {len(outputs)} outputs")
    return list(zip(inputs, outputs))


def stream_asserts(cases: list[tuple[str, str]]) -> list[str]:
    return [f"assert same_output(stdout_of({given!r}), {expected!r})" for given, expected in cases]


def examples(cases: list[tuple[str, str]]) -> str:
    """The first cases as a model reads them."""
    return "\n\n".join(f"Input:\n{given.rstrip()}\nOutput:\n{expected.rstrip()}" for given, expected in cases)
