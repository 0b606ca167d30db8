"""What there is to see of a tree: the status adds up, the picture is drawn, the file is read back."""

from __future__ import annotations

from io import StringIO
from pathlib import Path
from xml.etree import ElementTree

import msgspec
import pytest
from rich.console import Console

from offline.bohdi.events import Contested, Planted, Reply, Retired, Sprouted, TrafficMapped, Verdict, node_id
from offline.bohdi.log import EpisodeLog
from offline.bohdi.plot import MOST_ROWS, PlotUnavailable, plot
from offline.bohdi.status import refresh_status, status_of
from offline.bohdi.status_text import domains, headline, in_order, remarks, rounds
from registry.bohdi_status import BohdiUnreadable, TreeMissing, TreeStatus, raw_events, read_status
from registry.bohdi_trees import SHARED, tree_folder, tree_of, trees
from tests.bohdi.grown import LARGE, LEAVES, TARGET, checked, episode, path_of, planted, round_of, two_rounds, written


def grown(folder: Path) -> TreeStatus:
    return status_of(written(folder, two_rounds()), "shared")


def text_of(status: TreeStatus) -> str:
    printed = StringIO()
    console = Console(width=200, file=printed)
    console.print(headline(status))
    for table in (domains(status), rounds(status)):
        console.print(table)
    for line in remarks(status):
        console.print(line)
    return printed.getvalue()


def test_the_status_counts_what_the_log_holds(tmp_path: Path) -> None:
    status = grown(tmp_path)
    assert (status.contests, status.dropped, len(status.rounds), len(status.resets)) == (80, 0, 2, 1)
    assert status.cost_usd == pytest.approx(1.6)
    assert status.versions == ((1, "t1"),)
    first, second = status.rounds
    assert (first.contests, first.reward, second.reward) == (40, 1.0, 0.5)
    mathematics, history, science = (path_of(LEAVES[place])[0] for place in (0, 2, 3))
    assert first.allocation == {mathematics: 20, history: 10, science: 10}
    assert science not in second.allocation
    assert (first.failures, first.dropped) == ({}, {})


def test_a_node_s_posterior_and_interval_are_those_of_the_tree(tmp_path: Path) -> None:
    status = grown(tmp_path)
    leaf = next(node for node in status.nodes if node.path == LEAVES[3])
    tree = EpisodeLog(tmp_path / "log.db").tree()
    assert (leaf.a, leaf.b) == tree.posterior(leaf.id)
    assert leaf.asked == 10
    assert leaf.asked_now == 0, "it was not asked about since the target changed"
    assert leaf.low < leaf.mean < leaf.high
    assert leaf.recent == 1.0


def test_a_status_that_goes_on_is_the_same_as_one_that_begins_anew(tmp_path: Path) -> None:
    events = [*two_rounds(), *round_of(3, (checked_and_judged(n) for n in range(300, 312)), "t1")]
    log = EpisodeLog(tmp_path / "log.db")
    before = None
    for start in range(0, len(events), 17):
        log.append(events[start : start + 17])
        before = status_of(log, "shared", before=before)
        assert before == status_of(log, "shared")
    assert before is not None
    assert [(judge.judge, judge.agreed, judge.disagreed) for judge in before.judges] == [("judge", 8, 4)]
    other = written(tmp_path / "other", planted())
    assert status_of(other, "shared", before=before).rounds == (), "another log's status is no beginning"
    log.close()


def checked_and_judged(number: int) -> Contested:
    """A contest that a checker has decided, and in which a judge agrees two times of three."""
    said = LARGE if number % 3 else TARGET
    verdict = Verdict(method="checker", winner=LARGE, votes=(("judge", said), ("judge", said)))
    return msgspec.structs.replace(
        checked(number, 0, right=[LARGE], winner=LARGE, reward=1.0), verdict=verdict, round=3
    )


def test_dropped_contests_and_failures_are_named(tmp_path: Path) -> None:
    failed = (Reply(model=TARGET, text="x"), Reply(model=LARGE, failure="refused"))
    contests = [
        episode(1, 0, reward=None, verdict=None, dropped="judges abstained", replies=failed),
        episode(2, 1, reward=None, verdict=None),
        checked(3, 1, right=[LARGE], winner=LARGE, reward=1.0),
    ]
    status = status_of(written(tmp_path, [*planted(), *round_of(1, contests)]), "shared")
    (one,) = status.rounds
    assert one.dropped == {"judges abstained": 1, "undecided": 1}
    assert one.failures == {LARGE: 1}
    assert (one.contests, status.dropped) == (1, 2)


def test_the_text_names_domains_in_any_script_and_the_weakest_first(tmp_path: Path) -> None:
    status = grown(tmp_path)
    text = text_of(status)
    assert "80 contests" in text
    assert "自然科学" in text
    assert "C++ & R&D" in text
    assert "two_sample" in text
    order = list(in_order(status))
    assert len(order) == len(status.nodes)
    tops = [node.mean for node in order if node.level == 1]
    assert tops == sorted(tops, reverse=True)


def test_a_retired_domain_is_not_shown_and_traffic_is(tmp_path: Path) -> None:
    leaf = path_of(LEAVES[2])
    log = written(tmp_path, two_rounds())
    log.append(
        [
            TrafficMapped(at=300.0, counts={leaf[-1]: 7.0}, unmatched={leaf[0]: 2.0}, until=300.0),
            Retired(at=301.0, node=path_of(LEAVES[3])[0], reason="test"),
        ]
    )
    status = status_of(log, "shared")
    log.close()
    text = text_of(status)
    assert "自然科学" not in text
    assert "9 queries, 2 of them near no leaf" in text
    assert "9 (2 new)" in text


@pytest.mark.parametrize("name", ["tree.svg", "tree.png"])
def test_the_picture_is_drawn_the_same_twice(tmp_path: Path, name: str) -> None:
    status = grown(tmp_path)
    plot(status, tmp_path / name)
    plot(status, tmp_path / "again" / name)
    drawn = (tmp_path / name).read_bytes()
    assert drawn == (tmp_path / "again" / name).read_bytes()
    if name.endswith("svg"):
        words = " ".join(ElementTree.fromstring(drawn).itertext())
        for expected in ("自然科学", "C++ & R&D", "Matrices", "80 contests"):
            assert expected in words, expected
    else:
        assert drawn.startswith(b"\x89PNG")


def test_a_young_and_a_large_tree_can_be_drawn_too(tmp_path: Path) -> None:
    young = written(tmp_path / "young", [next(planted())])
    plot(status_of(young, "shared"), tmp_path / "young.svg")
    events = [Planted(at=0.0, levels=2, target=TARGET, target_version="0", sources=(LARGE,), seed=0)]
    names = [(f"Field ${number}$", f"Part {part}") for number in range(20) for part in range(10)]
    sprouted = [
        Sprouted(at=0.0, node=node, parent=parent, name=name)
        for path in names
        for parent, node, name in zip(("root", path_of(path)[0]), path_of(path), path, strict=True)
    ]
    status = status_of(written(tmp_path / "large", [*events, *sprouted]), "shared")
    plot(status, tmp_path / "large.svg")
    words = " ".join(ElementTree.fromstring((tmp_path / "large.svg").read_bytes()).itertext())
    assert "Field $19$" in words
    assert "Part 3" not in words, f"200 leaves are more than {MOST_ROWS} rows"


def test_a_picture_of_another_kind_is_refused(tmp_path: Path) -> None:
    with pytest.raises(PlotUnavailable, match=r"\*\.svg or \*\.png"):
        plot(grown(tmp_path), tmp_path / "tree.gif")


def test_the_file_is_read_back_as_it_was_written(tmp_path: Path) -> None:
    written(tree_folder(tmp_path, SHARED), two_rounds())
    with pytest.raises(TreeMissing, match=r"has no status\.json yet"):
        read_status(tmp_path, SHARED)
    status = refresh_status(tmp_path, SHARED)
    assert read_status(tmp_path, SHARED) == status
    assert trees(tmp_path) == [SHARED]
    last, events = raw_events(tmp_path, SHARED, 2, 3)
    assert (last, [number for number, _ in events]) == (status.events, [3, 4, 5])
    assert events[0][1]["kind"] == "sprouted"


def test_what_cannot_be_read_is_told(tmp_path: Path) -> None:
    with pytest.raises(TreeMissing, match="no tree 'shared'"):
        read_status(tmp_path, SHARED)
    with pytest.raises(TreeMissing, match="no tree 'shared'"):
        raw_events(tmp_path, SHARED, 0, 10)
    with pytest.raises(ValueError, match=r"not '\.\./x'"):
        read_status(tmp_path, "../x")
    folder = tree_folder(tmp_path, SHARED)
    folder.mkdir(parents=True)
    (folder / "status.json").write_text("{")
    with pytest.raises(BohdiUnreadable, match="delete it"):
        read_status(tmp_path, SHARED)
    (folder / "log.db").write_bytes(b"no database, but long enough to be taken for one" * 50)
    with pytest.raises(BohdiUnreadable, match="cannot be read"):
        raw_events(tmp_path, SHARED, 0, 10)
    with pytest.raises(ValueError, match="holds no tree yet"):
        status_of(EpisodeLog(tmp_path / "absent.db"), "shared")


def test_a_tenant_s_id_does_not_show_in_the_name_of_its_tree() -> None:
    name = tree_of("alice@example.com")
    assert name.startswith("tenant-")
    assert "alice" not in name
    assert tree_of("") == SHARED
    assert node_id("root", "A  b") == node_id("root", "a B")
