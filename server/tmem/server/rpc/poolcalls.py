"""Pool messages as the pool table's own types.

Owns: the translation of CreatePoolRequest, which both PoolsService and an Exchange's attachments carry.
"""

from tmem.server.store.pools import PoolRequest
from tmem.v1 import pools_pb2 as pb

__all__ = ["pool_request"]


def pool_request(request: pb.CreatePoolRequest) -> PoolRequest:
    """What a CreatePoolRequest asks for."""
    return PoolRequest(
        name=request.name,
        kind=request.kind,
        page_size=request.page_size,
        flags=request.flags,
        quota_bytes=request.quota_bytes,
        weight=request.weight,
        durability=request.durability,
        chunk_pages=request.chunk_pages,
        abi_version=request.abi_version,
        token=request.token,
        uuid=request.uuid,
        lost_epoch=request.lost_epoch,
        reserved_bytes=request.reserved_bytes,
    )
