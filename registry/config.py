"""The config file: its schema. Reading it from YAML, with line numbers in errors, is `registry.config_file`.

Every key here changes behaviour; a key that does nothing is a defect. Secrets are never written in the file: a key
names the environment variable that holds them.
"""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field

from registry.arms import CAPABILITIES, Capability, Way


class Section(BaseModel):
    """A part of the config. Unknown keys are errors."""

    model_config = ConfigDict(extra="forbid", frozen=True)


class ServerConfig(Section):
    host: str = Field("127.0.0.1", description="Address the OpenAI-compatible port listens on.")
    port: int = Field(8400, ge=0, le=65535, description="Port of the OpenAI-compatible API.")
    admin_host: str = Field("127.0.0.1", description="Address the admin port listens on.")
    admin_port: int = Field(8401, ge=0, le=65535, description="Port of the admin API.")
    data_dir: str = Field(
        "tokamak-data",
        description="Folder of log, artifacts and templates; `--data-dir` and `$TOKAMAK_DATA_DIR` win over it.",
    )
    max_body_bytes: int = Field(20_000_000, gt=0, description="Larger request bodies are refused with 413.")
    drain_s: float = Field(30.0, ge=0, description="Longest wait for running requests at shutdown, in seconds.")


class UpstreamConfig(Section):
    base_url: str = Field(pattern=r"^https?://", description="URL before `/chat/completions`, usually ending in `/v1`.")
    api_key_env: str | None = Field(None, description="Environment variable that holds the API key.")
    headers: dict[str, str] = Field({}, description="Headers sent with every call.")
    connect_timeout_s: float = Field(5.0, gt=0, description="Longest wait for a connection.")
    first_byte_timeout_s: float = Field(120.0, gt=0, description="Longest wait for the first byte of an answer.")
    total_timeout_s: float = Field(600.0, gt=0, description="Longest time of one call.")


class PricesConfig(Section):
    prompt_per_1m: float = Field(ge=0, description="USD per million prompt tokens.")
    completion_per_1m: float = Field(ge=0, description="USD per million completion tokens.")
    cached_input_per_1m: float | None = Field(None, ge=0, description="USD per million cached prompt tokens.")
    cache_write_per_1m: float | None = Field(None, ge=0, description="USD per million tokens written to a cache.")


class EndpointConfig(Section):
    upstream: str = Field(description="Name of an entry of `upstreams`.")
    model: str | None = Field(None, description="Name the model has there; the entry's own name if left out.")
    concurrency: int | None = Field(
        None, gt=0, description="Calls that it answers at a time. An arm loses utility smoothly as it fills up."
    )


class ModelConfig(Section):
    endpoints: list[EndpointConfig] = Field(min_length=1, description="Where it runs; tried in this order.")
    ways: list[Way] = Field(["direct"], min_length=1, description="Ways of asking that routing may choose from.")
    prices: PricesConfig | None = Field(None, description="Without prices no cost is computed for this model.")
    context_window: int | None = Field(None, gt=0, description="Tokens of prompt and answer together.")
    capabilities: list[Capability] = Field(
        [c for c in CAPABILITIES if c != "vision"], description="What the model can do; a hard filter in routing."
    )
    quality_prior: float | None = Field(
        None,
        ge=0,
        le=1,
        description="Expected quality before anything was learned; guessed from the price if left out.",
    )


WhenSpent = Literal["refuse", "cheapest"]
SPENT = "Once the day's budget is used up: `refuse` with 429, or the `cheapest` eligible arm (which goes on spending)."


class CascadeConfig(Section):
    signal: Literal["logprob", "verifier"] = Field(
        description="What judges the first answer: the mean log probability of its tokens, or a check of its text."
    )
    threshold: float = Field(-0.5, le=0, description="`logprob`: a lower mean asks the next arm.")
    pattern: str | None = Field(
        None,
        description="`verifier`: expression that an answer must match; without one it must be the JSON that was asked "
        "for, and other requests have no cascade.",
    )
    first: list[str] | None = Field(
        None, min_length=1, description="Globs over the arms that may answer first; the cheapest one if left out."
    )


class RouteConfig(Section):
    models: list[str] = Field(["*"], min_length=1, description="Globs over models and arms that the route may choose.")
    preference: float = Field(
        0.8, ge=0, le=1, description="Weight of quality against cost: 1 best, 0.5 balanced, 0.2 cheap, 0 cheapest."
    )
    exploration: float = Field(
        0.0, ge=0, le=1, description="Share of requests answered by an arm drawn uniformly from the eligible ones."
    )
    exploration_floor: float = Field(
        0.0, ge=0, le=1, description="Least probability of every eligible arm; raises `exploration` where it must."
    )
    lambda_per_usd: float | None = Field(
        None, ge=0, description="Quality that one USD is worth; weighs cost in USD, in place of `preference`."
    )
    latency_weight: float = Field(0.0, ge=0, description="Utility that one second of expected latency takes away.")
    load_weight: float = Field(
        0.2, ge=0, description="Utility that a full endpoint takes away; needs `concurrency` of the endpoints."
    )
    affinity: bool = Field(
        True, description="Whether a conversation keeps its arm unless another gains more than a cold prefix costs."
    )
    usd_per_day: float | None = Field(None, gt=0, description="Budget of the route, paced over the day (UTC).")
    when_spent: WhenSpent = Field("refuse", description=SPENT)
    cascade: CascadeConfig | None = Field(
        None, description="A cheap arm answers first, and a better one only if that answer is not good enough."
    )


class AutomaticConfig(Section):
    """What the worker may do by itself. Every step is written to the audit log as `automatic`."""

    enabled: bool = Field(False, description="Whether routers are retrained and rolled out without an operator.")
    every_outcomes: int = Field(500, ge=50, description="New scored answers after which a training is queued.")
    shadow_hours: float = Field(1.0, ge=0, description="Shortest time in shadow.")
    canary_share: float = Field(0.05, gt=0, le=0.5, description="Share of the conversations that a canary gets.")
    canary_hours: float = Field(2.0, ge=0, description="Shortest time in canary before it may be promoted.")
    max_canary_hours: float = Field(72.0, gt=0, description="Without a verdict by then the canary is rolled back.")


class PairConfig(Section):
    strong: str = Field(description="Model or arm that answers where it is likely enough to be better.")
    weak: str = Field(description="Model or arm that answers otherwise.")


class RouterConfig(Section):
    encoder: str = Field("static", description="Encoder of queries: `static`, `onnx` or `st:<model>`.")
    poll_s: float = Field(1.0, gt=0, description="How often the gateway looks for a newly deployed version.")
    pair: PairConfig | None = Field(
        None, description="The two arms of `router-<name>-<threshold>`; the dearest and the cheapest if left out."
    )
    automatic: AutomaticConfig = Field(AutomaticConfig(), description="Retraining and rollout within these bounds.")


class JobsConfig(Section):
    worker: Literal["auto", "external"] = Field(
        "auto",
        description="`auto`: the service starts `tokamak worker` beside itself when a job waits. `external`: you do.",
    )
    lease_s: float = Field(30.0, gt=0, description="A worker that is silent for so long has lost its job to the next.")


class TemplatesConfig(Section):
    enabled: bool = Field(True, description="Whether the `thought` way of asking may be used.")
    url: str | None = Field(
        None,
        pattern=r"^rediss?://",
        description="`redis://HOST:PORT/DB` of templates that replicas share; a file in the data folder if left out.",
    )
    retrieve: int = Field(20, ge=1, le=100, description="So many of the nearest are ranked again by worth.")
    top_k: int = Field(3, ge=1, le=20, description="At most this many templates in a prompt.")
    min_similarity: float | None = Field(
        None,
        ge=-1,
        le=1,
        description="Least cosine similarity of a template's query; the calibrated one, or else 0.7, if left out.",
    )
    max_tokens: int = Field(600, gt=0, description="Budget of the block of templates, in tokens (estimated).")
    control_share: float = Field(
        0.05, ge=0, le=0.5, description="Share of the requests with templates that go without them, to measure them."
    )
    worth_every_s: float | None = Field(
        3600.0, gt=0, description="How often a job measures what templates are worth; `null`: only when asked to."
    )
    control_pinned: bool = Field(
        False, description="Whether requests that name a `thought` arm themselves have a control share too."
    )
    approve: Literal["auto", "manual"] = Field(
        "auto", description="Whether what is built is used at once, or is a `candidate` until an operator approves it."
    )
    shared_workloads: list[str] = Field(
        [], description="Globs over `metadata.workload`: what is built from these is shown to all keys."
    )


class LogConfig(Section):
    url: str | None = Field(
        None, description="`sqlite:///FILE` or `redis://HOST:PORT/DB`; `traffic.db` in the data folder if left out."
    )
    content: bool = Field(True, description="False keeps every prompt and answer out of the log.")
    max_response_bytes: int = Field(1_000_000, gt=0, description="Longer answers are logged without their text.")


class KeyConfig(Section):
    id: str = Field(description="Name of the key in the log and in metrics.")
    key_env: str | None = Field(None, description="Environment variable that holds the key.")
    sha256: str | None = Field(None, pattern=r"^[0-9a-f]{64}$", description="SHA-256 of the key, in hex.")
    models: list[str] = Field(["*"], min_length=1, description="Globs over the models that this key may use.")
    requests_per_minute: int | None = Field(None, gt=0, description="More are refused with 429.")
    tokens_per_minute: int | None = Field(
        None, gt=0, description="Tokens of prompts and answers together; more are refused with 429."
    )
    max_concurrent: int | None = Field(None, gt=0, description="More at the same time are refused with 429.")
    usd_per_day: float | None = Field(None, gt=0, description="Budget of the key, paced over the day (UTC).")
    when_spent: WhenSpent = Field("refuse", description=SPENT)


class LimitsConfig(Section):
    keys: list[KeyConfig] = Field(
        [], description="Static API keys. Without any, and with none created, the endpoint is open."
    )
    require_key: bool = Field(False, description="Whether the endpoint is closed even before there is any key.")
    traffic_shape: list[Annotated[float, Field(ge=0)]] | None = Field(
        None, min_length=24, max_length=24,
        description="Traffic of the 24 hours of a day (UTC), by which budgets are paced; learned if left out.",
    )  # fmt: skip
    conversations: int = Field(50_000, gt=0, description="How many conversations' arms are remembered.")
    max_concurrent: int = Field(2048, gt=0, description="More requests at the same time are refused with 503.")
    retries: int = Field(
        1, ge=0, le=10, description="Further calls of the same endpoint after a failure that may pass."
    )
    fallbacks: int = Field(2, ge=0, le=10, description="Further arms along the ranking after an arm has failed.")
    breaker_failures: int = Field(5, gt=0, description="Failures in a row that take an endpoint out of routing.")
    breaker_cooldown_s: float = Field(
        10.0, gt=0, description="How long it stays out before one request tries it again."
    )


class ExactCacheConfig(Section):
    ttl_s: float = Field(3600.0, gt=0, description="How long an answer is kept; a request may ask for a shorter time.")
    max_bytes: int = Field(
        100_000_000, gt=0, description="Memory for answers in this process; the least recently used go first."
    )
    url: str | None = Field(
        None,
        pattern=r"^rediss?://",
        description="`redis://HOST:PORT/DB` of answers that replicas share, in place of this process' memory.",
    )
    per_user: bool = Field(
        True, description="Whether also the `user` and the `safety_identifier` of a request must be the same."
    )


class CacheConfig(Section):
    exact: ExactCacheConfig | None = Field(
        None, description="Answers repeated requests of the same key; off if left out, `{}` is on."
    )


class Config(Section):
    """The whole config file."""

    version: Literal[1] = Field(description="Version of this layout.")
    server: ServerConfig = Field(ServerConfig(), description="Where the service listens and keeps its data.")
    upstreams: dict[str, UpstreamConfig] = Field(min_length=1, description="Servers that speak the OpenAI API.")
    models: dict[str, ModelConfig] = Field(min_length=1, description="What clients and routers name.")
    routers: RouterConfig = Field(RouterConfig(), description="How queries are read and predictions are made.")
    routes: dict[Annotated[str, Field(pattern=r"^[a-z][a-z0-9_-]*$")], RouteConfig] = Field(
        {"auto": RouteConfig()}, description="Virtual models; `auto` is always there."
    )
    templates: TemplatesConfig = Field(TemplatesConfig(), description="Thought templates in prompts.")
    log: LogConfig = Field(LogConfig(), description="The traffic log.")
    cache: CacheConfig = Field(CacheConfig(), description="Answers that are given again.")
    jobs: JobsConfig = Field(JobsConfig(), description="Who runs what is queued, such as the training of a router.")
    limits: LimitsConfig = Field(LimitsConfig(), description="Keys, limits, retries and fallbacks.")
