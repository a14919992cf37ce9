"""What the ingress counts, for Prometheus. Labels come from fixed lists: no path, run or key becomes one."""

from __future__ import annotations

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest

_BUCKETS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60)


class Metrics:
    """The counters of one ingress replica, which every series names."""

    def __init__(self, replica: str = "") -> None:
        self.registry = CollectorRegistry()
        self._replica = replica
        self._requests = Counter(
            "raysmith_http_requests",
            "Requests answered.",
            ["replica", "route", "method", "code"],
            registry=self.registry,
        )
        self._seconds = Histogram(
            "raysmith_http_request_seconds",
            "Time until the answer began.",
            ["replica", "route", "method"],
            buckets=_BUCKETS,
            registry=self.registry,
        )
        self._streams = Gauge(
            "raysmith_http_streams_open", "Event streams held open.", ["replica"], registry=self.registry
        )
        self._refused = Counter(
            "raysmith_http_refused",
            "Requests refused, by the problem's code.",
            ["replica", "reason"],
            registry=self.registry,
        )
        self.streams_open(0)

    def answered(self, route: str, method: str, code: int, seconds: float) -> None:
        """Count an answer."""
        self._requests.labels(self._replica, route, method, str(code)).inc()
        self._seconds.labels(self._replica, route, method).observe(seconds)

    def refused(self, reason: str) -> None:
        """Count a refusal."""
        self._refused.labels(self._replica, reason).inc()

    def streams_open(self, count: int) -> None:
        """Tell how many streams are open now."""
        self._streams.labels(self._replica).set(count)

    def page(self) -> bytes:
        """All of it in Prometheus's text format."""
        return generate_latest(self.registry)
