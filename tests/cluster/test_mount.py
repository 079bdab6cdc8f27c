"""The client that has the cell mounted, as programs in its container see it."""

from __future__ import annotations

import hashlib

import pytest

from tests.cluster.cluster import Cluster
from tests.cluster.stage import stage
from tests.cluster.timeline import Trace
from tests.cluster.workload import contents

pytestmark = pytest.mark.blocking_ok

MOUNTED = "client-3"


def sum_of(cluster: Cluster, path: str) -> str:
    """The SHA-256 of a file, as a program in the container reads it."""
    return cluster.project.execute(MOUNTED, "sha256sum", f"/afs{path}").split()[0]


async def test_programs_read_and_write_through_the_mount(cluster: Cluster, trace: Trace) -> None:
    """What one writes in a container others read, and the other way round, under a fault too."""
    async with stage(cluster, trace) as on:
        path, version = f"/{on.volume}/shared", on.workload.next_version()
        assert await on.clients["client-1"].write(path, version, 100_000)
        expected = hashlib.sha256(contents(version, 100_000)).hexdigest()
        assert await on.do(sum_of, cluster, path) == expected
        newer = on.workload.next_version()
        assert await on.clients["client-2"].write(path, newer, 2_000_000)
        expected = hashlib.sha256(contents(newer, 2_000_000)).hexdigest()
        assert await on.do(sum_of, cluster, path) == expected, "the kernel shows what is no more"
        await on.do(cluster.pause, "client-1")
        copied = f"cp /afs{path} /afs{path}.copy && ls /afs/{on.volume}"
        names = await on.do(cluster.project.execute, MOUNTED, "sh", "-c", copied)
        assert {"shared", "shared.copy", "file0"} <= set(names.split())
        await on.do(cluster.unpause, "client-1")
        read = await on.clients["client-1"].read(f"{path}.copy")
        assert read is not None
        assert read.version == newer
    await on.judge()
