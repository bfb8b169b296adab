"""The notebooks that come with the package, and copies of them that belong to a person."""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from protheon_dask.errors import ConfigError

SOURCES: Final = (Path(__file__).parents[1] / "notebooks", Path(__file__).parents[2] / "notebooks")
"""Where they are: in an installed package, in a checkout."""
RECORD: Final = ".protheon-notebooks.json"
"""Beside the copies: the SHA-256 of each as it was copied. What differs from it was changed by the person."""


@dataclass(frozen=True, slots=True)
class Copies:
    """What became of each notebook, by file name."""

    directory: Path  # absolute
    new: tuple[str, ...]
    renewed: tuple[str, ...]  # copies of an older version of the package that nobody had changed
    kept: tuple[str, ...]  # changed by the person: left as they are
    names: tuple[str, ...]  # all, in their order


def shipped(sources: tuple[Path, ...] = SOURCES) -> list[Path]:
    """The package's notebooks, in their order; none where it was installed without them."""
    return next((found for source in sources if (found := sorted(source.glob("[0-9][0-9]_*.ipynb")))), [])


def copy_notebooks(directory: Path, sources: tuple[Path, ...] = SOURCES) -> Copies:
    """Put a copy of each notebook into the directory, which is made where it is missing.

    Raises:    ConfigError: nothing can be written there; copies that were made stay.
    Guarantee: never writes over what the person has changed, or over a file that is not a copy of ours. Idempotent.
    """
    new, renewed, kept, names = [], [], [], []
    directory = directory.expanduser().absolute()
    try:
        directory.mkdir(parents=True, exist_ok=True)
        delivered = _read_record(directory / RECORD)
        for notebook in shipped(sources):
            target, data = directory / notebook.name, notebook.read_bytes()
            names.append(notebook.name)
            if not target.exists():
                new.append(notebook.name)
            elif (held := target.read_bytes()) == data:
                pass
            elif delivered.get(notebook.name) == _hash(held):
                renewed.append(notebook.name)
            else:
                kept.append(notebook.name)
                continue
            if notebook.name in (*new, *renewed):
                target.write_bytes(data)
            delivered[notebook.name] = _hash(data)
        (directory / RECORD).write_text(json.dumps(delivered, indent=1) + "\n", encoding="utf-8")
    except OSError as exc:
        raise ConfigError(f"notebooks cannot be copied to {directory}: {exc.strerror or exc}; name another directory by --dir") from exc
    return Copies(directory, tuple(new), tuple(renewed), tuple(kept), tuple(names))


def _hash(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def _read_record(path: Path) -> dict[str, str]:
    """What was copied before; a record that is missing or damaged holds nothing, and then every copy counts as changed."""
    try:
        known = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return {name: told for name, told in known.items() if isinstance(told, str)} if isinstance(known, dict) else {}
