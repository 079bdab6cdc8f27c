"""Every daemon can be asked by any gRPC command line: one that is ours, and one that is not."""

from __future__ import annotations

import json

import pytest

from tests.cluster.cluster import DAEMONS, PORTS, Cluster

# One of each kind, the service that it is for, and a method that any caller may use.
KINDS = [
    ("afsd-1", "afs.v1.FileServer", "GetTime"),
    ("volserverd-2", "afs.v1.VolServer", "ListPartitions"),
    ("location", "afs.v1.VolumeLocation", "ListEntries"),
    ("client-3", "afs.v1.CacheManager", "GetStatus"),
]
STANDARD = {"grpc.health.v1.Health", "grpc.reflection.v1alpha.ServerReflection"}
BUF = ("buf", "curl", "--protocol", "grpc", "--http2-prior-knowledge")


def place(daemon: str) -> str:
    """Where a daemon is, for who is in the cluster's network."""
    return f"{daemon}:{PORTS[daemon.rstrip('-0123456789')]}"


def test_every_daemon_answers_the_health_protocol(cluster: Cluster) -> None:
    """Asked with buf, whose only knowledge of the protocol is what the daemon reflects."""
    check = "grpc.health.v1.Health/Check"
    asked = "; ".join(f"{' '.join(BUF)} http://{place(each)}/{check}" for each in DAEMONS)
    answers = cluster.project.execute("toolbox", "sh", "-ec", asked)
    assert answers.count('"SERVING"') == len(DAEMONS), answers


@pytest.mark.parametrize(("daemon", "service", "method"), KINDS)
def test_both_command_lines_know_what_a_daemon_serves(
    cluster: Cluster, daemon: str, service: str, method: str
) -> None:
    """`afsctl rpc` and `buf curl` find the service by reflection, and get the same answer."""
    listed = cluster.project.execute("toolbox", "afsctl", "rpc", "list", "--json", place(daemon))
    services = {each["service"] for each in json.loads(listed)}
    assert {service, *STANDARD} <= services
    called = ("afsctl", "rpc", "call", place(daemon), f"{service}/{method}")
    ours = json.loads(cluster.project.execute("toolbox", *called))
    theirs = json.loads(
        cluster.project.execute("toolbox", *BUF, f"http://{place(daemon)}/{service}/{method}")
    )
    # buf writes names in camel case, and leaves out what has its default.
    known = {name.replace("_", "").lower() for name in ours}
    assert {name.lower() for name in theirs} <= known
    assert bool(theirs) is any(ours.values())
