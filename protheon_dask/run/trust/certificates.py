"""X.509 of a cluster: the authority's certificate, those it signs, and requests for them. Pure: no file, no clock."""

from __future__ import annotations

import secrets
from dataclasses import dataclass
from datetime import datetime, timedelta
from hashlib import sha256
from typing import Final

from cryptography import x509
from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric.ec import SECP256R1, EllipticCurvePrivateKey, EllipticCurvePublicKey, generate_private_key
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from protheon_dask.broker.tls import SERIAL_RANDOM_BITS
from protheon_dask.errors import ConfigError
from protheon_dask.run.trust.host_names import check_host_name

CA_LIFE: Final = timedelta(days=3652)
"""Ten years: a new authority means that every host joins anew."""
HOST_LIFE: Final = timedelta(hours=24)
"""What a copied certificate is worth at most once its host is not renewed any more."""
CLOCK_SKEW: Final = timedelta(hours=1)
"""A certificate is valid from so long before it was made: clocks of hosts at home differ."""
MAX_REQUEST_BYTES: Final = 8 << 10
"""Of a certificate request; one with a P-256 key has about 400."""
MAX_JOIN_NO: Final = (1 << 32) - 1


@dataclass(frozen=True, slots=True)
class Shown:
    """What a host's certificate says."""

    host: str
    serial_no: int
    not_before_at: datetime
    until_at: datetime
    names: tuple[str, ...]  # of the DNS, its own and the master's


def make_key() -> EllipticCurvePrivateKey:
    return generate_private_key(SECP256R1())


def key_to_pem(key: EllipticCurvePrivateKey) -> bytes:
    """Unencrypted: who writes it sees to its file's mode."""
    return key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())


def key_from_pem(pem: bytes) -> EllipticCurvePrivateKey:
    """Raises ConfigError: it is no P-256 key. The message shows nothing of it."""
    try:
        key = serialization.load_pem_private_key(pem, password=None)
    except (ValueError, TypeError, UnsupportedAlgorithm):
        key = None
    if not isinstance(key, EllipticCurvePrivateKey) or not isinstance(key.curve, SECP256R1):
        raise ConfigError("a private key of the cluster is damaged: it is no P-256 key in PEM")
    return key


def key_hash(key: EllipticCurvePublicKey) -> str:
    """By which a public key is known again."""
    spki = key.public_bytes(serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo)
    return sha256(spki).hexdigest()


def make_request(key: EllipticCurvePrivateKey, host: str) -> bytes:
    """A certificate request (PKCS #10) in PEM: it proves that who asks has the key."""
    request = x509.CertificateSigningRequestBuilder().subject_name(_named(host)).sign(key, hashes.SHA256())
    return request.public_bytes(serialization.Encoding.PEM)


def requested_key(request_pem: bytes) -> EllipticCurvePublicKey:
    """The public key of a request: nothing else of it counts, whatever subject, names or extensions it asks for.

    Raises: ConfigError: it is too long, no request, not signed by its own key, or the key is not of P-256.
    """
    if len(request_pem) > MAX_REQUEST_BYTES:
        raise ConfigError(f"the certificate request has {len(request_pem)} bytes; at most {MAX_REQUEST_BYTES} are read")
    try:
        request = x509.load_pem_x509_csr(request_pem)
        key = request.public_key()
        is_signed = request.is_signature_valid
    except (ValueError, UnsupportedAlgorithm, InvalidSignature) as exc:
        raise ConfigError("the certificate request cannot be read: it is no PKCS #10 in PEM") from exc
    if not isinstance(key, EllipticCurvePublicKey) or not isinstance(key.curve, SECP256R1):
        raise ConfigError("the certificate request is for a key of another kind: this cluster takes P-256 alone")
    if not is_signed:
        raise ConfigError("the certificate request is not signed by its own key: who asks must have it")
    return key


def make_ca(key: EllipticCurvePrivateKey, now: datetime) -> x509.Certificate:
    """The authority's own certificate, for hosts alone: it can sign no further authority."""
    name = _named(f"protheon {secrets.token_hex(4)}")
    return (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - CLOCK_SKEW)
        .not_valid_after(now + CA_LIFE)
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .add_extension(_key_usage(signs=True), critical=True)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
        .sign(key, hashes.SHA256())
    )


def sign_host(
    ca: x509.Certificate,
    ca_key: EllipticCurvePrivateKey,
    public_key: EllipticCurvePublicKey,
    *,
    host: str,
    join_no: int,
    more_names: tuple[str, ...] = (),
    now: datetime,
) -> x509.Certificate:
    """A certificate under the host's name, as server and as client, for HOST_LIFE; no longer than the authority's own.

    join_no: told by the serial number (broker.tls.join_no_of), so that one from before the host was removed is known for what it is.
    """
    names = [x509.DNSName(name) for name in (check_host_name(host), *more_names)]
    usage = x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH, ExtendedKeyUsageOID.CLIENT_AUTH])
    return (
        x509.CertificateBuilder()
        .subject_name(_named(host))
        .issuer_name(ca.subject)
        .public_key(public_key)
        .serial_number((join_no << SERIAL_RANDOM_BITS) | secrets.randbits(SERIAL_RANDOM_BITS))
        .not_valid_before(now - CLOCK_SKEW)
        .not_valid_after(min(now + HOST_LIFE, ca.not_valid_after_utc))
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .add_extension(_key_usage(signs=False), critical=True)
        .add_extension(usage, critical=False)
        .add_extension(x509.SubjectAlternativeName(names), critical=False)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(public_key), critical=False)
        .add_extension(x509.AuthorityKeyIdentifier.from_issuer_public_key(ca_key.public_key()), critical=False)
        .sign(ca_key, hashes.SHA256())
    )


def to_pem(certificate: x509.Certificate) -> bytes:
    return certificate.public_bytes(serialization.Encoding.PEM)


def from_pem(pem: bytes) -> x509.Certificate:
    """Raises ConfigError: it is no certificate."""
    try:
        return x509.load_pem_x509_certificate(pem)
    except ValueError as exc:
        raise ConfigError("a certificate of the cluster is damaged: it is no X.509 in PEM") from exc


def fingerprint(certificate: x509.Certificate) -> bytes:
    """SHA-256 of its DER form: what a token knows the authority by."""
    return certificate.fingerprint(hashes.SHA256())


def read_host(pem: bytes) -> Shown:
    """What a host's certificate in PEM says; nothing is verified. Raises ConfigError: it is no certificate of a host."""
    certificate = from_pem(pem)
    try:
        names = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value.get_values_for_type(x509.DNSName)
        host = str(certificate.subject.get_attributes_for_oid(NameOID.COMMON_NAME)[0].value)
    except (IndexError, ValueError, x509.ExtensionNotFound) as exc:
        raise ConfigError("a certificate names no host: it is none that a cluster's authority gave to one") from exc
    life = (certificate.not_valid_before_utc, certificate.not_valid_after_utc)
    return Shown(host, certificate.serial_number, *life, tuple(names))


def _named(common_name: str) -> x509.Name:
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, common_name)])


def _key_usage(*, signs: bool) -> x509.KeyUsage:
    """signs: certificates; otherwise handshakes."""
    never = dict.fromkeys(("content_commitment", "key_encipherment", "data_encipherment", "key_agreement"), False)
    return x509.KeyUsage(
        digital_signature=not signs, key_cert_sign=signs, crl_sign=signs, encipher_only=False, decipher_only=False, **never
    )
