"""The tables of `docs/routing.md`, made from the result file by `python -m benchmarks.routing --page`."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, Final

import orjson

from benchmarks.result_file import RESULTS
from benchmarks.routing_lab.contenders import ORACLE, SINGLE, TAGGED
from benchmarks.routing_lab.literature import REPORTED
from benchmarks.routing_lab.report import number
from benchmarks.routing_lab.summary import Row

PAGE: Final = Path(__file__).resolve().parents[2] / "docs" / "routing.md"
RESULT: Final = RESULTS / "routing.json"
BEGIN, END = "<!-- tables: made by python -m benchmarks.routing --page -->", "<!-- end of tables -->"


def read_result(path: Path = RESULT) -> dict[str, Any]:
    """The result file as it was written."""
    found: dict[str, Any] = orjson.loads(path.read_bytes())
    return found


def page_with(tables: str, page: Path = PAGE) -> str:
    """The page with its tables replaced. Raises ValueError if it has no markers."""
    before, begin, rest = page.read_text().partition(BEGIN)
    _, end, after = rest.partition(END)
    if not begin or not end:
        raise ValueError(f"{page} lacks the lines {BEGIN!r} and {END!r} between which the tables stand")
    return f"{before}{BEGIN}\n\n{tables}\n{END}{after}"


def tables(result: Mapping[str, Any]) -> str:
    """All tables in Markdown."""
    rows = [row for row in result["rows"] if "router" in row and "score" in row]
    ours = result["notes"]["ours"]
    pools = list(dict.fromkeys(row["pool"] for row in rows))
    parts = [
        "### In distribution",
        _headline(rows, pools, "in", ours),
        "### Out of distribution: tasks that training did not hold",
        _headline(rows, pools, "out", ours),
        "### Quality at a price",
        _prices(rows, pools, ours),
        "### Every router: points over the best single model, in distribution",
        _matrix(rows, pools, "in"),
        "### Every router: points over the best single model, out of distribution",
        _matrix(rows, pools, "out"),
        "### What a router weighs",
        _weights(rows, pools),
        "### What papers report",
        "Other models and other queries than ours, and often the best setting on test data: not comparable, for "
        "orientation only.",
        _table(("setting", "method", "figures", "source"), [list(reported) for reported in REPORTED]),
    ]
    return "\n\n".join(parts) + "\n"


def _headline(rows: Sequence[Row], pools: Sequence[str], kind: str, ours: str) -> str:
    lines = []
    for pool in pools:
        named = {row["router"]: row for row in rows if row["pool"] == pool and row["split"] == kind}
        if ours not in named:
            continue
        mine = named[ours]
        published, other = (
            next((row for row in named.values() if row.get(mark)), None) for mark in ("best_published", "best_other")
        )
        lines.append(
            [
                f"{pool}, {mine['arms']} models",
                number(named[SINGLE], "score", ".4f"),
                "" if published is None else f"{published['score']:.4f} ({published['router']})",
                f"**{mine['score']:.4f}**",
                number(named[ORACLE], "score", ".4f"),
                number(mine, "gap_closed", ".1%"),
                points(mine, "gain_best_single"),
                points(mine, "gain_best_published"),
                "" if other is None else f"{points(mine, 'gain_best_other')} ({other['router']})",
                number(mine, "ece", ".3f"),
            ]
        )
    heads = ("pool", "best single", "best published", "ours", "oracle", "gap closed", "over best single, points",
             "over best published, points", "over the best of our other routers, points", "ECE")  # fmt: skip
    return _table(heads, lines)


def _prices(rows: Sequence[Row], pools: Sequence[str], ours: str) -> str:
    lines = []
    for pool in pools:
        here = [row for row in rows if row["pool"] == pool and row["split"] == "in" and "usd_per_1000" in row]
        wanted = [row for row in here if row["router"] in (SINGLE, ours, ORACLE) or row.get("best_published")]
        for row in wanted:
            name = "zero router" if row["router"] == SINGLE else row["router"]
            pair = ("apgr", "cpt_50", "cpt_80")
            lines.append(
                [
                    pool,
                    f"{name} (published)" if row["group"] == "published" else name,
                    number(row, "aiq", ".4f"),
                    number(row, "acc_at_33pct_cost", ".4f"),
                    number(row, "acc_at_7pct_cost", ".4f"),
                    *(number(row, f"reward_{scenario}", ".4f") for scenario in ("performance", "balanced", "cost")),
                    " / ".join(f"{row[figure]:.3f}" for figure in pair if figure in row),
                ]
            )
    heads = ("pool", "router", "AIQ", "score at 33 % of the dearest model's cost", "at 7 %", "reward 1/0", "0.5/0.5",
             "0.2/0.8", "APGR / CPT 50 / CPT 80")  # fmt: skip
    return _table(heads, lines)


def _matrix(rows: Sequence[Row], pools: Sequence[str], kind: str) -> str:
    here = [row for row in rows if row["split"] == kind and row["router"] not in (SINGLE, ORACLE)]
    names = list(dict.fromkeys(row["router"] for row in here))
    cells = {(row["router"], row["pool"]): row for row in here}
    published = {row["router"] for row in here if row["group"] == "published"}
    lines = []
    for name in names:
        label = f"{name} (published)" if name in published else name
        found = [cells.get((name, pool)) for pool in pools]
        lines.append([label, *("" if row is None else points(row, "gain_best_single") for row in found)])
    return _table(("router", *pools), lines)


def _weights(rows: Sequence[Row], pools: Sequence[str]) -> str:
    pool = pools[0]
    here = [row for row in rows if row["pool"] == pool and row["split"] == "in" and "fit_s" in row]
    lines = [
        [
            row["router"],
            number(row, "ece", ".3f"),
            number(row, "fit_s", ".2f"),
            number(row, "predict_us", ".0f"),
            number({"kb": row.get("bytes", 0.0) / 1024}, "kb", ",.0f"),
            f"{row['train_queries']:,.0f}",
            str(row["seeds"]),
        ]
        for row in here
        if not row["router"].endswith(TAGGED)
    ]
    heads = (
        f"router, on {pool}",
        "ECE",
        "seconds to fit",
        "microseconds to predict",
        "KiB",
        "training queries",
        "seeds",
    )
    return _table(heads, lines)


def points(row: Row, name: str) -> str:
    """A gain in points with its interval, or nothing."""
    if name not in row:
        return ""
    return f"{100 * row[name]:+.1f} [{100 * row[name + '_lo']:+.1f}, {100 * row[name + '_hi']:+.1f}]"


def _table(headings: Iterable[str], lines: Sequence[Sequence[str]]) -> str:
    heads = list(headings)
    made = [f"| {' | '.join(heads)} |", f"|{'---|' * len(heads)}"]
    made += [f"| {' | '.join(cell.replace('|', '/') for cell in line)} |" for line in lines]
    return "\n".join(made)
