"""Salvages a volume, and dies by kill -9 just before the n-th thing it asks of the disk.

Run by `test_salvage_kill`: `python -m tests.volume.salvage_child`; for each line on its standard
input, a partition and a number n, it forks one that salvages there, and answers "killed" or, once n
is larger than there are steps, "done".
"""

from __future__ import annotations

import os
import signal
import sys
from pathlib import Path

from afs.volume.partition import Partition
from afs.volume.salvage import salvage_volume
from tests.volume.killed_child import Killer

VOLUME_ID = 5


def main() -> None:
    """Forks and kills, as told."""
    for line in sys.stdin:
        path, number = line.split("\t")
        child = os.fork()
        if not child:
            Killer(int(number)).attach()
            partition = Partition.open(Path(path), holder="child")
            elsewhere = Partition.open(Path(path).with_name("vicepb"), holder="child")
            salvage_volume(partition, VOLUME_ID, elsewhere=[elsewhere])
            os._exit(0)
        _, status = os.waitpid(child, 0)
        killed = os.WIFSIGNALED(status) and os.WTERMSIG(status) == signal.SIGKILL
        sys.stdout.write("killed\n" if killed else f"done {status}\n")
        sys.stdout.flush()


if __name__ == "__main__":
    main()
