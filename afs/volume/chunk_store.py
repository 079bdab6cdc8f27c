"""The chunks of one volume group.

Immutable files named by their BLAKE3, shared by a volume and its clones.

Theory of operation
    A chunk lies in `chunks/<2 hex>/<hex>`. It is first written to `staging/<owner>+<token>+<hex>`,
    where owner is the volume (its database's stem) it is for; then fsynced; then hard-linked to its
    place, and the place's folder fsynced. The name in `staging` stays until the reference is
    committed, so whatever removes the chunk's own name cannot take its bytes away: at the commit it
    is linked again (`ensure_linked`).

    A chunk is removed (`remove`) only when no database of the group refers to it. Look and removal
    happen under the group's lock held exclusively, link and commit under the same lock held shared;
    the lock is a flock, so this holds between processes too. Chunks that a reader of this process
    still needs are *pinned* and not removed.

    C1  A committed reference names a durable chunk.
    C2  What is served has the hash it is named by; else EIO.
    C3  A chunk in use, staged or referenced is never removed.
    C4  After a crash every leftover has a name in `staging` with its owner's stem, or no reference:
        both are found.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import secrets
import threading
from collections import Counter, deque
from collections.abc import Iterable, Iterator, Set
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Final

from blake3 import blake3

from afs.errors import AfsCode, AfsError
from afs.limits import CHUNK_BYTES, MIB
from afs.runtime.files import FileSystemSync, fsync_dir, start_writeback
from afs.volume.file_data import ChunkRef

# Threads that fsync chunks while more arrive: fsyncs of several files share the disk's journal
# commits.
_SYNC_THREADS: Final = 4
# Chunks of one writer that may be on their way to the disk, each with an open file and up to 1 MiB
# of dirty pages.
_SYNCS_OUTSTANDING_MAX: Final = 16
# Chunks of one writer that are synced one by one. With more, the whole file system is synced twice
# (data, then names): 256 MiB otherwise cost 256 fsyncs of files and some 160 of folders.
_SYNCED_SINGLY: Final = 32
# Of these, chunks of one writer that are being written: copying into the page cache is most of the
# work, and two cores do twice as much of it. Each holds up to 1 MiB.
_WRITES_OUTSTANDING_MAX: Final = 4
# New data is refused while less than this is free, so that what frees space (a removal) still finds
# room to commit; on small partitions a share of the size instead.
_RESERVE_BYTES: Final = 8 * MIB
_RESERVE_SHARE: Final = 32

_sync_pool = ThreadPoolExecutor(_SYNC_THREADS, thread_name_prefix="chunk-sync")


class ChunkStore:
    """The chunks of one volume group; safe to use from several threads."""

    def __init__(self, group: Path) -> None:
        self.group = group
        self._chunks = group / "chunks"
        self.staging = group / "staging"
        self._lock_path = group / "chunks.lock"
        self._pins: Counter[bytes] = Counter()
        self._pins_lock = threading.Lock()

    def path(self, digest: bytes) -> Path:
        """Where a chunk lies, or would lie."""
        name = digest.hex()
        return self._chunks / name[:2] / name

    def read(self, digest: bytes) -> bytes:
        """The bytes of a chunk, verified.

        Raises:
            AfsError: EIO if it is missing or damaged; VIO if the disk fails.
        """
        try:
            fd = os.open(self.path(digest), os.O_RDONLY | os.O_CLOEXEC)
        except FileNotFoundError:
            raise AfsError(AfsCode.EIO, f"chunk {digest.hex()} is missing") from None
        except OSError as error:
            raise disk_error(error, "a chunk cannot be opened") from error
        try:
            # One byte more than a chunk can have: a file that grew is damage too.
            data = os.pread(fd, CHUNK_BYTES + 1, 0)
        except OSError as error:
            raise disk_error(error, f"chunk {digest.hex()} cannot be read") from error
        finally:
            os.close(fd)
        if blake3(data).digest() != digest:
            raise AfsError(
                AfsCode.EIO, f"chunk {digest.hex()} is damaged: its bytes have another hash"
            )
        return data

    def read_ref(self, ref: ChunkRef) -> bytes:
        """The bytes of a chunk that count, verified; EIO, VIO as `read`."""
        data = self.read(ref.hash)
        if len(data) < ref.size:
            raise AfsError(
                AfsCode.EIO, f"chunk {ref.hash.hex()} has {len(data)} bytes: expected {ref.size}"
            )
        return data if len(data) == ref.size else data[: ref.size]

    @contextlib.contextmanager
    def lock(self, *, exclusive: bool, wait: bool = True) -> Iterator[bool]:
        """Holds the group's lock.

        Shared from linking to the commit, exclusively from looking to removing.
        """
        try:
            fd = os.open(self._lock_path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        except OSError as error:
            raise disk_error(error, "the group's lock cannot be opened") from error
        try:
            how = fcntl.LOCK_EX if exclusive else fcntl.LOCK_SH
            try:
                fcntl.flock(fd, how if wait else how | fcntl.LOCK_NB)
            except BlockingIOError:
                yield False
            else:
                yield True
        finally:
            os.close(fd)

    def pin(self, digests: Iterable[bytes]) -> None:
        """Keeps chunks from being removed by this process until `unpin`, once for each pin."""
        with self._pins_lock:
            self._pins.update(digests)

    def unpin(self, digests: Iterable[bytes]) -> None:
        """Takes a pin back."""
        with self._pins_lock:
            for digest in digests:
                self._pins[digest] -= 1
                if not self._pins[digest]:
                    del self._pins[digest]

    def is_pinned(self, digest: bytes) -> bool:
        """Whether a reader of this process still needs a chunk."""
        with self._pins_lock:
            return digest in self._pins

    def remove(self, digest: bytes) -> None:
        """Removes a chunk's name.

        The caller holds the lock exclusively and knows that nothing refers to it.
        """
        with contextlib.suppress(FileNotFoundError):
            os.unlink(self.path(digest))

    def stored(self, prefix: int) -> Iterator[bytes]:
        """The hashes of the chunks whose first byte is `prefix` (0 to 255)."""
        with (
            contextlib.suppress(FileNotFoundError),
            os.scandir(self._chunks / f"{prefix:02x}") as folder,
        ):
            for item in folder:
                with contextlib.suppress(ValueError):
                    yield bytes.fromhex(item.name)

    def clear_leftovers(self, owner: str) -> list[bytes]:
        """Removes what a crashed writer left in `staging`: the hashes of its chunks.

        The caller holds the lock.
        """
        leftovers: list[bytes] = []
        with contextlib.suppress(FileNotFoundError), os.scandir(self.staging) as folder:
            for item in folder:
                if item.name.startswith(f"{owner}+"):
                    with contextlib.suppress(ValueError):
                        leftovers.append(bytes.fromhex(item.name.rpartition("+")[2]))
                    os.unlink(item.path)
        return leftovers

    def check_room(self) -> None:
        """Refuses new data (VDISKFULL) when the disk is all but full."""
        room = os.statvfs(self.group)
        reserve = min(_RESERVE_BYTES, room.f_blocks * room.f_frsize // _RESERVE_SHARE)
        if room.f_bavail * room.f_frsize < reserve:
            raise AfsError(
                AfsCode.VDISKFULL, f"less than {reserve} bytes are free on the partition"
            )

    def open_staging(self, owner: str) -> ChunkStaging:
        """A place for chunks on their way in; `owner` is the stem of their database."""
        return ChunkStaging(self, owner)

    def link(self, staged: Path, digest: bytes) -> Path:
        """Links a staged chunk to its place, and returns the folder, which is not synced yet.

        One that lies there already is replaced: it may be damaged.
        """
        path = self.path(digest)
        path.parent.mkdir(exist_ok=True)
        try:
            os.link(staged, path)
        except FileExistsError:
            over = staged.with_name(staged.name + ".over")
            os.link(staged, over)
            # Two names of one file: rename(2) does nothing then, and leaves both.
            os.rename(over, path)
            with contextlib.suppress(FileNotFoundError):
                os.unlink(over)
        return path.parent


class ChunkStaging:
    """Chunks of one writer on their way in. Not thread-safe."""

    def __init__(self, store: ChunkStore, owner: str) -> None:
        self._store = store
        self._prefix = f"{owner}+{secrets.token_hex(8)}+"
        self._unsynced: dict[bytes, Future[None]] = {}
        self._durable: dict[bytes, None] = {}
        self._unlinked: list[bytes] = []
        # Written and not synced one by one: for the sync of the whole file system.
        self._written: dict[bytes, None] = {}
        self._writing: deque[Future[None]] = deque()
        self._file_system: FileSystemSync | None = None

    def put(self, data: bytes, digest: bytes) -> None:
        """Writes a chunk and starts to sync it; a no-op for one that this staging has.

        Of many, the writing goes on in the background: what goes wrong with one of them is raised
        by a later call, at the latest by `make_durable`.

        Args:
            data: its bytes, which nobody changes any more.
            digest: their hash.

        Raises:
            AfsError: VDISKFULL, VIO.
        """
        if digest in self._durable or digest in self._unsynced or digest in self._written:
            return
        self._store.check_room()
        while len(self._unsynced) >= _SYNCS_OUTSTANDING_MAX:
            self._await_first()
        path = self._path(digest)
        try:
            if len(self._durable) + len(self._unsynced) < _SYNCED_SINGLY:
                self._unsynced[digest] = _sync_pool.submit(_sync_and_close, _write(path, data))
                return
            if self._file_system is None:
                self._file_system = FileSystemSync(self._store.staging)
        except OSError as error:
            raise disk_error(error, "a chunk cannot be written") from error
        while len(self._writing) >= _WRITES_OUTSTANDING_MAX:
            self._await_write()
        self._written[digest] = None
        self._writing.append(_sync_pool.submit(_write_out, path, data))

    def make_durable(self, reused: Iterable[bytes] = ()) -> None:
        """Syncs all chunks and links them to their places; durable on return.

        Args:
            reused: chunks that are in their places already: whoever put them there may not have
                synced the names yet.

        Raises:
            AfsError: VDISKFULL, VIO.
        """
        while self._unsynced:
            self._await_first()
        while self._writing:
            self._await_write()
        if self._file_system is not None:
            try:
                self._file_system.sync()
            except OSError as error:
                raise disk_error(error, "the chunks cannot be synced") from error
            self._durable.update(self._written)
            self._unlinked.extend(self._written)
            self._written.clear()
        self._link(self._unlinked, {self._store.path(digest).parent for digest in reused})
        self._unlinked.clear()

    def ensure_linked(self) -> None:
        """Links again what was removed meanwhile.

        The caller holds the group's lock until it has committed.
        """
        self._link(
            [digest for digest in self._durable if not os.path.exists(self._store.path(digest))]
        )

    def digests(self) -> set[bytes]:
        """The hashes of the chunks that are durable."""
        return set(self._durable)

    def let_go(self) -> None:
        """Drops the names in `staging`."""
        while self._writing:
            with contextlib.suppress(OSError):
                self._writing.popleft().result()
        for digest in [*self._durable, *self._unsynced, *self._written]:
            with contextlib.suppress(FileNotFoundError):
                os.unlink(self._path(digest))
        self._durable.clear()
        self._written.clear()
        if self._file_system is not None:
            self._file_system.close()
            self._file_system = None

    def forget(self) -> list[bytes]:
        """Drops the chunks; returns those that have a place already.

        The caller removes them from there, if nothing else has them.
        """
        for future in self._unsynced.values():
            with contextlib.suppress(OSError):
                future.result()
        linked = list(self._durable)
        self.let_go()
        self._unsynced.clear()
        self._unlinked.clear()
        return linked

    def _path(self, digest: bytes) -> Path:
        return self._store.staging / (self._prefix + digest.hex())

    def _await_write(self) -> None:
        try:
            self._writing.popleft().result()
        except OSError as error:
            raise disk_error(error, "a chunk cannot be written") from error

    def _await_first(self) -> None:
        digest, future = next(iter(self._unsynced.items()))
        try:
            future.result()
        except OSError as error:
            raise disk_error(error, "a chunk cannot be synced") from error
        del self._unsynced[digest]
        self._durable[digest] = None
        self._unlinked.append(digest)

    def _link(self, digests: list[bytes], changed: Set[Path] = frozenset()) -> None:
        """Links chunks to their places; these folders and others that changed are durable then."""
        try:
            folders = {self._store.link(self._path(digest), digest) for digest in digests}
            folders |= changed
            if folders:
                # Another writer may have made one of them just now and not synced it yet.
                folders.add(next(iter(folders)).parent)
            if self._file_system is not None and len(folders) > _SYNCED_SINGLY:
                self._file_system.sync()
                return
            for future in [_sync_pool.submit(fsync_dir, folder) for folder in folders]:
                future.result()
        except OSError as error:
            raise disk_error(error, "a chunk cannot be put in its place") from error


def disk_error(error: OSError, what: str) -> AfsError:
    """The AfsError for a failing system call: VDISKFULL for a full disk, else VIO."""
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        return AfsError(AfsCode.VDISKFULL, f"{what}: the disk is full")
    return AfsError(AfsCode.VIO, f"{what}: {os.strerror(error.errno or errno.EIO)}")


@contextlib.contextmanager
def disk_errors() -> Iterator[None]:
    """Turns what a failing system call raises in its body into AfsError: VDISKFULL, else VIO."""
    try:
        yield
    except OSError as error:
        raise disk_error(error, "the partition cannot be used") from error


def _write(path: Path, data: bytes) -> int:
    """Writes a new file; its descriptor, open. Whatever could not be written whole is gone."""
    fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    try:
        written = os.write(fd, data)
        while written < len(data):
            written += os.write(fd, memoryview(data)[written:])
    except OSError:
        os.close(fd)
        os.unlink(path)
        raise
    return fd


def _write_out(path: Path, data: bytes) -> None:
    fd = _write(path, data)
    start_writeback(fd)
    os.close(fd)


def _sync_and_close(fd: int) -> None:
    try:
        os.fsync(fd)
    finally:
        os.close(fd)
