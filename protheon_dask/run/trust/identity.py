"""This host in a cluster of several: where its certificate is, and what Dask is told of it."""

from __future__ import annotations

import socket
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from protheon_dask.broker.tls import TlsFiles
from protheon_dask.config import Settings
from protheon_dask.errors import ConfigError, ProtheonError
from protheon_dask.run.settings import environment, home_of

if TYPE_CHECKING:
    from distributed import Security

TLS_DIR: Final = "tls"
"""Below home: what `protheon cluster init` or `protheon worker --join` made."""
ROLES: Final = ("client", "scheduler", "worker")
HOST_VARIABLE: Final = "PROTHEON_HOST"
"""Tells a process of ours the name of its host: whoever started it knows it."""


def tls_of(settings: Settings) -> TlsFiles | None:
    """This host's identity: where tls_dir says, else below home; None: it has none, and everything is plaintext on loopback."""
    if settings.tls_dir:
        return TlsFiles(Path(settings.tls_dir).expanduser())
    files = TlsFiles(home_of(settings) / TLS_DIR)
    return files if files.certificate.exists() else None


def own_name(settings: Settings) -> str:
    """This host's, one for all who ask: as its process was told, else by its certificate, else by what the machine calls itself."""
    if told := environment().get(HOST_VARIABLE):
        return told
    if (tls := tls_of(settings)) is not None:
        from protheon_dask.run.trust.membership import identity_of  # here: without TLS nobody needs cryptography

        try:
            return identity_of(tls).host
        except ProtheonError:  # damaged: whoever uses it says so
            pass
    return socket.gethostname()


def joined_master(settings: Settings) -> str:
    """The address of the master whose cluster this host has joined by an invite; empty: none, or it is the master itself.

    Raises ConfigError: what was noted when it joined is damaged.
    """
    if (tls := tls_of(settings)) is None:
        return ""
    from protheon_dask.run.trust.membership import membership_of  # here: it loads cryptography

    found = membership_of(tls)
    return found.master if found is not None and found.invite else ""


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


def security_environment(security: Any) -> Mapping[str, str]:
    """Variables by which a client in a child process connects as this says. What is a PEM text there, a key's too, is one here.

    security: distributed.Security, which has no types, or Coiled's kind of it. Its extra_conn_args are for web sockets alone, and what it
              says of other roles is not a client's.
    Raises ConfigError: of another kind, which makes its connections in a way of its own.
    """
    if hasattr(security, "tls_ca_file"):
        ca, certificate, key = security.tls_ca_file, security.tls_client_cert, security.tls_client_key
    else:  # Coiled's: one pair for all roles, whose certificate is the authority, too
        certificate, key = getattr(security, "tls_scheduler_cert", None), getattr(security, "tls_scheduler_key", None)
        ca = certificate
        if not (certificate and key):
            raise ConfigError(
                f"how a {type(security).__name__} connects cannot be told to the broker, which is a process of its own: "
                "give security=distributed.Security(tls_ca_file=.., tls_client_cert=.., tls_client_key=..)"
            )
    told = {"CA_FILE": ca, "CIPHERS": getattr(security, "tls_ciphers", None), "CLIENT__CERT": certificate, "CLIENT__KEY": key}
    for name in ("min_version", "max_version"):
        if version := getattr(security, f"tls_{name}", None):  # an ssl.TLSVersion
            told[name.upper()] = version.name.removeprefix("TLSv").replace("_", ".")
    variables = {f"DASK_DISTRIBUTED__COMM__TLS__{name}": str(value) for name, value in told.items() if value}
    if getattr(security, "require_encryption", True):
        variables["DASK_DISTRIBUTED__COMM__REQUIRE_ENCRYPTION"] = "True"
    return variables


def dask_security(tls: TlsFiles | None) -> Security | None:
    """The same for a client in this process."""
    if tls is None:
        return None
    from distributed import Security

    files = {f"tls_{role}_{what}": str(path) for role in ROLES for what, path in (("cert", tls.certificate), ("key", tls.key))}
    return Security(require_encryption=True, tls_ca_file=str(tls.ca), **files)  # type: ignore[no-untyped-call]  # distributed has no types
