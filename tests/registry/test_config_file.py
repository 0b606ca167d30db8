"""The config file: what is read from it, and what its errors say."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from registry.arms import Prices
from registry.config import Config
from registry.config_file import ConfigError, build_pool, config_json_schema, load_config, parse_config

GOOD = """\
version: 1
upstreams:
  local: {base_url: "http://127.0.0.1:8000/v1/"}
  cloud:
    base_url: https://api.example.com/v1
    api_key_env: CLOUD_KEY
    headers: {x-team: "team ${TEAM}", x-price: "$${not a variable}"}
models:
  small:
    endpoints: [{upstream: local, model: llama}]
    ways: [direct, think, direct]
    context_window: 4096
  large:
    endpoints: [{upstream: cloud}, {upstream: local}]
    prices: {prompt_per_1m: 2.5, completion_per_1m: 10}
"""
ENVIRON = {"CLOUD_KEY": "sk-secret", "TEAM": "blue"}


def problems(text: str, environ: dict[str, str] | None = None) -> list[str]:
    with pytest.raises(ConfigError) as caught:
        parse_config(text, "c.yaml", ENVIRON if environ is None else environ)
    return str(caught.value).splitlines()


def test_a_config_becomes_a_pool() -> None:
    pool = build_pool(parse_config(GOOD, "c.yaml", ENVIRON), ENVIRON)
    assert list(pool.arms) == ["small", "small#think", "large"]
    small, large = pool.models["small"], pool.models["large"]
    assert [endpoint.id for endpoint in small.endpoints] == ["local/llama"]
    assert [endpoint.id for endpoint in large.endpoints] == ["cloud/large", "local/large"]
    assert small.endpoints[0].upstream.base_url == "http://127.0.0.1:8000/v1"
    assert small.endpoints[0].upstream.api_key is None
    assert small.context_window == 4096
    assert small.prices == Prices()
    assert large.prices == Prices(2.5, 10)
    assert "vision" not in large.capabilities
    cloud = large.endpoints[0].upstream
    assert cloud.api_key == "sk-secret"
    assert dict(cloud.headers) == {"x-team": "team blue", "x-price": "${not a variable}"}


def test_secrets_do_not_enter_the_config_nor_a_repr() -> None:
    config = parse_config(GOOD, "c.yaml", ENVIRON)
    assert "blue" not in repr(config)
    assert "sk-secret" not in repr(config) + repr(build_pool(config, ENVIRON).models)


def test_references_in_urls_are_filled_in() -> None:
    config = parse_config(GOOD.replace("127.0.0.1:8000", "${TEAM}:9"), "c.yaml", ENVIRON)
    assert config.upstreams["local"].base_url == "http://blue:9/v1/"


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (GOOD + "limit: {}\n", "c.yaml:16: unknown key `limit`; did you mean `limits`?"),
        (GOOD + "server:\n  prot: 1\n", "c.yaml:17: unknown key `prot` in `server`; did you mean `port`?"),
        (GOOD + "server:\n  zzz: 1\n", "expected one of host, port, admin_host"),
        (GOOD.replace("api_key_env", "api_key"), "c.yaml:6: unknown key `api_key` in `upstreams.cloud`; did you mean"),
        (GOOD.replace("model: llama", "modle: x"), "c.yaml:10: unknown key `modle` in `models.small.endpoints[0]`"),
        (GOOD.replace("completion_per_1m", "completion"), "c.yaml:15: `models.large.prices`: the key `completion_per_"),
        (GOOD.replace("4096", "many"), "c.yaml:12: `models.small.context_window`: input should be a valid integer"),
        (GOOD.replace("4096", "{}"), "got a mapping"),
        (GOOD.replace("4096", "-1"), "greater than 0, got -1"),
        (GOOD.replace("think", "thnik"), "c.yaml:11: `models.small.ways[1]`: input should be 'direct', 'think' or"),
        (GOOD.replace("upstream: cloud", "upstream: clowd"), "no upstream `clowd`; did you mean `cloud`?"),
        (GOOD.replace("upstream: cloud", "upstream: zz"), "no upstream `zz`; expected one of local, cloud"),
        (GOOD.replace("  large:", "  small:"), "c.yaml:13: duplicate key `small`: it is already set on line 9"),
        (GOOD.replace("  large:", "  auto:"), "c.yaml:13: model `auto`:"),
        (GOOD.replace("  large:", '  "a#think":'), "c.yaml:13: model `a#think`:"),
        (GOOD.replace("version: 1", "version: 2"), "c.yaml:1: `version`: input should be 1, got 2"),
        (GOOD.replace("version: 1\n", ""), "the file: the key `version` is missing"),
        (GOOD + "routes:\n  code: {models: [gpt-*]}\n", "c.yaml:17: route `code`: no chat model or arm matches gpt-*"),
        (GOOD + "routes:\n  Code: {}\n", "c.yaml:17: `routes.Code`: string should match pattern"),
        (GOOD + "log: {url: mysql://x}\n", "c.yaml:16: `log.url`: expected one of sqlite:///"),
        (GOOD + "limits:\n  keys:\n  - {id: a}\n", "c.yaml:18: key `a`: set exactly one of `key_env` and `sha256`"),
        (GOOD + "limits:\n  keys:\n  - {id: a, key_env: NIX}\n", "c.yaml:18: `limits.keys[0].key_env`: environment va"),
        ("version: 1\nmodels: [\n", "not valid YAML"),
        ("- a\n", "expected a mapping"),
        ("", "expected a mapping"),
        ("version: &a [*a]\n", "c.yaml:1: an alias refers to the part of the file that holds it"),
        ("version: !!python/object:os.system {}\n", "not valid YAML"),
        ("{version: 1, [a]: 2}\n", "not valid YAML"),
        ("version: 1\nmodels: 2001-99-99\n", "not valid YAML"),
        ("version: 1\nmodels: \a\n", "c.yaml:2: not valid YAML: special characters are not allowed (#x0007)"),
        ("[" * 5000, "not valid YAML"),
    ],
)  # fmt: skip
def test_errors_name_the_line_and_the_remedy(text: str, expected: str) -> None:
    assert expected in "\n".join(problems(text))


def test_variables_that_are_not_set_are_named() -> None:
    assert problems(GOOD, {"TEAM": "x"}) == [
        "c.yaml:6: `upstreams.cloud.api_key_env`: environment variable `CLOUD_KEY` is not set (or empty)"
    ]
    assert problems(GOOD, {"CLOUD_KEY": "x"}) == [
        "c.yaml:7: `upstreams.cloud.headers.x-team`: environment variable `TEAM` is not set"
    ]


@pytest.mark.parametrize(
    "text",
    [
        GOOD.replace("CLOUD_KEY", "sk-oops-i-pasted"),
        GOOD + "limits: {keys: [{id: a, sha256: sk-oops-i-pasted}]}\n",
        GOOD.replace("api_key_env: CLOUD_KEY", "api_key: sk-oops-i-pasted"),
        GOOD + "log: {url: 'mysql://u:sk-oops-i-pasted@h'}\n",
        GOOD.replace("https://api.example.com", "u:sk-oops-i-pasted@h"),
    ],
)
def test_a_pasted_secret_is_never_repeated(text: str) -> None:
    assert "oops" not in "\n".join(problems(text))


def test_all_problems_are_told_at_once_in_the_order_of_lines() -> None:
    told = problems(GOOD.replace("4096", "x").replace("2.5", "y") + "extra: 1\n")
    assert [line.split(":")[1] for line in told] == ["12", "15", "16"]


def test_merge_keys_work_and_keep_their_lines() -> None:
    text = GOOD + "  third:\n    <<: &base {endpoints: [{upstream: cloud}], ways: [direkt]}\n  fourth:\n    <<: *base\n"
    assert [line.split(":")[1] for line in problems(text)] == ["17", "17"]
    config = parse_config(text.replace("direkt", "think"), "c.yaml", ENVIRON)
    assert config.models["fourth"].endpoints[0].upstream == "cloud"


def test_files_that_cannot_be_read(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="cannot be read: No such file"):
        load_config(tmp_path / "absent.yaml")
    (tmp_path / "c.yaml").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(ConfigError, match="not UTF-8"):
        load_config(tmp_path / "c.yaml")
    (tmp_path / "c.yaml").write_text(GOOD)
    assert load_config(tmp_path / "c.yaml", ENVIRON).version == 1


def test_the_json_schema_describes_every_key() -> None:
    schema = config_json_schema()
    assert json.loads(json.dumps(schema)) == schema
    assert set(schema["properties"]) == set(Config.model_fields)
    sections = schema["$defs"].values()
    assert all("description" in field for section in sections for field in section["properties"].values())


@given(st.text(max_size=200))
def test_any_text_gives_a_config_or_a_config_error(text: str) -> None:
    with pytest.raises(ConfigError):
        parse_config(text, "c.yaml", {})


@given(st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(list(Config.model_fields)), inner),
    max_leaves=12,
))  # fmt: skip
def test_any_tree_gives_a_config_or_a_config_error(tree: object) -> None:
    with pytest.raises(ConfigError):
        parse_config(json.dumps(tree), "c.yaml", {})
