"""Greedy decoding of many conversations at once, for measuring. The server has its own, one token at a time."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from jinja2 import Environment
from tokenizers import Tokenizer

from demo.fleet.tokenization import CHAT_TEMPLATE, end_token

Messages = Sequence[dict[str, str]]
BATCH = 128
_TEMPLATE = Environment().from_string(CHAT_TEMPLATE)


@dataclass(frozen=True, slots=True)
class Reply:
    """A decoded reply. `stopped` is False if it ran into the token limit."""

    text: str
    prompt_tokens: int
    completion_tokens: int
    stopped: bool


def render(messages: Messages) -> str:
    """The prompt text of a conversation, up to where the reply begins."""
    return _TEMPLATE.render(messages=messages, add_generation_prompt=True)


def greedy(model: Any, tokenizer: Tokenizer, conversations: Sequence[Messages], max_tokens: int) -> list[Reply]:
    """The most likely reply to each conversation, in order. Prompts of equal length go together: no padding."""
    prompts = [tokenizer.encode(render(messages)).ids for messages in conversations]
    by_length: dict[int, list[int]] = defaultdict(list)
    for index, prompt in enumerate(prompts):
        by_length[len(prompt)].append(index)
    replies: dict[int, Reply] = {}
    end = end_token(tokenizer)
    for length, members in by_length.items():
        for start in range(0, len(members), BATCH):
            group = members[start : start + BATCH]
            rows = _generate(model, torch.tensor([prompts[index] for index in group]), max_tokens, end)
            for index, row in zip(group, rows, strict=True):
                stopped = end in row
                tokens = row[: row.index(end)] if stopped else row
                text = tokenizer.decode(tokens)
                replies[index] = Reply(text, length, len(tokens) + stopped, stopped)
    return [replies[index] for index in range(len(prompts))]


def _generate(model: Any, ids: torch.Tensor, max_tokens: int, end: int) -> list[list[int]]:
    """Greedy continuation of `ids (batch, length)`, at most `max_tokens` each, until every row has ended."""
    cache, inputs, chosen = None, ids, []
    finished = torch.zeros(len(ids), dtype=torch.bool)
    for _ in range(max_tokens):
        with torch.inference_mode():
            output = model(input_ids=inputs, past_key_values=cache, use_cache=True)
        cache = output.past_key_values
        tokens = output.logits[:, -1].argmax(-1)
        chosen.append(tokens)
        finished |= tokens == end
        if bool(finished.all()):
            break
        inputs = tokens[:, None]
    rows: list[list[int]] = torch.stack(chosen, dim=1).tolist()
    return rows
