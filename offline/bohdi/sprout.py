"""Sprout: all sources propose a domain for one place of the tree, and what most of them name is added.

A name has to be one (`domain_names`), must not be there already, under that name or a near-synonym (by embedding, under
the same parent only: "Statistics" may be part of two subjects), and must not be about how harm is done. What more
sources name comes first, then what was named oftener: a source that repeats itself has one voice.
"""

from __future__ import annotations

import random
import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Literal

import numpy as np

from encoders.protocol import Encoder, Vectors
from offline.bohdi.calls import Call, call_seed
from offline.bohdi.domain_names import NotAName, alike, read_name, same_name, unsafe
from offline.bohdi.events import ROOT, node_id
from offline.bohdi.log import StoredReply
from offline.bohdi.prompts import Asked, PromptSet
from offline.bohdi.reply_faults import refuses, without_thinking
from offline.bohdi.tree import Tree

NONE_YET = "(none yet)"
Failure = Literal["invalid", "known", "unsafe", "unanswered"]


@dataclass(slots=True)
class Proposal:
    """A name with its votes by source; `spellings` are those of the names that were taken for the same."""

    name: str
    votes: Counter[str] = field(default_factory=Counter)
    spellings: Counter[str] = field(default_factory=Counter)


@dataclass(frozen=True, slots=True)
class Sprout:
    """A domain to add. `embedding`: of its name, shape (d,); empty if the encoder knows nothing of it."""

    node: str
    name: str
    votes: dict[str, int]
    embedding: tuple[float, ...]


def propose_calls(
    tree: Tree, parent: str, sources: Sequence[str], prompts: PromptSet, temperatures: dict[str, float], seed: int,
    step: str,
) -> list[Call]:  # fmt: skip
    """What the sources are asked for a domain under `parent`; `step` names this try within its log."""
    asked = prompts.reading.propose
    text = propose_prompt(tree, parent, prompts, call_seed(seed, step))
    calls = []
    for source in sources:
        for sample in range(asked.samples):
            place = f"{step}/{source}/{sample}"
            calls.append(
                Call(
                    step=place, arm=source, prompt=text, max_tokens=asked.max_tokens, seed=call_seed(seed, place),
                    temperature=temperatures.get(source, asked.temperature), top_p=asked.top_p,
                )
            )  # fmt: skip
    return calls


def propose_prompt(tree: Tree, parent: str, prompts: PromptSet, seed: int) -> str:
    """The prompt for a domain under `parent`: it shows the path and some of the names that are there."""
    node = tree.node(parent)
    names = [child.name for child in tree.children(parent)]
    most = prompts.reading.show_taken
    shown = names if len(names) <= most else sorted(random.Random(seed).sample(names, most), key=names.index)
    values = {"taken": ", ".join(shown) or NONE_YET, "level": prompts.level(node.level + 1)}
    if parent == ROOT:
        return prompts.text("propose_first", **values)
    return prompts.text("propose", path=prompts.path(tree.path_names(parent)), parent=node.name, **values)


def sprouted(
    tree: Tree, parent: str, sources: Sequence[str], replies: Sequence[StoredReply], asked: Asked, encoder: Encoder,
    merge_threshold: float, seed: int,
) -> Sprout | Failure:  # fmt: skip
    """What the replies to `propose_calls` come to: the domain to add, or why there is none.

    `sources`: who gave each reply. Deterministic; a tie is broken by `seed`.
    """
    named, answered = _named(sources, replies, asked)
    if not named:
        return "invalid" if answered else "unanswered"
    proposals = [proposal for proposal in _gathered(named) if not _known(tree, parent, proposal.name)]
    if not proposals:
        return "known"
    path = tree.path_names(parent)
    safe = [proposal for proposal in proposals if not unsafe((*path, proposal.name))]
    if not safe:
        return "unsafe"
    vectors = encoder.encode([proposal.name for proposal in safe])
    fresh = _unlike_siblings(tree, parent, safe, vectors, encoder, merge_threshold)
    if not fresh:
        return "known"
    best = _most_wanted(_merged(fresh, merge_threshold), seed)
    vector = encoder.encode_one(best.name)
    return Sprout(
        node=node_id(parent, best.name),
        name=best.name,
        votes=dict(sorted(best.votes.items())),
        embedding=tuple(float(x) for x in vector) if vector.any() else (),
    )


def extracted(text: str, asked: Asked) -> str | None:
    """What a reply puts between the marks, the last one if there are several; None if nothing stands there."""
    text = without_thinking(text)
    if not asked.open:
        return text or None
    found = re.findall(f"{re.escape(asked.open)}(.*?){re.escape(asked.close)}", text, re.S) if asked.close else []
    return str(found[-1]).strip() or None if found else None


def _named(sources: Sequence[str], replies: Sequence[StoredReply], asked: Asked) -> tuple[list[tuple[str, str]], bool]:
    """Each name that was proposed, with its source, and whether anybody answered at all."""
    named, answered = [], False
    for source, reply in zip(sources, replies, strict=True):
        if reply.text is None or refuses(reply.text):
            continue
        answered = True
        text = extracted(reply.text, asked)
        if text is None or not asked.min_chars <= len(text) <= asked.max_chars:
            continue
        try:
            named.append((source, read_name(text)))
        except NotAName:
            continue
    return named, answered


def _gathered(named: Sequence[tuple[str, str]]) -> list[Proposal]:
    """One proposal for each name, whatever its case, in the spelling that is most usual."""
    found: dict[str, Proposal] = {}
    for source, name in named:
        proposal = found.setdefault(name.casefold(), Proposal(name))
        proposal.votes[source] += 1
        proposal.spellings[name] += 1
    for proposal in found.values():
        proposal.name = min(proposal.spellings, key=lambda spelling: (-proposal.spellings[spelling], spelling))
    return list(found.values())


def _known(tree: Tree, parent: str, name: str) -> bool:
    """Whether the name is a child of `parent` already, in use or retired, or one of the names above it."""
    return node_id(parent, name) in tree or any(same_name(name, above) for above in tree.path_names(parent))


def _unlike_siblings(
    tree: Tree, parent: str, proposals: Sequence[Proposal], vectors: Vectors, encoder: Encoder, threshold: float
) -> list[tuple[Proposal, Vectors]]:
    siblings = [child.name for child in tree.children(parent)]
    if not siblings:
        return list(zip(proposals, vectors, strict=True))
    near = vectors @ encoder.encode(siblings).T
    return [
        (proposal, vector)
        for proposal, vector, cosines in zip(proposals, vectors, near, strict=True)
        if not any(alike(proposal.name, name, float(x), threshold) for name, x in zip(siblings, cosines, strict=True))
    ]


def _merged(proposals: Sequence[tuple[Proposal, Vectors]], threshold: float) -> list[Proposal]:
    """Near-synonyms become one proposal under the name that is wanted most; its votes are theirs together."""
    ordered = sorted(proposals, key=lambda found: (*_rank(found[0]), found[0].name))
    kept: list[tuple[Proposal, Vectors]] = []
    for proposal, vector in ordered:
        cosines = ((other, float(np.dot(vector, theirs))) for other, theirs in kept)
        same = next((other for other, cosine in cosines if alike(proposal.name, other.name, cosine, threshold)), None)
        if same is None:
            kept.append((proposal, vector))
        else:
            same.votes.update(proposal.votes)
    return [proposal for proposal, _ in kept]


def _rank(proposal: Proposal) -> tuple[int, int]:
    """What is wanted most comes first: sources that name it, then how often."""
    return -len(proposal.votes), -proposal.votes.total()


def _most_wanted(proposals: Sequence[Proposal], seed: int) -> Proposal:
    best = min(_rank(proposal) for proposal in proposals)
    equal = sorted((proposal for proposal in proposals if _rank(proposal) == best), key=lambda found: found.name)
    return random.Random(seed).choice(equal)
