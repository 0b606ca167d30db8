"""The status of a tree as text, for a terminal."""

from __future__ import annotations

from collections.abc import Iterator

from rich.table import Table

from registry.bohdi_status import NodeStatus, TreeStatus


def headline(status: TreeStatus) -> str:
    """One line: what the tree is for, and what it has come to."""
    cost = (
        f"{status.cost_usd:.4f} USD"
        if not status.unpriced_rounds
        else (f"{status.cost_usd:.4f} USD and {status.unpriced_rounds} rounds without prices")
    )
    active = sum(node.status == "active" for node in status.nodes)
    return (
        f"{status.tree}: {status.target} ({status.target_version}) against {', '.join(status.sources)}; "
        f"{active} domains, {len(status.rounds)} rounds, {status.contests:,} contests ({status.dropped:,} dropped), "
        f"{cost}, {len(status.resets)} resets"
    )


def domains(status: TreeStatus, depth: int | None = None) -> Table:
    """The domains in use, down to a level, as a table. `lacks`: the estimated chance that a source beats the target."""
    table = Table("domain", box=None, header_style="bold")
    for name in ("lacks", "90 %", "recent", "asked", "now", "last round", "resets", "queries"):
        table.add_column(name, justify="right")
    last = status.rounds[-1] if status.rounds else None
    for node in in_order(status):
        if depth is not None and node.level > depth:
            continue
        share = "" if last is None or node.level > 1 else f"{last.allocation.get(node.id, 0)}/{last.contests}"
        recent = "-" if node.recent is None else f"{node.recent:.2f}"
        queries = f"{node.queries:,.0f}" + (f" ({node.unmatched:,.0f} new)" if node.unmatched else "")
        table.add_row(
            "  " * (node.level - 1) + node.name, f"{node.mean:.2f}", f"{node.low:.2f}-{node.high:.2f}", recent,
            f"{node.asked:,}", f"{node.asked_now:,}", share, str(node.resets or ""), queries if node.queries else "",
        )  # fmt: skip
    return table


def rounds(status: TreeStatus, newest: int = 10) -> Table:
    """The newest rounds as a table."""
    table = Table("round", "leader", "target", box=None, header_style="bold")
    for name in ("contests", "dropped", "reward", "sprouted", "failures", "USD"):
        table.add_column(name, justify="right")
    table.add_column("")
    for one in status.rounds[-newest:]:
        stopped = one.stopped_by if one.ended else "under way"
        table.add_row(
            str(one.number), one.leader, one.target_version, f"{one.contests}/{one.paths}",
            str(sum(one.dropped.values())), "-" if one.reward is None else f"{one.reward:.2f}", str(one.sprouted),
            str(sum(one.failures.values())), "-" if one.cost_usd is None else f"{one.cost_usd:.4f}", stopped,
        )  # fmt: skip
    return table


def remarks(status: TreeStatus, newest: int = 5) -> Iterator[str]:
    """Resets, judges and traffic, one line each."""
    for reset in status.resets[-newest:]:
        yield (
            f"reset after round {reset.round}: {' > '.join(reset.path)} ({reset.rule}, statistic "
            f"{reset.statistic:.1f}, p {reset.p_value:.2g})"
        )
    for judge in status.judges:
        told = "decided nothing" if judge.agreement is None else f"agreed in {100 * judge.agreement:.0f} %"
        decided = judge.agreed + judge.disagreed
        yield f"judge {judge.judge}: {told} of {decided} contests that a checker decided; {judge.abstained} abstentions"
    if status.queries:
        yield f"traffic: {status.queries:,.0f} queries, {status.unmatched:,.0f} of them near no leaf"


def in_order(status: TreeStatus) -> Iterator[NodeStatus]:
    """The domains in use, each before what is below it, the weakest first."""
    below: dict[str, list[NodeStatus]] = {}
    known = {node.id for node in status.nodes}
    for node in status.nodes:
        if node.status == "active":
            below.setdefault(node.parent if node.parent in known else "", []).append(node)
    waiting = sorted(below.get("", ()), key=_rank, reverse=True)
    while waiting:
        node = waiting.pop()
        yield node
        waiting += sorted(below.get(node.id, ()), key=_rank, reverse=True)


def _rank(node: NodeStatus) -> tuple[float, str]:
    return -node.mean, node.id
