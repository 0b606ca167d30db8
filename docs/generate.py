"""The tables of `configuration.md`, made from the schema of the config, and the defaults of the settings in `bohdi.md`.

`python docs/generate.py` writes them anew.
"""

from __future__ import annotations

import json
import re
from pathlib import Path
from types import UnionType
from typing import Any, get_args, get_origin

import msgspec
from pydantic import BaseModel
from pydantic.fields import FieldInfo
from pydantic_core import PydanticUndefined

from offline.bohdi.settings import Settings
from registry.config import Config

PAGE = Path(__file__).with_name("configuration.md")
BOHDI_PAGE = PAGE.with_name("bohdi.md")
BOHDI_BEGIN, BOHDI_END = "<!-- settings: defaults by docs/generate.py -->", "<!-- end of settings -->"
BEGIN, END = "<!-- tables: made by docs/generate.py -->", "<!-- end of tables -->"


def tables() -> str:
    """One table per section of the config, in the order of the schema."""
    parts: list[str] = []
    for name, field in Config.model_fields.items():
        section = _section(field.annotation)
        if section is None:
            continue
        many = get_origin(field.annotation) is dict
        parts += _section_tables(f"{name}.<name>" if many else name, field.description or "", section)
    return "\n".join(parts)


def _section_tables(title: str, about: str, section: type[BaseModel]) -> list[str]:
    lines = [f"### `{title}`", "", about, "", "| key | default | meaning |", "|---|---|---|"]
    inner: list[str] = []
    for name, field in section.model_fields.items():
        lines.append(f"| `{name}` | {_default(field)} | {field.description} |")
        nested = _section(field.annotation)
        if nested is not None:
            inner += _section_tables(f"{title}.{name}", field.description or "", nested)
    return [*lines, "", *inner]


def _section(annotation: Any) -> type[BaseModel] | None:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return annotation
    if get_origin(annotation) in (dict, list, UnionType):
        return next((found for part in get_args(annotation) if (found := _section(part)) is not None), None)
    return None


def _default(field: FieldInfo) -> str:
    if field.default is PydanticUndefined:
        return "needed"
    if isinstance(field.default, BaseModel) or field.default is None:
        return "none"
    return f"`{json.dumps(field.default)}`"


def page_with(new_tables: str) -> str:
    """The page with its tables replaced."""
    before, _, rest = PAGE.read_text().partition(BEGIN)
    _, _, after = rest.partition(END)
    return f"{before}{BEGIN}\n\n{new_tables}\n{END}{after}"


def bohdi_page() -> str:
    """The page about knowledge trees with the defaults of its settings. Raises ValueError if it lacks one of them."""
    before, _, rest = BOHDI_PAGE.read_text().partition(BOHDI_BEGIN)
    table, _, after = rest.partition(BOHDI_END)
    for field in msgspec.structs.fields(Settings):
        row = re.compile(rf"^\| `{field.name}` \| [^|]* \|", re.MULTILINE)
        if not row.search(table):
            raise ValueError(f"{BOHDI_PAGE.name} has no row for the setting `{field.name}`; write one")
        table = row.sub(f"| `{field.name}` | {_setting(field)} |", table)
    return f"{before}{BOHDI_BEGIN}{table}{BOHDI_END}{after}"


def _setting(field: msgspec.structs.FieldInfo) -> str:
    if field.default is msgspec.NODEFAULT and field.default_factory is msgspec.NODEFAULT:
        return "needed"
    value = field.default if field.default is not msgspec.NODEFAULT else field.default_factory()
    return "none" if value is None else f"`{msgspec.json.encode(value).decode()}`"


if __name__ == "__main__":
    PAGE.write_text(page_with(tables()))
    BOHDI_PAGE.write_text(bohdi_page())
