"""What is done with a tree as a job of a worker."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from offline.bohdi.log import EpisodeLog
from offline.bohdi.tree import Tree
from offline.bohdi.tree_jobs import BOOKS
from offline.worker import Worker
from registry.bohdi_jobs import BOHDI_EXPORT, BOHDI_RETIRE, BOHDI_ROUND, BOHDI_TRAFFIC, round_arguments
from registry.bohdi_status import read_status
from registry.bohdi_trees import SHARED, tree_folder, tree_log, tree_of
from registry.config import ModelConfig, UpstreamConfig
from registry.jobs import Job, Jobs
from registry.worker_settings import WorkerSettings
from tests.bohdi.grown import LEAVES, path_of, two_rounds, written
from tests.bohdi.logged import TOPICS, asked, logged, topical, traffic
from tests.bohdi.speakers import Speaker
from tests.upstream import ScriptedUpstream

CAST = {"pupil": Speaker(skill=0.3), "alpha": Speaker(), "judge": Speaker()}
SETTINGS = {"target": "pupil", "sources": ["alpha"], "judges": ["judge"], "paths_per_round": 2, "levels": 1}


@pytest.fixture
def upstream() -> Iterator[ScriptedUpstream]:
    with ScriptedUpstream() as server:
        for name, speaker in CAST.items():
            server.for_model(name, speaker)
        yield server


def settings_for(folder: Path, url: str = "http://127.0.0.1:9/v1") -> WorkerSettings:
    models = {name: ModelConfig.model_validate({"endpoints": [{"upstream": "up"}]}) for name in CAST}
    return WorkerSettings(
        data_dir=folder, log_url=f"sqlite:///{folder / 'traffic.db'}", models=models,
        upstreams={"up": UpstreamConfig(base_url=url)},
    )  # fmt: skip


def done(folder: Path, kind: str, arguments: dict[str, Any], url: str = "http://127.0.0.1:9/v1") -> Job:
    """The job after a worker has done it."""
    jobs = Jobs(folder)
    submitted = jobs.submit(kind, arguments, target=SHARED, by="the test").job
    assert Worker(settings_for(folder, url)).run_one()
    found = jobs.get(submitted.id)
    assert found is not None
    return found


def tree(folder: Path, name: str = SHARED) -> Tree:
    return EpisodeLog(tree_log(folder, name)).tree()


def test_rounds_are_run_and_shown(tmp_path: Path, upstream: ScriptedUpstream) -> None:
    job = done(tmp_path, BOHDI_ROUND, {"rounds": 2, "settings": SETTINGS}, upstream.url)
    assert job.state == "succeeded", job.error
    assert job.result is not None
    assert job.result["rounds"] == [1, 2]
    assert tree(tmp_path).state.contests == job.result["contests"] == read_status(tmp_path, SHARED).contests > 0
    third = done(tmp_path, BOHDI_ROUND, {}, upstream.url)
    assert third.result is not None
    assert third.result["rounds"] == [3], "the tree keeps its settings"


def test_a_round_job_that_was_killed_does_only_what_is_left(tmp_path: Path, upstream: ScriptedUpstream) -> None:
    done(tmp_path, BOHDI_ROUND, {"rounds": 1, "settings": SETTINGS}, upstream.url)
    jobs = Jobs(tmp_path)
    job = jobs.submit(BOHDI_ROUND, {"rounds": 3}, target=SHARED, by="the test").job
    books = tree_folder(tmp_path, SHARED) / BOOKS
    # A worker before this one had begun when the tree had no round yet, and has done one of the three.
    (books / f"{job.id}.json").write_text('{"until": 3}')
    assert Worker(settings_for(tmp_path, upstream.url)).run_one()
    found = jobs.get(job.id)
    assert found is not None
    assert found.result is not None
    assert found.result["rounds"] == [2, 3]


def test_a_dry_run_says_what_a_round_takes_and_does_nothing(tmp_path: Path) -> None:
    job = done(tmp_path, BOHDI_ROUND, {"settings": SETTINGS, "dry_run": True})
    assert job.result is not None
    assert job.result["estimate"]["contests"] == 2
    assert not tree_log(tmp_path, SHARED).exists()


def test_a_tenant_s_tree_is_planted_for_it(tmp_path: Path, upstream: ScriptedUpstream) -> None:
    name = tree_of("alice")
    job = done(tmp_path, BOHDI_ROUND, {"tree": name, "tenant": "alice", "settings": SETTINGS}, upstream.url)
    assert job.state == "succeeded", job.error
    assert tree(tmp_path, name).state.tenant == "alice"
    with pytest.raises(ValueError, match="the tree of this tenant"):
        round_arguments({"tree": name, "tenant": "bob"})


def test_a_set_is_drawn_and_a_node_retired(tmp_path: Path) -> None:
    written(tree_folder(tmp_path, SHARED), two_rounds())
    (tree_folder(tmp_path, SHARED) / "settings.yaml").write_text("{target: target, sources: [large, other]}")
    job = done(tmp_path, BOHDI_EXPORT, {"size": 8})
    assert job.result is not None, job.error
    assert job.result["fresh"] + job.result["replay"] == 8
    assert Path(job.result["folder"], "chat.jsonl").exists()
    gone = done(tmp_path, BOHDI_RETIRE, {"node": path_of(LEAVES[2])[0], "reason": "not ours"})
    assert gone.result == {"node": path_of(LEAVES[2])[0], "name": "History"}
    status = read_status(tmp_path, SHARED)
    assert [node.status for node in status.nodes if node.path[0] == "History"] == ["retired"] * 3


def test_traffic_is_mapped(tmp_path: Path) -> None:
    written(tree_folder(tmp_path, SHARED), topical())
    traffic(tmp_path, [logged(asked(TOPICS["Law", "Contracts"], number), number) for number in range(4)])
    job = done(tmp_path, BOHDI_TRAFFIC, {})
    assert job.result is not None, job.error
    assert job.result["matched"] + job.result["unmatched"] == 4
    assert tree(tmp_path).root.traffic == 4.0


@pytest.mark.parametrize(
    ("kind", "arguments", "told"),
    [
        (BOHDI_ROUND, {}, "has no settings"),
        (BOHDI_ROUND, {"settings": {"target": "pupil"}}, "sources"),
        (BOHDI_ROUND, {"settings": SETTINGS | {"sources": ["nobody"]}}, "no model is called nobody"),
        (BOHDI_ROUND, {"rounds": 0}, "rounds"),
        (BOHDI_EXPORT, {"tree": "../x"}, "a tree is named by"),
        (BOHDI_EXPORT, {}, "has no settings"),
        (BOHDI_TRAFFIC, {}, "there is no tree"),
        (BOHDI_RETIRE, {"node": "x"}, "there is no tree"),
        (BOHDI_RETIRE, {}, "node"),
    ],
)
def test_what_cannot_be_done_fails_with_a_sentence(
    tmp_path: Path, kind: str, arguments: dict[str, Any], told: str
) -> None:
    job = done(tmp_path, kind, arguments)
    assert job.state == "failed"
    assert job.error is not None
    assert told in job.error
    assert "defect" not in job.error


def test_a_job_waits_while_another_process_writes_the_log(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    log = written(tree_folder(tmp_path, SHARED), two_rounds())
    log.snapshot()
    waits: list[float] = []

    def ended(seconds: float) -> None:
        waits.append(seconds)
        log.close()

    monkeypatch.setattr("offline.bohdi.tree_jobs.time.sleep", ended)
    job = done(tmp_path, BOHDI_RETIRE, {"node": path_of(LEAVES[2])[0]})
    assert job.state == "succeeded", job.error
    assert len(waits) == 1
