"""A host's requests to the port where hosts join, over HTTPS: only the cluster's own master is told anything."""

from __future__ import annotations

import http.client
import json
import socket
import ssl
import threading
from collections.abc import Callable, Sequence
from contextlib import suppress
from datetime import UTC, datetime
from typing import Any, Final, TypeVar

import msgspec

from protheon_dask.broker.join import JoinReply, JoinRequest, RenewRequest
from protheon_dask.broker.reach import EXPIRED, NOT_YET_VALID
from protheon_dask.broker.tls import MASTER_NAME
from protheon_dask.errors import BrokerUnavailable, ConfigError, NotAllowed, ProtheonError
from protheon_dask.run.trust.join_token import split_address

CONNECT_S: Final = 5.0
ANSWER_S: Final = 30.0
"""From the handshake to the last byte: the master may wait for its authority's lock."""
MAX_ANSWER_BYTES: Final = 64 << 10
NO_ANSWER: Final = (OSError, http.client.HTTPException)
"""What a request ends with where no master answers."""

T = TypeVar("T")


class OtherCluster(Exception):
    """At an address stands another authority than this cluster's, or no master: nothing was sent there."""


class NobodyAnswered(Exception):
    """No master answers at any of the addresses. n_others: at so many of them stands something else."""

    def __init__(self, problems: Sequence[str], n_others: int) -> None:
        super().__init__(problems, n_others)
        self.problems, self.n_others = problems, n_others

    def __str__(self) -> str:
        return "; ".join(self.problems)


def first_answer(addresses: Sequence[str], ask: Callable[[str], T]) -> T:
    """What ask gives for the first address where the master answers; one that refuses is asked nowhere else. Raises NobodyAnswered.

    Machines of another network may have the same addresses: what is not this cluster's master is passed over.
    """
    problems: list[str] = []
    n_others = 0
    for address in addresses:
        try:
            return ask(address)
        except OtherCluster as error:
            n_others += 1
            problems.append(str(error))
        except NO_ANSWER as error:
            problems.append(f"{address}: {reason(error)}")
    raise NobodyAnswered(problems, n_others)


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
        if error.verify_code in (NOT_YET_VALID, EXPIRED):  # a clock is wrong, here or there
            raise ConfigError(
                f"the certificate of the master at {address} is not valid by this host's clock "
                f"({datetime.now(UTC):%Y-%m-%d %H:%M} UTC): set the clock here or there; nothing was sent"
            ) from error
        raise OtherCluster(f"what answers at {address} is not the master of this cluster: nothing was sent") from error
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
    """One request over a connection of its own; the master's name is asked for, whatever the address. Raises NO_ANSWER.

    Guarantee: blocks for ANSWER_S at most once it is connected, however slowly the other end speaks.
    """
    place = split_address(address)
    connection = http.client.HTTPConnection(*place, timeout=ANSWER_S)
    secured = context.wrap_socket(socket.create_connection(place, CONNECT_S), server_hostname=MASTER_NAME, do_handshake_on_connect=False)
    is_over = threading.Event()
    timer = threading.Timer(ANSWER_S, _shut, [secured, is_over])
    timer.daemon = True
    try:
        timer.start()
        secured.settimeout(ANSWER_S)
        secured.do_handshake()
        connection.sock = secured
        connection.request(method, path, body or None, {"Content-Type": "application/json", "Connection": "close"})
        response = connection.getresponse()
        data = response.read(MAX_ANSWER_BYTES + 1)
        if len(data) > MAX_ANSWER_BYTES:
            raise http.client.HTTPException("the answer is longer than any of a master")
        if is_over.is_set():  # what came is cut off
            raise TimeoutError
        return response.status, data
    except NO_ANSWER as error:
        if is_over.is_set():
            raise TimeoutError from error
        raise
    finally:
        timer.cancel()
        connection.close()
        secured.close()


def _shut(secured: ssl.SSLSocket, is_over: threading.Event) -> None:
    """End whatever waits for the other end. By the plain socket's way: SSLSocket.shutdown() would let later bytes pass in the clear."""
    is_over.set()
    with suppress(OSError):
        socket.socket.shutdown(secured, socket.SHUT_RDWR)


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
