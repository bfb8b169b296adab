"""The HTTP answers come from the latest picture: each is written once, and an old picture is no good health."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest

from protheon_dask.run.http_desk import HttpDesk
from protheon_dask.telemetry import metrics, prometheus
from protheon_dask.telemetry.picture import STALE_S, ClusterPicture, Flow, Totals

AT = 1_790_000_000.0
PICTURE = ClusterPicture(AT, "9.9", 1.0, (), Totals(lines=5), Flow(), (), (), {}, None, 0, 0, 0, counted_at=AT)


def test_before_the_first_picture_every_path_says_so() -> None:
    desk = HttpDesk(lambda: None)
    for answer in (desk.metrics(""), desk.metrics("text/plain"), desk.workers(), desk.health()):
        assert (answer.code, answer.content_type) == (503, "application/json; charset=utf-8")
        assert "first picture" in json.loads(answer.body)["missing"][0]


def test_until_the_ledger_has_counted_there_are_no_numbers_but_health_and_workers() -> None:
    uncounted = replace(PICTURE, totals=Totals(), counted_at=None, missing=("since 10:02:11 UTC: PostgreSQL is away",))
    desk = HttpDesk(lambda: uncounted, lambda: AT)
    for accept in ("", "text/plain", "application/openmetrics-text"):
        assert desk.metrics(accept).code == 503
        missing = json.loads(desk.metrics(accept).body)["missing"]
        assert (missing[0], "first answer" in missing[1]) == (uncounted.missing[0], True)
    assert (desk.workers().code, desk.health().code) == (200, 503)


def test_each_form_of_metrics_has_its_content_type() -> None:
    desk = HttpDesk(lambda: PICTURE, lambda: AT)
    assert [desk.metrics(accept).content_type for accept in ("", "application/openmetrics-text", "text/plain")] == [
        "application/json; charset=utf-8",
        "application/openmetrics-text; version=1.0.0; charset=utf-8",
        "text/plain; version=0.0.4; charset=utf-8",
    ]
    assert json.loads(desk.metrics("").body)["lines_total"] == 5
    assert b"protheon_lines_total 5.0\n# HELP" in desk.metrics("application/openmetrics-text").body


def test_an_answer_is_written_once_a_picture(monkeypatch: pytest.MonkeyPatch) -> None:
    written: list[str] = []
    write = prometheus.exposition

    def counted(picture: ClusterPicture, form: str) -> bytes:
        written.append(form)
        return write(picture, form)

    monkeypatch.setattr(prometheus, "exposition", counted)
    picture = PICTURE
    desk = HttpDesk(lambda: picture, lambda: AT)
    first = [desk.metrics("text/plain") for _ in range(3)]
    assert (first[0], written) == (first[2], [prometheus.TEXT])
    picture = replace(PICTURE, totals=Totals(lines=6))
    assert b"protheon_lines_total 6.0" in desk.metrics("text/plain").body
    assert written == [prometheus.TEXT] * 2


def test_what_is_missing_makes_503_and_the_numbers_are_told_all_the_same() -> None:
    desk = HttpDesk(lambda: replace(PICTURE, missing=("since 10:02:11 UTC: the ledger",)), lambda: AT)
    assert (desk.health().code, json.loads(desk.health().body)["missing"]) == (503, ["since 10:02:11 UTC: the ledger"])
    assert (desk.metrics("").code, desk.workers().code) == (200, 200)


def test_an_old_picture_is_what_is_missing_first() -> None:
    now_s = AT
    desk = HttpDesk(lambda: replace(PICTURE, missing=("the scheduler",)), lambda: now_s)
    assert json.loads(desk.health().body)["missing"] == ["the scheduler"]
    now_s = AT + STALE_S + 0.1
    assert json.loads(desk.health().body)["missing"] == ["since 14:13:20 UTC: no picture of the cluster could be taken", "the scheduler"]
    assert json.loads(desk.metrics("").body)["ready"] == 0
    assert metrics.health_json(PICTURE)["healthy"]
