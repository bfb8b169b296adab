"""Certificates of a cluster: what a host is given, and how little of its request counts."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID
from hypothesis import given
from hypothesis import strategies as st

from protheon_dask.broker.tls import join_no_of
from protheon_dask.errors import ConfigError
from protheon_dask.run.trust import certificates as certs
from protheon_dask.run.trust.host_names import check_host_name, host_name_of

NOW = datetime(2026, 3, 1, 12, 0, tzinfo=UTC)
CA_KEY = certs.make_key()
CA = certs.make_ca(CA_KEY, NOW)


def forged_request(key: ec.EllipticCurvePrivateKey) -> bytes:
    """A request that asks for another's name, the master's too, and to be an authority."""
    builder = x509.CertificateSigningRequestBuilder()
    builder = builder.subject_name(x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "master.protheon.internal")]))
    builder = builder.add_extension(x509.SubjectAlternativeName([x509.DNSName("master.protheon.internal")]), critical=True)
    builder = builder.add_extension(x509.BasicConstraints(ca=True, path_length=9), critical=True)
    return builder.sign(key, hashes.SHA256()).public_bytes(serialization.Encoding.PEM)


def signed(public_key: ec.EllipticCurvePublicKey, host: str = "nuc", join_no: int = 1, now: datetime = NOW) -> x509.Certificate:
    return certs.sign_host(CA, CA_KEY, public_key, host=host, join_no=join_no, now=now)


def test_of_a_forged_request_only_the_public_key_is_taken_over() -> None:
    key = certs.make_key()
    made = signed(certs.requested_key(forged_request(key)))

    assert made.public_key() == key.public_key()
    assert made.subject.rfc4514_string() == "CN=nuc"
    assert certs.read_host(certs.to_pem(made)).names == ("nuc",)
    assert made.extensions.get_extension_for_class(x509.BasicConstraints).value.ca is False
    assert made.extensions.get_extension_for_class(x509.KeyUsage).value.key_cert_sign is False


def test_a_host_certificate_lives_for_a_day_and_began_an_hour_ago() -> None:
    made = signed(certs.make_key().public_key())

    assert made.not_valid_after_utc == NOW + timedelta(hours=24)
    assert made.not_valid_before_utc == NOW - timedelta(hours=1)
    usage = made.extensions.get_extension_for_class(x509.ExtendedKeyUsage).value
    assert set(usage) == {ExtendedKeyUsageOID.CLIENT_AUTH, ExtendedKeyUsageOID.SERVER_AUTH}
    made.verify_directly_issued_by(CA)


def test_a_host_certificate_does_not_outlive_its_authority() -> None:
    late = CA.not_valid_after_utc - timedelta(hours=2)

    assert signed(certs.make_key().public_key(), now=late).not_valid_after_utc == CA.not_valid_after_utc


def test_the_authority_can_sign_no_further_authority() -> None:
    constraints = CA.extensions.get_extension_for_class(x509.BasicConstraints)

    assert constraints.critical
    assert (constraints.value.ca, constraints.value.path_length) == (True, 0)
    assert CA.not_valid_after_utc > NOW + timedelta(days=3650)


@pytest.mark.parametrize("join_no", [1, 2, certs.MAX_JOIN_NO])
def test_a_serial_number_tells_its_joining_and_is_never_given_twice(join_no: int) -> None:
    key = certs.make_key().public_key()
    serials = {signed(key, join_no=join_no).serial_number for _ in range(5)}

    assert len(serials) == 5
    assert {join_no_of(serial) for serial in serials} == {join_no}
    assert max(serials).bit_length() < 160  # RFC 5280, 4.1.2.2: 20 octets


def test_a_request_for_another_kind_of_key_is_refused() -> None:
    keys = (rsa.generate_private_key(65537, 2048), ec.generate_private_key(ec.SECP384R1()))
    for key in keys:
        request = x509.CertificateSigningRequestBuilder().subject_name(x509.Name([])).sign(key, hashes.SHA256())
        with pytest.raises(ConfigError, match="P-256 alone"):
            certs.requested_key(request.public_bytes(serialization.Encoding.PEM))


def test_a_request_that_its_key_did_not_sign_is_refused() -> None:
    request = x509.load_pem_x509_csr(certs.make_request(certs.make_key(), "nuc"))
    other = x509.load_pem_x509_csr(certs.make_request(certs.make_key(), "nuc"))
    der = request.public_bytes(serialization.Encoding.DER)
    stolen = der.replace(_point(request), _point(other))  # somebody else's public key, under our signature
    assert stolen != der

    pem = serialization.Encoding.PEM
    with pytest.raises(ConfigError, match="not signed by its own key"):
        certs.requested_key(x509.load_der_x509_csr(stolen).public_bytes(pem))


def _point(request: x509.CertificateSigningRequest) -> bytes:
    key = request.public_key()
    assert isinstance(key, ec.EllipticCurvePublicKey)
    return key.public_bytes(serialization.Encoding.X962, serialization.PublicFormat.UncompressedPoint)


@given(st.binary(max_size=200))
def test_garbage_is_no_request(data: bytes) -> None:
    with pytest.raises(ConfigError):
        certs.requested_key(data)
    with pytest.raises(ConfigError):
        certs.requested_key(b"-----BEGIN CERTIFICATE REQUEST-----\n" + data + b"\n-----END CERTIFICATE REQUEST-----\n")


def test_a_request_that_is_too_long_is_not_read() -> None:
    with pytest.raises(ConfigError, match="at most 8192"):
        certs.requested_key(certs.make_request(certs.make_key(), "nuc") + b" " * 8192)


@pytest.mark.parametrize("name", ["a", "nuc", "gaming-pc", "1", "a" * 63])
def test_a_label_is_a_hosts_name(name: str) -> None:
    assert check_host_name(name) == name


@pytest.mark.parametrize(
    "name",
    [
        "",
        "a" * 64,
        "../x",
        "a/b",
        "A",
        "a.b",
        "a b",
        "-a",
        "a-",
        "a\n",
        "a\x00",
        "ä",
        "..",
        "*",
        "master.protheon.internal",
        "a,b",
        "--help",
    ],
)
def test_anything_else_is_none(name: str) -> None:
    with pytest.raises(ConfigError, match="cannot be a host's name"):
        check_host_name(name)


@pytest.mark.parametrize(
    ("hostname", "name"),
    [("Anns-MacBook.local", "anns-macbook"), ("GAMING_PC", "gaming-pc"), ("nuc", "nuc"), ("x" * 80 + ".lan", "x" * 63)],
)
def test_a_machines_own_name_becomes_a_hosts(hostname: str, name: str) -> None:
    assert host_name_of(hostname) == name


def test_a_damaged_key_is_not_shown_in_the_error() -> None:
    pem = certs.key_to_pem(certs.make_key())
    with pytest.raises(ConfigError) as caught:
        certs.key_from_pem(pem[:80] + b"!" + pem[81:])

    assert pem[40:70].decode() not in str(caught.value)
