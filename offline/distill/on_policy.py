"""The on-policy stage: the target writes, its sources say what they would have written, and it learns from that.

Generalised knowledge distillation (GKD, arXiv 2306.13649) with several sources: replies are drawn from the target as it
is, every local source scores them through the same alignment, and the target descends the divergence at its own tokens
alone, so that it learns to go on from its own mistakes. Its own words are never taken as right: there is no CLM part.
The sources' weights are those that were found on the reference replies; what the target writes says nothing of them.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import msgspec
import numpy as np

from offline.distill.evaluate import reply_all
from offline.distill.fuse import WEIGHTS, Run, line_of, load_target, save
from offline.distill.prepare import Prepared, Said, prepare, split
from offline.distill.recipe import OnPolicyRecipe, Recipe, RecipeError, TargetRecipe
from offline.distill.samples import Conversation, DataError, domains, read_conversations
from offline.distill.selection import Selection
from offline.distill.training import TrainingSettings, train
from registry.atomic_files import place_file

ON_POLICY = "on-policy"
"""Folder of the rounds, inside the output."""
REPLIES = "replies.jsonl"


def on_policy(
    recipe: Recipe,
    fused: Prepared,
    start: Run,
    *,
    say: Said = lambda line: None,
    stop: Callable[[], bool] = lambda: False,
) -> Run | None:
    """Go on from the fused model of `start`, which was trained on `fused`, by the recipe's `on_policy`; None if it was
    stopped before the end.

    Rounds that were done are not done again, nor are replies written twice.

    Raises
    ------
    RecipeError: the recipe has no such stage, no local source, or `start` has no weights of domains.
    DataError: the target writes nothing that can be scored.
    TrainingStopped, CheckpointError, SignalStoreError: see `training.train` and `signal_store`.
    """
    wanted = _required(recipe, start)
    run = start
    for number in range(wanted.rounds):
        folder = recipe.output / ON_POLICY / f"round-{number}"
        replies = folder / REPLIES
        if not replies.exists():
            _write(replies, written(recipe, run.folder, number))
        made = _one_round(recipe, fused, run, folder, number, say, stop)
        if made is None:
            return None
        run = made
    return run


def _required(recipe: Recipe, start: Run) -> OnPolicyRecipe:
    if recipe.on_policy is None:
        raise RecipeError("expected `on_policy` in the recipe; name its rounds and steps")
    if recipe.lora is not None:
        raise RecipeError("the on-policy stage trains all weights; take `lora` or `on_policy` out of the recipe")
    if not any(teacher.kind == "local" for teacher in recipe.teachers):
        raise RecipeError("the on-policy stage asks sources about new replies: at least one must be local")
    if start.selection is None:
        raise RecipeError("the on-policy stage needs weights of domains: selection.method must be em, gate or uniform")
    return recipe.on_policy


def written(recipe: Recipe, model: Path, number: int) -> list[Conversation]:
    """Conversations of a round: prompts of the training data, each with a reply of the model's own.

    Raises DataError: no reply has any text.
    """
    wanted = recipe.on_policy or OnPolicyRecipe()
    asked, _ = split(recipe)
    seed = recipe.training.seed
    order = np.random.default_rng([seed, 29, number]).permutation(len(asked))[: wanted.prompts]
    chosen = [asked[index] for index in sorted(order.tolist())]
    replies = reply_all(
        model, chosen, wanted.max_reply_tokens, temperature=wanted.temperature, seed=seed * 1_000 + number
    )
    found = [_with_reply(one, reply, number) for one, reply in zip(chosen, replies, strict=True) if reply]
    if not found:
        raise DataError(f"{model} wrote nothing to any of {len(chosen)} prompts; train it further before this stage")
    return found


def _with_reply(asked: Conversation, reply: str, number: int) -> Conversation:
    messages = [*asked.messages[:-1], {"role": "assistant", "content": reply}]
    return msgspec.structs.replace(asked, id=f"{asked.id}/{number}", messages=messages, source="target")


def _write(path: Path, conversations: Sequence[Conversation]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    place_file(path, b"".join(msgspec.json.encode(one) + b"\n" for one in conversations))


def _one_round(
    recipe: Recipe, fused: Prepared, before: Run, folder: Path, number: int, say: Said, stop: Callable[[], bool]
) -> Run | None:
    replies = folder / REPLIES
    mine = msgspec.structs.replace(
        recipe, target=TargetRecipe(name=recipe.target.name, model=before.folder),
        data=msgspec.structs.replace(recipe.data, train=replies, holdout=replies),
        teachers=tuple(teacher for teacher in recipe.teachers if teacher.kind == "local"),
    )  # fmt: skip
    prepared = prepare(mine, say)
    settings, weights = settings_of(recipe), weights_by_domain(before.selection, domains(fused.samples), prepared)
    model = load_target(mine)
    name = f"{ON_POLICY}-{number}"
    trained = train(
        model, prepared.samples, weights, settings, folder,
        recipe=f"{mine.digest(replies)}-{name}", pad=prepared.format.pad, stop=stop,
        report=lambda progress: say(line_of(name, progress, settings.steps)) if progress.step % 50 == 0 else None,
    )  # fmt: skip
    if trained.steps < settings.steps:
        return None
    if not (folder / WEIGHTS).exists():
        save(model, before.folder, folder / WEIGHTS)
    told = "" if trained.last is None else f", divergence {trained.last.fused:.3f} nats"
    say(f"{name}: {len(read_conversations(replies))} replies of its own{told}")
    return Run(name, folder / WEIGHTS, before.selection, trained)


def settings_of(recipe: Recipe) -> TrainingSettings:
    """The recipe's training with this stage's steps and divergence, and the divergence alone from the first step."""
    wanted = recipe.on_policy or OnPolicyRecipe()
    return msgspec.structs.replace(
        recipe.training, steps=wanted.steps, divergence=wanted.divergence, mix=1.0, mix_warmup=1,
        learning_rate=recipe.training.learning_rate * wanted.learning_rate_share,
    )  # fmt: skip


def weights_by_domain(selection: Selection | None, names: Sequence[str], prepared: Prepared) -> np.ndarray:
    """[D, K] for the samples and sources of `prepared`, from the weights of the domains `names`.

    Raises
    ------
    RecipeError: there are no weights, or none of a domain.
    """
    if selection is None:
        raise RecipeError("expected the weights of domains that the fused model was trained with, got none")
    row = {name: index for index, name in enumerate(names)}
    missing = sorted({sample.domain for sample in prepared.samples} - set(row))
    if missing:
        raise RecipeError(f"there are no weights of the domain {missing[0]}; fuse again with it in the data")
    columns = [selection.sources.index(name) for name in prepared.teachers]
    found: np.ndarray = selection.weights[[row[sample.domain] for sample in prepared.samples]][:, columns]
    return found
