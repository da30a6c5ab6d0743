"""Prometheus metrics: queue, cache, tokens, latencies."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric

if TYPE_CHECKING:
    from glassbox.serving.worker import Worker

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"
_FIRST = (0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 25.0, 60.0, 120.0)
_BETWEEN = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5)


class Metrics:
    """Counters and histograms of one server; `watch` adds the state of its engine."""

    def __init__(self) -> None:
        self._registry = CollectorRegistry()
        self._first = Histogram(
            "glassbox_time_to_first_token_seconds",
            "From a request's arrival to a choice's first token",
            buckets=_FIRST,
            registry=self._registry,
        )
        self._between = Histogram(
            "glassbox_inter_token_seconds",
            "Between one token of a choice and the next",
            buckets=_BETWEEN,
            registry=self._registry,
        )
        self._prompt_tokens = Counter(
            "glassbox_prompt_tokens", "Prompt tokens", registry=self._registry
        )
        self._tokens = Counter(
            "glassbox_completion_tokens", "Generated tokens", registry=self._registry
        )
        self._requests = Counter(
            "glassbox_requests",
            "Requests answered, by path and HTTP status (0: none was sent)",
            ["path", "status"],
            registry=self._registry,
        )
        self._closed = Counter(
            "glassbox_connections_closed",
            "Connections that the server closed, by reason",
            ["reason"],
            registry=self._registry,
        )

    def connections(self, count: Callable[[], int]) -> None:
        """Export the number of open connections."""
        gauge = Gauge("glassbox_connections_open", "Open connections", registry=self._registry)
        gauge.set_function(lambda: float(count()))

    def closed(self, reason: str) -> None:
        """A connection was closed by the server."""
        self._closed.labels(reason).inc()

    def watch(self, worker: Worker) -> None:
        """Export a worker's queue and its engine's cache."""
        self._registry.register(_State(worker))

    def token(self, *, begun: float, previous: float | None, now: float) -> None:
        """A token was made: of a request that came at `begun`, after the one at `previous`."""
        self._tokens.inc()
        if previous is None:
            self._first.observe(now - begun)
        else:
            self._between.observe(now - previous)

    def prompt(self, tokens: int) -> None:
        """A prompt was accepted."""
        self._prompt_tokens.inc(tokens)

    def request(self, path: str, status: int) -> None:
        """A request was answered."""
        self._requests.labels(path, str(status)).inc()

    def text(self) -> bytes:
        """Everything, in Prometheus' text format."""
        return generate_latest(self._registry)


class _State:
    """Values read when the metrics are collected."""

    def __init__(self, worker: Worker) -> None:
        self._worker = worker

    def collect(self) -> Iterator[Metric]:
        """The gauges and counters."""
        worker = self._worker
        stats = worker.engine.stats()
        gauges = {
            "requests_running": ("Running requests", worker.num_running),
            "requests_waiting": ("Queued requests", worker.num_waiting),
            "sequences_running": ("Running sequences", stats.running),
            "sequences_waiting": ("Waiting sequences", stats.waiting),
            "cache_blocks": ("KV cache blocks", stats.blocks_total),
            "cache_blocks_free": ("Free KV cache blocks", stats.blocks_free),
            "cache_blocks_reusable": (
                "Free blocks in the prefix cache",
                stats.blocks_cached,
            ),
            "prepacked_bytes": (
                "Memory of prepacked copies of the weights",
                stats.prepacked_bytes,
            ),
        }
        counters = {
            "prefix_hits": (
                "Prompt tokens served from the prefix cache",
                stats.prefix_hits,
            ),
            "preemptions": ("Preempted sequences", stats.preemptions),
        }
        for name, (what, value) in gauges.items():
            yield GaugeMetricFamily(f"glassbox_{name}", what, value)
        for name, (what, value) in counters.items():
            yield CounterMetricFamily(f"glassbox_{name}", what, value)
