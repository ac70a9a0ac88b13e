"""A client made of the plain generated stubs: what a stranger would write from the .proto files alone."""

import queue
import secrets
from types import TracebackType
from typing import Any, Self

import grpc
from tests.pages import PAGE

from tmem.v1 import capabilities_pb2_grpc, extents_pb2_grpc, pages_pb2_grpc, pools_pb2, pools_pb2_grpc
from tmem.v1 import extents_pb2 as pb
from tmem.v1.common_pb2 import PoolRef
from tmem.wire.checksum import page_checksum
from tmem.wire.limits import MAX_MESSAGE_BYTES

RAW, SAME_FILLED, LZ4 = 2, 3, 1


class PlainClient:
    """Stubs on a channel of their own."""

    def __init__(self, target: str, token: str | None = None) -> None:
        options = [
            ("grpc.max_receive_message_length", MAX_MESSAGE_BYTES),
            ("grpc.use_local_subchannel_pool", 1),
            ("grpc.enable_http_proxy", 0),
        ]
        self.channel = grpc.insecure_channel(target, options=options)
        self.metadata = (("authorization", f"Bearer {token}"),) if token else ()
        self.pages: Any = pages_pb2_grpc.PagesServiceStub(self.channel)
        self.pools: Any = pools_pb2_grpc.PoolsServiceStub(self.channel)
        self.extents: Any = extents_pb2_grpc.ExtentsServiceStub(self.channel)
        self.capabilities: Any = capabilities_pb2_grpc.CapabilitiesServiceStub(self.channel)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.channel.close()

    def create_pool(self, name: str, kind: int = 2, **fields: Any) -> PoolRef:
        request = pools_pb2.CreatePoolRequest(name=name, kind=kind, abi_version=1, **fields)  # type: ignore[arg-type]
        made = self.pools.CreatePool(request, metadata=self.metadata, timeout=10)
        return PoolRef(pool_id=made.pool.pool_id, generation=made.generation, token=made.token, epoch=made.pool.epoch)

    def exchange(self, *pools: PoolRef, **opening: Any) -> "PlainStream":
        return PlainStream(self, pools, **opening)


class PlainStream:
    """One Exchange call, message by message."""

    def __init__(
        self,
        client: PlainClient,
        pools: tuple[PoolRef, ...],
        *,
        session_id: bytes | None = None,
        window: tuple[int, int] = (0, 0),
        first: pb.ExchangeRequest | None = None,
        wait: bool = True,
    ) -> None:
        self._requests: queue.SimpleQueue[Any] = queue.SimpleQueue()
        self.session_id = secrets.token_bytes(16) if session_id is None else session_id
        self.call = client.extents.Exchange(iter(self._requests.get, None), metadata=client.metadata)
        if first is None:
            first = pb.ExchangeRequest(
                open=pb.Open(
                    session_id=self.session_id,
                    protocol_version=1,
                    window=pb.Window(max_bytes=window[0], max_batches=window[1]),
                    pools=[pb.PoolAttachment(pool=pool) for pool in pools],
                    client_name="stranger",
                )
            )
        self.send(first)
        self.opened = self.receive().opened if wait else pb.Opened()

    def send(self, message: pb.ExchangeRequest) -> None:
        self._requests.put(message)

    def receive(self) -> pb.ExchangeResponse:
        return next(self.call)

    def ask(self, message: pb.ExchangeRequest) -> pb.ExchangeResponse:
        self.send(message)
        return self.receive()

    def half_close(self) -> None:
        self._requests.put(None)

    def error(self) -> grpc.RpcError:
        """What the stream ends with; everything before it is thrown away."""
        try:
            while True:
                self.receive()
        except grpc.RpcError as error:
            return error
        except StopIteration:
            raise AssertionError("the stream ended well") from None

    def cancel(self) -> None:
        self.call.cancel()


def header(ref: PoolRef, batch_id: int = 1, sequence: int = 0, **fields: int) -> pb.BatchHeader:
    values = {"generation": ref.generation, "epoch": ref.epoch} | fields
    return pb.BatchHeader(batch_id=batch_id, pool_id=ref.pool_id, sequence=sequence, **values)


def put_raw(
    ref: PoolRef, obj: int, index: int, plain: bytes, sequence: int, batch_id: int = 1, **fields: int
) -> pb.ExchangeRequest:
    """A put of raw pages in chunks of one."""
    pages = len(plain) // PAGE
    return pb.ExchangeRequest(
        put=pb.PutBatch(
            header=header(ref, batch_id, sequence, **fields),
            extents=pb.Extents(object_low=[obj], index=[index], pages=[pages]),
            chunks=pb.Chunks(encoded_bytes=[PAGE] * pages, encoding=[RAW]),  # type: ignore[list-item]
            page_crc32c=[page_checksum(plain[at : at + PAGE]) for at in range(0, len(plain), PAGE)],
        ),
        body=plain,
    )


def get(ref: PoolRef, obj: int, index: int, pages: int = 1, batch_id: int = 1, **fields: int) -> pb.ExchangeRequest:
    values = {"answer_bytes": max(pages, 16) * PAGE} | fields
    return pb.ExchangeRequest(
        get=pb.GetBatch(
            header=header(ref, batch_id, **values),
            extents=pb.Extents(object_low=[obj], index=[index], pages=[pages]),
        )
    )


def flush(ref: PoolRef, obj: int, index: int, sequence: int, pages: int = 1, **fields: int) -> pb.ExchangeRequest:
    return pb.ExchangeRequest(
        flush=pb.FlushBatch(
            header=header(ref, sequence=sequence, **fields),
            extents=pb.Extents(object_low=[obj], index=[index], pages=[pages]),
        )
    )
