"""The kernel's FUSE ABI, as far as we speak it: opcodes, flags and structures.

Source: linux/fuse.h, protocol 7.31 to 7.45. Numbers are in the machine's own byte order. Nothing
here does I/O.
"""

from __future__ import annotations

from enum import IntEnum, IntFlag
from struct import Struct
from typing import Final, NamedTuple

MAJOR: Final = 7
# The oldest minor version spoken (Linux 5.4), and the newest that we know.
LEAST_MINOR: Final = 31
NEWEST_MINOR: Final = 45
# Kernels from these minor versions on know these notifications.
EXPIRE_ONLY_MINOR: Final = 38
INC_EPOCH_MINOR: Final = 44

ROOT_ID: Final = 1


class Opcode(IntEnum):
    """What the kernel asks for."""

    LOOKUP = 1
    FORGET = 2
    GETATTR = 3
    SETATTR = 4
    READLINK = 5
    SYMLINK = 6
    MKNOD = 8
    MKDIR = 9
    UNLINK = 10
    RMDIR = 11
    RENAME = 12
    LINK = 13
    OPEN = 14
    READ = 15
    WRITE = 16
    STATFS = 17
    RELEASE = 18
    FSYNC = 20
    SETXATTR = 21
    GETXATTR = 22
    LISTXATTR = 23
    REMOVEXATTR = 24
    FLUSH = 25
    INIT = 26
    OPENDIR = 27
    READDIR = 28
    RELEASEDIR = 29
    FSYNCDIR = 30
    GETLK = 31
    SETLK = 32
    SETLKW = 33
    ACCESS = 34
    CREATE = 35
    INTERRUPT = 36
    DESTROY = 38
    BATCH_FORGET = 42
    FALLOCATE = 43
    READDIRPLUS = 44
    RENAME2 = 45
    LSEEK = 46
    SYNCFS = 50


class Notify(IntEnum):
    """What we tell the kernel unasked."""

    INVAL_INODE = 2
    INVAL_ENTRY = 3
    STORE = 4
    DELETE = 6
    INC_EPOCH = 8


class InitFlag(IntFlag):
    """What can be agreed upon with INIT."""

    ASYNC_READ = 1 << 0
    POSIX_LOCKS = 1 << 1
    ATOMIC_O_TRUNC = 1 << 3
    BIG_WRITES = 1 << 5
    FLOCK_LOCKS = 1 << 10
    AUTO_INVAL_DATA = 1 << 12
    DO_READDIRPLUS = 1 << 13
    READDIRPLUS_AUTO = 1 << 14
    PARALLEL_DIROPS = 1 << 18
    MAX_PAGES = 1 << 22
    CACHE_SYMLINKS = 1 << 23
    INIT_EXT = 1 << 30


class OpenFlag(IntFlag):
    """What we say of a file that was opened."""

    DIRECT_IO = 1 << 0
    KEEP_CACHE = 1 << 1
    CACHE_DIR = 1 << 3
    NOFLUSH = 1 << 5


class SetAttr(IntFlag):
    """Which attributes SETATTR sets."""

    MODE = 1 << 0
    UID = 1 << 1
    GID = 1 << 2
    SIZE = 1 << 3
    ATIME = 1 << 4
    MTIME = 1 << 5
    FH = 1 << 6
    ATIME_NOW = 1 << 7
    MTIME_NOW = 1 << 8
    CTIME = 1 << 10


# Of GETATTR: the file handle is valid.
GETATTR_FH: Final = 1 << 0
# Of INVAL_ENTRY: the name is looked up before it is next used, instead of cut off at once.
EXPIRE_ONLY: Final = 1 << 0
# Of the locking requests: flock(2) rather than fcntl(2).
LK_FLOCK: Final = 1 << 0
# Of RELEASE: the flock(2) lock of this handle goes with it.
RELEASE_FLOCK_UNLOCK: Final = 1 << 1
# Of RENAME2: see rename(2).
RENAME_NOREPLACE: Final = 1 << 0

# --- structures -----------------------------------------------------------------------------------

# len, opcode, unique, nodeid, uid, gid, pid, extensions' length, padding
IN_HEADER: Final = Struct("=IIQQIIIHH")
# len, error, unique
OUT_HEADER: Final = Struct("=IiQ")

# major, minor, max_readahead, flags, flags2 (where the kernel sends it)
INIT_IN: Final = Struct("=IIII")
INIT_FLAGS2: Final = Struct("=I")
# major, minor, max_readahead, flags, max_background, congestion_threshold, max_write, time_gran,
# max_pages, map_alignment, flags2, unused
INIT_OUT: Final = Struct("=IIIIHHIIHHI28x")

# nlookup
FORGET_IN: Final = Struct("=Q")
# count, then (nodeid, nlookup) each
BATCH_FORGET_IN: Final = Struct("=II")
FORGET_ONE: Final = Struct("=QQ")
# getattr_flags, fh
GETATTR_IN: Final = Struct("=I4xQ")
# valid, fh, size, lock_owner, atime, mtime, ctime, atimensec, mtimensec, ctimensec, mode, uid, gid
SETATTR_IN: Final = Struct("=I4xQQQQQQIIII4xII4x")
# mode, rdev, umask
MKNOD_IN: Final = Struct("=III4x")
# mode, umask
MKDIR_IN: Final = Struct("=II")
# newdir
RENAME_IN: Final = Struct("=Q")
# newdir, flags
RENAME2_IN: Final = Struct("=QI4x")
# oldnodeid
LINK_IN: Final = Struct("=Q")
# flags, open_flags
OPEN_IN: Final = Struct("=II")
# flags, mode, umask, open_flags
CREATE_IN: Final = Struct("=IIII")
# fh, open_flags
OPEN_OUT: Final = Struct("=QI4x")
# fh, flags, release_flags, lock_owner
RELEASE_IN: Final = Struct("=QIIQ")
# fh, lock_owner
FLUSH_IN: Final = Struct("=Q8xQ")
# fh, offset, size, read_flags, lock_owner, flags
READ_IN: Final = Struct("=QQIIQI4x")
# fh, offset, size, write_flags, lock_owner, flags
WRITE_IN: Final = Struct("=QQIIQI4x")
# size
WRITE_OUT: Final = Struct("=I4x")
# fh, fsync_flags
FSYNC_IN: Final = Struct("=QI4x")
# fh, owner, start, end, type, pid, lk_flags
LK_IN: Final = Struct("=QQQQIII4x")
# start, end, type, pid
LK_OUT: Final = Struct("=QQII")
# unique
INTERRUPT_IN: Final = Struct("=Q")
# blocks, bfree, bavail, files, ffree, bsize, namelen, frsize
STATFS_OUT: Final = Struct("=QQQQQIII28x")

# ino, size, blocks, atime, mtime, ctime, atimensec, mtimensec, ctimensec, mode, nlink, uid, gid,
# rdev, blksize, flags
ATTR: Final = Struct("=QQQQQQIIIIIIIIII")
# attr_valid, attr_valid_nsec; attributes follow
ATTR_OUT_HEAD: Final = Struct("=QI4x")
# nodeid, generation, entry_valid, attr_valid, entry_valid_nsec, attr_valid_nsec; attributes follow
ENTRY_OUT_HEAD: Final = Struct("=QQQQII")
# ino, off, namelen, type; the name follows, filled up to a multiple of 8 bytes
DIRENT_HEAD: Final = Struct("=QQII")

# ino, off, len
INVAL_INODE_OUT: Final = Struct("=Qqq")
# parent, namelen, flags
INVAL_ENTRY_OUT: Final = Struct("=QII")
# parent, child, namelen
DELETE_OUT: Final = Struct("=QQI4x")
# nodeid, offset, size
STORE_OUT: Final = Struct("=QQI4x")


class InitIn(NamedTuple):
    """What the kernel offers."""

    major: int
    minor: int
    max_readahead: int
    flags: int


def decode_init(body: memoryview) -> InitIn:
    """The kernel's INIT; the upper half of the flags is in `flags`' upper half."""
    major, minor, max_readahead, flags = INIT_IN.unpack_from(body)
    if flags & InitFlag.INIT_EXT and len(body) >= INIT_IN.size + INIT_FLAGS2.size:
        flags |= INIT_FLAGS2.unpack_from(body, INIT_IN.size)[0] << 32
    return InitIn(major, minor, max_readahead, flags)


def reply(unique: int, error: int, payload: bytes = b"") -> bytes:
    """An answer: `error` is 0 or a negative errno."""
    return OUT_HEADER.pack(OUT_HEADER.size + len(payload), error, unique) + payload


def notification(code: Notify, payload: bytes) -> bytes:
    """What is told unasked: an answer to nothing, with the code in the place of the error."""
    return OUT_HEADER.pack(OUT_HEADER.size + len(payload), code, 0) + payload


def inval_inode(node_id: int, *, data: bool) -> bytes:
    """Attributes of an inode are stale; with `data` what is cached of its contents, too."""
    offset = 0 if data else -1
    return notification(Notify.INVAL_INODE, INVAL_INODE_OUT.pack(node_id, offset, 0))


def inval_entry(parent_id: int, name: bytes, *, expire_only: bool) -> bytes:
    """A name in a directory is stale."""
    flags = EXPIRE_ONLY if expire_only else 0
    head = INVAL_ENTRY_OUT.pack(parent_id, len(name), flags)
    return notification(Notify.INVAL_ENTRY, head + name + b"\0")


def delete(parent_id: int, child_id: int, name: bytes) -> bytes:
    """A name in a directory is gone; whoever watches it is told."""
    head = DELETE_OUT.pack(parent_id, child_id, len(name))
    return notification(Notify.DELETE, head + name + b"\0")


def store(node_id: int, offset: int, data: bytes) -> bytes:
    """Puts data into the kernel's cache."""
    return notification(Notify.STORE, STORE_OUT.pack(node_id, offset, len(data)) + data)


def inc_epoch() -> bytes:
    """Every name in the whole mount is looked up before it is next used."""
    return notification(Notify.INC_EPOCH, b"")


def names_in(body: memoryview) -> list[bytes]:
    """The texts in a request's tail, each ended by a NUL."""
    return bytes(body).split(b"\0")[:-1]


def split_time(seconds: float) -> tuple[int, int]:
    """A time-out as whole seconds and nanoseconds; never more than it was."""
    if seconds <= 0:
        return 0, 0
    whole = int(seconds)
    return whole, int((seconds - whole) * 1e9)


def dirent(ino: int, offset: int, kind: int, name: bytes) -> bytes:
    """One entry of READDIR; `offset` is where the next one begins, `kind` a DT_ number."""
    head = DIRENT_HEAD.pack(ino, offset, len(name), kind)
    return head + name + b"\0" * (-len(name) % 8)
