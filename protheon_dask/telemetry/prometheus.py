"""A picture in Prometheus's text formats, and which of the forms of /metrics a request wants. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import Final

from prometheus_client import CollectorRegistry
from prometheus_client import exposition as text_format
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, InfoMetricFamily
from prometheus_client.core import Metric as Family
from prometheus_client.openmetrics import exposition as openmetrics_format
from prometheus_client.registry import Collector

from protheon_dask.telemetry.metrics import COUNTER, FAMILIES, INFO, METRICS, Metric
from protheon_dask.telemetry.picture import ClusterPicture

JSON: Final = "application/json"
OPENMETRICS: Final = "application/openmetrics-text"
TEXT: Final = "text/plain"
CONTENT_TYPES: Final = {
    OPENMETRICS: "application/openmetrics-text; version=1.0.0; charset=utf-8",
    TEXT: "text/plain; version=0.0.4; charset=utf-8",
}
_OFFERS: Final = (JSON, OPENMETRICS, TEXT)


def choose(accept: str) -> str:
    """The form that a header Accept wants: JSON, OPENMETRICS or TEXT; JSON where it says nothing of them, or likes them alike.

    Source: RFC 9110, 12.5.1: the most specific range that names a form decides how much it is wanted; then the one named first.
    """
    ranges: list[tuple[str, float]] = []
    for entry in accept.split(","):
        kind, *parameters = (part.strip().lower() for part in entry.split(";"))
        ranges.append((kind, _quality(parameters)))
    best, best_rank = JSON, (0.0, 0)
    for offer in _OFFERS:
        if (rank := _rank(offer, ranges)) > best_rank:
            best, best_rank = offer, rank
    return best


def _rank(offer: str, ranges: Sequence[tuple[str, float]]) -> tuple[float, int]:
    """How much the offer is wanted, and the place, counted down, of what says so."""
    for pattern in (offer, f"{offer.partition('/')[0]}/*", "*/*"):
        if named := [(quality, -place) for place, (kind, quality) in enumerate(ranges) if kind == pattern]:
            return max(named)
    return 0.0, 0


def _quality(parameters: Iterable[str]) -> float:
    for parameter in parameters:
        name, _, value = parameter.partition("=")
        if name.strip() == "q":
            try:
                return min(1.0, max(0.0, float(value)))
            except ValueError:
                return 0.0
    return 1.0


class PictureCollector(Collector):
    """The families of one picture."""

    def __init__(self, picture: ClusterPicture) -> None:
        self._picture = picture

    def collect(self) -> Iterator[Family]:
        families: dict[str, Family] = {}
        for metric in METRICS:
            if metric.family:
                family = families.setdefault(metric.family, _family(metric))
                _add(family, metric, self._picture)
        yield from families.values()


def _family(metric: Metric) -> Family:
    says, labels = FAMILIES.get(metric.family, metric.meaning), [metric.label] if metric.label else None
    if metric.kind == INFO:
        return InfoMetricFamily(metric.family, says)
    if metric.kind == COUNTER:
        return CounterMetricFamily(metric.family, says, labels=labels, unit=metric.unit)
    return GaugeMetricFamily(metric.family, says, labels=labels, unit=metric.unit)


def _add(family: Family, metric: Metric, picture: ClusterPicture) -> None:
    read = metric.read(picture)
    if isinstance(family, InfoMetricFamily):
        family.add_metric([], {metric.label: read})
    elif isinstance(family, CounterMetricFamily | GaugeMetricFamily):
        if not metric.label:
            family.add_metric([], read)
        else:
            for value, number in (read if metric.values else {metric.value: read}).items():
                family.add_metric([value], number)


def exposition(picture: ClusterPicture, form: str) -> bytes:
    """The picture as OPENMETRICS or TEXT."""
    registry = CollectorRegistry()
    registry.register(PictureCollector(picture))
    if form == TEXT:
        return text_format.generate_latest(registry)
    return bytes(openmetrics_format.generate_latest(registry))  # type: ignore[no-untyped-call]  # the library's
