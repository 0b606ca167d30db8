"""Why a logged interaction says nothing about the arm that answered it."""

from __future__ import annotations

from traffic.records import Interaction

REASONS = ("unanswered", "cached", "pinned", "unscored", "fell_back", "cascaded")
"""Keys of the counts in reports: no answer came; an earlier one came again from the cache; the arm was asked for by
name, so nothing was drawn; nobody said what the answer is worth; another arm answered than was drawn; which answer was
kept depended on the answers."""


def why_left_out(interaction: Interaction, said: list[float] | None, *, drawn: bool) -> str | None:
    """One of `REASONS`, or None.

    Parameters
    ----------
    said: what scores and feedback say of it, or None.
    drawn: only arms that were drawn count. Without it an arm that was asked for by name counts too.
    """
    decision = interaction.decision
    if interaction.outcome != "ok" or interaction.arm is None:
        return "unanswered"
    if interaction.cached_from is not None:
        return "cached"
    if decision is None and drawn:
        return "pinned"
    if said is None:
        return "unscored"
    if decision is not None and decision.arm != interaction.arm:
        return "fell_back"
    return "cascaded" if decision is not None and decision.cascade is not None else None
