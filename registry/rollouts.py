"""How a new version comes to serve: candidate -> shadow -> canary -> promoted, or rolled back.

    <artifacts>/<kind>/rollout.json           the stage of every version, and the trial that runs
    <artifacts>/<kind>/rollout-audit.jsonl    who changed what, when and why; only ever appended to

The *champion* is the version that `deployed.json` points to, so `Artifacts.deploy` goes on working beside this. A
*trial* is the one version in shadow (it predicts, nobody is served by it) or in canary (it serves a share). Every
change has a revision; the ETag also covers the champion: a change is refused if anything moved since the caller looked.
"""

from __future__ import annotations

import getpass
import os
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final, Literal

import msgspec

from registry.artifacts import ArtifactError, Artifacts
from registry.atomic_files import append_synced, locked, place_file

Stage = Literal["candidate", "shadow", "canary", "promoted", "retired", "rolled_back"]
"""`retired`: it served, and another version was promoted in its place."""
Action = Literal["announce", "shadow", "canary", "promote", "roll_back", "deploy"]

LAYOUT: Final = 1
DOCUMENT: Final = "rollout.json"
AUDIT: Final = "rollout-audit.jsonl"
LOCK: Final = ".rollout-lock"
MAX_SHARE: Final = 0.5
ANY: Final = "*"
"""If-Match: whatever the state is."""


class Trial(msgspec.Struct, frozen=True, kw_only=True):
    """The version that is being tried. `id` is new for each stage's trial, and is what conversations are dealt by."""

    version: str
    stage: Literal["shadow", "canary"]
    share: float
    id: str
    since: float


class Entry(msgspec.Struct, frozen=True, kw_only=True):
    """One line of the audit log. `why` is what the caller said or what the gate found."""

    at: float
    revision: int
    by: str
    action: Action
    version: str | None
    champion: str | None
    before: Stage | None
    after: Stage | None
    share: float | None = None
    why: str | None = None
    forced: bool = False


class Document(msgspec.Struct, frozen=True, kw_only=True):
    """What is stored. `last` repeats the newest line of the audit log, in case a crash came before it was written."""

    kind: str
    revision: int = 0
    trial: Trial | None = None
    stages: dict[str, Stage] = {}
    last: Entry | None = None
    layout: int = LAYOUT


class Rollout(msgspec.Struct, frozen=True, kw_only=True):
    """How things stand. `champion` None is the cold start; `history` are earlier champions, oldest first."""

    kind: str
    etag: str
    champion: str | None
    history: tuple[str, ...]
    trial: Trial | None
    stages: dict[str, Stage]

    def stage(self, version: str) -> Stage:
        return self.stages.get(version, "candidate")


class RolloutError(RuntimeError):
    """The change cannot be made. The message says why and what to do."""


class RolloutUnreadable(RolloutError):
    """The document is corrupt. The champion goes on serving."""


class RolloutStale(RolloutError):
    """Something changed since the caller looked."""


class RolloutConflict(RolloutError):
    """The change does not fit the stage that things are in."""


class Rollouts:
    """The rollout of one kind of artifact. Several processes may read and change it at the same time."""

    def __init__(
        self,
        artifacts: Artifacts,
        kind: str,
        fits: Callable[[str], None] | None = None,
        clock: Callable[[], float] = time.time,
    ) -> None:
        """`fits(version)` raises ArtifactError if the version cannot serve here (another encoder, damage, ...)."""
        self.artifacts = artifacts
        self.kind = kind
        self.folder: Path = artifacts.root / kind
        self._fits = fits or self._loads
        self._clock = clock

    def _loads(self, version: str) -> None:
        self.artifacts.load(self.kind, version)

    def read(self) -> Rollout:
        """Raises RolloutUnreadable, or ArtifactError if the pointer to the champion is corrupt."""
        return self._seen(self._document())

    def audit(self) -> list[Entry]:
        """Every change, oldest first. Raises RolloutUnreadable."""
        entries = self._entries()
        last = self._document().last
        return [*entries, last] if last is not None and _missing(last, entries) else entries

    def announce(self, version: str, *, by: str, why: str | None = None) -> Rollout:
        """A version was trained and may be tried. Announcing it again changes nothing."""
        with self._changing(ANY) as (document, now):
            if version in document.stages:
                return now
            self.artifacts.manifest(self.kind, version)
            return self._write(document, now, "announce", version, "candidate", by=by, why=why)

    def shadow(self, version: str, *, by: str, if_match: str, why: str | None = None) -> Rollout:
        """Let a version predict beside the champion without serving anybody.

        Raises
        ------
        RolloutStale: `if_match` is not the ETag of how things stand.
        RolloutConflict: another version is being tried, or it serves already.
        ArtifactError: there is no such version, or it does not fit what serves.
        """
        return self._try(version, "shadow", 0.0, by=by, if_match=if_match, why=why)

    def canary(self, version: str, share: float, *, by: str, if_match: str, why: str | None = None) -> Rollout:
        """Let a version decide for a share in (0, 0.5] of the conversations. Raises like `shadow`, and ValueError.

        A new share keeps the trial's id: conversations stay where they are as far as the share allows.
        """
        if not 0.0 < share <= MAX_SHARE:
            raise ValueError(f"share must lie in (0, {MAX_SHARE}], got {share}")
        return self._try(version, "canary", share, by=by, if_match=if_match, why=why)

    def promote(self, version: str, *, by: str, if_match: str, why: str | None = None, forced: bool = False) -> Rollout:
        """Make a version the champion. Raises like `shadow`; another version's trial is in the way too."""
        with self._changing(if_match) as (document, now):
            self._free_for(now, version)
            self._fits(version)
            # The pointer first: from then on the version serves everybody, and a trial of the champion is none.
            self.artifacts.deploy(self.kind, version)
            changed = msgspec.structs.replace(document, trial=None)
            return self._write(changed, now, "promote", version, "promoted", by=by, why=why, forced=forced)

    def roll_back(self, *, by: str, if_match: str = ANY, why: str | None = None) -> Rollout:
        """End the trial if one runs; else let the champion before this one serve, or the cold start before the first.

        Earlier champions that cannot serve any more (of another encoder, truncated) are passed over, and named in the
        audit log.

        Raises
        ------
        RolloutConflict: nothing was ever deployed. RolloutStale as `shadow`.
        """
        with self._changing(if_match) as (document, now):
            if now.trial is not None:
                version = now.trial.version
            elif now.champion is None:
                raise RolloutConflict(f"no {self.kind} is being tried or serves; there is nothing to roll back")
            else:
                version = now.champion
                back, unfit = self._fitting(now.history)
                if back is None:
                    self.artifacts.withdraw(self.kind)
                else:
                    self.artifacts.roll_back(self.kind, back)
                if unfit:
                    why = f"{why or 'rolled back'} (passed over, because they cannot serve: {', '.join(unfit)})"
            changed = msgspec.structs.replace(document, trial=None)
            return self._write(changed, now, "roll_back", version, "rolled_back", by=by, why=why)

    def deployed(self, version: str | None, *, by: str, why: str | None = None) -> Rollout:
        """Note that the champion was set directly, past the stages (`tokamak deploy`)."""
        with self._changing(ANY) as (document, now):
            return self._write(document, now, "deploy", version, "promoted", by=by, why=why)

    def _try(
        self, version: str, stage: Literal["shadow", "canary"], share: float, *, by: str, if_match: str, why: str | None
    ) -> Rollout:
        with self._changing(if_match) as (document, now):
            self._free_for(now, version)
            self._fits(version)
            trial, at = now.trial, self._clock()
            if trial is not None and trial.stage == stage:
                changed = msgspec.structs.replace(trial, share=share)
            else:
                changed = Trial(version=version, stage=stage, share=share, id=os.urandom(6).hex(), since=at)
            return self._write(
                msgspec.structs.replace(document, trial=changed), now, stage, version, stage, by=by, why=why,
                share=share if stage == "canary" else None,
            )  # fmt: skip

    def _fitting(self, history: tuple[str, ...]) -> tuple[str | None, list[str]]:
        """The last version that can serve, None for the cold start, and the later ones that cannot."""
        unfit: list[str] = []
        for version in reversed(history):
            try:
                self._fits(version)
            except ArtifactError:
                unfit.append(version)
            else:
                return version, unfit
        return None, unfit

    def _free_for(self, now: Rollout, version: str) -> None:
        if now.trial is not None and now.trial.version != version:
            raise RolloutConflict(
                f"{now.trial.version} is in {now.trial.stage}; promote it or roll it back before trying {version}"
            )
        if version == now.champion:
            raise RolloutConflict(f"{version} serves already")

    @contextmanager
    def _changing(self, if_match: str) -> Iterator[tuple[Document, Rollout]]:
        """Hold the pen; what the last writer owed the audit log is written first."""
        self.folder.mkdir(parents=True, exist_ok=True)
        with locked(self.folder, LOCK):
            document = self._document()
            now = self._seen(document)
            if if_match not in (ANY, now.etag):
                raise RolloutStale(f"the rollout is at {now.etag} now, not at {if_match}; look at it and try again")
            if document.last is not None and _missing(document.last, self._entries()):
                self._append(document.last)
            yield document, now

    def _write(
        self, document: Document, now: Rollout, action: Action, version: str | None, after: Stage, *, by: str,
        why: str | None, share: float | None = None, forced: bool = False,
    ) -> Rollout:  # fmt: skip
        stages = dict(document.stages)
        if version is not None:
            stages[version] = after
        entry = Entry(
            at=self._clock(), revision=document.revision + 1, by=by, action=action, version=version,
            champion=self.artifacts.deployed(self.kind), before=None if version is None else now.stage(version),
            after=after, share=share, why=why, forced=forced,
        )  # fmt: skip
        written = msgspec.structs.replace(document, revision=entry.revision, stages=stages, last=entry)
        place_file(self.folder / DOCUMENT, msgspec.json.format(msgspec.json.encode(written)))
        self._append(entry)
        return self._seen(written)

    def _append(self, entry: Entry) -> None:
        append_synced(self.folder / AUDIT, msgspec.json.encode(entry))

    def _document(self) -> Document:
        path = self.folder / DOCUMENT
        try:
            document = msgspec.json.decode(path.read_bytes(), type=Document)
        except FileNotFoundError:
            return Document(kind=self.kind)
        except (OSError, msgspec.DecodeError) as error:
            raise RolloutUnreadable(
                f"{path} cannot be read ({error}); the champion goes on serving and no version is tried. Move the file "
                f"away: every version and {AUDIT} are kept, only the running trial is forgotten"
            ) from error
        if (document.layout, document.kind) != (LAYOUT, self.kind):
            raise RolloutUnreadable(
                f"{path} is of layout {document.layout} and kind {document.kind}, expected {LAYOUT} and {self.kind}; "
                "update the program, or move the file away"
            )
        return document

    def _entries(self) -> list[Entry]:
        try:
            lines = (self.folder / AUDIT).read_bytes().split(b"\n")
        except FileNotFoundError:
            return []
        entries = []
        for line in filter(None, lines):
            try:
                entries.append(msgspec.json.decode(line, type=Entry))
            except msgspec.DecodeError:
                # A line cut by a crash; the document repeats the last one.
                continue
        return entries

    def _seen(self, document: Document) -> Rollout:
        """The document beside the pointer, which wins: a crash between the two leaves no third state."""
        champion = self.artifacts.deployed(self.kind)
        trial = document.trial if document.trial is not None and document.trial.version != champion else None
        stages: dict[str, Stage] = {}
        for version, stage in document.stages.items():
            if version == champion:
                stage = "promoted"
            elif stage == "promoted":
                stage = "retired"
            elif stage in ("shadow", "canary") and (trial is None or trial.version != version):
                stage = "rolled_back"
            stages[version] = stage
        history = self.artifacts.history(self.kind)
        for version in history:
            stages.setdefault(version, "retired")
        if champion is not None:
            stages[champion] = "promoted"
        return Rollout(
            kind=self.kind, etag=f'"{document.revision}-{champion or "none"}"', champion=champion,
            history=history, trial=trial, stages=stages,
        )  # fmt: skip


def _missing(last: Entry, entries: list[Entry]) -> bool:
    return not entries or entries[-1].revision < last.revision


def operator() -> str:
    """Who runs this process, for the audit log."""
    try:
        return f"{getpass.getuser()} (command line)"
    except (KeyError, OSError):
        return "command line"
