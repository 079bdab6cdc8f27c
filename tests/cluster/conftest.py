"""One cluster for all tests; each leaves it whole."""

from __future__ import annotations

import re
from collections.abc import Generator, Iterator
from pathlib import Path

import pytest

from tests.cluster.cluster import Cluster
from tests.cluster.engine import ROOT
from tests.cluster.timeline import Trace

# What is kept of tests that failed.
TIMELINES: Path = ROOT / "var" / "cluster"


@pytest.fixture(scope="session")
def whole_cluster() -> Iterator[Cluster]:
    """The running cluster."""
    cluster = Cluster.up()
    try:
        yield cluster
    finally:
        cluster.down()


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(
    item: pytest.Function,
) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """A failed test tells where to read what happened."""
    report = yield
    if report.failed and "trace" in item.fixturenames:
        report.sections.append(("what happened, by time", str(timeline_of(item.name))))
    return report


def timeline_of(test: str) -> Path:
    """The file in which a failed test's timeline is kept."""
    return TIMELINES / f"{re.sub('[^a-z0-9]+', '-', test)}.txt"


@pytest.fixture
def trace(whole_cluster: Cluster, request: pytest.FixtureRequest) -> Iterator[Trace]:
    """What happened in this test; kept as a file if it fails."""
    trace = Trace()
    failed_before = request.session.testsfailed
    yield trace
    if request.session.testsfailed > failed_before:
        trace.write(timeline_of(request.node.name), request.node.nodeid, whole_cluster)


@pytest.fixture
def cluster(whole_cluster: Cluster, trace: Trace) -> Iterator[Cluster]:
    """The running cluster, healed after the test."""
    yield whole_cluster
    whole_cluster.heal()


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Everything here needs the engine, and its commands take their time."""
    for item in items:
        if Path(__file__).parent in item.path.parents:
            item.add_marker(pytest.mark.cluster)
            item.add_marker(pytest.mark.timeout(300))
