"""Files that say the same thing twice agree."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path

import pytest
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


def conda_entries() -> list[str]:
    return [entry for entry in yaml.safe_load((ROOT / "environment.yml").read_text())["dependencies"] if isinstance(entry, str)]


@pytest.mark.parametrize("entry", conda_entries())
def test_conda_reads_each_line_of_environment_yml_as_a_package_and_its_bounds(entry: str) -> None:
    rattler = pytest.importorskip("rattler")  # conda's own language of versions; of the extra dev alone
    read = rattler.MatchSpec(entry, strict=True)
    name, bounds_of_it = bounds(entry)
    assert read.name.normalized == name
    assert frozenset(part for part in str(read.version or "").split(",") if part) == bounds_of_it
    assert not any((read.build, read.channel, read.file_name))


@pytest.mark.parametrize("entry", ["dask-core >>1", "moto [s3] >=5 [x]", "flask >=3.1 =py=0"])
def test_conda_refuses_what_is_none(entry: str) -> None:
    rattler, errors = pytest.importorskip("rattler"), pytest.importorskip("rattler.exceptions")
    with pytest.raises(errors.InvalidMatchSpecError):
        rattler.MatchSpec(entry, strict=True)


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
