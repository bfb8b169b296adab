"""scheduler/dask.yaml gives a cluster started by hand what the local cluster's processes get as variables."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from protheon_dask.run.parts import DASK_CONFIG

FOLDER = Path(__file__).parents[2] / "scheduler"
SHOW = "import json, dask.config, distributed; print(json.dumps(dask.config.get('distributed'), default=str))"


def effective(home: Path, **variables: str) -> dict[str, Any]:
    """Every setting that Dask has with these variables and no file of this person; - and _ are one to Dask."""
    env = {name: value for name, value in os.environ.items() if not name.startswith("DASK_")}
    command = [sys.executable, "-c", SHOW]
    done = subprocess.run(command, env={**env, "HOME": str(home), **variables}, capture_output=True, text=True, check=True)
    return flat(json.loads(done.stdout))


def flat(value: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    found: dict[str, Any] = {}
    for name, member in value.items():
        key = prefix + name.replace("_", "-")
        found |= flat(member, key + ".") if isinstance(member, Mapping) else {key: member}
    return found


def test_the_file_and_the_variables_are_the_same_settings(tmp_path: Path) -> None:
    by_file = effective(tmp_path, DASK_CONFIG=str(FOLDER))
    assert by_file == effective(tmp_path, **DASK_CONFIG)
    assert by_file != effective(tmp_path)
