"""The gateway beside its peers, on one core, against one mock upstream; writes `benchmarks/results/gateway.json`.

    python -m benchmarks.gateway [--rounds 3] [--quick] [--only ours-pass,ours-auto,direct] [--skip soak,install]

The side-by-side harness lives in `benchmarks/gateway_harness`. It is copied to the folder of --harness (else
$TOKAMAK_GATEWAY_HARNESS, else `.bench`) where its `setup.sh` installs the peers: LiteLLM, Portkey, vllm-router.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import sys
import tempfile
import venv
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from benchmarks import soak, stations
from benchmarks.gateway_ground import KEY, prepare
from benchmarks.result_file import write_result

ROOT = Path(__file__).resolve().parent.parent
SOURCES = Path(__file__).resolve().parent / "gateway_harness"
PEERS = ("litellm", "portkey", "vllm-router")
FLOORS = ("asgi+aiohttp", "asgi+bare")
PORT = 9301
UPSTREAM = "http://127.0.0.1:9100/v1"
SHORT = ("--dur", "8", "--dur-c1", "5", "--dur-stream", "5", "--warm", "4", "--phase-warm", "1.5")
QUICK = ("--dur", "4", "--dur-c1", "3", "--dur-stream", "3", "--warm", "2", "--phase-warm", "1")
PHASES = "c1,c64,s1,sburst,spaced"
Row = Mapping[str, Any]


def harness_folder(named: Path | None) -> Path:
    """The folder the harness runs in, with its peers; set up here if it is not there yet.

    Raises
    ------
    SystemExit: the peers could not be installed; says what is needed.
    """
    folder = (named or Path(os.environ.get("TOKAMAK_GATEWAY_HARNESS", ROOT / ".bench"))).resolve()
    if not (folder / "run_bench.py").exists():
        print(f"Copying the harness to {folder}")
        shutil.copytree(SOURCES, folder, dirs_exist_ok=True)
    if not (folder / "venv-litellm" / "bin" / "litellm").exists():
        print("Installing the peers (some minutes, once)")
        if subprocess.run(["bash", str(folder / "setup.sh")], check=False).returncode != 0:
            sys.exit("The peers were not installed. That needs gcc, node 20, npm, python3.11 and the network.")
    return folder


def targets(harness: Path, config: Path) -> list[dict[str, Any]]:
    """The peers and floors of the harness and our own two ways through one gateway."""
    text = (Path(__file__).resolve().parent / "gateway_targets.json").read_text()
    known = {
        "python": sys.executable, "config": str(config), "root": str(ROOT), "key": KEY, "port": str(PORT),
    }  # fmt: skip
    for name, value in known.items():
        text = text.replace("{" + name + "}", value)
    others = json.loads((harness / "targets.json").read_text())
    ours: list[dict[str, Any]] = json.loads(text)
    return ours + [target for target in others if target["name"] in (*PEERS, *FLOORS)]


def side_by_side(harness: Path, options: Sequence[str]) -> dict[str, Row]:
    """Run the harness with further options; returns the medians over all rounds by target."""
    with tempfile.TemporaryDirectory() as scratch:
        config = prepare(Path(scratch) / "ground", UPSTREAM, PORT)
        listed = Path(scratch) / "targets.json"
        listed.write_text(json.dumps(targets(harness, config)))
        out = Path(scratch) / "result"
        command = [
            sys.executable, str(harness / "run_bench.py"), "--targets", str(listed), "--phases", PHASES,
            "--floor", "asgi+bare", "--out", str(out), *options,
        ]  # fmt: skip
        subprocess.run(command, check=True)
        done = json.loads(out.with_suffix(".json").read_text())
    for name, why in done["failures"].items():
        print(f"{name} failed: {why[0]}", file=sys.stderr)
    summary: dict[str, Row] = done["summary"]
    return summary


def install_row() -> dict[str, Any]:
    """Size of a fresh base install, without pip itself, from a source tree without what git ignores."""
    with tempfile.TemporaryDirectory() as scratch:
        source, home = Path(scratch) / "source", Path(scratch) / "venv"
        subprocess.run(["git", "clone", "--quiet", "--depth", "1", f"file://{ROOT}", str(source)], check=True)
        venv.create(home, with_pip=True)
        before = _size_mb(home)
        pip = [str(home / "bin" / "python"), "-m", "pip", "--quiet", "--disable-pip-version-check", "install"]
        subprocess.run([*pip, "-c", str(source / "constraints.txt"), str(source)], check=True)
        listed = subprocess.run(
            [str(home / "bin" / "python"), "-m", "pip", "list", "--format=json", "--disable-pip-version-check"],
            check=True, capture_output=True, text=True,
        )  # fmt: skip
        size = _size_mb(home) - before
    return {"install": "base", "install_mb": round(size, 1), "packages": len(json.loads(listed.stdout))}


def _size_mb(folder: Path) -> float:
    """Bytes on disk of what a folder holds, in MB (2**20)."""
    files = (path for path in folder.rglob("*") if path.is_file() and not path.is_symlink())
    return sum(path.stat().st_blocks * 512 for path in files) / 2**20


def bar(summary: Mapping[str, Row], soaked: Row | None, installed: Row | None) -> dict[str, float]:
    """The figures of the contract. What was not measured is left out."""
    figures: dict[str, float] = {}
    passed, auto = summary.get("ours-pass", {}), summary.get("ours-auto", {})
    for name, peer in (("litellm", "litellm"), ("portkey", "portkey"), ("vllm_router", "vllm-router")):
        theirs = summary.get(peer, {}).get("c64_rps")
        if theirs and passed.get("c64_rps"):
            figures[f"passthrough_x_{name}"] = round(passed["c64_rps"] / theirs, 2)
        if theirs and auto.get("c64_rps") and name != "vllm_router":
            figures[f"auto_x_{name}"] = round(auto["c64_rps"] / theirs, 2)
    measured = {
        "passthrough_added_p50_us": passed.get("c1_over_p50_us"),
        "auto_added_p50_us": auto.get("c1_over_p50_us"),
        "stream_us_per_chunk": passed.get("spaced_us_per_chunk"),
        "rss_mb": auto.get("rss_load_mb"),
        "start_s": auto.get("start_s"),
        "install_mb": (installed or {}).get("install_mb"),
        "rss_slope_mb_per_100k": (soaked or {}).get("rss_slope_mb_per_100k"),
    }
    return figures | {name: round(value, 2) for name, value in measured.items() if value is not None}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--harness", type=Path, help="folder of the harness; made if it is not there")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--quick", action="store_true", help="shorter phases")
    parser.add_argument("--only", default="", help="comma-separated targets")
    parser.add_argument(
        "--nice", type=int, default=0, help="niceness of all that is measured, negative on busy machines"
    )
    parser.add_argument(
        "--quiet-wait", type=float, default=1.0, help="most seconds to wait for an idle machine, each time"
    )
    parser.add_argument("--skip", default="", help="comma-separated: peers, stations, soak, install")
    parser.add_argument("--soak-requests", type=int, default=200_000)
    arguments = parser.parse_args()
    skip = set(arguments.skip.split(","))
    harness = harness_folder(arguments.harness)
    rows: list[dict[str, Any]] = []
    summary: dict[str, Row] = {}
    if "peers" not in skip:
        options = {"rounds": arguments.rounds, "only": arguments.only, "nice": arguments.nice,
                   "quiet-wait": arguments.quiet_wait}  # fmt: skip
        given = [f"--{name}={value}" for name, value in options.items()]
        summary = side_by_side(harness, [*given, *(QUICK if arguments.quick else SHORT)])
        rows += [{"target": name, **_known(row)} for name, row in summary.items()]
    if "stations" not in skip:
        rows += _shown(stations.measure())
    installed = None if "install" in skip else install_row()
    soaked = None if "soak" in skip else soak.run(harness, arguments.soak_requests)
    rows += _shown([dict(row) for row in (installed, soaked) if row is not None])
    figures = bar(summary, soaked, installed)
    path = write_result("gateway", f"python -m benchmarks.gateway {' '.join(sys.argv[1:])}".strip(), rows, figures)
    print(json.dumps(figures, indent=1))
    print(f"Written to {path.relative_to(ROOT)}")


def _known(row: Row) -> dict[str, Any]:
    return {name: value for name, value in row.items() if value is not None}


def _shown(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    for row in rows:
        print(json.dumps(row))
    return rows


if __name__ == "__main__":
    main()
