"""Preload of the nannies of ``dask worker`` (--preload-nanny): renewed certificates are shown, and removed hosts are not let in."""

from __future__ import annotations

from distributed import Nanny

from protheon_dask.run.logs import log_to_stderr
from protheon_dask.run.preloading import or_end
from protheon_dask.run.settings import read_settings
from protheon_dask.run.trust.dask_tls import keep_renewed, refuse_removed


def dask_setup(nanny: Nanny) -> None:
    """Called by Dask in the nanny's event loop."""
    log_to_stderr("protheon_dask")  # Dask has set up its own
    with or_end("nanny"):
        settings = read_settings({}).settings
        refuse_removed(nanny, settings)
        keep_renewed(nanny, settings)
