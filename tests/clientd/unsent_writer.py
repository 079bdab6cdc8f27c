"""`python -m tests.clientd.unsent_writer FOLDER LOCATION VOLUME VNODE UNIQUIFIER TEXT`.

A clientd, and a program in it that writes to a file while the fileserver is away. Prints the
flush's error when it has it, then stands there to be killed.
"""

from __future__ import annotations

import asyncio
import sys
from pathlib import Path

from afs.errors import AfsError
from afs.types import Fid
from clientd.app import Clientd
from tests.clientd.local_program import client_config


async def main() -> None:
    """Opens, says so, writes when told to."""
    folder, location, text = Path(sys.argv[1]), sys.argv[2], sys.argv[6]
    fid = Fid(*map(int, sys.argv[3:6]))
    client = await Clientd.start(client_config(folder, location, outage_patience_s=0.3))
    services = client.services
    volume = await services.volumes.named(str(fid.volume))
    handle = await services.open_files.open(volume, fid, write=True)
    sys.stdout.write("open\n")
    sys.stdout.flush()
    await asyncio.to_thread(sys.stdin.readline)
    await handle.write(0, text.encode())
    try:
        await handle.flush()
        told = "stored"
    except AfsError as error:
        told = error.code.name
    sys.stdout.write(f"{told}\n")
    sys.stdout.flush()
    await asyncio.Event().wait()


if __name__ == "__main__":
    asyncio.run(main())
