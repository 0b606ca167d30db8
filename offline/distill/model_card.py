"""The report of a distillation for people: a model card in Markdown, beside the same facts as JSON."""

from __future__ import annotations

import time

from offline.distill.release import Comparison
from offline.distill.report import Report


def text(report: Report) -> str:
    """The card: verdict, what it was trained on and by whom, results by domain, weights, licences."""
    parts = [_head(report), _verdict(report), _results(report), _comparisons(report), _sources(report), _data(report)]
    return "\n\n".join(part for part in parts if part) + "\n"


def _head(report: Report) -> str:
    made = time.strftime("%Y-%m-%d %H:%M UTC", time.gmtime(report.created_at))
    return (
        f"# {report.recipe.target.name}\n\n"
        f"Fused from {len(report.recipe.teachers)} source models into `{report.recipe.target.model.name}` on {made}.\n"
        f"Recipe {report.digest[:12]}, {report.recipe.training.steps} steps, seed {report.recipe.training.seed}."
    )


def _verdict(report: Report) -> str:
    if report.verdict.released:
        return "**May be released**: worse than the base in no domain, and no lower than its controls on average."
    return "**Not released**:\n\n" + "\n".join(f"- {reason}" for reason in report.verdict.reasons)


def _results(report: Report) -> str:
    means = report.verdict.means
    labels = list(next(iter(means.values())))
    what = "share of exact replies" if report.recipe.evaluation.measure == "exact" else "minus bits per byte"
    rows = [f"| {name} | " + " | ".join(f"{row[label]:.3f}" for label in labels) + " |" for name, row in means.items()]
    return "\n".join([
        f"## Results ({what}, held-out conversations)", "", "| model | " + " | ".join(labels) + " |",
        "|---" * (len(labels) + 1) + "|", *rows,
    ])  # fmt: skip


def _comparisons(report: Report) -> str:
    lines = ["## Against the others", "", "| other | average difference [95 %] | domains worse |", "|---|---|---|"]
    return "\n".join([*lines, *(_line(made) for made in report.verdict.comparisons.values())])


def _line(made: Comparison) -> str:
    average = f"{made.average.mean:+.3f} [{made.average.low:+.3f}, {made.average.high:+.3f}]"
    return f"| {made.other} | {average} | {', '.join(made.interference) or 'none'} |"


def _sources(report: Report) -> str:
    lines = ["## Sources", "", "| source | kind | licence allows training | average weight |", "|---|---|---|---|"]
    for stated in report.recipe.teachers:
        weight = f"{report.weights[stated.name]:.3f}" if stated.name in report.weights else "by document"
        lines.append(
            f"| {stated.name} | {stated.kind} | {'yes' if stated.licence_allows_training else 'no'} | {weight} |"
        )
    if report.domain_weights:
        lines += ["", "Weights by domain:", ""]
        lines += [
            f"- {label}: " + ", ".join(f"{name} {weight:.2f}" for name, weight in row.items() if weight > 0)
            for label, row in report.domain_weights.items()
        ]
    return "\n".join(lines)


def _data(report: Report) -> str:
    lines = [
        "## Data", "", f"{report.samples} conversations trained on, {report.holdout} held out "
        f"(`{report.recipe.data.train.name}`).",
    ]  # fmt: skip
    lines += [f"- left out: {count} ({reason})" for reason, count in sorted(report.left_out.items())]
    lines += [
        f"- not scored by {name}: {count} ({reason})"
        for name, counted in sorted(report.unscored.items())
        for reason, count in sorted(counted.items())
    ]
    return "\n".join(lines)
