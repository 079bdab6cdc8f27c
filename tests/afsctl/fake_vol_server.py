"""A stand-in volserver over one volume: it answers as a real one would, and notes its requests."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

from afs.errors import AfsCode, AfsError
from afs.v1 import fssync_pb2, types_pb2, vol_server_pb2, vol_server_pb2_grpc
from tests.afsctl.fake_services import VOLUME_ID, location_entry

DUMP = [b"dump of ", b"a volume"]
PLAN = vol_server_pb2.OperationPlan(
    steps=["lock the entry", "send the volume"],
    bytes_to_send=3 * 1024 * 1024,
    chunks_to_send=3,
    clients_to_tell=2,
    exclusive_s=0.012,
)
SENT = vol_server_pb2.Sent(bytes=1536, chunks=2, vnodes=17, exclusive_s=0.02, total_s=1.5)


class FakeVolServer(vol_server_pb2_grpc.VolServerServicer):
    """A volserver that answers as one with one volume would; `restored` is what it was sent."""

    def __init__(self) -> None:
        self.detail = vol_server_pb2.VolumeDetail(
            volume_id=VOLUME_ID,
            name="home.kim",
            type=types_pb2.VOLUME_TYPE_READ_WRITE,
            partition="vicepa",
            read_write_id=VOLUME_ID,
            state=fssync_pb2.VOLUME_STATE_ONLINE,
            max_quota_kib=5000,
            used_kib=1234,
            file_count=17,
            created_ns=1_700_000_000_000_000_000,
        )
        self.created: list[vol_server_pb2.CreateRequest] = []
        self.restored: list[vol_server_pb2.RestoreRequest] = []
        self.dump_fails = False
        self.requests: list[Any] = []
        self.transactions: list[vol_server_pb2.TransactionInfo] = []
        self.findings: list[vol_server_pb2.Finding] = []
        self.unrepaired = 0
        self.outcomes: list[vol_server_pb2.SiteOutcome] = []
        self.site_detail = ""
        self.not_told: list[list[vol_server_pb2.ClientNotTold]] = []

    def _known(self, volume: str) -> vol_server_pb2.VolumeDetail:
        if volume not in (self.detail.name, str(VOLUME_ID)):
            raise AfsError(AfsCode.VNOVOL, f"there is no volume {volume!r}")
        return self.detail

    async def Create(self, request: Any, context: Any) -> vol_server_pb2.CreateResponse:
        self.created.append(request)
        if request.name == self.detail.name:
            raise AfsError(AfsCode.VVOLEXISTS, f"a volume {request.name!r} exists")
        return vol_server_pb2.CreateResponse(volume=self.detail)

    async def Delete(self, request: Any, context: Any) -> vol_server_pb2.DeleteResponse:
        self.requests.append(request)
        volume_id = self._known(request.volume).volume_id
        if request.dry_run:
            return vol_server_pb2.DeleteResponse(volume_id=volume_id, plan=PLAN)
        return vol_server_pb2.DeleteResponse(volume_id=volume_id)

    async def RenameVolume(self, request: Any, context: Any) -> vol_server_pb2.RenameVolumeResponse:
        self.requests.append(request)
        self._known(request.volume)
        entry = location_entry(request.new_name, "127.0.0.1:7000")
        return vol_server_pb2.RenameVolumeResponse(entry=entry)

    async def Move(self, request: Any, context: Any) -> AsyncIterator[vol_server_pb2.MoveResponse]:
        self.requests.append(request)
        detail = self._known(request.volume)
        progress = vol_server_pb2.Progress(
            step="sending what there is", done=1024, total=2048, unit="bytes"
        )
        yield vol_server_pb2.MoveResponse(progress=progress)
        if request.dry_run:
            yield vol_server_pb2.MoveResponse(plan=PLAN)
        else:
            yield vol_server_pb2.MoveResponse(volume=detail, sent=SENT)

    async def Copy(self, request: Any, context: Any) -> AsyncIterator[vol_server_pb2.CopyResponse]:
        self.requests.append(request)
        yield vol_server_pb2.CopyResponse(volume=self._known(request.volume), sent=SENT)

    async def Clone(
        self, request: Any, context: Any
    ) -> AsyncIterator[vol_server_pb2.CloneResponse]:
        self.requests.append(request)
        yield vol_server_pb2.CloneResponse(volume=self._known(request.volume))

    async def Release(
        self, request: Any, context: Any
    ) -> AsyncIterator[vol_server_pb2.ReleaseResponse]:
        self.requests.append(request)
        self._known(request.volume)
        if request.dry_run:
            yield vol_server_pb2.ReleaseResponse(plan=PLAN)
            return
        for waiting in self.not_told:
            yield vol_server_pb2.ReleaseResponse(not_told=waiting)
        last = self.not_told[-1] if self.not_told else []
        yield vol_server_pb2.ReleaseResponse(volume=self.detail, sites=self.outcomes, not_told=last)

    async def AddSite(self, request: Any, context: Any) -> vol_server_pb2.AddSiteResponse:
        self.requests.append(request)
        return vol_server_pb2.AddSiteResponse()

    async def RemoveSite(self, request: Any, context: Any) -> vol_server_pb2.RemoveSiteResponse:
        self.requests.append(request)
        return vol_server_pb2.RemoveSiteResponse(detail=self.site_detail)

    async def Salvage(
        self, request: Any, context: Any
    ) -> AsyncIterator[vol_server_pb2.SalvageResponse]:
        self.requests.append(request)
        detail = self._known(request.volume)
        for finding in self.findings:
            yield vol_server_pb2.SalvageResponse(finding=finding)
        yield vol_server_pb2.SalvageResponse(volume=detail, unrepaired=self.unrepaired)

    async def Verify(
        self, request: Any, context: Any
    ) -> AsyncIterator[vol_server_pb2.VerifyResponse]:
        self.requests.append(request)
        if request.volume:
            self._known(request.volume)
        yield vol_server_pb2.VerifyResponse(progress=vol_server_pb2.Progress(step="looking"))
        for finding in self.findings:
            yield vol_server_pb2.VerifyResponse(finding=finding)

    async def Backup(
        self, request: Any, context: Any
    ) -> AsyncIterator[vol_server_pb2.BackupResponse]:
        detail = self._known(request.volume)
        for done in range(3):
            progress = vol_server_pb2.Progress(step="copying metadata", done=done, total=3)
            yield vol_server_pb2.BackupResponse(progress=progress)
        yield vol_server_pb2.BackupResponse(volume=detail)

    async def Dump(self, request: Any, context: Any) -> AsyncIterator[vol_server_pb2.DumpResponse]:
        self.requests.append(request)
        self._known(request.volume)
        for piece in DUMP:
            yield vol_server_pb2.DumpResponse(data=piece)
        if self.dump_fails:
            raise AfsError(AfsCode.EIO, "chunk 7 is damaged")

    async def Restore(
        self, requests: AsyncIterator[Any], context: Any
    ) -> vol_server_pb2.RestoreResponse:
        self.restored = [request async for request in requests]
        if self.restored[0].open.dry_run:
            return vol_server_pb2.RestoreResponse(plan=PLAN)
        return vol_server_pb2.RestoreResponse(volume=self.detail, give_back_s=0.0021)

    async def Offline(self, request: Any, context: Any) -> vol_server_pb2.OfflineResponse:
        return vol_server_pb2.OfflineResponse(volume=self._known(request.volume))

    async def Online(self, request: Any, context: Any) -> vol_server_pb2.OnlineResponse:
        return vol_server_pb2.OnlineResponse(volume=self._known(request.volume), give_back_s=0.5)

    async def SetFields(self, request: Any, context: Any) -> vol_server_pb2.SetFieldsResponse:
        self._known(request.volume).max_quota_kib = request.max_quota_kib
        return vol_server_pb2.SetFieldsResponse(volume=self.detail)

    async def Examine(self, request: Any, context: Any) -> vol_server_pb2.ExamineResponse:
        return vol_server_pb2.ExamineResponse(
            volume=self._known(request.volume),
            entry=location_entry("home.kim", "127.0.0.1:7000"),
        )

    async def ListVolumes(self, request: Any, context: Any) -> vol_server_pb2.ListVolumesResponse:
        return vol_server_pb2.ListVolumesResponse(volumes=[self.detail])

    async def ListPartitions(
        self, request: Any, context: Any
    ) -> vol_server_pb2.ListPartitionsResponse:
        return vol_server_pb2.ListPartitionsResponse(
            partitions=[
                vol_server_pb2.PartitionInfo(name=name, size_kib=1000, free_kib=free_kib)
                for name, free_kib in (("vicepa", 100), ("vicepb", 300), ("vicepc", 200))
            ]
        )

    async def ListTransactions(
        self, request: Any, context: Any
    ) -> vol_server_pb2.ListTransactionsResponse:
        return vol_server_pb2.ListTransactionsResponse(transactions=self.transactions)

    async def EndTransaction(
        self, request: Any, context: Any
    ) -> vol_server_pb2.EndTransactionResponse:
        for transaction in self.transactions:
            if transaction.transaction_id == request.transaction_id:
                self.transactions.remove(transaction)
                return vol_server_pb2.EndTransactionResponse()
        raise AfsError(AfsCode.ENOENT, f"there is no transaction {request.transaction_id}")
