"""One cluster for all tests; each leaves it whole."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.cluster.cluster import ROOT, Cluster

# What is kept of a run that failed.
TIMELINE: Path = ROOT / "var" / "cluster" / "timeline.txt"


@pytest.fixture(scope="session")
def whole_cluster() -> Iterator[Cluster]:
    """The running cluster."""
    cluster = Cluster.up()
    try:
        yield cluster
    finally:
        cluster.down()


@pytest.fixture
def cluster(whole_cluster: Cluster, request: pytest.FixtureRequest) -> Iterator[Cluster]:
    """The running cluster, healed after the test; if that failed, its logs are kept."""
    failed_before = request.session.testsfailed
    yield whole_cluster
    if request.session.testsfailed > failed_before:
        keep_timeline(whole_cluster, request.node.nodeid)
    whole_cluster.heal()


def keep_timeline(cluster: Cluster, test: str) -> None:
    """Writes what all daemons logged, by time, to one file."""
    TIMELINE.parent.mkdir(parents=True, exist_ok=True)
    with TIMELINE.open("a") as file:
        print(f"=== {test}", file=file)
        for line in cluster.timeline():
            print(line, file=file)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Everything here needs the engine, and its commands take their time."""
    for item in items:
        if Path(__file__).parent in item.path.parents:
            item.add_marker(pytest.mark.cluster)
            item.add_marker(pytest.mark.timeout(300))
