"""Reads a dump file to its end, and tells what it is a dump of: `afsctl vos examine --file`.

Every frame's checksum and the whole file's are checked, and that the counts at its end are right;
whether what it holds makes a volume is looked at by the volserver that restores it.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from google.protobuf.message import DecodeError

from afs.v1 import dump_pb2
from afs.volume.dump_frames import Frame, FrameKind, FrameReader, bad_dump
from afsctl.dump_files import read_dump
from afsctl.records import record_of


@dataclass(frozen=True, slots=True)
class DumpFacts:
    """What a whole, undamaged dump says of itself.

    `record` has the fields of its header, and `vnodes`, `chunks` and `size_bytes` as counted.
    """

    record: dict[str, Any]


def read_facts(file: Path, *, quiet: bool = False) -> DumpFacts:
    """What a dump file is a dump of. `-` is standard input.

    Raises:
        AfsError: EINVAL: it is no dump, or is damaged or cut off.
        OSError: the file cannot be read.
    """
    with read_dump(file, label="examining", quiet=quiet) as pieces:
        return _facts(pieces)


def _facts(pieces: Iterable[bytes]) -> DumpFacts:
    reader = FrameReader()
    header: dump_pb2.DumpHeader | None = None
    vnodes = chunks = size_bytes = 0
    for piece in pieces:
        size_bytes += len(piece)
        for frame in reader.feed(piece):
            if (frame.kind is FrameKind.HEADER) is not (header is None):
                raise bad_dump("its header is not at its beginning, once")
            if header is None:
                header = _header(frame)
            vnodes += frame.kind is FrameKind.VNODE
            chunks += frame.kind is FrameKind.CHUNK
            if frame.kind is FrameKind.TRAILER:
                _check_trailer(frame, vnodes, chunks)
    reader.end()
    assert header is not None
    counted = {"vnodes": vnodes, "chunks": chunks, "size_bytes": size_bytes}
    return DumpFacts({**record_of(header), **counted})


def _header(frame: Frame) -> dump_pb2.DumpHeader:
    try:
        return dump_pb2.DumpHeader.FromString(frame.payload)
    except DecodeError:
        raise bad_dump("its header is none") from None


def _check_trailer(frame: Frame, vnodes: int, chunks: int) -> None:
    try:
        trailer = dump_pb2.DumpTrailer.FromString(frame.payload)
    except DecodeError:
        raise bad_dump("its trailer is none") from None
    if trailer.blake3 != frame.digest_before:
        raise bad_dump("its checksum is wrong")
    if (trailer.vnode_count, trailer.chunk_count) != (vnodes, chunks):
        raise bad_dump(
            f"it has {vnodes} vnodes and {chunks} chunks: its end says {trailer.vnode_count} and"
            f" {trailer.chunk_count}"
        )
