"""The rules of failpoints: what is read, what is refused at start, and how often they fire."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import time
from pathlib import Path

import pytest

from protheon_dask import failpoints
from protheon_dask.errors import ConfigError
from protheon_dask.failpoints import Failpoints, Injected, Rule, parse
from tests.fixtures.failpoints import Switch

PACKAGE = Path(failpoints.__file__).parent
HIT = re.compile(r'failpoints\.hit\("([^"]+)"\)')


def test_rules_are_read_with_their_limits(tmp_path: Path) -> None:
    rules, directory = parse(f" commit.before=kill*1;copy.mid=raise*3@2 ; claim.after=sleep:2.5; dir={tmp_path};")
    assert rules == {
        "commit.before": Rule("kill", at_most=1),
        "copy.mid": Rule("raise", at_most=3, first_hit=2),
        "claim.after": Rule("sleep", 2.5),
    }
    assert directory == tmp_path


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("commit.bfore=kill", "there is no point 'commit.bfore'"),
        ("commit.before=die", "there is no action 'die'"),
        ("commit.before", "'commit.before' is not POINT=ACTION"),
        ("commit.before=sleep", "sleep takes seconds"),
        ("commit.before=kill:3", "sleep takes seconds"),
        ("commit.before=sleep:1.2.3", "'1.2.3' is not a number of seconds"),
        ("commit.before=raise*3", "dir=DIRECTORY"),
        ("dir=/nowhere/at/all", "is no directory"),
    ],
)
def test_what_is_wrong_is_told_with_the_list_of_points(text: str, told: str) -> None:
    with pytest.raises(ConfigError, match=re.escape(told)) as refused:
        parse(text)
    assert str(refused.value).startswith("PROTHEON_FAILPOINTS: ")
    assert all(point in str(refused.value) for point in failpoints.POINTS)


def test_every_problem_is_told_at_once() -> None:
    with pytest.raises(ConfigError, match=r"'a\.b'.*'fly'"):
        parse("a.b=kill; claim.after=fly")


def test_an_unknown_point_ends_a_process_of_ours_at_its_start() -> None:
    for module in ("protheon_dask.workspace.splitter", "protheon_dask.run.broker"):
        command = [sys.executable, "-m", module, *(["--scheduler", "tcp://127.0.0.1:1", "--port", "0"] if "broker" in module else [])]
        env = {**os.environ, failpoints.VARIABLE: "commit.bfore=kill"}
        done = subprocess.run(command, env=env, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=60, check=False)
        assert done.returncode != 0
        assert "there is no point 'commit.bfore'" in done.stderr


def test_nothing_happens_where_the_variable_is_not_set(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(failpoints.VARIABLE, raising=False)
    failpoints.arm_from_environment()
    for point in [*failpoints.POINTS, "not even looked at"]:
        failpoints.hit(point)


def test_a_rule_with_a_first_hit_lets_those_before_pass() -> None:
    armed = Failpoints({"copy.mid": Rule("raise", first_hit=3)}, None)
    armed.come_by("copy.mid")
    armed.come_by("copy.after")
    armed.come_by("copy.mid")
    for _ in range(2):
        with pytest.raises(Injected, match=r"failpoint copy\.mid"):
            armed.come_by("copy.mid")


def test_a_point_that_does_not_exist_is_a_defect_of_the_caller() -> None:
    with pytest.raises(KeyError):
        Failpoints({}, None).come_by("copy.middle")


def test_a_rule_fires_at_most_n_times_over_all_processes(tmp_path: Path) -> None:
    """Eight processes come by five times each at the same moment: three die."""
    code = "from protheon_dask import failpoints as f; f.arm_from_environment(); input(); [f.hit('copy.mid') for _ in range(5)]"
    env = {**os.environ, failpoints.VARIABLE: f"copy.mid=exit*3; dir={tmp_path}"}
    children = [subprocess.Popen([sys.executable, "-c", code], env=env, stdin=subprocess.PIPE) for _ in range(8)]
    for child in children:
        assert child.stdin is not None
        child.stdin.write(b"\n")
        child.stdin.close()
    codes = [child.wait(60) for child in children]
    assert sorted(codes) == [0] * 5 + [failpoints.EXIT_CODE] * 3
    dead = sorted(child.pid for child, code in zip(children, codes, strict=True) if code)
    assert sorted(Switch(tmp_path).fired("copy.mid")) == dead


@pytest.mark.skipif(sys.platform == "win32", reason="signals of POSIX")
@pytest.mark.parametrize(("action", "code"), [("kill", -9), ("exit", failpoints.EXIT_CODE)])
def test_a_process_that_is_killed_at_a_point_does_nothing_after_it(action: str, code: int) -> None:
    program = "from protheon_dask import failpoints as f; f.arm_from_environment(); f.hit('copy.mid'); print('on')"
    env = {**os.environ, failpoints.VARIABLE: f"copy.mid={action}"}
    done = subprocess.run([sys.executable, "-c", program], env=env, capture_output=True, timeout=60, check=False)
    assert (done.returncode, done.stdout) == (code, b"")


@pytest.mark.skipif(sys.platform == "win32", reason="signals of POSIX")
def test_a_process_that_stops_at_a_point_goes_on_when_it_is_thawed() -> None:
    program = "from protheon_dask import failpoints as f; f.arm_from_environment(); f.hit('copy.mid'); print('on')"
    env = {**os.environ, failpoints.VARIABLE: "copy.mid=stop"}
    with subprocess.Popen([sys.executable, "-c", program], env=env, stdout=subprocess.PIPE) as child:
        _, status = os.waitpid(child.pid, os.WUNTRACED)
        assert os.WIFSTOPPED(status)
        os.kill(child.pid, 18)  # SIGCONT, which Windows has not
        assert child.communicate(timeout=60)[0] == b"on\n"


def test_a_sleep_takes_its_time() -> None:
    armed = Failpoints({"copy.mid": Rule("sleep", 0.2)}, None)
    started_s = time.monotonic()
    armed.come_by("copy.mid")
    assert time.monotonic() - started_s >= 0.2


def test_the_rules_file_counts_as_soon_as_it_is_there_and_no_longer(tmp_path: Path) -> None:
    switch = Switch(tmp_path)
    armed = Failpoints(*parse(switch.value))
    armed.come_by("copy.mid")
    for _ in range(2):  # the marks of before are forgotten, and hits count anew
        switch.arm("copy.mid=raise*1@2", "copy.after=raise")
        armed.come_by("copy.mid")
        with pytest.raises(Injected):
            armed.come_by("copy.mid")
        armed.come_by("copy.mid")
        assert switch.fired("copy.mid") == [os.getpid()]
    switch.disarm()
    armed.come_by("copy.after")


def test_a_rules_file_with_a_mistake_is_refused_where_it_is_looked_at(tmp_path: Path) -> None:
    armed = Failpoints(*parse(f"dir={tmp_path}"))
    Switch(tmp_path).arm("copy.middle=raise")
    with pytest.raises(ConfigError, match=r"there is no point 'copy\.middle'"):
        armed.come_by("copy.mid")


def test_the_program_comes_by_every_point_and_by_no_other() -> None:
    hit = {point for path in PACKAGE.rglob("*.py") for point in HIT.findall(path.read_text())}
    assert hit == set(failpoints.POINTS)
