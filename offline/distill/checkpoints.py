"""Checkpoints of a training: there whole or not at all, without pickle, the last good ones kept.

<output>/checkpoints/step-000120/model.safetensors, optimiser.safetensors, state.json
"""

from __future__ import annotations

import os
import shutil
import uuid
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec

from registry.atomic_files import LEFTOVER, sync_folder, write_synced

if TYPE_CHECKING:
    from torch import Tensor

LAYOUT = 1
FOLDER = "checkpoints"
KEPT = 2
"""How many of the newest checkpoints stay."""


class CheckpointError(RuntimeError):
    """A checkpoint cannot be written or read. The message says why, what is kept and what to do."""


class State(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Where a training stands. `step` optimiser steps are done; `recipe` is the digest of what it is a training of."""

    layout: int
    step: int
    recipe: str
    seen_tokens: int = 0
    spent_s: float = 0.0


def write(output: Path, state: State, model: Mapping[str, Tensor], optimiser: Mapping[str, Tensor]) -> Path:
    """Write the checkpoint of `state.step` and remove the oldest.

    Raises
    ------
    CheckpointError: the disk is full or the folder cannot be written; the checkpoints before are untouched.
    """
    from safetensors.torch import save

    target = output / FOLDER / f"step-{state.step:08d}"
    partial = target.with_name(f"{LEFTOVER}{uuid.uuid4().hex}")
    try:
        partial.mkdir(parents=True)
        write_synced(partial / "model.safetensors", save(_whole(model)))
        write_synced(partial / "optimiser.safetensors", save(_whole(optimiser)))
        write_synced(partial / "state.json", msgspec.json.encode(state))
        if target.exists():
            shutil.rmtree(target)
        os.rename(partial, target)
        sync_folder(target.parent)
    except OSError as error:
        shutil.rmtree(partial, ignore_errors=True)
        raise CheckpointError(
            f"the checkpoint of step {state.step} cannot be written to {output} ({error.strerror or error}); "
            f"those before are untouched; make room and run the same command again"
        ) from error
    for old in steps(output)[:-KEPT]:
        shutil.rmtree(output / FOLDER / f"step-{old:08d}")
    return target


def steps(output: Path) -> list[int]:
    """The steps that there are whole checkpoints of, the oldest first. Leftovers of a crash are removed."""
    folder = output / FOLDER
    if not folder.exists():
        return []
    for leftover in folder.glob(f"{LEFTOVER}*"):
        shutil.rmtree(leftover, ignore_errors=True)
    return sorted(int(path.name.removeprefix("step-")) for path in folder.glob("step-*"))


def newest(output: Path, recipe: str) -> tuple[State, dict[str, Tensor], dict[str, Tensor]] | None:
    """The newest checkpoint: its state, the model's and the optimiser's tensors. None if there is none.

    Raises
    ------
    CheckpointError: it is of another layout, of another recipe, or cannot be read.
    """
    from safetensors.torch import load

    found = steps(output)
    if not found:
        return None
    folder = output / FOLDER / f"step-{found[-1]:08d}"
    try:
        described = msgspec.json.decode((folder / "state.json").read_bytes())
        if described.get("layout") != LAYOUT:
            raise CheckpointError(
                f"{folder} is a checkpoint of layout {described.get('layout')}, this version reads {LAYOUT}; "
                "go on with the version that wrote it, or train into another folder"
            )
        state = msgspec.convert(described, State)
        if state.recipe != recipe:
            raise CheckpointError(
                f"{folder} belongs to another recipe or data set ({state.recipe[:12]}, not {recipe[:12]}); "
                "train into another folder, or remove this one"
            )
        return state, load((folder / "model.safetensors").read_bytes()), load(
            (folder / "optimiser.safetensors").read_bytes()
        )  # fmt: skip
    except (OSError, msgspec.ValidationError, msgspec.DecodeError, ValueError) as error:
        raise CheckpointError(f"{folder} cannot be read ({error}); remove it, the one before will be used") from error


def optimiser_tensors(optimiser: Any) -> dict[str, Tensor]:
    """The state of an optimiser as named tensors: `<parameter number>.<name>`."""
    import torch

    state = optimiser.state_dict()["state"]
    return {
        f"{number}.{name}": value if isinstance(value, torch.Tensor) else torch.tensor(value)
        for number, values in state.items()
        for name, value in values.items()
    }


def restore_optimiser(optimiser: Any, tensors: Mapping[str, Tensor]) -> None:
    """Put the named tensors back. Group settings stay as they are: the schedule sets them at every step."""
    described = optimiser.state_dict()
    state: dict[int, dict[str, Tensor]] = {}
    for key, value in tensors.items():
        number, name = key.split(".", 1)
        state.setdefault(int(number), {})[name] = value
    optimiser.load_state_dict({"state": state, "param_groups": described["param_groups"]})


def _whole(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Tensors that share no memory and lie in one piece, as safetensors wants them."""
    return {name: tensor.detach().to("cpu").clone().contiguous() for name, tensor in tensors.items()}
