"""Do the keys about routing that exclude or do not fit each other get an error with their line?"""

from __future__ import annotations

import pytest

from registry.config_file import ConfigError, parse_config

GROUND = """version: 1
upstreams: {local: {base_url: "http://127.0.0.1:8000/v1"}}
models:
  small: {endpoints: [{upstream: local, concurrency: 4}]}
  large: {endpoints: [{upstream: local}]}
"""


@pytest.mark.parametrize(
    ("part", "message"),
    [
        ("routes: {auto: {preference: 0.5, lambda_per_usd: 3}}", "`preference` or `lambda_per_usd`, not both"),
        ("routes: {auto: {lamda_per_usd: 3}}", "did you mean `lambda_per_usd`"),
        ("routes: {auto: {when_spend: refuse}}", "did you mean `when_spent`"),
        ("routes: {auto: {usd_per_day: 0}}", "greater than 0"),
        ("routes: {auto: {when_spent: stop}}", "'refuse' or 'cheapest'"),
        ("routes: {auto: {cascade: {}}}", "`signal` is missing"),
        ("routes: {auto: {cascade: {signal: luck}}}", "'logprob' or 'verifier'"),
        ("routes: {auto: {cascade: {signal: logprob, pattern: x}}}", "`verifier` only"),
        ("routes: {auto: {cascade: {signal: verifier, threshold: -1}}}", "`logprob` only"),
        ("routes: {auto: {cascade: {signal: verifier, pattern: '('}}}", "no regular expression"),
        (
            "routes: {auto: {models: [large], cascade: {signal: logprob, first: [small]}}}",
            "no arm of the route matches",
        ),
        ("routers: {pair: {strong: huge, weak: small}}", "no arm `huge`; the arms are small, large"),
        ("routers: {pair: {strong: small, weak: small}}", "must differ"),
        ("routers: {pair: {strong: small}}", "`weak` is missing"),
        ("limits: {traffic_shape: [1, 2, 3]}", "24"),
        (f"limits: {{traffic_shape: [{', '.join(['0'] * 24)}]}}", "at least one hour above 0"),
        ("limits: {conversations: 0}", "greater than 0"),
        (f"limits: {{traffic_shape: [{', '.join(['1'] * 24)}]}}", "paces budgets, and there is none"),
        ("routes: {auto: {when_spent: cheapest}}", "read with `usd_per_day` only"),
        ("limits: {keys: [{id: a, key_env: KEY, when_spent: cheapest}]}", "read with `usd_per_day` only"),
        ("routes: {auto: {usd_per_day: 5}}", "none of the models has `prices`"),
        ("limits: {keys: [{id: a, key_env: KEY, usd_per_day: 5}]}", "none of the models has `prices`"),
        ("routers: {automatic: {canary_hours: 3, max_canary_hours: 2}}", "(2) must be at least `canary_hours` (3)"),
    ],
)
def test_a_mistake_names_its_line_and_what_to_do(part: str, message: str) -> None:
    with pytest.raises(ConfigError) as caught:
        parse_config(GROUND + part + "\n", "tokamak.yaml", {"KEY": "secret"})
    assert message in str(caught.value)
    assert str(caught.value).startswith("tokamak.yaml:6:")


def test_what_fits_together_is_taken() -> None:
    config = parse_config(
        GROUND.replace("concurrency: 4}]", "concurrency: 4}], prices: {prompt_per_1m: 1, completion_per_1m: 1}")
        + """routes:
  auto: {lambda_per_usd: 3, usd_per_day: 5, cascade: {signal: logprob, threshold: -0.3, first: [small]}}
  strict: {preference: 0.9, affinity: false, exploration_floor: 0.01, latency_weight: 0.1, load_weight: 0}
routers: {pair: {strong: large, weak: small}}
""",
        "tokamak.yaml",
        {},
    )
    assert config.routes["auto"].lambda_per_usd == 3
    assert config.models["small"].endpoints[0].concurrency == 4
