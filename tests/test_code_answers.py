"""Programs in responses, and how asserts are split into calls for the program and checks for the judge."""

import pytest

from verifiers.asserts import defined_names, split_tests
from verifiers.code_answers import extract_code, judge_code, verify_code
from verifiers.sandbox import SandboxError, start_sandbox

DOUBLE = ("assert double(3) == 6", "assert double(-1) == -2")


@pytest.fixture(scope="module")
def sandbox():
    try:
        return start_sandbox()
    except SandboxError as error:
        pytest.skip(str(error))


@pytest.mark.parametrize(
    ("response", "code"),
    [
        ("```python\nx = 1\n```", "x = 1"),
        ("Text.\n```py\na = 1\n```\nBetter:\n```\nb = 2\n\nc = 3\n```\nDone.", "b = 2\n\nc = 3"),
        ("~~~python\nx = 1\n~~~", "x = 1"),
        ("````\n```\nx\n```\n````", "```\nx\n```"),
        ("  ```python\n  x = 1\n  ```", "x = 1"),
        ("1. So:\n   ```python\n   if x:\n       y = 1\n   ```\n2. Done", "if x:\n    y = 1"),
        ("- ```python\n  x = 1\n  ```", "x = 1"),
        ("    ```python\n    x = 1\n  y = 2\n    ```", "x = 1\ny = 2"),
        ('```python title="a.py"\nx = 1\n```', "x = 1"),
        ("```{.python .numberLines}\nx = 1\n```", "x = 1"),
        ("\ufeff```python\n\ufeffx = 1\n```", "x = 1"),
        ("\ufeffx = 1\n", "x = 1\n"),
        (
            '```\ndef f():\n    """\n    ```\n    f()\n    ```\n    """\n```',
            'def f():\n    """\n    ```\n    f()\n    ```\n    """',
        ),
        ('```\n"""\n```\nf()\n```\n"""\nx = 1\n```\nDone.', '"""\n```\nf()\n```\n"""\nx = 1'),
        ('```\nx = 1  # not """\n```\nDone.', 'x = 1  # not """'),
        ("Use ```x``` here:\n```\ny = 1\n```", "y = 1"),
        ("```python\nx = 1", None),
        ("First\n```\na = 1\n```\nthen\n```python\nb = 2", "a = 1"),
        ("def f(x):\n    return x\n", "def f(x):\n    return x\n"),
        ("The function doubles x.", None),
        ("", None),
        ("x = '\0'", None),
        ("-" * 9_000 + "1", None),
        ("x = 1\n" * 5_000, None),
        ("<think>\n```\na = 1\n```\n</think>I give up: sorry.", None),
        ("<think>\n```\na = 1\n```\n</think>\n```\nb = 2\n```", "b = 2"),
        ("```\r\nx = 1\r\n```", "x = 1\r"),
        ("    ```python\ndef f(x):\n    return x\n    ```", "def f(x):\n    return x"),
        ("1. ```\n\tdef f(x):\n\t\treturn x\n   ```", "def f(x):\n\treturn x"),
        ("\t```\n    def f(x):\n        return x\n\t```", "def f(x):\n    return x"),
    ],
)
def test_extraction(response, code):
    assert extract_code(response) == code


@pytest.mark.parametrize(
    ("test", "calls", "check"),
    [
        ("assert f(3) == 6", ["f(3)"], "__v[0] == 6"),
        ("assert 6 == f(3), 'message'", ["f(3)"], "6 == __v[0]"),
        ("assert sorted(f([2, 1])) == sorted([1, 2])", ["f([2, 1])"], "sorted(__v[0]) == sorted([1, 2])"),
        ("assert f(g(1)) == 2", ["f(g(1))"], "__v[0] == 2"),
        ("assert not f(3)", ["f(3)"], "not __v[0]"),
        ("assert math.isclose(f(2), 1.5, rel_tol=0.1)", ["f(2)"], "math.isclose(__v[0], 1.5, rel_tol=0.1)"),
        ("assert f(1) < 3 and f(2) > 1", ["f(1)", "f(2)"], "__v[0] < 3 and __v[1] > 1"),
        ("assert Stack([1]).items[0].pop() == 1", ["Stack([1]).items[0].pop()"], "__v[0] == 1"),
        ("assert f(1)[0].x() == 1", ["f(1)[0].x()"], "__v[0] == 1"),
        ("assert all(w.isupper() for w in f('a b'))", ["f('a b')"], "all((w.isupper() for w in __v[0]))"),
        ("assert 1 < f(2) < 3", ["f(2)"], "1 < __v[0] < 3"),
        ("assert f(1).__eq__(3)", ["f(1)"], "__v[0].__eq__(3)"),
        ("assert f(1).__eq__(3) == True", ["f(1)"], "__v[0].__eq__(3) == True"),
        ("assert f(1).__eq__(3) == 1", ["f(1)"], "__v[0].__eq__(3) == 1"),
        ("assert f('x').startswith('abc') == 1", ["f('x')"], "__v[0].startswith('abc') == 1"),
        ("assert f('x').startswith('abc')", ["f('x')"], "__v[0].startswith('abc')"),
        ("assert not f('x').strip().startswith('abc')", ["f('x')"], "not __v[0].strip().startswith('abc')"),
        ("assert f('x').lower() == 'abc'", ["f('x').lower()"], "__v[0] == 'abc'"),
        ("assert Stack(3).push(4).items[0] == 4", ["Stack(3).push(4).items"], "__v[0][0] == 4"),
        ("assert bank.deposit(5) == 5", ["bank.deposit(5)"], "__v[0] == 5"),
        ("assert len(f(2)) == 2 and f(2)[1] == 1", ["f(2)", "f(2)"], "len(__v[0]) == 2 and __v[1][1] == 1"),
    ],
)
def test_what_is_asked_and_what_is_checked(test, calls, check):
    split = split_tests((test,))
    assert (list(split.calls), list(split.checks)) == (calls, [check])


@pytest.mark.parametrize(
    ("test", "setup", "message"),
    [
        ("assert f(2) == f(3)", "", "needs f of the program"),
        ("assert f(2) == EXPECTED", "EXPECTED = 3", "needs EXPECTED of the program"),
        ("assert all(f(i) == i for i in range(3))", "", "calls the program with i"),
        ("assert (lambda n: f(n) == 2)(3)", "", "calls the program with n"),
        ("assert sum([1, 2]) == 3", "", "calls no function"),
        ("assert True", "", "calls no function"),
        ("f(3) == 6", "", "not one assert"),
        ("assert f(3) == 6; assert f(4) == 8", "", "not one assert"),
        ("assert f(3 == 6", "", "is not Python"),
        ("assert f(3) == 6", "import numpy", "imports numpy"),
        ("assert f(3) == 6", "from .x import y", "imports a relative module"),
    ],
)
def test_tests_that_cannot_be_judged_without_the_program(test, setup, message):
    with pytest.raises(ValueError, match=message):
        split_tests((test,), setup)


HELPERS = "def near(x, y):\n    return size(x - y) < 1e-6\ndef size(x): return abs(x)\ndef fits(x): return area(x) == 9"


def test_helpers_of_the_setup_judge():
    """A checker that needs nothing of the program runs where no program does; one that does may not decide a test."""
    split = split_tests(("assert near(area(3), 28.27)",), HELPERS)
    assert split.calls == ("area(3)",) and split.checks == ("near(__v[0], 28.27)",)
    assert [statement.split("(")[0] for statement in split.imports] == ["def size", "def near"]
    for test in ("assert fits(3)", "assert not fits(3)", "assert fits(3) == True", "assert f(1) == 1 and fits(3)"):
        with pytest.raises(ValueError, match="is decided by fits of the setup code"):
            split_tests((test,), HELPERS)
    assert split_tests(("assert near(3) == 4",), HELPERS, frozenset({"near"})).calls == ("near(3)",)


def test_names_of_the_reference_may_shadow_builtins():
    """MBPP asks for a function `sum`: its calls go to the program because the reference defines that name."""
    reference = "def sum(a, b):\n    return a - b\nclass set: pass\nlimit = other = 3"
    assert defined_names(reference) == {"sum", "set", "limit", "other"}
    assert split_tests(("assert sum(10, 4) == 6",), "", defined_names(reference)).calls == ("sum(10, 4)",)
    assert defined_names("def broken(:") == frozenset()


def test_imports_of_the_setup_serve_calls_and_checks(sandbox):
    setup = "import cmath as c\nfrom collections import Counter\nstart = 4"
    tests = ("assert c.isclose(f(start), 2)", "assert Counter(g()) == Counter('ab')")
    program = "def f(x): return x / 2\ndef g(): return 'ba'"
    assert verify_code(f"```\n{program}\n```", tests, setup)
    assert not verify_code(f"```\n{program.replace('ba', 'bb')}\n```", tests, setup)


def test_a_response_is_right_only_if_every_test_passes(sandbox):
    right = "Here it is.\n```python\ndef double(n):\n    return 2 * n\n```"
    assert judge_code(right, DOUBLE) is True
    assert judge_code(right.replace("2 * n", "6"), DOUBLE) is False
    assert judge_code("I do not know.", DOUBLE) is False
    assert judge_code("```\ndef double(n): return\n", DOUBLE) is False
    assert judge_code("```\nwhile True: pass\n```", DOUBLE, timeout=0.3) is None
    assert not verify_code("```\nwhile True: pass\n```", DOUBLE, timeout=0.3)


def test_hard_coded_shown_tests_do_not_pay(sandbox):
    """A program that knows the first test alone fails."""
    assert not verify_code("```\ndef double(n):\n    if n == 3: return 6\n```", DOUBLE)


def test_a_program_in_the_windows_manner(sandbox):
    assert verify_code("```python\r\ndef double(n):\r\n\treturn 2 * n\r\n```", DOUBLE)
