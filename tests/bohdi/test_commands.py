"""`tokamak bohdi ...` from planting a tree to a training set, over real HTTP; and what goes wrong is told in a line."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import msgspec
import pytest
from typer.testing import CliRunner, Result

from offline.bohdi.commands import bohdi_app
from offline.bohdi.events import RoundBegan
from offline.bohdi.log import EpisodeLog
from offline.bohdi.tree import Tree
from registry.bohdi_status import read_status
from registry.bohdi_trees import SHARED, tree_folder, tree_log, tree_of
from tests.bohdi.grown import LEAVES, path_of, two_rounds, written
from tests.bohdi.logged import TOPICS, asked, logged, topical, traffic
from tests.bohdi.speakers import Speaker
from tests.upstream import ScriptedUpstream

CAST = {"pupil": Speaker(skill=0.3), "alpha": Speaker(), "beta": Speaker(skill=0.9), "judge": Speaker()}
SETTINGS = """
target: pupil
sources: [alpha, beta]
judges: [judge]
paths_per_round: 4
rounds: 2
licences: {alpha: apache-2.0, beta: mit}
"""


@pytest.fixture
def upstream() -> Iterator[ScriptedUpstream]:
    with ScriptedUpstream() as server:
        for name, speaker in CAST.items():
            server.for_model(name, speaker)
        yield server


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("TOKAMAK_CONFIG", raising=False)
    (tmp_path / "bohdi.yaml").write_text(SETTINGS)
    return tmp_path


def configured(folder: Path, upstream: ScriptedUpstream) -> None:
    price = "{prompt_per_1m: 1.0, completion_per_1m: 2.0}"
    models = "".join(f"  {name}: {{endpoints: [{{upstream: up}}], prices: {price}}}\n" for name in CAST)
    (folder / "tokamak.yaml").write_text(
        f"version: 1\nupstreams: {{up: {{base_url: '{upstream.url}'}}}}\nmodels:\n{models}"
    )


def run(folder: Path, *arguments: str, code: int = 0) -> Result:
    result = CliRunner().invoke(bohdi_app, [arguments[0], "--data-dir", str(folder / "data"), *arguments[1:]])
    assert result.exit_code == code, result.output
    return result


def grown(folder: Path) -> None:
    written(tree_folder(folder / "data", SHARED), two_rounds())
    settings = "{target: target, sources: [large, other]}"
    (tree_folder(folder / "data", SHARED) / "settings.yaml").write_text(settings)


def tree(folder: Path, name: str = SHARED) -> Tree:
    return EpisodeLog(tree_log(folder / "data", name)).tree()


def test_a_tree_is_planted_grown_looked_at_drawn_and_exported(folder: Path, upstream: ScriptedUpstream) -> None:
    configured(folder, upstream)
    dry = run(folder, "grow", "--settings", "bohdi.yaml", "--dry-run")
    assert "a round of 4 contests: about" in dry.stdout
    assert upstream.requests == []
    assert not (folder / "data").exists()
    made = run(folder, "grow", "--settings", "bohdi.yaml", "--rounds", "1")
    assert made.stdout.startswith("round 1: 4 contests, mean reward")
    again = json.loads(run(folder, "grow", "--rounds", "1", "--json").stdout)
    assert again["round"] == 2
    assert read_status(folder / "data", SHARED).contests == tree(folder).state.contests == 8
    shown = run(folder, "status").stdout
    assert "8 contests" in shown
    assert "alpha" in shown
    status = json.loads(run(folder, "status", "--json").stdout)
    assert status["digest"] == tree(folder).digest()
    assert run(folder, "plot", "tree.svg").stdout == "drawn to tree.svg\n"
    assert (folder / "tree.svg").read_text().startswith("<?xml")
    found = json.loads(run(folder, "export", "--size", "3", "--licensed", "--json").stdout)
    assert found["set"]["fresh"] == len(Path(found["folder"], "chat.jsonl").read_text().splitlines()) <= 3
    assert found["set"]["may_train"] is True


def test_a_budget_that_is_used_up_has_an_exit_code(folder: Path, upstream: ScriptedUpstream) -> None:
    configured(folder, upstream)
    (folder / "bohdi.yaml").write_text(SETTINGS + "max_tokens_per_round: 6000\n")
    stopped = run(folder, "grow", "--settings", "bohdi.yaml", "--rounds", "1", code=3)
    assert "stopped by the budget" in stopped.stdout


def test_a_set_is_drawn_from_a_log_and_says_what_was_left_out(folder: Path) -> None:
    grown(folder)
    result = run(folder, "export", "--size", "20")
    assert "15 fresh and 5 replayed examples of" in result.stdout
    assert "left out: 60 x not drawn" in result.stderr
    assert len(list((tree_folder(folder / "data", SHARED) / "exports").iterdir())) == 1


def test_traffic_is_mapped_once(folder: Path) -> None:
    written(tree_folder(folder / "data", SHARED), topical())
    words = TOPICS["Law", "Contracts"]
    traffic(folder / "data", [logged(asked(words, number), number) for number in range(6)])
    first = json.loads(run(folder, "map-traffic", "--json").stdout)
    assert first["matched"] + first["unmatched"] == 6
    second = json.loads(run(folder, "map-traffic", "--json").stdout)
    assert second["read"] == 0
    assert tree(folder).root.traffic == 6.0
    assert "6 queries" in run(folder, "status").stdout


def test_a_tenant_has_a_tree_of_its_own(folder: Path, upstream: ScriptedUpstream) -> None:
    configured(folder, upstream)
    run(folder, "grow", "--settings", "bohdi.yaml", "--rounds", "1", "--tenant", "alice")
    assert tree(folder, tree_of("alice")).state.tenant == "alice"
    run(folder, "status", "--tenant", "alice")
    assert "there is no tree 'shared'" in run(folder, "status", code=2).stderr


def test_a_change_of_the_target_and_a_retired_domain_are_in_the_log(folder: Path) -> None:
    grown(folder)
    run(folder, "trained", "t2")
    assert tree(folder).target_version == "t2"
    events = tree(folder).state.events
    run(folder, "trained", "t2")
    assert tree(folder).state.events == events, "it is said once"
    top = path_of(LEAVES[0])[0]
    assert run(folder, "retire", top, "--reason", "out of scope").stdout == "Mathematics is retired\n"
    assert {leaf.id for leaf in tree(folder).leaves()} == {path_of(LEAVES[2])[-1], path_of(LEAVES[3])[-1]}
    assert "no node 'nothing'" in run(folder, "retire", "nothing", code=2).stderr


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (["status"], "there is no tree 'shared'"),
        (["status", "--tree", "../x"], "a tree is named by"),
        (["export"], "has no settings"),
        (["grow"], "has no settings"),
        (["grow", "--settings", "absent.yaml", "--dry-run"], "cannot read the settings"),
        (["grow", "--settings", "bohdi.yaml", "--dry-run"], "there is no config tokamak.yaml"),
        (["map-traffic"], "there is no"),
        (["plot", "tree.gif"], "there is no tree"),
    ],
)
def test_what_cannot_be_done_is_told_in_a_line(folder: Path, arguments: list[str], told: str) -> None:
    result = run(folder, *arguments, code=2)
    assert told in result.stderr
    assert result.stderr.startswith("error: ")
    assert "Traceback" not in result.output


def test_a_log_of_another_kind_is_told(folder: Path) -> None:
    path = tree_log(folder / "data", SHARED)
    path.parent.mkdir(parents=True)
    path.write_bytes(b"no log at all, whatever its name is" * 100)
    assert "error: " in run(folder, "status", code=2).stderr
    grown_elsewhere = folder / "data" / "bohdi" / "other"
    written(grown_elsewhere, two_rounds())
    assert "*.svg or *.png" in run(folder, "plot", "tree.gif", "--tree", "other", code=2).stderr


def test_a_round_that_cannot_be_gone_on_with_is_ended_by_a_command(folder: Path, upstream: ScriptedUpstream) -> None:
    configured(folder, upstream)
    assert "no tree" in run(folder, "end-round", code=2).output
    run(folder, "grow", "--settings", "bohdi.yaml", "--rounds", "1")
    assert "no round was stopped" in run(folder, "end-round").output
    log = tree_log(folder / "data", SHARED)
    with EpisodeLog(log) as open_log:
        began = next(event for _, event in open_log.events() if isinstance(event, RoundBegan))
        open_log.append([msgspec.structs.replace(began, round=2, prompts_version="other@1")])
    assert "tokamak bohdi end-round" in run(folder, "grow", "--rounds", "1", code=2).output
    assert "the round is ended" in run(folder, "end-round").output
    assert "round 3" in run(folder, "grow", "--rounds", "1").output
