"""Runs the measurements: `python -m bench [NAME …]`."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Awaitable, Callable
from typing import Final

from bench import (
    break_policies,
    bulk_data,
    clone,
    doors,
    fan_out,
    fetch_status,
    give_back_ack,
    isolation,
    many_files,
    marking,
    mount_large,
    mount_small,
    move,
    read_ahead,
    release,
    small_files,
)
from bench.report import RESULTS, Report

MEASUREMENTS: Final[dict[str, Callable[[], Awaitable[Report]]]] = {
    "give_back_ack": give_back_ack.run,
    "fetch_status": fetch_status.run,
    "doors": doors.run,
    "bulk_data": bulk_data.run,
    "break_policies": break_policies.run,
    "marking": marking.run,
    "fan_out": fan_out.run,
    "isolation": isolation.run,
    "clone": clone.run,
    "move": move.run,
    "release": release.run,
    "small_files": small_files.run,
    "read_ahead": read_ahead.run,
    "many_files": many_files.run,
    "mount_small": mount_small.run,
    "mount_large": mount_large.run,
}


async def _measure(names: list[str]) -> bool:
    reached = True
    for name in names:
        print(name, flush=True)
        report = await MEASUREMENTS[name]()
        report.write()
        reached &= report.is_reached
    print(f"results are in {RESULTS}")
    return reached


def main() -> int:
    """Exit status 0 if every goal was reached, 1 if one was missed, 2 for an unknown name."""
    names = sys.argv[1:] or list(MEASUREMENTS)
    unknown = [name for name in names if name not in MEASUREMENTS]
    if unknown:
        print(
            f"bench: no measurement {unknown[0]!r}: expected {', '.join(MEASUREMENTS)}",
            file=sys.stderr,
        )
        return 2
    return 0 if asyncio.run(_measure(names)) else 1


if __name__ == "__main__":
    sys.exit(main())
