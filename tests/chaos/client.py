"""A person who types a submission, watches it to its end, and types it again when anything goes wrong: ``python -m tests.chaos.client``.

It may be killed at any moment; the one who is started after it types the same.
"""

from __future__ import annotations

import sys
import time

from protheon_dask.errors import ProtheonError
from protheon_dask.pipelines.find import find
from protheon_dask.run.master import Master
from protheon_dask.run.trust.keys import read_key

RETRY_S = 0.5
AS_LONG_AS_PAUSED_S = 5.0
"""How long a run may be paused before this person lets it go on: a campaign pauses none, so the judge hears of it."""


def say(event: str, *facts: object) -> None:
    print(f"{time.time():.3f}", event, *facts, flush=True)


def main() -> int:
    address, key_file, pipeline, chunk_lines, *paths = sys.argv[1:]
    found = find(pipeline, paths=paths)
    while True:
        try:
            with Master(address, read_key(key_file)) as master:
                submitted = master.submit(found, paths, chunk_lines=int(chunk_lines))
                say("submitted", submitted.run_id, *submitted.notices)
                for view in master.watch(submitted.run_id):
                    last = view
                say("ended", last.run, last.state, last.reason)
                if last.state == "succeeded":
                    return 0
                if last.state == "paused":
                    time.sleep(AS_LONG_AS_PAUSED_S)
                    master.resume(last.run)
        except ProtheonError as exc:
            say("refused", type(exc).__name__, exc)
        time.sleep(RETRY_S)


if __name__ == "__main__":
    sys.exit(main())
