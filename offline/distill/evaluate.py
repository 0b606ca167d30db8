"""Measures a model on held-out conversations, one number for each: an exact reply, or how likely the reference is."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from offline.distill.samples import Conversation
from offline.distill.signals import TeacherSignal
from offline.distill.teachers import ChatFormat, LocalTeacher

Measure = Literal["exact", "likelihood"]
BATCH = 64


def measure(
    folder: Path, conversations: Sequence[Conversation], how: Measure, *, max_reply_tokens: int = 256,
    device: str = "cpu",
) -> NDArray[np.float64]:  # fmt: skip
    """[n], higher is better, NaN where the model could not be asked: 1 if its reply is the reference, else 0; or minus
    the bits per byte of the reference, which compares models of any tokenizer. Greedy and deterministic."""
    if how == "likelihood":
        return _likelihood(folder, conversations, device)
    return _exact(folder, conversations, max_reply_tokens, device)


def _likelihood(folder: Path, conversations: Sequence[Conversation], device: str) -> NDArray[np.float64]:
    made = LocalTeacher(folder.name, folder, top=1, device=device).score(conversations)
    return np.array([-said.bits_per_byte() if isinstance(said, TeacherSignal) else np.nan for said in made])


def _exact(
    folder: Path, conversations: Sequence[Conversation], max_reply_tokens: int, device: str
) -> NDArray[np.float64]:
    replies = reply_all(folder, conversations, max_reply_tokens, device)
    return np.array([
        np.nan if reply is None else float(reply.strip() == one.reply.strip())
        for reply, one in zip(replies, conversations, strict=True)
    ])  # fmt: skip


def reply_all(
    folder: Path, conversations: Sequence[Conversation], max_reply_tokens: int, device: str = "cpu", *,
    temperature: float = 0.0, seed: int = 0,
) -> list[str | None]:  # fmt: skip
    """The model's replies to the prompts, greedy at temperature 0, else drawn with this seed; None where a prompt is
    longer than it can read."""
    import torch

    torch.manual_seed(seed)
    teacher = LocalTeacher(folder.name, folder, device=device)
    prompts = [teacher.format.prompted(conversation).prompt for conversation in conversations]
    fits = [index for index, prompt in enumerate(prompts) if len(prompt) + max_reply_tokens <= teacher.context]
    fits.sort(key=lambda index: len(prompts[index]))
    found: list[str | None] = [None] * len(prompts)
    for start in range(0, len(fits), BATCH):
        chosen = fits[start : start + BATCH]
        for index, reply in zip(
            chosen,
            _generated(
                teacher.model, teacher.format, [prompts[i] for i in chosen], max_reply_tokens, device, temperature
            ),
            strict=True,
        ):  # fmt: skip
            found[index] = reply
    return found


def _generated(
    model: Any, chat: ChatFormat, prompts: Sequence[list[int]], most: int, device: str, temperature: float
) -> list[str]:
    """Padded on the left, so that all replies begin at the same place."""
    import torch

    length = max(map(len, prompts))
    ids = torch.tensor([[chat.pad] * (length - len(prompt)) + prompt for prompt in prompts], device=device)
    seen = torch.tensor([[0] * (length - len(prompt)) + [1] * len(prompt) for prompt in prompts], device=device)
    drawn: dict[str, Any] = {"do_sample": True, "temperature": temperature, "top_k": 0, "top_p": 1.0}
    with torch.no_grad():
        made = model.generate(
            input_ids=ids, attention_mask=seen, max_new_tokens=most, pad_token_id=chat.pad,
            eos_token_id=chat.tokens.end, **(drawn if temperature > 0.0 else {"do_sample": False}),
        )  # fmt: skip
    replies = []
    for row in made[:, length:].tolist():
        end = row.index(chat.tokens.end) if chat.tokens.end in row else len(row)
        replies.append(chat.tokens.tokenizer.decode(row[:end], skip_special_tokens=True))
    return replies
