"""JupyterLab beside a local cluster: its notebooks find the cluster, and its Dask panel shows it."""

from __future__ import annotations

import importlib.util
import json
import os
import shutil
import sys
import time
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path
from types import TracebackType
from typing import Final, Self
from urllib.parse import quote, urlsplit

from protheon_dask.config import Settings, environment
from protheon_dask.errors import ConfigError, TransientError
from protheon_dask.run import settings as rim
from protheon_dask.run.supervise import Part, Tethered
from protheon_dask.workspace.chunkfile import OWNER_DIR

PORT: Final = 8888
"""Jupyter's own default; where it is taken, and none was asked for, Jupyter takes one of the next."""
START_S: Final = 120.0
"""How long JupyterLab may take to answer on a busy machine before that is an error."""
POLL_S: Final = 0.1
GRACE_S: Final = 15.0
"""Between a polite end and a kill: Jupyter gives each kernel 5 s to end, and the kernels' clusters are closed meanwhile."""
NEEDS: Final = {"jupyterlab": "JupyterLab", "dask_labextension": "JupyterLab's Dask extension"}
"""Modules of the extra `lab`."""
OTHER_DATABASES: Final = ("DATABASE_URL", "PGHOST", "PGSERVICE", "PGDATABASE")
"""Variables that name a database where no setting does: beside the embedded one a notebook must not see them."""
STATE: Final = "lab"
"""Directory in home, with a directory for each lab that runs, named by its command's process: it is deleted with it."""
LAYOUT: Final = {
    "individual-protheon-throughput": {"mode": "tab-after", "ref": "individual-task-stream"},
    "individual-protheon-progress": {"mode": "tab-after", "ref": "individual-workers-memory"},
    "individual-protheon-workers": {"mode": "tab-after", "ref": "individual-progress"},
}
"""What the Dask extension's command for a layout opens besides its own three panels (it merges the two): in front of each, one of ours."""


def check_lab() -> None:
    """Raise ConfigError where JupyterLab or its Dask extension is not installed; the message says what to install."""
    missing = [name for module, name in NEEDS.items() if importlib.util.find_spec(module) is None]
    if missing:
        raise ConfigError(
            f"{' and '.join(missing)} {'is' if len(missing) == 1 else 'are'} not installed here: pip install 'protheon-dask[lab]'"
        )


@dataclass(frozen=True, slots=True)
class LabServer:
    """How JupyterLab is to be started."""

    settings: Settings  # of the cluster beside it
    database_url: str  # which the cluster was told; empty: the embedded one
    dashboard_link: str
    directory: Path  # with the notebooks
    port: int | None  # None: PORT, or one of the next
    opens_browser: bool
    first: str | None = None  # the notebook that is opened at first


class Lab:
    """A JupyterLab on loopback that ends with this process, however that ends. A context manager.

    Its configuration is the person's own, and on top of it a directory of ours, by variables of the child alone: nothing of the
    person's is written. What it keeps while it runs is below home and is deleted at its end.
    Raises (at its beginning): ConfigError: it cannot start; the message has its last words. TransientError: it takes too long.
    """

    def __init__(self, server: LabServer) -> None:
        self._server = server
        self._stack = ExitStack()
        self._process: Tethered
        self.url = ""
        """With its token: who has the URL may do what the person may."""

    def __enter__(self) -> Self:
        check_lab()
        with self._stack:
            self._start()
            self._stack = self._stack.pop_all()
        return self

    def __exit__(self, kind: type[BaseException] | None, value: BaseException | None, where: TracebackType | None) -> None:
        self._stack.close()

    def wait_ended(self, check: Callable[[], object]) -> None:
        """Wait until somebody shuts JupyterLab down. check: called all the time; what it raises ends the wait.

        Raises: ConfigError: it has failed.
        """
        while not self._process.wait_ended(POLL_S):
            check()
        if self._process.code:
            raise ConfigError(self._process.ending())

    def _start(self) -> None:
        home = rim.home_of(self._server.settings)
        state = home / STATE / str(os.getpid())
        _delete_old(home / STATE)
        state.mkdir(mode=OWNER_DIR, parents=True)
        self._stack.callback(shutil.rmtree, state, ignore_errors=True)
        _write_config(state, self._server)
        log = home / "logs" / "lab.log"
        log.parent.mkdir(mode=OWNER_DIR, exist_ok=True)
        part = Part("lab", _arguments(state, self._server), _environment(state, self._server), log, GRACE_S)
        self._process = self._stack.enter_context(Tethered(part))
        self.url = self._wait_url(state / "runtime")

    def _wait_url(self, runtime: Path) -> str:
        """Where it listens, as it writes down itself: the port may not be the one that it was told."""
        end_at = time.monotonic() + START_S
        while time.monotonic() < end_at:
            for path in runtime.glob("jpserver-*.json"):
                try:
                    told = json.loads(path.read_text(encoding="utf-8"))
                except ValueError:  # it is being written
                    continue
                page = f"lab/tree/{quote(self._server.first)}" if self._server.first else "lab"
                return f"{told['url']}{page}" + (f"?token={told['token']}" if told["token"] else "")
            if self._process.wait_ended(POLL_S):
                raise ConfigError(self._process.ending())
        raise TransientError(f"JupyterLab did not start within {START_S:g} s: see {self._process.part.log}")


def _delete_old(states: Path) -> None:
    """What labs left whose command was killed."""
    import psutil

    for old in states.glob("*"):
        if not (old.name.isdecimal() and psutil.pid_exists(int(old.name)) and int(old.name) != os.getpid()):
            shutil.rmtree(old, ignore_errors=True)


def _arguments(state: Path, server: LabServer) -> list[str]:
    ports = [f"--ServerApp.port={PORT}"] if server.port is None else [f"--ServerApp.port={server.port}", "--ServerApp.port_retries=0"]
    return [
        *("-m", "jupyterlab", "--ServerApp.ip=127.0.0.1", *ports),
        f"--ServerApp.root_dir={server.directory}",
        f"--ServerApp.open_browser={server.opens_browser}",
        "--ServerApp.allow_root=True",  # who runs the cluster as root runs the lab so: on loopback, behind its token
        f"--LabApp.workspaces_dir={state / 'workspaces'}",  # each lab begins with its own cluster's panels, and leaves the person's be
        f"--LabApp.default_url=/lab/tree/{quote(server.first)}" if server.first else "--LabApp.default_url=/lab",
    ]


def _environment(state: Path, server: LabServer) -> dict[str, str]:
    """Of Jupyter, its kernels and its terminals: they find our configuration first, this Python, and this cluster."""
    mine = dict(rim.environment())
    if not server.database_url:
        mine = {name: value for name, value in mine.items() if name not in OTHER_DATABASES}
    return {
        **mine,
        **environment(replace(server.settings, database_url=server.database_url)),
        "JUPYTER_CONFIG_PATH": _before(state / "config", mine.get("JUPYTER_CONFIG_PATH")),
        "JUPYTER_PATH": _before(state / "data", mine.get("JUPYTER_PATH")),
        "JUPYTER_RUNTIME_DIR": str(state / "runtime"),
        "PATH": _before(Path(sys.executable).parent, mine.get("PATH")),  # `protheon` in its terminals is this one
    }


def _before(first: Path, rest: str | None) -> str:
    return f"{first}{os.pathsep}{rest}" if rest else str(first)


def _write_config(state: Path, server: LabServer) -> None:
    """Defaults beneath the person's own settings, and the kernel: this Python, whatever kernels the person has of the same name."""
    parts = urlsplit(server.dashboard_link)
    dask = {"defaultURL": f"{parts.scheme}://{parts.netloc}", "hideClusterManager": True, "defaultLayout": LAYOUT}
    kernel = {
        "argv": [sys.executable, "-m", "ipykernel_launcher", "-f", "{connection_file}"],
        "display_name": "Python 3 (ipykernel)",
        "language": "python",
        "metadata": {"debugger": True},
    }
    files: Mapping[str, object] = {
        "config/labconfig/default_setting_overrides.json": {
            "dask-labextension:plugin": dask,
            # else JupyterLab asks everybody at first whether it may look for news on the internet
            "@jupyterlab/apputils-extension:notification": {"fetchNews": "false", "checkForUpdates": False},
        },
        "data/kernels/python3/kernel.json": kernel,
    }
    for name, content in files.items():
        (state / name).parent.mkdir(parents=True, exist_ok=True)
        (state / name).write_text(json.dumps(content), encoding="utf-8")
