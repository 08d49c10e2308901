"""A cluster's own certificate authority: small enough to read, and enough for mutual TLS between its machines.

One directory holds everything: ``ca.crt`` and ``ca.key``, and for every holder ``NAME.crt`` and ``NAME.key``. The
authority's key signs certificates and nothing else, so that directory belongs on one safe machine; a member needs
``ca.crt`` and its own two files. Keys are ECDSA on P-256, written once with mode 0600, never printed.

A certificate names its holder twice: as the subject's common name, by which servers and operators know it, and as
subject alternative names, which are the addresses that clients dial (RFC 9525). It may be used by servers and clients
alike, because a member is both; ``client_only`` leaves the server's part out.
"""

import contextlib
import ipaddress
import os
import re
from collections.abc import Iterator, Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import NamedTuple

from cryptography import x509
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from plasmacloud.base.errors import ConfigError

AUTHORITY = "ca"
DEFAULT_AUTHORITY_DAYS = 3650
DEFAULT_DAYS = 365
_BACKDATED = timedelta(minutes=5)  # clocks of new machines may be behind
_NAME = re.compile(r"[A-Za-z0-9](?:[A-Za-z0-9._-]{0,62}[A-Za-z0-9])?")
_HOST = re.compile(r"(?=.{1,253}\Z)(?!.*\.\.)(?:\*\.)?[A-Za-z0-9](?:[A-Za-z0-9.-]*[A-Za-z0-9])?")


class Certificate(NamedTuple):
    """What a person wants to know about a certificate. Times are UTC. ``server``, ``client``: who may use it."""

    path: Path
    name: str
    hosts: tuple[str, ...]
    issuer: str
    not_before: datetime
    not_after: datetime
    serial: int
    is_authority: bool
    server: bool
    client: bool

    def days_left(self, now: datetime) -> float:
        """Days until it expires; negative afterwards."""
        return (self.not_after - now) / timedelta(days=1)


def init_authority(directory: Path, *, name: str = "PlasmaCloud", days: int = DEFAULT_AUTHORITY_DAYS) -> Certificate:
    """Make a new authority. Raises `ConfigError` when the directory already has one, or cannot be written."""
    _check_days(days)
    certificate_file, key_file = _files(directory, AUTHORITY)
    for file in (certificate_file, key_file):
        if file.exists():
            raise ConfigError(
                f"{file} exists: a new authority would make every certificate of the old one worthless",
                hint="use it (plasma pki issue), or name another directory",
            )
    key = ec.generate_private_key(ec.SECP256R1())
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, f"{name} CA")])
    usage = _key_usage(key_cert_sign=True, crl_sign=True)
    certificate = (
        _builder(subject, subject, key.public_key(), days)
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .add_extension(usage, critical=True)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
        .sign(key, hashes.SHA256())
    )
    with _writing(directory):
        directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        _write(key_file, _encode_key(key), secret=True)
        _write(certificate_file, certificate.public_bytes(serialization.Encoding.PEM), secret=False)
    return read_certificate(certificate_file)


def issue(
    directory: Path,
    name: str,
    hosts: Sequence[str] = (),
    *,
    days: int = DEFAULT_DAYS,
    client_only: bool = False,
    replace: bool = False,
) -> Certificate:
    """Sign a certificate for ``name``, valid for ``hosts`` (names and IP addresses).

    With ``replace`` an existing certificate is renewed under a new key: each file is replaced atomically, the key
    first, and servers that watch the files take over both once they fit. Raises `ConfigError`.
    """
    _check_days(days)
    if not _NAME.fullmatch(name) or name == AUTHORITY:
        raise ConfigError(
            f"{name!r} cannot name a certificate",
            hint="use up to 64 letters, digits, '.', '_' and '-', such as the member's name",
        )
    if not hosts and not client_only:
        raise ConfigError(
            f"no address for {name}: clients could not check that they reached it",
            hint="name every address under which it is dialled, such as --host 10.0.0.1 --host n1.example; or --client",
        )
    certificate_file, key_file = _files(directory, name)
    if not replace and (certificate_file.exists() or key_file.exists()):
        raise ConfigError(f"{name} already has a certificate in {directory}", hint="--renew replaces it")
    authority, authority_key = _load_authority(directory)
    if datetime.now(UTC) + timedelta(days=days) > authority.not_valid_after_utc:
        raise ConfigError(
            f"{days} days are longer than the authority itself is valid (until {authority.not_valid_after_utc:%F})",
            hint="use fewer --days, or make a new authority in another directory",
        )
    key = ec.generate_private_key(ec.SECP256R1())
    uses = [ExtendedKeyUsageOID.CLIENT_AUTH] if client_only else [
        ExtendedKeyUsageOID.SERVER_AUTH,
        ExtendedKeyUsageOID.CLIENT_AUTH,
    ]  # fmt: skip
    builder = (
        _builder(x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)]), authority.subject, key.public_key(), days)
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .add_extension(_key_usage(digital_signature=True), critical=True)
        .add_extension(x509.ExtendedKeyUsage(uses), critical=False)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
        .add_extension(x509.AuthorityKeyIdentifier.from_issuer_public_key(authority_key.public_key()), critical=False)
    )
    if hosts:
        builder = builder.add_extension(
            x509.SubjectAlternativeName([_general_name(host) for host in dict.fromkeys(hosts)]), critical=False
        )
    certificate = builder.sign(authority_key, hashes.SHA256())
    with _writing(directory):
        _write(key_file, _encode_key(key), secret=True)
        _write(certificate_file, certificate.public_bytes(serialization.Encoding.PEM), secret=False)
    return read_certificate(certificate_file)


def read_certificate(file: Path) -> Certificate:
    """Describe a PEM certificate. Raises `ConfigError`."""
    return _describe(file, _load_certificate(file))


class Holder(NamedTuple):
    """Who shows a certificate, and as what it may be used."""

    name: str
    server: bool
    client: bool


def read_holder(der: bytes) -> Holder:
    """Of a certificate as TLS hands it over, which has checked it. Raises ValueError when it is none.

    Without the extension that names them, all uses are allowed (RFC 5280, 4.2.1.12).
    """
    certificate = x509.load_der_x509_certificate(der)
    names = certificate.subject.get_attributes_for_oid(NameOID.COMMON_NAME)
    return Holder(str(names[0].value) if len(names) == 1 else "", *_uses(certificate))


def _uses(certificate: x509.Certificate) -> tuple[bool, bool]:
    try:
        uses = certificate.extensions.get_extension_for_class(x509.ExtendedKeyUsage).value
    except x509.ExtensionNotFound:
        return True, True
    return ExtendedKeyUsageOID.SERVER_AUTH in uses, ExtendedKeyUsageOID.CLIENT_AUTH in uses


def list_certificates(directory: Path) -> list[Certificate]:
    """All certificates of a directory, the authority first. Raises `ConfigError`."""
    try:
        files = sorted(directory.glob("*.crt"))
    except OSError as error:
        raise ConfigError(f"cannot read {directory}: {error.strerror}") from error
    if not files:
        raise ConfigError(f"{directory} has no certificates", hint=f"plasma pki init {directory}")
    found = [read_certificate(file) for file in files]
    return sorted(found, key=lambda certificate: (not certificate.is_authority, certificate.name))


def verify_issued(directory: Path, certificate: Certificate) -> bool:
    """Whether the directory's authority signed it. Raises `ConfigError`."""
    authority = _load_certificate(_files(directory, AUTHORITY)[0])
    try:
        _load_certificate(certificate.path).verify_directly_issued_by(authority)
    except (ValueError, TypeError, InvalidSignature):
        return False
    return True


def _files(directory: Path, name: str) -> tuple[Path, Path]:
    return directory / f"{name}.crt", directory / f"{name}.key"


def _check_days(days: int) -> None:
    if not 0 < days <= 36_500:
        raise ConfigError(f"a certificate cannot be valid for {days} days", hint="use 1 to 36500")


def _builder(
    subject: x509.Name, issuer: x509.Name, key: ec.EllipticCurvePublicKey, days: int
) -> x509.CertificateBuilder:
    now = datetime.now(UTC)
    return (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer)
        .public_key(key)
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - _BACKDATED)
        .not_valid_after(now + timedelta(days=days))
    )


def _key_usage(
    *, digital_signature: bool = False, key_cert_sign: bool = False, crl_sign: bool = False
) -> x509.KeyUsage:
    return x509.KeyUsage(
        digital_signature=digital_signature,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        key_cert_sign=key_cert_sign,
        crl_sign=crl_sign,
        encipher_only=False,
        decipher_only=False,
    )


def _general_name(host: str) -> x509.GeneralName:
    with contextlib.suppress(ValueError):
        return x509.IPAddress(ipaddress.ip_address(host.strip("[]")))
    if not _HOST.fullmatch(host):
        raise ConfigError(
            f"{host!r} is neither a host name nor an IP address", hint="give it without a port, such as 10.0.0.1"
        )
    return x509.DNSName(host)


def _load_authority(directory: Path) -> tuple[x509.Certificate, ec.EllipticCurvePrivateKey]:
    certificate_file, key_file = _files(directory, AUTHORITY)
    certificate = _load_certificate(certificate_file)
    try:
        key = serialization.load_pem_private_key(key_file.read_bytes(), password=None)
    except OSError as error:
        raise ConfigError(
            f"cannot read {key_file}: {error.strerror}", hint="only the machine with the authority's key can sign"
        ) from error
    except (ValueError, TypeError) as error:
        raise ConfigError(f"{key_file} is not an unencrypted PEM key") from error
    if not isinstance(key, ec.EllipticCurvePrivateKey) or key.public_key() != certificate.public_key():
        raise ConfigError(f"{key_file} is not the key of {certificate_file}")
    return certificate, key


def _load_certificate(file: Path) -> x509.Certificate:
    try:
        return x509.load_pem_x509_certificate(file.read_bytes())
    except OSError as error:
        hint = f"plasma pki init {file.parent}" if file.stem == AUTHORITY else None
        raise ConfigError(f"cannot read {file}: {error.strerror}", hint=hint) from error
    except ValueError as error:
        raise ConfigError(f"{file} is not a PEM certificate") from error


def _describe(file: Path, certificate: x509.Certificate) -> Certificate:
    names = certificate.subject.get_attributes_for_oid(NameOID.COMMON_NAME)
    issuers = certificate.issuer.get_attributes_for_oid(NameOID.COMMON_NAME)
    hosts: list[str] = []
    with contextlib.suppress(x509.ExtensionNotFound):
        alternative = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
        hosts += alternative.get_values_for_type(x509.DNSName)
        hosts += map(str, alternative.get_values_for_type(x509.IPAddress))
    is_authority = False
    with contextlib.suppress(x509.ExtensionNotFound):
        is_authority = certificate.extensions.get_extension_for_class(x509.BasicConstraints).value.ca
    server, client = _uses(certificate)
    return Certificate(
        path=file,
        name=str(names[0].value) if names else "",
        hosts=tuple(hosts),
        issuer=str(issuers[0].value) if issuers else "",
        not_before=certificate.not_valid_before_utc,
        not_after=certificate.not_valid_after_utc,
        serial=certificate.serial_number,
        is_authority=is_authority,
        server=server,
        client=client,
    )


def _encode_key(key: ec.EllipticCurvePrivateKey) -> bytes:
    return key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )


@contextlib.contextmanager
def _writing(directory: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise ConfigError(f"cannot write to {directory}: {error.strerror}") from error


def _write(file: Path, content: bytes, *, secret: bool) -> None:
    """Replace the file as a whole; it never exists with half its content or with a wider mode."""
    new = file.with_name(file.name + ".new")
    new.unlink(missing_ok=True)
    fd = os.open(new, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600 if secret else 0o644)
    with os.fdopen(fd, "wb") as output:
        output.write(content)
        output.flush()
        os.fsync(output.fileno())
    os.replace(new, file)
