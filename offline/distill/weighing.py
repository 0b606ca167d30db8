"""How much each source teaches each sample: by the recipe's method, from what the sources say of the replies."""

from __future__ import annotations

import numpy as np

from encoders.catalogue import load_encoder
from offline.distill.gate import Said as TokensSaid
from offline.distill.gate import learn, training_documents
from offline.distill.prepare import Prepared, Said
from offline.distill.recipe import Method, Recipe
from offline.distill.samples import domains
from offline.distill.selection import (
    Likelihoods,
    Selection,
    average_cross_entropy,
    bits_per_byte,
    keep,
    min_cross_entropy,
    published_gate,
    select,
    uniform,
)
from offline.distill.training import SourceWeights


def likelihoods(prepared: Prepared) -> Likelihoods:
    """What the sources say of all reply tokens, sample after sample; domains are the clusters."""
    place = {name: index for index, name in enumerate(domains(prepared.samples))}
    gold, cluster = [], []
    for sample in prepared.samples:
        columns = [np.full(len(sample.reply), np.nan) if rows is None else rows.gold_logprob for rows in sample.signals]
        gold.append(np.stack(columns, axis=1).astype(np.float64))
        cluster.append(np.full(len(sample.reply), place[sample.domain]))
    stacked = np.concatenate(gold)
    return Likelihoods(stacked, np.isfinite(stacked), np.concatenate(cluster).astype(np.int64))


def weigh(
    prepared: Prepared,
    recipe: Recipe,
    method: Method,
    before: Selection | None = None,
    say: Said = lambda line: None,
) -> tuple[Selection | None, SourceWeights]:
    """The weights of the sources: in each domain, and for each sample [D, K].

    FuseLLM's rules and the released code's go by document and have no weights of a domain: None.

    `gate` is learned, and used only where it beats the weights of whole domains on documents that neither has seen.

    Raises
    ------
    ValueError: there are too few samples to learn a gate from.
    """
    names, found = prepared.teachers, domains(prepared.samples)
    if method == "none" or not names:
        return None, np.zeros((len(prepared.samples), 0))
    if method in ("min_ce", "avg_ce"):
        losses = document_losses(prepared)
        return None, min_cross_entropy(losses) if method == "min_ce" else average_cross_entropy(losses)
    if method == "published":
        losses = np.nan_to_num(document_losses(prepared), nan=1e3)
        return None, lambda step: published_gate(losses, np.random.default_rng([recipe.training.seed, step]))
    if method == "uniform":
        made = uniform(names, len(found))
    else:
        made = select(
            names, likelihoods(prepared), clusters=len(found), threshold=recipe.selection.threshold,
            top=recipe.selection.top, before=before,
        )  # fmt: skip
    place = {name: index for index, name in enumerate(found)}
    by_domain = np.stack([made.weights[place[sample.domain]] for sample in prepared.samples])
    return made, gated(prepared, recipe, by_domain, say) if method == "gate" else by_domain


def gated(prepared: Prepared, recipe: Recipe, by_domain: np.ndarray, say: Said) -> np.ndarray:
    """Weights [D, K] of a learned gate over what a sample's last user message is about; `by_domain` if it loses."""
    features = load_encoder(recipe.selection.encoder).encode(prepared.texts).astype(np.float64)
    said, seed = likelihoods(prepared), recipe.training.seed
    owner = np.repeat(np.arange(len(prepared.samples)), [len(sample.reply) for sample in prepared.samples])
    inside = training_documents(len(prepared.samples), seed)[owner]
    found = domains(prepared.samples)
    start = select(
        prepared.teachers, Likelihoods(said.gold[inside], said.valid[inside], said.cluster[inside]),
        clusters=len(found), threshold=0.0,
    ).mixture  # fmt: skip
    place = {name: index for index, name in enumerate(found)}
    domain = np.stack([start[place[sample.domain]] for sample in prepared.samples])
    chosen = learn(features, domain, TokensSaid.of(said.gold, said.valid, owner, len(prepared.samples)), seed=seed)
    mean, low, high = chosen.gain
    say(
        f"the learned gate {'is used' if chosen.used else 'is not used'}: it saves {mean:+.3f} nats per reply "
        f"[{low:+.3f}, {high:+.3f}] against the weights of domains"
    )
    if not chosen.used:
        return by_domain
    return np.stack([
        keep(row, recipe.selection.threshold, top=recipe.selection.top) for row in chosen.gate(features, domain)
    ])  # fmt: skip


def document_losses(prepared: Prepared) -> np.ndarray:
    """[D, K] bits per byte of each reply under each source; NaN where it was not scored."""
    made = []
    for sample, sizes in zip(prepared.samples, prepared.bytes_of, strict=True):
        columns = [np.full(len(sample.reply), np.nan) if rows is None else rows.gold_logprob for rows in sample.signals]
        gold = np.stack(columns, axis=1).astype(np.float64)
        made.append(bits_per_byte(gold, np.isfinite(gold), sizes))
    return np.stack(made)
