"""Keeps what source models said, so that no reply is ever scored twice by the same model.

A signal is found by the digests of the model, its tokenizer and the conversation: nothing else can change it. Signals
are written in shards of safetensors, whole or not at all, with an index beside each; a run that was killed goes on
after its last shard.

    <root>/<model hash>-<tokenizer hash>/<shard>.safetensors   the arrays of many signals, one after another
                                         <shard>.json          the text hash of each and where its rows end
"""

from __future__ import annotations

import uuid
from collections.abc import Iterable, Sequence
from pathlib import Path

import msgspec
import numpy as np
from numpy.typing import NDArray
from safetensors import SafetensorError
from safetensors.numpy import load, save

from offline.distill.samples import Conversation
from offline.distill.signals import Capability, TeacherSignal
from offline.distill.teachers import Teacher, TeacherError, text_hash
from registry.atomic_files import place_file

SHARD = 512
"""Signals in a shard."""
LAYOUT = 1
NONE_NARROW, NONE_WIDE, WIDEST = 0xFFFF, 0x3FFFF, 18
"""What stands for no token in ids of 16 and of 18 bits."""


class SignalStoreError(RuntimeError):
    """A shard cannot be read or written. The message names it and says what to do."""


class _Shard(msgspec.Struct, frozen=True, kw_only=True):
    layout: int
    capability: Capability
    top: int
    texts: list[str]
    rows: list[int]


class SignalStore:
    """The signals of one model in a folder. One writer at a time; readers may read meanwhile."""

    def __init__(self, root: Path, model_hash: str, tokenizer_hash: str) -> None:
        self.model_hash, self.tokenizer_hash = model_hash, tokenizer_hash
        self.folder = root / f"{model_hash[:16]}-{tokenizer_hash[:16]}"
        self._where: dict[str, tuple[Path, int, int]] = {}
        self._capability: dict[Path, Capability] = {}
        self._open: tuple[Path, dict[str, NDArray[np.generic]]] | None = None
        for path in sorted(self.folder.glob("*.json")):
            self._index(path)

    def __len__(self) -> int:
        return len(self._where)

    def __contains__(self, text: object) -> bool:
        return text in self._where

    def _index(self, path: Path) -> None:
        try:
            shard = msgspec.json.decode(path.read_bytes(), type=_Shard)
        except (OSError, msgspec.DecodeError) as error:
            raise SignalStoreError(f"{path} cannot be read ({error}); remove it and its .safetensors") from error
        if shard.layout != LAYOUT:
            raise SignalStoreError(
                f"{path} is of layout {shard.layout}, this version reads {LAYOUT}; remove the folder"
            )
        self._capability[path] = shard.capability
        begin = 0
        for text, end in zip(shard.texts, shard.rows, strict=True):
            self._where[text] = (path, begin, end)
            begin = end

    def put(self, signals: Sequence[TeacherSignal]) -> None:
        """Write one shard. All signals are of this store's model and have one `top`.

        Raises
        ------
        ValueError: a signal is of another model or tokenizer.
        SignalStoreError: the disk is full; what was there before is untouched.
        """
        if not signals:
            return
        for signal in signals:
            if (signal.model_hash, signal.tokenizer_hash) != (self.model_hash, self.tokenizer_hash):
                raise ValueError("expected signals of this store's model and tokenizer, got those of another")
        name = uuid.uuid4().hex
        described = _Shard(
            layout=LAYOUT, capability=signals[0].capability, top=signals[0].top_ids.shape[1],
            texts=[signal.text_hash for signal in signals],
            rows=np.cumsum([len(signal.token_ids) for signal in signals]).tolist(),
        )  # fmt: skip
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            # The index comes last: a shard without one was cut off and is not read.
            place_file(self.folder / f"{name}.safetensors", save(_packed(signals)))
            place_file(self.folder / f"{name}.json", msgspec.json.encode(described))
        except OSError as error:
            raise SignalStoreError(
                f"signals cannot be written to {self.folder} ({error.strerror or error}); make room and run again, "
                "nothing that was there is lost"
            ) from error
        self._index(self.folder / f"{name}.json")

    def get(self, text: str) -> TeacherSignal | None:
        """The signal of the conversation of this digest, None if it was not scored."""
        if text not in self._where:
            return None
        path, begin, end = self._where[text]
        whose = (self.model_hash, self.tokenizer_hash, text, self._capability[path])
        return _unpacked(self._arrays(path), begin, end, *whose)

    def _arrays(self, path: Path) -> dict[str, NDArray[np.generic]]:
        if self._open is None or self._open[0] != path:
            try:
                self._open = (path, load(path.with_suffix(".safetensors").read_bytes()))
            except (OSError, SafetensorError) as error:
                raise SignalStoreError(
                    f"{path.with_suffix('.safetensors')} cannot be read ({error}); remove it and its .json, and the "
                    "replies in it are scored again"
                ) from error
        return self._open[1]

    def bytes_per_token(self) -> float:
        """Bytes on the disk for each token of a reply; NaN for an empty store."""
        tokens = sum(end - begin for _, begin, end in self._where.values())
        size = sum(path.stat().st_size for path in self.folder.glob("*") if path.is_file())
        return size / tokens if tokens else float("nan")


def score_all(
    teacher: Teacher, conversations: Iterable[Conversation], store: SignalStore, *, shard: int = SHARD
) -> dict[str, TeacherError]:
    """Have `teacher` score what the store does not hold yet, and keep it. The errors by id of the conversation.

    Conversations of one length are scored together, which saves padding.
    """
    missing = [one for one in conversations if text_hash(one) not in store]
    missing.sort(key=lambda one: (len(str(one.messages)), one.id))
    failed: dict[str, TeacherError] = {}
    for start in range(0, len(missing), shard):
        part = missing[start : start + shard]
        made = teacher.score(part)
        failed |= {one.id: said for one, said in zip(part, made, strict=True) if isinstance(said, TeacherError)}
        store.put([said for said in made if isinstance(said, TeacherSignal)])
    return failed


def _packed(signals: Sequence[TeacherSignal]) -> dict[str, NDArray[np.generic]]:
    """One array of each kind; spans are kept as lengths."""

    def joined(name: str) -> NDArray[np.generic]:
        found: NDArray[np.generic] = np.concatenate([getattr(signal, name) for signal in signals])
        return found

    return {
        "token_ids": joined("token_ids"),
        "lengths": np.concatenate([np.diff(signal.byte_spans, axis=1)[:, 0] for signal in signals]).astype(np.uint16),
        **_packed_ids(joined("top_ids").astype(np.int32)),
        "top_logprobs": joined("top_logprobs"),
        "tail_logprob": joined("tail_logprob"),
        "gold_logprob": joined("gold_logprob"),
        "known": joined("known"),
    }


def _packed_ids(ids: NDArray[np.int32]) -> dict[str, NDArray[np.generic]]:
    """Ids [R, k] of vocabularies under 65,536 take two bytes, under 262,144 two bytes and two bits; no token is written
    as the largest number."""
    bits = max(int(ids.max(initial=0)) + 1, 1).bit_length()
    if bits > WIDEST:
        return {"top_ids": ids}
    # -1 has all bits set, so cut to 16 or 18 of them it is the largest number.
    low = ids.astype(np.uint16)
    if bits <= 16:
        return {"top_ids": low}
    high = ((ids >> 16) & 3).astype(np.uint8)
    pairs = np.stack([high >> 1, high & 1], axis=-1).reshape(len(ids), -1)
    return {"top_ids": low, "top_ids_high": np.packbits(pairs, axis=1)}


def _unpacked_ids(arrays: dict[str, NDArray[np.generic]], begin: int, end: int) -> NDArray[np.int32]:
    ids = arrays["top_ids"][begin:end].astype(np.int32)
    if arrays["top_ids"].dtype != np.uint16:
        return ids
    if "top_ids_high" not in arrays:
        return np.where(ids == NONE_NARROW, np.int32(-1), ids)
    bits = np.unpackbits(arrays["top_ids_high"][begin:end].astype(np.uint8), axis=1, count=2 * ids.shape[1])
    pairs = bits.reshape(*ids.shape, 2).astype(np.int32)
    ids |= (pairs[..., 0] << 17) | (pairs[..., 1] << 16)
    return np.where(ids == NONE_WIDE, np.int32(-1), ids)


def _unpacked(
    arrays: dict[str, NDArray[np.generic]],
    begin: int,
    end: int,
    model: str,
    tokenizer: str,
    text: str,
    capability: Capability,
) -> TeacherSignal:
    ends = np.cumsum(arrays["lengths"][begin:end].astype(np.int32), dtype=np.int32)
    spans = np.stack([ends - arrays["lengths"][begin:end].astype(np.int32), ends], axis=1)
    return TeacherSignal(
        model_hash=model, tokenizer_hash=tokenizer, text_hash=text, capability=capability,
        token_ids=arrays["token_ids"][begin:end].astype(np.int32), byte_spans=spans.astype(np.int32),
        top_ids=_unpacked_ids(arrays, begin, end), top_logprobs=arrays["top_logprobs"][begin:end].astype(np.float16),
        tail_logprob=arrays["tail_logprob"][begin:end].astype(np.float16),
        gold_logprob=arrays["gold_logprob"][begin:end].astype(np.float32),
        known=arrays["known"][begin:end].astype(np.bool_),
    )  # fmt: skip
