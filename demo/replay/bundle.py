"""Make the bundled samples from the multi-LLM logs: `python -m demo.replay.bundle [--from FOLDER] [--to FOLDER]`.

The folder holds `llmrouter14.parquet`, `mmlu_pro.parquet` and `prices.json`; unless given, it is the one that the
environment variable TOKAMAK_SHARED_DATA names. The same input always gives the same bytes.
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Sequence
from pathlib import Path

from demo.replay.parquet import read_parquet
from demo.replay.sample import (
    BUNDLED,
    LoggedQuery,
    ReplaySample,
    SampleError,
    by_task,
    content_hash,
    write_bundle,
)

FOLDER = "TOKAMAK_SHARED_DATA"
"""Environment variable that names the folder of the logs."""
MAX_BYTES = 5_000_000
"""The bundled samples together are at most this large."""
MMLU_PRO_QUERIES = 7000
"""All questions with answer texts, and as many of the others as fit below `MAX_BYTES`."""
OPEN_MODELS = (
    "DeepSeek-Coder-V2",
    "Meta-Llama-3_1-70B-Instruct",
    "Qwen1.5-72B-Chat",
    "Mixtral-8x7B-Instruct-v0.1",
    "c4ai-command-r-v01",
    "Meta-Llama-3_1-8B-Instruct",
    "Meta-Llama-3-8B-Instruct",
    "mathstral-7B",
    "Phi-3-mini-4k-instruct",
    "Mistral-7B-Instruct-v0.2",
    "Mistral-7B-Instruct-v0.1",
    "Qwen1.5-7B-Chat",
)
"""Twelve instruction-tuned models with open weights: none wins everywhere, each could be self-hosted."""


def llmrouter14(folder: Path) -> ReplaySample:
    """All 5,989 queries and 9 models of LLMRouter's log; it kept no answer texts."""
    return read_parquet(
        folder / "llmrouter14.parquet",
        source="github.com/ulab-uiuc/LLMRouter at 4e7a796",
        licence="MIT",
        prices=folder / "prices.json",
    )


def mmlu_pro(folder: Path) -> ReplaySample:
    """The questions of MMLU-Pro that carry the answers of all `OPEN_MODELS`, filled up by content hash."""
    whole = read_parquet(
        folder / "mmlu_pro.parquet",
        models=OPEN_MODELS,
        source="github.com/TIGER-AI-Lab/MMLU-Pro at f418b11",
        licence="Apache-2.0",
        prices=folder / "prices.json",
    )
    asked_all = [query for query in whole.queries if None not in query.scores]
    with_texts = [query for query in asked_all if query.texts is not None and None not in query.texts]
    others = sorted((query for query in asked_all if query.texts is None), key=lambda query: content_hash(query.text))
    chosen = with_texts + others[: MMLU_PRO_QUERIES - len(with_texts)]
    return ReplaySample(whole.header, sorted(chosen, key=_order))


def _order(query: LoggedQuery) -> tuple[str, bool, str]:
    # Neighbours that resemble each other compress better.
    return query.task, query.texts is None, query.query_id


def describe(sample: ReplaySample) -> str:
    """One line on what a sample holds."""
    texts = sum(query.texts is not None for query in sample.queries)
    tasks = len(by_task(sample.queries))
    return (
        f"{sample.header.name}: {len(sample.queries):,} queries of {tasks} tasks, {len(sample.models)} models, "
        f"{texts:,} queries with answer texts"
    )


def main(arguments: Sequence[str] | None = None) -> int:
    """Write the samples and say how large they are; 1 if they cannot be made or are too large."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--from", dest="folder", type=Path, default=os.environ.get(FOLDER), help="folder of the logs")
    parser.add_argument("--to", type=Path, default=BUNDLED, help="folder of the samples")
    options = parser.parse_args(arguments)
    if options.folder is None:
        parser.error(f"name the folder of the logs with --from, or in the environment variable {FOLDER}")
    total = 0
    try:
        for make in (llmrouter14, mmlu_pro):
            sample = make(options.folder)
            path = options.to / f"{sample.header.name}.jsonl.gz"
            write_bundle(sample, path)
            total += path.stat().st_size
            print(f"{path.name}  {path.stat().st_size:,} bytes  {describe(sample)}")
    except (SampleError, OSError) as error:
        print(f"cannot make the samples: {error}", file=sys.stderr)
        return 1
    if total > MAX_BYTES:
        print(f"the samples take {total:,} bytes; at most {MAX_BYTES:,} may be bundled", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
