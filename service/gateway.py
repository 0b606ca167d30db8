"""The running service: what it holds, how it starts and stops, and how it takes in new versions without a pause."""

from __future__ import annotations

import asyncio
import logging
import os
import time
from collections import defaultdict
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from encoders.catalogue import load_encoder
from encoders.protocol import Encoder, Vectors
from registry.api_keys import ApiKeys
from registry.artifacts import ArtifactError, Artifacts
from registry.config import Config
from registry.config_file import build_pool
from registry.job_kinds import BUILD_TEMPLATES
from registry.jobs import Jobs, JobsError
from registry.rollouts import Trial
from routers.catalogue import KIND
from routers.policy.affinity import Conversations
from routers.policy.cascade import Escalations
from service.backends.chain import Backends
from service.backends.health import Health
from service.budgets import Budgets
from service.cache.exact import ExactCache
from service.exchange import Exchange
from service.key_watch import KeyWatch
from service.limits import Key, Limits
from service.metrics import Metrics
from service.serving import Serving, targets_of
from service.versions import COLD_START, RouterVersions
from service.worker_process import WorkerProcess
from service.worth_schedule import WorthSchedule
from templates_store.choosing import NOTHING, Bounds, Selection, choose
from templates_store.database import TemplateStoreError
from templates_store.index_files import INDEX_FOLDER
from templates_store.live_index import REFRESH_S, LiveIndex, reindex
from templates_store.opening import open_store
from templates_store.store import TemplateStore
from templates_store.worth import DEFAULT_FLOOR, Floor, FloorUnreadable, read_floor
from traffic.log import LogError, TrafficLog
from traffic.stores import open_log

if TYPE_CHECKING:
    from encoders.batching import BatchingEncoder

logger = logging.getLogger("tokamak.gateway")

LOG_BACKLOG = 1_000
"""Records waiting to be written above which requests give way to the log."""
LOG_PAUSE_S = 0.0005


class Gateway:
    """One process of the online half. `start` before the first request, `stop` after the last."""

    def __init__(self, config: Config, environ: Mapping[str, str] | None = None) -> None:
        environ = os.environ if environ is None else environ
        self.config = config
        self.data_dir = Path(config.server.data_dir)
        self.max_body_bytes = config.server.max_body_bytes
        self.max_response_bytes = config.log.max_response_bytes
        self.templates_max_tokens = config.templates.max_tokens
        self.limits = Limits(config.limits, environ)
        self.budgets = Budgets(config, self.data_dir)
        self.keys = KeyWatch(ApiKeys(self.data_dir), self.limits, self.budgets)
        self._key_watcher: asyncio.Task[None] | None = None
        self.conversations = Conversations(config.limits.conversations)
        self.escalations: defaultdict[str, Escalations] = defaultdict(Escalations)
        self.metrics = Metrics()
        self.cache = None if config.cache.exact is None else ExactCache(config, config.cache.exact)
        self.artifacts = Artifacts(self.data_dir / "artifacts")
        self.jobs = Jobs(self.data_dir, config.jobs.lease_s)
        self.ready = False
        limits = config.limits
        health = Health(limits.breaker_failures, limits.breaker_cooldown_s)
        self.backends = Backends(retries=limits.retries, fallbacks=limits.fallbacks, health=health)
        self._pool = build_pool(config, environ)
        self.versions = RouterVersions(self.artifacts, self._pool, lambda: self.serving.encoder)
        self._taking_in = asyncio.Lock()
        self._score_sources: dict[str, tuple[str, ...] | None] = {}
        self._failed_trial: Trial | None = None
        self._told: str | None = None
        self._told_of_templates: str | None = None
        self._told_of_floor: str | None = None
        self.worker = WorkerProcess(config, self.jobs, environ)
        self._worth = WorthSchedule(self.jobs, config.templates.worth_every_s)
        self._worker_watcher: asyncio.Task[None] | None = None
        self._template_store: TemplateStore | None = None
        self._live_templates: LiveIndex | None = None
        self._template_watcher: asyncio.Task[None] | None = None
        self._floor: Floor | None = None
        self._log: TrafficLog | None = None
        self._serving: Serving | None = None
        self._watcher: asyncio.Task[None] | None = None

    @property
    def serving(self) -> Serving:
        """The snapshot that new requests get."""
        if self._serving is None:
            raise RuntimeError("the gateway is not started; call start() first")
        return self._serving

    @property
    def log(self) -> TrafficLog:
        if self._log is None:
            raise RuntimeError("the gateway is not started; call start() first")
        return self._log

    async def start(self) -> None:
        """Load everything that serves. Raises what the parts raise; nothing half-loaded ever serves."""
        self.data_dir.mkdir(parents=True, exist_ok=True)
        self.budgets.load()
        await self.keys.take_in()
        self._log = open_log(self.config.log.url or f"sqlite:///{self.data_dir / 'traffic.db'}")
        encoder = load_encoder(self.config.routers.encoder)
        batching = None if encoder.inline else _batching(encoder)
        if self.config.templates.enabled and any(arm.way == "thought" for arm in self._pool.arms.values()):
            self._template_store = open_store(self.data_dir, self.config.templates.url, follow=True)
            self._live_templates = LiveIndex(self._template_store, encoder.hash, self.data_dir / INDEX_FOLDER)
        champion = self.artifacts.deployed(KIND)
        self._serving = Serving(
            config=self.config, pool=self._pool, arms=tuple(self._pool.arms.values()),
            arm_ids=tuple(self._pool.arms), encoder=encoder, batching=batching,
            lineup=self.versions.load(champion, encoder), router=champion or COLD_START,
            templates=None if self._live_templates is None else self._live_templates.current,
            targets=targets_of(self.config, self._pool),
        )  # fmt: skip
        await self.take_in()
        await self._count()
        encoder.encode_one("warm up")
        self._watcher = asyncio.get_running_loop().create_task(self._watch())
        self._key_watcher = asyncio.get_running_loop().create_task(self.keys.run())
        if self._live_templates is not None:
            self._template_watcher = asyncio.get_running_loop().create_task(self._watch_templates())
        self._worker_watcher = asyncio.get_running_loop().create_task(self._watch_jobs())
        self.ready = True

    async def stop(self) -> None:
        """Take no new requests, wait for the running ones (bounded), make the log durable, close everything."""
        self.ready = False
        self.limits.draining = True
        until = time.monotonic() + self.config.server.drain_s
        while self.limits.active and time.monotonic() < until:  # noqa: ASYNC110  Polled only while stopping.
            await asyncio.sleep(0.02)
        for watcher in (self._watcher, self._key_watcher, self._template_watcher, self._worker_watcher):
            if watcher is not None:
                watcher.cancel()
        await asyncio.to_thread(self.worker.stop)
        self.backends.close()
        if self.cache is not None:
            await self.cache.close()
        self.budgets.save()
        if self._serving is not None and self._serving.batching is not None:
            await self._serving.batching.close()
        if self._live_templates is not None:
            await asyncio.to_thread(self._live_templates.close)
        if self._template_store is not None:
            await asyncio.to_thread(self._template_store.close)
        if self._log is not None:
            try:
                await self._log.close()
            except LogError as error:
                logger.error("%s", error)

    def score_sources(self, version: str) -> tuple[str, ...] | None:
        """Of which sources the scores were that a router learned from; empty if of any, None if of none at all."""
        if version not in self._score_sources:
            self._score_sources[version] = self.versions.score_sources(version)
        return self._score_sources[version]

    def record(self, exchange: Exchange) -> None:
        """Log and count a finished request."""
        record = exchange.record(keep_content=self.config.log.content)
        self.metrics.observe(record)
        if self.cache is not None and exchange.cache is not None:
            self.cache.count(exchange.cache)
        self._worth.note(record)
        self.log.append(record)
        if self.log.backlog() > LOG_BACKLOG:
            # The log's thread needs the interpreter for every row and gets it late while this one is never idle.
            # Standing back makes both go at the same pace: under saturation requests wait, no record is dropped.
            time.sleep(LOG_PAUSE_S)

    def find_templates(self, serving: Serving, vector: Vectors, key: Key) -> Selection:
        """The templates for a query, best first; none if none is close enough."""
        settings = self.config.templates
        if serving.templates is None:
            return NOTHING
        self.metrics.thought.searches += 1
        bounds = Bounds(settings.retrieve, settings.top_k, self.floor(serving), settings.max_tokens)
        try:
            return choose(serving.templates, vector, key.id, bounds)
        except TemplateStoreError as error:
            logger.error("the templates that were found cannot be read, none is used: %s", error)
            return NOTHING

    def floor(self, serving: Serving) -> float:
        """The least similarity of a template: as configured, else as calibrated for this encoder, else the default."""
        stated, calibrated = serving.config.templates.min_similarity, self._floor
        if stated is not None:
            return stated
        if calibrated is not None and calibrated.encoder == serving.encoder.hash:
            return calibrated.min_similarity
        return DEFAULT_FLOOR

    def render_metrics(self) -> bytes:
        rendered = self.metrics.render(
            log=self.log.stats(),
            router=self.serving.router,
            active=self.limits.active,
            down=self.backends.health.down(),
        )
        return rendered if self.cache is None else rendered + self.cache.metrics()

    async def take_in(self) -> bool:
        """Swap in what is newly deployed, on trial or changed; True if anything was. What served serves meanwhile.

        A version that cannot be loaded is reported and the one that serves goes on.
        """
        async with self._taking_in:
            changed = False
            try:
                wanted = await asyncio.to_thread(self.versions.wanted)
                changed |= await self._take_in_champion(wanted.champion)
                changed |= await self._take_in_trial(wanted.trial)
            except ArtifactError as error:
                if str(error) != self._told:
                    logger.error(
                        "the deployed router cannot be loaded, %s goes on serving: %s", self.serving.router, error
                    )
                self._told = str(error)
            else:
                self._told = None
            changed |= await self._take_in_floor()
            return changed | await self._take_in_templates()

    async def _take_in_champion(self, champion: str | None) -> bool:
        serving, router = self.serving, champion or COLD_START
        if router == serving.router:
            return False
        if serving.tried is not None and serving.tried.router == router:
            lineup = serving.tried.lineup
        else:
            lineup = await asyncio.to_thread(self.versions.load, champion)
        logger.info("router %s replaces %s", router, serving.router)
        self._serving = serving.routed_by(router, lineup)
        return True

    async def _take_in_trial(self, trial: Trial | None) -> bool:
        serving = self.serving
        if trial == serving.trial:
            return False
        tried = serving.tried
        if trial is not None and (tried is None or tried.router != trial.version):
            try:
                lineup = await asyncio.to_thread(self.versions.load, trial.version)
            except ArtifactError as error:
                if trial != self._failed_trial:
                    logger.error("%s cannot be tried, %s serves alone: %s", trial.version, serving.router, error)
                self._failed_trial = trial
                self._serving = serving.trying(None, None)
                return serving.trial is not None
            tried = serving.routed_by(trial.version, lineup)
        self._serving = serving.trying(trial, tried)
        logger.info("on trial beside %s: %s", serving.router, trial)
        return True

    async def _take_in_floor(self) -> bool:
        try:
            floor = await asyncio.to_thread(read_floor, self.data_dir)
        except FloorUnreadable as error:
            if str(error) != self._told_of_floor:
                logger.error("%s; the last floor is kept", error)
            self._told_of_floor = str(error)
            return False
        self._told_of_floor = None
        changed, self._floor = floor != self._floor, floor
        return changed

    async def _take_in_templates(self) -> bool:
        live = self._live_templates
        if live is None:
            return False
        try:
            await asyncio.to_thread(live.refresh)
        except TemplateStoreError as error:
            if str(error) != self._told_of_templates:
                logger.error("the templates cannot be read, the old ones go on serving: %s", error)
            self._told_of_templates = str(error)
            return False
        self._told_of_templates = None
        if live.current is self.serving.templates:
            return False
        self._serving = self.serving.with_templates(live.current)
        return True

    async def reindex_templates(self) -> int:
        """Make the index anew from the store's records and serve from it; returns how many templates are in it.

        Raises TemplateStoreError or IndexUnusable, and then the old one goes on serving.
        """
        folder, encoder = self.data_dir / INDEX_FOLDER, self.serving.encoder.hash
        async with self._taking_in:
            old, store = self._live_templates, self._template_store
            if old is None or store is None:
                with await asyncio.to_thread(open_store, self.data_dir, self.config.templates.url) as opened:
                    return await asyncio.to_thread(reindex, opened, encoder, folder)
            count = await asyncio.to_thread(reindex, store, encoder, folder)
            self._live_templates = live = await asyncio.to_thread(LiveIndex, store, encoder, folder)
            self._serving = self.serving.with_templates(live.current)
            await asyncio.to_thread(old.close)
        return count

    async def _count(self) -> None:
        """Set the gauges of the metrics: templates, their index and their builds."""
        store, index, counted = self._template_store, self.serving.templates, self.metrics.thought
        try:
            if store is not None and index is not None and counted.index_version != index.version:
                counted.states = await asyncio.to_thread(store.counts)
                counted.index_version, counted.index_size = index.version, len(index)
            counted.builds = await asyncio.to_thread(self.jobs.counts, BUILD_TEMPLATES)
        except (JobsError, TemplateStoreError) as error:
            logger.error("the metrics of the templates are not up to date: %s", error)

    async def _watch(self) -> None:
        while True:
            await asyncio.sleep(self.config.routers.poll_s)
            await self.take_in()
            await self._count()

    async def _watch_templates(self) -> None:
        while True:
            await asyncio.sleep(REFRESH_S)
            async with self._taking_in:
                await self._take_in_templates()

    async def _watch_jobs(self) -> None:
        """Queue what is due, and start a worker for what waits since before this process, or since one has died."""
        while True:
            try:
                await asyncio.to_thread(self._worth.queue)
                await asyncio.to_thread(self.worker.ensure)
            except JobsError as error:
                logger.error("%s", error)
            await asyncio.sleep(max(self.config.jobs.lease_s / 4, self.config.routers.poll_s))


def _batching(encoder: Encoder) -> BatchingEncoder:
    """Imported only where an encoder is slow enough to need it."""
    from encoders.batching import BatchingEncoder

    return BatchingEncoder(encoder)
