"""Check that every runtime dependency has a wheel for each system that a worker, a client or the demo may run on.

``make wheels``: asks the package index through uv, downloads nothing but metadata, and is no part of the tests: it needs the
network. The versions are those of constraints.txt. Exit code 1 names each package and system without a wheel.
"""

from __future__ import annotations

import subprocess
import sys
import tomllib
from pathlib import Path

ROOT = Path(__file__).parents[2]
PYTHON = "3.11"  # the oldest that pyproject.toml allows: newer ones have what it has, or the constraints' markers say otherwise
SYSTEMS = {
    "Windows x64": "x86_64-pc-windows-msvc",
    "macOS arm64": "aarch64-apple-darwin",
    "Linux x64": "x86_64-manylinux_2_28",
    "Linux arm64": "aarch64-manylinux_2_28",
}
NOT_FOR_USERS = {"dev", "test", "fuzz"}  # extras for those who work on Protheon


def resolve(requirements: str, platform: str, *options: str) -> subprocess.CompletedProcess[str]:
    """Resolve for a system. The answer is a list of pins."""
    command = ["uv", "pip", "compile", "--quiet", "--no-header", "--no-annotate", "--python-version", PYTHON, "--python-platform", platform]
    command += ["--constraint", str(ROOT / "constraints.txt"), *options, "-"]
    return subprocess.run(command, input=requirements, capture_output=True, text=True, check=False)


def runtime_requirements() -> list[str]:
    """What a user can have installed: the dependencies, and the extras that are for users."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    extras = project["optional-dependencies"]
    return [*project["dependencies"], *(item for name, items in extras.items() if name not in NOT_FOR_USERS for item in items)]


def main() -> int:
    """Run as a command."""
    wanted, lacking = "\n".join(runtime_requirements()), 0
    for system, platform in SYSTEMS.items():
        whole = resolve(wanted, platform)
        if whole.returncode:
            print(whole.stderr, file=sys.stderr)
            return 2
        pins = [line for line in whole.stdout.splitlines() if line and not line.startswith((" ", "#", "-"))]
        missing = []
        if resolve("\n".join(pins), platform, "--no-deps", "--only-binary", ":all:").returncode:
            missing = [pin for pin in pins if resolve(pin, platform, "--no-deps", "--only-binary", ":all:").returncode]
        lacking += len(missing)
        print(f"{system}: {len(pins) - len(missing)} of {len(pins)} have a wheel" + "".join(f"\n  none: {pin}" for pin in missing))
    return 1 if lacking else 0


if __name__ == "__main__":
    sys.exit(main())
