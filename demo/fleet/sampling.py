"""From the scores of one position to one token: temperature, top-k, top-p, seed, penalties, log-probabilities."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch

from demo.fleet.wire import Sampling


@dataclass(frozen=True, slots=True)
class Choice:
    """A chosen token with its log-probability (before temperature) and the most likely ones, best first."""

    token: int
    logprob: float
    top: tuple[tuple[int, float], ...]


class Sampler:
    """Chooses the tokens of one sequence. Two samplers with the same seed choose alike."""

    def __init__(self, sampling: Sampling, offset: int = 0) -> None:
        self.sampling = sampling
        self.generator = torch.Generator()
        if sampling.seed is None:
            self.generator.seed()
        else:
            self.generator.manual_seed(sampling.seed + offset)

    def choose(self, logits: torch.Tensor, so_far: Sequence[int]) -> Choice:
        """Choose from `logits (vocabulary,)`; `so_far` are the tokens of the reply, for the penalties."""
        wanted = self.sampling
        raw = logits.float()
        scores = self._penalised(raw, so_far)
        if wanted.temperature == 0:
            token = int(scores.argmax())
        else:
            kept = self._truncated(torch.softmax(scores / wanted.temperature, dim=-1))
            token = int(torch.multinomial(kept, 1, generator=self.generator))
        if wanted.top_logprobs is None:
            return Choice(token, 0.0, ())
        logprobs = torch.log_softmax(raw, dim=-1)
        best = torch.topk(logprobs, min(wanted.top_logprobs, len(logprobs)))
        top = tuple(zip(best.indices.tolist(), best.values.tolist(), strict=True))
        return Choice(token, float(logprobs[token]), top)

    def _penalised(self, scores: torch.Tensor, so_far: Sequence[int]) -> torch.Tensor:
        wanted = self.sampling
        if not so_far or (wanted.presence_penalty == 0 and wanted.frequency_penalty == 0):
            return scores
        counts = torch.bincount(torch.tensor(so_far), minlength=len(scores)).float()
        return scores - wanted.frequency_penalty * counts - wanted.presence_penalty * (counts > 0).float()

    def _truncated(self, chances: torch.Tensor) -> torch.Tensor:
        """Chances with everything outside top-k and top-p set to zero (not normalised again)."""
        wanted = self.sampling
        if wanted.top_k > 0:
            least = torch.topk(chances, min(wanted.top_k, len(chances))).values[-1]
            chances = torch.where(chances >= least, chances, 0.0)
        if wanted.top_p < 1:
            ordered, order = torch.sort(chances, descending=True)
            # A token stays in while the mass before it is below top_p, so the most likely one always does.
            outside = torch.cumsum(ordered, dim=-1) - ordered >= wanted.top_p
            chances = chances.clone()
            chances[order[outside]] = 0.0
        return chances
