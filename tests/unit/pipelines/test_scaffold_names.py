"""Names made of any key."""

from __future__ import annotations

import builtins
import keyword
import unicodedata

import pytest
from hypothesis import given
from hypothesis import strategies as st

from protheon_dask.pipelines.scaffold import names

KEYS = st.text(max_size=80) | st.sampled_from(
    ["class", "user", "xmin", "", "-", "+1", "dt", "int", "ﬁnal", "\uff11st", "Ⅷ", "a" * 200, "ä" * 70]
)


@pytest.mark.parametrize(
    ("key", "name"),
    [
        ("displayName", "display_name"),
        ("X-Request-ID", "x_request_id"),
        ("@timestamp", "timestamp"),
        ("HTTPStatus", "http_status"),
        ("instanceId2", "instance_id2"),
        ("Größe", "grosse"),
        ("имя", "имя"),
        ("名前", "名前"),
        ("2fa", "c_2fa"),
        ("+1", "plus_1"),
        ("-1", "minus_1"),
        ("", "empty"),
        ("🚀", "unnamed"),
        ("_id", "id"),
        ("__typename", "typename"),
    ],
)
def test_a_key_is_still_known_by_its_name(key: str, name: str) -> None:
    assert names.snake(key) == name


@given(KEYS)
def test_any_key_gives_a_name_that_python_and_postgresql_take(key: str) -> None:
    name = names.snake(key)
    assert name.isidentifier()
    assert name == unicodedata.normalize("NFKC", name)  # Python compares identifiers in this form
    assert len(name) <= names.MAX_NAME
    assert len(name.encode()) <= names.IDENTIFIER_BYTES
    assert not name.startswith("_")


@given(st.lists(KEYS, max_size=30, unique=True))
def test_columns_are_told_apart_and_are_no_words_of_sql_or_python(keys: list[str]) -> None:
    made = names.column_names({(key,): (key,) for key in keys}, {"id"})
    found = list(made.values())
    assert len(set(found)) == len(found) == len(keys)
    assert "id" not in found
    for name in found:
        assert name.isidentifier()
        assert not keyword.iskeyword(name)
        assert name not in names.SQL_RESERVED | names.SQL_SYSTEM | names.ANNOTATIONS
        assert len(name) <= names.MAX_NAME + 1
        assert len(name.encode()) <= names.IDENTIFIER_BYTES


def test_columns_tell_as_much_of_their_path_as_tells_them_apart() -> None:
    paths = [("id",), ("actor", "id"), ("a", "values", "kills"), ("b", "values", "kills"), ("order",), ("payload", "user")]
    assert list(names.column_names({path: path for path in paths}, ()).values()) == [
        "id",
        "actor_id",
        "a_values_kills",
        "b_values_kills",
        "order_",
        "payload_user",
    ]


@given(KEYS)
def test_classes_and_variables_hide_no_built_in_name(key: str) -> None:
    for name in (names.class_name(key, {"Line"}), names.variable_name(key, {"line"})):
        assert name.isidentifier()
        assert not hasattr(builtins, name)
        assert not keyword.iskeyword(name)
        assert name not in ("Line", "line", "msgspec", "dt", "protheon")


@given(st.text(max_size=40))
def test_a_literal_is_read_back_and_hides_nothing(text: str) -> None:
    written = names.literal(text)
    assert eval(written) == text
    assert all(c == " " or (c.isprintable() and unicodedata.category(c) not in ("Cf", "Zl", "Zp")) for c in written)


@pytest.mark.parametrize(
    ("many", "one"),
    [
        *[("entries", "entry"), ("addresses", "address"), ("statuses", "status"), ("series", "series"), ("media", "media")],
        *[("boxes", "box"), ("news", "news"), ("status", "status"), ("mentions", "mention"), ("caches", "cache")],
        *[("branches", "branch"), ("sizes", "size"), ("is", "is")],
    ],
)
def test_one_of_several(many: str, one: str) -> None:
    assert names.singular(many) == one
