"""The settings of a knowledge tree, read from a YAML file. Unknown keys are refused."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import msgspec

from offline.bohdi.events import FoldRules
from registry.yaml_lines import YamlProblem, read_yaml

Share = Annotated[float, msgspec.Meta(ge=0, le=1)]
Count = Annotated[int, msgspec.Meta(ge=1)]


class SettingsError(ValueError):
    """The file cannot be used; the message says where and what was expected."""


class Settings(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, omit_defaults=True):
    """What a tree is grown for, by which rules, and what it may cost.

    Models
        `target` is to be trained, `sources` ask and answer, `judges` decide where no checker does (the sources that
        take no part in a contest if left out); all are names of the pool. `temperatures`: by model.
    Shape and rules
        `levels` of domains. `rule`: how paths are drawn; `uniform` asks about all leaves evenly, to compare with.
        `drift`: how old rewards lose their weight. `window`: rewards that the drift test looks at. `false_discovery`:
        false resets of a node per 100 rewards without a change. `discount`: factor on older rewards at each new one,
        for `two_sample` and `discounted`. `carry`: factor on all rewards at a change of the target, for `two_sample`.
        `kappa`: rewards that the parent's mean counts for in a child's prior. `breadth`: a walk takes one of the best
        arms at random, so large a share of them; towards 0 always the best. `even_share`: of the steps of a walk that
        go to any child, whatever it has won. `widening`: a node may have `widening` x (questions asked below it) ** 0.5
        children. `leaf_questions`: a node sprouts only when it has had so many questions for each leaf below it.
        `most_children`: of one node, at most. `learning_progress`: weight of what the last training changed, 0 for
        none. `traffic`: weight of the users' queries, 0 for none. `draw_power`: 0 draws training leaves evenly, 1 in
        proportion to the gain, more for fewer.
    Rounds
        `rounds` of `paths_per_round` questions. `max_usd_per_round` and `max_tokens_per_round` end a round early.
        `concurrency`: questions to one model at a time. `fan_out`: who runs them. `prompts`: a built-in set or a
        folder.
    Training draw
        `benchmarks`: files whose questions must not be trained on. `replay_share`: of a draw, from earlier versions of
        the target. `licences`: of what each model writes, by model, such as `apache-2.0`.
        `merge_threshold`: cosine similarity above which two names under one parent are one domain.
    """

    target: str
    sources: Annotated[tuple[str, ...], msgspec.Meta(min_length=1)]
    judges: tuple[str, ...] = ()
    temperatures: dict[str, Annotated[float, msgspec.Meta(ge=0)]] = {}
    levels: Annotated[int, msgspec.Meta(ge=1, le=8)] = 3
    rule: Literal["ours", "published", "uniform"] = "ours"
    drift: Literal["two_sample", "published", "discounted", "none"] = "two_sample"
    window: Annotated[int, msgspec.Meta(ge=5)] = 30
    false_discovery: Annotated[float, msgspec.Meta(gt=0, lt=1)] = 0.05
    discount: Annotated[float, msgspec.Meta(gt=0, le=1)] = 0.97
    carry: Annotated[float, msgspec.Meta(gt=0, le=1)] = 1.0
    kappa: Annotated[float, msgspec.Meta(ge=0)] = 4.0
    breadth: Annotated[float, msgspec.Meta(gt=0, le=1)] = 0.5
    even_share: Share = 0.2
    widening: Annotated[float, msgspec.Meta(gt=0)] = 1.0
    leaf_questions: Annotated[float, msgspec.Meta(ge=0)] = 12.0
    most_children: Count = 64
    learning_progress: Annotated[float, msgspec.Meta(ge=0)] = 0.0
    traffic: Share = 0.0
    draw_power: Annotated[float, msgspec.Meta(ge=0)] = 2.0
    rounds: Count = 3
    paths_per_round: Count = 30
    max_usd_per_round: Annotated[float, msgspec.Meta(gt=0)] | None = None
    max_tokens_per_round: Count | None = None
    concurrency: Annotated[int, msgspec.Meta(ge=1, le=256)] = 8
    fan_out: Literal["asyncio", "ray"] = "asyncio"
    prompts: str = "standard"
    seed: Annotated[int, msgspec.Meta(ge=0)] = 0
    benchmarks: tuple[str, ...] = ()
    licences: dict[str, str] = {}
    replay_share: Share = 0.25
    merge_threshold: Share = 0.9

    def __post_init__(self) -> None:
        if len(set(self.sources)) < len(self.sources):
            raise ValueError(f"`sources` names a model twice: {', '.join(self.sources)}")
        if self.target in self.sources:
            raise ValueError(f"`target` {self.target!r} is also one of the `sources`: it cannot be its own teacher")

    def fold_rules(self) -> FoldRules:
        """How rewards are to be counted; goes into the log with each round that begins."""
        return FoldRules(
            window=self.window,
            discount=self.discount if self.drift in ("two_sample", "discounted") else 1.0,
            carry=self.carry if self.drift == "two_sample" else 1.0,
        )


def read_settings(path: Path) -> Settings:
    """The settings in a YAML file.

    Raises
    ------
    SettingsError: the file is missing, no YAML, or a key is unknown or has a value that it cannot have.
    """
    try:
        document = read_yaml(path.read_text(encoding="utf-8"))
    except YamlProblem as error:
        raise SettingsError(f"{path}:{error.line}: {error}") from error
    except (OSError, UnicodeDecodeError) as error:
        raise SettingsError(f"cannot read the settings {path}: {error}") from error
    try:
        return msgspec.convert(document.value, Settings)
    except msgspec.ValidationError as error:
        key = str(error).rpartition("$.")[2].split("`")[0].split("[")[0]
        raise SettingsError(f"{path}:{document.line((key,))}: {error}") from error
