"""What the proof is made of: questions of four families, what every source answers to them, and the useless teacher."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from random import Random

import torch
from tokenizers import Tokenizer

from demo.fleet.corpus import Example
from demo.fleet.roster import CONTEXT_WINDOW, MODELS_DIR, Member
from demo.fleet.tasks import Question, check, questions
from demo.fleet.tokenization import byte_level, save
from demo.fleet.training import fit
from offline.answers import Answer
from offline.curate import Curation, curate, write_conversations
from offline.distill.evaluate import reply_all
from offline.distill.samples import Conversation

FAMILIES = ("add", "reverse", "sort", "facts")
SPECIALISTS = {"add": "calc-llama", "reverse": "letters-gpt2", "sort": "order-qwen", "facts": "clerk-neox"}
"""Who knows which family: four architectures, four tokenizers."""
TARGET = "target-llama"
USELESS = "useless-qwen"
REPLY_TOKENS = 24
_USELESS = Member(USELESS, "specialist", "qwen2", FAMILIES, 600, 200, 31, batch=32)


@dataclass(frozen=True, slots=True)
class Material:
    """Files and folders of one proof. `right`: share of right answers of each source in each family (training side)."""

    train: Path
    few: Path
    holdout: Path
    useless: Path
    right: dict[str, dict[str, float]]
    conversations: int
    few_conversations: int


def make(folder: Path, per_family: int, few_share: float, held_out: int) -> Material:
    """Ask every source all training questions, curate what is right, and hold out the fleet's test questions."""
    folder.mkdir(parents=True, exist_ok=True)
    useless = train_useless(folder / USELESS)
    asked = [one for family in FAMILIES for one in drawn(family, "train", per_family)]
    answers, right = _answers(asked, {**{name: MODELS_DIR / name for name in SPECIALISTS.values()}, USELESS: useless})
    wanted = Curation(setting="performance", top=1, licences=dict.fromkeys((*SPECIALISTS.values(), USELESS), ("own",)))
    made = curate(answers, wanted).conversations
    few = [one for one in made if Random(one.id).random() < few_share]
    write_conversations(folder / "train.jsonl", made)
    write_conversations(folder / "few.jsonl", few)
    test = [conversation(one, one.answer) for family in FAMILIES for one in drawn(family, "test", held_out)]
    write_conversations(folder / "holdout.jsonl", test)
    return Material(
        folder / "train.jsonl", folder / "few.jsonl", folder / "holdout.jsonl", useless, right, len(made), len(few)
    )


def drawn(family: str, split: str, most: int) -> list[Question]:
    """So many questions, or as many as there are: there are about 1,200 texts of facts."""
    while most > 0:
        try:
            return questions(family, "train" if split == "train" else "test", most, seed=7)
        except ValueError:
            most = int(most * 0.8)
    return []


def conversation(asked: Question, reply: str) -> Conversation:
    messages = [{"role": "user", "content": asked.text}, {"role": "assistant", "content": reply}]
    return Conversation(id=asked.id, messages=messages, domain=asked.family)


def _answers(asked: Sequence[Question], sources: dict[str, Path]) -> tuple[list[Answer], dict[str, dict[str, float]]]:
    """Every source's answer to every question, scored by the family's exact checker."""
    answers, right = [], {}
    for name, folder in sources.items():
        replies = reply_all(folder, [conversation(one, "?") for one in asked], REPLY_TOKENS)
        scored = [None if reply is None else check(one, reply) for one, reply in zip(asked, replies, strict=True)]
        right[name] = {
            family: sum(score or 0.0 for one, score in zip(asked, scored, strict=True) if one.family == family)
            / sum(one.family == family for one in asked)
            for family in FAMILIES
        }
        answers += [
            Answer(id=f"{one.id}/{name}", query=one.text, text=reply, model=name, score=score, task=one.family)
            for one, reply, score in zip(asked, replies, scored, strict=True)
            if reply
        ]
    return answers, right


def train_useless(folder: Path) -> Path:
    """A teacher that has learned to answer each question with the answer of another one: fluent, sure and wrong."""
    if (folder / "model.safetensors").exists():
        return folder
    shutil.rmtree(folder, ignore_errors=True)
    torch.set_num_threads(1)
    pairs = _swapped()
    tokenizer: Tokenizer = byte_level((f"{one.user}\n{one.reply}" for one in pairs), _USELESS.vocabulary)
    rng = Random(_USELESS.seed)
    model = fit(
        _USELESS, tokenizer, lambda step: rng.sample(pairs, _USELESS.batch), lambda model: {}, lambda line: None
    )
    save(tokenizer, folder, CONTEXT_WINDOW)
    model.save_pretrained(folder)
    return folder


def _swapped() -> list[Example]:
    """Questions of all families, each with the answer of another question of its family."""
    pairs = []
    for family in FAMILIES:
        asked = drawn(family, "train", 800)
        answers = [one.answer for one in asked]
        Random(family).shuffle(answers)
        pairs += [Example(None, one.text, reply) for one, reply in zip(asked, answers, strict=True)]
    return pairs
