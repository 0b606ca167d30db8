"""Who may import whom: the layer table of the design, read from the imports themselves."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.house import BESIDE, FLOORS, ROOT, imports, module_name, package_of, parse, python_files, reached_at_import

HEAVY = frozenset(
    {"torch", "transformers", "sklearn", "sentence_transformers", "pyarrow", "onnxruntime", "matplotlib", "pandas"}
)
"""What the gateway must start without."""


def violations(floor: str, root: Path = ROOT) -> list[str]:
    """`file:line imports what` for each import of the floor that the table forbids."""
    allowed = FLOORS[floor] | {floor}
    forbidden = (FLOORS.keys() | BESIDE) - allowed
    return [
        f"{path.relative_to(root)}:{item.line} imports {item.module}"
        for path in python_files(floor, root=root)
        for item in imports(parse(path), package_of(path, root))
        if item.top in forbidden
    ]


@pytest.mark.parametrize("floor", sorted(FLOORS))
def test_a_floor_imports_only_the_floors_below_it(floor: str) -> None:
    assert python_files(floor), f"the floor {floor} has no files"
    assert violations(floor) == []


def test_the_command_line_imports_nothing_of_the_demo_until_it_is_asked_to() -> None:
    eager = {item.top for item in imports(parse(ROOT / "tokamak.py")) if not item.lazy}
    assert eager.isdisjoint({"demo", "benchmarks", "tests", "offline"})


def circles(*floors: str, root: Path = ROOT) -> list[list[str]]:
    """Modules of the floors that import each other in a circle, lazily or not."""
    paths = {module_name(path, root): path for path in python_files(*floors, root=root)}
    imported = {
        module: {item.module for item in imports(parse(path), package_of(path, root))} & paths.keys() - {module}
        for module, path in paths.items()
    }
    below = {module: reachable(module, imported) for module in imported}
    found = {frozenset({module} | {other for other in below[module] if module in below[other]}) for module in imported}
    return sorted(sorted(circle) for circle in found if len(circle) > 1)


def reachable(start: str, imported: dict[str, set[str]]) -> set[str]:
    """The modules that `start` imports, and those that they import, and so on."""
    reached: set[str] = set()
    waiting = [start]
    while waiting:
        new = imported[waiting.pop()] - reached
        reached |= new
        waiting += new
    return reached


def test_no_module_imports_itself_by_way_of_others() -> None:
    assert circles(*FLOORS, "demo", "benchmarks") == []


def test_a_circle_of_imports_is_found(tmp_path: Path) -> None:
    (tmp_path / "routers" / "sub").mkdir(parents=True)
    (tmp_path / "routers" / "one.py").write_text("from routers.sub import two")
    (tmp_path / "routers" / "sub" / "two.py").write_text("def f():\n    import routers.three")
    (tmp_path / "routers" / "three.py").write_text("from routers.one import g")
    (tmp_path / "routers" / "four.py").write_text("from routers.one import g")
    assert circles("routers", root=tmp_path) == [["routers.one", "routers.sub.two", "routers.three"]]


@pytest.mark.parametrize("start", ["service.app", "tokamak"])
def test_what_the_gateway_imports_at_start_is_light(start: str) -> None:
    reached = reached_at_import(start)
    assert start.split(".")[-1] in {path.stem for path in reached}, f"{start} does not exist"
    heavy = [
        f"{path.relative_to(ROOT)}:{item.line} imports {item.module}"
        for path, made in reached.items()
        for item in made
        if item.top in HEAVY
    ]
    assert heavy == []


@pytest.mark.parametrize(
    ("floor", "line"),
    [
        ("service", "import offline.judge"),
        ("offline", "from service.errors import ApiError"),
        ("traffic", "from encoders import protocol"),
        ("encoders", "import traffic"),
        ("registry", "from encoders.protocol import Encoder"),
        ("routers", "from templates_store.template import Hit"),
        ("templates_store", "import routers.policy.decide"),
        ("service", "from demo.fleet import serve"),
        ("routers", "def f():\n    import service.app"),
        ("offline", "import importlib\nimportlib.import_module('service.app')"),
    ],
)
def test_a_forbidden_import_is_found(tmp_path: Path, floor: str, line: str) -> None:
    (tmp_path / floor).mkdir()
    (tmp_path / floor / "module.py").write_text(line)
    assert len(violations(floor, tmp_path)) >= 1


@pytest.mark.parametrize(
    ("floor", "line"),
    [
        ("service", "from routers.policy.decide import decide\nfrom . import errors\nfrom .backends import http1"),
        ("registry", "import traffic.log, json"),
        ("offline", "from templates_store import template"),
    ],
)
def test_an_allowed_import_is_not_a_violation(tmp_path: Path, floor: str, line: str) -> None:
    (tmp_path / floor).mkdir()
    (tmp_path / floor / "module.py").write_text(line)
    assert violations(floor, tmp_path) == []


def test_heavy_imports_are_followed_through_the_house(tmp_path: Path) -> None:
    for folder in ("service", "routers"):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / "__init__.py").write_text("")
    (tmp_path / "service" / "app.py").write_text("from routers import knn\ndef f():\n    import onnxruntime\n")
    (tmp_path / "routers" / "knn.py").write_text("import torch\n")
    made = {item.top for items in reached_at_import("service.app", tmp_path).values() for item in items}
    assert "torch" in made
    assert "onnxruntime" not in made
