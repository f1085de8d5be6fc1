"""Pages read back by Prometheus' own parser."""

from __future__ import annotations

from prometheus_client import generate_latest
from prometheus_client.metrics_core import Metric
from prometheus_client.parser import text_string_to_metric_families
from prometheus_client.registry import Collector

Series = dict[tuple[tuple[str, str], ...], float]


def families(page: str) -> list[Metric]:
    return list(text_string_to_metric_families(page))


def text(collector: Collector) -> str:
    return generate_latest(collector).decode()


def series(page: str, name: str) -> Series:
    """Return {labels: value} of a series' name."""
    return {
        tuple(sorted(sample.labels.items())): sample.value
        for family in families(page)
        for sample in family.samples
        if sample.name == name
    }


def by(page: str, name: str, label: str) -> dict[str, float]:
    """Return the values of a series by one label, summed over the others; zeros left out."""
    found: dict[str, float] = {}
    for labels, value in series(page, name).items():
        if value:
            key = dict(labels)[label]
            found[key] = found.get(key, 0.0) + value
    return found


def one(page: str, name: str) -> float:
    """Return the value of a series without labels."""
    (value,) = series(page, name).values()
    return value
