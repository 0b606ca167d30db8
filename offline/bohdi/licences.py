"""Whether what a model has written may train another model, as far as its licence's name tells.

What a name is not known for stays open: it is for the operator to say. Facts about licences, not legal advice.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final

FREE: Final = frozenset(
    {
        "apache-2.0", "mit", "bsd-2-clause", "bsd-3-clause", "isc", "cc0-1.0", "cc-by-4.0", "unlicense", "own",
    }
)  # fmt: skip
"""Free for any use. `own` is for models that the operator has trained."""
WITH_TERMS: Final = frozenset({"llama3.1", "llama3.2", "llama3.3", "llama4", "gemma", "cc-by-sa-4.0"})
"""Training is allowed under terms that follow the trained model (a name, the same licence, rules of use)."""
FORBIDDING: Final = frozenset(
    {
        "openai", "anthropic", "google-gemini", "xai", "llama2", "llama3", "cc-by-nc-4.0", "cc-by-nc-sa-4.0",
        "mistral-research", "mistral-non-production", "all-rights-reserved",
    }
)  # fmt: skip
"""Terms that forbid training models that compete, or any commercial use."""


def may_train(licences: Iterable[str]) -> bool | None:
    """Whether all these licences allow training; None if one of them is not known here, or none is stated."""
    names = {name.strip().casefold() for name in licences} - {""}
    if names & FORBIDDING:
        return False
    return True if names and names <= FREE | WITH_TERMS else None


def terms_of(licences: Iterable[str]) -> tuple[str, ...]:
    """Those of the licences whose terms a trained model has to keep, in order."""
    return tuple(sorted({name.strip().casefold() for name in licences} & WITH_TERMS))
