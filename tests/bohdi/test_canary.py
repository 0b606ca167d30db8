"""Users' words steer the tree and get nowhere: not into a prompt, a name, the log, a picture or a training set.

Real traffic through a real gateway holds canaries; the tree is steered by it, grown by real HTTP calls, and exported.
Then every byte that came of it is searched.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from offline.bohdi import tree_work
from offline.bohdi.plot import plot
from offline.bohdi.settings import Settings
from offline.bohdi.tree_work import Place, draw_set, grow, steer
from registry.bohdi_status import read_status
from registry.bohdi_trees import SHARED
from tests.bohdi.speakers import ENCODER, Speaker, pool_of
from tests.gateway.live import fleet, until
from tests.upstream import ScriptedUpstream

CANARIES = ("zxqvcanary", "Wilhelmina Tobermory", "tobermory@example.org", "+44 7700 900123", "机密代号海鸥")
TOPICS = (
    "How do I solve an equation in algebra with {}?",
    "Please translate this mathematics proof for {} into geometry",
    "What does {} pay for a hotel by the sea?",
)
CAST = {"pupil": Speaker(skill=0.3), "alpha": Speaker(open_questions=True), "beta": Speaker(), "judge": Speaker()}


@pytest.fixture
def upstream() -> Iterator[ScriptedUpstream]:
    with ScriptedUpstream() as server:
        for name, speaker in CAST.items():
            server.for_model(name, speaker)
        yield server


def served(folder: Path) -> str:
    """Traffic that is full of canaries, in a log; its URL."""
    with fleet(folder / "service", {"solo": {}}) as live:
        for number in range(18):
            text = TOPICS[number % 3].format(CANARIES[number % 5])
            live.chat("auto", messages=[{"role": "user", "content": text}], user=CANARIES[1])
        until(lambda: len(live.gateway.interactions()) == 18, "the traffic was not logged")
        raw = b"".join(record.request or b"" for record in live.gateway.interactions())
        assert CANARIES[0].encode() in raw, "the log itself does hold them"
        return live.gateway.log_url


def test_no_word_of_a_user_gets_anywhere(
    tmp_path: Path, upstream: ScriptedUpstream, monkeypatch: pytest.MonkeyPatch
) -> None:
    url = served(tmp_path)
    monkeypatch.setattr(tree_work, "SETTLED_S", 0.0)
    place = Place(tmp_path / "trees", SHARED)
    place.keep_settings(
        Settings(target="pupil", sources=("alpha", "beta"), judges=("judge",), paths_per_round=6, traffic=1.0)
    )
    pool = pool_of(upstream.url, tuple(CAST))
    list(grow(place, pool, ENCODER, 1))
    asked = len(upstream.requests)
    mapped = steer(place, ENCODER, url, all_keys=False)
    assert mapped.matched + mapped.unmatched == 18
    # What was mapped weighs in these rounds: `traffic` is all that counts beside the posteriors.
    list(grow(place, pool, ENCODER, 2))
    assert len(upstream.requests) > asked
    draw_set(place, 10, seed=0, replay_share=None, licensed=False, source_share=1.0)
    plot(read_status(place.data_dir, SHARED), place.folder / "picture.svg")
    prompts = b"\n".join(json.dumps(request.json, ensure_ascii=False).encode() for request in upstream.requests)
    files = {path: path.read_bytes() for path in (tmp_path / "trees").rglob("*") if path.is_file()}
    assert {path.suffix for path in files} >= {".db", ".json", ".jsonl", ".parquet", ".svg", ".yaml"}
    for where, content in {"prompts": prompts, **files}.items():
        assert found(content) == [], where


def test_the_search_finds_a_canary_where_there_is_one(tmp_path: Path, upstream: ScriptedUpstream) -> None:
    """A source that says a canary itself is found out, in the log and in the set: the search is not blind."""
    loud: dict[str, Any] = {"says": (("propose", lambda prompt: f"<field>{CANARIES[0]}</field>"),)}
    upstream.for_model("alpha", Speaker(**loud))
    place = Place(tmp_path / "trees", SHARED)
    place.keep_settings(Settings(target="pupil", sources=("alpha",), judges=("judge",), paths_per_round=2, levels=1))
    list(grow(place, pool_of(upstream.url, tuple(CAST)), ENCODER, 1))
    draw_set(place, 10, seed=0, replay_share=None, licensed=False, source_share=1.0)
    files = [path for path in place.folder.rglob("*") if path.is_file()]
    told = {path.name for path in files if found(path.read_bytes())}
    assert {"status.json", "provenance.jsonl", "train.parquet"} <= told
    assert {"log.db", "log.db-wal"} & told


def found(content: bytes) -> list[str]:
    """The canaries in some bytes, whole or by their words, as text, JSON escapes or UTF-16."""
    spellings = {
        word: (word.encode(), json.dumps(word)[1:-1].encode(), word.encode("utf-16-le"))
        for canary in CANARIES
        for word in (canary, *(part for part in canary.split() if len(part) > 5))
    }
    lowered = content.lower()
    return [word for word, forms in spellings.items() if any(form.lower() in lowered for form in forms)]
