"""From scored answers to conversations that a target model may be trained on, and a count of what was left out.

The four settings are FusionFactory's (fusionfactory.md 4): by performance, by judge, both, and the reference alone as a
baseline. What its code lacks is here: only right answers, one length for all sources, a cap for each query and task, no
near duplicates, no personal data, nobody's private traffic, and no source whose terms forbid training.
"""

from __future__ import annotations

import hashlib
import math
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from statistics import median
from typing import Annotated, Literal

import msgspec

from offline.answers import Answer
from offline.best_answers import right
from offline.bohdi.contamination import Benchmarks
from offline.bohdi.export import read_examples
from offline.bohdi.licences import may_train
from offline.bohdi.question_words import Questions, words_of
from offline.distill.samples import Conversation
from registry.atomic_files import place_file
from templates_store.sanitize import scrub

Setting = Literal["performance", "judge", "hybrid", "reference"]
STAGE_ONE = 5
"""How many of a query's best by performance the judge chooses from, in the hybrid setting."""


class CurationError(ValueError):
    """Nothing can be curated. The message says what was looked at and what was missing."""


class Curation(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What is taken.

    `top` answers of each query at most. `per_task`: queries of one task at most, so that one does not drown the others.
    `licences` by model; a model whose licence forbids training is left out, and one that nobody has stated a licence
    for is too, unless `unstated` is True. `tenant`: take this key's own traffic as well; without it only what the
    operator has marked as shared. `longest` characters of an answer.
    """

    setting: Setting = "hybrid"
    top: Annotated[int, msgspec.Meta(ge=1)] = 3
    per_task: Annotated[int, msgspec.Meta(ge=1)] | None = None
    licences: dict[str, tuple[str, ...]] = {}
    unstated: bool = False
    tenant: str | None = None
    longest: Annotated[int, msgspec.Meta(ge=1)] = 16_000
    seed: int = 0


class Curated(msgspec.Struct, frozen=True, kw_only=True):
    """The conversations, in the order of their ids, and how many answers were left out, by reason."""

    conversations: list[Conversation]
    left_out: dict[str, int]
    by_task: dict[str, int]
    by_source: dict[str, int]


def curate(answers: Iterable[Answer], wanted: Curation, benchmarks: Benchmarks | None = None) -> Curated:
    """Choose among scored answers. Deterministic, whatever the order they come in.

    Raises
    ------
    CurationError: nothing is left; the message counts why.
    """
    left_out: Counter[str] = Counter()
    groups: dict[str, list[Answer]] = defaultdict(list)
    for answer in answers:
        reason = _unfit(answer, wanted, benchmarks)
        if reason is not None:
            left_out[reason] += 1
        else:
            groups[answer.query_key].append(answer)
    kept = _distinct(groups, left_out)
    balanced = _balanced(kept, wanted, left_out)
    made = [one for group in balanced for one in _conversations(group, wanted, left_out)]
    if not made:
        raise CurationError(f"no answer is left to train on; left out: {dict(left_out) or 'nothing was there'}")
    made.sort(key=lambda one: one.id)
    return Curated(
        conversations=made, left_out=dict(left_out), by_task=dict(Counter(one.domain for one in made)),
        by_source=dict(Counter(one.source for one in made)),
    )  # fmt: skip


def _unfit(answer: Answer, wanted: Curation, benchmarks: Benchmarks | None) -> str | None:
    """Why an answer is not taken; None if it is."""
    if answer.tenant is not None and answer.tenant != wanted.tenant:
        return "another tenant's"
    if not answer.text.strip():
        return "empty"
    if len(answer.text) > wanted.longest:
        return "too long"
    if wanted.setting == "reference":
        return None if answer.reference else "no reference"
    allowed = may_train(wanted.licences.get(answer.model, ()))
    if allowed is False:
        return "licence forbids training"
    if allowed is None and not wanted.unstated:
        return "licence not stated"
    if not right(answer):
        return "not known to be right"
    if benchmarks is not None and benchmarks.clash(answer.query, answer.text) is not None:
        return "in a benchmark"
    return None


def _distinct(groups: Mapping[str, list[Answer]], left_out: Counter[str]) -> list[list[Answer]]:
    """The groups whose questions are not the same in other words as one before."""
    known, kept = Questions(), []
    for key in sorted(groups):
        words = words_of(groups[key][0].query)
        if words and known.same_or_add(key, words) is not None:
            left_out["same question as another"] += len(groups[key])
            continue
        kept.append(groups[key])
    return kept


def _balanced(groups: Sequence[list[Answer]], wanted: Curation, left_out: Counter[str]) -> list[list[Answer]]:
    """At most `per_task` groups of a task, drawn by the hash of the question and the seed."""
    if wanted.per_task is None:
        return list(groups)
    by_task: dict[str, list[list[Answer]]] = defaultdict(list)
    for group in groups:
        by_task[group[0].task or ""].append(group)
    kept = []
    for task in sorted(by_task):
        drawn = sorted(by_task[task], key=lambda group: _digest(str(wanted.seed), group[0].query_key))
        kept += drawn[: wanted.per_task]
        left_out["task is full"] += sum(len(group) for group in drawn[wanted.per_task :])
    return kept


def _conversations(group: Sequence[Answer], wanted: Curation, left_out: Counter[str]) -> list[Conversation]:
    if wanted.setting == "reference":
        reference = next(answer.reference for answer in group if answer.reference)
        return [_conversation(group[0], reference, "reference", 1.0)]
    unique: dict[str, Answer] = {}
    for answer in sorted(group, key=lambda answer: answer.id):
        if unique.setdefault(" ".join(answer.text.split()), answer) is not answer:
            left_out["same answer as another"] += 1
    chosen = ranked(list(unique.values()), wanted.setting)[: wanted.top]
    left_out["beyond the best of its query"] += len(unique) - len(chosen)
    # A query counts once, however many answers of it are taken.
    return [_conversation(answer, answer.text, answer.model, 1.0 / len(chosen)) for answer in chosen]


def ranked(answers: Sequence[Answer], setting: Setting) -> list[Answer]:
    """Best first. Ties go to the length nearest to the median: the longest only rambles, the shortest shows no reason
    (fusionfactory.md 4; the published code takes the longest)."""
    usual = median(len(answer.text) for answer in answers)

    def even(answer: Answer) -> tuple[float, str]:
        return abs(math.log(len(answer.text) / usual)), answer.id

    def known(answer: Answer) -> float:
        return next((value for value in (answer.score, answer.judge, answer.feedback) if value is not None), 0.0)

    def by_judge(answer: Answer) -> float:
        return -1.0 if answer.judge is None else answer.judge

    best = sorted(answers, key=lambda answer: (-known(answer), *even(answer)))
    if setting == "performance":
        return best
    if setting == "hybrid":
        best = best[:STAGE_ONE]
    return sorted(best, key=lambda answer: (-by_judge(answer), -known(answer), *even(answer)))


def _conversation(answer: Answer, reply: str, source: str, weight: float) -> Conversation:
    question, said = scrub(answer.query), scrub(reply)
    return Conversation(
        id=_digest(question, said)[:16], domain=answer.task or "all", source=source, weight=weight,
        messages=[{"role": "user", "content": question}, {"role": "assistant", "content": said}],
    )  # fmt: skip


def _digest(*parts: str) -> str:
    return hashlib.sha256("\0".join(parts).encode()).hexdigest()


def from_bohdi(folder: Path, *, unstated: bool = False) -> Iterator[Conversation]:
    """The examples of an export of Bohdi's, but those that the licences of their sources keep from training.

    Their domain is the main one, since that is what a release is judged by.

    Raises
    ------
    ExportError: the folder is no export, or not what was written.
    """
    for example in read_examples(folder):
        origin = example.provenance
        if origin.may_train is False or (origin.may_train is None and not unstated):
            continue
        messages = [{"role": "user", "content": example.question}, {"role": "assistant", "content": example.answer}]
        yield Conversation(
            id=_digest(example.question, example.answer)[:16], messages=messages, domain=origin.path[0],
            source=origin.model, weight=example.weight,
        )  # fmt: skip


def write_conversations(path: Path, conversations: Iterable[Conversation]) -> int:
    """Write them as JSONL, whole or not at all; returns how many there are. Equal ids are written once."""
    unique = {one.id: one for one in conversations}
    place_file(path, b"".join(msgspec.json.encode(unique[key]) + b"\n" for key in sorted(unique)))
    return len(unique)
