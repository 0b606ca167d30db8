"""The house as the tests of its rules see it: its Python files and their imports, read without running anything."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent

FLOORS: dict[str, frozenset[str]] = {
    "traffic": frozenset(),
    "encoders": frozenset(),
    "registry": frozenset({"traffic"}),
    "routers": frozenset({"registry", "traffic", "encoders"}),
    "templates_store": frozenset({"registry", "traffic", "encoders"}),
    "service": frozenset({"registry", "traffic", "encoders", "routers", "templates_store"}),
    "offline": frozenset({"registry", "traffic", "encoders", "routers", "templates_store"}),
}
"""Who may import whom; every package may import itself."""

BESIDE = frozenset({"demo", "benchmarks", "tests", "tokamak"})
"""What stands beside the house or on its roof: it may import all of it, nothing in it may import them."""


@dataclass(frozen=True, slots=True)
class Import:
    """One imported module, by its full dotted name. `lazy`: inside a function or under TYPE_CHECKING."""

    module: str
    line: int
    lazy: bool

    @property
    def top(self) -> str:
        return self.module.split(".")[0]


def python_files(*folders: str, root: Path = ROOT) -> list[Path]:
    """All Python files below the folders of the checkout, sorted."""
    return sorted(
        path for folder in folders for path in (root / folder).rglob("*.py") if "__pycache__" not in path.parts
    )


def parse(path: Path) -> ast.Module:
    return ast.parse(path.read_text(encoding="utf-8"), filename=str(path))


def imports(tree: ast.Module, package: str = "") -> list[Import]:
    """Every import, `importlib.import_module("literal")` included; relative ones are resolved in `package`."""
    return list(_imports(tree, package, lazy=False))


def _imports(node: ast.AST, package: str, *, lazy: bool) -> Iterator[Import]:
    for child in ast.iter_child_nodes(node):
        if isinstance(child, ast.Import):
            yield from (Import(alias.name, child.lineno, lazy) for alias in child.names)
        elif isinstance(child, ast.ImportFrom):
            base = _resolve(child, package)
            yield Import(base, child.lineno, lazy)
            yield from (Import(f"{base}.{alias.name}", child.lineno, lazy) for alias in child.names)
        elif isinstance(child, ast.Call) and _names(child.func) in ("import_module", "__import__"):
            first = child.args[0] if child.args else None
            if isinstance(first, ast.Constant) and isinstance(first.value, str):
                yield Import(first.value, child.lineno, lazy)
        inside = isinstance(child, (ast.FunctionDef, ast.AsyncFunctionDef, ast.Lambda)) or _type_checking(child)
        yield from _imports(child, package, lazy=lazy or inside)


def _resolve(node: ast.ImportFrom, package: str) -> str:
    if node.level == 0:
        return node.module or ""
    parts = package.split(".")[: len(package.split(".")) - node.level + 1]
    return ".".join([*parts, *([node.module] if node.module else [])])


def _names(func: ast.expr) -> str:
    return func.attr if isinstance(func, ast.Attribute) else func.id if isinstance(func, ast.Name) else ""


def _type_checking(node: ast.AST) -> bool:
    return isinstance(node, ast.If) and _names(node.test) == "TYPE_CHECKING"


def package_of(path: Path, root: Path = ROOT) -> str:
    """The dotted name of the package that a file lies in."""
    return ".".join(path.relative_to(root).parent.parts)


def module_name(path: Path, root: Path = ROOT) -> str:
    """The dotted name under which a file is imported."""
    parts = path.relative_to(root).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def module_files(module: str, root: Path = ROOT) -> list[Path]:
    """The files that importing `module` runs: its package's `__init__` files and its own; empty if it is not ours."""
    parts = module.split(".")
    files = [root.joinpath(*parts[:depth], "__init__.py") for depth in range(1, len(parts) + 1)]
    files.append(root.joinpath(*parts).with_suffix(".py"))
    return [path for path in files if path.is_file()]


def reached_at_import(start: str, root: Path = ROOT) -> dict[Path, list[Import]]:
    """Every file of the checkout that runs when `start` is imported, with the imports that it makes then."""
    reached: dict[Path, list[Import]] = {}
    waiting = module_files(start, root)
    while waiting:
        path = waiting.pop()
        if path in reached:
            continue
        made = [item for item in imports(parse(path), package_of(path, root)) if not item.lazy]
        reached[path] = made
        waiting += [file for item in made for file in module_files(item.module, root)]
    return reached
