"""Kills at any moment, also while an index is made anew: nothing that was acknowledged is lost."""

from __future__ import annotations

import signal
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

from templates_store import block as block_module
from templates_store.live_index import LiveIndex
from templates_store.store import TemplateStore
from tests.gateway.live import until
from tests.templates.test_live_index import found, ready
from tests.templates.words import ENCODER


@pytest.mark.slow
def test_kills_while_templates_and_their_index_are_written_lose_nothing_acknowledged(tmp_path: Path) -> None:
    script = textwrap.dedent(
        """
        import sys
        from pathlib import Path
        from templates_store.live_index import reindex
        from templates_store.store import TemplateStore
        from tests.templates.words import ENCODER, template
        store = TemplateStore(Path(sys.argv[1]) / "templates.db")
        for i in range(1_000_000):
            made = template(f"question {sys.argv[2]} {i}")
            store.add(made)
            print(made.id, flush=True)
            if i % 2:
                reindex(store, ENCODER.hash, Path(sys.argv[1]) / "templates.index")
        """
    )
    acknowledged: set[str] = set()
    for run in range(6):
        writers = [
            subprocess.Popen(
                [sys.executable, "-c", script, str(tmp_path), f"{run}-{part}"], stdout=subprocess.PIPE, text=True
            )
            for part in range(2)
        ]
        for lines, writer in zip((2 + 2 * run, 3), writers, strict=True):
            assert writer.stdout is not None
            acknowledged |= {writer.stdout.readline().strip() for _ in range(lines)}
        for writer in writers:
            writer.send_signal(signal.SIGKILL)
            assert writer.stdout is not None
            acknowledged |= {line.strip() for line in writer.stdout if len(line) == 17}
            writer.wait()
    with TemplateStore(tmp_path / "templates.db") as store:
        assert acknowledged <= {kept.id for kept in store.templates()}
        index = LiveIndex(store, ENCODER.hash, tmp_path / "templates.index")
        until(lambda: ready(index), "the index did not come back")
        assert len(index.current) == len(store.templates())
        index.close()


@pytest.mark.slow
@pytest.mark.parametrize("step", ["calibrating", "writing lists", "written", "renaming", "naming", "named"])
def test_a_kill_at_any_step_of_a_new_block_with_lists_loses_nothing_acknowledged(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, step: str
) -> None:
    script = textwrap.dedent(
        """
        import os, signal, sys
        from pathlib import Path
        import faiss
        from templates_store import approximate, block, index_files, live_index
        from templates_store.store import TemplateStore
        from tests.templates.words import ENCODER, template

        def die(*_, **__):
            os.kill(os.getpid(), signal.SIGKILL)

        block.FLAT_LIMIT, live_index._FEWEST, live_index._FILES_FROM = 100, 10, 1
        store = TemplateStore(Path(sys.argv[1]) / "templates.db")
        folder = Path(sys.argv[1]) / "templates.index"
        store.add_all([template(f"first {i}") for i in range(200)])
        live_index.reindex(store, ENCODER.hash, folder)
        live = live_index.LiveIndex(store, ENCODER.hash, folder)
        assert live.current.block.parts[None].approximate is not None
        module, name = {
            "calibrating": (approximate, "_calibrated"), "writing lists": (faiss, "write_index"),
            "written": (index_files, "sync_folder"), "renaming": (os, "rename"),
            "naming": (index_files, "place_file"), "named": (index_files, "_remove_others"),
        }[sys.argv[2]]
        setattr(module, name, die)
        for i in range(100_000):
            made = template(f"late {i}")
            store.add(made)
            print("added", made.id, flush=True)
            if i % 5 == 0 and i < 1_000:
                store.retire(template(f"first {i // 5}").id)
                print("retired", template(f"first {i // 5}").id, flush=True)
            live.refresh()
        """
    )
    killed = subprocess.run(
        [sys.executable, "-c", script, str(tmp_path), step], stdout=subprocess.PIPE, text=True, timeout=120
    )
    assert killed.returncode == -signal.SIGKILL
    said = [line.split() for line in killed.stdout.splitlines(keepends=True) if line.endswith("\n")]
    added, retired = ([id_ for what, id_ in said if what == wanted] for wanted in ("added", "retired"))
    assert len(added) > 10
    assert retired
    monkeypatch.setattr(block_module, "FLAT_LIMIT", 100)
    with TemplateStore(tmp_path / "templates.db") as store:
        kept = store.get_many([*added, *retired])
        assert {kept[id_].state for id_ in added} == {"active"}
        assert {kept[id_].state for id_ in retired} == {"retired"}
        index = LiveIndex(store, ENCODER.hash, tmp_path / "templates.index")
        until(lambda: ready(index), "the index did not come back")
        assert len(index.current) == store.counts()["active"]
        # The block is whole, whichever of the two it is; what came after it was taken in from the records.
        assert len(index.current.block) >= 200
        for id_ in [*added[:5], *added[-5:]]:
            assert kept[id_].query in found(index.current, kept[id_].query, k=5)
        for id_ in retired:
            assert kept[id_].query not in found(index.current, kept[id_].query, k=50)
        index.close()
