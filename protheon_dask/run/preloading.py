"""What the preloads have in common: Dask only logs that one of them failed, and goes on without it."""

from __future__ import annotations

import logging
import os
from collections.abc import Iterator
from contextlib import contextmanager

from protheon_dask.run.exits import TRY_LATER

logger = logging.getLogger(__name__)


@contextmanager
def or_end(node: str) -> Iterator[None]:
    """End this process where the block raises, whatever that is: it would let in removed hosts, and could not do its work.

    A nanny starts its worker again, if that had been up before; else `dask worker` ends, with all other nannies of it, and whoever started
    it begins anew.
    """
    try:
        yield
    except Exception:
        logger.exception("preload.failed", extra={"node": node})
        os._exit(TRY_LATER)
