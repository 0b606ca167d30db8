"""A peer's own code beside ours: the matrix factorisation of the package `routellm`, trained by its own loop.

Only the vectors are ours: the package asks an embedding service for its own, and its weights are fitted to those. It is
looked for in `.cache/peers`, where `make bench-routing` installs it if it can; without it the row is absent. The
package of LLMRouter installs too, but its routers fetch a Longformer from a model hub and read their own files: what it
does is built anew from its description (the published baselines).
"""

from __future__ import annotations

import os
import random
import sys
import tempfile
from importlib import import_module
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from routers.protocol import F32, Outcomes

FOLDER: Final = Path(__file__).resolve().parents[2] / ".cache" / "peers"
ROUTELLM: Final = "RouteLLM mf, its package"
DIM, BATCHES, EPOCHS, RATE, DECAY, NOISE, HELD_OUT = 128, (64, 1024), 100, 3e-4, 1e-5, 0.1, 0.05
"""As in the package's training script."""
NAMES: Final = ("gpt-4-1106-preview", "mixtral-8x7b-instruct-v0.1")
"""Two of the models that the package has places for; which two does not matter, as all places start alike."""


def routellm_installed() -> bool:
    return (FOLDER / "routellm").is_dir()


class RouteLlmFactors:
    """What the package's model has learned: a query's score for an arm is `vector @ weights[:, arm]`."""

    def __init__(self, weights: F32) -> None:
        self.weights = weights

    @classmethod
    def fit(cls, outcomes: Outcomes, seed: int) -> RouteLlmFactors:
        """Train on the queries that one of two arms answered better; ties are dropped, as the package does."""
        import torch

        script, ids = _package()
        won = np.sign(outcomes.quality[:, 0] - outcomes.quality[:, 1])
        rows = np.flatnonzero(won)
        battles = [
            {"model_a": NAMES[0], "model_b": NAMES[1], "idx": row, "winner": "model_a" if won[row] > 0 else "model_b"}
            for row in rows.tolist()
        ]
        torch.manual_seed(seed)
        random.Random(seed).shuffle(battles)
        held_out = max(1, round(HELD_OUT * len(battles)))
        parts = (battles[held_out:], battles[:held_out])
        loaders = [
            script.PairwiseDataset(part).get_dataloaders(size) for part, size in zip(parts, BATCHES, strict=True)
        ]
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "vectors.npy"
            np.save(path, outcomes.vectors)
            shape = {
                "num_models": len(ids),
                "num_prompts": len(outcomes.vectors),
                "text_dim": outcomes.vectors.shape[1],
            }
            net = script.MFModel_Train(dim=DIM, npy_path=str(path), **shape)
        script.train_loops(net, *loaders, lr=RATE, weight_decay=DECAY, alpha=NOISE, num_epochs=EPOCHS, device="cpu")
        with torch.no_grad():
            places = torch.nn.functional.normalize(net.P.weight[[ids[name] for name in NAMES]], dim=1)
            weights = net.text_proj.weight.T @ (places * net.classifier.weight).T
        return cls(np.asarray(weights.numpy(), dtype=np.float32))

    def scores(self, vectors: F32) -> NDArray[np.float32]:
        """[n, 2]; their difference is the logit of the first arm's winning."""
        return np.asarray(vectors @ self.weights)


def _package() -> tuple[Any, dict[str, int]]:
    """The package's training script and its list of models; importing it makes a client of the embedding service."""
    os.environ.setdefault("OPENAI_API_KEY", "unused")
    os.environ["TQDM_DISABLE"] = "1"
    if str(FOLDER) not in sys.path:
        sys.path.append(str(FOLDER))
    script = import_module("routellm.routers.matrix_factorization.train_matrix_factorization")
    return script, script.MODEL_IDS
