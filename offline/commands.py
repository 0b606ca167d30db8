"""`tokamak train`, `evaluate` and `deploy`: learn a router, see what it is worth, and say which one serves."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Annotated, Any, NamedTuple

import msgspec
import typer
from rich.console import Console

from encoders.catalogue import load_encoder
from offline.admin_client import DEFAULT_ADMIN, AdminUrl, queue_job
from offline.explaining import explaining
from offline.outcome_file import outcomes_from_file, read_prices
from offline.outcomes import LoggedOutcomes, outcomes_from_log
from offline.routing.evaluate import Evaluation, evaluate, rendered
from offline.routing.off_policy_command import evaluate_off_policy, off_policy_command
from offline.routing.train_router import default_router, train
from registry.artifacts import ArtifactError, Artifacts
from registry.drift_records import read_drift, since_by_arm
from registry.rollouts import RolloutError, Rollouts, operator
from routers.catalogue import KIND, load_router
from routers.protocol import Outcomes
from traffic.stores import open_log

DATA_DIR = Path("tokamak-data")
ARTIFACTS_FOLDER = "artifacts"
LOG_FILE = "traffic.db"
SQLITE = "sqlite:///"

Log = Annotated[str | None, typer.Option(help="Traffic log, a URL; the one in the data folder if left out.")]
Data = Annotated[
    Path | None, typer.Option(help="File of scored answers (.parquet, .jsonl, .jsonl.gz) instead of a log.")
]
PricesFile = Annotated[Path | None, typer.Option(help="JSON of prices per million tokens, where the file has no cost.")]
DataDir = Annotated[Path, typer.Option(envvar="TOKAMAK_DATA_DIR", help="Data folder of the service.")]
EncoderName = Annotated[str, typer.Option(help="Encoder of the gateway (`routers.encoder`).")]
Seed = Annotated[int, typer.Option(help="Seed of the split and of the learning.")]
Since = Annotated[float, typer.Option(help="Only interactions from this Unix time on.")]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON instead of a table.")]


@explaining
def train_command(
    log: Log = None,
    data: Data = None,
    prices: PricesFile = None,
    router: Annotated[str | None, typer.Option(help="Name of a router; the default one if left out.")] = None,
    data_dir: DataDir = DATA_DIR,
    encoder: EncoderName = "static",
    seed: Seed = 0,
    since: Since = 0.0,
    job: Annotated[bool, typer.Option("--job", help="Queue it at the running service instead.")] = False,
    admin: AdminUrl = DEFAULT_ADMIN,
    deploy: Annotated[bool, typer.Option(help="Make it the router that serves; the gateway takes it in.")] = False,
    as_json: AsJson = False,
) -> None:
    """Learn a router from scored answers, and store it with the evidence of a held-out part of them.

    With --job the service's worker learns it from the service's log, and it becomes a candidate of `tokamak rollout`.
    Exit code 2 if nothing can be learned from the data.
    """
    if job:
        if log is not None or data is not None or prices is not None or deploy:
            raise ValueError("a job learns from the service's own log; leave --log, --data, --prices and --deploy out")
        queue_job(
            admin, "/admin/routers/train", {"router": router, "seed": seed or None, "since": since or None}, as_json
        )
        return
    found = _outcomes(log, data, prices, data_dir, encoder, since)
    artifacts = Artifacts(data_dir / ARTIFACTS_FOLDER)
    chosen = router or default_router()
    manifest = train(found.outcomes, chosen, seed, artifacts=artifacts, deploy=deploy, source=found.source)
    if deploy:
        audited(artifacts, manifest.version)
    if as_json:
        typer.echo(msgspec.json.encode(manifest).decode())
        return
    typer.echo(f"learned from {_described(found)}", err=True)
    Console().print(rendered(msgspec.convert(manifest.evidence["evaluation"], Evaluation)))
    told = "now serves" if deploy else f"serves after `tokamak deploy {manifest.version}`"
    typer.echo(f"{manifest.version} {told}")


@explaining
def evaluate_command(
    log: Log = None,
    data: Data = None,
    prices: PricesFile = None,
    router: Annotated[
        list[str] | None, typer.Option(help="Name of a router; may be repeated. The default one, cluster and knn else.")
    ] = None,
    data_dir: DataDir = DATA_DIR,
    encoder: EncoderName = "static",
    seed: Seed = 0,
    since: Since = 0.0,
    off_policy: Annotated[bool, typer.Option("--off-policy", help="Judge stored routers by the log instead.")] = False,
    candidate: Annotated[str | None, typer.Option(help="With --off-policy: a version; else the newest.")] = None,
    champion: Annotated[
        str | None, typer.Option(help="With --off-policy: a version, or `logged`; else the one that serves.")
    ] = None,
    preference: Annotated[float, typer.Option(help="With --off-policy: weight of quality in [0, 1].")] = 1.0,
    as_json: AsJson = False,
) -> None:
    """Compare routers with the best single arm, chance and the oracle, on a held-out part of the answers.

    With --off-policy: compare a stored router with the one that serves, by the scored decisions of the log. Exit code 3
    if the log says too little for a verdict.
    """
    if off_policy:
        if data is not None:
            raise ValueError("--off-policy reads decisions from a log, not answers from a file; leave --data out")
        store, url = Artifacts(data_dir / ARTIFACTS_FOLDER), log_url(log, data_dir)
        loaded = load_encoder(encoder)
        compared = evaluate_off_policy(url, loaded, store, candidate, champion, preference, since, seed)
        off_policy_command(compared, as_json)
        return
    found = _outcomes(log, data, prices, data_dir, encoder, since)
    evaluation = evaluate(found.outcomes, router or tuple(dict.fromkeys((default_router(), "cluster", "knn"))), seed)
    if as_json:
        typer.echo(msgspec.json.encode(evaluation).decode())
        return
    typer.echo(f"read {_described(found)}", err=True)
    Console().print(rendered(evaluation))


@explaining
def deploy_command(
    version: Annotated[str | None, typer.Argument(help="The version to serve; without one, all are listed.")] = None,
    roll_back: Annotated[bool, typer.Option("--roll-back", help="Serve the version that served before.")] = False,
    data_dir: DataDir = DATA_DIR,
    encoder: Annotated[
        str | None, typer.Option(help="Encoder of the gateway; else the one that the router that serves learned from.")
    ] = None,
) -> None:
    """Say which router serves; a running gateway takes it in without dropping a request.

    Exit code 2 if the version cannot serve.
    """
    artifacts = Artifacts(data_dir / ARTIFACTS_FOLDER)
    if roll_back:
        if version is not None:
            raise ValueError("give a version or --roll-back, not both")
        back = artifacts.roll_back(KIND, _earlier(artifacts, encoder))
        audited(artifacts, back)
        typer.echo(f"{back} now serves")
    elif version is not None:
        _require_fitting(artifacts, version, encoder)
        artifacts.deploy(KIND, version)
        audited(artifacts, version)
        typer.echo(f"{version} now serves")
    else:
        serving = artifacts.deployed(KIND)
        versions = artifacts.versions(KIND)
        if not versions:
            typer.echo(f"there is no router below {artifacts.root}; `tokamak train` makes one", err=True)
        for manifest in versions:
            learned = f"{len(manifest.meta['arms'])} arms, encoder {manifest.encoder}"
            typer.echo(f"{'*' if manifest.version == serving else ' '} {manifest.version}  {learned}")


def _earlier(artifacts: Artifacts, encoder: str | None) -> str | None:
    """The last version before the one that serves that can serve, None without any history.

    Tells of those that it passes over. Raises ArtifactError if none of them can serve.
    """
    history = artifacts.history(KIND)
    for version in reversed(history):
        try:
            artifact = artifacts.load(KIND, version)
            load_router(artifact, (artifact.manifest.encoder or "") if encoder is None else load_encoder(encoder).hash)
        except ArtifactError as error:
            typer.echo(f"passed over: {error}", err=True)
        else:
            return version
    if history:
        raise ArtifactError(
            f"none of the {len(history)} earlier versions can serve; `tokamak train --deploy` makes one"
        )
    return None


def _require_fitting(artifacts: Artifacts, version: str, encoder: str | None) -> None:
    """Raise ArtifactError if the version cannot be loaded, or learned from another encoder than the one that serves."""
    artifact, serving = artifacts.load(KIND, version), artifacts.deployed(KIND)
    encodes = artifact.manifest.encoder
    if encoder is not None:
        encodes = load_encoder(encoder).hash
    elif serving is not None:
        encodes = artifacts.manifest(KIND, serving).encoder
    if encodes != artifact.manifest.encoder:
        raise ArtifactError(
            f"{version} learned from vectors of encoder {artifact.manifest.encoder}, the gateway encodes with "
            f"{encodes}; train a router with that encoder, or, if `routers.encoder` has changed, name it with --encoder"
        )
    load_router(artifact, encodes or "")


def audited(artifacts: Artifacts, version: str) -> None:
    """Write a deployment past the stages of a rollout to its audit log."""
    try:
        Rollouts(artifacts, KIND).deployed(version, by=operator(), why="deployed by the command line")
    except RolloutError as error:
        typer.echo(f"deployed, but the audit log was not written: {error}", err=True)


class Found(NamedTuple):
    """Outcomes and where they came from."""

    outcomes: Outcomes
    source: dict[str, Any]


def _outcomes(
    log: str | None, data: Path | None, prices: Path | None, data_dir: Path, encoder: str, since: float
) -> Found:
    if log is not None and data is not None:
        raise ValueError("name a log or a file, not both")
    loaded = load_encoder(encoder)
    if data is not None:
        outcomes = outcomes_from_file(data, loaded, None if prices is None else read_prices(prices))
        return Found(outcomes, {"file": data.name, "queries": len(outcomes.query_ids), "arms": len(outcomes.arms)})
    url = log_url(log, data_dir)

    async def read() -> LoggedOutcomes:
        traffic = open_log(url)
        try:
            return outcomes_from_log(traffic, loaded, since, since_by_arm=since_by_arm(read_drift(data_dir)))
        finally:
            await traffic.close()

    logged = asyncio.run(read())
    return Found(logged.outcomes, {"log": logged.counts, "since": since})


def log_url(log: str | None, data_dir: Path) -> str:
    """The log that was named, else the one in the data folder; ValueError if that is not there."""
    url = log or f"{SQLITE}{data_dir / LOG_FILE}"
    if url.startswith(SQLITE) and not Path(url.removeprefix(SQLITE)).exists():
        raise ValueError(f"there is no log {url}; serve and score some traffic first, or name --log or --data")
    return url


def _described(found: Found) -> str:
    counts = found.source.get("log")
    queries, arms = len(found.outcomes.query_ids), len(found.outcomes.arms)
    told = f"{queries} queries and {arms} arms with encoder {found.outcomes.encoder}"
    if counts is None:
        return told
    left_out = ", ".join(f"{count} {name}" for name, count in counts.items() if name not in ("read", "used") and count)
    return f"{told}: {counts['used']} of {counts['read']} interactions{f' (left out: {left_out})' if left_out else ''}"
