"""What a source model says about a text, and how that reads in the tokens of the target model.

One convention everywhere: row t is about token t, given the tokens before it. There is no shift by one anywhere else.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

Capability = Literal["logits", "top_logprobs", "text"]
"""What a source model can tell: its whole distribution (kept as the top k), the top few, or its words alone."""


@dataclass(frozen=True, slots=True)
class TeacherSignal:
    """A source model's distributions over one text of T of its own tokens.

    `token_ids` int32 [T]; `byte_spans` int32 [T, 2]: where each token lies in the UTF-8 bytes of the text, start and
    end; an empty span is a token of no text (BOS). `top_ids` int32 [T, k] and `top_logprobs` float16 [T, k], in nats,
    the likeliest first, id -1 where there is none; `tail_logprob` float16 [T]: log of the mass outside the top k, -inf
    for none. `gold_logprob` float32 [T]: of the token that stands there. A token without a distribution (the first one
    of a text without BOS) has `known` False; its rows mean nothing.
    """

    model_hash: str
    tokenizer_hash: str
    text_hash: str
    capability: Capability
    token_ids: NDArray[np.int32]
    byte_spans: NDArray[np.int32]
    top_ids: NDArray[np.int32]
    top_logprobs: NDArray[np.float16]
    tail_logprob: NDArray[np.float16]
    gold_logprob: NDArray[np.float32]
    known: NDArray[np.bool_]

    def bits_per_byte(self) -> float:
        """Bits per UTF-8 byte over the known tokens: comparable across tokenizers. NaN if no token is known."""
        covered = int((self.byte_spans[self.known, 1] - self.byte_spans[self.known, 0]).sum())
        return float(-self.gold_logprob[self.known].sum() / (np.log(2.0) * covered)) if covered else float("nan")


@dataclass(frozen=True, slots=True)
class AlignedRows:
    """The same distributions in the T tokens of the target model.

    `ids` int32 [T, k] target token ids, -1 where there is none; `probs` float32 [T, k]; `other` float32 [T]: the mass
    on whatever the target has no token for, or was outside the top k. Where `valid` bool [T] is False nothing is known
    and nothing is taught; where it is True, `probs` and `other` sum to 1. `gold_logprob` float32 [T]: of the
    target's token that stands there, in nats; NaN where not valid.
    """

    ids: NDArray[np.int32]
    probs: NDArray[np.float32]
    other: NDArray[np.float32]
    valid: NDArray[np.bool_]
    gold_logprob: NDArray[np.float32]
