"""A process that changes a volume without end, and says what it is about to do and has done.

Run by `test_kill`. Lines, each a JSON list: ["ready"], ["begin", name, seed, length] (length -1:
the name is removed), ["done", name] for each change that was acknowledged.
"""

from __future__ import annotations

import json
import random
import sys
from pathlib import Path

from afs.errors import AfsError
from afs.types import Fid, VolumeType, root_fid
from afs.volume.partition import Partition
from afs.volume.sqlite_store import SqliteVolume
from afs.volume.volume import CreateFile, Mutation, RemoveFile, StoreData
from tests.volume.building import noise

VOLUME_ID = 5
CLONE_ID = 6
NAMES = [f"f{number}" for number in range(12)]
LENGTHS = [0, 10, 16_384, 16_385, 300_000, 1_048_576, 2_500_000]


def say(*line: object) -> None:
    """Tells the parent; nothing stays in a buffer."""
    sys.stdout.write(json.dumps(line) + "\n")
    sys.stdout.flush()


def change(volume: SqliteVolume, choice: random.Random, fids: dict[str, Fid]) -> None:
    """A batch of one to three changes to different files, committed together."""
    mutations: list[Mutation] = []
    names = choice.sample(NAMES, choice.randint(1, 3))
    for name in names:
        seed = choice.getrandbits(32)
        if name not in fids:
            say("begin", name, 0, 0)
            mutations.append(CreateFile(root_fid(VOLUME_ID), name))
        elif choice.random() < 0.15:
            say("begin", name, 0, -1)
            mutations.append(RemoveFile(root_fid(VOLUME_ID), name))
        else:
            length = choice.choice(LENGTHS)
            say("begin", name, seed, length)
            staged = volume.stage(fids[name], 0)
            staged.write(noise(length, seed))
            staged.finish()
            mutations.append(StoreData(fids[name], staged, truncate_to=0))
    for name, mutation, answer in zip(names, mutations, volume.apply(mutations), strict=True):
        assert not isinstance(answer, AfsError), answer
        say("done", name)
        if isinstance(mutation, CreateFile):
            assert answer.vnode is not None
            fids[name] = answer.vnode.fid
        elif isinstance(mutation, RemoveFile):
            del fids[name]


def main() -> None:
    """Works on the partition named first, with the seed named second, until it is killed."""
    path, seed = Path(sys.argv[1]), int(sys.argv[2])
    choice = random.Random(seed)
    partition = Partition.open(path, holder="child")
    if VOLUME_ID in partition.volumes():
        volume = partition.open_volume(VOLUME_ID)
    else:
        volume = partition.create_volume(volume_id=VOLUME_ID, name="v")
    fids = {entry.name: entry.fid for entry in volume.entries(root_fid(VOLUME_ID), "", 100)}
    say("ready")
    while True:
        match choice.randrange(20):
            case 0:
                volume.close()
                volume = partition.open_volume(VOLUME_ID)
            case 1:
                partition.clone_volume(
                    volume, volume_id=CLONE_ID, name="v.backup", type=VolumeType.BACKUP
                )
            case 2:
                if CLONE_ID in partition.volumes():
                    partition.delete_volume(CLONE_ID)
            case 3 | 4:
                volume.collect()
            case _:
                change(volume, choice, fids)


if __name__ == "__main__":
    main()
