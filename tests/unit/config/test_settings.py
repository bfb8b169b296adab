"""Settings: every relation is held, every problem is told at once, and where a value came from is known."""

from __future__ import annotations

from dataclasses import fields
from typing import Any

import pytest

from protheon_dask.config import SECRETS, Settings, environment, mask, parse_reject_limit, scheme_and_host
from protheon_dask.errors import ConfigError
from protheon_dask.model import Cost
from protheon_dask.policy import RejectLimit


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"lease_s": 44.0}, "lease_s=44 must be at least 3 * renew_s=15"),
        ({"exit_grace_s": 60.0}, "exit_grace_s=60 must be below lease_s=60"),
        ({"stall_s": 59.0}, "stall_s=59 must be at least lease_s=60"),
        ({"max_line_bytes": 1 << 30}, "max_line_bytes=1073741824 must not exceed max_chunk_bytes=536870912"),
        ({"backoff_jitter": 1.0}, "backoff_jitter=1 must be below 1"),
        ({"backoff_jitter": -0.1}, "backoff_jitter=-0.1 must not be negative"),
        ({"reject_limit": "lots"}, "reject limit 'lots'"),
        ({"broker_port": -1}, "broker_port=-1 must be a port, 0 to 65535"),
        ({"scheduler_port": 65_536}, "scheduler_port=65536 must be a port, 0 to 65535"),
        ({"splitters": -1}, "splitters=-1 must not be negative"),
        ({"workspace_quota_bytes": -1}, "workspace_quota_bytes=-1 must not be negative"),
    ],
)
def test_each_relation_between_settings_is_held(changes: dict[str, Any], told: str) -> None:
    with pytest.raises(ConfigError) as caught:
        Settings(**changes)
    assert told in str(caught.value)


POSITIVE = [
    item.name
    for item in fields(Settings)
    if isinstance(item.default, int | float)
    and item.name not in ("backoff_jitter", "splitters", "workspace_quota_bytes", "pinned_quota_bytes")
    and not item.name.endswith("_port")
]


@pytest.mark.parametrize("name", POSITIVE)
def test_zero_is_refused_where_it_has_no_meaning(name: str) -> None:
    with pytest.raises(ConfigError, match=f"{name}=0 must be positive"):
        Settings(**{name: 0})


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_what_is_no_finite_number_is_refused(value: float) -> None:
    with pytest.raises(ConfigError, match="stall_s"):
        Settings(stall_s=value)


def test_the_limits_of_each_relation_are_within() -> None:
    settings = Settings(lease_s=45, renew_s=15, stall_s=45, exit_grace_s=44, max_line_bytes=512 << 20, backoff_jitter=0)
    assert settings.lease_s == 45


def test_all_problems_are_told_at_once() -> None:
    with pytest.raises(ConfigError) as caught:
        Settings(lease_s=1, exit_grace_s=2, chunk_lines=0, reject_limit="x")
    told = str(caught.value)
    assert all(name in told for name in ("renew_s", "exit_grace_s", "chunk_lines", "reject limit"))

    with pytest.raises(ConfigError) as caught:
        Settings.read({"PROTHEON_LEASE_S": "soon", "PROTHEON_CHUNK_LINES": "1.5"}, {"colour": "red"}, {"renew_s": "x"})
    told = str(caught.value)
    assert "PROTHEON_LEASE_S='soon' (PROTHEON_LEASE_S) is not a number" in told
    assert "PROTHEON_CHUNK_LINES='1.5' (PROTHEON_CHUNK_LINES) is not a whole number" in told
    assert "unknown setting 'colour'" in told
    assert "renew_s='x' (flag)" in told


def test_a_flag_beats_the_environment_which_beats_the_file_which_beats_the_default() -> None:
    env = {"PROTHEON_LEASE_S": "70", "PROTHEON_RENEW_S": "16", "PROTHEON_CHUNK_LINES": "", "PROTHEON_HOME": ""}
    file = {"lease_s": 80.0, "renew_s": 17.0, "stall_s": 200, "chunk_lines": 7, "home": "/from/file"}
    effective = Settings.read(env, file, {"lease_s": 90, "renew_s": None})
    settings = effective.settings
    assert (settings.lease_s, settings.renew_s, settings.stall_s, settings.complete_grace_s) == (90.0, 16.0, 200.0, 30.0)
    names = ("lease_s", "renew_s", "stall_s", "complete_grace_s")
    assert {name: effective.origins[name] for name in names} == dict(
        zip(names, ("flag", "PROTHEON_RENEW_S", "file", "default"), strict=True)
    )
    assert (settings.chunk_lines, settings.home) == (7, "")  # emptied: nothing is said of a number, and a text is empty


def test_a_relation_is_judged_over_all_origins_together() -> None:
    assert Settings.read({"PROTHEON_RENEW_S": "30"}, {"lease_s": 90.0}, {}).settings.renew_s == 30
    with pytest.raises(ConfigError, match=r"3 \* renew_s"):
        Settings.read({"PROTHEON_RENEW_S": "30"}, {}, {})


@pytest.mark.parametrize(
    ("url", "shown"),
    [
        ("postgresql://me:secret@db:5432/x", "postgresql://me:***@db:5432/x"),
        ("postgresql://me:s%40@c@db/x", "postgresql://me:***@db/x"),
        ("postgresql://me@db/x", "postgresql://me@db/x"),
        ("postgresql://", "postgresql://"),
        ("postgresql://db/x?user=me&password=secret", "(masked)"),
        ("host=db password=secret", "(masked)"),
        ("host=db password = secret", "(masked)"),
        ("host=db dbname = 'x y'", "host=db dbname = 'x y'"),
        ("postgresql://db/x?%70assword=secret", "(masked)"),
        ("postgresql://me:se?cret@db/x", "(masked)"),
        ("postgresql://me:se/cret@db/x", "postgresql://me:***@db/x"),
        ("postgresql://me:secret", "(masked)"),
        ("me:secret@db/x", "(masked)"),
        ("dbname=postgresql://me:secret@db/x", "(masked)"),
        ("postgresql://me:secret@[::1]:5432,db:1/x?sslmode=require", "postgresql://me:***@[::1]:5432,db:1/x?sslmode=require"),
        ("", ""),
    ],
)
def test_a_password_is_never_shown(url: str, shown: str) -> None:
    assert mask(url) == shown


def test_settings_can_be_printed_without_a_password() -> None:
    url = "postgresql://me:secret@db/x"
    assert "secret" not in repr(Settings(database_url=url, direct_url=url))


@pytest.mark.parametrize(
    ("url", "named"),
    [
        ("mysql://me:secret@db:3306/x", "mysql://db:3306"),
        ("mysql://secret@db", "mysql://db"),
        ("mysql://me:se?cret@db", "mysql://"),
        ("me:secret@db", ""),
    ],
)
def test_a_url_of_another_product_is_named_by_scheme_and_host(url: str, named: str) -> None:
    assert scheme_and_host(url) == named


def test_the_table_of_settings_masks_secrets_and_explains_each() -> None:
    url = "postgresql://me:secret@db/x"
    rows = Settings.read({"PROTHEON_DIRECT_URL": url}, {}, {"database_url": url}).rows()
    assert "secret" not in repr(rows)
    assert all(row["meaning"] for row in rows)
    assert {row["name"]: row["origin"] for row in rows if row["name"] in SECRETS} == {
        "database_url": "flag",
        "direct_url": "PROTHEON_DIRECT_URL",
    }


@pytest.mark.parametrize(
    "settings",
    [
        Settings(),
        Settings(database_url="postgresql://new"),
        Settings(lease_s=3, renew_s=1, exit_grace_s=2, stall_s=3, backoff_jitter=0.25, home="/a b", reject_limit="7", broker_port=0),
    ],
)
def test_a_child_process_gets_these_settings_whatever_it_inherits_and_whatever_the_file_says(settings: Settings) -> None:
    inherited = {"PROTHEON_DIRECT_URL": "postgresql://old", "PROTHEON_LEASE_S": "90", "PROTHEON_RENEW_S": "20", "PROTHEON_HOME": "/old"}
    file = {"workspace": "/elsewhere", "complete_grace_s": 7.0}
    assert Settings.read({**inherited, **environment(settings)}, file, {}).settings == settings


def test_the_caps_of_the_settings_are_those_of_the_policy() -> None:
    policy = Settings(
        dead_at_failures=7, dead_at_crashes=8, dead_at_losses=9, backoff_base_s=1, backoff_cap_s=2, backoff_jitter=0.5
    ).retry_policy
    assert dict(policy.caps) == {Cost.FAILURE: 7, Cost.CRASH: 8, Cost.LOSS: 9}
    assert (policy.base_s, policy.cap_s, policy.jitter) == (1, 2, 0.5)


@pytest.mark.parametrize(
    ("text", "limit"),
    [
        ("0", RejectLimit(lines=0)),
        (" 1000 ", RejectLimit(lines=1000)),
        ("5%", RejectLimit(fraction=0.05)),
        ("0%", RejectLimit(fraction=0.0)),
        ("100%", RejectLimit(fraction=1.0)),
        ("0.5%", RejectLimit(fraction=0.005)),
    ],
)
def test_a_reject_limit_is_a_number_or_a_share(text: str, limit: RejectLimit) -> None:
    assert parse_reject_limit(text) == limit


@pytest.mark.parametrize("text", ["", "-1", "101%", "-1%", "1.5", "%", "nan%", "many"])
def test_what_is_neither_is_refused(text: str) -> None:
    with pytest.raises(ConfigError, match="reject limit"):
        parse_reject_limit(text)
