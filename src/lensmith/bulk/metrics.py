"""The progress of a bulk prediction for Prometheus, on a port of this machine."""

from __future__ import annotations

from typing import Any

from lensmith.bulk.totals import Totals
from lensmith.errors import UserError, optional

GAUGES = {
    "images": "Images that have an answer or an error.",
    "unreadable": "Images that can't be read.",
    "shards": "Shards that are done.",
    "shards_left": "Shards that aren't done.",
    "shards_set_aside": "Shards that failed again and again.",
    "workers": "Workers that are at work.",
    "images_per_second": "Images per second of all workers.",
    "dollars": "Cost of this attempt in US dollars.",
}
"""The metrics, each with the prefix `lensmith_bulk_`, and what they mean."""


def values(totals: Totals) -> dict[str, float]:
    """The value of each metric."""
    return {
        "images": totals.images,
        "unreadable": sum(totals.errors.values()),
        "shards": totals.done,
        "shards_left": totals.shards - totals.done,
        "shards_set_aside": len(totals.set_aside),
        "workers": len(totals.ready),
        "images_per_second": totals.rate,
        "dollars": totals.dollars,
    }


class Published:
    """A server that answers Prometheus while it is open.

    Raises:
        UserError: prometheus-client is missing, or the port is taken.
    """

    def __init__(self, port: int) -> None:
        prometheus = optional("prometheus_client", "serve", "--metrics")
        registry = prometheus.CollectorRegistry()
        self._gauges: dict[str, Any] = {
            name: prometheus.Gauge(f"lensmith_bulk_{name}", about, registry=registry) for name, about in GAUGES.items()
        }
        try:
            self._server, self._thread = prometheus.start_http_server(port, "127.0.0.1", registry)
        except (OSError, OverflowError) as error:
            raise UserError(f"The port {port} can't be used: {error}.", "Choose another with --metrics.") from None
        self.port: int = self._server.server_port

    def show(self, totals: Totals) -> None:
        """Publish the totals."""
        for name, value in values(totals).items():
            self._gauges[name].set(value)

    def __enter__(self) -> Published:
        return self

    def __exit__(self, *_: object) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()
