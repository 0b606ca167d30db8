"""What makes two requests the same: a digest over everything that may change the answer, and over whose request it is.

The order of keys is kept inside of fields such as `tools` and `response_format`: a structured answer follows the order
of its schema. Only where it says nothing (the fields of the body, and the messages) are keys sorted.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping
from typing import Any

from registry.config import Config
from service.routing_options import RoutingOptions

DELIVERY = frozenset({"stream", "stream_options"})
"""How the answer is sent."""
BOOKKEEPING = frozenset(
    {"metadata", "prompt_cache_key", "prompt_cache_options", "prompt_cache_retention", "safety_identifier", "store",
     "user"}
)  # fmt: skip
"""What upstreams file a request under. `metadata.workload` routes it, and counts by itself."""
ROUTING = frozenset({"max_cost", "plugins", "routing"})
"""Read into `RoutingOptions`, which counts in their place."""
LEFT_OUT = DELIVERY | BOOKKEEPING | ROUTING
REALS = frozenset({"frequency_penalty", "min_p", "presence_penalty", "repetition_penalty", "temperature", "top_p"})
"""Numbers of which clients write 0 as well as 0.0."""

DECIDING = frozenset({"upstreams", "models", "routes", "templates"})
"""Sections of the config that decide about answers."""


class Ambiguous(ValueError):
    """Two readers of this request may understand it differently, so nobody can tell what it is the same as."""


def read_fields(raw: bytes) -> dict[str, Any]:
    """The fields of a request's body.

    Raises
    ------
    Ambiguous: a key stands twice in one object, or a number is none that all readers agree on.
    """
    try:
        fields = json.loads(raw, object_pairs_hook=_unique, parse_constant=_refused)
    except (ValueError, RecursionError) as error:
        raise Ambiguous(str(error)) from None
    if not isinstance(fields, dict):
        raise Ambiguous("the body is not an object")
    return fields


def fingerprint(
    endpoint: str, fields: Mapping[str, Any], tenant: Iterable[Any], options: RoutingOptions, version: str
) -> bytes:
    """32 bytes, equal for two requests only if one answer fits both.

    Parameters
    ----------
    endpoint: the path, as the same body means different things to different ones.
    fields: of the body, as `read_fields` gives them.
    tenant: who may see the answer, as JSON values.
    options: wishes about routing, of which those count that choose who answers.
    version: of everything on this side that decides about the answer: the config, the router.

    Raises
    ------
    Ambiguous: a number of the body is infinite.
    """
    metadata = fields.get("metadata")
    workload = metadata.get("workload") if isinstance(metadata, dict) else None
    digest = hashlib.sha256()
    _add(digest, _json([endpoint, list(tenant), version, workload, *_wishes(options)]))
    for name in sorted(fields.keys() - LEFT_OUT):
        value = fields[name]
        if name in REALS and isinstance(value, int) and not isinstance(value, bool):
            value = float(value)
        _add(digest, _json(name))
        _add(digest, _json(value, sort=name == "messages"))
    return digest.digest()


def is_repeatable(endpoint: str, fields: Mapping[str, Any]) -> bool:
    """Whether the request asks for the same answer each time: no temperature, or a seed, and no search in the web."""
    if endpoint == "/embeddings":
        return True
    temperature, seed = fields.get("temperature"), fields.get("seed")
    cold = isinstance(temperature, int | float) and not isinstance(temperature, bool) and temperature == 0
    seeded = isinstance(seed, int) and not isinstance(seed, bool)
    return (cold or seeded) and fields.get("web_search_options") is None


def version_of(config: Config) -> str:
    """32 hex digits: replicas whose configs differ share no answers. Secrets are not in it, only their names are."""
    return hashlib.sha256(config.model_dump_json(include=set(DECIDING)).encode()).hexdigest()[:32]


def _wishes(options: RoutingOptions) -> list[Any]:
    models = None if options.models is None else sorted(set(options.models))
    return [options.preference, models, options.exploration, options.max_cost_usd, options.lambda_per_usd,
            options.affinity, options.judge]  # fmt: skip


def _json(value: Any, *, sort: bool = False) -> bytes:
    try:
        return json.dumps(value, sort_keys=sort, allow_nan=False, separators=(",", ":")).encode("ascii")
    except (ValueError, OverflowError, RecursionError) as error:
        raise Ambiguous(str(error)) from None


def _add(digest: Any, part: bytes) -> None:
    """Each part with its length, so that no two lists of parts are the same bytes."""
    digest.update(len(part).to_bytes(8, "big"))
    digest.update(part)


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        raise Ambiguous("a key stands twice in one object")
    return found


def _refused(name: str) -> Any:
    raise Ambiguous(f"{name} is not JSON")
