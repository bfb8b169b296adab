"""The token that a host joins by: one word to paste, with all that the host needs to trust the master and to be trusted by it."""

from __future__ import annotations

import base64
import binascii
import re
import zlib
from dataclasses import dataclass, field
from hashlib import sha256
from typing import Final, Self

from protheon_dask.errors import ConfigError

PREFIX: Final = "protheon-join."
FORM: Final = b"\x01"
"""The first byte: how the others are to be read."""
FINGERPRINT_BYTES: Final = 32
INVITE_BYTES: Final = 8
SECRET_BYTES: Final = 16
"""128 random bits: nobody guesses them, and a plain hash of them tells nothing."""
CHECK_BYTES: Final = 4
"""A CRC at the end tells a token that was cut off while it was copied from one that was refused."""
MAX_CHARS: Final = 4096
"""A token with sixteen long addresses has about 1,500."""

_HOST: Final = re.compile(r"[A-Za-z0-9._-]{1,253}", re.ASCII)
_HOST_V6: Final = re.compile(r"[0-9A-Fa-f:.]{2,45}", re.ASCII)


@dataclass(frozen=True, slots=True)
class JoinToken:
    """What an invite gives to a host. Its repr shows no secret.

    Shapes: fingerprint: SHA-256 of the authority's certificate in DER; addresses: host:port, tried in this order.
    """

    addresses: tuple[str, ...]
    fingerprint: bytes
    invite: bytes
    secret: bytes = field(repr=False)

    def text(self) -> str:
        """As it is pasted. Whoever reads it can join, until it expires or is used up. Raises ConfigError: parse() would not read it."""
        data = FORM + self.fingerprint + self.invite + self.secret + ",".join(self.addresses).encode("ascii")
        data += zlib.crc32(data).to_bytes(CHECK_BYTES, "big")
        encoded = base64.urlsafe_b64encode(data).rstrip(b"=").decode("ascii")
        if len(encoded) > MAX_CHARS:
            raise ConfigError(f"a token with these {len(self.addresses)} addresses would be too long to be read: give fewer with --address")
        return PREFIX + encoded

    @classmethod
    def parse(cls, text: str) -> Self:
        """Raises ConfigError: it is none, or not whole. The message shows nothing of it."""
        word = text.strip()
        if not word.startswith(PREFIX):
            raise ConfigError(f"this is no token to join by: one begins with {PREFIX!r}; `protheon cluster invite` on the master prints it")
        encoded = word.removeprefix(PREFIX)
        if len(encoded) > MAX_CHARS:
            raise ConfigError(f"this token is too long: {len(encoded)} characters, and at most {MAX_CHARS} are read")
        try:
            data = base64.b64decode(encoded + "=" * (-len(encoded) % 4), altchars=b"-_", validate=True)
        except (binascii.Error, ValueError):
            data = b""
        body, check = data[:-CHECK_BYTES], data[-CHECK_BYTES:]
        head = len(FORM) + FINGERPRINT_BYTES + INVITE_BYTES + SECRET_BYTES
        if len(body) <= head or zlib.crc32(body).to_bytes(CHECK_BYTES, "big") != check:
            raise ConfigError("this token is not whole: copy all of the line that `protheon cluster invite` printed")
        if body[:1] != FORM:
            raise ConfigError("this token is of another version of protheon: install the master's version here")
        at = len(FORM)
        fingerprint, at = body[at : at + FINGERPRINT_BYTES], at + FINGERPRINT_BYTES
        invite, at = body[at : at + INVITE_BYTES], at + INVITE_BYTES
        secret, at = body[at : at + SECRET_BYTES], at + SECRET_BYTES
        try:
            addresses = tuple(check_address(address) for address in body[at:].decode("ascii").split(","))
        except UnicodeDecodeError as exc:
            raise ConfigError("this token has an address that is none: make a new one by `protheon cluster invite`") from exc
        return cls(addresses, fingerprint, invite, secret)


def secret_hash(secret: bytes) -> str:
    """What is stored of a secret."""
    return sha256(secret).hexdigest()


def check_address(address: str) -> str:
    """The address itself, ``host:port`` or ``[::1]:port``. Raises ConfigError."""
    split_address(address)
    return address


def split_address(address: str) -> tuple[str, int]:
    """host and port of ``host:port``; of ``[::1]:50052`` the host is ``::1``. Raises ConfigError: it is no such address."""
    host, colon, port = address.rpartition(":")
    bare = host[1:-1] if host.startswith("[") and host.endswith("]") else host
    is_host = (_HOST_V6 if bare != host else _HOST).fullmatch(bare) is not None
    if not colon or not is_host or not (port.isascii() and port.isdecimal()) or not 0 < int(port) < 1 << 16:
        raise ConfigError(f"{address[:120]!r} is no address: host:port, as 192.168.1.10:50052 or [fd00::1]:50052")
    return bare, int(port)
