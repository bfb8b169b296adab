"""A host's requests to the port where hosts join, over HTTPS: only the cluster's own master is told anything."""

from __future__ import annotations

import http.client
import json
import socket
import ssl
from datetime import UTC, datetime
from typing import Any, Final

import msgspec

from protheon_dask.broker.join import JoinReply, JoinRequest, RenewRequest
from protheon_dask.broker.tls import MASTER_NAME
from protheon_dask.errors import BrokerUnavailable, ConfigError, NotAllowed, ProtheonError
from protheon_dask.run.join_token import split_address

CONNECT_S: Final = 5.0
ANSWER_S: Final = 30.0
"""The master may wait for its authority's lock."""
MAX_ANSWER_BYTES: Final = 64 << 10
CERTIFICATE_NOT_YET_VALID, CERTIFICATE_HAS_EXPIRED = 9, 10
"""OpenSSL's X509_V_ERR_*: of a clock that is wrong, here or there."""
NO_ANSWER: Final = (OSError, http.client.HTTPException)
"""What a request ends with where no master answers."""


class OtherCluster(Exception):
    """At an address stands another authority than this cluster's, or no master: nothing was sent there."""


def decided(address: str, ca_pem: bytes, path: str, asked: JoinRequest | RenewRequest, refused: str) -> JoinReply:
    """Ask over a connection that the authority's certificate proves to be the master's. refused: what the master does not do.

    Raises: OtherCluster; NO_ANSWER; NotAllowed, ConfigError, BrokerUnavailable: as the master answers, or a clock is wrong.
    """
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.minimum_version = ssl.TLSVersion.TLSv1_3
    context.load_verify_locations(cadata=ca_pem.decode("ascii"))
    try:
        code, body = called(address, context, "POST", path, msgspec.json.encode(asked))
    except ssl.SSLCertVerificationError as error:
        if error.verify_code in (CERTIFICATE_NOT_YET_VALID, CERTIFICATE_HAS_EXPIRED):
            raise ConfigError(
                f"the certificate of the master at {address} is not valid by this host's clock "
                f"({datetime.now(UTC):%Y-%m-%d %H:%M} UTC): set the clock here or there; nothing was sent"
            ) from error
        raise OtherCluster(
            f"what answers at {address} shows the authority's certificate, and has none of its own: nothing was sent"
        ) from error
    if code == http.HTTPStatus.OK:
        try:
            return msgspec.json.decode(body, type=JoinReply)
        except msgspec.DecodeError as error:
            raise ConfigError(
                f"the master at {address} answers in a form that this version does not know: install its version here"
            ) from error
    raise _refusal(address, code, body, refused)


def _refusal(address: str, code: int, body: bytes, refused: str) -> ProtheonError:
    try:
        told: Any = json.loads(body)["error"]
    except (ValueError, KeyError, TypeError):
        told = f"it answers {code}"
    kinds: dict[int, type[NotAllowed | ConfigError | BrokerUnavailable]] = {403: NotAllowed, 400: ConfigError}
    return kinds.get(code, BrokerUnavailable)(f"the master at {address} does not {refused}: {told}")


def called(address: str, context: ssl.SSLContext, method: str, path: str, body: bytes) -> tuple[int, bytes]:
    """One request over a connection of its own; the master's name is asked for, whatever the address. Raises NO_ANSWER."""
    place = split_address(address)
    connection = http.client.HTTPConnection(*place, timeout=ANSWER_S)
    plain = socket.create_connection(place, CONNECT_S)
    try:
        connection.sock = context.wrap_socket(plain, server_hostname=MASTER_NAME)
        connection.sock.settimeout(ANSWER_S)
        connection.request(method, path, body or None, {"Content-Type": "application/json", "Connection": "close"})
        response = connection.getresponse()
        data = response.read(MAX_ANSWER_BYTES + 1)
        if len(data) > MAX_ANSWER_BYTES:
            raise http.client.HTTPException("the answer is longer than any of a master")
        return response.status, data
    finally:
        connection.close()
        plain.close()


def reason(error: Exception) -> str:
    """Of NO_ANSWER, in words."""
    match error:
        case TimeoutError():
            return "no answer in time"
        case ssl.SSLError():
            return f"speaks no TLS as a master does ({error.reason or error})"
        case OSError(strerror=str(told)):
            return told
        case _:
            return str(error) or type(error).__name__
