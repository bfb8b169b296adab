"""``protheon rejects`` and ``runs pause|resume`` as a person types them, beside a master that runs."""

from __future__ import annotations

import base64
import gzip
import json
from typing import Any

import zstandard

from protheon_dask.policy import RejectLimit
from tests.acceptance.conftest import Gate, Type, World, numbers
from tests.acceptance.test_replay import ANY, marked, pipeline

SETTINGS = {"chunk_lines": 100}


def lines_of(data: bytes) -> list[dict[str, Any]]:
    return [json.loads(line) for line in data.splitlines()]


def test_rejects_are_exported_with_their_places_reasons_and_lines(world: World, type_: Type) -> None:
    source = world.directory / "n.txt"
    lines = [b"o 0", b"b 1", b"b 2 \xff", b"b 3 " + "é".encode() * 40_000, b'b 4 "\x00"', b"o 5"]
    source.write_bytes(b"\r\n".join(lines))
    body = 'if n == 5: return [(n,), protheon.Reject("odd", part="half")]'
    first = world.load(pipeline(world.directory, "exported", "b", body), source, reject_limit=ANY)

    typed = type_("rejects", "export", first.run)
    assert typed.code == 0
    assert "5 rejects written to stdout; 1 line cut" in typed.err
    found = lines_of(typed.out.encode())
    offsets = [sum(len(line) + 2 for line in lines[:n]) for n in range(len(lines))]
    assert [(row["path"], row["line"], row["byte_offset"]) for row in found] == [(str(source), n + 1, offsets[n]) for n in range(1, 6)]
    assert [row["reason"] for row in found] == ["mark b"] * 4 + ["odd"]
    assert [row["part"] for row in found] == [None] * 4 + ["half"]
    assert [row["raw"] for row in found if "raw" in row] == ["b 1\r", "b 3 " + "é" * 32_766, 'b 4 "\x00"\r', "o 5"]
    assert base64.b64decode(found[1]["raw_base64"]) == b"b 2 \xff\r"
    assert [row.get("truncated") for row in found] == [None, None, True, None, None]
    assert found[2]["raw_bytes"] == len(lines[3]) + 1
    assert {row["replayed_by"] for row in found} == {None}

    for name, opened in (("a.jsonl", open), ("a.jsonl.gz", gzip.open), ("a.jsonl.zst", zstandard.open)):
        assert type_("rejects", "export", first.run, "--output", world.directory / name).code == 0
        with opened(world.directory / name, "rb") as file:
            assert lines_of(file.read()) == found
    assert sorted(path.name for path in world.directory.glob("*.part")) == []


def test_raw_lines_are_exported_as_they_stood_edited_and_loaded(world: World, type_: Type) -> None:
    source = marked(world.directory / "n.txt", "obo" * 20)
    spec = pipeline(world.directory, "edited", "b")
    first = world.load(spec, source, reject_limit=ANY)
    out = world.directory / "bad.txt"
    assert type_("rejects", "export", first.run, "--raw", "-o", out).code == 0
    assert out.read_bytes() == b"".join(b"b %d\n" % n for n in range(1, 60, 3))
    out.write_bytes(out.read_bytes().replace(b"b", b"o"))
    assert type_("load", out, "--pipeline", spec, "--quiet").code == 0
    assert numbers(world.url, "edited") == list(range(60))
    assert type_("rejects", "export", first.run, "--raw", "--all").code == 2


def test_replay_is_typed_until_nothing_is_left(world: World, type_: Type) -> None:
    source = marked(world.directory / "n.txt", "obc" * 50)
    first = world.load(pipeline(world.directory, "typed", "bc"), source)
    ended = type_("runs", "resume", first.run, "--quiet")
    assert f"had ended already; to bear that many: protheon load {source} --pipeline PIPELINE" in ended.err
    mended = pipeline(world.directory, "typed", "c")
    skipped = type_("load", source, "--pipeline", mended)
    assert "it stays as it is; a new version loads it anew" in skipped.err
    assert f"protheon rejects replay {first.run} --pipeline {mended}" in skipped.err
    assert f"see: protheon rejects replay {first.run} --pipeline {mended}" in skipped.out
    again = type_("rejects", "replay", first.run, "--pipeline", mended, "--json")
    assert (again.code, again.json["state"], again.json["loaded"], again.json["rejected"]) == (0, "succeeded", 50, 50)
    still = type_("rejects", "list", first.run, "--json", "--limit", 1_000).json
    assert [row["replayed_by"] for row in still] == [None] * 50
    assert len(type_("rejects", "show", first.run, "--json", "--limit", 1_000).json) == 50
    assert "the first 10 of 50, in the order of files and lines; --limit 50 shows all" in type_("rejects", "show", first.run).err
    assert "the first 10 of 150" in type_("rejects", "show", first.run, "--all").err
    for verb in ("list", "show"):
        told = type_("rejects", verb, first.run)
        assert f"100 were replayed by run {again.json['run']} (--all shows them)" in told.err
        assert ("replayed by" in told.out, "50 x mark c; first at line 3 of n.txt" in told.out) == (False, verb == "list")
        assert "(--all shows them)" not in type_("rejects", verb, first.run, "--all").err
    listed = type_("rejects", "list", first.run, "--json", "--all", "--limit", 1_000).json
    [closed] = type_("rejects", "show", first.run, "--id", listed[-1]["id"], "--json").json
    nothing = type_("rejects", "show", first.run, "--id", 987_654)
    assert (nothing.code, nothing.out, f"there is no reject 987654 of run {first.run}" in nothing.err) == (2, "", True)
    assert closed["replayed_by"] == again.json["run"]
    assert [row["replayed_by"] for row in listed].count(None) == 50
    assert [row["replayed_by"] for row in listed][:50] == [None] * 50  # what is left comes first
    table = type_("rejects", first.run, "--all", "--limit", 60)
    assert "replayed by" in table.out
    assert f"once their cause is mended: protheon rejects replay {first.run}" in table.err
    everything = lines_of(type_("rejects", "export", first.run, "--all").out.encode())
    assert len(everything) == 150
    assert len(lines_of(type_("rejects", "export", first.run).out.encode())) == 50

    last = type_("rejects", "replay", "--pipeline", pipeline(world.directory, "typed", ""))  # of the latest run, the replay
    assert last.code == 0, last.err
    assert "rejects of run" in last.out
    for options in ((), ("--json",)):
        nothing = type_("rejects", "replay", *options)
        assert nothing.code == 0
        assert "nothing to replay" in nothing.out + nothing.err
    assert numbers(world.url, "typed") == list(range(150))


def test_lines_that_cannot_be_replayed_now_are_an_incomplete_end(world: World, type_: Type) -> None:
    source = world.directory / "n.txt"
    source.write_bytes(b"b 0 " + b"#" * 70_000 + b"\no 1\n")
    first = world.load(pipeline(world.directory, "not_now", "b"), source, reject_limit=ANY)
    source.unlink()
    typed = type_("rejects", "replay", first.run)
    assert typed.code == 1
    assert "1 line, of which none can be replayed now" in typed.err
    assert "no such file" in typed.err


def test_a_run_that_paused_at_its_reject_limit_goes_on_with_a_higher_one(world: World, type_: Type) -> None:
    source = marked(world.directory / "n.txt", "oobb" * 200)
    spec = pipeline(world.directory, "limited", "b")
    paused = type_("load", source, "--pipeline", spec, "--reject-limit", 250)
    assert paused.code == 1
    [run] = [int(word) for word in paused.out.split("protheon runs resume ")[1].split()[:1]]
    assert "reject limit of 250 lines" in paused.out
    assert f"to go on: protheon runs resume {run} --reject-limit N|P%" in paused.out

    again = type_("runs", "resume", run, "--quiet")
    assert again.code == 1
    assert "it pauses again at the next line that is refused" in again.err
    done = type_("runs", "resume", run, "--reject-limit", "60%", "--json")
    assert (done.code, done.json["state"]) == (0, "succeeded")
    assert (done.json["lines"], done.json["loaded"], done.json["rejected"]) == (800, 400, 400)
    assert numbers(world.url, "limited") == [n for n in range(800) if n % 4 < 2]
    assert world.findings(run) == ()
    ended = type_("runs", "resume", run, "--quiet")
    assert (ended.code, ended.out) == (0, "")
    assert "had ended already" in ended.err


def test_a_run_that_paused_at_its_reject_limit_goes_on_when_the_mended_pipeline_is_typed(world: World, type_: Type) -> None:
    source = marked(world.directory / "n.txt", "oobb" * 200)
    first = world.load(pipeline(world.directory, "retyped", "b"), source, reject_limit=RejectLimit(lines=120))
    assert first.state == "paused"
    done = type_("load", source, "--pipeline", pipeline(world.directory, "retyped", ""), "--reject-limit", 200, "--json")
    assert (done.code, done.json["lines"]) == (0, 800)
    assert done.json["rejected"] == first.rejected <= 200  # of the chunks before, of which two side by side may overshoot 120
    replayed = type_("rejects", "replay", done.json["run"], "--json")
    assert (replayed.code, replayed.json["loaded"]) == (0, first.rejected)
    assert numbers(world.url, "retyped") == list(range(800))


def test_a_run_is_paused_and_resumed_by_hand(world: World, type_: Type, gate: Gate) -> None:
    source = marked(world.directory / "n.txt", "o" * 1_000)
    run = world.submit(pipeline(world.directory, "by_hand", "b", gate.body(2, 100)), source).run_id
    world.wait_chunks_done(run, 2)
    typed = type_("runs", "pause", run, "--reason", "the disk is filling up")
    assert (typed.code, "paused: the disk is filling up" in typed.out) == (0, True)
    assert f"protheon runs resume {run}" in typed.err
    again = type_("runs", "pause", run, "--reason", "another")
    assert "paused already: the disk is filling up" in again.out
    assert type_("runs", "pause", run, "--json").json["state"] == "paused"
    gate.open()
    done = type_("runs", "resume", run, "--workers", 9)
    assert done.code == 0
    assert "--workers is left aside" in done.err
    assert "succeeded" in done.out
    assert numbers(world.url, "by_hand") == list(range(1_000))
    late = type_("runs", "pause", run)
    assert (late.code, "succeeded" in late.out) == (0, True)
