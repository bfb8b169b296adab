"""The rim of configuration: reads the environment and the file once and gives values."""

from __future__ import annotations

import os
import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

import platformdirs

from protheon_dask.config import Effective, Settings
from protheon_dask.errors import ConfigError

AUTHORITY_DIR: Final = "authority"
"""Below home, on the master of several hosts: its certificate authority."""


def environment() -> Mapping[str, str]:
    """The environment of this process; below this module nobody reads it."""
    return os.environ


def config_path() -> Path:
    """Where the settings file is looked for: PROTHEON_CONFIG, else the user's configuration directory."""
    given = os.environ.get("PROTHEON_CONFIG")
    return Path(given) if given else platformdirs.user_config_path("protheon") / "config.toml"


def read_settings(given: Mapping[str, Any], *, config_file: Path | None = None) -> Effective:
    """Effective settings: defaults < file < PROTHEON_* < given (None: not given). Raises ConfigError with every problem."""
    path = config_file or config_path()
    must_exist = config_file is not None or "PROTHEON_CONFIG" in os.environ
    file: dict[str, Any] = {}
    if must_exist or path.exists():
        try:
            file = tomllib.loads(path.read_text(encoding="utf-8"))
        except OSError as exc:
            raise ConfigError(f"the settings file {path} cannot be read: {exc.strerror}") from exc
        except tomllib.TOMLDecodeError as exc:
            raise ConfigError(f"the settings file {path} is not TOML: {exc}") from exc
    return Settings.read(os.environ, file, given)


def shown_settings(effective: Effective, *, config_file: Path | None = None) -> list[dict[str, Any]]:
    """What ``protheon config`` prints: every setting, home as the directory that it comes to, and first the settings file.

    config_file: as of read_settings().
    """
    path = (config_file or config_path()).absolute()
    origin = "flag" if config_file is not None else "PROTHEON_CONFIG" if os.environ.get("PROTHEON_CONFIG") else "default"
    meaning = "the settings file" if path.exists() else "where a settings file would be read; there is none"
    rows = [{"name": "config", "value": str(path), "origin": origin, "meaning": meaning}, *effective.rows()]
    return [{**row, "value": str(home_of(effective.settings))} if row["name"] == "home" else row for row in rows]


def home_of(settings: Settings) -> Path:
    """Where the embedded PostgreSQL, the workspace and the keys live."""
    return Path(settings.home).expanduser() if settings.home else platformdirs.user_data_path("protheon")


def workspace_of(settings: Settings) -> Path:
    """Where chunk files wait for workers, those of each ledger in a directory of its own."""
    return Path(settings.workspace).expanduser() if settings.workspace else home_of(settings) / "workspace"


def workers_log(settings: Settings) -> Path:
    """Where Dask's nannies write how the worker processes of this machine's cluster ended; written anew by each cluster."""
    return home_of(settings) / "logs" / "workers.log"


def start_lock_path() -> Path:
    """The file whose lock lets this user's clusters on this machine start one after the other: each must find its ports free."""
    return platformdirs.user_cache_path("protheon", appauthor=False, ensure_exists=True) / "start.lock"
