"""What is deployed by: compose.yaml, the Dockerfiles and the units are valid, and as closed as docs/deploy.md says. No engine is needed.

Each rule is tried on the file as it is and on one that breaks it.
"""

from __future__ import annotations

import copy
import os
import re
import shlex
import shutil
import subprocess
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import click
import jsonschema  # type: ignore[import-untyped]  # it has no types of its own
import pytest
import yaml  # type: ignore[import-untyped]  # it has no types of its own

from protheon_dask.cli.main import protheon
from protheon_dask.run.exits import NOT_ALLOWED

ROOT = Path(__file__).parents[2]
COMPOSE = ROOT / "compose.yaml"
DOCKERFILES = [ROOT / "Dockerfile", ROOT / "tests" / "deploy" / "postgres" / "Dockerfile"]
UNITS = sorted((ROOT / "scheduler").glob("*.service"))
OURS = ("init", "master", "worker")
LONG_RUNNING = ("postgres", "master", "worker")
MOST_EXPOSED = 20
"""Tenths of a point of `systemd-analyze security`, which calls up to 2.0 OK. What is left is mostly the network."""

Compose = Mapping[str, Any]


def compose() -> dict[str, Any]:
    return dict(yaml.safe_load(COMPOSE.read_text()))


def tool(name: str) -> str:
    """A program of the extra dev, beside the interpreter or on the path; without it the test is skipped."""
    found = shutil.which(name, path=os.pathsep.join([str(Path(sys.executable).parent), os.environ.get("PATH", "")]))
    if found is None:
        pytest.skip(f"{name} is not installed")
    return found


def run(*command: str, stdin: str | None = None) -> subprocess.CompletedProcess[str]:
    return subprocess.run(command, input=stdin, capture_output=True, text=True, check=False, timeout=60, cwd=ROOT)


# --- compose.yaml -----------------------------------------------------------------------------------------------------------------------


def published_elsewhere(file: Compose) -> list[str]:
    ports = [str(port) for service in file["services"].values() for port in service.get("ports", [])]
    return [port for port in ports if not port.startswith("127.0.0.1:")]


def without_health_check(file: Compose) -> list[str]:
    return [name for name in LONG_RUNNING if "test" not in file["services"][name].get("healthcheck", {})]


def not_restarted(file: Compose) -> list[str]:
    return [name for name in LONG_RUNNING if file["services"][name].get("restart") != "unless-stopped"]


def more_than_it_needs(file: Compose) -> list[str]:
    found = []
    for name in OURS:
        service = file["services"][name]
        found += [f"{name}: {key}" for key in ("privileged", "user", "cap_add", "network_mode", "pid", "devices") if key in service]
        if service.get("cap_drop") != ["ALL"] or service.get("security_opt") != ["no-new-privileges:true"]:
            found.append(f"{name}: keeps powers of root")
        found += [f"{name}: {volume}" for volume in service.get("volumes", []) if "docker.sock" in volume]
    return found


def secrets_told(file: Compose) -> list[str]:
    """Environment and arguments can be read by `docker inspect`: a secret there is none."""
    found = []
    for name, service in file["services"].items():
        environment = service.get("environment", {})
        found += [
            f"{name}: {key}" for key in environment if re.search("PASSWORD|SECRET|TOKEN|DATABASE_URL", key) and not key.endswith("_FILE")
        ]
        words = shlex.join(str(word) for key in ("entrypoint", "command") for word in service.get(key, []))
        found += [f"{name}: {words}"] if re.search(r"--join\b|postgresql://[^ ]*:", words) else []
    return found


def not_declared(file: Compose) -> list[str]:
    used = {volume.partition(":")[0] for service in file["services"].values() for volume in service.get("volumes", [])}
    return sorted(name for name in used if re.fullmatch(r"[\w-]+", name) and name not in file["volumes"])


def secrets_shared(file: Compose) -> list[str]:
    """Who has which secret: the authority the master alone, the database's password its server, the invitation the workers."""
    allowed = {"master": {"init", "master"}, "database-secret": {"init", "postgres"}, "invitation": {"init", "worker"}}
    return [
        f"{name}: {volume}"
        for name, service in file["services"].items()
        for volume in service.get("volumes", [])
        if name not in allowed.get(volume.partition(":")[0], {name})
    ]


def not_on_every_compose(file: Compose) -> list[str]:
    """docker-compose 1.29 refuses a `name`, and v2 warns of a `version`."""
    return [key for key in file if key in ("name", "version")]


def set_in(*path: Any, value: Any) -> Callable[[dict[str, Any]], None]:
    def change(file: dict[str, Any]) -> None:
        at: Any = file
        for key in path[:-1]:
            at = at[key]
        at[path[-1]] = value

    return change


BROKEN: list[tuple[Callable[[Compose], list[str]], Callable[[dict[str, Any]], None]]] = [
    (published_elsewhere, set_in("services", "master", "ports", value=["8080:8080"])),
    (published_elsewhere, set_in("services", "postgres", "ports", value=["0.0.0.0:5432:5432"])),
    (without_health_check, set_in("services", "worker", "healthcheck", value={"disable": True})),
    (not_restarted, set_in("services", "master", "restart", value="no")),
    (more_than_it_needs, set_in("services", "worker", "privileged", value=True)),
    (more_than_it_needs, set_in("services", "master", "user", value="root")),
    (more_than_it_needs, set_in("services", "init", "cap_drop", value=[])),
    (secrets_told, set_in("services", "postgres", "environment", "POSTGRES_PASSWORD", value="x")),
    (secrets_told, set_in("services", "worker", "entrypoint", value=["protheon", "worker", "--join", "protheon-join.x"])),
    (secrets_shared, set_in("services", "worker", "volumes", value=["master:/var/lib/protheon"])),
    (not_declared, set_in("services", "worker", "volumes", value=["others:/x"])),
    (not_on_every_compose, set_in("name", value="protheon")),
]


@pytest.mark.parametrize("rule", sorted({rule for rule, _ in BROKEN}, key=str), ids=lambda rule: rule.__name__)
def test_compose_keeps_the_rule(rule: Callable[[Compose], list[str]]) -> None:
    assert rule(compose()) == []


@pytest.mark.parametrize(("rule", "change"), BROKEN, ids=[f"{rule.__name__}-{no}" for no, (rule, _) in enumerate(BROKEN)])
def test_the_rule_finds_a_compose_file_that_breaks_it(
    rule: Callable[[Compose], list[str]], change: Callable[[dict[str, Any]], None]
) -> None:
    file = copy.deepcopy(compose())
    change(file)
    assert rule(file) != []


def test_compose_is_valid_by_the_schema_of_compose_files() -> None:
    schemas = pytest.importorskip("check_jsonschema.builtin_schemas")
    validator = jsonschema.Draft202012Validator(schemas.get_builtin_schema("vendor.compose-spec"))
    assert [error.message for error in validator.iter_errors(compose())] == []
    wrong = compose()
    wrong["services"]["worker"]["health_check"] = wrong["services"]["worker"].pop("healthcheck")
    assert not validator.is_valid(wrong)


def test_compose_starts_two_workers_after_the_master_is_well_and_the_certificates_are_there() -> None:
    services = compose()["services"]
    assert services["worker"]["scale"] == 2
    assert services["worker"]["depends_on"] == {"master": {"condition": "service_healthy"}}
    assert services["master"]["depends_on"] == {"postgres": {"condition": "service_healthy"}}
    assert services["postgres"]["depends_on"] == {"init": {"condition": "service_completed_successfully"}}
    assert services["init"]["restart"] == "no"


def test_every_variable_of_compose_has_a_default_and_is_not_a_setting_that_the_caller_may_have() -> None:
    from dataclasses import fields

    from protheon_dask.config import Settings

    variables = re.findall(r"\$\{(\w+)(:-)?", COMPOSE.read_text())
    assert len(variables) >= 8
    settings = {f"PROTHEON_{item.name.upper()}" for item in fields(Settings)}
    assert [name for name, default in variables if not default or not name.startswith("PROTHEON_") or name in settings] == []


# --- the image --------------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("path", DOCKERFILES, ids=lambda path: str(path.relative_to(ROOT)))
def test_a_dockerfile_has_no_fault_that_hadolint_knows(path: Path) -> None:
    done = run(tool("hadolint"), str(path))
    assert (done.returncode, done.stdout) == (0, "")
    assert run(tool("hadolint"), "-", stdin=path.read_text() + "\nRUN cd /tmp && sudo make\n").returncode == 1


def instructions(path: Path) -> list[list[str]]:
    lines = re.sub(r"\\\n", " ", re.sub(r"(?m)^\s*#.*\n", "", path.read_text())).splitlines()
    return [line.split() for line in lines if line.strip()]


def test_the_image_runs_as_somebody_who_is_not_root() -> None:
    last_stage = instructions(ROOT / "Dockerfile")
    last_stage = last_stage[max(no for no, words in enumerate(last_stage) if words[0] == "FROM") :]
    users = [words[1] for words in last_stage if words[0] == "USER"]
    assert users
    assert re.fullmatch(r"[1-9]\d*:[1-9]\d*", users[-1])  # by number: an engine that forbids root can tell
    assert last_stage[-1][0] in ("CMD", "ENTRYPOINT")


def test_what_the_image_is_made_of_is_there_and_reaches_the_engine() -> None:
    let_in = [line[1:].rstrip("/") for line in (ROOT / ".dockerignore").read_text().splitlines() if line.startswith("!")]
    for path in DOCKERFILES:
        for words in instructions(path):
            if words[0] != "COPY" or words[1].startswith("--from"):
                continue
            for source in words[1:-1]:
                name = source.replace("${CA_FILE}", "deploy/no-ca.pem")
                assert (ROOT / name).exists(), source
                assert any(name == one or name.startswith(f"{one}/") for one in let_in), source
    assert (ROOT / "deploy" / "container.py").stat().st_mode & 0o111


# --- units ------------------------------------------------------------------------------------------------------------------------------


def directives(path: Path) -> dict[str, str]:
    lines = [line for line in path.read_text().splitlines() if "=" in line and not line.startswith("#")]
    return {key: value for line in lines for key, _, value in [line.partition("=")]}


@pytest.mark.parametrize("path", UNITS, ids=lambda path: path.stem)
def test_a_unit_starts_a_command_that_there_is_always_again_and_drains_it(path: Path) -> None:
    found = directives(path)
    words = [word for word in found["ExecStart"].split() if not word.startswith("$")]
    assert words[0] == "/opt/protheon/bin/protheon"
    assert command_of(words[1:]) == []
    assert found["Restart"] == "always"  # a worker that lost its scheduler ends with 0
    assert found.get("RestartPreventExitStatus") == (str(NOT_ALLOWED) if words[1] == "worker" else None)
    assert found["StartLimitIntervalSec"] == "0"
    assert found["KillMode"] == "mixed"  # SIGTERM to the supervisor alone
    assert found["OOMPolicy"] == "continue"
    assert found["User"] not in ("", "root")


@pytest.mark.parametrize("path", UNITS, ids=lambda path: path.stem)
def test_systemd_takes_a_unit_without_a_word_and_finds_it_closed(path: Path, tmp_path: Path) -> None:
    analyze = tool("systemd-analyze")
    unit = tmp_path / path.name
    unit.write_text(path.read_text().replace("/opt/protheon/bin/protheon", sys.executable))  # verify looks whether it is there
    done = run(analyze, "verify", "--man=no", "--recursive-errors=no", str(unit))
    assert (done.returncode, done.stderr) == (0, "")
    security = run(analyze, "security", "--offline=true", "--no-pager", f"--threshold={MOST_EXPOSED}", str(unit))
    assert security.returncode == 0, security.stdout[-400:]

    unit.write_text(unit.read_text().replace("Restart=always", "Restart=ever").replace("SystemCallFilter=", "#"))
    assert "restart specifier" in run(analyze, "verify", "--man=no", "--recursive-errors=no", str(unit)).stderr
    assert run(analyze, "security", "--offline=true", "--no-pager", f"--threshold={MOST_EXPOSED}", str(unit)).returncode != 0


# --- docs/deploy.md ---------------------------------------------------------------------------------------------------------------------


def command_of(words: list[str]) -> list[str]:
    """What of these words, after `protheon`, is no command or option of the CLI; values are not looked at."""
    command: click.Command = protheon
    rest = list(words)
    while isinstance(command, click.Group) and rest:
        found = command.commands.get(rest[0])
        if found is None:
            return [f"no command {rest[0]}"]
        command, rest = found, rest[1:]
    known = {name for param in command.params for name in (*param.opts, *param.secondary_opts)} | {"--help", "-h"}
    return [word for word in (word.partition("=")[0] for word in rest) if word.startswith("-") and word not in known]


def documented_commands() -> list[str]:
    text = (ROOT / "docs" / "deploy.md").read_text()
    blocks = "\n".join(re.findall(r"```sh\n(.*?)```", text, re.DOTALL))
    lines = [line.partition(" #")[0] for line in blocks.splitlines()]
    spans = re.findall(r"`(protheon [^`]*)`", text)
    return [found[1] for line in [*lines, *spans] if (found := re.search(r"(?:^|/bin/|exec master )(protheon [a-z].*)$", line.strip()))]


def test_every_command_of_the_guide_is_one() -> None:
    commands = documented_commands()
    assert {command.split()[1] for command in commands} >= {"cluster", "master", "worker", "load", "doctor"}
    problems = {command: command_of(shlex.split(command.split(" | ")[0])[1:]) for command in commands}
    assert {command: found for command, found in problems.items() if found} == {}


def test_a_command_that_is_none_is_found() -> None:
    assert command_of(["load", "x.jsonl", "--no-such-option"]) == ["--no-such-option"]
    assert command_of(["cluster-of-none"]) == ["no command cluster-of-none"]
