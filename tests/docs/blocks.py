"""The code blocks of the documentation, and how each kind of block is run."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
PAGES = sorted([ROOT / "README.md", *(ROOT / "docs").glob("*.md"), *(ROOT / "demo").rglob("*.md")])
FENCE = re.compile(r"^```(\w*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
SHOWN = frozenset({"", "text"})
"""Blocks that show what is printed or stored; there is nothing to run in them."""
DEFAULT_ADDRESS = "127.0.0.1:8400"
DEFAULT_ADMIN = "127.0.0.1:8401"


@dataclass(frozen=True, slots=True)
class Block:
    """One fenced block of a page."""

    page: Path
    line: int
    language: str
    code: str

    @property
    def place(self) -> str:
        return f"{self.page.relative_to(ROOT)}:{self.line}"


def blocks_of(page: Path) -> list[Block]:
    """The blocks of a page in order."""
    text = page.read_text()
    return [Block(page, text.count("\n", 0, found.start()) + 1, found[1], found[2]) for found in FENCE.finditer(text)]


def runnable(command: str, address: str, admin: str = DEFAULT_ADMIN) -> str:
    """A shell block as it is run in a test: the live gateway's addresses, and dry runs of what installs or serves.

    `make TARGET` becomes `make -n TARGET` (the target must exist and its recipe be well formed) in the checkout, and
    `docker compose up` becomes a check of the compose file.
    """
    there = command.replace(DEFAULT_ADDRESS, address).replace(DEFAULT_ADMIN, admin)
    lines = [_runnable_line(line) for line in there.splitlines()]
    return "\n".join(lines)


def _runnable_line(line: str) -> str:
    bare = line.strip()
    if bare.startswith("make "):
        return f"make -n -C {ROOT} {bare.removeprefix('make ')} > /dev/null"
    if bare.startswith("git clone "):
        return "true"
    if re.match(r"docker[ -]compose ", bare):
        profile = " --profile vllm" if "--profile vllm" in bare else ""
        return f"if command -v docker-compose; then docker-compose -f {ROOT}/docker-compose.yml{profile} config -q; fi"
    return line
