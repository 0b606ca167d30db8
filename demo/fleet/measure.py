"""Measure the shipped fleet: `python -m demo.fleet.measure accuracy|outcomes|codes [--models NAME ...]`.

`accuracy` writes `accuracy.json` (every model on 200 held-out questions of every family, greedy) and `fleet.json`.
`outcomes` starts the light server, asks every model of it training questions over HTTP, and writes
`outcomes.jsonl.gz`: what a router for the fleet learns from. `codes` writes `codes.json`: what the two models of the
code book know of 200 held-out questions of each kind.
"""

from __future__ import annotations

import argparse
import asyncio
import gzip
import json
import time
from collections.abc import Sequence
from typing import Any

import httpx
import torch
from tokenizers import Tokenizer

from demo.fleet.code_training import knowledge
from demo.fleet.config import ACCURACY_FILE, CODES_FILE, FLEET_FILE, OUTCOMES_FILE, fleet_models
from demo.fleet.decoding import Messages, greedy
from demo.fleet.engine import load
from demo.fleet.launch import running_server
from demo.fleet.roster import CODE_BOOK, CONTEXT_WINDOW, EVERYTHING, ROSTER, Member
from demo.fleet.tasks import STEPS_HINT, Question, check, mixed, questions

TEST_QUESTIONS = 200
TEST_SEED = 2026
TRAIN_PER_FAMILY = 140
MAX_TOKENS = 96
WITH_STEPS = "multiply with steps"
"""Not a family: products asked with the steps named in the prompt."""
PRICE_PER_MILLION_PARAMETERS = 0.15
"""USD per million tokens and million parameters. Invented, so that larger models cost more; nobody sells these."""


def asked_plainly(asked: Question) -> Messages:
    return [{"role": "user", "content": asked.text}]


def asked_with_steps(asked: Question) -> Messages:
    return [{"role": "user", "content": f"{STEPS_HINT}\n\n{asked.text}"}]


def accuracy(model: Any, tokenizer: Tokenizer, asked: Sequence[Question], steps: bool = False) -> float:
    """Share of questions answered exactly."""
    conversations = [asked_with_steps(q) if steps else asked_plainly(q) for q in asked]
    replies = greedy(model, tokenizer, conversations, MAX_TOKENS)
    return sum(check(q, reply.text) for q, reply in zip(asked, replies, strict=True)) / len(asked)


def measure_accuracy(names: Sequence[str]) -> None:
    """Measure the named models from their shipped files; rows of the others in `accuracy.json` are kept."""
    tests = {family: questions(family, "test", TEST_QUESTIONS, TEST_SEED) for family in EVERYTHING}
    rows: dict[str, dict[str, float]] = (
        json.loads(ACCURACY_FILE.read_text())["accuracy"] if ACCURACY_FILE.exists() else {}
    )
    models = fleet_models() if FLEET_FILE.exists() else {}
    for name in names:
        served = load(ROSTER[name].folder, name)
        rows[name] = {family: accuracy(served.model, served.tokenizer, tests[family]) for family in EVERYTHING}
        rows[name][WITH_STEPS] = accuracy(served.model, served.tokenizer, tests["multiply"], steps=True)
        models[name] = describe(ROSTER[name], sum(p.numel() for p in served.model.parameters()))
        print(name, *(f"{family} {value:.3f}" for family, value in rows[name].items()), flush=True)
    measured = {
        "questions_per_family": TEST_QUESTIONS, "split": "test", "decoding": "greedy", "seed": TEST_SEED,
        "command": "python -m demo.fleet.measure accuracy", "torch": torch.__version__,
        "accuracy": {name: rows[name] for name in ROSTER if name in rows},
    }  # fmt: skip
    ACCURACY_FILE.write_text(json.dumps(measured, indent=2) + "\n")
    note = "Prices are invented: proportional to the number of parameters."
    about = {"note": note, "models": {name: models[name] for name in ROSTER if name in models}}
    FLEET_FILE.write_text(json.dumps(about, indent=2) + "\n")


def describe(member: Member, parameters: int) -> dict[str, Any]:
    """One model's entry in `fleet.json`."""
    price = round(PRICE_PER_MILLION_PARAMETERS * parameters / 1e6, 3)
    return {
        "role": member.role,
        "architecture": member.architecture,
        "tokenizer": "characters" if member.vocabulary == 0 else f"byte-level BPE of {member.vocabulary}",
        "families": list(member.families) if member.role == "specialist" else [],
        "parameters": parameters,
        "context_window": CONTEXT_WINDOW,
        "prices": {"prompt_per_1m": price, "completion_per_1m": round(4 * price, 3)},
    }


async def outcome(client: httpx.AsyncClient, name: str, asked: Question) -> dict[str, Any]:
    """Ask one model one question over HTTP and score the answer."""
    body = {"model": name, "messages": asked_plainly(asked), "max_tokens": MAX_TOKENS}
    started = time.perf_counter()
    response = await client.post("/chat/completions", json=body)
    latency = time.perf_counter() - started
    response.raise_for_status()
    answered = response.json()
    text = answered["choices"][0]["message"]["content"]
    return {
        "query": asked.text, "family": asked.family, "split": asked.split, "model": name, "answer": text,
        "score": check(asked, text), "prompt_tokens": answered["usage"]["prompt_tokens"],
        "completion_tokens": answered["usage"]["completion_tokens"], "latency_s": round(latency, 5),
    }  # fmt: skip


async def gather_outcomes(base_url: str, names: Sequence[str]) -> list[dict[str, Any]]:
    """One outcome per training question and model, one request at a time so that latencies mean something."""
    rows: list[dict[str, Any]] = []
    asked = mixed("train", TRAIN_PER_FAMILY, seed=77)
    async with httpx.AsyncClient(base_url=base_url, timeout=120) as client:
        for index, one in enumerate(asked):
            rows += [await outcome(client, name, one) for name in names]
            if index % 100 == 0:
                print(f"{index} of {len(asked)} questions", flush=True)
    return rows


def measure_outcomes(names: Sequence[str]) -> None:
    """Ask the named models training questions through the light server; outcomes of the others are kept."""
    kept: list[dict[str, Any]] = []
    if OUTCOMES_FILE.exists():
        lines = gzip.decompress(OUTCOMES_FILE.read_bytes()).decode().splitlines()
        kept = [row for row in map(json.loads, lines) if row["model"] not in names]
    with running_server(models=names) as base_url:
        rows = [*kept, *asyncio.run(gather_outcomes(base_url, names))]
    rows.sort(key=lambda row: (row["query"], list(ROSTER).index(row["model"])))
    text = "".join(json.dumps(row) + "\n" for row in rows)
    OUTCOMES_FILE.write_bytes(gzip.compress(text.encode(), 9, mtime=0))
    print(f"{len(rows)} outcomes in {OUTCOMES_FILE}", flush=True)


def measure_codes() -> None:
    """Measure the sage and the follower from their shipped files; writes `codes.json`."""
    found = {}
    for name, member in CODE_BOOK.items():
        served = load(member.folder, name)
        found[name] = knowledge(served.model, served.tokenizer, member, TEST_QUESTIONS, "test")
        print(name, *(f"{kind} {value:.3f}" for kind, value in found[name].items()), flush=True)
    measured = {
        "questions_of_each_kind": TEST_QUESTIONS, "split": "test", "decoding": "greedy",
        "command": "python -m demo.fleet.measure codes", "torch": torch.__version__, "accuracy": found,
    }  # fmt: skip
    CODES_FILE.write_text(json.dumps(measured, indent=2) + "\n")


def main() -> None:
    parser = argparse.ArgumentParser(description="Measure the shipped fleet.")
    parser.add_argument("what", choices=["accuracy", "outcomes", "codes"])
    parser.add_argument("--models", nargs="+", choices=list(ROSTER), metavar="NAME", help="all if left out")
    torch.set_num_threads(1)
    arguments = parser.parse_args()
    if arguments.what == "codes":
        measure_codes()
    elif arguments.what == "accuracy":
        measure_accuracy(arguments.models or list(ROSTER))
    else:
        # The target model knows nothing yet, so there is nothing about it to learn.
        measure_outcomes(arguments.models or [name for name, member in ROSTER.items() if member.role != "target"])


if __name__ == "__main__":
    main()
