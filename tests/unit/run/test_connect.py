"""A database URL that cannot be read is the operator's, and nothing of it is told."""

from __future__ import annotations

import re
import socket

import pytest

from protheon_dask.errors import ConfigError, LedgerUnavailable, ProtheonError
from protheon_dask.ledger.connect import connect, opened, place_of


@pytest.mark.parametrize(
    "url",
    [
        "postgresql://me:sec%ret@db/x",
        "postgresql://me:se?c@ret@db/x",
        "postgresql://me:sec/ret@db/x",
        "postgresql://me:12/ret@db/x",
        "postgresql://me:sec@ret@db/x",
        "postgresql://me:secret",
        "host=db password='sec ret",
    ],
)
def test_a_url_that_a_password_breaks_is_told_without_its_text(url: str) -> None:
    for use in (place_of, lambda text: connect(text, application="t"), lambda text: opened(text, application="t").__enter__()):
        with pytest.raises(ConfigError, match="percent-encode special characters") as caught:
            use(url)
        assert not {"sec", "ret"} & set(str(caught.value).replace(":", " ").split())
        assert caught.value.__cause__ is None


@pytest.mark.parametrize("url", ["postgresql://me@db:54a2/x", "postgresql://db/x?colour=red", "postgresql://db/%zz", "host=db colour"])
def test_a_url_without_a_password_is_not_said_to_be_wrong_in_it(url: str) -> None:
    with pytest.raises(ConfigError) as caught:
        place_of(url)
    assert str(caught.value) == "the database URL cannot be read: give postgresql://user@host:5432/database"


@pytest.mark.parametrize(
    "url",
    ["postgresql://", "postgresql://me:se?cret@db/x", "postgresql://me:s%40@db:1,db:2/x?sslmode=require", "host=db port=1 password = 'x'"],
)
def test_a_url_that_can_be_read_is_shown_without_its_password(url: str) -> None:
    assert not {"password", "cret", "x'"} & set(re.findall("[a-z]+", str(place_of(url))))


@pytest.mark.parametrize(
    ("url", "place"),
    [
        ("postgresql://me@db:1/x", "db:1"),
        ("postgresql://me@db:1,[::1]:2/x", "db:1 or [::1]:2"),
        ("host=a,b,c port=7 user=me dbname=x", "a:7 or b:7 or c:7"),
        ("postgresql://me@a,b/x?target_session_attrs=read-write", "a or b"),
        ("postgresql://me@%2Fvar%2Frun:1/x", "/var/run:1"),
    ],
)
def test_each_host_of_a_url_is_shown_with_its_port(url: str, place: str) -> None:
    assert str(place_of(url)) == f"database 'x' at {place}, role 'me'"


@pytest.mark.parametrize(("number", "whose"), [(socket.EAI_NONAME, ConfigError), (socket.EAI_AGAIN, LedgerUnavailable)])
def test_a_host_that_is_not_there_is_the_operators_and_a_silent_name_server_nobodys(
    monkeypatch: pytest.MonkeyPatch, number: int, whose: type[ProtheonError]
) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise socket.gaierror(number, "what the resolver says")

    monkeypatch.setattr(socket, "getaddrinfo", refuse)
    with pytest.raises(whose, match=r"databse\.example"):
        connect("postgresql://me@databse.example/x", application="t")
