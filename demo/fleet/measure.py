"""Measure the shipped fleet: `python -m demo.fleet.measure accuracy outcomes`.

`accuracy` writes `accuracy.json` (every model on 200 held-out questions of every family, greedy) and `fleet.json`.
`outcomes` starts the light server, asks every model of it training questions over HTTP, and writes
`outcomes.jsonl.gz`: what a router for the fleet learns from.
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

from demo.fleet.config import ACCURACY_FILE, FLEET_FILE, OUTCOMES_FILE
from demo.fleet.decoding import Messages, greedy
from demo.fleet.engine import load
from demo.fleet.launch import running_server
from demo.fleet.roster import CONTEXT_WINDOW, EVERYTHING, ROSTER, Member
from demo.fleet.tasks import STEPS_HINT, Question, check, mixed, questions

TEST_QUESTIONS = 200
TEST_SEED = 2026
TRAIN_PER_FAMILY = 150
MAX_TOKENS = 96
PRICE_PER_MILLION_PARAMETERS = 0.15
"""USD per million tokens and million parameters. Invented, so that larger models cost more; nobody sells these."""


def asked_plainly(asked: Question) -> Messages:
    return [{"role": "user", "content": asked.text}]


def asked_with_steps(asked: Question) -> Messages:
    return [{"role": "user", "content": f"{STEPS_HINT}\n\n{asked.text}"}]


def accuracy(model: Any, tokenizer: Tokenizer, asked: Sequence[Question], hint: bool = False) -> float:
    """Share of questions answered exactly."""
    conversations = [asked_with_steps(q) if hint else asked_plainly(q) for q in asked]
    replies = greedy(model, tokenizer, conversations, MAX_TOKENS)
    return sum(check(q, reply.text) for q, reply in zip(asked, replies, strict=True)) / len(asked)


def measure_accuracy() -> None:
    """Write the accuracy matrix and the description of the fleet, from the shipped files."""
    tests = {family: questions(family, "test", TEST_QUESTIONS, TEST_SEED) for family in EVERYTHING}
    matrix: dict[str, dict[str, float]] = {}
    models: dict[str, dict[str, Any]] = {}
    for member in ROSTER.values():
        served = load(member.folder, member.name)
        matrix[member.name] = {family: accuracy(served.model, served.tokenizer, tests[family]) for family in EVERYTHING}
        matrix[member.name]["multiply with steps"] = accuracy(served.model, served.tokenizer, tests["multiply"], True)
        models[member.name] = describe(member, sum(p.numel() for p in served.model.parameters()))
        print(member.name, *(f"{family} {value:.3f}" for family, value in matrix[member.name].items()), flush=True)
    measured = {
        "questions_per_family": TEST_QUESTIONS, "split": "test", "decoding": "greedy", "seed": TEST_SEED,
        "command": "python -m demo.fleet.measure accuracy", "torch": torch.__version__, "accuracy": matrix,
    }  # fmt: skip
    ACCURACY_FILE.write_text(json.dumps(measured, indent=2) + "\n")
    about = {"note": "Prices are invented: proportional to the number of parameters.", "models": models}
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


async def gather_outcomes(base_url: str) -> list[dict[str, Any]]:
    """One outcome per training question and model, one request at a time so that latencies mean something."""
    rows: list[dict[str, Any]] = []
    asked = mixed("train", TRAIN_PER_FAMILY, seed=77)
    async with httpx.AsyncClient(base_url=base_url, timeout=120) as client:
        for index, one in enumerate(asked):
            rows += [await outcome(client, name, one) for name, member in ROSTER.items() if member.role != "target"]
            if index % 100 == 0:
                print(f"{index} of {len(asked)} questions", flush=True)
    return rows


def measure_outcomes() -> None:
    """Write real outcomes of every routed model on training questions."""
    with running_server() as base_url:
        rows = asyncio.run(gather_outcomes(base_url))
    text = "".join(json.dumps(row) + "\n" for row in rows)
    OUTCOMES_FILE.write_bytes(gzip.compress(text.encode(), 9, mtime=0))
    print(f"{len(rows)} outcomes in {OUTCOMES_FILE}", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description="Measure the shipped fleet.")
    parser.add_argument("what", nargs="+", choices=["accuracy", "outcomes"])
    torch.set_num_threads(1)
    for what in parser.parse_args().what:
        {"accuracy": measure_accuracy, "outcomes": measure_outcomes}[what]()


if __name__ == "__main__":
    main()
