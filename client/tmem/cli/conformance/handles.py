"""Statements about handles: how wide object ids and indices are, and whose they are."""

import grpc

from tmem.v1 import pages_pb2
from tmem.v1.common_pb2 import ObjectId, PoolRef
from tmem.wire.checksum import page_checksum
from tmem.wire.errors import InvalidHandle
from tmem.wire.limits import MAX_INDEX, MAX_OBJECT, OBJECT_ID_BITS
from tmem.wire.results import Code, Encoding, Reason, enum_field

from .expect import expect, refused, same
from .kit import statement
from .plain import get_message, pages_of, put_message, ref_of
from .samples import page, stamped
from .stage import Stage, fetch

_OBJECT = (0x0123456789ABCDEF << 128) | (0xFEDCBA9876543210 << 64) | 0x5A5A5A5A5A5A5A5A
# What the index of a lone page may take: half of what the page itself would.
_SPARSE_INDEX_BYTES = 2048


@statement(
    10, "Object ids have 192 bits: those that differ in any one bit of any of their three words are different objects."
)
def object_ids_have_192_bits(stage: Stage) -> None:
    pool = stage.pool()
    objects = [_OBJECT, *(_OBJECT ^ 1 << bit for bit in range(OBJECT_ID_BITS)), 0, MAX_OBJECT]
    with pool.batch() as batch:
        puts = [batch.put(obj, 0, stamped(number)) for number, obj in enumerate(objects)]
    expect(all(put.stored for put in puts), "a put was not stored")
    same(pool.stat().objects, len(objects), "objects")
    for number, obj in enumerate(objects):
        same(fetch(pool, obj, 0), [stamped(number)], f"the page of object {obj:#x}")
    pool.flush_object(_OBJECT)
    same(pool.stat().objects, len(objects) - 1, "objects after one was flushed")
    for number in (1, 64, 65, 128, 129, 192):
        same(stage.held(pool, objects[number], 0), stamped(number), "a neighbour of the flushed object")


@statement(11, "Indices go from 0 to 2^32 - 1, both usable, and few pages far apart cost little.")
def indices_have_32_bits(stage: Stage) -> None:
    pool = stage.pool()
    indices = [0, MAX_INDEX, *(1 << bit for bit in range(9, 32)), *((1 << bit) - 1 for bit in range(10, 32))]
    for number, index in enumerate(indices):
        pool.put(7, index, stamped(number))
    for number, index in enumerate(indices):
        same(fetch(pool, 7, index), [stamped(number)], f"page {index}")
        same(stage.held(pool, 7, index), stamped(number), f"page {index} on the server")
    stat = pool.stat()
    same(stat.pages, len(indices), "pages")
    each = stat.index_bytes / len(indices)
    expect(each <= _SPARSE_INDEX_BYTES, f"finding each of some pages far apart takes {each:.0f} bytes")


@statement(
    12, "An index above 32 bits, or an object id above 192, is refused by the client and on the wire, never truncated."
)
def wide_indices_are_refused(stage: Stage) -> None:
    pool = stage.pool()
    pool.put(7, 0, page(0))
    place = bytearray(len(page(0)))
    wrong = [(7, MAX_INDEX + 1), (7, 1 << 64), (7, -1), (MAX_OBJECT + 1, 0), (-1, 0)]
    for obj, index in wrong:
        for name, call in {
            "put": lambda o=obj, i=index: pool.put(o, i, page(1)),
            "get": lambda o=obj, i=index: pool.get_into(o, i, place),
            "flush": lambda o=obj, i=index: pool.flush(o, i),
            "put by the unary call": lambda o=obj, i=index: pool.put_page_sync(o, i, page(1)),
        }.items():
            refused(call, InvalidHandle, what=f"{name} at object {obj:#x}, index {index}")
    refused(lambda: pool.flush(7, MAX_INDEX, 2), InvalidHandle, what="a flush beyond the last index")
    plain = stage.plain()
    ref = ref_of(pool)
    for index in (MAX_INDEX + 1, 1 << 63, (1 << 64) - 1):
        request = pages_pb2.GetRequest(pool=ref, object=ObjectId(low=7), index=index)
        same(plain.failing(plain.pages.Get, request, "a get")[0], "INVALID_ARGUMENT", f"a get at index {index}")
    own = stage.plain_pool(plain)
    stream = plain.exchange(own)
    for index in (MAX_INDEX + 1, (1 << 64) - 512):
        for message in (put_message(own, [(7, index, page(1))], 1), get_message(own, 7, index)):
            answer = stream.ask(message)
            same(answer.WhichOneof("kind"), "malformed", f"a batch at index {index}")
    stream.close()
    same(plain.look(own, 7, 0), Code.MISS, "page 0, after puts at indices that are too wide")
    same(fetch(pool, 7, 0), [page(0)], "page 0, after puts at indices that are too wide")


@statement(13, "Clients are isolated: the numbers of another's pool, object and index never show its private pages.")
def clients_are_isolated(stage: Stage) -> None:
    secret = page(1)
    pool = stage.pool()
    pool.put(7, 3, secret)
    ref = ref_of(pool)
    stranger = stage.plain("second")
    mine = stage.plain_pool(stranger)
    guesses = [
        PoolRef(pool_id=ref.pool_id, generation=ref.generation, epoch=ref.epoch, token=token)
        for token in (b"", b"t" * 32, mine.token, ref.token)
    ]
    for guess in guesses:
        answer = stranger.get(guess, 7, 3)
        expect(secret not in answer.page, "another tenant's page was answered")
        if guess.pool_id == mine.pool_id and guess.token == mine.token:
            continue  # the number is both's; this is the stranger's own pool
        same((Code(answer.code), answer.reason), (Code.REFUSED, Reason.NO_SUCH_POOL), "a get in another's pool")
        answer = stranger.put(guess, 7, 3, page(2), 1)
        same((Code(answer.code), answer.reason), (Code.REFUSED, Reason.NO_SUCH_POOL), "a put in another's pool")
        answer = stranger.flush(guess, 7, 3, 2)
        same((Code(answer.code), answer.reason), (Code.REFUSED, Reason.NO_SUCH_POOL), "a flush in another's pool")
    stream = stranger.exchange(mine)
    if mine.pool_id != ref.pool_id:
        seen = pages_of(stream.ask(get_message(ref, 7, 3)), 1)
        same(seen, [Code.REFUSED], "a streamed get in another's pool")
    same(pages_of(stream.ask(get_message(mine, 7, 3)), 1), [Code.MISS], "the same object and index in one's own pool")
    stream.close()
    try:
        stream = stranger.exchange(ref)
        same(int(stream.opened.pools[0].reason), Reason.NO_SUCH_POOL, "a stranger attaching another's pool")
        stream.close()
    except grpc.RpcError:
        pass  # refused as a whole is as good
    same(fetch(pool, 7, 3), [secret], "the owner's page after all that")


@statement(
    26,
    "The bytes that come back are those that were put: of zeros, one word, noise, text and mixtures, alone and in runs.",
)
def bytes_come_back(stage: Stage) -> None:
    pool = stage.pool()
    zero = bytes(len(page(0)))
    singles = [zero, *(page(seed) for seed in range(12)), zero[:-1] + b"\x01", b"\x01" + zero[1:]]
    for number, plain in enumerate(singles):
        pool.put(1, number, plain)
        pool.put_page_sync(2, number, plain)
    for number, plain in enumerate(singles):
        for obj in (1, 2):
            same(fetch(pool, obj, number), [plain], f"page {number} of object {obj}")
            back = bytearray(len(plain))
            expect(pool.get_page_sync(obj, number, back).hit, f"page {number} of object {obj} by the unary call")
            same(bytes(back), plain, f"page {number} of object {obj} by the unary call")
            same(stage.held(pool, obj, number), plain, f"page {number} of object {obj} by the stubs")
    for count in (2, 15, 16, 17, 100, 512):
        pages = [page(seed) if seed % 7 else zero for seed in range(count)]
        pool.put(3, 0, b"".join(pages))
        same(fetch(pool, 3, 0, count), list(pages), f"a run of {count} pages")
    same(stage.held(pool, 3, 510), page(510), "a page near the end of a block")


@statement(27, "A page that does not shrink is kept as it is, whole.")
def noise_is_kept_raw(stage: Stage) -> None:
    from .samples import noise

    pool = stage.pool()
    lone, run = noise(1), b"".join(map(noise, range(2, 18)))
    pool.put(7, 0, lone)
    pool.put(8, 0, run)
    for obj, count in ((7, 1), (8, 16)):
        held = pool.explain(obj, 0)
        same((held.encoding, held.encoded_bytes), ("raw", held.chunk_pages * len(lone)), "how noise is held")
        expect(held.chunk_pages <= count, "a chunk has more pages than were put")
    same(fetch(pool, 7, 0), [lone], "a page of noise")
    same(b"".join(part for part in fetch(pool, 8, 0, 16) if isinstance(part, bytes)), run, "a run of noise")
    same(pool.stat().raw_pages, 17, "pages counted as raw")
    # One byte less than the page is no raw page, on the wire as in the store.
    plain = stage.plain()
    ref = stage.plain_pool(plain)
    request = pages_pb2.PutRequest(
        pool=ref,
        object=ObjectId(low=7),
        sequence=1,
        encoding=enum_field(Encoding.RAW),
        page_crc32c=page_checksum(lone[:-1]),
        page=lone[:-1],
    )
    same(plain.failing(plain.pages.Put, request, "a short page")[0], "INVALID_ARGUMENT", "a raw page that is short")
