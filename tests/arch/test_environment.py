"""Files that say the same thing twice agree."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path

import yaml
from packaging.requirements import Requirement

ROOT = Path(__file__).parents[2]
# where conda-forge calls a package otherwise
CONDA_NAMES = {"dask": "dask-core", "xxhash": "python-xxhash", "prometheus-client": "prometheus_client"}
EXTRAS = ("embedded", "lab", "test")  # dev is for make, which needs no conda
ONLY_CONDA = {"python", "pip"}


def bounds(requirement: str) -> tuple[str, frozenset[str]]:
    parsed = Requirement(requirement)
    return parsed.name, frozenset(map(str, parsed.specifier))


def test_environment_yml_has_the_packages_and_the_bounds_of_pyproject() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    wanted = [*project["dependencies"], *(item for extra in EXTRAS for item in project["optional-dependencies"][extra])]
    want = {CONDA_NAMES.get(name, name): spec for name, spec in map(bounds, wanted)}

    entries = yaml.safe_load((ROOT / "environment.yml").read_text())["dependencies"]
    plain = [item for entry in entries for item in (entry["pip"] if isinstance(entry, dict) else [entry])]
    have = dict(map(bounds, plain))

    assert {name: spec for name, spec in have.items() if name not in ONLY_CONDA} == want
    assert have["python"] == bounds("python" + project["requires-python"])[1]


def test_constraints_are_exact_versions_within_the_bounds_and_name_no_host() -> None:
    pins: dict[str, list[Requirement]] = {}
    for line in (ROOT / "constraints.txt").read_text().splitlines():
        if line and not line.startswith("#"):
            pin = Requirement(line)
            assert re.fullmatch(r"==[\w.+!]+", str(pin.specifier)), line
            assert pin.url is None
            pins.setdefault(pin.name, []).append(pin)

    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    extras = [item for items in project["optional-dependencies"].values() for item in items]
    for requirement in map(Requirement, [*project["dependencies"], *extras]):
        if requirement.name == project["name"]:
            continue
        for pin in pins[requirement.name]:
            assert requirement.specifier.contains(str(pin.specifier).removeprefix("==")), requirement


def test_the_version_is_the_same_everywhere() -> None:
    import protheon_dask

    assert tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["version"] == protheon_dask.__version__
    assert f"## {protheon_dask.__version__}" in (ROOT / "CHANGELOG.md").read_text()
