"""Stores that could not be made, written down in the cache directory so that nothing loses them.

One JSON file each in `unsent/`, on disk before anybody relies on it, which names the files that
have the written bytes, with their checksums. What is in such a record was written by local
programs, is not at the fileserver, and was not given up.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from enum import Enum
from itertools import chain
from pathlib import Path
from typing import Any, Final

import structlog

from afs.runtime.files import fsync_dir, write_durably
from afs.types import Fid, Vnode, VnodeType
from clientd.dirty_pieces import PieceFile

VERSION: Final = 1
# Where records lie, and the files that they name, in the cache directory.
RECORDS: Final = "unsent"
PIECES: Final = "dirty"

_log = structlog.get_logger(__name__)


class UnsentState(Enum):
    """What becomes of an unsent store.

    WAITING: it is made as soon as that is possible. CONFLICT: the file was changed by others since,
    or removed; it is kept until somebody exports it or throws it away.
    """

    WAITING = "waiting"
    CONFLICT = "conflict"


@dataclass(slots=True)
class UnsentRecord:
    """One store that was not made.

    Attributes:
        number: what people call it.
        fid: the file.
        volume: the volume's name.
        name: the file's in its directory; "" if it is not known.
        incarnation: the volume's; "" if it is not known.
        data_version: of the fileserver's file when it was last known: what the store is for.
        base_length: its length then.
        cut, reach, ranges: as in `DirtyMap`.
        mtime_ns: when it was written.
        since_ns: when it could not be stored, Unix time.
        state: what becomes of it.
        reason: why it was not stored, for people.
        pieces: the written bytes.
        is_on_disk: False if the disk had no room for it: then it ends with this process.
    """

    number: int
    fid: Fid
    volume: str
    incarnation: str
    data_version: int
    base_length: int
    since_ns: int
    name: str = ""
    cut: int | None = None
    reach: int = 0
    ranges: list[tuple[int, int]] = field(default_factory=list)
    mtime_ns: int | None = None
    state: UnsentState = UnsentState.WAITING
    reason: str = ""
    pieces: dict[int, PieceFile] = field(default_factory=dict)
    is_on_disk: bool = False

    @property
    def vnode(self) -> Vnode:
        """The fileserver's file as it was, as far as that matters."""
        fid, length, version = self.fid, self.base_length, self.data_version
        return Vnode(fid, VnodeType.FILE, 0, 0, 0, 1, length, version, 0, 0, fid)

    @property
    def dirty_bytes(self) -> int:
        """How many bytes were written."""
        return sum(end - start for start, end in self.ranges)

    @property
    def length(self) -> int:
        """How long the file was for who wrote to it."""
        return max(self.base_length, self.reach) if self.cut is None else self.reach


class UnsentRecords:
    """The records on disk. Everything here blocks.

    Args:
        folder: the cache directory.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def load(self) -> list[UnsentRecord]:
        """All records; files that none of them names are removed.

        One that cannot be read stays where it is, with the files of its vnode, for people to look
        at.
        """
        records: list[UnsentRecord] = []
        kept: set[Path] = set()
        for path in sorted((self._folder / RECORDS).glob("*.json")):
            try:
                record = self._read(path)
            except (OSError, ValueError, KeyError, TypeError) as error:
                _log.warning("unsent_store.unreadable", path=str(path), error=str(error))
                kept |= set((self._folder / PIECES / path.stem.partition("-")[2]).glob("*"))
                continue
            records.append(record)
            kept |= {piece.path for piece in record.pieces.values()}
        # Half-written records, and files that were never part of one.
        half = (self._folder / RECORDS).glob(".*.tmp")
        for path in chain(half, (self._folder / PIECES).glob("*/*")):
            if path not in kept:
                with suppress(OSError):
                    path.unlink()
        for folder in (self._folder / PIECES).glob("*"):
            # Only those that are empty go.
            with suppress(OSError):
                folder.rmdir()
        return records

    def write(self, record: UnsentRecord) -> None:
        """The record, as it is now, is on disk when this returns.

        Raises:
            OSError: what was there before is there still.
        """
        path = self._path(record)
        path.parent.mkdir(parents=True, exist_ok=True)
        fsync_dir(path.parent.parent)
        write_durably(path, json.dumps(_to_json(record), indent=1).encode(), 0o600)

    def remove(self, record: UnsentRecord) -> None:
        """The record is gone, also after a crash, unless the disk fails."""
        with suppress(OSError):
            self._path(record).unlink(missing_ok=True)
            fsync_dir(self._path(record).parent)

    def _path(self, record: UnsentRecord) -> Path:
        return self._folder / RECORDS / f"{record.number:06}-{record.fid}.json"

    def _read(self, path: Path) -> UnsentRecord:
        told = json.loads(path.read_bytes())
        if told["version"] != VERSION:
            raise ValueError(f"version {told['version']}, expected {VERSION}")
        fid = Fid(*map(int, told["fid"]))
        pieces = {
            int(number): PieceFile(
                self._folder / PIECES / str(fid) / name, int(length), bytes.fromhex(digest)
            )
            for number, name, length, digest in told["pieces"]
        }
        return UnsentRecord(
            number=int(told["number"]),
            fid=fid,
            volume=str(told["volume"]),
            incarnation=str(told["incarnation"]),
            data_version=int(told["data_version"]),
            base_length=int(told["base_length"]),
            since_ns=int(told["since_ns"]),
            name=str(told["name"]),
            cut=told["cut"],
            reach=int(told["reach"]),
            ranges=[(int(start), int(end)) for start, end in told["ranges"]],
            mtime_ns=told["mtime_ns"],
            state=UnsentState(told["state"]),
            reason=str(told["reason"]),
            pieces=pieces,
            is_on_disk=True,
        )


def read_ranges(record: UnsentRecord, piece_bytes: int) -> Iterator[tuple[int, bytes]]:
    """The written bytes of a record that is on disk, in order, with their places; blocks.

    Raises:
        OSError: they cannot be read, or are not what was written.
    """
    for start, end in record.ranges:
        at = start
        while at < end:
            number = at // piece_bytes
            first = number * piece_bytes
            stop = min(end, first + piece_bytes)
            yield at, record.pieces[number].read()[at - first : stop - first]
            at = stop


def _to_json(record: UnsentRecord) -> dict[str, Any]:
    return {
        "version": VERSION,
        "number": record.number,
        "fid": list(record.fid),
        "volume": record.volume,
        "incarnation": record.incarnation,
        "data_version": record.data_version,
        "base_length": record.base_length,
        "since_ns": record.since_ns,
        "name": record.name,
        "cut": record.cut,
        "reach": record.reach,
        "ranges": record.ranges,
        "mtime_ns": record.mtime_ns,
        "state": record.state.value,
        "reason": record.reason,
        "pieces": [
            [number, piece.path.name, piece.length, piece.digest.hex()]
            for number, piece in sorted(record.pieces.items())
        ],
    }
