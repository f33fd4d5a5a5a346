"""Splits asserts into what the untrusted program computes and what is judged without it.

    assert sorted(f(3)) == [1, 2]   ->   call "f(3)", check "sorted(__v[0]) == [1, 2]"

The program answers the calls and never sees a check, so it cannot read the expected values, and nothing that it defines
(an __eq__ that is always true, a `set` of its own) takes part in a check.
"""

import ast
import builtins
import functools
import importlib
import sys
import threading
import warnings
from dataclasses import dataclass


@dataclass(frozen=True)
class SplitTests:
    imports: tuple[str, ...]  # statements of the setup code for the checks: imports, helpers that stand alone
    calls: tuple[str, ...]  # expressions that the program evaluates
    checks: tuple[str, ...]  # one expression for each assert, in which __v[i] is the value of calls[i]


PLAIN_MODULES = "math cmath itertools functools collections typing heapq bisect re string operator statistics".split()
# What plain data can do itself: startswith, issubset, __eq__ ...
METHODS = {name for kind in (str, bytes, int, float, complex, list, tuple, dict, set, frozenset) for name in dir(kind)}
DECIDING = {name for name in METHODS if name.startswith(("__", "is"))} | {"startswith", "endswith"}  # a truth, no value


class CallLifter(ast.NodeTransformer):
    """Replaces the outermost calls of names that are not trusted by __v[i], on one side of each comparison.

    The program must not decide what is said about its result: f(x).startswith("abc") is f(x), of which the rest is
    asked here. Compared with a value that it does not see, it may compute all of Stack(3).items[0].pop().
    beside: checkers of the setup code that run beside the program, so that they may not decide either.
    """

    def __init__(self, trusted: set[str], calls: list[str], beside: set[str]):
        self.trusted, self.calls, self.beside, self.compared = trusted, calls, beside, False

    def visit_Call(self, node: ast.Call) -> ast.AST:
        if (
            self.compared
            and ast.unparse(node.func) in ("next", "islice", "itertools.islice")
            and self.untrusted(node.args)
        ):
            return self.lifted(node)  # of an iterator that may not end
        root, inner = node.func, None
        while isinstance(root, (ast.Attribute, ast.Subscript, ast.Call)):  # Stack(3).items[0].pop()
            if isinstance(root, ast.Attribute) and root.attr in METHODS:
                if not self.compared or root.attr in DECIDING:
                    inner = root
            root = root.func if isinstance(root, ast.Call) else root.value
        if not isinstance(root, ast.Name) or root.id in self.trusted:
            return self.generic_visit(node)
        if inner is not None and any(isinstance(part, ast.Call) for part in ast.walk(inner.value)):
            return self.generic_visit(node)
        arguments = [part for argument in node.args for part in ast.walk(argument)]
        judges = any(isinstance(part, ast.Call) and self.untrusted([part]) for part in arguments)
        if root.id in self.beside and (not self.compared or judges):
            raise ValueError(f"{ast.unparse(node)} is decided by {root.id} of the setup code, beside the program")
        return self.lifted(node)

    def visit_Attribute(self, node: ast.Attribute) -> ast.AST:
        """point(1, 2).x, compared, is for the program too: what it computes may be no plain data."""
        root = node.value
        while isinstance(root, (ast.Attribute, ast.Subscript, ast.Call)):
            root = root.func if isinstance(root, ast.Call) else root.value
        called = any(isinstance(part, ast.Call) for part in ast.walk(node.value))
        untrusted = isinstance(root, ast.Name) and root.id not in self.trusted
        plain = node.attr in DECIDING | {"real", "imag", "numerator", "denominator"}
        if self.compared and called and untrusted and not plain:
            return self.lifted(node)
        return self.generic_visit(node)

    def untrusted(self, arguments: list[ast.expr]) -> bool:
        """True if the first argument is a call of the program."""
        root = arguments[0].func if arguments and isinstance(arguments[0], ast.Call) else None
        return isinstance(root, ast.Name) and root.id not in self.trusted | self.beside

    def lifted(self, node: ast.expr) -> ast.AST:
        self.calls.append(ast.unparse(node))
        return ast.parse(f"__v[{len(self.calls) - 1}]", mode="eval").body

    def visit_Compare(self, node: ast.Compare) -> ast.AST:
        before, outside = len(self.calls), self.compared
        sides = [node.left, *node.comparators]
        self.compared = not any(isinstance(side, ast.Constant) and isinstance(side.value, bool) for side in sides)
        node.left = self.visit(node.left)
        if len(self.calls) == before:
            node.comparators = [self.visit(side) for side in node.comparators]
        self.compared = outside
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
    for node in statements:
        if isinstance(node, ast.ImportFrom) and node.names[0].name == "*":
            if node.module not in PLAIN_MODULES:
                raise ValueError(f"the setup code imports * of {node.module}: name what it needs")
            imported |= {*dir(importlib.import_module(node.module))}
    trusted = ({*dir(builtins), "math", "sys"} | imported) - names
    functions = {node.name: node for node in parse(setup_code).body if isinstance(node, ast.FunctionDef)}
    helpers: dict[str, ast.FunctionDef] = {}  # checkers such as near(x, y): they judge, and need nothing of the program
    while new := {n: f for n, f in functions.items() if n not in names and free_names(f) <= trusted | {n}}:
        helpers |= new
        trusted |= {*new}
        functions = {name: function for name, function in functions.items() if name not in new}

    checkers: set[str] = set()  # all that the setup code defines, wherever
    for node in ast.walk(parse(setup_code)):
        if isinstance(node, (ast.FunctionDef, ast.ClassDef)):
            checkers.add(node.name)
        elif isinstance(node, ast.Assign) and isinstance(node.value, ast.Lambda):
            checkers |= {target.id for target in node.targets if isinstance(target, ast.Name)}
    calls: list[str] = []
    checks = []
    for test in tests:
        body = parse(test.strip()).body
        if len(body) != 1 or not isinstance(body[0], ast.Assert):
            raise ValueError(f"{test!r} is not one assert")
        expression, before = body[0].test, len(calls)
        local = {node.arg for node in ast.walk(expression) if isinstance(node, ast.arg)}  # of lambdas, comprehensions
        local |= {n.id for n in ast.walk(expression) if isinstance(n, ast.Name) and isinstance(n.ctx, ast.Store)}
        if isinstance(expression, ast.Tuple):
            raise ValueError(f"{test!r} is a tuple, which is always true")
        expression = CallLifter(trusted | local, calls, checkers - trusted - names).visit(expression)
        if len(calls) == before:
            raise ValueError(f"{test!r} calls no function of the program")
        for call in calls[before:]:
            if used := {node.id for node in ast.walk(ast.parse(call)) if isinstance(node, ast.Name)} & local:
                raise ValueError(f"{test!r} calls the program with {min(used)}, a variable of the test")
        for node in ast.walk(expression):
            if isinstance(node, ast.Name) and node.id not in trusted | local | {"__v"}:
                raise ValueError(f"{test!r} needs {node.id} of the program outside of the call that it checks")
        checks.append(ast.unparse(expression))
    needed = [*statements, *helpers.values()]
    return SplitTests(tuple(map(ast.unparse, needed)), tuple(calls), tuple(checks))


def free_names(function: ast.FunctionDef) -> set[str]:
    """The names that a function reads and does not bind itself."""
    names = [node for node in ast.walk(function) if isinstance(node, ast.Name)]
    bound = {node.arg for node in ast.walk(function) if isinstance(node, ast.arg)}
    bound |= {node.id for node in names if not isinstance(node.ctx, ast.Load)}
    return {node.id for node in names} - bound


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
