"""Preload of the nannies of ``dask worker`` (--preload-nanny): their connections show a certificate that was renewed."""

from __future__ import annotations

from distributed import Nanny

from protheon_dask.run.dask_tls import keep_renewed
from protheon_dask.run.logs import log_to_stderr
from protheon_dask.run.settings import read_settings


def dask_setup(nanny: Nanny) -> None:
    """Called by Dask in the nanny's event loop."""
    log_to_stderr("protheon_dask")  # Dask has set up its own
    keep_renewed(nanny, read_settings({}).settings)
