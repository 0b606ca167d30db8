"""The metrics of thought templates: how often they are looked for, found, used and withheld, and what there is."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from registry.jobs import State as JobState
from templates_store.template import State
from traffic.records import Interaction


class TemplateMetrics:
    """Counters fed once per request, and gauges that are set when something has changed. No label carries an id."""

    def __init__(self) -> None:
        self.searches = self.found = self.used = self.withheld = 0
        self.states: Mapping[State, int] = {}
        self.builds: Mapping[JobState, int] = {}
        self.index_version = 0
        self.index_size = 0

    def observe(self, record: Interaction) -> None:
        """Count one finished request."""
        self.found += bool(record.retrieved)
        self.used += len(record.template_ids)
        self.withheld += record.withheld

    def lines(self) -> Iterator[str]:
        """In Prometheus' text format."""
        for name, help_, value in (
            ("tokamak_template_searches_total", "Requests that templates were looked for.", self.searches),
            ("tokamak_template_found_total", "Requests that templates were found for.", self.found),
            ("tokamak_template_used_total", "Templates put into prompts.", self.used),
            ("tokamak_template_withheld_total", "Requests that went without as a control.", self.withheld),
        ):
            yield from (f"# HELP {name} {help_}", f"# TYPE {name} counter", f"{name} {value}")
        yield from _gauge("tokamak_templates", "Templates by state.", "state", self.states)
        yield from _gauge("tokamak_template_builds", "Build jobs by state.", "state", self.builds)
        for name, help_, value in (
            ("tokamak_template_index_version", "Version of the store that is searched.", self.index_version),
            ("tokamak_template_index_size", "Templates that can be found.", self.index_size),
        ):
            yield from (f"# HELP {name} {help_}", f"# TYPE {name} gauge", f"{name} {value}")


def _gauge(name: str, help_: str, label: str, values: Mapping[Any, int]) -> Iterator[str]:
    yield from (f"# HELP {name} {help_}", f"# TYPE {name} gauge")
    for value, count in values.items():
        yield f'{name}{{{label}="{value}"}} {count}'
