"""CapabilitiesService: what this server can do, and the echo.

Owns: its messages. Every limit that a client can run into is reported here, from the place that enforces it.
"""

from typing import Any

import grpc

from tmem.server.tenants import Tenant
from tmem.v1 import capabilities_pb2 as pb
from tmem.wire import limits
from tmem.wire.errors import InvalidRequest, Recovering
from tmem.wire.pages import decode_echo_request, splice_page
from tmem.wire.results import Encoding, PoolFlag, PoolKind, enum_field

from .pages import parse
from .service import Service, unary

__all__ = ["CapabilitiesHandlers"]


class CapabilitiesHandlers:
    """The service's handlers.

    Args:
        service: the parts of the daemon.
    """

    def __init__(self, service: Service) -> None:
        self._service = service

    def handler(self) -> grpc.GenericRpcHandler:
        """The service, ready to be added to a server."""
        methods: dict[str, Any] = {
            "GetCapabilities": unary(self._service, "CapabilitiesService/GetCapabilities", self.get_capabilities),
            "Echo": unary(self._service, "CapabilitiesService/Echo", self.echo),
        }
        return grpc.method_handlers_generic_handler("tmem.v1.CapabilitiesService", methods)

    def get_capabilities(self, tenant: Tenant, data: bytes) -> bytes:
        """GetCapabilitiesRequest to GetCapabilitiesResponse."""
        parse(data, pb.GetCapabilitiesRequest())
        service = self._service
        if service.shards is None:
            raise Recovering("the server's shards are starting: ask again")
        settings = service.settings
        store = service.engine.store
        return pb.GetCapabilitiesResponse(
            protocol_version_low=limits.PROTOCOL_VERSION,
            protocol_version_high=limits.PROTOCOL_VERSION,
            server_version=service.version,
            instance_id=service.instance_id,
            tenant=tenant.name,
            page_sizes=[limits.PAGE_BYTES],
            pool_kinds=[enum_field(kind) for kind in PoolKind if kind],
            durabilities=[enum_field(durability) for durability in store.durabilities],
            encodings=[enum_field(encoding) for encoding in Encoding if encoding],
            pool_flags=int(PoolFlag.TAKE | PoolFlag.KEEP | PoolFlag.ENCRYPTED),
            limits=pb.Limits(
                max_extent_pages=limits.BLOCK_PAGES,
                max_batch_pages=limits.MAX_BATCH_PAGES,
                max_batch_extents=limits.MAX_BATCH_EXTENTS,
                max_chunk_pages=limits.MAX_CHUNK_PAGES,
                default_chunk_pages=limits.CHUNK_PAGES_DEFAULT,
                max_message_bytes=limits.MAX_MESSAGE_BYTES,
                max_answer_bytes=limits.MAX_ANSWER_BYTES,
                max_window_bytes=settings.max_window,
                max_window_batches=settings.max_window_batches,
                max_pools_per_tenant=tenant.max_pools or settings.max_pools_per_tenant,
                max_pool_name_chars=limits.MAX_POOL_NAME_CHARS,
                max_session_pools=limits.MAX_SESSION_POOLS,
                max_index=limits.MAX_INDEX,
                object_id_bits=limits.OBJECT_ID_BITS,
                memory_limit_bytes=settings.memory_limit,
                tenant_quota_bytes=tenant.quota,
                heartbeat_interval_ms=int(settings.heartbeat_interval_seconds * 1000),
                session_timeout_ms=int(settings.session_timeout_seconds * 1000),
                stalled_reader_timeout_ms=int(settings.stalled_reader_timeout_seconds * 1000),
                drain_timeout_ms=int(settings.drain_timeout_seconds * 1000),
                min_ping_interval_ms=limits.MIN_PING_INTERVAL_MS,
                page_overhead_bytes=limits.PAGE_OVERHEAD_BYTES,
            ),
            shards=[pb.Shard(shard_id=number, target=target) for number, target in enumerate(service.shards)],
            store=store.name,
            recovering=service.recovering,
        ).SerializeToString()

    def echo(self, _tenant: Tenant, data: bytes) -> bytes:
        """EchoRequest to EchoResponse."""
        request, payload, _ = decode_echo_request(data)
        if request.zero_bytes > limits.MAX_ANSWER_BYTES:
            raise InvalidRequest(f"zero_bytes {request.zero_bytes} is above {limits.MAX_ANSWER_BYTES}")
        answer = bytes(request.zero_bytes) if request.zero_bytes else payload
        return splice_page(pb.EchoResponse(), answer)
