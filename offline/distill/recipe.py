"""What is fused into what: the recipe of a distillation, one YAML file."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Annotated, Literal

import msgspec
import yaml

from offline.distill.fused_loss import Divergence
from offline.distill.training import TrainingSettings

Method = Literal["em", "gate", "uniform", "min_ce", "avg_ce", "published", "none"]
"""How sources are weighed; `none` is training on the replies alone (SFT), the control."""
Kind = Literal["local", "vllm", "text"]


class RecipeError(ValueError):
    """A recipe cannot be used. The message names the file and field, what was expected and what to do."""


class TargetRecipe(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The model that learns: a local folder with weights, fast tokenizer and chat template. `name` as an arm."""

    name: str
    model: Path


class TeacherRecipe(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A source model. `local`: `model` is its folder. `vllm`: `url` and `served_as` where it is served, `model` the
    folder of its tokenizer. `text`: its replies in the data are all that it gives.

    `licence_allows_training` has no default: somebody has to have looked.
    """

    name: str
    kind: Kind
    licence_allows_training: bool
    model: Path | None = None
    url: str | None = None
    served_as: str | None = None
    api_key_env: str | None = None

    def __post_init__(self) -> None:
        if self.kind != "text" and self.model is None:
            raise ValueError(f"teacher {self.name}: `model` names its folder, which holds the tokenizer")
        if self.kind == "vllm" and (self.url is None or self.served_as is None):
            raise ValueError(f"teacher {self.name}: a vLLM teacher needs `url` and `served_as`")


class DataRecipe(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Conversations as JSONL. Without `holdout` a share of `train` is kept out, by the hash of each conversation's
    prompt, so that equal prompts are never on both sides."""

    train: Path
    holdout: Path | None = None
    holdout_share: Annotated[float, msgspec.Meta(gt=0, lt=1)] = 0.1


class SelectionRecipe(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """How sources are weighed in each domain; `threshold` relative to an even share, `top` sources at most.

    `keep`: tokens of a distribution that are kept. `encoder`: what a learned gate sees of a question. `history`: a file
    in which selections are kept from one distillation to the next: each starts from the last, and a source that was
    idle three times is not asked again.
    """

    method: Method = "em"
    threshold: Annotated[float, msgspec.Meta(ge=0)] = 0.75
    top: Annotated[int, msgspec.Meta(ge=1)] | None = None
    keep: Annotated[int, msgspec.Meta(ge=1)] = 32
    encoder: str = "static"
    history: Path | None = None


class LoraRecipe(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Train an adapter of this rank on all linear layers instead of all weights."""

    rank: Annotated[int, msgspec.Meta(ge=1)] = 16
    alpha: Annotated[float, msgspec.Meta(gt=0)] = 32.0
    dropout: Annotated[float, msgspec.Meta(ge=0, lt=1)] = 0.0


class EvaluationRecipe(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """How the release is judged. `measure`: `exact` asks the model and compares its reply with the reference;
    `likelihood` takes bits per byte of the reference. `controls`: what is trained beside it, with the same steps."""

    measure: Literal["exact", "likelihood"] = "likelihood"
    controls: tuple[Literal["sft", "uniform", "min_ce"], ...] = ("sft",)
    max_per_domain: Annotated[int, msgspec.Meta(ge=10)] = 500
    max_reply_tokens: Annotated[int, msgspec.Meta(ge=1)] = 256


class OnPolicyRecipe(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A last stage, on the target's own replies: `rounds` of writing replies to `prompts` prompts at `temperature` and
    training `steps` steps on what the local sources say of them. `learning_rate_share`: of the training's."""

    rounds: Annotated[int, msgspec.Meta(ge=1)] = 2
    prompts: Annotated[int, msgspec.Meta(ge=1)] = 500
    steps: Annotated[int, msgspec.Meta(ge=1)] = 100
    temperature: Annotated[float, msgspec.Meta(gt=0)] = 1.0
    max_reply_tokens: Annotated[int, msgspec.Meta(ge=1)] = 128
    divergence: Divergence = "jsd"
    learning_rate_share: Annotated[float, msgspec.Meta(gt=0, le=1)] = 0.3


class Recipe(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The whole recipe. Relative paths are taken from the file's folder."""

    target: TargetRecipe
    data: DataRecipe
    output: Path
    training: TrainingSettings
    teachers: tuple[TeacherRecipe, ...] = ()
    selection: SelectionRecipe = SelectionRecipe()
    evaluation: EvaluationRecipe = EvaluationRecipe()
    lora: LoraRecipe | None = None
    on_policy: OnPolicyRecipe | None = None

    def digest(self, *files: Path) -> str:
        """A digest of what the fused weights depend on: the recipe without its output, evaluation and later stages, and
        these files."""
        learned = msgspec.structs.replace(self, output=Path(), evaluation=EvaluationRecipe())
        stated = msgspec.to_builtins(learned, enc_hook=str)
        stated.pop("on_policy")
        stated["selection"].pop("history")
        made = hashlib.sha256(msgspec.json.encode(stated, order="sorted"))
        for path in files:
            with path.open("rb") as file:
                made.update(hashlib.file_digest(file, "sha256").digest())
        return made.hexdigest()


def read_recipe(path: Path) -> Recipe:
    """Raises RecipeError: no such file, no YAML, a wrong field, or a teacher that must not be learned from."""
    if not path.exists():
        raise RecipeError(f"there is no recipe {path}; docs/distill.md shows one")
    try:
        stated = yaml.safe_load(path.read_text())
        made = msgspec.convert(stated, Recipe, dec_hook=_decoded)
    except yaml.YAMLError as error:
        raise RecipeError(f"{path} is no YAML: {error}") from error
    except (msgspec.ValidationError, ValueError) as error:
        raise RecipeError(f"{path}: {error}") from error
    _require_usable(path, made)
    return _anchored(made, path.parent)


def _decoded(kind: type, value: object) -> object:
    if kind is Path:
        return Path(str(value))
    raise NotImplementedError(f"{kind} is not part of a recipe")


def _require_usable(path: Path, made: Recipe) -> None:
    names = [teacher.name for teacher in made.teachers]
    if len(set(names)) != len(names):
        raise RecipeError(f"{path}: the names of teachers must differ, got {', '.join(names)}")
    forbidden = [teacher.name for teacher in made.teachers if not teacher.licence_allows_training]
    if forbidden:
        raise RecipeError(
            f"{path}: the licence of {', '.join(forbidden)} does not allow training on what it says; take it out"
        )
    taught = [teacher for teacher in made.teachers if teacher.kind != "text"]
    if made.selection.method != "none" and made.training.mix > 0 and not taught:
        raise RecipeError(f"{path}: a fused loss (training.mix > 0) needs at least one teacher with logprobs")


def _anchored(made: Recipe, folder: Path) -> Recipe:
    def at(path: Path) -> Path:
        return path if path.is_absolute() else folder / path

    data = msgspec.structs.replace(
        made.data, train=at(made.data.train), holdout=None if made.data.holdout is None else at(made.data.holdout)
    )
    teachers = tuple(
        msgspec.structs.replace(teacher, model=None if teacher.model is None else at(teacher.model))
        for teacher in made.teachers
    )
    target = msgspec.structs.replace(made.target, model=at(made.target.model))
    history = made.selection.history
    selection = msgspec.structs.replace(made.selection, history=None if history is None else at(history))
    return msgspec.structs.replace(
        made, data=data, teachers=teachers, target=target, output=at(made.output), selection=selection
    )
