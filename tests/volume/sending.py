"""The sending half of a transfer, as a volserver does it, without a network."""

from __future__ import annotations

from dataclasses import dataclass

from afs.types import ChangeMark
from afs.volume.dump import chunk_source, dump_pieces
from afs.volume.sqlite_store import SqliteVolume
from afs.volume.transfer import Transfer


@dataclass(slots=True)
class Sent:
    """What one or more rounds sent."""

    dump_bytes: int = 0
    chunk_bytes: int = 0
    chunks: int = 0


def mark_of(volume: SqliteVolume) -> ChangeMark:
    """The state a volume is in."""
    header = volume.header()
    return ChangeMark(header.incarnation, header.change_counter)


def send_round(
    volume: SqliteVolume, transfer: Transfer, since: int = 0, sent: Sent | None = None
) -> Sent:
    """Sends the volume as it is now; `since` 0: all of it."""
    sent = Sent() if sent is None else sent
    if not transfer.has_begun:
        transfer.begin(on_base=since > 0)
    for piece in dump_pieces(volume, since=since, chunks=False):
        sent.dump_bytes += len(piece)
        transfer.feed(piece)
    for page in transfer.missing():
        for data in chunk_source(volume, page):
            sent.chunk_bytes += len(data)
            sent.chunks += 1
            transfer.take_chunk(data)
    transfer.finish_round()
    return sent
