"""The training draw (Enlightenment): from what a log holds to one training set, by a seed.

    candidates -> no near duplicates, nothing of a benchmark, licences -> leaves by the tree's rule -> examples, weights

Each question is drawn once. Most examples are fresh (asked of the target as it is now), of leaves as the bandit draws
them; a share is replayed from earlier versions of the target against forgetting, of all leaves alike. The weight of an
example is importance x freshness x agreement, with mean 1:

    importance  the leaf's share of the draws / its share of the fresh examples, in [1/4, 4]: where a leaf had fewer
                questions than draws, they weigh more; 1 for what is replayed
    freshness   0.5 ^ (versions of the target since / 2)
    agreement   1 if a checker found the answer right, else the part of the judges' votes that it won
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from itertools import chain, cycle
from typing import Final, Literal

import numpy as np

from offline.bohdi.candidates import Candidate, Gathered
from offline.bohdi.contamination import Benchmarks
from offline.bohdi.licences import may_train, terms_of
from offline.bohdi.question_words import Questions, words_of
from offline.bohdi.training_set import Example, Manifest, Pair, Provenance, TrainingSet, digest_of

MOST_IMPORTANT: Final = 4.0
"""Largest importance of a leaf; its inverse is the smallest."""
DRAWS: Final = 8
"""Draws of leaves for each example, so that their shares are known well."""
HALF_LIFE: Final = 2.0
"""Versions of the target after which an example has half its weight."""

LeafDraw = Callable[[int], Sequence[str]]
"""So many leaves of a training draw, with repetition, in the order in which they are to be served."""


class NothingToDraw(ValueError):
    """The log holds no fresh example. The message says what became of its episodes."""


@dataclass(frozen=True, slots=True)
class Wanted:
    """What set is wanted.

    `size` >= 1 examples at most, of which a part of `replay_share` in [0, 1] is replayed. `licensed`: only answers
    whose licences are known to allow training. `source_share` in (0, 1]: unchecked answers of one source make up no
    more than this part of `size`, so that none can talk its way into all of it. `benchmarks`: names, for the manifest.
    """

    size: int
    seed: int = 0
    replay_share: float = 0.25
    licensed: bool = False
    source_share: float = 1.0
    benchmarks: tuple[str, ...] = ()
    tree: str = ""

    def __post_init__(self) -> None:
        if self.size < 1:
            raise ValueError(f"a training set has at least one example, not {self.size}")
        if not 0.0 <= self.replay_share <= 1.0:
            raise ValueError(f"the replayed share lies in [0, 1], not at {self.replay_share}")
        if not 0.0 < self.source_share <= 1.0:
            raise ValueError(f"the share of one source lies in (0, 1], not at {self.source_share}")


def draw(gathered: Gathered, leaf_draw: LeafDraw, wanted: Wanted, benchmarks: Benchmarks) -> TrainingSet:
    """The training set of a log. Raises NothingToDraw."""
    left_out = Counter(gathered.unfit)
    fit = _fit(gathered.candidates, wanted, left_out)
    fresh = [candidate for candidate in fit if candidate.age == 0]
    older = [candidate for candidate in fit if candidate.age > 0]
    replay = _most_replayed(wanted, older)
    rng = np.random.default_rng(wanted.seed)
    sieve = _Sieve(wanted, benchmarks)
    draws = leaf_draw(DRAWS * wanted.size) if fresh and wanted.size > replay else ()
    drawn = _drawn(fresh, wanted.size - replay, draws, rng, sieve)
    importance = _importance(draws, drawn)
    if wanted.replay_share < 1.0:
        replay = min(replay, math.floor(wanted.replay_share / (1.0 - wanted.replay_share) * len(drawn) + 0.5))
    drawn += _drawn(older, replay, (), rng, sieve)
    left_out += sieve.left_out
    left_out["not drawn"] += len(fit) - len(drawn) - sieve.left_out.total()
    if not drawn:
        reasons = ", ".join(f"{count} {reason}" for reason, count in sorted((+left_out).items()))
        raise NothingToDraw(
            f"the log holds nothing to train the version {gathered.version!r} of the target on "
            f"({reasons or 'no episodes'}); run a round first, or draw with a replay share of 1"
        )
    raw = [(1.0 if c.age else importance[c.leaf]) * 0.5 ** (c.age / HALF_LIFE) * c.agreement for c in drawn]
    mean = sum(raw) / len(raw)
    weighted = [(candidate, weight / mean) for candidate, weight in zip(drawn, raw, strict=True)]
    return _set(gathered, weighted, +left_out, wanted, benchmarks)


def _fit(candidates: Sequence[Candidate], wanted: Wanted, left_out: Counter[str]) -> list[Candidate]:
    """The candidates that may be drawn, newest and surest first; of those with the same words the first."""
    asked: set[int] = set()
    fit: list[Candidate] = []
    for candidate in sorted(candidates, key=lambda c: (c.age, c.answer.correct is not True, -c.agreement, c.number)):
        words = words_of(candidate.episode.question)
        digest = hash(tuple(words))
        if not words:
            left_out["no question"] += 1
        elif wanted.licensed and may_train(candidate.licences) is not True:
            left_out["licence"] += 1
        elif digest in asked:
            left_out["duplicate"] += 1
        else:
            asked.add(digest)
            fit.append(candidate)
    return fit


def _most_replayed(wanted: Wanted, older: Sequence[Candidate]) -> int:
    """How many examples may be replayed. Unless all may be, something is fresh, however small the set."""
    if wanted.replay_share == 1.0:
        return min(wanted.size, len(older))
    return min(round(wanted.size * wanted.replay_share), len(older), wanted.size - 1)


class _Sieve:
    """What is drawn is looked at here, once: a log may hold a thousand times what a set needs."""

    def __init__(self, wanted: Wanted, benchmarks: Benchmarks) -> None:
        self.left_out: Counter[str] = Counter()
        self._questions = Questions()
        self._benchmarks = benchmarks
        self._most = wanted.source_share * wanted.size
        self._by_source: Counter[str] = Counter()

    def passes(self, candidate: Candidate) -> bool:
        """Whether it goes into the set; else the reason is counted."""
        reason = self._reason(candidate)
        if reason is not None:
            self.left_out[reason] += 1
        elif candidate.answer.correct is not True:
            self._by_source[candidate.answer.model] += 1
        return reason is None

    def _reason(self, candidate: Candidate) -> str | None:
        episode, answer = candidate.episode, candidate.answer
        if answer.correct is not True and self._by_source[answer.model] + 1 > self._most:
            return "source has its share"
        if self._benchmarks.clash(episode.question, answer.text or "") is not None:
            return "benchmark"
        found = self._questions.same_or_add(episode.step, words_of(episode.question))
        return None if found is None else "duplicate"


def _drawn(
    pool: Sequence[Candidate], count: int, draws: Iterable[str], rng: np.random.Generator, sieve: _Sieve
) -> list[Candidate]:
    """So many candidates, each once: of leaves as they were drawn, and then of all that have some left, in turn."""
    by_leaf: dict[str, list[Candidate]] = {}
    for candidate in sorted(pool, key=lambda c: c.number):
        by_leaf.setdefault(candidate.leaf, []).append(candidate)
    for leaf in sorted(by_leaf):
        by_leaf[leaf] = [by_leaf[leaf][place] for place in rng.permutation(len(by_leaf[leaf]))]
    names = sorted(by_leaf)
    in_turn = cycle([names[place] for place in rng.permutation(len(names))])
    found: list[Candidate] = []
    left = len(pool)
    for leaf in chain(draws, in_turn):
        if not left or len(found) >= count:
            break
        if by_leaf.get(leaf):
            candidate = by_leaf[leaf].pop()
            left -= 1
            if sieve.passes(candidate):
                found.append(candidate)
    return found


def _importance(draws: Sequence[str], drawn: Sequence[Candidate]) -> dict[str, float]:
    asked, got = Counter(draws), Counter(candidate.leaf for candidate in drawn)
    ratios = {leaf: (asked[leaf] / len(draws)) / (count / len(drawn)) for leaf, count in got.items()}
    return {leaf: min(max(ratio, 1.0 / MOST_IMPORTANT), MOST_IMPORTANT) for leaf, ratio in ratios.items()}


def _set(
    gathered: Gathered,
    drawn: Sequence[tuple[Candidate, float]],
    left_out: Counter[str],
    wanted: Wanted,
    benchmarks: Benchmarks,
) -> TrainingSet:
    examples = tuple(_example(gathered, candidate, weight) for candidate, weight in drawn)
    pairs = tuple(pair for candidate, weight in drawn for pair in _pairs(candidate, weight))
    made = [example.provenance for example in examples]
    allowed = {provenance.may_train for provenance in made}
    replay = sum(provenance.origin == "replay" for provenance in made)
    manifest = Manifest(
        digest=digest_of(examples, pairs), tree=wanted.tree, tenant=gathered.tenant, target=gathered.target,
        target_version=gathered.version, events=gathered.events, seed=wanted.seed, wanted=wanted.size,
        fresh=len(made) - replay, replay=replay, replay_share=wanted.replay_share, pairs=len(pairs),
        left_out=dict(sorted(left_out.items())),
        leaves=dict(sorted(Counter(provenance.node for provenance in made).items())),
        sources=dict(sorted(Counter(provenance.model for provenance in made).items())),
        licences=tuple(sorted({name for provenance in made for name in provenance.licences})),
        may_train=False if False in allowed else None if None in allowed else True,
        benchmarks=wanted.benchmarks, benchmark_questions=benchmarks.questions,
    )  # fmt: skip
    return TrainingSet(examples=examples, pairs=pairs, manifest=manifest)


def _example(gathered: Gathered, candidate: Candidate, weight: float) -> Example:
    episode, answer, verdict = candidate.episode, candidate.answer, candidate.episode.verdict
    method: Literal["checker", "judge", "majority"] = "checker" if verdict is None else verdict.method
    provenance = Provenance(
        step=episode.step, round=episode.round, node=candidate.leaf, path=gathered.path_names(episode.path),
        model=answer.model, model_version=answer.model_version, target_version=episode.target_version,
        prompts_version=episode.prompts_version, method=method, agreement=candidate.agreement,
        checked=answer.correct is True, reward=episode.reward or 0.0, origin="replay" if candidate.age else "fresh",
        cost_usd=episode.cost_usd, style=episode.style, licences=candidate.licences,
        may_train=may_train(candidate.licences), terms=terms_of(candidate.licences),
    )  # fmt: skip
    return Example(question=episode.question, answer=answer.text or "", weight=weight, provenance=provenance)


def _pairs(candidate: Candidate, weight: float) -> list[Pair]:
    return [
        Pair(
            step=candidate.episode.step, question=candidate.episode.question, chosen=candidate.answer.text or "",
            rejected=reply.text or "", chosen_model=candidate.answer.model, rejected_model=reply.model, weight=weight,
        )
        for reply in candidate.rejected
    ]  # fmt: skip
