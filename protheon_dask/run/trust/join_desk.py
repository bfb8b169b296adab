"""What the joining server asks: the authority's answers, for the master's broker."""

from __future__ import annotations

import logging

from protheon_dask.broker.join import JoinReply, JoinRequest, RenewRequest
from protheon_dask.errors import ConfigError, NotAllowed, TransientError
from protheon_dask.run.trust import certificates
from protheon_dask.run.trust.authority import Authority

logger = logging.getLogger(__name__)


class JoinDesk:
    """Admits hosts by the authority, and takes them back. Thread-safe."""

    def __init__(self, authority: Authority, broker_port: int) -> None:
        """broker_port: of gRPC, told to hosts that join."""
        self._authority, self._broker_port = authority, broker_port

    def ca_pem(self) -> bytes:
        return self._authority.ca_pem

    def join(self, asked: JoinRequest, address: str) -> JoinReply:
        """Admit the host. address: of the network, for the log.

        Raises: NotAllowed: the token, or the name is taken. ConfigError: the request. TransientError: the authority is being changed.
        """
        try:
            invite, secret = bytes.fromhex(asked.invite), bytes.fromhex(asked.secret)
        except ValueError:  # its words would quote the secret
            raise ConfigError("invite and secret are not hexadecimal") from None
        try:
            admission = self._authority.admit(invite, secret, asked.csr.encode(), asked.host)
        except NotAllowed as error:
            logger.warning("join.refuse", extra={"host": asked.host[:80], "address": address, "reason": str(error)})
            raise
        logger.info("join.admit", extra={"host": admission.host, "address": address})
        return self._reply(admission.host, admission.certificate_pem)

    def renew(self, asked: RenewRequest, address: str) -> JoinReply:
        """Take a host back whose certificate ended while it was away.

        Raises: NotAllowed: another key, it was removed, or away for too long. ConfigError: the request. TransientError: as above, and
                where the authority's files cannot be read: the host waits until they can.
        """
        csr_pem = asked.csr.encode()
        certificates.requested_key(csr_pem)  # its faults are the host's, all others the master's
        try:
            certificate_pem = self._authority.take_back(asked.host, csr_pem)
        except NotAllowed as error:
            logger.warning("join.refuse", extra={"host": asked.host[:80], "address": address, "reason": str(error)})
            raise
        except ConfigError as error:
            logger.error("join.fail", extra={"host": asked.host[:80], "error": str(error)})
            raise TransientError("the master cannot read its list of hosts: its log says why") from error
        logger.info("join.back", extra={"host": asked.host, "address": address})
        return self._reply(asked.host, certificate_pem)

    def _reply(self, host: str, certificate_pem: bytes) -> JoinReply:
        return JoinReply(host=host, certificate=certificate_pem.decode("ascii"), broker_port=self._broker_port)
