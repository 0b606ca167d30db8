"""Make the models of the live proof: `python -m demo.bohdi.train [--only NAME ...]`. Writes `demo/bohdi/models/`.

The sources start from the fleet's specialists; each has a fixed seed, so that the same torch build gives the same
weights on one thread.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import time

os.environ.setdefault("HF_HUB_OFFLINE", "1")

import torch

from demo.bohdi.corpus import Lessons
from demo.bohdi.roster import SOURCES, Source
from demo.bohdi.teaching import seeded, teach
from demo.fleet.engine import load
from demo.fleet.roster import ROSTER
from demo.fleet.training import Encoder, accuracy_of


def train_source(source: Source) -> None:
    """Teach one specialist to propose and to ask, and write its folder: weights in float16, tokenizer, how it was made."""
    member = ROSTER[source.was]
    served, rng, started = load(member.folder, source.was), seeded(source.seed), time.monotonic()
    lessons = Lessons(member.families, source.seed)
    teach(
        served.model, Encoder(served.tokenizer), lambda _: lessons.draw(source.batch, rng), source.steps,
        source.learning_rate, lambda line: print(f"{source.name} {line} {time.monotonic() - started:.0f}s", flush=True),
    )  # fmt: skip
    accuracy = accuracy_of(served.model, served.tokenizer, member.families, 100)
    seconds = round(time.monotonic() - started, 1)
    source.folder.mkdir(parents=True, exist_ok=True)
    for name in ("tokenizer.json", "tokenizer_config.json"):
        shutil.copyfile(member.folder / name, source.folder / name)
    served.model.half().save_pretrained(source.folder)
    made = {
        "from": source.was, "seed": source.seed, "steps": source.steps, "batch": source.batch,
        "learning_rate": source.learning_rate, "families": list(member.families), "accuracy_on_training": accuracy,
        "training_s": seconds, "torch": torch.__version__, "license": "Apache-2.0",
    }  # fmt: skip
    (source.folder / "training.json").write_text(json.dumps(made, indent=2) + "\n")
    print(f"{source.name}: {accuracy}, {seconds} s, written to {source.folder}", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description="Make the models of Bohdi's live proof.")
    parser.add_argument("--only", nargs="+", choices=list(SOURCES), default=list(SOURCES), metavar="NAME")
    torch.set_num_threads(1)
    for name in parser.parse_args().only:
        train_source(SOURCES[name])


if __name__ == "__main__":
    main()
