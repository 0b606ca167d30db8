"""The pupil: the target of the live proof, its short training on what a draw holds, and its examination."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from random import Random
from typing import Any

import torch

from demo.bohdi.domains import TAUGHT, exam
from demo.bohdi.schooling import lesson
from demo.bohdi.teaching import answered, teach
from demo.fleet.corpus import Example
from demo.fleet.engine import Served
from demo.fleet.training import Encoder

REHEARSED = 0.2
"""Part of a batch that is small skills."""


class Pupil:
    """A model that is trained between rounds. `version` counts the trainings; `served` itself is never changed."""

    def __init__(self, served: Served, seed: int) -> None:
        self._tokenizer = served.tokenizer
        self._encoder = Encoder(served.tokenizer)
        self._seed = seed
        self.model: Any = copy.deepcopy(served.model)
        self.trainings = 0

    @property
    def version(self) -> str:
        return str(self.trainings)

    def learn(self, lessons: Sequence[tuple[Example, float]], steps: int, batch: int, learning_rate: float) -> None:
        """Train on these examples, drawn by their weights.

        A part of each batch is small skills of the pupil's schooling, so that it does not forget how to read. Raises
        ValueError if there are no examples.
        """
        if not lessons:
            raise ValueError("there is nothing to learn from: expected at least one example")
        self.trainings += 1
        torch.manual_seed(self._seed)
        rng = Random(f"{self._seed}/{self.trainings}")
        examples, weights = [example for example, _ in lessons], [weight for _, weight in lessons]

        def draw(_: int) -> list[Example]:
            skills = round(REHEARSED * batch)
            return rng.choices(examples, weights, k=batch - skills) + [lesson(rng) for _ in range(skills)]

        teach(self.model, self._encoder, draw, steps, learning_rate, lambda _: None)

    def examine(self, per_family: int, families: Sequence[str] = TAUGHT) -> dict[str, float]:
        """The share of held-out questions of each family that are answered exactly, greedily. None was trained on."""
        return answered(self.model, self._tokenizer, {family: exam(family, per_family) for family in families})
