"""For ``dask scheduler --preload scheduler/preload.py``: Protheon's pages in the dashboard. All of it is in the package."""

from protheon_dask.run.preload_scheduler import dask_setup

__all__ = ["dask_setup"]
