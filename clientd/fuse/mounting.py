"""Making a mount, and its guard: what leads to a descriptor of /dev/fuse, and back.

As root by mount(2); as anybody else by the program fusermount3, which hands the descriptor over a
socket. The mount is guarded (`guard`): whatever ends clientd, no dead mount remains.
"""

from __future__ import annotations

import array
import asyncio
import contextlib
import errno
import os
import socket
import stat
import subprocess
import sys
from pathlib import Path
from typing import Final

import structlog

from afs.errors import AfsCode, AfsError
from clientd.fuse import mount_table
from clientd.fuse.mount_table import FILE_SYSTEM, FUSERMOUNT_TIMEOUT_S, SOURCE

DEVICE: Final = "/dev/fuse"
# What the kernel reads ahead of a program: one READ of the size of a WRITE.
READ_AHEAD_KIB: Final = 1024
# How long a guard may take to see that its mount is gone.
_GUARD_END_S: Final = 5.0

_log = structlog.get_logger(__name__)


class KernelMount:
    """A mount as the kernel has it.

    Attributes:
        path: where.
        descriptor: of /dev/fuse, non-blocking; belongs to whoever answers.
    """

    def __init__(self, path: Path, descriptor: int, guard: asyncio.subprocess.Process) -> None:
        self.path = path
        self.descriptor = descriptor
        self._guard = guard

    @classmethod
    async def make(cls, path: Path, *, allow_other: bool) -> KernelMount:
        """Mounts.

        Args:
            path: an empty directory.
            allow_other: whether other users than ours may use it.

        Raises:
            AfsError: one clear line why it cannot be.
        """
        path = await asyncio.to_thread(_prepare, path)
        guard = await asyncio.create_subprocess_exec(
            sys.executable,
            "-m",
            "clientd.fuse.guard",
            str(path),
            stdin=subprocess.PIPE,
            start_new_session=True,
        )
        try:
            descriptor = await asyncio.to_thread(_mount, path, allow_other)
        except BaseException:
            await _end_guard(guard)
            raise
        os.set_blocking(descriptor, False)
        device = await asyncio.to_thread(_settle, path)
        assert guard.stdin is not None
        guard.stdin.write(device.encode())
        return cls(path, descriptor, guard)

    async def unmount(self) -> None:
        """Cuts the mount off; programs that still use it get errors."""
        try:
            await asyncio.to_thread(mount_table.unmount, self.path)
        except OSError as error:
            _log.warning("mount.not_removed", path=str(self.path), error=str(error))

    async def close(self) -> None:
        """After the descriptor was closed: lets the guard go."""
        await _end_guard(self._guard)


async def _end_guard(guard: asyncio.subprocess.Process) -> None:
    assert guard.stdin is not None
    guard.stdin.close()
    try:
        async with asyncio.timeout(_GUARD_END_S):
            await guard.wait()
    except TimeoutError:
        guard.kill()
        await guard.wait()


def _prepare(path: Path) -> Path:
    """The real path of a directory that can be mounted at; a dead mount there is taken away.

    Raises:
        AfsError: EINVAL unless it is an empty directory; VBUSY if something is mounted there.
    """
    path = path.absolute()
    try:
        if mount_table.is_dead(path):
            mount_table.unmount(path)
            _log.info("mount.stale_removed", path=str(path))
        path = path.resolve(strict=True)
        if mount_table.mounted_at(path) is not None:
            raise AfsError(AfsCode.VBUSY, f"mount point {path}: something is mounted there")
        if not stat.S_ISDIR(os.stat(path).st_mode):
            raise AfsError(AfsCode.ENOTDIR, f"mount point {path} is not a directory")
        if any(path.iterdir()):
            raise AfsError(AfsCode.ENOTEMPTY, f"mount point {path} is not empty")
    except OSError as error:
        raise _refused(path, error) from None
    return path


def _mount(path: Path, allow_other: bool) -> int:  # noqa: FBT001 - called by to_thread
    """Mounts; returns the descriptor."""
    try:
        if os.geteuid() == 0:
            return _mount_as_root(path, allow_other=allow_other)
        return _mount_by_program(path, allow_other=allow_other)
    except OSError as error:
        raise _refused(path, error) from None


def _settle(path: Path) -> str:
    """Has the kernel read ahead as far as one READ can; returns the mount's device, "" if gone."""
    mounted = mount_table.mounted_at(path)
    if mounted is None:
        return ""
    # Only root may, and not in every container: then reads are smaller.
    with contextlib.suppress(OSError):
        setting = Path(f"/sys/class/bdi/{mounted.device}/read_ahead_kb")
        setting.write_text(str(READ_AHEAD_KIB), encoding="ascii")
    return mounted.device


def _mount_as_root(path: Path, *, allow_other: bool) -> int:
    descriptor = os.open(DEVICE, os.O_RDWR | os.O_CLOEXEC | os.O_NONBLOCK)
    options = (
        f"fd={descriptor},rootmode={stat.S_IFDIR:o},user_id={os.geteuid()},group_id={os.getegid()}"
        ",default_permissions" + (",allow_other" if allow_other else "")
    )
    try:
        mount_table.mount(path, options)
    except BaseException:
        os.close(descriptor)
        raise
    return descriptor


def _mount_by_program(path: Path, *, allow_other: bool) -> int:
    """By fusermount3, which sends the descriptor over a socket that it is given."""
    program = mount_table.fusermount()
    options = f"fsname={SOURCE},subtype={FILE_SYSTEM.partition('.')[2]},nosuid,nodev"
    options += ",default_permissions" + (",allow_other" if allow_other else "")
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_STREAM)
    with ours, theirs:
        done = subprocess.run(
            [program, "-o", options, "--", str(path)],
            env=os.environ | {"_FUSE_COMMFD": str(theirs.fileno())},
            pass_fds=[theirs.fileno()],
            capture_output=True,
            timeout=FUSERMOUNT_TIMEOUT_S,
            check=False,
        )
        theirs.close()
        if done.returncode:
            text = done.stderr.decode(errors="replace").strip()
            raise OSError(errno.EPERM, text or f"{program} ended with status {done.returncode}")
        size = array.array("i").itemsize
        _, control, _, _ = ours.recvmsg(1, socket.CMSG_SPACE(size))
    for level, kind, data in control:
        if (level, kind) == (socket.SOL_SOCKET, socket.SCM_RIGHTS):
            descriptor: int = array.array("i", data[:size])[0]
            os.set_inheritable(descriptor, False)  # noqa: FBT003 - positional only
            return descriptor
    raise OSError(errno.EPROTO, f"{program} sent no descriptor")


def _refused(path: Path, error: OSError) -> AfsError:
    reason = error.strerror or str(error)
    if error.errno in (errno.ENOENT, errno.ENODEV) and error.filename == DEVICE:
        return AfsError(AfsCode.RXGEN_OPCODE, f"this machine has no {DEVICE}: cannot mount {path}")
    code = AfsCode.ENOENT if error.errno == errno.ENOENT else AfsCode.EPERM
    return AfsError(code, f"mount point {path}: {reason}")
