"""Splits asserts into what the untrusted program computes and what is judged without it.

    assert sorted(f(3)) == [1, 2]   ->   call "f(3)", check "sorted(__v[0]) == [1, 2]"

The program answers the calls and never sees a check, so it cannot read the expected values, and nothing that it defines
(an __eq__ that is always true, a `set` of its own) takes part in a check.
"""

import ast
import builtins
import functools
import sys
import threading
import warnings
from dataclasses import dataclass


@dataclass(frozen=True)
class SplitTests:
    imports: tuple[str, ...]  # import statements of the setup code, for the checks
    calls: tuple[str, ...]  # expressions that the program evaluates
    checks: tuple[str, ...]  # one expression for each assert, in which __v[i] is the value of calls[i]


class CallLifter(ast.NodeTransformer):
    """Replaces the outermost calls of names that are not trusted by __v[i], on one side of each comparison."""

    def __init__(self, trusted: set[str], calls: list[str]):
        self.trusted, self.calls = trusted, calls

    def visit_Call(self, node: ast.Call) -> ast.AST:
        root = node.func
        while isinstance(root, (ast.Attribute, ast.Subscript, ast.Call)):  # Stack(3).items[0].pop()
            root = root.func if isinstance(root, ast.Call) else root.value
        if not isinstance(root, ast.Name) or root.id in self.trusted:
            return self.generic_visit(node)
        self.calls.append(ast.unparse(node))
        return ast.parse(f"__v[{len(self.calls) - 1}]", mode="eval").body

    def visit_Compare(self, node: ast.Compare) -> ast.AST:
        before = len(self.calls)
        node.left = self.visit(node.left)
        if len(self.calls) == before:
            node.comparators = [self.visit(side) for side in node.comparators]
        return node  # a call that is left on the other side is found by split_tests


@functools.lru_cache(maxsize=10_000)
def split_tests(tests: tuple[str, ...], setup_code: str = "", names: frozenset[str] = frozenset()) -> SplitTests:
    """Splits asserts. All of it is trusted text: no part comes from a program under test.

    names: what a reference solution defines; needed where that shadows a builtin, as in MBPP's `sum`.
    Raises ValueError for a test that cannot be judged without the program.
    """
    statements = [node for node in ast.walk(parse(setup_code)) if isinstance(node, (ast.Import, ast.ImportFrom))]
    modules = [alias.name for node in statements for alias in node.names if isinstance(node, ast.Import)]
    modules += ["" if node.level else node.module for node in statements if isinstance(node, ast.ImportFrom)]
    for module in modules:
        if module.split(".")[0] not in sys.stdlib_module_names:
            raise ValueError(
                f"the setup code imports {module or 'a relative module'}, which is not in Python's library"
            )
    imported = {(alias.asname or alias.name).split(".")[0] for node in statements for alias in node.names}
    trusted = ({*dir(builtins), "math", "sys"} | imported) - names

    calls: list[str] = []
    checks = []
    for test in tests:
        body = parse(test.strip()).body
        if len(body) != 1 or not isinstance(body[0], ast.Assert):
            raise ValueError(f"{test!r} is not one assert")
        expression, before = body[0].test, len(calls)
        local = {node.arg for node in ast.walk(expression) if isinstance(node, ast.arg)}  # of lambdas, comprehensions
        local |= {n.id for n in ast.walk(expression) if isinstance(n, ast.Name) and isinstance(n.ctx, ast.Store)}
        expression = CallLifter(trusted | local, calls).visit(expression)
        if len(calls) == before:
            raise ValueError(f"{test!r} calls no function of the program")
        for call in calls[before:]:
            if used := {node.id for node in ast.walk(ast.parse(call)) if isinstance(node, ast.Name)} & local:
                raise ValueError(f"{test!r} calls the program with {min(used)}, a variable of the test")
        for node in ast.walk(expression):
            if isinstance(node, ast.Name) and node.id not in trusted | local | {"__v"}:
                raise ValueError(f"{test!r} needs {node.id} of the program outside of the call that it checks")
        checks.append(ast.unparse(expression))
    return SplitTests(tuple(map(ast.unparse, statements)), tuple(calls), tuple(checks))


_PARSING = threading.Lock()  # warnings.catch_warnings is not safe in threads


def parse(source: str) -> ast.Module:
    """The syntax tree of a program, without warnings about it. Raises ValueError for whatever is not Python."""
    with _PARSING, warnings.catch_warnings():
        warnings.simplefilter("ignore")  # such as an unknown escape in a string
        try:
            return ast.parse(source)
        except (SyntaxError, ValueError, RecursionError, MemoryError) as error:  # NUL; too many brackets or operators
            raise ValueError(f"{source[:200]!r} is not Python: {error}") from error


@functools.lru_cache(maxsize=10_000)
def defined_names(source: str) -> frozenset[str]:
    """What a program defines at its top level; nothing if it is not Python."""
    try:
        body = parse(source).body
    except ValueError:
        return frozenset()
    definitions = (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)
    names = {node.name for node in body if isinstance(node, definitions)}
    targets = [target for node in body if isinstance(node, ast.Assign) for target in node.targets]
    return frozenset(names | {target.id for target in targets if isinstance(target, ast.Name)})
