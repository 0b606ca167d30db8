"""Who takes part in the live proof: four sources, taught from the demo fleet's specialists, and the pupil. No torch."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Final

from demo.fleet.roster import Member

MODELS_DIR = Path(__file__).parent / "models"


@dataclass(frozen=True, slots=True)
class Source:
    """A source: the specialist of the fleet that it was, and how it was taught to propose and to ask."""

    name: str
    was: str
    steps: int
    seed: int
    batch: int = 16
    learning_rate: float = 1.2e-3

    @property
    def folder(self) -> Path:
        return MODELS_DIR / self.name


SOURCES: Final[dict[str, Source]] = {
    source.name: source
    for source in (
        Source("calc-source", "calc-llama", 400, 31),
        Source("letters-source", "letters-gpt2", 400, 32),
        Source("clerk-source", "clerk-neox", 400, 33),
        Source("order-source", "order-qwen", 400, 34),
    )
}


@dataclass(frozen=True, slots=True)
class Schooling:
    """How the pupil is made: `lessons` steps of small skills, then `tastes` steps with a taste of each family.

    No family is shown any more once `ceiling` of its questions are answered.
    """

    member: Member
    lessons: int = 1000
    tastes: int = 240
    ceiling: float = 0.2
    batch: int = 32
    taste_rate: float = 1e-3
    look_every: int = 30

    @property
    def folder(self) -> Path:
        return MODELS_DIR / self.member.name


PUPIL: Final = "pupil-llama"
SCHOOLING: Final = Schooling(
    Member(PUPIL, "target", "llama", (), 0, 0, 35, hidden=96, intermediate=256, layers=4, initial_std=0.08)
)
