"""Numbers for Prometheus: histograms cheap enough for a hot path, and everything else read when somebody asks.

Counters and gauges live where they are made, as plain attributes; a *collector* turns them into metric families at the
moment of the scrape. So measuring costs an addition, and nothing is counted twice. Text format and process metrics are
the `prometheus_client` library's.
"""

from collections.abc import Callable, Iterable
from typing import Final

from prometheus_client import CollectorRegistry, PlatformCollector, ProcessCollector, generate_latest
from prometheus_client.core import HistogramMetricFamily
from prometheus_client.metrics_core import Metric
from prometheus_client.registry import Collector

from plasmacloud.base.latency import LatencyHistogram

CONTENT_TYPE: Final = "text/plain; version=0.0.4; charset=utf-8"


def latency_family(name: str, documentation: str, latencies: LatencyHistogram) -> Metric:
    """A histogram as a metric family."""
    return HistogramMetricFamily(name, documentation, buckets=latencies.buckets(), sum_value=latencies.sum_s)


class _Collected(Collector):
    def __init__(self, collect: Callable[[], Iterable[Metric]]) -> None:
        self._collect = collect

    def collect(self) -> Iterable[Metric]:
        return self._collect()


class Metrics:
    """What one process shows: its own numbers and those of the collectors."""

    def __init__(self, *collectors: Callable[[], Iterable[Metric]]) -> None:
        """Each collector is called at every scrape, on the thread that renders."""
        self._registry = CollectorRegistry(auto_describe=False)
        ProcessCollector(registry=self._registry)
        PlatformCollector(registry=self._registry)
        for collect in collectors:
            self._registry.register(_Collected(collect))

    def render(self) -> bytes:
        """The text of this moment; its type is `CONTENT_TYPE`."""
        return generate_latest(self._registry)
