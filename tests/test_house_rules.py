"""Constructs that have no place in the house: what hides a disconnect, runs what it reads, prints, or swallows."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.house import FLOORS, ROOT, imports, parse, python_files

UNSAFE_MODULES = frozenset({"pickle", "cPickle", "dill", "cloudpickle", "marshal", "shelve", "joblib"})
UNSAFE_CALLS = frozenset({"eval", "exec", "compile"})
VAGUE_NAMES = ("utils", "util", "helpers", "helper", "manager", "handler", "common", "misc")
MAX_FILE_LINES = 500
MAX_FUNCTION_LINES = 60

INSIDE = tuple(FLOORS)
CLIS = ("demo",)


def faults(source: str, *, may_print: bool) -> Iterator[str]:
    """What is wrong in a module, as `line: fault`."""
    tree = ast.parse(source)
    lines = source.splitlines()
    for line, name in sorted({(item.line, item.top) for item in imports(tree)}):
        if name in UNSAFE_MODULES:
            yield f"{line}: imports {name}"
    for item in imports(tree):
        if item.module.endswith("BaseHTTPMiddleware"):
            yield f"{item.line}: BaseHTTPMiddleware hides the client's disconnect"
    for node in ast.walk(tree):
        if isinstance(node, ast.Call):
            yield from call_faults(node, may_print=may_print)
        if isinstance(node, ast.ExceptHandler) and broad(node) and "noqa: BLE001" not in lines[node.lineno - 1]:
            yield f"{node.lineno}: catches everything"
        if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)):
            yield from function_faults(node)


def call_faults(node: ast.Call, *, may_print: bool) -> Iterator[str]:
    if isinstance(node.func, ast.Name):
        if node.func.id in UNSAFE_CALLS:
            yield f"{node.lineno}: calls {node.func.id}"
        if node.func.id == "print" and not may_print:
            yield f"{node.lineno}: prints"
    if isinstance(node.func, ast.Attribute) and node.func.attr == "load":
        for keyword in node.keywords:
            if keyword.arg == "allow_pickle" and not _is_false(keyword.value):
                yield f"{node.lineno}: allows pickle"


def function_faults(node: ast.FunctionDef | ast.AsyncFunctionDef) -> Iterator[str]:
    for decorator in node.decorator_list:
        called = decorator.func if isinstance(decorator, ast.Call) else decorator
        if isinstance(called, ast.Attribute) and called.attr == "middleware":
            yield f"{node.lineno}: @app.middleware hides the client's disconnect"
    length = (node.end_lineno or node.lineno) - node.lineno + 1
    if length > MAX_FUNCTION_LINES:
        yield f"{node.lineno}: {node.name} has {length} lines, the cap is {MAX_FUNCTION_LINES}"


def broad(node: ast.ExceptHandler) -> bool:
    """Whether it catches everything and hides it: not if it raises again or logs the exception with its trace."""
    last = node.body[-1]
    if isinstance(last, ast.Raise) and last.exc is None:
        return False
    calls = (c for statement in node.body for c in ast.walk(statement) if isinstance(c, ast.Call))
    if any(isinstance(call.func, ast.Attribute) and call.func.attr == "exception" for call in calls):
        return False
    caught = node.type.elts if isinstance(node.type, ast.Tuple) else [node.type]
    return any(c is None or (isinstance(c, ast.Name) and c.id in ("Exception", "BaseException")) for c in caught)


def _is_false(value: ast.expr) -> bool:
    return isinstance(value, ast.Constant) and value.value is False


def of(path: Path) -> str:
    return str(path.relative_to(ROOT))


def test_no_module_of_the_house_holds_a_forbidden_construct() -> None:
    found = [
        f"{of(path)}:{fault}"
        for folders, may_print in ((INSIDE, False), (CLIS, True))
        for path in python_files(*folders)
        for fault in faults(path.read_text(encoding="utf-8"), may_print=may_print)
    ]
    assert found == []


def test_files_are_short_annotated_lazily_and_named_for_what_they_hold() -> None:
    found = []
    for path in [*python_files(*INSIDE, *CLIS, "tests"), ROOT / "tokamak.py"]:
        text = path.read_text(encoding="utf-8")
        if len(text.splitlines()) > MAX_FILE_LINES:
            found.append(f"{of(path)}: more than {MAX_FILE_LINES} lines")
        if parse(path).body[1:] and "from __future__ import annotations" not in text:
            found.append(f"{of(path)}: no `from __future__ import annotations`")
        if any(word in VAGUE_NAMES for word in path.stem.split("_")):
            found.append(f"{of(path)}: a name that says nothing")
    assert found == []


@pytest.mark.parametrize(
    "source",
    [
        "import pickle",
        "from joblib import load",
        "eval('1')",
        "exec('x = 1')",
        "print('x')",
        "import numpy as np\nnp.load('f', allow_pickle=True)",
        "from starlette.middleware.base import BaseHTTPMiddleware",
        "@app.middleware('http')\nasync def f(request, call_next): ...",
        "try:\n    f()\nexcept Exception:\n    pass",
        "try:\n    f()\nexcept:\n    pass",
        "try:\n    f()\nexcept (ValueError, BaseException):\n    pass",
        "def f():\n" + "    x = 1\n" * 60,
    ],
)
def test_each_forbidden_construct_is_found(source: str) -> None:
    assert len(list(faults(source, may_print=False))) == 1


def test_what_is_allowed_is_not_found() -> None:
    source = "try:\n    f()\nexcept Exception:  # noqa: BLE001\n    pass\nre.compile('x')\nmodel.eval()\n"
    source += "try:\n    f()\nexcept BaseException:\n    undo()\n    raise\n"
    source += "try:\n    f()\nexcept Exception:\n    logger.exception('x')\n"
    assert list(faults(source, may_print=False)) == []
    assert list(faults("print('x')", may_print=True)) == []


def asserts(test: ast.AST) -> bool:
    """Whether it can fail by what it finds: an assertion, an expected error, or a call of what is named to check."""
    return any(
        isinstance(node, ast.Assert)
        or (
            isinstance(node, ast.Call) and _called(node.func).startswith(("assert", "check", "raises", "warns", "fail"))
        )
        for node in ast.walk(test)
    )


def _called(func: ast.expr) -> str:
    return func.attr if isinstance(func, ast.Attribute) else func.id if isinstance(func, ast.Name) else ""


def test_every_test_asserts_something() -> None:
    found = [
        f"{of(path)}:{node.lineno}: {node.name} asserts nothing"
        for path in python_files("tests")
        for node in ast.walk(parse(path))
        if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)) and node.name.startswith("test_")
        if not asserts(node)
    ]
    assert found == []


def test_a_test_that_asserts_nothing_is_found() -> None:
    assert not asserts(ast.parse("def test_x():\n    run()"))
    assert asserts(ast.parse("def test_x():\n    with pytest.raises(ValueError):\n        run()"))
