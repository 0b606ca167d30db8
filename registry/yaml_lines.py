"""YAML with the line of every key and item, duplicate keys refused. It knows nothing about what the file means."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import yaml
from yaml.nodes import MappingNode, Node, ScalarNode, SequenceNode
from yaml.reader import ReaderError

Path = tuple[str | int, ...]


@dataclass(frozen=True, slots=True)
class Located:
    """A parsed document.

    `lines` gives the line (from 1) of each path: for a mapping the line of the key, for a list that of the item.
    """

    value: Any
    lines: dict[Path, int]

    def line(self, path: Path) -> int:
        """The line of a path, or of the nearest part of the document that holds it."""
        while path and path not in self.lines:
            path = path[:-1]
        return self.lines.get(path, 1)


class YamlProblem(ValueError):
    """The text is not YAML that can be read: `line` says where (from 1)."""

    def __init__(self, line: int, message: str) -> None:
        super().__init__(message)
        self.line = line


def read_yaml(text: str) -> Located:
    """Parse one YAML document with its lines. Raises YamlProblem for bad syntax, duplicate keys and cycles."""
    try:
        loader = yaml.SafeLoader(text)
        root = loader.get_single_node()
        if root is None:
            return Located(None, {})
        _refuse_duplicates(root, ())
        value = loader.construct_document(root)
        # Constructing has replaced merge keys (`<<`) by what they stand for, so the lines are collected after it.
        lines: dict[Path, int] = {(): 1}
        _collect(root, (), lines)
        return Located(value, lines)
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        raise YamlProblem(mark.line + 1 if mark else 1, f"not valid YAML: {error.problem or error.context}") from error
    except ReaderError as error:
        line = text.count("\n", 0, error.position) + 1
        raise YamlProblem(line, f"not valid YAML: {error.reason} (#x{ord(text[error.position]):04x})") from error
    except YamlProblem:
        raise
    except (ValueError, RecursionError) as error:
        # PyYAML lets these out for impossible dates and numbers, and for very deep nesting.
        raise YamlProblem(1, f"not valid YAML: {error}") from error


def _refuse_duplicates(node: Node, above: tuple[int, ...]) -> None:
    if id(node) in above:
        raise YamlProblem(node.start_mark.line + 1, "an alias refers to the part of the file that holds it")
    above = (*above, id(node))
    if isinstance(node, SequenceNode):
        for item in node.value:
            _refuse_duplicates(item, above)
    elif isinstance(node, MappingNode):
        seen: dict[str, int] = {}
        for key, value in node.value:
            if isinstance(key, ScalarNode):
                line = key.start_mark.line + 1
                if key.value in seen:
                    raise YamlProblem(line, f"duplicate key `{key.value}`: it is already set on line {seen[key.value]}")
                seen[key.value] = line
            _refuse_duplicates(value, above)


def _collect(node: Node, path: Path, lines: dict[Path, int]) -> None:
    if isinstance(node, SequenceNode):
        for index, item in enumerate(node.value):
            lines[*path, index] = item.start_mark.line + 1
            _collect(item, (*path, index), lines)
    elif isinstance(node, MappingNode):
        for key, value in node.value:
            if isinstance(key, ScalarNode):
                lines[*path, key.value] = key.start_mark.line + 1
                _collect(value, (*path, key.value), lines)
