"""Train the fleet from scratch: `python -m demo.fleet.train [--only NAME ...]`. Writes `demo/fleet/models/<name>/`.

Every member has a fixed seed; on the same torch build and one thread the weights come out the same.
"""

from __future__ import annotations

import argparse
import json
import os
import time
from typing import Any

os.environ.setdefault("HF_HUB_OFFLINE", "1")

import torch
from tokenizers import Tokenizer

from demo.fleet import tokenization
from demo.fleet.code_training import train_reader
from demo.fleet.roster import ALL_MEMBERS, CODE_BOOK, CONTEXT_WINDOW, Member
from demo.fleet.tasks import mixed
from demo.fleet.training import Report, train

GENERALIST_CEILING = 0.5
"""Accuracy at which the generalist is no longer taught a family."""


def tokenizer_of(member: Member) -> Tokenizer:
    """The member's tokenizer: characters, or a BPE trained on its families' questions and some of the others."""
    if member.vocabulary == 0:
        return tokenization.characters()
    own = mixed("train", 800, member.seed, member.families)
    others = mixed("train", 100, member.seed)
    return tokenization.byte_level((f"{q.text}\n{q.answer}" for q in [*own, *others]), member.vocabulary)


def trained(member: Member, report: Report) -> tuple[Any, Tokenizer]:
    """The member's model, freshly trained, and its tokenizer."""
    if member.name in CODE_BOOK:
        return train_reader(member, report)
    tokenizer = tokenizer_of(member)
    return train(member, tokenizer, report, GENERALIST_CEILING if member.role == "generalist" else None), tokenizer


def train_member(member: Member) -> None:
    """Train one model and write its folder: weights in float16, config, tokenizer and how it was trained."""
    started = time.monotonic()
    model, tokenizer = trained(member, lambda line: print(line, flush=True))
    seconds = round(time.monotonic() - started, 1)
    tokenization.save(tokenizer, member.folder, CONTEXT_WINDOW)
    model.half().save_pretrained(member.folder)
    made = {
        "seed": member.seed, "steps": member.steps, "batch": member.batch, "learning_rate": member.learning_rate,
        "families": list(member.families), "parameters": sum(p.numel() for p in model.parameters()),
        "training_s": seconds, "torch": torch.__version__, "license": "Apache-2.0",
    }  # fmt: skip
    (member.folder / "training.json").write_text(json.dumps(made, indent=2) + "\n")
    print(f"{member.name}: {made['parameters']:,} parameters, {seconds} s, written to {member.folder}", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description="Train the models of the demo fleet from scratch.")
    parser.add_argument("--only", nargs="+", choices=list(ALL_MEMBERS), default=list(ALL_MEMBERS), metavar="NAME")
    torch.set_num_threads(1)
    for name in parser.parse_args().only:
        train_member(ALL_MEMBERS[name])


if __name__ == "__main__":
    main()
