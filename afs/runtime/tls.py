"""Mutual TLS on this process's TCP ports and channels, with certificates that may be renewed.

One certificate for the whole process, as its token is. A renewed file counts from the next
handshake on, without a restart: the server asks for it at each, and channels are made with what the
files hold at that time, and made anew (`renewing_channel`) when they have changed.

Unix sockets are guarded by their mode and stay plain.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import grpc
import structlog

from afs.errors import AfsCode, AfsError
from afs.runtime.config import DaemonConfig

_log = structlog.get_logger(__name__)
_BLOCK: Final = re.compile(
    rb"-----BEGIN (?P<kind>[A-Z ]+)-----.+?-----END (?P=kind)-----\n?", re.DOTALL
)
_OTHERS_MODE: Final = 0o077


@dataclass(frozen=True, slots=True)
class TlsFiles:
    """The certificate authority that is trusted, and our certificate with its key in one file."""

    ca: Path
    certificate: Path


@dataclass(frozen=True, slots=True)
class Certificates:
    """What TLS files held when they were read."""

    ca: bytes
    chain: bytes
    key: bytes

    @property
    def as_server(self) -> grpc.ServerCertificateConfiguration:
        """For a server's handshakes."""
        return grpc.ssl_server_certificate_configuration(
            [(self.key, self.chain)], root_certificates=self.ca
        )

    @property
    def as_client(self) -> grpc.ChannelCredentials:
        """For a channel."""
        return grpc.ssl_channel_credentials(self.ca, self.key, self.chain)


class _Used:
    """What this process uses: its files, and what they held when they were last read."""

    files: TlsFiles | None = None
    certificates: Certificates | None = None
    stamp: object = None


def tls_files(config: DaemonConfig) -> TlsFiles | None:
    """What a daemon's configuration says; None: plain text."""
    if config.tls_certificate is None or config.tls_ca is None:
        return None
    return TlsFiles(config.tls_ca, config.tls_certificate)


def use_tls(files: TlsFiles | None) -> None:
    """Has ports and channels opened from now on speak TLS; None: plain text.

    Raises:
        AfsError: as for `read_certificates`.
    """
    _Used.stamp = None if files is None else _stamp(files)
    _Used.certificates = None if files is None else read_certificates(files)
    _Used.files = files


def used_tls() -> TlsFiles | None:
    """What this process uses; None: plain text."""
    return _Used.files


def certificates() -> Certificates:
    """What our files held when they were last read; only where TLS is used."""
    assert _Used.certificates is not None, "asked where TLS is used"
    return _Used.certificates


def renew_certificates() -> Certificates:
    """What our files hold now; as before, if that cannot be used. Blocks on the disk."""
    files = _Used.files
    assert files is not None, "asked where TLS is used"
    stamp = _stamp(files)
    if stamp != _Used.stamp:
        try:
            _Used.certificates = read_certificates(files)
            _log.info("certificate.renewed", path=str(files.certificate))
        except AfsError as error:
            # The one that we have may still be good.
            _log.warning("certificate.not_renewed", reason=error.detail)
        _Used.stamp = stamp
    return certificates()


def read_certificates(files: TlsFiles) -> Certificates:
    """Reads the files; blocks on the disk.

    Raises:
        AfsError: EINVAL for files that hold no certificate or key; EACCES if others than the owner
            can read the key; VIO for what cannot be read.
    """
    try:
        mode = files.certificate.stat().st_mode
        ca, both = files.ca.read_bytes(), files.certificate.read_bytes()
    except OSError as error:
        raise AfsError(AfsCode.VIO, f"{error.filename}: {error.strerror}") from None
    blocks = [(match["kind"].decode(), match[0]) for match in _BLOCK.finditer(both)]
    chain = b"".join(block for kind, block in blocks if kind == "CERTIFICATE")
    keys = [block for kind, block in blocks if kind.endswith("PRIVATE KEY")]
    if not chain or len(keys) != 1 or b"BEGIN CERTIFICATE" not in ca:
        raise AfsError(
            AfsCode.EINVAL,
            f"{files.certificate} and {files.ca}: expected a certificate with one private key, and"
            " the certificate of its authority, in PEM",
        )
    if mode & _OTHERS_MODE:
        raise AfsError(
            AfsCode.EACCES, f"{files.certificate} has mode {mode & 0o777:04o}: expected 0600"
        )
    return Certificates(ca, chain, keys[0])


def server_credentials() -> grpc.ServerCredentials:
    """For a port whose callers must have a certificate of our authority; renewed by itself."""
    # Asked at each handshake, in a thread of gRPC's.
    return grpc.dynamic_ssl_server_credentials(
        certificates().as_server,
        lambda: renew_certificates().as_server,
        require_client_authentication=True,
    )


def _stamp(files: TlsFiles) -> object:
    try:
        found = files.certificate.stat(), files.ca.stat()
    except OSError:
        return None
    return tuple((each.st_mtime_ns, each.st_size, each.st_ino) for each in found)


def uris_of(context: Any) -> list[str]:
    """The URIs in the certificate of a call's caller; none for a caller without one."""
    return [uri.decode("ascii", "replace") for uri in context.auth_context().get("peer_uri", ())]
