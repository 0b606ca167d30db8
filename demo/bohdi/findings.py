"""What is seen of a run of the live proof. Needs no torch."""

from __future__ import annotations

from dataclasses import dataclass

from demo.bohdi.policies import Policy


@dataclass(frozen=True, slots=True)
class Reset:
    """A node of the tree that was reborn: its names joined by " / ", and the p-value of the drift test."""

    domain: str
    p_value: float


@dataclass(frozen=True, slots=True)
class Asked:
    """What a round asked, by family.

    `asked`: contests that gave a reward; `gain`: their mean reward, of the families that were asked about. `dropped`:
    contests of ours without a reward. `stray`: contests under names that are no domain of ours.
    """

    asked: dict[str, int]
    gain: dict[str, float]
    resets: tuple[Reset, ...]
    sprouted: tuple[str, ...]
    dropped: int
    stray: int


@dataclass(frozen=True, slots=True)
class RoundSeen:
    """One round and the training after it.

    `trained`: examples drawn, by family; `accuracy`: of the pupil after the training, on held-out questions, in [0, 1].
    """

    number: int
    found: Asked
    trained: dict[str, int]
    accuracy: dict[str, float]
    cost_usd: float | None
    meditation_s: float
    training_s: float


@dataclass(frozen=True, slots=True)
class Run:
    """One run of one policy: the accuracy before the first round, and the rounds."""

    policy: Policy
    seed: int
    before: dict[str, float]
    rounds: tuple[RoundSeen, ...]

    @property
    def after(self) -> dict[str, float]:
        return self.rounds[-1].accuracy

    @property
    def worst(self) -> float:
        """The accuracy of the worst family at the end."""
        return min(self.after.values())

    @property
    def mean(self) -> float:
        """The mean accuracy over the families at the end."""
        return sum(self.after.values()) / len(self.after)
