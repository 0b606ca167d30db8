"""Reads the config file: YAML to `Config`, with file, line and the nearest valid name in every error.

`${NAME}` in a value stands for the environment variable NAME. Headers often hold secrets, so they stay as written in
the `Config` and are filled in by `build_pool` only; `$${` is a literal `${`.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from difflib import get_close_matches
from pathlib import Path
from types import UnionType
from typing import Annotated, Any, Union, get_args, get_origin

from pydantic import BaseModel, ValidationError
from pydantic_core import ErrorDetails

from registry.api_keys import CREATED_ID
from registry.arms import Endpoint, Model, Pool, Prices, Upstream
from registry.config import Config, ModelConfig, UpstreamConfig
from registry.routing_config import routing_problems
from registry.yaml_lines import Located, YamlProblem, read_yaml
from registry.yaml_lines import Path as KeyPath

_REFERENCE = re.compile(r"\$\$\{|\$\{([^}]*)\}")
_VARIABLE_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
_LOG_URLS = ("sqlite:///", "redis://", "rediss://")
# Where people paste the secret itself by mistake: what stands there is never repeated in a message.
_SECRET_KEYS = frozenset({"sha256", "key_env", "api_key_env", "headers", "api_key", "key"})


@dataclass(frozen=True, slots=True)
class Problem:
    """One defect of a config file: where (line from 1) and what to do about it."""

    line: int
    message: str


class ConfigError(ValueError):
    """A config file cannot be used. The message has one `file:line: what` for each problem."""

    def __init__(self, source: str, problems: Iterable[Problem]) -> None:
        self.source = source
        self.problems = tuple(sorted(problems, key=lambda problem: problem.line))
        super().__init__("\n".join(f"{source}:{problem.line}: {problem.message}" for problem in self.problems))


def load_config(path: str | Path, environ: Mapping[str, str] | None = None) -> Config:
    """Read and check a config file. Raises ConfigError; `environ` is the process's own if left out."""
    try:
        text = Path(path).read_text(encoding="utf-8")
    except OSError as error:
        raise ConfigError(str(path), [Problem(1, f"cannot be read: {error.strerror}")]) from error
    except UnicodeDecodeError as error:
        raise ConfigError(str(path), [Problem(1, "is not UTF-8 text")]) from error
    return parse_config(text, str(path), environ)


def parse_config(text: str, source: str, environ: Mapping[str, str] | None = None) -> Config:
    """Check the text of a config file; `source` names it in errors. Raises ConfigError."""
    environ = os.environ if environ is None else environ
    try:
        document = read_yaml(text)
    except YamlProblem as error:
        raise ConfigError(source, [Problem(error.line, str(error))]) from error
    if not isinstance(document.value, dict):
        raise ConfigError(source, [Problem(1, "expected a mapping that starts with `version: 1`")])
    problems: list[Problem] = []
    value = _expanded(document.value, (), document, environ, problems)
    if problems:
        raise ConfigError(source, problems)
    try:
        config = Config.model_validate(value)
    except ValidationError as error:
        raise ConfigError(source, [_problem(details, document) for details in error.errors()]) from error
    problems = [Problem(document.line(path), message) for path, message in _contradictions(config, environ)]
    if problems:
        raise ConfigError(source, problems)
    return config


def config_json_schema() -> dict[str, Any]:
    """The JSON Schema (2020-12) of the config file, for editors."""
    return {"$schema": "https://json-schema.org/draft/2020-12/schema", **Config.model_json_schema()}


def build_pool(config: Config, environ: Mapping[str, str] | None = None) -> Pool:
    """The models and arms of a config, with keys and headers filled in from the environment.

    Raises KeyError if a variable is not set, which `load_config` rules out.
    """
    environ = os.environ if environ is None else environ
    upstreams = {name: _upstream(name, entry, environ) for name, entry in config.upstreams.items()}
    return Pool(tuple(_model(name, entry, upstreams) for name, entry in config.models.items()))


def _upstream(name: str, entry: UpstreamConfig, environ: Mapping[str, str]) -> Upstream:
    return Upstream(
        name=name,
        base_url=entry.base_url.rstrip("/"),
        api_key=environ[entry.api_key_env] if entry.api_key_env else None,
        headers=tuple((key, _expand(value, environ)) for key, value in entry.headers.items()),
        connect_timeout_s=entry.connect_timeout_s,
        first_byte_timeout_s=entry.first_byte_timeout_s,
        total_timeout_s=entry.total_timeout_s,
    )


def _model(name: str, entry: ModelConfig, upstreams: Mapping[str, Upstream]) -> Model:
    return Model(
        name=name,
        endpoints=tuple(Endpoint(upstreams[e.upstream], e.model or name, e.concurrency) for e in entry.endpoints),
        ways=tuple(dict.fromkeys(entry.ways)),
        prices=Prices(**entry.prices.model_dump()) if entry.prices else Prices(),
        context_window=entry.context_window,
        capabilities=frozenset(entry.capabilities),
        quality_prior=entry.quality_prior,
    )


def _expand(text: str, environ: Mapping[str, str]) -> str:
    """Replace `${NAME}`; raises KeyError if NAME is not set."""
    return _REFERENCE.sub(lambda match: "${" if match[0] == "$${" else environ[match[1]], text)


def _expanded(
    value: Any, path: KeyPath, document: Located, environ: Mapping[str, str], problems: list[Problem]
) -> Any:  # fmt: skip
    """The value with its references replaced (headers: only checked); what is missing is added to `problems`."""
    if isinstance(value, dict):
        return {key: _expanded(item, (*path, key), document, environ, problems) for key, item in value.items()}
    if isinstance(value, list):
        return [_expanded(item, (*path, i), document, environ, problems) for i, item in enumerate(value)]
    if not isinstance(value, str) or "${" not in value:
        return value
    missing = sorted({match[1] for match in _REFERENCE.finditer(value) if match[1] is not None} - environ.keys())
    problems += [
        Problem(document.line(path), f"{_where(path)}: environment variable `{name}` is not set") for name in missing
    ]
    return value if missing or "headers" in path else _expand(value, environ)


def _contradictions(config: Config, environ: Mapping[str, str]) -> Iterator[tuple[KeyPath, str]]:
    """What the schema cannot say: names that refer to nothing, variables that are not set, names that clash."""
    yield from _upstream_problems(config, environ)
    yield from _model_problems(config)
    yield from _key_problems(config, environ)
    yield from routing_problems(config)
    if config.log.url is not None and not config.log.url.startswith(_LOG_URLS):
        yield ("log", "url"), f"`log.url`: expected one of {', '.join(_LOG_URLS)}"
    exact = config.cache.exact
    if exact is not None and exact.url is not None and "max_bytes" in exact.model_fields_set:
        yield (
            ("cache", "exact", "max_bytes"),
            "`cache.exact.max_bytes` bounds the memory of this process, but with `url` the answers are in Redis; leave "
            "it out and set `maxmemory` there",
        )


def _upstream_problems(config: Config, environ: Mapping[str, str]) -> Iterator[tuple[KeyPath, str]]:
    for name, upstream in config.upstreams.items():
        yield from _variable_problem(("upstreams", name, "api_key_env"), upstream.api_key_env, environ)
    for name, model in config.models.items():
        for index, endpoint in enumerate(model.endpoints):
            if endpoint.upstream not in config.upstreams:
                path = ("models", name, "endpoints", index, "upstream")
                yield (
                    path,
                    f"`{_dotted(path)}`: no upstream `{endpoint.upstream}`"
                    + _hint(endpoint.upstream, config.upstreams),
                )


def _model_problems(config: Config) -> Iterator[tuple[KeyPath, str]]:
    for name in config.models:
        if "#" in name or name.split(":")[0] in (*config.routes, "auto"):
            yield ("models", name), f"model `{name}`: `#` and the names of routes have another meaning; rename it"
    models = {name: Model(name, (), tuple(m.ways), capabilities=frozenset(m.capabilities))
              for name, m in config.models.items()}  # fmt: skip
    pool = Pool(tuple(models.values()))
    for name, route in config.routes.items():
        if not pool.matching(tuple(route.models)):
            yield (
                ("routes", name, "models") if "models" in route.model_fields_set else ("routes", name),
                f"route `{name}`: no chat model or arm matches {', '.join(route.models)}; the arms are "
                + (", ".join(pool.arms) or "none"),
            )


def _key_problems(config: Config, environ: Mapping[str, str]) -> Iterator[tuple[KeyPath, str]]:
    seen: set[str] = set()
    for index, key in enumerate(config.limits.keys):
        path: KeyPath = ("limits", "keys", index)
        if (key.key_env is None) == (key.sha256 is None):
            yield path, f"key `{key.id}`: set exactly one of `key_env` and `sha256`"
        if key.id in seen:
            yield path, f"key `{key.id}`: another key has this id"
        if re.fullmatch(CREATED_ID, key.id):
            yield path, f"key `{key.id}`: such ids are those of created keys; take another one"
        seen.add(key.id)
        yield from _variable_problem((*path, "key_env"), key.key_env, environ)


def _variable_problem(
    path: KeyPath, name: str | None, environ: Mapping[str, str]
) -> Iterator[tuple[KeyPath, str]]:  # fmt: skip
    if name is None:
        return
    if not _VARIABLE_NAME.fullmatch(name):
        yield path, f"`{_dotted(path)}`: expected the name of an environment variable, never the secret itself"
    elif not environ.get(name):
        yield path, f"`{_dotted(path)}`: environment variable `{name}` is not set (or empty)"


def _problem(details: ErrorDetails, document: Located) -> Problem:
    path: KeyPath = tuple(part for part in details["loc"] if part != "[key]")
    line = document.line(path)
    if details["type"] == "extra_forbidden":
        section, key = path[:-1], str(path[-1])
        within = f" in `{_dotted(section)}`" if section else ""
        return Problem(line, f"unknown key `{key}`{within}" + _hint(key, _keys_of(section)))
    if details["type"] == "missing":
        return Problem(line, f"{_where(path[:-1])}: the key `{path[-1]}` is missing")
    shown = _shown(path, details["input"])
    message = details["msg"]
    return Problem(line, f"{_where(path)}: {message[:1].lower()}{message[1:]}{shown}")


def _shown(path: KeyPath, value: object) -> str:
    if isinstance(value, dict | list):
        return f", got a {'mapping' if isinstance(value, dict) else 'list'}"
    if value is None:
        return ", got nothing"
    if _SECRET_KEYS.intersection(part for part in path if isinstance(part, str)):
        return ""
    # What came out of an environment variable may be a secret as well, but such values are strings in URLs only.
    return f", got {value!r:.60}" if not (isinstance(value, str) and "@" in value) else ""


def _keys_of(path: KeyPath) -> list[str]:
    """The valid keys of the section at a path, by walking the annotations of the schema."""
    kind: Any = Config
    for part in path:
        if isinstance(kind, type) and issubclass(kind, BaseModel):
            kind = kind.model_fields[str(part)].annotation
        else:
            kind = get_args(kind)[-1]
        while get_origin(kind) in (Annotated, Union, UnionType):
            kind = next(choice for choice in get_args(kind) if choice is not type(None))
    return list(kind.model_fields) if isinstance(kind, type) and issubclass(kind, BaseModel) else []


def _hint(name: str, valid: Iterable[str]) -> str:
    names = list(valid)
    near = get_close_matches(name, names, n=1, cutoff=0.5)
    return f"; did you mean `{near[0]}`?" if near else f"; expected one of {', '.join(names)}"


def _dotted(path: KeyPath) -> str:
    return "".join(f"[{part}]" if isinstance(part, int) else f".{part}" for part in path).lstrip(".")


def _where(path: KeyPath) -> str:
    return f"`{_dotted(path)}`" if path else "the file"
