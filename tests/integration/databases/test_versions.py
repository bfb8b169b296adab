"""A load with a kill -9 of a worker, under a role with every odd setting, on the other servers of this machine.

The session's server is the system's; these are what the embedded extra brings. 14 cannot be had here: nothing of this is about it.
"""

from __future__ import annotations

import os
import signal
from pathlib import Path

import pytest

from protheon_dask.ledger.server_process import Binaries, find_all_binaries
from tests.acceptance.conftest import World, numbers, write_numbers, write_pipeline
from tests.fixtures.cluster import local_cluster, wait_until
from tests.fixtures.own_postgres import PASSWORD, OwnServer
from tests.fixtures.postgres import find_test_binaries, scratch_dir
from tests.integration.databases.test_roles import set_oddly

OTHERS = [binaries for binaries in find_all_binaries() if binaries.major != find_test_binaries().major]
N_LINES = 1_200


def marked(binaries: Binaries, newest: int) -> object:
    """The newest belongs to every run of the tests, the others to `make test-all`."""
    marks = () if binaries.major == newest else (pytest.mark.slow,)
    return pytest.param(binaries, marks=marks, id=f"postgresql-{binaries.major}")


@pytest.mark.slow
@pytest.mark.skipif(os.name == "nt", reason="signals of POSIX")
@pytest.mark.parametrize("binaries", [marked(item, max(other.major for other in OTHERS)) for item in OTHERS])
def test_a_load_with_a_killed_worker_is_whole_on(binaries: Binaries, tmp_path: Path) -> None:
    with scratch_dir() as root:
        server = OwnServer(binaries, root)
        server.make()
        server.start()
        try:
            load_and_kill(server, tmp_path)
        finally:
            server.stop()


def load_and_kill(server: OwnServer, directory: Path) -> None:
    server.make_role("other")
    server.execute("CREATE DATABASE other OWNER other")
    set_oddly(server, "other")
    server.execute(
        "CREATE TABLE public.other (n bigint, _protheon_chunk bigint)",
        "ALTER TABLE public.other OWNER TO other",
        # one COPY of 200 rows takes 0.6 s, longer than statement_timeout and transaction_timeout
        "CREATE FUNCTION public.slow() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN PERFORM pg_sleep(0.003); RETURN NEW; END'",
        "CREATE TRIGGER slow BEFORE INSERT ON public.other FOR EACH ROW EXECUTE FUNCTION public.slow()",
        database="other",
    )
    with local_cluster(directory / "home", server.url("other", "other", PASSWORD), workers=2) as cluster:
        world = World(cluster, server.url("other"), directory)
        run_id = world.submit(write_pipeline(directory, "other"), write_numbers(directory / "n.txt", N_LINES), chunk_lines=200).run_id
        copying = "SELECT count(*) FROM pg_stat_activity WHERE query ILIKE 'COPY%%' AND state = 'active'"
        wait_until(lambda: world.ask(copying)[0][0] == 2)
        os.kill(cluster.worker_pids()[0][1], signal.SIGKILL)
        done = world.finish(run_id)
        assert (done.state, done.loaded) == ("succeeded", N_LINES)
        assert numbers(world.url, "other") == list(range(N_LINES))
        lost = [ending for story in world.attempts(run_id).values() for ending in story if ending[0] != "succeeded"]
        assert lost == [("crashed", "crash")]
        assert world.findings(run_id) == ()
