"""The proof that compose.yaml works, with a real engine: ``make compose-test`` (compose.sh). Not part of the suites.

``build`` builds the image. ``run`` brings everything up, loads a sample of made-up reports, kills a worker's container in the middle,
scales to four, restarts the master, and has the run verified against the tables. What took how long is printed as a table; the first
thing that is not as it should be ends it with exit code 1. What it started is taken down again, volumes too.

From the environment: DOCKER_HOST; PROOF_LINES (of the sample); PROOF_INSIDE, words before a command that reaches published ports, where
the engine has a network of its own; PROOF_POSTGRES=stand-in for tests/deploy/postgres instead of the image `postgres`; and the PROTHEON_*
of compose.yaml.
"""

from __future__ import annotations

import json
import os
import shlex
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[2]
LINES = int(os.environ.get("PROOF_LINES", "200000"))
INSIDE = shlex.split(os.environ.get("PROOF_INSIDE", ""))
STAND_IN = "protheon-postgres:latest"
UP_S, STEP_S, RUN_S = 600.0, 600.0, 1800.0
"""How long everything may take to be healthy, a step of the story, the whole run: many times what was measured."""
POLL_S = 0.5
SMALL_MB = 500
"""An image, of which Python's own base is 130 to 170 and the dependencies as wheels 290."""
TABLE = "pgcr.instance"


class NotProven(Exception):
    """Something is not as it should be."""


class Story:
    """The steps that were taken, and how long each took."""

    def __init__(self) -> None:
        self.rows: list[tuple[str, float, str]] = []

    @contextmanager
    def step(self, name: str) -> Iterator[list[str]]:
        """The body may append a word to what is yielded: it stands beside the time."""
        told: list[str] = []
        started_s = time.monotonic()
        print(f"{name} ..", flush=True)
        yield told
        self.rows.append((name, time.monotonic() - started_s, " ".join(told)))
        print(f"  {self.rows[-1][1]:.1f} s {self.rows[-1][2]}", flush=True)

    def table(self) -> str:
        rows = [f"| {name} | {seconds:.1f} | {told} |" for name, seconds, told in self.rows]
        return "\n".join(["| step | s | |", "|---|---:|---|", *rows])


def run(*command: str, env: dict[str, str] | None = None, stdin: str | None = None) -> str:
    """What the command prints. Raises NotProven: its exit code is not 0."""
    done = subprocess.run(command, capture_output=True, text=True, check=False, env=env, input=stdin, timeout=1800)
    if done.returncode != 0:
        raise NotProven(f"{shlex.join(command)} ended with {done.returncode}:\n{done.stdout[-1500:]}\n{done.stderr[-3000:]}")
    return done.stdout


def check(is_so: bool, told: str) -> None:
    if not is_so:
        raise NotProven(told)


class Stack:
    """The containers of one compose project."""

    def __init__(self, project: str, env: dict[str, str]) -> None:
        has_v2 = subprocess.run(["docker", "compose", "version"], capture_output=True, check=False).returncode == 0
        program = ["docker", "compose"] if has_v2 else ["docker-compose"]
        self.command = [*program, "--file", str(ROOT / "compose.yaml"), "--project-name", project]
        self.env = env

    def compose(self, *words: str) -> str:
        return run(*self.command, *words, env=self.env)

    def protheon(self, *words: str) -> str:
        """A command in the master's container."""
        return self.compose("exec", "-T", "master", "protheon", *words)

    def containers(self, service: str) -> list[str]:
        return self.compose("ps", "-q", service).split()

    def inspect(self, container: str) -> dict[str, Any]:
        return dict(json.loads(run("docker", "inspect", container))[0])

    def healthy(self, service: str) -> list[str]:
        """Containers that run and are well."""
        states = {container: self.inspect(container)["State"] for container in self.containers(service)}
        return [container for container, state in states.items() if state["Running"] and state.get("Health", {}).get("Status") == "healthy"]

    def wait_healthy(self, service: str, n: int, timeout_s: float = STEP_S) -> None:
        self.wait(lambda: len(self.healthy(service)) == n, f"{n} healthy {service}", timeout_s)

    def wait(self, is_so: Callable[[], bool], told: str, timeout_s: float = STEP_S) -> None:
        end_at = time.monotonic() + timeout_s
        while not is_so():
            if time.monotonic() > end_at:
                raise NotProven(f"not within {timeout_s:g} s: {told}\n{self.compose('ps')}\n{self.compose('logs', '--tail=30')}")
            time.sleep(POLL_S)

    def sql(self, query: str) -> str:
        words = ["psql", "--host=127.0.0.1", "--username=protheon", "--no-align", "--tuples-only", "--command", query]
        inner = f"PGPASSWORD=$(cat /run/protheon/database/password) {shlex.join([*words, 'protheon'])}"
        return self.compose("exec", "-T", "postgres", "bash", "-c", inner).strip()

    def n_loaded(self) -> int:
        """Lines of chunks that are in: asked of the database, which is there while the master is not."""
        return int(self.sql("select coalesce(sum(loaded), 0) from protheon.attempt where outcome = 'succeeded'") or 0)

    def host(self, container: str) -> str:
        """By which the cluster knows it."""
        return str(self.inspect(container)["Config"]["Hostname"])

    def loaders(self) -> set[str]:
        """Hosts that have loaded a chunk."""
        return set(self.sql("select distinct host from protheon.attempt where outcome = 'succeeded'").split())


def build(stack: Stack) -> str:
    """Build the images; returns the size of ours. Raises NotProven: it is not small."""
    stack.compose("build", "init")
    if os.environ.get("PROOF_POSTGRES") == "stand-in":
        environment = stack.env
        arguments = {
            "BASE_IMAGE": environment.get("PROTHEON_BASE_IMAGE"),
            "CA_FILE": environment.get("PROTHEON_BUILD_CA_FILE"),
            "PIP_CERT": environment.get("PROTHEON_BUILD_PIP_CERT"),
        }
        words = [word for name, value in arguments.items() if value for word in ("--build-arg", f"{name}={value}")]
        network = environment.get("PROTHEON_BUILD_NETWORK", "default")
        file = ROOT / "tests" / "deploy" / "postgres" / "Dockerfile"
        run("docker", "build", "-q", "--network", network, *words, "-t", STAND_IN, "-f", str(file), str(ROOT))
    image = stack.env.get("PROTHEON_IMAGE", "protheon:latest")
    layers = run("docker", "history", "--format", "{{.Size}} {{.CreatedBy}}", "--human=false", image).splitlines()
    megabytes = int(run("docker", "image", "inspect", "--format", "{{.Size}}", image)) / 1e6
    check(megabytes <= SMALL_MB, f"an image of {megabytes:.0f} MB is not small:\n" + "\n".join(layers))
    return f"image of {megabytes:.0f} MB"


def check_closed(stack: Stack) -> str:
    """No secret where `docker inspect` shows it, no root, no port elsewhere than on loopback, no answer without a certificate."""
    password = stack.compose("exec", "-T", "postgres", "cat", "/run/protheon/database/password").strip()
    token = stack.compose("exec", "-T", "worker", "cat", "/run/protheon/invitation/token").strip()
    check(len(password) >= 24 and token.startswith("protheon-join."), "the password or the token is not there")
    n_processes = 0
    for service in ("init", "postgres", "master", "worker"):
        for container in stack.containers(service):
            told = run("docker", "inspect", container) + run("docker", "logs", container)
            check(password not in told and token not in told, f"a secret is shown of {service}")
            ports = stack.inspect(container)["NetworkSettings"]["Ports"]
            hosts = {binding["HostIp"] for bindings in ports.values() for binding in bindings or []}
            check(hosts <= {"127.0.0.1"}, f"{service} is published on {hosts}")
            if service in ("master", "worker"):
                lines = run("docker", "top", container, "-eo", "pid,uid,args").splitlines()[1:]
                n_processes += len(lines)
                check(all(line.split()[1] == "10001" for line in lines), f"a process of {service} is another user's:\n" + "\n".join(lines))
                check(password not in "\n".join(lines) and token not in "\n".join(lines), f"a secret is among the arguments in {service}")
    health = run(*INSIDE, sys.executable, "-c", FETCH, f"http://127.0.0.1:{stack.env.get('PROTHEON_PUBLISH_HTTP', '8080')}/healthz")
    check(health.startswith("200"), f"/healthz says {health}")
    page = run(*INSIDE, sys.executable, "-c", FETCH, f"http://127.0.0.1:{stack.env.get('PROTHEON_PUBLISH_DASHBOARD', '8787')}/status")
    check(page.startswith("200"), f"the dashboard says {page}")
    refused = run(*INSIDE, sys.executable, "-c", STRANGER, stack.env.get("PROTHEON_PUBLISH_BROKER", "50051"))
    check(refused.startswith("refused"), f"a stranger without a certificate: {refused}")
    return f"{n_processes} processes of one user; a stranger is {refused.strip()}"


FETCH = """
import sys, urllib.request
with urllib.request.urlopen(sys.argv[1], timeout=20) as answer:
    print(answer.status, len(answer.read()))
"""
STRANGER = """
import socket, ssl, sys
context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
context.set_alpn_protocols(["h2"])
try:
    with socket.create_connection(("127.0.0.1", int(sys.argv[1])), 10) as plain, context.wrap_socket(plain) as tls:
        tls.settimeout(10)
        tls.sendall(b"PRI * HTTP/2.0\\r\\n\\r\\nSM\\r\\n\\r\\n" + bytes(9))
        while data := tls.recv(4096):
            print("answered", data[:40])
            break
        else:
            print("refused: closed")
except (ssl.SSLError, ConnectionError) as exc:
    print("refused:", type(exc).__name__, getattr(exc, "reason", "") or exc)
"""


def story(stack: Stack, told: Story) -> None:
    with told.step("`up`: from nothing to four healthy services") as words:
        stack.compose("up", "-d")
        for service, n in (("postgres", 1), ("master", 1), ("worker", 2)):
            stack.wait_healthy(service, n, UP_S)
    with told.step("looks closed") as words:
        words.append(check_closed(stack))
    with told.step(f"submit {LINES:,} reports, until the first are loaded") as words:
        stack.protheon("load", "/data/sample.jsonl.zst", "--pipeline", "pgcr", "--chunk-lines", "2000", "--checksum", "--detach")
        stack.wait(lambda: stack.n_loaded() > 0, "a chunk is loaded")
    with told.step("kill a worker's container; the other one goes on") as words:
        killed = stack.healthy("worker")[0]
        run("docker", "kill", killed)
        n = stack.n_loaded()
        stack.wait(lambda: stack.n_loaded() > n, "the other worker goes on")
        words.append(f"{n:,} lines were in")
    with told.step("`up --scale worker=4`: four healthy, all of which load") as words:
        stack.compose("up", "-d", "--no-recreate", "--scale", "worker=4")
        stack.wait_healthy("worker", 4)
        four = {stack.host(container) for container in stack.healthy("worker")}
        stack.wait(lambda: four <= stack.loaders(), f"each of {sorted(four)} loads: if the run has ended, give more PROOF_LINES")
        words.append(f"{stack.n_loaded():,} lines were in")
    with told.step("restart the master; its run goes on by itself") as words:
        check(state(stack) == "running", f"the run is {state(stack)} already: give more PROOF_LINES")
        stack.compose("restart", "master")
        stack.wait_healthy("master", 1)
        n = stack.n_loaded()
        stack.wait(lambda: stack.n_loaded() > n or state(stack) != "running", "work goes on after the restart")
        words.append(f"{n:,} lines were in")
    with told.step("the run ends") as words:
        stack.wait(lambda: state(stack) not in ("queued", "running"), "the run ends", RUN_S)
        hosts = stack.sql("select count(distinct host) from protheon.attempt where outcome = 'succeeded'")
        words.append(f"{state(stack)}; {hosts} hosts loaded")
        check(state(stack) == "succeeded", f"the run is {state(stack)}:\n{stack.protheon('runs', 'show')}")
    with told.step("verified against the tables") as words:
        stack.protheon("runs", "verify", "--deep")
        n_rows = int(stack.sql(f"select count(*) from {TABLE}"))
        check(n_rows == LINES, f"{TABLE} has {n_rows} rows of {LINES} lines")
        words.append(f"{n_rows:,} rows in {TABLE}")
    with told.step("the same load again: nothing happens"):
        stack.protheon("load", "/data/sample.jsonl.zst", "--pipeline", "pgcr", "--chunk-lines", "2000", "--checksum", "--quiet")
        check(int(stack.sql(f"select count(*) from {TABLE}")) == LINES, "rows came twice")
    with told.step("a host is removed; its workers are gone") as words:
        removed = stack.host(stack.healthy("worker")[0])
        stack.protheon("cluster", "remove", removed)
        stack.wait(lambda: len(stack.healthy("worker")) == 3, f"{removed} has lost its connection")
        words.append(removed)
    with told.step("`down` and `up` again: the data stay, everything is healthy"):
        stack.compose("down")
        stack.compose("up", "-d")
        for service, n in (("postgres", 1), ("master", 1), ("worker", 2)):
            stack.wait_healthy(service, n, UP_S)
        check(int(stack.sql(f"select count(*) from {TABLE}")) == LINES, "rows are gone")


def state(stack: Stack) -> str:
    """Of the only run, asked of the database."""
    return stack.sql("select state from protheon.run order by id desc limit 1")


def main() -> int:
    if sys.argv[1:] == ["build"]:
        told = Story()
        with told.step("build the images (from the cache where nothing changed)") as words:
            words.append(build(Stack("protheon-build", dict(os.environ))))
        return 0
    project = f"protheon-proof-{os.getpid()}"
    with tempfile.TemporaryDirectory(prefix="protheon-proof-") as directory:
        Path(directory).chmod(0o755)
        sample = Path(directory) / "sample.jsonl.zst"
        run(str(Path(sys.executable).parent / "protheon"), "sample", str(sample), "--lines", str(LINES))
        sample.chmod(0o644)
        env = dict(os.environ) | {"PROTHEON_DATA": directory}
        if os.environ.get("PROOF_POSTGRES") == "stand-in":
            env["PROTHEON_POSTGRES_IMAGE"] = STAND_IN
        stack, told = Stack(project, env), Story()
        try:
            story(stack, told)
        except NotProven as exc:
            print(f"NOT PROVEN: {exc}", file=sys.stderr)
            return 1
        finally:
            subprocess.run([*stack.command, "down", "--volumes", "--timeout", "20"], env=env, capture_output=True, check=False)
            print(told.table())
    print("PROVEN")
    return 0


if __name__ == "__main__":
    sys.exit(main())
