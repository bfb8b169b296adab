"""From sample lines to a pipeline: types, keys, tables, comments; each file is run on the lines that it was made of."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

import pytest
from hypothesis import HealthCheck, Phase, assume, example, given, settings
from hypothesis import strategies as st

from protheon_dask.errors import ConfigError
from protheon_dask.pipelines.pgcr import pgcr
from protheon_dask.pipelines.pipeline import ChunkContext
from protheon_dask.pipelines.sample import sample_lines
from protheon_dask.pipelines.scaffold.make import Origin, Scaffold, call, scaffold
from tests.fixtures import public_lines

WHOLE, HEAD = Origin("lines.jsonl", "all of them", True), Origin("lines.jsonl", "its head", False)
SHAPES = (
    *(public_lines.github_events, public_lines.wikipedia_changes, public_lines.mastodon_statuses),
    *(public_lines.stripe_events, public_lines.openalex_works, public_lines.nginx_log),
)


def dumped(documents: Sequence[Any]) -> list[bytes]:
    return [json.dumps(document, ensure_ascii=False).encode() for document in documents]


def made(documents: Sequence[Any], origin: Origin = WHOLE, **options: Any) -> Scaffold:
    return scaffold(dumped(documents), origin, table=options.pop("table", "public.t"), **options)


def column(text: str, name: str) -> str:
    """What stands behind a column's name in the first class, comments left out."""
    [line] = [line for line in text.split("\n\n\n")[1].splitlines() if line.startswith(f"    {name}: ")]
    return line.partition(": ")[2].partition("  #")[0]


@pytest.mark.parametrize(
    ("values", "annotation"),
    [
        ([1, 2, -3], "int"),
        ([1, None], "int | None = None"),
        ([2**63 - 1, -(2**63)], "int"),
        ([2**63], "Decimal"),
        ([1, 2.5], "float"),
        ([1e300, -0.0], "float"),
        ([2**53 + 1, 0.5], "Decimal"),
        ([True, False], "bool"),
        ([True, 1], "msgspec.Raw"),
        (["a", ""], "str"),
        (["1", "-20"], "int"),
        (["1", 2], "int"),
        (["1", ""], "str"),
        (["01", "2"], "str"),
        (["9223372036854775808", "1"], "Decimal"),
        (["1.50", "2"], "Decimal"),
        (["1.5", 2], "Decimal"),
        (["1e5", "2"], "str"),
        (["2026-03-01T06:00:00Z", "2026-03-01T06:00:00.123+02:00"], "dt.datetime"),
        (["2026-03-01T06:00:00", "2026-03-01 06:00:00"], "Timestamp"),
        (["2026-03-01T06:00:00", "2026-03-01T06:00:00Z"], "str"),
        (["2026-03-01T06:00:60Z"], "str"),
        (["2026-03-01", "2024-02-29"], "dt.date"),
        (["2026-02-30"], "str"),
        (["2012"], "int"),
        (["5f0c1a1e-7f1e-4d5c-9a77-0f6b8b3b2b11"], "UUID"),
        (["d41d8cd98f00b204e9800998ecf8427e"], "str"),
        ([[1, 2], []], "list[int]"),
        ([[1, None], [3]], "list[int | None]"),
        ([["a"], None], "list[str] | None = None"),
        ([["2026-03-01T06:00:00Z"]], "msgspec.Raw"),
        ([[1, "a"]], "msgspec.Raw"),
        ([[[1], [2, 3]]], "msgspec.Raw"),
        ([[], []], "msgspec.Raw"),
        ([None, None], "msgspec.Raw = msgspec.Raw()"),
        ([{}, {}], "msgspec.Raw"),
        (["a", {"b": 1}], "msgspec.Raw"),
        ([{"2026-03-01": 1}, {"2026-03-02": 5}], "msgspec.Raw"),
        ([["a\0b"]], "Json"),
        ([{"1": "a\0b"}], "Json"),
    ],
    ids=str,
)
def test_the_type_of_a_column_takes_each_value_that_was_seen(values: list[Any], annotation: str) -> None:
    result = made([{"n": n, "x": value} for n, value in enumerate(values)])
    assert column(result.text, "x") == annotation
    assert (result.n_rows, result.n_rejected) == ({"public.t": len(values)}, 0)


@pytest.mark.parametrize(
    ("odd", "common", "annotation", "told"),
    [
        ("n/a", 7, "int", "1 of 1,000 is of another kind, and refused; always 7"),
        ({"a": 1}, 1.5, "float", "1 of 1,000 is of another kind, and refused; always 1.5"),
        ("yes", True, "bool", "1 of 1,000 is of another kind, and refused; always true"),
        ([7], "2026-03-01", "dt.date", "1 of 1,000 is of another kind, and refused; always 2026-03-01"),
    ],
)
def test_one_odd_value_of_a_thousand_is_a_reject_and_no_other_type(odd: Any, common: Any, annotation: str, told: str) -> None:
    result = made([{"n": n, "x": odd if n == 500 else common} for n in range(1_000)])
    assert column(result.text, "x") == annotation
    assert told in result.text
    assert (result.n_rows, result.n_rejected) == ({"public.t": 999}, 1)
    seldom = made([{"n": n, "x": odd if n == 500 else common} for n in range(999)])
    assert (column(seldom.text, "x"), seldom.n_rejected) == ("msgspec.Raw", 0)


def test_an_odd_value_of_a_key_leaves_the_key_as_it_is() -> None:
    documents = [{"id": n if n != 500 else "n/a", "items": [{"a": 1}, {"a": 2}]} for n in range(1_000)]
    for result in (made(documents), made(documents, key=["id"])):
        assert column(result.text, "id") == "int"
        assert 'primary_key="id"' in result.text
        assert result.n_rows == {"public.t": 999, "public.t_items": 1_998}


def test_odd_values_within_lists_are_kept_for_they_may_be_in_many_more_of_the_lines() -> None:
    result = made([{"id": n, "tags": list(range(20)) if n else [*range(19), "odd"], "x": 1} for n in range(100)])
    assert (column(result.text, "tags"), result.n_rejected) == ("msgspec.Raw", 0)


def test_a_number_with_more_digits_than_a_double_has_is_numeric() -> None:
    lines = [b'{"x": 0.12345678901234567890}', b'{"x": 1}', b'{"x": 1e400}']
    result = scaffold(lines, WHOLE, table="t")
    assert column(result.text, "x") == "Decimal"
    assert result.n_rejected == 0


def test_a_number_that_numeric_cannot_hold_is_kept_as_json() -> None:
    for huge in (b"1e200000", b"1e-99999999999999999999", b"-1e99999999999999999999"):  # the last ones are beyond decimal, too
        result = scaffold([b'{"x": ' + huge + b"}", b'{"x": 1}'], WHOLE, table="t")
        assert column(result.text, "x") == "Json"
        assert result.n_rejected == 0


def test_ints_beyond_a_double_are_told_in_few_digits() -> None:
    result = scaffold([b'{"x": ' + b"9" * 400 + b', "y": 1}', b'{"x": 0.5, "y": -' + b"9" * 4_000 + b"}"], WHOLE, table="t")
    assert "x: Decimal  # 0.5 .. 9.99999e+399" in result.text
    assert "y: Decimal  # -9.99999e+3999 .. 1" in result.text
    assert result.n_rejected == 0


def test_what_is_few_is_not_believed_unless_it_is_all() -> None:
    documents = [{"id": n, "size": "12" if n < 5 else None, "ref": {"id": n} if n < 5 else None} for n in range(10)]
    part, whole = made(documents, HEAD).text, made(documents).text
    assert (column(part, "size"), column(whole, "size")) == ("str | None", "int | None")
    assert "id: int | None = None" in part
    assert column(made([{"id": n} for n in range(5)], HEAD).text, "id") == "int"  # the key is in every line in any case


def test_a_field_that_any_line_lacks_is_optional() -> None:
    documents = [{"id": n, "a": {"b": n}} if n else {"id": n} for n in range(100)]
    result = made(documents)
    assert column(result.text, "a_b") == "int | None"
    assert "a = line.a or NO_A" in result.text
    assert "in 99 %" in result.text


def test_the_key_is_what_is_called_so_and_is_never_twice() -> None:
    documents = [{"shop": n % 3, "url": f"u{n}", "meta": {"id": n}, "user_id": n % 50} for n in range(100)]
    result = made(documents)
    assert 'primary_key="meta_id", on_conflict="ignore", provenance=True' in " ".join(result.text.split())
    assert "# Key meta.id: unique in 100 of 100 lines." in result.text
    assert "# Unique as well: url." in result.text


def test_what_is_unique_and_not_called_a_key_is_only_named() -> None:
    result = made([{"url": f"u{n}", "n": n} for n in range(100)])
    assert "primary_key" not in result.text
    assert "on_conflict" not in result.text
    assert "Unique in the sample: url, n." in " ".join(result.text.replace("\n# ", " ").split())
    assert "--key" in " ".join(result.notes)


def test_a_person_names_the_key_also_of_several_values() -> None:
    documents = [{"shop": n % 3, "day": {"no": n // 3}, "items": [{"sku": "a"}]} for n in range(99)]
    result = made(documents, key=["shop", "day.no"])
    assert "Key shop, day.no: unique in 99 of 99 lines." in result.text
    assert 'primary_key=("shop", "day_no")' in result.text
    assert 'primary_key=("shop", "day_no", "item_no")' in result.text
    assert made(documents, key=["shop", "day_no"]).text == result.text  # the column's name is as good


def test_ids_of_which_some_are_beyond_bigint_are_no_key_until_a_person_says_so_and_the_file_says_why() -> None:
    documents = [{"id": n, "of": [{"a": 1}]} for n in [*range(98), 999_999_999_999_991_000_000, 10**30 - 1]]
    result = made(documents)
    told = "id: unique in 100 of 100 lines, but it has numbers beyond bigint, which may be damaged; --key id takes it"
    assert f"Not taken: {told} (its column is numeric)." in " ".join(result.text.replace("\n# ", " ").split())
    assert result.notes == (
        f"no key was found ({told}): lists of objects stay jsonb, and loading with --again would double the rows; --key names one",
    )
    assert "0 .. 9.99999e+29" in result.text
    assert "0 .. 999999999999991000000" in made(documents[:-1]).text
    assert "Key id: unique in 100 of 100 lines." in made(documents, key=["id"]).text


def test_a_key_that_is_not_unique_is_taken_with_a_warning() -> None:
    result = made([{"id": n, "shop": n % 3} for n in range(99)], key=["shop"])
    assert "It is not unique" in result.text
    assert "rows with an equal key will be ignored" in result.notes[0]


@pytest.mark.parametrize(
    ("key", "word"),
    [
        ("nothing", "no such value; in every line there are: id"),
        ("maybe", "1 of 10 lines lack it"),
        ("list", "no such value"),
        ("ratio", "an int or a text"),
    ],
)
def test_a_key_that_cannot_be_one_is_refused_in_words(key: str, word: str) -> None:
    documents = [{"id": n, "maybe": n or None, "list": [n], "ratio": n + 0.5} for n in range(10)]
    with pytest.raises(ConfigError, match=word):
        made(documents, key=[key])


def test_lines_that_stand_twice_do_not_hide_the_key() -> None:
    result = made([{"id": n, "x": 1} for n in [*range(50), *range(10)]])
    assert "Key id: unique in 50 of 50 lines. 10 lines stood twice" in result.text


def test_a_list_of_objects_is_a_table_with_the_key_of_its_line_and_a_number() -> None:
    documents = [{"id": n, "items": [{"sku": f"s{i}", "tags": [{"t": 1}]} for i in range(n % 3)]} for n in range(30)]
    result = made(documents, table="shop.orders")
    assert result.n_rows == {"shop.orders": 30, "shop.orders_items": 30, "shop.orders_tags": 30}
    for line in (
        'primary_key=("order_id", "item_no")',
        'primary_key=("order_id", "item_no", "tag_no")',
        "for item_no, item in enumerate(line.items, start=1):",
    ):
        assert line in result.text


def test_without_a_key_lists_of_objects_stay_jsonb_and_the_file_says_why() -> None:
    result = made([{"items": [{"a": 1}]} for _ in range(3)] + [{"items": [{"a": 2}]}])
    assert column(result.text, "items") == "msgspec.Raw"
    assert "a table for them needs the key of their line" in result.text


def test_nulls_in_a_list_of_objects_are_passed_over() -> None:
    result = made([{"id": 1, "items": [{"a": 1}, None, {"a": 2}]}, {"id": 2, "items": None}])
    assert result.n_rows == {"public.t": 2, "public.t_items": 2}


def test_an_object_that_few_rows_have_stays_jsonb() -> None:
    documents = [{"id": n, "rare": {"a": 1, "b": 2} if n % 20 == 0 else None} for n in range(200)]
    assert column(made(documents).text, "rare").startswith("msgspec.Raw")


@pytest.mark.parametrize(
    "value",
    [
        {f"user{n}": n for n in range(3)} | {"user_extra": 1},
        {"a": {"b": {"c": {"d": {"e": 1}}}}},
    ],
)
def test_objects_within_objects_are_columns_up_to_four_levels(value: dict[str, Any]) -> None:
    assert made([{"id": n, "x": value} for n in range(3)]).n_rejected == 0


def test_a_map_from_words_to_numbers_stays_jsonb() -> None:
    documents = [{"id": n, "words": {f"word{(n * 7 + i) % 300}": i for i in range(10)}} for n in range(60)]
    result = made(documents)
    assert column(result.text, "words") == "msgspec.Raw"
    assert "a map: 300 keys that look like data" in result.text


def test_a_table_never_gets_more_columns_than_a_row_can_hold() -> None:
    documents = [
        {"id": n, "a": {f"k{i}x": i for i in range(150)}, **{f"m{i}x": {f"n{j}x": j for j in range(40)} for i in range(8)}}
        for n in range(3)
    ]
    result = made(documents)
    assert result.n_rejected == 0
    first_class = result.text.split("\n\n\n")[1]
    assert first_class.count("\n    ") < 210
    assert "an object of many keys" in result.text


def test_lines_with_very_many_keys_keep_the_most_frequent() -> None:
    documents = [{"id": n, **{f"key{n}_{i}x": i for i in range(30)}} for n in range(30)]
    result = made(documents)
    assert result.n_rows == {"public.t": 30}
    assert "and there are 400 columns already" in result.text


def test_a_flat_object_is_read_by_its_table_itself() -> None:
    result = made([{"id": n, "X-Name": "a"} for n in range(3)], table="web.access")
    assert 'x_name: str = msgspec.field(name="X-Name")' in result.text
    assert result.text.endswith("@protheon.pipeline\ndef access(line: Access) -> Access:\n    return line\n")


def test_names_that_hide_a_type_or_a_word_of_sql_get_an_underscore() -> None:
    document = {"class": 1, "user": 2, "order": 3, "int": 4, "dt": "2026-03-01T06:00:00Z", "xmin": 5, "date": "2026-03-01", "None": 6}
    result = made([{"id": n, **document} for n in range(3)])
    assert result.n_rejected == 0
    names = ("class_", "user_", "order_", "int_", "dt_", "xmin_", "date", "none")
    found = [column(result.text, name).partition(" = ")[0] for name in names]
    assert found == [*["int"] * 4, "dt.datetime", "int", "dt.date", "int"]


def test_keys_that_differ_only_in_case_are_columns_of_their_own() -> None:
    result = made([{"id": 1, "Name": "a", "name": "b", "NAME": "c", "_id": 3}])
    assert result.n_rejected == 0
    assert [column(result.text, name)[:3] for name in ("name", "name_2", "name_3", "id", "id_2")] == ["str", "str", "str", "int", "int"]


def test_a_key_that_no_field_can_have_is_left_out_and_the_file_says_so() -> None:
    result = made([{"id": 1, 'say "hi"': 2, "new\nline": 3}])
    assert "# Left out: 'say \"hi\"', msgspec takes no key with a quote" in result.text
    assert r'# Left out: "new\nline"' in result.text
    result = made([{"id": 1, "list": [{"a\\b": 1}]}])  # no field is left: a class with none would be no Python
    assert "a list of objects whose keys no field can have" in " ".join(result.text.split())
    assert result.n_rows == {"public.t": 1}


def test_a_nul_in_a_text_is_replaced_by_code_that_one_can_see() -> None:
    result = made([{"id": 1, "a": "x\0y", "b": None}, {"id": 2, "a": "z", "b": "\0"}])
    assert "        clean(line.a),  # a\n" in result.text
    assert "        line.b and clean(line.b),  # b\n" in result.text


def test_a_file_tells_no_secret_of_its_lines() -> None:
    result = made([{"id": n, "email": f"ann{n}@example.org", "apiToken": f"tok{n}", "password": "hunter2"} for n in range(9)])
    assert not [word for word in ("ann0", "tok0", "hunter2") if word in result.text]


def test_values_cannot_break_out_of_comments_and_literals() -> None:
    evil = 'x"""\n\nraise SystemExit  # \u2028\u202e\\'
    documents = [{"id": n, evil: evil, "b": evil, "c\u2028": {"d'": evil}, "}{": "{0}"} for n in range(3)]
    result = scaffold(dumped(documents), Origin(evil, "its head", False), table="t")
    assert result.n_rejected == 0
    assert "\u202e" not in result.text


def test_an_int_called_like_a_time_says_what_it_may_be() -> None:
    assert "milliseconds since 1970? 2026-03-01 .. 2026-03-01" in " ".join(
        made([{"id": n, "created_at": 1_772_323_200_000 + n} for n in range(3)]).text.split()
    )


@pytest.mark.parametrize(
    ("lines", "word"),
    [
        ([b"[1, 2]", b"[3]"], "its lines are JSON arrays, and scaffold reads JSON objects"),
        ([b"1", b"2"], "JSON numbers"),
        ([b"a,b,c", b"1,2,3"], "columns with commas between them"),
        ([b'{"id": 1, "at": "2026-01-01T10:00:00Z", "name": "anna", "items": [1, 2, 3, '] * 2, "cut or broken on its line"),
        ([b"[INFO] one, two, three, and some more words that are none of a table"] * 2, "a pipeline that takes bytes"),
        ([b"plain words", b"more of them"], "a pipeline that takes bytes"),
        ([b"{", b'  "a": 1,', b'  "b": 2', b"}"], "jq -c . FILE"),
        ([b"[", b'  {"a": 1},', b"]"], r"jq -c '.\[\]' FILE"),
        ([b"", b"  "], "no lines that are not blank"),
        ([b"{}", b"{}"], "empty objects"),
        ([b'{"a\\\\b": 1}'], "no key that a field can have"),
    ],
    ids=str,
)
def test_what_is_no_object_a_line_gets_a_way_on(lines: list[bytes], word: str) -> None:
    with pytest.raises(ConfigError, match=word):
        scaffold(lines, WHOLE, table="t")


def test_keys_that_are_data_are_refused_with_a_way_on() -> None:
    with pytest.raises(ConfigError, match="more than 1,000 different keys"):
        made([{f"k{n}_{i}": 1 for i in range(50)} for n in range(30)])


def test_some_bad_lines_are_told_and_become_rejects() -> None:
    result = scaffold([b'{"id": 1}', b'{"id": 2', b'{"id": 3}', b"[]"], WHOLE, table="t")
    assert result.n_lines == 2
    assert "1 sampled line is no JSON" in result.text
    assert len(result.notes) == 2


@pytest.mark.parametrize(
    ("options", "word"),
    [
        ({"table": "a.b.c"}, "schema.name"),
        ({"table": "x" * 64}, "63 bytes"),
        ({"name": "my-pipe"}, "such as my_pipe"),
        ({"name": "class"}, "such as class_"),
    ],
)
def test_names_that_cannot_be_used_are_refused(options: dict[str, str], word: str) -> None:
    with pytest.raises(ConfigError, match=word):
        made([{"id": 1}], **options)


@pytest.mark.parametrize("shape", SHAPES, ids=lambda shape: shape.__name__)
def test_lines_beyond_the_sample_are_taken_too(shape: Any) -> None:
    lines = dumped(list(shape(3_000)))
    result = scaffold(lines[:1_000], HEAD, table="t")
    n_rows, rejections = call(result.text, lines)
    assert rejections == []
    assert n_rows["public.t" if "public.t" in n_rows else "t"] == 3_000


def test_reports_give_as_many_entries_and_weapons_as_the_built_in_pipeline() -> None:
    lines = list(sample_lines(300))
    result = scaffold(lines, WHOLE, table="t", key=["activityDetails.instanceId"])
    built_in = pgcr.open(ChunkContext(0, 0, "")).transform(lines, range(1, 301))
    by_table = {table.name: len(rows.rows) for table, rows in zip(pgcr.tables, built_in.tables, strict=True)}
    assert result.n_rows["public.t"] == by_table["pgcr.instance"]
    assert result.n_rows["public.t_entries"] == by_table["pgcr.instance_character"]
    assert result.n_rows["public.t_weapons"] == by_table["pgcr.instance_character_weapon"]


PHASES = [phase for phase in Phase if phase is not Phase.explain]  # its tracer makes one example take seconds
TEXTS = st.text(st.characters(exclude_categories=["Cs"]), max_size=12)
SCALARS = (
    st.none() | st.booleans() | st.integers() | st.integers(-3, 3) | st.floats(allow_nan=False, allow_infinity=False) | TEXTS
) | st.sampled_from(
    ["2026-03-01", "2026-03-01T06:00:00Z", "2026-03-01T06:00:00", "12", "1.50", "", "\0", "5f0c1a1e-7f1e-4d5c-9a77-0f6b8b3b2b11"]
)
KEYS = st.sampled_from(["id", "a", "b", "c", "user", "class", "x.y", "A", "_id", "2", "列", ""]) | TEXTS
VALUES = st.recursive(SCALARS, lambda inner: st.lists(inner, max_size=4) | st.dictionaries(KEYS, inner, max_size=4), max_leaves=12)
DOCUMENTS = st.lists(st.dictionaries(KEYS, VALUES, max_size=6), min_size=1, max_size=12)


@settings(max_examples=60, suppress_health_check=[HealthCheck.too_slow], phases=PHASES)
@given(DOCUMENTS, st.sampled_from([WHOLE, HEAD]))
@example([{"id": 1, "a": [{"b": []}, {"b": [{"id": 2}]}]}, {"id": 2, "a": []}], WHOLE)
def test_a_scaffold_takes_every_line_that_it_was_made_of(documents: list[dict[str, Any]], origin: Origin) -> None:
    try:
        result = made(documents, origin)
    except ConfigError as refused:
        assume("empty objects" not in str(refused))
        raise
    assert (result.n_rejected, result.first_rejection) == (0, "")
    assert result.n_rows["public.t"] == len(set(dumped(documents)))


def test_a_pipeline_may_be_called_like_its_table_or_like_what_the_file_has_for_other_things() -> None:
    for table, name in (("line", None), ("t", "T"), ("class", None), ("msgspec", None), ("row", "Line"), ("名前", None)):
        result = made([{"id": 1, "line": [{"a": 1}], "row": {"a": 1}, "名前": 2}], table=table, name=name)
        assert (result.n_rejected, sum(result.n_rows.values())) == (0, 2)


def test_a_line_as_deep_as_can_be_read_is_looked_at() -> None:
    lines = [b'{"id": 1, "x": ' + b"[" * depth + b"]" * depth + b"}" for depth in range(1, 700, 37)]
    assert scaffold(lines, WHOLE, table="t").n_rejected == 0
