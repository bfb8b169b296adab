"""This host in a cluster of several: where its certificate is, and what Dask is told of it."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Final

from protheon_dask.broker.tls import TlsFiles
from protheon_dask.config import Settings
from protheon_dask.run.settings import home_of

if TYPE_CHECKING:
    from distributed import Security

TLS_DIR: Final = "tls"
"""Below home: what `protheon cluster init` or `protheon worker --join` made."""
ROLES: Final = ("client", "scheduler", "worker")


def tls_of(settings: Settings) -> TlsFiles | None:
    """This host's identity: where tls_dir says, else below home; None: it has none, and everything is plaintext on loopback."""
    if settings.tls_dir:
        return TlsFiles(Path(settings.tls_dir).expanduser())
    files = TlsFiles(home_of(settings) / TLS_DIR)
    return files if files.certificate.exists() else None


def dask_environment(tls: TlsFiles | None) -> Mapping[str, str]:
    """Variables that make Dask's processes and clients speak mutual TLS alone; none without TLS."""
    if tls is None:
        return {}
    variables = {
        "DASK_DISTRIBUTED__COMM__REQUIRE_ENCRYPTION": "True",
        "DASK_DISTRIBUTED__COMM__DEFAULT_SCHEME": "tls",
        "DASK_DISTRIBUTED__COMM__TLS__CA_FILE": str(tls.ca),
    }
    for role in ROLES:
        variables[f"DASK_DISTRIBUTED__COMM__TLS__{role.upper()}__CERT"] = str(tls.certificate)
        variables[f"DASK_DISTRIBUTED__COMM__TLS__{role.upper()}__KEY"] = str(tls.key)
    return variables


def dask_security(tls: TlsFiles | None) -> Security | None:
    """The same for a client in this process."""
    if tls is None:
        return None
    from distributed import Security

    files = {f"tls_{role}_{what}": str(path) for role in ROLES for what, path in (("cert", tls.certificate), ("key", tls.key))}
    return Security(require_encryption=True, tls_ca_file=str(tls.ca), **files)  # type: ignore[no-untyped-call]  # distributed has no types
