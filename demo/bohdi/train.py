"""Make the models of the live proof: `python -m demo.bohdi.train [--only NAME ...]`. Writes `demo/bohdi/models/`.

The sources start from the fleet's specialists, the pupil from nothing; each has a fixed seed, so that the same torch
build gives the same weights on one thread.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

os.environ.setdefault("HF_HUB_OFFLINE", "1")

import torch
from tokenizers import Tokenizer

from demo.bohdi.corpus import COURSES, Course, Lessons
from demo.bohdi.domains import TAUGHT, worded
from demo.bohdi.roster import PUPIL, SCHOOLING, SOURCES, Schooling, Source
from demo.bohdi.schooling import Taste, lesson
from demo.bohdi.teaching import Report, answered, seeded, teach
from demo.fleet import tokenization
from demo.fleet.engine import Served, load
from demo.fleet.roster import CONTEXT_WINDOW, ROSTER
from demo.fleet.training import Encoder, build

CHECKED = 100
"""Training questions of each family on which a model is measured when it is done."""


def train_source(source: Source, report: Report) -> None:
    """Teach one specialist to propose and to ask, and write its folder."""
    member = ROSTER[source.was]
    served, started = load(member.folder, source.was), time.monotonic()
    families = own_families(source)
    for number, course in enumerate(COURSES):
        take_course(served, source, course, source.seed + 100 * number, report)
    source.folder.mkdir(parents=True, exist_ok=True)
    for name in ("tokenizer.json", "tokenizer_config.json"):
        shutil.copyfile(member.folder / name, source.folder / name)
    made = {
        "from": source.was, "seed": source.seed, "steps": source.steps, "batch": source.batch,
        "courses": len(COURSES), "learning_rate": source.learning_rate, "families": families,
    }  # fmt: skip
    write(served.model, served.tokenizer, source.folder, families, made, started)


def take_course(served: Served, source: Source, course: Course, seed: int, report: Report) -> None:
    """One course of a source. Its weights are rounded to float16 at the end, as they are when they are shipped."""
    rng, lessons = seeded(seed), Lessons(own_families(source), course, seed)
    encoder = Encoder(served.tokenizer)
    teach(served.model, encoder, lambda _: lessons.draw(source.batch, rng), source.steps, source.learning_rate, report)
    served.model.half().float()


def own_families(source: Source) -> tuple[str, ...]:
    """The families that a source answers: those of its specialist that are domains here."""
    return tuple(family for family in ROSTER[source.was].families if family in TAUGHT)


def train_pupil(schooling: Schooling, report: Report) -> None:
    """Make the beginner: small skills first, then a taste of each family. Writes its folder."""
    started, member, tokenizer = time.monotonic(), schooling.member, tokenization.characters()
    rng, model, encoder = seeded(member.seed), build(member, tokenizer), Encoder(tokenizer)
    teach(
        model, encoder, lambda _: [lesson(rng) for _ in range(schooling.batch)], schooling.lessons,
        member.learning_rate, report,
    )  # fmt: skip
    report("has had its lessons")
    taste_families(model, tokenizer, schooling, report, started)


def taste_families(model: Any, tokenizer: Tokenizer, schooling: Schooling, report: Report, started: float) -> None:
    """Give a schooled pupil its taste of each family, and write its folder."""
    member, encoder = schooling.member, Encoder(tokenizer)
    taste, rng = Taste(TAUGHT, schooling.ceiling, member.seed), seeded(member.seed + 1)
    sample = {family: worded(family, "train", 40, 991) for family in TAUGHT}

    def tasted(line: str) -> None:
        model.eval()
        taste.update(answered(model, tokenizer, sample))
        model.train()
        report(f"{line} " + " ".join(f"{family}={taste.accuracy[family]:.2f}" for family in TAUGHT))

    teach(
        model, encoder, lambda _: taste.draw(schooling.batch, rng), schooling.tastes, schooling.taste_rate, tasted,
        every=schooling.look_every,
    )  # fmt: skip
    schooling.folder.mkdir(parents=True, exist_ok=True)
    tokenization.save(tokenizer, schooling.folder, CONTEXT_WINDOW)
    made = {
        "seed": member.seed, "lessons": schooling.lessons, "tastes": schooling.tastes, "ceiling": schooling.ceiling,
        "batch": schooling.batch, "learning_rate": member.learning_rate, "taste_rate": schooling.taste_rate,
    }  # fmt: skip
    write(model, tokenizer, schooling.folder, TAUGHT, made, started)


def write(
    model: Any, tokenizer: Tokenizer, folder: Path, families: tuple[str, ...], made: Mapping[str, Any],
    started: float,
) -> None:  # fmt: skip
    """Write the weights in float16, and how they were made."""
    accuracy = answered(model, tokenizer, {family: worded(family, "train", CHECKED, 992) for family in families})
    record = {
        **made, "parameters": sum(p.numel() for p in model.parameters()), "accuracy_on_training": accuracy,
        "training_s": round(time.monotonic() - started, 1), "torch": torch.__version__, "license": "Apache-2.0",
    }  # fmt: skip
    model.half().save_pretrained(folder)
    (folder / "training.json").write_text(json.dumps(record, indent=2) + "\n")


def main() -> None:
    parser = argparse.ArgumentParser(description="Make the models of Bohdi's live proof.")
    names = [*SOURCES, PUPIL]
    parser.add_argument("--only", nargs="+", choices=names, default=names, metavar="NAME")
    torch.set_num_threads(1)
    for name in parser.parse_args().only:

        def report(line: str, name: str = name) -> None:
            print(f"{name} {line}", flush=True)

        if name == PUPIL:
            train_pupil(SCHOOLING, report)
        else:
            train_source(SOURCES[name], report)


if __name__ == "__main__":
    main()
