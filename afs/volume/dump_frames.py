"""The framing of a dump: a stream of frames that shows where it was cut or changed.

Format, version 2. All numbers little-endian.
    start     the 16 bytes of MAGIC, then the version in 4 bytes
    frame     kind (1 byte), length of the payload (4 bytes), payload, and the first 8 bytes of the
              BLAKE3 over kind, length and payload
    kinds     HEADER once and first; VNODE, MORE, CHUNK and PRESENT as described in `dump`; TRAILER
        once and last
    end       nothing follows the TRAILER; it holds the BLAKE3 over every byte before its frame

Version 1 had neither incremental dumps nor PRESENT; what it has is read as it was.

The payloads are the messages of `proto/afs/v1/dump.proto`.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from enum import IntEnum
from typing import Final, NamedTuple

from blake3 import blake3

from afs.errors import AfsCode, AfsError
from afs.limits import CHUNK_BYTES, KIB

MAGIC: Final = b"laterfs dump\r\n\x1a\n"
VERSION: Final = 2
# A chunk and what wraps it; also bounds what a reader holds in memory of a hostile dump.
MAX_PAYLOAD_BYTES: Final = CHUNK_BYTES + 64 * KIB

_START: Final = struct.Struct(f"<{len(MAGIC)}sI")
_FRAME: Final = struct.Struct("<BI")
_CHECKSUM_BYTES: Final = 8


class FrameKind(IntEnum):
    """What a frame holds."""

    HEADER = 1
    VNODE = 2
    MORE = 3
    CHUNK = 4
    TRAILER = 5
    PRESENT = 6


_KINDS: Final = {int(kind): kind for kind in FrameKind}


class Frame(NamedTuple):
    """One frame; for the TRAILER also the BLAKE3 over every byte of the dump before it."""

    kind: FrameKind
    payload: bytes
    digest_before: bytes


class FrameWriter:
    """Makes the bytes of a dump."""

    def __init__(self) -> None:
        self._digest = blake3()

    def start(self) -> bytes:
        """What a dump begins with."""
        return self._count(_START.pack(MAGIC, VERSION))

    def frame(self, kind: FrameKind, payload: bytes) -> bytes:
        """One frame."""
        assert len(payload) <= MAX_PAYLOAD_BYTES
        body = _FRAME.pack(kind, len(payload)) + payload
        return self._count(body + blake3(body).digest(length=_CHECKSUM_BYTES))

    @property
    def digest(self) -> bytes:
        """The BLAKE3 (32 bytes) over all bytes so far."""
        return self._digest.digest()

    def _count(self, data: bytes) -> bytes:
        self._digest.update(data)
        return data


class FrameReader:
    """Takes the bytes of a dump as they come, and hands out whole, undamaged frames.

    Holds at most one frame and the bytes of one `feed` in memory, twice while it looks at them.
    """

    def __init__(self) -> None:
        self._buffer = bytearray()
        # Bytes the buffer must hold before there is anything to be done.
        self._needed = _START.size
        self._digest = blake3()
        self._started = False
        self._ended = False

    def feed(self, data: bytes) -> Iterator[Frame]:
        """The frames that are complete with these bytes; to be taken before the next `feed`.

        Raises:
            AfsError: EINVAL for what is no dump, or a damaged one.
        """
        self._buffer += data
        if len(self._buffer) < self._needed:
            return
        arrived = bytes(self._buffer)
        at = 0
        if not self._started:
            at = self._check_start(arrived)
        # Bytes before this one are in the digest.
        counted = 0
        while (end := self._frame_end(arrived, at)) is not None:
            kind: int = arrived[at]
            view = memoryview(arrived)[at : end - _CHECKSUM_BYTES]
            found = arrived[end - _CHECKSUM_BYTES : end]
            if blake3(view).digest(length=_CHECKSUM_BYTES) != found:
                raise bad_dump("a frame is damaged: its checksum is wrong")
            digest_before = b""
            if kind == FrameKind.TRAILER:
                self._digest.update(memoryview(arrived)[counted:at])
                counted = at
                digest_before = self._digest.digest()
                self._ended = True
            if kind not in _KINDS:
                raise bad_dump(f"a frame of the unknown kind {kind}")
            at = end
            yield Frame(_KINDS[kind], bytes(view[_FRAME.size :]), digest_before)
        self._digest.update(memoryview(arrived)[counted:at])
        del self._buffer[:at]
        if self._ended and self._buffer:
            raise bad_dump("bytes follow its end")

    @property
    def is_complete(self) -> bool:
        """Whether the last frame was handed out."""
        return self._ended

    def end(self) -> None:
        """To be called after the last byte; EINVAL if the dump is not complete."""
        if not self._ended:
            raise bad_dump("it ends too early")

    def _check_start(self, arrived: bytes) -> int:
        """Checks what a dump begins with; how long that is."""
        magic, version = _START.unpack_from(arrived)
        if magic != MAGIC:
            raise bad_dump("it does not begin as one")
        if not 1 <= version <= VERSION:
            raise bad_dump(f"its version is {version}: expected 1 to {VERSION}")
        self._started = True
        return _START.size

    def _frame_end(self, arrived: bytes, at: int) -> int | None:
        """Where the frame at an offset ends; None if it is not all there, or none follows."""
        if self._ended:
            self._needed = 0
            return None
        room = len(arrived) - at
        if room < _FRAME.size:
            self._needed = _FRAME.size
            return None
        _, length = _FRAME.unpack_from(arrived, at)
        if length > MAX_PAYLOAD_BYTES:
            raise bad_dump(f"a frame of {length} bytes: expected at most {MAX_PAYLOAD_BYTES}")
        size: int = _FRAME.size + length + _CHECKSUM_BYTES
        if room < size:
            self._needed = size
            return None
        return at + size


def bad_dump(detail: str) -> AfsError:
    """The error for a dump that cannot be restored."""
    return AfsError(AfsCode.EINVAL, f"bad dump: {detail}")
