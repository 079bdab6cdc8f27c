"""What a program does with files, timed from within: the same loops on a mount and on a local disk.

`python -m bench.file_program LOOP …` does one loop once and prints what it took, in seconds. It
knows nothing of laterfs: it is a process of its own that opens, reads and writes files.
"""

from __future__ import annotations

import os
import random
import subprocess
import sys
import tarfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Final

from afs.limits import KIB, MIB

FILE_BYTES: Final = 4 * KIB
PIECE_BYTES: Final = MIB
# Rounds over all files in a warm loop: the first of them warms.
WARM_ROUNDS: Final = 3


def timed(loop: str, *words: str | Path | int) -> float:
    """Has a new process do a loop; the seconds that it took there.

    Raises:
        RuntimeError: the loop failed; says why.
    """
    command = [sys.executable, "-m", "bench.file_program", loop, *map(str, words)]
    ended = subprocess.run(command, capture_output=True, text=True, check=False)
    if ended.returncode:
        raise RuntimeError(f"{' '.join(command)} failed: {ended.stderr.strip()}")
    return float(ended.stdout)


def stat_warm(folder: str) -> float:
    """stat(2) of every file, again and again; seconds of one round, the quickest."""
    return _warm(folder, os.stat)


def read_warm(folder: str) -> float:
    """open, read and close of every file, again and again; seconds of one round, the quickest."""
    return _warm(folder, _read)


def list_long(folder: str) -> float:
    """`ls -lR`."""
    began = time.perf_counter()
    subprocess.run(["/bin/ls", "-lR", folder], stdout=subprocess.DEVNULL, check=True)
    return time.perf_counter() - began


def stat_random(folder: str, directories: str, per_directory: str) -> float:
    """stat(2) of every file in random order, by names that are known: nothing is listed."""
    paths = [
        f"{folder}/d{number // int(per_directory)}/f{number}"
        for number in range(int(directories) * int(per_directory))
    ]
    random.Random(1).shuffle(paths)
    began = time.perf_counter()
    for path in paths:
        os.stat(path)
    return time.perf_counter() - began


def read_in_order(folder: str) -> float:
    """Every file read, in the order in which its directory lists it."""
    began = time.perf_counter()
    for path in _files(folder):
        _read(path)
    return time.perf_counter() - began


def create(folder: str, count: str, sync: str) -> float:
    """New files of 4 KiB: open, write, fsync if `sync` is 1, close."""
    data = os.urandom(FILE_BYTES)
    began = time.perf_counter()
    for number in range(int(count)):
        _write(f"{folder}/n{number}", data, sync=sync == "1")
    return time.perf_counter() - began


def read_through(path: str) -> float:
    """One large file from its start to its end."""
    began = time.perf_counter()
    descriptor = os.open(path, os.O_RDONLY)
    while os.read(descriptor, PIECE_BYTES):
        pass
    os.close(descriptor)
    return time.perf_counter() - began


def write_through(path: str, pieces: str) -> float:
    """One large new file of random data: write, close."""
    data = os.urandom(PIECE_BYTES)
    began = time.perf_counter()
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o644)
    for number in range(int(pieces)):
        os.write(descriptor, number.to_bytes(8, "big") + data[8:])
    os.close(descriptor)
    return time.perf_counter() - began


def unpack(archive: str, folder: str, sync: str) -> float:
    """A tar archive unpacked, with fsync of every file before its close if `sync` is 1."""
    began = time.perf_counter()
    with tarfile.open(archive) as tar:
        for member in tar:
            path = f"{folder}/{member.name}"
            if member.isdir():
                os.makedirs(path, exist_ok=True)
            elif (data := tar.extractfile(member)) is not None:
                _write(path, data.read(), sync=sync == "1")
                os.utime(path, (member.mtime, member.mtime))
                os.chmod(path, member.mode)
    return time.perf_counter() - began


LOOPS: Final[dict[str, Callable[..., float]]] = {
    loop.__name__: loop
    for loop in (
        stat_warm,
        read_warm,
        list_long,
        stat_random,
        read_in_order,
        create,
        read_through,
        write_through,
        unpack,
    )
}


def _files(folder: str) -> Iterator[str]:
    """All files below a folder, directory by directory, as they are listed."""
    with os.scandir(folder) as entries:
        for entry in entries:
            if entry.is_dir(follow_symlinks=False):
                yield from _files(entry.path)
            else:
                yield entry.path


def _warm(folder: str, use: Callable[[str], object]) -> float:
    paths = list(_files(folder))
    took = []
    for _ in range(WARM_ROUNDS):
        began = time.perf_counter()
        for path in paths:
            use(path)
        took.append(time.perf_counter() - began)
    return min(took)


def _read(path: str) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    os.read(descriptor, 2 * FILE_BYTES)
    os.close(descriptor)


def _write(path: str, data: bytes, *, sync: bool) -> None:
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o644)
    rest = memoryview(data)
    while rest:
        rest = rest[os.write(descriptor, rest) :]
    if sync:
        os.fsync(descriptor)
    os.close(descriptor)


if __name__ == "__main__":
    print(LOOPS[sys.argv[1]](*sys.argv[2:]))
