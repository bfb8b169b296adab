"""A host that was away for longer than its certificate lives: it comes back by its key alone, without an invite."""

from __future__ import annotations

from datetime import UTC, datetime

from protheon_dask.broker.join import RENEW_PATH, RenewRequest
from protheon_dask.broker.tls import TlsFiles
from protheon_dask.errors import BrokerUnavailable, ConfigError
from protheon_dask.run.trust import certificates
from protheon_dask.run.trust.join_client import NobodyAnswered, decided, first_answer
from protheon_dask.run.trust.membership import check_given, identity_of, locked, membership_of, own_key
from protheon_dask.run.trust.owner_files import replace_file


def come_back(tls: TlsFiles, now: datetime | None = None) -> bool:
    """Where this host's certificate has ended, ask the master's joining port for a new one; the key stays. Says whether it did.

    Raises: NotAllowed: it was removed, was away for too long, or is unknown there by this key. ConfigError: nobody noted at the joining
            where to ask; a clock is wrong; the files are damaged. BrokerUnavailable: no master of this cluster answers; ask again later.
    Guarantee: only the cluster's master, as ca.pem proves it, is told anything, and nothing that it is told is secret.
               Of several processes of a host one asks. Where the answer was lost, it is safe to ask again.
    """
    now = now or datetime.now(UTC)
    if identity_of(tls).until_at > now:
        return False
    with locked(tls):
        identity = identity_of(tls)
        if identity.until_at > now:  # another process has
            return False
        member = membership_of(tls)
        if member is None or not member.joining:
            raise ConfigError(
                f"the certificate of host {identity.host} ended at {identity.until_at.astimezone():%Y-%m-%d %H:%M}: "
                "`protheon cluster invite` on the master prints the line to join again by"
            )
        key, ca_pem = own_key(tls), tls.ca.read_bytes()
        request = RenewRequest(host=identity.host, csr=certificates.make_request(key, identity.host).decode("ascii"))
        try:
            reply = first_answer(member.joining, lambda address: decided(address, ca_pem, RENEW_PATH, request, "take this host back"))
        except NobodyAnswered as none:
            raise BrokerUnavailable(
                f"the certificate of host {identity.host} has ended, and no master answers that could give it a new one: {none}"
            ) from none
        certificate_pem = reply.certificate.encode()
        check_given(certificate_pem, ca_pem, key, identity.host)
        if certificates.read_host(certificate_pem).until_at <= now:
            raise ConfigError(f"the new certificate has ended by this host's clock ({now:%Y-%m-%d %H:%M} UTC): set the clock here or there")
        replace_file(tls.certificate, certificate_pem)
    return True
