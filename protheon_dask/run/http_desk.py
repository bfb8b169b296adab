"""The HTTP answers of the broker, from the latest picture: no query of their own, and each is written once a picture."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import replace

from protheon_dask.broker.http import Answer, json_answer
from protheon_dask.telemetry import prometheus
from protheon_dask.telemetry.metrics import health_json, metrics_json, workers_json
from protheon_dask.telemetry.picture import STALE_S, ClusterPicture
from protheon_dask.words import since_epoch

NOT_COUNTED = "the ledger's first answer: it comes within seconds of the start, if PostgreSQL is there"
NOT_YET = json_answer(503, {"healthy": False, "missing": ["the first picture of the cluster: it is taken within seconds of the start"]})


class HttpDesk:
    """Answers for the paths of broker.http. For one thread: the server's."""

    def __init__(self, latest: Callable[[], ClusterPicture | None], now_s: Callable[[], float] = time.time) -> None:
        self._latest, self._now_s = latest, now_s
        self._seen: ClusterPicture | None = None
        self._written: dict[str, Answer] = {}  # of the picture that was seen, by form or path

    def metrics(self, accept: str) -> Answer:
        """The numbers, as accept wants them. 503 until the ledger has told its own: totals that begin at 0 would look like a new ledger's,
        and Prometheus would take their return for work that was done.
        """
        form = prometheus.choose(accept)
        latest = self._latest()
        if latest is not None and latest.counted_at is None:
            return json_answer(503, {"healthy": False, "missing": [*self._aged(latest).missing, NOT_COUNTED]})
        if form == prometheus.JSON:
            return self._answer("metrics", lambda picture: json_answer(200, metrics_json(picture)))
        return self._answer(form, lambda picture: Answer(200, prometheus.CONTENT_TYPES[form], prometheus.exposition(picture, form)))

    def workers(self) -> Answer:
        return self._answer("workers", lambda picture: json_answer(200, workers_json(picture)))

    def health(self) -> Answer:
        return self._answer("health", lambda picture: json_answer(503 if picture.missing else 200, health_json(picture)))

    def _answer(self, name: str, write: Callable[[ClusterPicture], Answer]) -> Answer:
        latest = self._latest()
        if latest is None:
            return NOT_YET
        picture = self._aged(latest)
        if picture != self._seen:
            self._seen, self._written = picture, {}
        if name not in self._written:
            self._written[name] = write(picture)
        return self._written[name]

    def _aged(self, picture: ClusterPicture) -> ClusterPicture:
        """The picture; where it is old, that is what is missing first."""
        if self._now_s() - picture.at <= STALE_S:
            return picture
        told = since_epoch(picture.at, "no picture of the cluster could be taken")
        return replace(picture, missing=(told, *picture.missing))
