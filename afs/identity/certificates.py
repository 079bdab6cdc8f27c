"""A cell's own certificate authority, and the certificates that it issues.

    ca.pem         the authority's certificate; every machine of the cell trusts it
    ca-key.pem     its key, for its owner alone, needed to issue and nowhere else
    NAME.pem       one certificate and its key in one file, for its owner alone: replaced as a whole

A certificate says who has it by a URI: `afs://CELL/daemon/NAME` for the cell's servers,
`afs://CELL/host/UUID` for a client (the host that the fileserver knows by this UUID), and
`afs://CELL/person/NAME` for a command line.
"""

from __future__ import annotations

import ipaddress
import uuid
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from enum import StrEnum
from pathlib import Path
from typing import Final

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from afs.access.names import check_user_name
from afs.errors import AfsCode, AfsError
from afs.identity.keys import PRIVATE_MODE, check_private
from afs.limits import CA_LIFETIME_S, CERTIFICATE_LIFETIME_S, TOKEN_CLOCK_TOLERANCE_S
from afs.runtime.files import write_durably

# What servers and clients speak to each other on the machine itself.
LOCAL_HOSTS: Final = ("localhost", "127.0.0.1", "::1")


class Role(StrEnum):
    """What a certificate is for; part of its URI."""

    DAEMON = "daemon"
    HOST = "host"
    PERSON = "person"


def certificate_uri(cell: str, role: Role, name: str) -> str:
    """How a certificate says who has it."""
    return f"afs://{cell}/{role.value}/{name}"


@dataclass(frozen=True, slots=True)
class AuthorityFiles:
    """Where a cell's certificates are."""

    folder: Path

    @property
    def ca(self) -> Path:
        """The authority's certificate."""
        return self.folder / "ca.pem"

    @property
    def ca_key(self) -> Path:
        """The authority's key."""
        return self.folder / "ca-key.pem"

    def certificate(self, name: str) -> Path:
        """A certificate with its key."""
        return self.folder / f"{name}.pem"

    def make(self, cell: str, now: datetime) -> None:
        """Makes a new authority; blocks on the disk.

        Raises:
            AfsError: EEXIST if there is one: what it issued would be void.
            OSError: the folder cannot be written.
        """
        if self.ca_key.exists():
            raise AfsError(AfsCode.EEXIST, f"{self.ca_key} exists: the cell has its authority")
        self.folder.mkdir(parents=True, exist_ok=True)
        key = ec.generate_private_key(ec.SECP256R1())
        name = _name(f"{cell} authority")
        certificate = (
            _builder(name, name, key.public_key(), now, CA_LIFETIME_S)
            .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
            .add_extension(_key_usage(signs=True), critical=True)
            .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), False)  # noqa: FBT003
            .sign(key, hashes.SHA256())
        )
        write_durably(self.ca, certificate.public_bytes(serialization.Encoding.PEM))
        write_durably(self.ca_key, _pem(key), PRIVATE_MODE)

    def issue(
        self,
        cell: str,
        role: Role,
        name: str,
        now: datetime,
        *,
        hosts: Sequence[str] = LOCAL_HOSTS,
        file: str | None = None,
        lifetime_s: float = CERTIFICATE_LIFETIME_S,
    ) -> Path:
        """Writes a certificate with a new key, in place of an older one; blocks on the disk.

        Args:
            cell: name of the cell.
            role: what it is for.
            name: of the daemon or person, or a host's UUID.
            now: when it begins to be good.
            hosts: names and addresses at which a daemon is called.
            file: name of the file, without its suffix; None: `name`.
            lifetime_s: how long it is good for.

        Raises:
            AfsError: ENOENT without an authority; EACCES if others can read its key; EINVAL for a
                name that none can have.
        """
        if role is Role.HOST:
            _check_uuid(name)
        else:
            check_user_name(name)
        ca, ca_key = self._authority()
        key = ec.generate_private_key(ec.SECP256R1())
        names: list[x509.GeneralName] = [
            x509.UniformResourceIdentifier(certificate_uri(cell, role, name))
        ]
        names += map(_general_name, hosts)
        certificate = (
            _builder(_name(name), ca.subject, key.public_key(), now, lifetime_s)
            .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
            .add_extension(_key_usage(signs=False), critical=True)
            .add_extension(x509.SubjectAlternativeName(names), critical=False)
            .add_extension(
                x509.ExtendedKeyUsage(
                    [ExtendedKeyUsageOID.SERVER_AUTH, ExtendedKeyUsageOID.CLIENT_AUTH]
                ),
                critical=False,
            )
            .sign(ca_key, hashes.SHA256())
        )
        path = self.certificate(file or name)
        both = certificate.public_bytes(serialization.Encoding.PEM) + _pem(key)
        write_durably(path, both, PRIVATE_MODE)
        return path

    def _authority(self) -> tuple[x509.Certificate, ec.EllipticCurvePrivateKey]:
        try:
            check_private(self.ca_key)
            key = serialization.load_pem_private_key(self.ca_key.read_bytes(), password=None)
            certificate = x509.load_pem_x509_certificate(self.ca.read_bytes())
        except OSError as error:
            raise AfsError(
                AfsCode.ENOENT,
                f"{error.filename}: {error.strerror}: make the cell's authority with"
                " afsctl cell init",
            ) from None
        except ValueError as error:
            raise AfsError(AfsCode.EINVAL, f"authority in {self.folder}: {error}") from None
        if not isinstance(key, ec.EllipticCurvePrivateKey):
            raise AfsError(AfsCode.EINVAL, f"{self.ca_key} holds no elliptic curve key")
        return certificate, key


def expiry_of(path: Path) -> datetime:
    """Until when the certificate in a file is good; AfsError EINVAL, OSError."""
    try:
        return x509.load_pem_x509_certificate(path.read_bytes()).not_valid_after_utc
    except ValueError as error:
        raise AfsError(AfsCode.EINVAL, f"certificate {path}: {error}") from None


def utc_now() -> datetime:
    """The time, for certificates."""
    return datetime.now(UTC)


def _builder(
    subject: x509.Name,
    issuer: x509.Name,
    key: ec.EllipticCurvePublicKey,
    now: datetime,
    lifetime_s: float,
) -> x509.CertificateBuilder:
    return (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer)
        .public_key(key)
        .serial_number(x509.random_serial_number())
        # Another machine's clock may be behind ours.
        .not_valid_before(now - timedelta(seconds=TOKEN_CLOCK_TOLERANCE_S))
        .not_valid_after(now + timedelta(seconds=lifetime_s))
    )


def _key_usage(*, signs: bool) -> x509.KeyUsage:
    return x509.KeyUsage(
        digital_signature=not signs,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        key_cert_sign=signs,
        crl_sign=signs,
        encipher_only=False,
        decipher_only=False,
    )


def _name(text: str) -> x509.Name:
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, text)])


def _general_name(host: str) -> x509.GeneralName:
    try:
        return x509.IPAddress(ipaddress.ip_address(host))
    except ValueError:
        return x509.DNSName(host)


def _pem(key: ec.EllipticCurvePrivateKey) -> bytes:
    return key.private_bytes(
        serialization.Encoding.PEM,
        serialization.PrivateFormat.PKCS8,
        serialization.NoEncryption(),
    )


def _check_uuid(text: str) -> None:
    try:
        same = str(uuid.UUID(text)) == text
    except ValueError:
        same = False
    if not same:
        raise AfsError(AfsCode.EINVAL, f"host {text[:64]!r}: expected a UUID in lower case")
