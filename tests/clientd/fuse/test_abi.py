"""The kernel's protocol as bytes: what a real kernel sent, and what libfuse answers."""

from __future__ import annotations

import pytest

from afs.types import Fid, Vnode, VnodeType
from clientd.fuse import abi
from clientd.fuse.abi import InitFlag, Opcode
from clientd.fuse.attributes import attributes, inode_number

# Recorded from Linux 6.18: INIT, and LOOKUP of "home" in the root by process 4711, user 1000.
INIT = bytes.fromhex(
    "680000001a00000002000000000000000000000000000000000000000000000000000000000000000700000"
    "02d00000000000200fbffff73fd0500000000000000000000000000000000000000000000000000000000000"
    "000000000000000000000000000000000"
)
LOOKUP = bytes.fromhex(
    "2d0000000100000004000000000000000100000000000000e8030000e80300006712000000000000686f6d6500"
)


def test_structures_have_the_sizes_of_the_kernels_header() -> None:
    """A structure of another size is refused by the kernel, or misread."""
    sizes = {
        abi.IN_HEADER: 40,
        abi.OUT_HEADER: 16,
        abi.INIT_OUT: 64,
        abi.GETATTR_IN: 16,
        abi.SETATTR_IN: 88,
        abi.MKNOD_IN: 16,
        abi.CREATE_IN: 16,
        abi.OPEN_OUT: 16,
        abi.RELEASE_IN: 24,
        abi.FLUSH_IN: 24,
        abi.READ_IN: 40,
        abi.WRITE_IN: 40,
        abi.WRITE_OUT: 8,
        abi.FSYNC_IN: 16,
        abi.LK_IN: 48,
        abi.LK_OUT: 24,
        abi.STATFS_OUT: 80,
        abi.ATTR: 88,
        abi.ATTR_OUT_HEAD: 16,
        abi.ENTRY_OUT_HEAD: 40,
        abi.DIRENT_HEAD: 24,
        abi.INVAL_INODE_OUT: 24,
        abi.INVAL_ENTRY_OUT: 16,
        abi.DELETE_OUT: 24,
        abi.STORE_OUT: 24,
    }
    assert {struct.format: struct.size for struct in sizes} == {
        struct.format: size for struct, size in sizes.items()
    }


def test_init_is_understood() -> None:
    """Both halves of the flags."""
    header = abi.IN_HEADER.unpack_from(INIT)
    assert header[1] == Opcode.INIT
    offered = abi.decode_init(memoryview(INIT)[abi.IN_HEADER.size :])
    assert (offered.major, offered.minor, offered.max_readahead) == (7, 45, 0x20000)
    assert offered.flags & InitFlag.INIT_EXT
    assert offered.flags & InitFlag.DO_READDIRPLUS
    assert offered.flags >> 32 == 0x5FD


def test_init_of_an_older_kernel_has_no_second_half() -> None:
    """Its flags say so."""
    body = abi.INIT_IN.pack(7, 31, 131072, InitFlag.ASYNC_READ)
    assert abi.decode_init(memoryview(body)).flags == InitFlag.ASYNC_READ


def test_lookup_is_understood() -> None:
    """Who asks, where, and for what."""
    length, opcode, unique, node, uid, gid, pid, _, _ = abi.IN_HEADER.unpack_from(LOOKUP)
    assert (length, opcode, unique, node) == (len(LOOKUP), Opcode.LOOKUP, 4, abi.ROOT_ID)
    assert (uid, gid, pid) == (1000, 1000, 0x1267)
    assert abi.names_in(memoryview(LOOKUP)[abi.IN_HEADER.size :]) == [b"home"]


def test_answers_say_their_length() -> None:
    """Header, error, payload."""
    assert abi.reply(7, -2) == bytes.fromhex("10000000feffffff0700000000000000")
    assert abi.reply(7, 0, b"abc") == bytes.fromhex("13000000000000000700000000000000616263")


def test_notifications_answer_nothing() -> None:
    """Their code is in the place of the error, their number is 0."""
    assert abi.inval_inode(9, data=True) == bytes.fromhex(
        "28000000020000000000000000000000 0900000000000000 0000000000000000 0000000000000000"
    )
    assert abi.inval_inode(9, data=False)[24:32] == b"\xff" * 8
    entry = abi.inval_entry(3, b"ab", expire_only=True)
    assert entry == bytes.fromhex(
        "23000000030000000000000000000000 0300000000000000 02000000 01000000 616200"
    )
    assert abi.inval_entry(3, b"ab", expire_only=False)[28:32] == bytes(4)
    assert abi.delete(1, 2, b"x")[16:] == bytes.fromhex(
        "0100000000000000 0200000000000000 01000000 00000000 7800"
    )
    assert abi.store(5, 4096, b"data")[16:] == bytes.fromhex(
        "0500000000000000 0010000000000000 04000000 00000000 64617461"
    )
    assert abi.inc_epoch() == bytes.fromhex("10000000080000000000000000000000")


def test_directory_entries_are_aligned() -> None:
    """Each one takes a multiple of 8 bytes."""
    entry = abi.dirent(5, 3, 8, b"name")
    assert entry == bytes.fromhex(
        "0500000000000000 0300000000000000 04000000 08000000 6e616d6500000000"
    )
    assert len(abi.dirent(5, 3, 8, b"12345678")) == 32


@pytest.mark.parametrize(
    ("seconds", "split"), [(0.0, (0, 0)), (-1.0, (0, 0)), (2.5, (2, 500_000_000))]
)
def test_times_are_never_longer_than_they_were(seconds: float, split: tuple[int, int]) -> None:
    """Whole seconds, and the rest."""
    assert abi.split_time(seconds) == split


def test_attributes_are_those_of_the_vnode() -> None:
    """Mode with its kind, lengths, both times; a time before 1970 as the kernel has it."""
    fid = Fid(3, 7, 9)
    vnode = Vnode(fid, VnodeType.FILE, 0o640, 1, 2, 1, 1000, 5, -1, 2_000_000_005, Fid(3, 1, 1))
    fields = abi.ATTR.unpack(attributes(vnode))
    assert fields == (
        *(inode_number(fid), 1000, 2),
        *(2**64 - 1, 2**64 - 1, 2),
        *(999_999_999, 999_999_999, 5),
        *(0o100640, 1, 1, 2, 0, 65536, 0),
    )
