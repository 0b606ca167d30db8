"""Who takes part in the live proof: four sources, taught from the demo fleet's specialists, and the pupil. No torch."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Final

MODELS_DIR = Path(__file__).parent / "models"


@dataclass(frozen=True, slots=True)
class Source:
    """A source: the specialist of the fleet that it was, and how it was taught to propose and to ask."""

    name: str
    was: str
    steps: int
    seed: int
    batch: int = 32
    learning_rate: float = 6e-4

    @property
    def folder(self) -> Path:
        return MODELS_DIR / self.name


SOURCES: Final[dict[str, Source]] = {
    source.name: source
    for source in (
        Source("calc-source", "calc-llama", 280, 31),
        Source("letters-source", "letters-gpt2", 280, 32),
        Source("clerk-source", "clerk-neox", 280, 33),
        Source("order-source", "order-qwen", 280, 34),
    )
}
PUPIL: Final = "pupil-llama"
