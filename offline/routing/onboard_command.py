"""`tokamak onboard`: a new model becomes an arm of the router that serves, from at most 64 scored answers."""

from __future__ import annotations

import asyncio
import os
from pathlib import Path
from typing import Annotated, NamedTuple

import msgspec
import typer

from encoders.catalogue import load_encoder
from encoders.protocol import Encoder
from offline.answers import AnswersUnreadable
from offline.ask_model import OVER_BUDGET, Asking, Report, read_answers
from offline.commands import (
    ARTIFACTS_FOLDER,
    DATA_DIR,
    AsJson,
    Data,
    DataDir,
    EncoderName,
    Log,
    PricesFile,
    Seed,
    Since,
    audited,
    log_url,
)
from offline.explaining import explaining
from offline.outcome_file import outcomes_from_file, read_prices
from offline.outcomes import outcomes_from_log
from offline.questions import Question, questions_from_file, questions_from_log
from offline.routing.onboard import (
    FOLDER,
    Known,
    Planned,
    answers_file,
    asked,
    keep,
    planned,
    publish,
    read_scores,
    results_of,
)
from registry.arms import Arm
from registry.artifacts import Artifacts, Manifest
from registry.config_file import build_pool, load_config
from routers.catalogue import KIND, load_router
from routers.onboarding.probes import PROBES
from routers.protocol import Outcomes
from traffic.stores import open_log

MOST_PROBES = 512


class Source(NamedTuple):
    """What was read: the outcomes, and the questions behind them."""

    outcomes: Outcomes
    questions: dict[str, Question]


@explaining
def onboard_command(
    model: Annotated[str, typer.Argument(help="The new model, or arm such as `model#think`, as the config names it.")],
    config: Annotated[Path | None, typer.Option("--config", "-c", help="Config file that names the model.")] = None,
    log: Log = None,
    data: Data = None,
    prices: PricesFile = None,
    probes: Annotated[int, typer.Option(min=1, max=MOST_PROBES, help="At most so many queries are asked.")] = PROBES,
    scores: Annotated[Path | None, typer.Option(help="JSON lines {query_id, score} instead of checking.")] = None,
    ask_only: Annotated[bool, typer.Option(help="Ask and keep the answers, to be scored with --scores later.")] = False,
    max_usd: Annotated[float, typer.Option(min=0.0, help="What the calls may cost at most, by list prices.")] = 1.0,
    concurrency: Annotated[int, typer.Option(min=1, help="Calls at the same time.")] = 4,
    max_tokens: Annotated[int, typer.Option(min=1, help="Longest answer, in tokens.")] = 1024,
    dry_run: Annotated[bool, typer.Option(help="Only say what would be asked, and what it would cost.")] = False,
    again: Annotated[bool, typer.Option(help="Choose the probes anew, whatever an earlier run chose.")] = False,
    deploy: Annotated[bool, typer.Option(help="Make it the router that serves.")] = False,
    router: Annotated[str | None, typer.Option(help="Version that the arm joins; else the deployed one.")] = None,
    data_dir: DataDir = DATA_DIR,
    encoder: EncoderName = "static",
    seed: Seed = 0,
    since: Since = 0.0,
    as_json: AsJson = False,
) -> None:
    """Ask a new model a few queries that tell most about it, and publish a router that includes it.

    The queries come from the log, or from a file. Answers are checked against references (demonstrations or right
    answers in the log, the column `reference` of a file), or scored by a file of yours. Run it again after failures:
    only what is missing is asked. Exit code 2 if nothing can be published.
    """
    arm = _arm(model, config)
    loaded, artifacts, folder = load_encoder(encoder), Artifacts(data_dir / ARTIFACTS_FOLDER), data_dir / FOLDER
    known, questions = _known(artifacts, router, loaded, _source(log, data, prices, data_dir, loaded, since))
    outside = scores is not None or ask_only
    plan = planned(known, arm, questions, folder, count=probes, seed=seed, scored_outside=outside, again=again)
    typer.echo(_announced(plan, arm, folder, max_usd), err=True)
    if dry_run:
        return
    if scores is not None:
        report = Report(answers=read_answers(answers_file(folder, arm.id)))
        results = results_of(plan, report.answers, read_scores(scores))
    else:
        report = asyncio.run(asked(plan, Asking(arm, max_usd, concurrency, max_tokens=max_tokens), folder))
        typer.echo(_told(plan, report), err=True)
        if ask_only:
            keep(plan, folder)
            typer.echo(f"{answers_file(folder, arm.id)}")
            return
        results = results_of(plan, report.answers)
    manifest = publish(known, plan, results, report, artifacts, deploy=deploy)
    if deploy:
        audited(artifacts, manifest.version)
    typer.echo(msgspec.json.encode(manifest).decode() if as_json else _described(manifest, deploy))


def _arm(name: str, config: Path | None) -> Arm:
    path = config or Path(os.environ.get("TOKAMAK_CONFIG", "tokamak.yaml"))
    pool = build_pool(load_config(path))
    arm = pool.arms.get(name)
    if arm is None:
        raise ValueError(f"{path} has no arm {name!r}; it has {', '.join(pool.arms)}")
    return arm


def _source(
    log: str | None, data: Path | None, prices: Path | None, data_dir: Path, encoder: Encoder, since: float
) -> Source:
    if log is not None and data is not None:
        raise ValueError("name a log or a file, not both")
    if data is not None:
        outcomes = outcomes_from_file(data, encoder, None if prices is None else read_prices(prices))
        try:
            return Source(outcomes, questions_from_file(data))
        except AnswersUnreadable as error:
            raise ValueError(str(error)) from error
    url = log_url(log, data_dir)

    async def read() -> Source:
        traffic = open_log(url)
        try:
            return Source(outcomes_from_log(traffic, encoder, since).outcomes, questions_from_log(traffic, since))
        finally:
            await traffic.close()

    return asyncio.run(read())


def _known(
    artifacts: Artifacts, version: str | None, encoder: Encoder, source: Source
) -> tuple[Known, dict[str, Question]]:
    version = version or artifacts.deployed(KIND)
    if version is None:
        raise ValueError("no router is deployed that the model could join; `tokamak train --deploy` makes one")
    router = load_router(artifacts.load(KIND, version), encoder.hash)
    return Known(source.outcomes, router, version), source.questions


def _announced(plan: Planned, arm: Arm, folder: Path, max_usd: float) -> str:
    answered = set(read_answers(answers_file(folder, arm.id)))
    missing = sum(question.query_id not in answered for question in plan.questions)
    cost = (
        f"{arm.model.name} has no prices, so the cost is not known and --max-usd cannot hold"
        if plan.estimate_usd is None
        else f"all of them cost about ${plan.estimate_usd:.4f}, and at most ${max_usd:g} is spent"
    )
    return f"{len(plan.questions)} probes for {arm.id}, {missing} of them to be asked; {cost}"


def _told(plan: Planned, report: Report) -> str:
    answered = sum(question.query_id in report.answers for question in plan.questions)
    failed = ", ".join(f"{count} {reason}" for reason, count in report.failed.most_common())
    spent = "" if report.spent_usd is None else f", ${report.spent_usd:.4f} spent"
    more = ", with a higher --max-usd" if report.failed[OVER_BUDGET] else ""
    missing = f"; not answered: {failed} (run again to ask these{more})" if failed else ""
    return f"{answered} of {len(plan.questions)} probes answered{spent}{missing}"


def _described(manifest: Manifest, deployed: bool) -> str:
    found = manifest.evidence["onboarding"]
    best = max(found["known_arms"].items(), key=lambda item: item[1])
    share = 100 * found["share_of_queries_it_is_best_at"]
    return (
        f"{found['arm']}: mean score {found['mean_score']:.3f} on {found['scored']} probes; expected quality "
        f"{found['expected_quality']:.3f} ± {found['quality_std']:.3f} over all queries (best known arm {best[0]} "
        f"{best[1]:.3f}); predicted best at {share:.0f} % of them\n{manifest.version} "
        + ("now serves" if deployed else f"serves after `tokamak deploy {manifest.version}`")
    )
