"""PagesService: the classical calls, one page each.

Owns: the unary page messages. Each call becomes a batch of one page and goes the way of all batches.
"""

from array import array
from typing import Any, TypeVar

import grpc
from google.protobuf.message import DecodeError, Message

from tmem.server.store.engine import Binding
from tmem.server.store.pending import Pending
from tmem.server.tenants import Tenant
from tmem.v1 import pages_pb2 as pb
from tmem.v1.common_pb2 import ObjectId, PoolRef
from tmem.wire.answers import Answer, FlushAnswer, FlushObjectAnswer, GetAnswer, PutAnswer
from tmem.wire.errors import MalformedBatch, ProtocolError, Refused
from tmem.wire.handles import Extent, Version, check_extent, join_object
from tmem.wire.limits import MAX_SEQUENCE, PAGE_BYTES
from tmem.wire.pages import decode_put_request, splice_page
from tmem.wire.requests import Flush, FlushObject, Get, Header, Put, check_put
from tmem.wire.results import Code, Reason, enum_field

from .service import Service, UnaryFunction, settled, unary

__all__ = ["PagesHandlers"]

M = TypeVar("M", bound=Message)


def parse(data: bytes, message: M) -> M:
    """Fills a message; raises ProtocolError."""
    try:
        message.ParseFromString(data)
    except DecodeError as error:
        raise ProtocolError(f"{len(data)} bytes that are no {message.DESCRIPTOR.name}: {error}") from error
    return message


class PagesHandlers:
    """The service's handlers.

    Args:
        service: the parts of the daemon.
    """

    def __init__(self, service: Service) -> None:
        self._service = service

    def handler(self) -> grpc.GenericRpcHandler:
        """The service, ready to be added to a server."""
        functions: dict[str, UnaryFunction] = {
            "Put": self.put,
            "Get": self.get,
            "Flush": self.flush,
            "FlushObject": self.flush_object,
        }
        methods: dict[str, Any] = {
            name: unary(self._service, f"PagesService/{name}", function) for name, function in functions.items()
        }
        return grpc.method_handlers_generic_handler("tmem.v1.PagesService", methods)

    async def put(self, tenant: Tenant, data: bytes) -> bytes:
        """PutRequest to PutResponse."""
        request, page, slow = decode_put_request(data)
        if slow:
            self._service.metrics.slow_decode()
        extent = _extent(request.object, request.index)
        header = _header(request.pool, request.sequence)
        put = Put(header, [extent], [len(page)], [1], [request.encoding], array("I", [request.page_crc32c]), page)
        check_put(put)
        answer = await self._execute(tenant, request.pool, put)
        assert isinstance(answer, PutAnswer)
        reason = answer.reasons[0] if answer.reasons else 0
        code = Code.REFUSED if reason else Code.STORED
        return pb.PutResponse(
            code=enum_field(code), reason=enum_field(reason), epoch=answer.header.epoch
        ).SerializeToString()

    async def get(self, tenant: Tenant, data: bytes) -> bytes:
        """GetRequest to GetResponse."""
        request = parse(data, pb.GetRequest())
        header = _header(request.pool, 0)
        header.answer_bytes = PAGE_BYTES
        extent = _extent(request.object, request.index)
        answer = await self._execute(tenant, request.pool, Get(header, [extent]))
        assert isinstance(answer, GetAnswer)
        pages = answer.pages
        response = pb.GetResponse(epoch=answer.header.epoch)
        if not pages.runs:
            response.code = enum_field(pages.codes[0] if pages.codes else Code.MISS)
            if pages.refused:
                response.reason = enum_field(pages.refused[0][2])
            return response.SerializeToString()
        run = pages.runs[0]
        chunk = pages.chunks[run.chunk]
        response.code = enum_field(Code.HIT)
        response.generation, response.sequence = run.generation, run.sequence
        response.encoding = enum_field(chunk.encoding)
        response.page_crc32c = pages.crcs[0]
        return splice_page(response, chunk.data)

    async def flush(self, tenant: Tenant, data: bytes) -> bytes:
        """FlushRequest to FlushResponse."""
        request = parse(data, pb.FlushRequest())
        if request.if_generation and not request.if_sequence:
            raise MalformedBatch(0, "a condition has a generation and no sequence")
        condition = Version(request.if_generation, request.if_sequence) if request.if_sequence else None
        extent = _extent(request.object, request.index)
        header = _header(request.pool, request.sequence, write=True)
        answer = await self._execute(tenant, request.pool, Flush(header, [extent], [condition] if condition else None))
        assert isinstance(answer, FlushAnswer)
        code, reason = _flush_result(answer.reasons)
        return pb.FlushResponse(
            code=enum_field(code),
            reason=enum_field(reason),
            epoch=answer.header.epoch,
            found=answer.found[0],
        ).SerializeToString()

    async def flush_object(self, tenant: Tenant, data: bytes) -> bytes:
        """FlushObjectRequest to FlushObjectResponse."""
        request = parse(data, pb.FlushObjectRequest())
        obj = join_object(request.object.low, request.object.mid, request.object.high)
        header = _header(request.pool, request.sequence, write=True)
        answer = await self._execute(tenant, request.pool, FlushObject(header, [obj]))
        assert isinstance(answer, FlushObjectAnswer)
        code, reason = _flush_result(answer.reasons)
        return pb.FlushObjectResponse(
            code=enum_field(code),
            reason=enum_field(reason),
            epoch=answer.header.epoch,
            found=answer.found[0],
        ).SerializeToString()

    async def _execute(self, tenant: Tenant, ref: PoolRef, batch: Put | Get | Flush | FlushObject) -> Answer:
        service = self._service
        if service.recovering:
            return service.engine.refuse(batch, Reason.RECOVERING)
        try:
            pool, member = service.lifecycle.table.find(tenant.name, ref.pool_id, ref.token)
        except Refused:
            binding = None
        else:
            binding = Binding(pool, member)
            if member.session is None:
                member.parked_since = service.clock()  # a client without a session lives by its calls
        result = service.engine.execute(batch, binding, alone=True)
        return await settled(result) if isinstance(result, Pending) else result


def _header(ref: PoolRef, sequence: int, *, write: bool = False) -> Header:
    if write and not 1 <= sequence <= MAX_SEQUENCE:
        raise MalformedBatch(0, f"a write has a sequence of 1 .. 2**63-1, not {sequence}")
    return Header(0, ref.pool_id, ref.generation, sequence, ref.floor, ref.epoch)


def _extent(obj: ObjectId, index: int) -> Extent:
    extent = Extent(join_object(obj.low, obj.mid, obj.high), index, 1)
    try:
        check_extent(*extent)
    except ValueError as error:
        raise MalformedBatch(0, str(error)) from error
    return extent


def _flush_result(reasons: list[int] | None) -> tuple[int, int]:
    reason = reasons[0] if reasons else 0
    return (Code.REFUSED if reason else Code.FLUSHED), reason
