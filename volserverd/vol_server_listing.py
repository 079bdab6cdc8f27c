"""VolServer methods that only look, and those about transactions.

They take no volume: a header is read beside the fileserver, which is not disturbed, and the state
of a volume is what the fileserver says it is.
"""

from __future__ import annotations

import asyncio
from typing import Any

from afs.errors import AfsCode, AfsError
from afs.v1 import vol_server_pb2
from volserverd.finding import detail_of, find_volume
from volserverd.vldb.entry import entry_to_wire
from volserverd.vldb.names import FIRST_TEMPORARY_ID
from volserverd.vol_server_parts import VolServerParts, check_is_here


class ListingMethods(VolServerParts):
    """Methods that look."""

    async def Examine(
        self, request: vol_server_pb2.ExamineRequest, _: Any
    ) -> vol_server_pb2.ExamineResponse:
        """A volume on disk, and its location entry. VNOVOL."""
        found = await find_volume(self.services, request.volume)
        check_is_here(found)
        answer = vol_server_pb2.ExamineResponse(
            volume=await self.detail(found.partition, found.volume_id)
        )
        if found.entry is not None:
            answer.entry.CopyFrom(entry_to_wire(found.entry))
        return answer

    async def ListVolumes(
        self, request: vol_server_pb2.ListVolumesRequest, _: Any
    ) -> vol_server_pb2.ListVolumesResponse:
        """All volumes of one partition, or of all; EINVAL for a partition that is not here."""
        disk = self.services.disk
        known = {volume.volume_id: volume for volume in await self.fssync.volumes()}
        partitions = list(disk.partitions.values())
        if request.partition:
            partitions = [disk.partition(request.partition)]
        answer = vol_server_pb2.ListVolumesResponse()
        for partition in partitions:
            for volume_id in await disk.ids(partition):
                if volume_id >= FIRST_TEMPORARY_ID:
                    continue
                try:
                    info = known.get(volume_id)
                    answer.volumes.append(await detail_of(disk, partition, volume_id, info))
                except AfsError as error:
                    # Deleted while we were looking.
                    if error.code is not AfsCode.VNOVOL:
                        raise
        return answer

    async def ListPartitions(
        self, _: vol_server_pb2.ListPartitionsRequest, __: Any
    ) -> vol_server_pb2.ListPartitionsResponse:
        """The partitions of this volserver; needs no fileserver."""
        disk = self.services.disk
        answer = vol_server_pb2.ListPartitionsResponse(
            file_server=self.services.file_server, vol_server=self.services.vol_server
        )
        for partition in disk.partitions.values():
            usage, ids = await asyncio.gather(disk.usage(partition), disk.ids(partition))
            answer.partitions.add(
                name=partition.name,
                path=str(partition.path),
                size_kib=usage.size_kib,
                free_kib=usage.free_kib,
                volume_count=sum(volume_id < FIRST_TEMPORARY_ID for volume_id in ids),
            )
        return answer

    async def ListTransactions(
        self, _: vol_server_pb2.ListTransactionsRequest, __: Any
    ) -> vol_server_pb2.ListTransactionsResponse:
        """What is running, one line for each volume it has claimed."""
        now = self.operations.clock.now()
        return vol_server_pb2.ListTransactionsResponse(
            transactions=[
                vol_server_pb2.TransactionInfo(
                    transaction_id=transaction.transaction_id,
                    volume_id=volume_id,
                    operation=transaction.operation,
                    step=transaction.step,
                    age_s=now - transaction.started,
                    idle_s=now - transaction.touched,
                )
                for transaction in self.operations.table.running()
                for volume_id in transaction.volume_ids or [0]
            ]
        )

    async def EndTransaction(
        self, request: vol_server_pb2.EndTransactionRequest, _: Any
    ) -> vol_server_pb2.EndTransactionResponse:
        """Asks an operation to end: it undoes what it has begun and gives its volumes back."""
        self.operations.ask_to_end(request.transaction_id, "an operator ended the transaction")
        return vol_server_pb2.EndTransactionResponse()
