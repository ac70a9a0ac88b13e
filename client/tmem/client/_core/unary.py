"""The classical calls: one page, one call, no stream.

Owns: the unary page messages on the client's side. They share the pool's sequences and presence map with its batches.
Used like a batch's operation: `start` and `settle` under the face's lock, `request` and `take` off it.
"""

from google.protobuf.message import DecodeError

from tmem.v1 import pages_pb2 as pb
from tmem.v1.common_pb2 import ObjectId
from tmem.wire.codec import Codec, EncodedChunks
from tmem.wire.errors import TABLE, OldPage, ProtocolError
from tmem.wire.handles import Extent, Version, split_object
from tmem.wire.pages import decode_get_response, splice_page
from tmem.wire.results import Code, Reason, enum_field

from .calls import ref
from .pool import PoolCore
from .presence import mask_of
from .results import GetResult, PutResult
from .writer import Footprint

__all__ = ["UnaryGet", "UnaryPut"]


def _object_id(obj: int) -> ObjectId:
    low, mid, high = split_object(obj)
    return ObjectId(low=low, mid=mid, high=high)


class UnaryPut:
    """One page to store."""

    path = "/tmem.v1.PagesService/Put"

    def __init__(self, pool: PoolCore, extent: Extent, plain: memoryview, codec: Codec) -> None:
        if pool.presence is not None:
            pool.presence.check(extent)
        self._pool = pool
        self._extent = extent
        self._chunks = EncodedChunks()
        codec.encode(plain, extent.first, 1, self._chunks)
        self._sequence = 0
        self._floor = 0
        self._doubted = 0  # what was uncertain before
        self._answered = False
        self.result = PutResult(extent)

    def start(self) -> bool:
        """Takes a sequence; False while a write of the page is unsettled."""
        writer = self._pool.writer
        footprints = (Footprint(self._extent.object, self._extent.block, mask_of(self._extent)),)
        if writer.conflicts(footprints):
            return False
        self._sequence = writer.begin(footprints)
        self._floor = writer.floor
        if self._pool.presence is not None:
            self._doubted = self._pool.presence.begin(self._extent)
        return True

    def request(self) -> bytes:
        """The PutRequest."""
        message = pb.PutRequest(
            pool=ref(self._pool),
            object=_object_id(self._extent.object),
            index=self._extent.index,
            sequence=self._sequence,
            encoding=enum_field(self._chunks.encodings[0]),
            page_crc32c=self._chunks.crcs[0],
        )
        message.pool.floor = self._floor
        return splice_page(message, self._chunks.pieces[0])

    def take(self, data: bytes) -> None:
        """Takes the PutResponse; raises ProtocolError."""
        response = pb.PutResponse()
        _parse(response, data)
        if int(response.code) not in {Code.STORED, Code.REFUSED} or (int(response.code) == Code.REFUSED) != bool(
            response.reason
        ):
            raise ProtocolError(f"a put was answered with code {response.code} and reason {response.reason}")
        self._answered = True
        self.result.settle(response.reason)

    def settle(self) -> None:
        """Tells writer and presence map what became of it; without an answer the page stays uncertain."""
        pool = self._pool
        if not self._answered:
            pool.writer.give_up(self._sequence)
            return
        pool.writer.settle(self._sequence)
        pool.writer.confirmed(self._floor)
        if pool.presence is None:
            return
        reason = self.result.reason
        if reason is None:
            pool.presence.stored(self._extent, self._chunks.crcs)
        elif reason in TABLE and TABLE[Reason(reason)].old_page == OldPage.KEPT:
            pool.presence.unchanged(self._extent, self._doubted)
        else:
            pool.presence.absent(self._extent)


class UnaryGet:
    """One page to read."""

    path = "/tmem.v1.PagesService/Get"

    def __init__(self, pool: PoolCore, extent: Extent, destination: memoryview, *, take: bool) -> None:
        self._pool = pool
        self._extent = extent
        self._destination = destination
        self._expected: int | None = None
        self._sure = False
        self._gone = False
        self.result = GetResult(extent, take=take)

    def start(self) -> bool:
        """Whether the server must be asked; if not, the result is there."""
        presence = self._pool.presence
        if presence is None:
            return True
        block = presence.block(self._extent)
        bit = self._extent.first
        if block is None or not (block.stored | block.uncertain) >> bit & 1:
            lost = presence.absent_is_lost and self._pool.persistent and not presence.was_removed(self._extent, bit)
            self.result.pages[0] = Code.LOST if lost else Code.MISS
            self.result.done = True
            return False
        self._sure = not block.uncertain >> bit & 1
        if self._sure and block.with_crc >> bit & 1:
            self._expected = block.crcs[bit]
        return True

    def request(self) -> bytes:
        """The GetRequest."""
        message = pb.GetRequest(pool=ref(self._pool), object=_object_id(self._extent.object), index=self._extent.index)
        message.pool.epoch = self._pool.oldest_epoch
        return message.SerializeToString()

    def take(self, data: bytes, codec: Codec) -> None:
        """Takes the GetResponse into the destination; raises ProtocolError."""
        response, page, _ = decode_get_response(data)
        result = self.result
        code = int(response.code)
        if code == Code.REFUSED:
            result.refuse(range(1), response.reason)
        elif code == Code.HIT:
            self._take_page(response, page, codec)
        elif code in {Code.MISS, Code.LOST, Code.CORRUPT}:
            if code == Code.MISS and self._sure and self._still_stored():
                if self._pool.persistent:
                    code = Code.LOST
                else:
                    self._gone = True
            result.pages[0] = Code(code)
        else:
            raise ProtocolError(f"a get was answered with code {code}")
        result.done = True

    def _take_page(self, response: pb.GetResponse, page: memoryview, codec: Codec) -> None:
        result = self.result
        if self._expected is not None and self._expected != response.page_crc32c and self._unchanged():
            result.pages[0] = Code.LOST if self._pool.persistent else Code.MISS
            return
        if codec.decode(response.encoding, page, 1, 0, self._destination, [response.page_crc32c]):
            result.pages[0] = Code.CORRUPT
            return
        result.pages[0] = Code.HIT
        result.versions[0] = Version(response.generation, response.sequence)

    def _still_stored(self) -> bool:
        """Whether the presence map is as sure of the page as when it was asked for; a write in between makes either answer right."""
        presence = self._pool.presence
        block = None if presence is None else presence.block(self._extent)
        bit = self._extent.first
        if block is None or not (block.stored & ~block.uncertain) >> bit & 1:
            return False
        return self._expected is None or block.crcs[bit] == self._expected

    def _unchanged(self) -> bool:
        """The same of a page whose checksum is known."""
        return self._expected is not None and self._still_stored()

    def settle(self) -> None:
        """Tells the presence map of an ephemeral page that is gone."""
        if self._gone and self._pool.presence is not None and self._still_stored():
            self._pool.presence.missing(self._extent, self._extent.first)


def _parse(message: pb.PutResponse, data: bytes) -> None:
    try:
        message.ParseFromString(data)
    except DecodeError as error:
        raise ProtocolError(f"{len(data)} bytes that are no {message.DESCRIPTOR.name}") from error
