"""Calls any method of any gRPC server, known only through its reflection service."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any, Final, NamedTuple

import grpc
from google.protobuf import json_format
from google.protobuf.descriptor import MethodDescriptor, ServiceDescriptor
from google.protobuf.descriptor_pool import DescriptorPool
from google.protobuf.message import Message
from google.protobuf.message_factory import GetMessageClass
from grpc_reflection.v1alpha.proto_reflection_descriptor_database import (
    ProtoReflectionDescriptorDatabase,
)

from afsctl.failure import CommandError

CHANNEL_OPTIONS: Final = [
    # A person who looks at an answer wants it whole.
    ("grpc.max_receive_message_length", -1),
    ("grpc.max_send_message_length", -1),
    ("grpc.enable_http_proxy", 0),
]


# A server describes itself in milliseconds; a frozen one must not keep a person waiting.
REFLECTION_TIMEOUT_S: Final = 10.0


class _TimeLimit(grpc.StreamStreamClientInterceptor):
    """Bounds calls whose maker sets no time limit, as the reflection library does."""

    def __init__(self, timeout_s: float) -> None:
        self._timeout_s = timeout_s

    def intercept_stream_stream(
        self, continuation: Callable[..., Any], details: Any, requests: Any
    ) -> Any:
        limited = _CallDetails(details.method, self._timeout_s, details.metadata)
        return continuation(limited, requests)


class _CallDetails(NamedTuple):
    """What an interceptor hands on; the fields are gRPC's."""

    method: str
    timeout: float | None
    metadata: Any
    credentials: Any = None
    wait_for_ready: bool | None = None
    compression: Any = None


class ReflectedServer:
    """A server's services and methods as it describes them itself.

    Args:
        channel: to the server; stays the caller's.
        timeout_s: for each call; None: no limit.
    """

    def __init__(self, channel: grpc.Channel, timeout_s: float | None) -> None:
        self._channel = channel
        self._timeout_s = timeout_s
        described = grpc.intercept_channel(channel, _TimeLimit(REFLECTION_TIMEOUT_S))
        self._database = ProtoReflectionDescriptorDatabase(described)
        self._pool = DescriptorPool(self._database)

    def services(self) -> list[str]:
        """Full names of the services, sorted.

        Raises:
            grpc.RpcError: nobody answers, or the server has no reflection (UNIMPLEMENTED).
        """
        return sorted(set(self._database.get_services()))

    def service(self, name: str) -> ServiceDescriptor:
        """The service of a full name, or of a last part that only one service has.

        Raises:
            CommandError: there is none, or more than one.
        """
        known = self.services()
        matching = [full for full in known if full == name or full.rpartition(".")[2] == name]
        if name in matching:
            matching = [name]
        if len(matching) != 1:
            found = "several services are" if matching else "no service is"
            raise CommandError(f"{found} named {name}: there are {', '.join(matching or known)}")
        try:
            return self._pool.FindServiceByName(matching[0])
        except KeyError:
            raise CommandError(f"the server lists {matching[0]} but does not describe it") from None

    def method(self, path: str) -> MethodDescriptor:
        """The method of `SERVICE/METHOD`. CommandError if there is none."""
        service_name, slash, method_name = path.strip("/").rpartition("/")
        if not slash:
            raise CommandError(f"{path!r} names no method: expected SERVICE/METHOD")
        service = self.service(service_name)
        if method_name not in service.methods_by_name:
            known = ", ".join(sorted(service.methods_by_name))
            raise CommandError(f"{service.full_name} has no method {method_name}: it has {known}")
        return service.methods_by_name[method_name]

    def call(
        self,
        method: MethodDescriptor,
        requests: Iterator[dict[str, Any]],
        metadata: Sequence[tuple[str, str]],
    ) -> Iterator[dict[str, Any]]:
        """Calls a method with JSON objects, and yields its answers as JSON objects while they come.

        Args:
            method: as `method` answers it.
            requests: exactly one unless the method takes a stream.
            metadata: of the request.

        Raises:
            CommandError: a request does not fit the method's message.
            grpc.RpcError: the call failed.
        """
        outgoing = _Outgoing(self._parse(method, request) for request in requests)
        start = getattr(
            self._channel, _CALL_KINDS[method.client_streaming, method.server_streaming]
        )
        stub: Callable[..., Any] = start(
            f"/{method.containing_service.full_name}/{method.name}",
            request_serializer=lambda message: message.SerializeToString(),
            response_deserializer=GetMessageClass(method.output_type).FromString,
        )
        request = outgoing if method.client_streaming else outgoing.only()
        try:
            answer = stub(request, timeout=self._timeout_s, metadata=metadata or None)
            answers: Iterator[Message] = answer if method.server_streaming else iter([answer])
            for message in answers:
                yield json_format.MessageToDict(
                    message,
                    preserving_proto_field_name=True,
                    always_print_fields_with_no_presence=True,
                    descriptor_pool=self._pool,
                )
        except grpc.RpcError:
            if outgoing.failure is not None:
                raise outgoing.failure from None
            raise

    def _parse(self, method: MethodDescriptor, request: dict[str, Any]) -> Message:
        message = GetMessageClass(method.input_type)()
        try:
            return json_format.ParseDict(request, message, descriptor_pool=self._pool)
        except json_format.ParseError as error:
            raise CommandError(
                f"the request is no {method.input_type.full_name}: {error}"
            ) from None


class _Outgoing(Iterator[Message]):
    """The requests of a call; remembers what was wrong with one, for gRPC only says that it was."""

    def __init__(self, messages: Iterator[Message]) -> None:
        self._messages = messages
        self.failure: CommandError | None = None

    def only(self) -> Message:
        """The request of a call that takes one."""
        return next(self._messages)

    def __next__(self) -> Message:
        try:
            return next(self._messages)
        except CommandError as error:
            self.failure = error
            raise


# By (the client sends a stream, the server sends a stream): the channel's method that makes such a
# call.
_CALL_KINDS: Final = {
    (False, False): "unary_unary",
    (False, True): "unary_stream",
    (True, False): "stream_unary",
    (True, True): "stream_stream",
}
