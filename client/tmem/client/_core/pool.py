"""A pool as its client knows it.

Owns: `PoolCore`: its identity and rights, its writer and its presence map.
"""

from tmem.v1 import pools_pb2 as pb
from tmem.wire.errors import TmemError
from tmem.wire.handles import Extent
from tmem.wire.results import PoolFlag, PoolKind

from .presence import Presence, PresenceMap, mask_of
from .writer import Writer

__all__ = ["PoolCore"]


class PoolCore:
    """One pool that this client works on.

    Args:
        description: as the server described it.
        token, generation: the right under which this client speaks.
        recreate: how to make the pool again on a server that lost it; None for a joined pool.
        presence: the map to use; None for one in this client's own memory.

    Attributes:
        oldest_epoch: what gets name: the incarnation that pages may have been stored under. If the server lost that, it answers LOST for what is
            absent, also where the presence map can't tell, because a write of the page is on its way.
        presence: None for a shared pool, where others write too.
        attached: whether the open stream's session works on it.
        error: why nothing can be done with the pool any more.
        incomplete: the server lost it once, and it was made again.
        recreating: it is being made again, and the server has not answered.
        persistent: an absent page that was stored is LOST rather than a miss.
    """

    def __init__(
        self,
        description: pb.Pool,
        token: bytes,
        generation: int,
        recreate: pb.CreatePoolRequest | None,
        presence: Presence | None = None,
    ) -> None:
        self.pool_id = description.pool_id
        self.name = description.name
        self.kind = PoolKind(description.kind)
        self.flags = PoolFlag(description.flags)
        # What a get does when nobody says: reading enumerations of flags is dear.
        if self.flags & PoolFlag.TAKE:
            self._takes = True
        elif self.flags & PoolFlag.KEEP:
            self._takes = False
        else:
            self._takes = self.kind == PoolKind.EPHEMERAL
        self.persistent = self.kind == PoolKind.PERSISTENT
        self.uuid = description.uuid
        self.epoch = self.oldest_epoch = description.epoch
        self.chunk_pages = description.chunk_pages
        self.incomplete = description.incomplete
        self.token = token
        self.generation = generation
        self.recreate = recreate
        self.recreating = False
        self.writer = Writer()
        self.presence = None if self.kind == PoolKind.SHARED else presence or PresenceMap()
        self.attached = False
        self.error: TmemError | None = None

    def takes(self, take: bool | None) -> bool:
        """Whether a get takes: what the caller says, else the pool's flags, else the kind's default."""
        return self._takes if take is None else take

    def known_absent(self, extent: Extent) -> bool:
        """Whether nothing is stored there for certain, so that nobody need be asked."""
        presence = self.presence
        if presence is None or presence.absent_is_lost:
            return False
        block = presence.block(extent)
        return block is None or not (block.stored | block.uncertain) & mask_of(extent)

    def knows_nothing_of(self, obj: int) -> bool:
        """Whether nothing of an object is stored for certain."""
        presence = self.presence
        return presence is not None and not presence.absent_is_lost and not any(presence.blocks_of(obj))

    def resized(self, description: pb.Pool) -> None:
        """Notes a new quota, weight and reservation, for making the pool again."""
        if self.recreate is not None:
            self.recreate.quota_bytes = description.quota_bytes
            self.recreate.weight = description.weight
            self.recreate.reserved_bytes = description.reserved_bytes
