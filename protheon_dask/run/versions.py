"""What must agree on all hosts of a cluster: Python, Protheon, Dask, and what reads each other's bytes."""

from __future__ import annotations

import platform
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from typing import Final

from protheon_dask.broker.cluster_wire import Versions

LIBRARIES: Final = ("dask", "distributed", "cloudpickle", "msgspec")
"""What is compared beside Protheon and Python: tasks, pipelines and rows travel in the forms of these."""
NEEDED: Final = ("dask", "distributed")
"""Scheduler and workers speak a protocol of their own, which changes from one version to the next (PITFALLS 1)."""


@dataclass(frozen=True, slots=True)
class Disagreement:
    """A version that is another one than the master's. is_fatal: work would fail, or be done wrong."""

    name: str
    here: str
    there: str
    is_fatal: bool

    def __str__(self) -> str:
        return f"{self.name} is {self.here or 'not there'} here and {self.there or 'not there'} on the master"


def own_versions() -> Versions:
    """Of this process."""
    return Versions(platform.python_version(), {name: _version(name) for name in LIBRARIES})


def disagreements(version: str, versions: Versions, master_version: str, master_versions: Versions) -> list[Disagreement]:
    """What this host has in another version than its master, the fatal first.

    Fatal: Protheon (the ledger and its calls are of one version), the minor version of Python (a pipeline that travels by value is
    its byte code), Dask. What the master does not name is not compared.
    """
    found = []
    if version != master_version:
        found.append(Disagreement("protheon-dask", version, master_version, is_fatal=True))
    if _minor(versions.python) != _minor(master_versions.python):
        found.append(Disagreement("Python", versions.python, master_versions.python, is_fatal=True))
    for name, there in master_versions.libraries.items():
        if (here := versions.libraries.get(name, "")) != there:
            found.append(Disagreement(name, here, there, is_fatal=name in NEEDED))
    return sorted(found, key=lambda item: not item.is_fatal)


def _minor(python: str) -> list[str]:
    return python.split(".")[:2]


def _version(name: str) -> str:
    try:
        return version(name)
    except PackageNotFoundError:
        return ""
