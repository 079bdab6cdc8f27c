"""The fileserver's parts put together: started in order, stopped in the opposite one.

Start: whatever can be refused comes first (addresses, partitions), then the state (epoch, hosts,
volumes), then the break worker, and the servers last: nothing is answered by half a fileserver
(T13).

Stop: channels end first, calls drain, volumes are detached, and then what hosts hold is written
down for the next life (`callback_state`).
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from concurrent.futures import Executor, ThreadPoolExecutor
from contextlib import AsyncExitStack
from functools import partial
from pathlib import Path
from typing import Final, Self

import grpc.aio
import structlog

from afs.identity.memberships import Membership
from afs.identity.protection_client import ProtectionClient
from afs.limits import DRAIN_S
from afs.runtime.clock import Clock, SystemClock
from afs.runtime.guarded import open_doors
from afs.runtime.interceptors import RequestCounter
from afs.runtime.server import DaemonServer
from afs.types import ChangeMark
from afs.v1 import (
    callback_channel_pb2_grpc,
    file_server_debug_pb2_grpc,
    file_server_pb2,
    file_server_pb2_grpc,
    fssync_pb2_grpc,
)
from afs.volume.partition import Partition
from afsd import callback_state
from afsd.break_worker import break_worker
from afsd.call_preamble import CallPreamble
from afsd.callback_channel import CallBackChannelServicer
from afsd.callback_state import KeptState
from afsd.callbacks import CallBacks
from afsd.config import AfsdConfig
from afsd.core.callback_machine import CallBackMachine
from afsd.core.locks import SavedLock
from afsd.core.policy import POLICIES
from afsd.core.saved_state import unchanged_volumes
from afsd.epoch import last_epoch, next_epoch
from afsd.file_server import FileServer
from afsd.file_server_debug import FileServerDebugServicer
from afsd.fssync import FSSyncServicer
from afsd.fssync_lane import FssyncLane
from afsd.host_journal import HostJournal
from afsd.principal_names import PrincipalNames
from afsd.volume_table import VolumeTable

_log = structlog.get_logger(__name__)

FILE_SERVER: Final = "afs.v1.FileServer"
CALLBACK_CHANNEL: Final = "afs.v1.CallBackChannel"
FILE_SERVER_DEBUG: Final = "afs.v1.FileServerDebug"
FSSYNC: Final = "afs.v1.FSSync"

# Threads that read and commit for clients: they wait for the disk, not for each other.
_SERVING_THREADS = 8
# Threads that attach and detach volumes, so that FSSync never queues behind clients.
_WHOLE_VOLUME_THREADS = 4
# A worker that failed is started again, but not at the speed of the loop.
_WORKER_RESTART_S = 1.0
# Name of the lock that this kind of daemon holds on a partition.
HOLDER: Final = "afsd"
_HOST_JOURNAL = "hosts.sqlite3"
_CAPABILITIES = ("BULK_FETCH", "BULK_STATUS", "CALLBACK_CHANNEL", "EXPECTED_DATA_VERSION", "LOCKS")


class FileServerDaemon:
    """A running fileserver.

    Attributes:
        addresses: where clients call, with real ports.
        fssync_addresses: where the volserver calls.
        epoch: which life of the fileserver this is.
    """

    def __init__(self, config: AfsdConfig, clock: Clock) -> None:
        self._config = config
        self._clock = clock
        self._resources = AsyncExitStack()
        # How volumes were when last seen: before we attached them, or after we detached them.
        self._marks: Mapping[int, ChangeMark] = {}
        self._kept_locks: tuple[SavedLock, ...] = ()
        self.addresses: list[str] = []
        self.fssync_addresses: list[str] = []
        self.epoch = 0

    @classmethod
    async def start(cls, config: AfsdConfig, clock: Clock | None = None) -> Self:
        """Starts a fileserver; it serves when this returns.

        Raises:
            AfsError: VBUSY for an address or a partition that another process has; EINVAL,
                VNOSERVICE … for one that cannot be used.
        """
        daemon = cls(config, SystemClock() if clock is None else clock)
        try:
            await daemon._start()
        except BaseException:
            await daemon._resources.aclose()
            raise
        return daemon

    async def stop(self) -> None:
        """Drains, ends every change that has begun, detaches the volumes, lets go of all locks.

        Hosts that are owed nothing go on in the next life with what they hold.
        """
        await self._resources.aclose()

    async def _start(self) -> None:
        config = self._config
        # The socket in the run directory stands for the directory: what is kept there is ours from
        # here on.
        protection = self._open_protection()
        doors = await self._open_doors(protection)
        fssync_server = DaemonServer(doors)
        self._stop_later(fssync_server)
        self.fssync_addresses = await fssync_server.listen(config.fssync_addresses)
        serving = self._threads(_SERVING_THREADS, "serve")
        whole_volume = self._threads(_WHOLE_VOLUME_THREADS, "whole-volume")
        partitions = [await self._open_partition(path, whole_volume) for path in config.partitions]
        callbacks = await self._open_callbacks(whole_volume)
        self.epoch = callbacks.epoch
        counter = RequestCounter()
        server = DaemonServer([counter, *doors, CallPreamble(callbacks, FILE_SERVER)])
        self._stop_later(server)
        self.addresses = await server.listen(config.listen)
        volumes = VolumeTable(partitions, executor=serving, whole_volume_executor=whole_volume)
        self._resources.push_async_callback(self._detach, volumes)
        await volumes.attach_all()
        await callbacks.compare_volumes(
            unchanged_volumes(self._marks, volumes.marks()), self._kept_locks
        )
        self._start_worker(callbacks)
        names = PrincipalNames(protection)
        self._add_services(server, callbacks, volumes, names, counter)
        self._add_fssync(fssync_server, callbacks, volumes)
        # Stopped before anything that they work with.
        self._stop_later(server, fssync_server)
        self._resources.callback(callbacks.begin_stop)
        await asyncio.gather(server.start(), fssync_server.start())
        _log.info(
            "fileserver.started",
            addresses=self.addresses,
            fssync=self.fssync_addresses,
            epoch=callbacks.epoch,
            break_policy=config.break_policy,
        )

    def _open_protection(self) -> ProtectionClient | None:
        if self._config.protection is None:
            return None
        protection = ProtectionClient(self._config.protection)
        self._resources.push_async_callback(protection.close)
        return protection

    async def _open_doors(
        self, protection: ProtectionClient | None
    ) -> list[grpc.aio.ServerInterceptor]:
        async def ask(name: str) -> Membership:
            assert protection is not None, "checked by the configuration"
            return await protection.membership(name)

        return await open_doors(self._config, ask, self._clock.now, self._resources)

    def _stop_later(self, *servers: DaemonServer) -> None:
        """Has servers stopped together; a no-op for one that was stopped before."""

        async def stop() -> None:
            await asyncio.gather(*(server.stop(DRAIN_S) for server in servers))

        self._resources.push_async_callback(stop)

    def _threads(self, count: int, name: str) -> ThreadPoolExecutor:
        executor = ThreadPoolExecutor(count, thread_name_prefix=name)
        self._resources.push_async_callback(asyncio.to_thread, executor.shutdown)
        return executor

    async def _open_partition(self, path: Path, executor: Executor) -> Partition:
        """A partition, locked."""
        loop = asyncio.get_running_loop()
        partition = await loop.run_in_executor(
            executor, partial(Partition.open, path, holder=HOLDER)
        )
        self._resources.push_async_callback(loop.run_in_executor, executor, partition.close)
        return partition

    async def _open_callbacks(self, executor: Executor) -> CallBacks:
        """The callbacks, with every host known that may hold promises of an earlier life (I9)."""
        config, loop = self._config, asyncio.get_running_loop()
        journal = await loop.run_in_executor(executor, HostJournal, config.run_dir / _HOST_JOURNAL)
        self._resources.push_async_callback(loop.run_in_executor, executor, journal.close)
        kept = await loop.run_in_executor(executor, self._take_kept)
        epoch = await loop.run_in_executor(
            executor, next_epoch, config.run_dir, self._clock.wall_ns()
        )
        settings = config.callback_settings
        if journal.was_damaged:
            # Nobody knows who holds promises of an earlier life: they are trusted no longer than
            # this.
            await asyncio.sleep(settings.stretched_lease_s)
        machine = CallBackMachine(settings, self._clock.now(), sorted(journal.known), epoch)
        if kept is not None:
            self._marks = kept.volumes
            self._kept_locks = kept.callbacks.locks
            machine.restore(kept.callbacks, self._clock.now())
            _log.info(
                "callback_state.restored",
                hosts=machine.counters["hosts_suspended"],
                promises=machine.counters["promises_restored"],
                locks=len(kept.callbacks.locks),
            )
        callbacks = CallBacks(machine, self._clock, epoch, POLICIES[config.break_policy], journal)
        self._resources.callback(callbacks.close)
        self._resources.push_async_callback(self._leave_kept, callbacks, executor)
        return callbacks

    def _take_kept(self) -> KeptState | None:
        """What the life before this one left; blocks on the disk."""
        run_dir = self._config.run_dir
        return callback_state.take(
            run_dir,
            last_epoch=last_epoch(run_dir),
            boot_id=callback_state.boot_id(),
            now=self._clock.now(),
        )

    async def _leave_kept(self, callbacks: CallBacks, executor: Executor) -> None:
        """Writes down what the next life needs, when nothing can change a promise any more."""
        now = self._clock.now()
        saved = callbacks.save()
        if not (saved.hosts or saved.locks):
            return
        loop = asyncio.get_running_loop()
        try:
            boot_id = await loop.run_in_executor(executor, callback_state.boot_id)
            kept = KeptState(callbacks.epoch, boot_id, now, saved, self._marks)
            await loop.run_in_executor(executor, callback_state.leave, self._config.run_dir, kept)
        except OSError as error:
            # They are reset then, as after a crash.
            _log.warning("callback_state.not_written", reason=str(error))
            return
        promises = sum(len(each.keys) for host in saved.hosts for each in host.promises.values())
        _log.info(
            "callback_state.written",
            hosts=len(saved.hosts),
            promises=promises,
            locks=len(saved.locks),
        )

    async def _detach(self, volumes: VolumeTable) -> None:
        self._marks = await volumes.detach_all()

    def _start_worker(self, callbacks: CallBacks) -> None:
        worker = asyncio.create_task(_work(callbacks, self._config.worker_tick_s))

        async def stop() -> None:
            worker.cancel()
            await asyncio.wait([worker])

        self._resources.push_async_callback(stop)

    def _add_services(
        self,
        server: DaemonServer,
        callbacks: CallBacks,
        volumes: VolumeTable,
        names: PrincipalNames,
        counter: RequestCounter,
    ) -> None:
        """What clients call."""
        capabilities = file_server_pb2.GetCapabilitiesResponse(
            capabilities=_CAPABILITIES,
            epoch=callbacks.epoch,
            channel_lease_s=self._config.channel_lease_s,
            break_deadline_s=self._config.break_deadline_s,
        )
        file_server = FileServer(volumes, callbacks, names, self._clock, capabilities)
        self._resources.push_async_callback(file_server.finish)
        server.add(file_server_pb2_grpc.add_FileServerServicer_to_server, file_server, FILE_SERVER)
        server.add(
            callback_channel_pb2_grpc.add_CallBackChannelServicer_to_server,
            CallBackChannelServicer(callbacks),
            CALLBACK_CHANNEL,
        )
        server.add(
            file_server_debug_pb2_grpc.add_FileServerDebugServicer_to_server,
            FileServerDebugServicer(callbacks, self._clock, counter.counts),
            FILE_SERVER_DEBUG,
        )

    def _add_fssync(self, server: DaemonServer, callbacks: CallBacks, volumes: VolumeTable) -> None:
        """What the volserver calls."""
        fssync = FSSyncServicer(volumes, callbacks, FssyncLane(callbacks.policy))
        self._resources.push_async_callback(fssync.finish)
        server.add(fssync_pb2_grpc.add_FSSyncServicer_to_server, fssync, FSSYNC)


async def _work(callbacks: CallBacks, tick_s: float) -> None:
    """Runs the break worker; one that fails is a bug of ours, and breaks nothing else."""
    while True:
        try:
            await break_worker(callbacks, tick_s)
        except Exception:
            _log.exception("worker.failed")
            await asyncio.sleep(_WORKER_RESTART_S)
