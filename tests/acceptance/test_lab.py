"""``protheon lab`` as a person has it: the command, JupyterLab in a browser, the notebooks, the panels beside them, and the end of all."""

from __future__ import annotations

import json
import os
import re
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final
from urllib.parse import urlsplit

import psutil
import pytest

from protheon_dask.pipelines.find import find
from protheon_dask.run.api import LocalCluster
from tests.acceptance.conftest import write_numbers
from tests.fixtures.browser import OpenPage, Watched
from tests.fixtures.cluster import ask, finish, local_cluster, wait_until
from tests.fixtures.postgres import fresh_database
from tests.fixtures.processes import has_ended
from tests.fixtures.shell import PROTHEON

pytest.importorskip("jupyterlab", reason="jupyterlab is not installed")
pytestmark = pytest.mark.timeout(300)  # a cluster, a lab and a browser on two cores that others use, too

ROOT: Final = Path(__file__).parents[2]
START_S: Final = 100.0
END_S: Final = 60.0
FORGOTTEN_S: Final = 15.0
PANELS: Final = ("Progress", "Throughput", "Chunks", "Workers", "Stages", "Troubles", "Workspace")

NOTEBOOK: Final = ".jp-NotebookPanel:not(.lm-mod-hidden)"
INDICATOR: Final = f"{NOTEBOOK} .jp-Notebook-ExecutionIndicator"
STATUS: Final = f"document.querySelector('{INDICATOR}')?.dataset.status"
COUNTS: Final = """[...document.querySelectorAll('.jp-CodeCell .jp-InputPrompt')].map((prompt) => prompt.textContent.trim())"""


@dataclass
class Running:
    """A `protheon lab` that has printed its address."""

    process: subprocess.Popen[str]
    url: str
    home: Path
    directory: Path
    said: Path

    def processes(self) -> list[psutil.Process]:
        """Everything below the command."""
        return psutil.Process(self.process.pid).children(recursive=True)

    def words(self) -> str:
        return self.said.read_text()

    def dashboard(self) -> str:
        found = re.search(r"dashboard: (http://[^/]+)/protheon", self.words())
        assert found is not None, self.words()
        return found[1]

    def ask(self, path: str, method: str = "GET") -> Any:
        """What Jupyter's interface answers."""
        parts = urlsplit(self.url)
        token = parts.query.removeprefix("token=")
        request = urllib.request.Request(f"http://{parts.netloc}/{path}", method=method, headers={"Authorization": f"token {token}"})
        with urllib.request.urlopen(request, timeout=30) as answer:
            text = answer.read()
        return json.loads(text) if text else None

    def interrupt(self) -> int:
        """Ctrl-C, and the exit code."""
        self.process.send_signal(signal.SIGINT)
        return self.process.wait(END_S)


def still_running(processes: list[psutil.Process]) -> list[str]:
    """Command lines of those that have not ended; a zombie has."""
    lines = []
    for process in processes:
        with suppress(psutil.NoSuchProcess):
            if not has_ended(process):
                lines.append(" ".join(process.cmdline()))
    return lines


def load_state(cluster: LocalCluster, directory: Path) -> str:
    """How a load of some numbers ends."""
    path = write_numbers(directory / "numbers.jsonl", 10)
    submitted = cluster.client.submit(find("jsonl", paths=[str(path)], table="public.numbers"), [str(path)])
    return str(finish(cluster, submitted.run_id).state)


def person(place: Path) -> dict[str, str]:
    """The environment of somebody whose home is below the place: nothing of who runs the tests is read or written."""
    home = place / "person"
    home.mkdir(exist_ok=True)
    hidden = ("PROTHEON_", "PG", "DATABASE_URL", "JUPYTER", "IPYTHON", "XDG_", "DASK_")
    kept = {name: value for name, value in os.environ.items() if not name.startswith(hidden)}
    ports = {f"PROTHEON_{name}_PORT": "0" for name in ("BROKER", "SCHEDULER", "DASHBOARD", "HTTP")}
    return {**kept, **ports, "HOME": str(home), "PROTHEON_HOME": str(place / "home"), "PYTHONPATH": str(ROOT)}


@contextmanager
def lab(place: Path, url: str, *arguments: str) -> Iterator[Running]:
    """Type the command, and wait for the address that it prints. What still runs at the end of the block is killed."""
    said, directory = place / "said", place / "notebooks"
    command = [str(PROTHEON), "lab", "--no-browser", "--workers", "2", "--dir", str(directory), "--into", url, *arguments]
    with said.open("w") as err:
        process = subprocess.Popen(command, env=person(place), stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=err, text=True)
    try:
        assert process.stdout is not None
        address = process.stdout.readline().strip()
        assert address.startswith("http://127.0.0.1:"), said.read_text()
        yield Running(process, address, place / "home", directory, said)
    finally:
        if process.poll() is None:
            process.kill()
        process.communicate()


def open_notebook(watched: Watched) -> None:
    """Wait until the notebook that the address names is there, and its kernel."""
    watched.page.wait_for_selector(NOTEBOOK)
    wait_until(lambda: watched.page.evaluate(STATUS) == "idle" and watched.page.evaluate(COUNTS), timeout_s=60)


def choose(watched: Watched, menu: str, entry: str) -> None:
    """Click an entry of a menu."""
    watched.page.click(f'.lm-MenuBar-itemLabel:text-is("{menu}")')
    watched.page.click(f'.lm-Menu-itemLabel:text-is("{entry}")')


def run_all(watched: Watched) -> None:
    """Click Run All Cells, and wait until the last one has run.

    Of a kernel that is still starting JupyterLab asks which it is to be, and a person presses Select; what was to be run by then it
    forgets at times, and when for a while nothing begins, a person clicks again.
    """
    idle_since = time.monotonic()

    def prompts() -> list[str]:
        watched.page.wait_for_timeout(100)
        asks = watched.page.locator("dialog.jp-Dialog", has_text="Select Kernel").locator(".jp-mod-accept")
        if asks.count():
            asks.click()
        return [prompt for prompt in watched.page.evaluate(COUNTS) if prompt != "[ ]:"]

    watched.page.click('.lm-DockPanel-tabBar .lm-TabBar-tab:has-text(".ipynb")')  # menus are those of what one is at
    choose(watched, "Run", "Run All Cells")

    def is_done() -> bool:
        nonlocal idle_since
        begun, is_idle = prompts(), watched.page.evaluate(STATUS) == "idle"
        if begun or not is_idle:
            idle_since = time.monotonic()
        elif time.monotonic() - idle_since > FORGOTTEN_S:
            choose(watched, "Run", "Run All Cells")
            idle_since = time.monotonic()
        return is_idle and bool(begun) and "[*]:" not in begun

    try:
        wait_until(is_done, timeout_s=180)
    except pytest.fail.Exception:
        said = watched.page.locator(".jp-OutputArea-output").all_inner_texts()
        pytest.fail(f"not all cells have run: kernel {watched.page.evaluate(STATUS)}, {prompts()}, after {said[-2:]}")


def test_a_person_finds_the_panels_and_runs_the_first_notebook_by_clicking(
    postgres_url: str, tmp_path: Path, open_page: OpenPage, screenshots: Path
) -> None:
    with fresh_database(postgres_url) as url, lab(tmp_path, url) as running:
        watched = open_page(running.url, 1600, 1000)
        open_notebook(watched)
        watched.page.click(".lm-TabBar-tab[data-id=dask-dashboard-launcher]")
        watched.page.wait_for_selector(".dask-DashboardListing-item")
        listed = watched.page.locator(".dask-DashboardListing-item button").evaluate_all("(all) => all.map((one) => one.value)")
        assert {f"Protheon {panel}" for panel in PANELS} <= set(listed)
        assert watched.page.locator(".dask-URLInput input").input_value() == running.dashboard()
        assert watched.page.locator(".dask-DaskClusterManager:visible").count() == 0
        assert watched.page.locator(".jp-Notification-Toast, .Toastify__toast").count() == 0  # nobody asks whether it may fetch news

        watched.page.click('.dask-DashboardListing-item button[value="Protheon Progress"]')
        watched.page.frame_locator("iframe").locator(".protheon-progress").wait_for()
        run_all(watched)
        errors = watched.page.locator('.jp-OutputArea-output[data-mime-type="application/vnd.jupyter.stderr"]').all_inner_texts()
        assert errors == []
        card = watched.page.locator(".jp-OutputArea-output", has_text="succeeded").first
        card.scroll_into_view_if_needed()
        watched.page.wait_for_timeout(1_500)
        watched.page.screenshot(path=str(screenshots / "lab-first-notebook-1600.png"))
        words = " ".join(card.inner_text().split())
        assert "run 1" in words
        assert "✓ succeeded" in words
        assert ask(url, "SELECT state, count(*) FROM protheon.run GROUP BY state") == [("succeeded", 2)]
        assert ask(url, "SELECT count(*) > 9990 FROM first.reports") == [(True,)]
        assert watched.errors == []

        everything = running.processes()
        assert running.interrupt() == 0
        assert still_running(everything) == []
        assert list((running.home / "lab").iterdir()) == []


# --- without a browser ----------------------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_the_persons_own_configuration_holds_and_nothing_of_it_is_written(postgres_url: str, tmp_path: Path) -> None:
    own = {
        ".jupyter/lab/user-settings/@jupyterlab/apputils-extension/themes.jupyterlab-settings": '{"theme": "JupyterLab Dark"}',
        ".jupyter/jupyter_server_config.json": '{"ServerApp": {"ip": "0.0.0.0", "root_dir": "/nowhere"}}',
        ".local/share/jupyter/kernels/python3/kernel.json": '{"argv": ["/nowhere/python"], "display_name": "x", "language": "python"}',
    }
    for name, text in own.items():
        path = tmp_path / "person" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    with fresh_database(postgres_url) as url, lab(tmp_path, url) as running:
        assert running.ask("lab/api/settings/@jupyterlab/apputils-extension:themes")["settings"]["theme"] == "JupyterLab Dark"
        dask = running.ask("lab/api/settings/dask-labextension:plugin")
        assert dask["schema"]["properties"]["defaultURL"]["default"] == running.dashboard()
        assert running.ask("api/kernelspecs")["kernelspecs"]["python3"]["spec"]["argv"][0] == sys.executable
        assert {item["name"] for item in running.ask("api/contents")["content"]} == {path.name for path in (ROOT / "notebooks").glob("*")}
        listening = {(c.laddr.ip, c.laddr.port) for one in running.processes() for c in one.net_connections() if c.status == "LISTEN"}
        assert {ip.removeprefix("::ffff:") for ip, _ in listening} == {"127.0.0.1"}
        assert urlsplit(running.url).port in {port for _, port in listening}
        assert running.interrupt() == 0
    for name, text in own.items():
        assert (tmp_path / "person" / name).read_text() == text
    jupyters = {path.relative_to(tmp_path / "person").as_posix() for path in (tmp_path / "person/.jupyter").rglob("*") if path.is_file()}
    assert jupyters == {name for name in own if name.startswith(".jupyter")}


@pytest.mark.slow
def test_shutting_the_lab_down_in_its_menu_ends_the_cluster(postgres_url: str, tmp_path: Path) -> None:
    with fresh_database(postgres_url) as url, lab(tmp_path, url) as running:
        everything = running.processes()
        assert len(everything) > 4
        running.ask("api/shutdown", method="POST")
        assert running.process.wait(END_S) == 0
        assert still_running(everything) == []


@pytest.mark.slow
def test_a_command_that_is_killed_leaves_no_process_and_the_next_one_clears_up(postgres_url: str, tmp_path: Path) -> None:
    with fresh_database(postgres_url) as url:
        with lab(tmp_path, url) as running:
            running.ask("api/kernels", method="POST")
            wait_until(lambda: any("ipykernel" in " ".join(process.cmdline()) for process in running.processes()))
            everything = running.processes()
            running.process.kill()
            wait_until(lambda: not still_running(everything), timeout_s=END_S)
            assert len(list((running.home / "lab").iterdir())) == 1
        with lab(tmp_path, url) as again:
            assert [path.name for path in (again.home / "lab").iterdir()] == [str(again.process.pid)]
            assert again.interrupt() == 0


@pytest.mark.slow
def test_a_cluster_that_runs_already_is_used_and_goes_on(postgres_url: str, tmp_path: Path) -> None:
    with fresh_database(postgres_url) as url, local_cluster(tmp_path / "home", url) as cluster:
        with lab(tmp_path, url) as running:
            assert running.dashboard() == cluster.dashboard_link.removesuffix("/status")
            assert "using the local master that is running already" in running.words()
            assert "--workers is left aside" in running.words()
            assert running.interrupt() == 0
        assert load_state(cluster, tmp_path) == "succeeded"


@pytest.mark.slow
def test_a_port_that_is_taken_is_an_error_that_names_it_and_leaves_nothing(postgres_url: str, tmp_path: Path) -> None:
    with fresh_database(postgres_url) as url, socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = str(taken.getsockname()[1])
        command = [str(PROTHEON), "lab", "--no-browser", "--into", url, "--dir", str(tmp_path / "notebooks"), "--port", port]
        done = subprocess.run(command, env=person(tmp_path), capture_output=True, text=True, check=False, timeout=START_S)
        assert done.returncode == 2, done.stderr
        assert done.stdout == ""
        last = done.stderr.splitlines()[-1]
        assert last.startswith("protheon: ")
        assert f"port {port} is" in last
        assert list((tmp_path / "home" / "lab").iterdir()) == []


@pytest.mark.parametrize("missing", ["jupyterlab", "dask_labextension"])
def test_without_the_extra_the_command_says_what_to_install_and_does_nothing(missing: str, tmp_path: Path) -> None:
    code = f"import sys; sys.modules[{missing!r}] = None; from protheon_dask.cli.main import main; sys.exit(main(['lab', '--dir', 'x']))"
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=tmp_path, env=person(tmp_path), capture_output=True, text=True, check=False, timeout=60
    )
    assert done.returncode == 2
    assert done.stderr.count("\n") == 1
    assert "pip install 'protheon-dask[lab]'" in done.stderr
    assert not (tmp_path / "x").exists()
    assert not (tmp_path / "home").exists()
