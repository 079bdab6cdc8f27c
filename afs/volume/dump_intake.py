"""The frames of one dump on their way into a database, each checked as it comes."""

from __future__ import annotations

import sqlite3
from array import array
from collections.abc import Callable

from google.protobuf.message import DecodeError

from afs.v1 import dump_pb2
from afs.volume.dump_frames import Frame, FrameKind, FrameReader, bad_dump
from afs.volume.restore_vnodes import VnodeTaker, check_header_message


class DumpIntake:
    """One dump, as far as it came.

    Args:
        prepare: makes ready what the dump goes into, when its header has come; raises AfsError for
            a dump that is none for this place.
    """

    def __init__(self, prepare: Callable[[dump_pb2.DumpHeader], VnodeTaker]) -> None:
        self._prepare = prepare
        self._frames = FrameReader()
        self._header: dump_pb2.DumpHeader | None = None
        self._taker: VnodeTaker | None = None
        self._directories = array("I")
        self._others = array("I")

    @property
    def header(self) -> dump_pb2.DumpHeader:
        """The dump's header, which has come."""
        assert self._header is not None
        return self._header

    @property
    def taker(self) -> VnodeTaker:
        """What took the vnodes; the header has come."""
        assert self._taker is not None
        return self._taker

    @property
    def is_complete(self) -> bool:
        """Whether the last frame has come."""
        return self._frames.is_complete

    def feed(self, data: bytes) -> None:
        """Takes the next bytes; AfsError EINVAL for a bad dump."""
        for frame in self._frames.feed(data):
            try:
                self._take(frame)
            except DecodeError as error:
                raise bad_dump("a frame is no message of its kind") from error
            except sqlite3.IntegrityError as error:
                raise bad_dump("a vnode, a name or a chunk's position comes twice") from error

    def end(self) -> None:
        """After the last byte; EINVAL if the dump is not complete."""
        self._frames.end()

    def _take(self, frame: Frame) -> None:
        if (frame.kind is FrameKind.HEADER) != (self._taker is None):
            raise bad_dump("its header is not its first frame")
        match frame.kind:
            case FrameKind.HEADER:
                header = dump_pb2.DumpHeader.FromString(frame.payload)
                check_header_message(header)
                self._header = header
                self._taker = self._prepare(header)
            case FrameKind.VNODE | FrameKind.MORE:
                self.taker.take_vnode(
                    dump_pb2.DumpVnode.FromString(frame.payload),
                    goes_on=frame.kind is FrameKind.MORE,
                )
            case FrameKind.CHUNK:
                self.taker.take_chunk(dump_pb2.DumpChunk.FromString(frame.payload).data)
            case FrameKind.PRESENT:
                self._take_present(dump_pb2.DumpPresent.FromString(frame.payload))
            case FrameKind.TRAILER:
                self._take_trailer(frame)

    def _take_present(self, message: dump_pb2.DumpPresent) -> None:
        increment = self.taker.increment
        if increment is None:
            raise bad_dump("a list of vnodes in a dump that has them all")
        self._directories.extend(message.directories)
        self._others.extend(message.others)
        # Each run but the first two of a list stands for at least one vnode.
        if len(self._directories) + len(self._others) > 2 * increment.file_count + 4:
            raise bad_dump("its list of vnodes is longer than there are any")

    def _take_trailer(self, frame: Frame) -> None:
        trailer = dump_pb2.DumpTrailer.FromString(frame.payload)
        if trailer.blake3 != frame.digest_before:
            raise bad_dump("its checksum is wrong")
        taker, increment = self.taker, self.taker.increment
        expected = (trailer.vnode_count, trailer.chunk_count)
        found = (taker.vnode_count, taker.chunk_count)
        if expected != found:
            raise bad_dump(f"(vnodes, chunks) should be {expected}: found {found}")
        taker.end()
        if increment is not None:
            increment.keep_only(self._directories, self._others, self.header.vnode_count)
        elif taker.vnode_count != self.header.vnode_count:
            raise bad_dump(f"{taker.vnode_count} vnodes: expected {self.header.vnode_count}")
        taker.make_durable()
