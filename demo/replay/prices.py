"""List prices of the replayed models, as the source repositories of the logs recorded them (`prices.json`).

A model that no source priced itself is priced as a model of the same size that one did, and its entry says so.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

ROUTERARENA = "routerarena_cost_json"
LLMROUTER = "llmrouter_default_llm"
CARROT = "carrot_OPEN_COSTS"

PRICED_AS: dict[str, tuple[str, str, str]] = {
    "DeepSeek-Coder-V2": (ROUTERARENA, "deepseek-coder", "the maker's API for it"),
    "Meta-Llama-3_1-70B-Instruct": (ROUTERARENA, "meta-llama/Meta-Llama-3.1-70B-Instruct-Turbo", "itself"),
    "Meta-Llama-3_1-8B-Instruct": (CARROT, "meta-llama/Meta-Llama-3.1-8B-Instruct", "itself"),
    "Meta-Llama-3-8B-Instruct": (ROUTERARENA, "meta-llama/llama-3-8b-instruct", "itself"),
    "Mixtral-8x7B-Instruct-v0.1": (CARROT, "mistralai/Mixtral-8x7B-Instruct-v0.1", "itself"),
    "Mistral-7B-Instruct-v0.2": (CARROT, "mistralai/Mistral-7B-Instruct-v0.2", "itself"),
    "Mistral-7B-Instruct-v0.1": (CARROT, "mistralai/Mistral-7B-Instruct-v0.1", "itself"),
    "mathstral-7B": (CARROT, "mistralai/Mistral-7B-Instruct-v0.3", "same size"),
    "Qwen1.5-72B-Chat": (CARROT, "Qwen/Qwen2-72B-Instruct", "same size"),
    "Qwen1.5-7B-Chat": (CARROT, "Qwen/Qwen2.5-7B-Instruct", "same size"),
    "c4ai-command-r-v01": (CARROT, "01-ai/Yi-34B-Chat", "same size"),
    "Phi-3-mini-4k-instruct": (ROUTERARENA, "llama-3-2-3b-instruct", "same size"),
}
"""Model of a log -> (table, entry, relation). Models that are not named are looked up under their own name."""


class ListPrice(NamedTuple):
    """USD per million tokens, and where the figure stands."""

    prompt_per_1m: float
    completion_per_1m: float
    source: str


def list_price(tables: Mapping[str, Any], model: str) -> ListPrice | None:
    """The price of a model in the tables of `prices.json`, or None where they have none."""
    if model in PRICED_AS:
        table, entry, relation = PRICED_AS[model]
        return ListPrice(*_both(tables[table][entry]), f"{table}: {entry} ({relation})")
    for table in (LLMROUTER, ROUTERARENA, CARROT):
        if model in tables.get(table, {}):
            return ListPrice(*_both(tables[table][model]), f"{table}: {model} (itself)")
    return None


def _both(entry: Any) -> tuple[float, float]:
    """Prompt and completion price of one entry; the tables write them in three ways."""
    if isinstance(entry, int | float):
        return float(entry), float(entry)
    if isinstance(entry, Mapping):
        names = ("input", "output") if "input" in entry else _LONG_NAMES
        return float(entry[names[0]]), float(entry[names[1]])
    prompt, completion = entry
    return float(prompt), float(completion)


_LONG_NAMES = ("input_token_price_per_million", "output_token_price_per_million")
