"""How one member of the fleet is built and trained: transformers models, plain PyTorch loop, one thread."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from random import Random
from typing import Any

import torch
from tokenizers import Tokenizer
from transformers import (
    GPT2Config,
    GPT2LMHeadModel,
    GPTNeoXConfig,
    GPTNeoXForCausalLM,
    LlamaConfig,
    LlamaForCausalLM,
    Qwen2Config,
    Qwen2ForCausalLM,
)

from demo.fleet.corpus import Example, Pool
from demo.fleet.decoding import greedy
from demo.fleet.roster import CONTEXT_WINDOW, EVERYTHING, Member
from demo.fleet.tasks import check, questions
from demo.fleet.tokenization import END, PAD

HEAD_DIM = 32
STEPWISE = "multiply"
"""The family that the generalist is also taught with its steps written out."""
EVERY = 100
"""Steps between two measurements."""
Report = Callable[[str], None]


def build(member: Member, tokenizer: Tokenizer) -> Any:
    """A freshly initialised transformers model of the member's architecture (float32). Seeds torch."""
    torch.manual_seed(member.seed)
    ids = {"eos_token_id": tokenizer.token_to_id(END), "pad_token_id": tokenizer.token_to_id(PAD), "bos_token_id": None}
    common: dict[str, Any] = {"vocab_size": tokenizer.get_vocab_size(), "tie_word_embeddings": True, **ids}
    common["initializer_range"] = member.initial_std
    heads = member.hidden // HEAD_DIM
    if member.architecture == "gpt2":
        model = GPT2LMHeadModel(
            GPT2Config(
                n_positions=CONTEXT_WINDOW, n_embd=member.hidden, n_layer=member.layers, n_head=heads,
                n_inner=member.intermediate, resid_pdrop=0.0, embd_pdrop=0.0, attn_pdrop=0.0, **common,
            )
        )  # fmt: skip
        with torch.no_grad():
            model.transformer.wpe.weight.copy_(sinusoids(CONTEXT_WINDOW, member.hidden, member.initial_std))
        return model
    shape: dict[str, Any] = {
        "hidden_size": member.hidden, "intermediate_size": member.intermediate, "num_hidden_layers": member.layers,
        "num_attention_heads": heads, "max_position_embeddings": CONTEXT_WINDOW, **common,
    }  # fmt: skip
    if member.architecture == "gpt_neox":
        return GPTNeoXForCausalLM(GPTNeoXConfig(hidden_dropout=0.0, attention_dropout=0.0, **shape))
    if member.architecture == "qwen2":
        return Qwen2ForCausalLM(Qwen2Config(num_key_value_heads=heads, **shape))
    return LlamaForCausalLM(LlamaConfig(num_key_value_heads=heads, **shape))


def sinusoids(positions: int, width: int, std: float) -> torch.Tensor:
    """Starting values of learned positions, `(positions, width)`: what is learned at one offset holds at others.

    No larger than token embeddings start, or they would drown the letters.
    """
    angles = torch.arange(positions)[:, None] * torch.exp(torch.arange(0, width, 2) * (-math.log(10_000) / width))
    return std * torch.stack((angles.sin(), angles.cos()), dim=-1).reshape(positions, width)


@dataclass(frozen=True, slots=True)
class Batch:
    """Token ids and labels `(batch, length)`; labels are -100 everywhere but on the reply and its end token."""

    ids: torch.Tensor
    labels: torch.Tensor


class Encoder:
    """Conversations to token ids, exactly as the chat template writes them."""

    def __init__(self, tokenizer: Tokenizer) -> None:
        self.tokenizer = tokenizer
        self.pad = tokenizer.token_to_id(PAD)

    def prompt(self, example: Example) -> list[int]:
        head = "" if example.system is None else f"<|system|>{example.system}<|end|>"
        return list(self.tokenizer.encode(f"{head}<|user|>{example.user}<|end|><|assistant|>").ids)

    def batch(self, examples: Sequence[Example]) -> Batch:
        rows = [(self.prompt(e), self.tokenizer.encode(f"{e.reply}<|end|>").ids) for e in examples]
        length = max(len(prompt) + len(reply) for prompt, reply in rows)
        ids = torch.full((len(rows), length), self.pad)
        labels = torch.full((len(rows), length), -100)
        for row, (prompt, reply) in enumerate(rows):
            end = len(prompt) + len(reply)
            ids[row, :end] = torch.tensor(prompt + reply)
            labels[row, len(prompt) : end] = torch.tensor(reply)
        return Batch(ids, labels)


class Weights:
    """How often each family is drawn.

    A generalist's families are drawn less the closer they come to `ceiling`, and hardly at all above it. That keeps it
    mediocre everywhere instead of good at what is easy; nothing wrong is ever taught.
    """

    def __init__(self, families: Sequence[str], ceiling: float | None) -> None:
        self.ceiling = ceiling
        self.values = dict.fromkeys(families, 1.0)

    def update(self, accuracy: dict[str, float]) -> None:
        if self.ceiling is None:
            # Weak families are drawn up to three times as often as solved ones.
            self.values = {family: 0.5 + (1 - value) for family, value in accuracy.items()}
            return
        ceiling = self.ceiling
        self.values = {family: max(0.01, (ceiling - value) / ceiling) for family, value in accuracy.items()}


def step_rate(member: Member, step: int) -> float:
    """Learning rate: 50 steps of warm-up, then a cosine down to a twentieth."""
    warm = min(1.0, (step + 1) / 50)
    return member.learning_rate * warm * (0.05 + 0.95 * 0.5 * (1 + math.cos(math.pi * step / member.steps)))


def accuracy_of(model: Any, tokenizer: Tokenizer, families: Sequence[str], count: int) -> dict[str, float]:
    """Exact match on training questions (a sample of its own seed); the test split is not looked at here."""
    out = {}
    for family in families:
        asked = questions(family, "train", count, seed=991)
        replies = greedy(model, tokenizer, [[{"role": "user", "content": q.text}] for q in asked], 24)
        out[family] = sum(check(q, r.text) for q, r in zip(asked, replies, strict=True)) / len(asked)
    return out


def draw(pool: Pool, weights: Weights, rng: Random, member: Member, step: int) -> list[Example]:
    """The examples of one step: plain questions, or every few steps fewer of them behind reference text."""
    families = rng.choices(list(weights.values), list(weights.values.values()), k=member.batch)
    if member.role == "target":
        return [pool.format_only(family, rng) for family in families]
    if settling(member, step) or not member.block_every or step % member.block_every:
        return [pool.plain(family, rng) for family in families]
    longest = rng.choice((60, 120, 240))
    hints = member.role == "generalist"
    if hints and rng.random() < 0.8:
        families = [STEPWISE if rng.random() < 0.7 else family for family in families]
    return [pool.behind_block(family, rng, longest, hints) for family in families[: member.block_batch]]


def settling(member: Member, step: int) -> bool:
    """Whether the task itself is still being learned: reference text comes in the second half."""
    return member.role == "specialist" and step < member.steps // 2


def train(member: Member, tokenizer: Tokenizer, report: Report, ceiling: float | None = None) -> Any:
    """Train one member from scratch and return the model. Deterministic for a seed and a torch build."""
    rng = Random(member.seed)
    pool = Pool(member.families, EVERYTHING, 6000, member.seed, easy=member.role == "specialist")
    weights = Weights(member.families, ceiling)

    def measured(model: Any) -> dict[str, float]:
        accuracy = accuracy_of(model, tokenizer, member.families, 60)
        weights.update(accuracy)
        return accuracy

    return fit(member, tokenizer, lambda step: draw(pool, weights, rng, member, step), measured, report)


def fit(
    member: Member,
    tokenizer: Tokenizer,
    drawn: Callable[[int], Sequence[Example]],
    measured: Callable[[Any], dict[str, float]],
    report: Report,
) -> Any:
    """The loop: learns the examples `drawn` for each step; reports what is `measured` every hundred steps."""
    encoder, model = Encoder(tokenizer), build(member, tokenizer).train()
    optimiser = torch.optim.AdamW(model.parameters(), lr=member.learning_rate, betas=(0.9, 0.98), weight_decay=0.05)
    started, losses = time.monotonic(), 0.0
    for step in range(member.steps):
        batch = encoder.batch(drawn(step))
        for group in optimiser.param_groups:
            group["lr"] = step_rate(member, step)
        loss = model(input_ids=batch.ids, labels=batch.labels).loss
        optimiser.zero_grad(set_to_none=True)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimiser.step()
        losses += loss.item()
        if (step + 1) % EVERY == 0:
            accuracy = measured(model.eval())
            model.train()
            shown = " ".join(f"{family}={value:.2f}" for family, value in accuracy.items())
            report(f"{member.name} step {step + 1} loss {losses / EVERY:.4f} {shown} {time.monotonic() - started:.0f}s")
            losses = 0.0
    return model.eval()
