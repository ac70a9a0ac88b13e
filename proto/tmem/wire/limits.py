"""Every limit of the contract, named with its unit.

Owns: the numbers that both sides must agree on, and the gRPC channel arguments that follow from them. What a server
may choose (windows, pools per tenant, time-outs) is a setting of the server, reported by GetCapabilities; only its
default stands here, so that documentation, server and client read one place.
"""

__all__ = [
    "BLOCK_BYTES",
    "BLOCK_PAGES",
    "CHUNK_PAGES_DEFAULT",
    "MAX_ANSWER_BYTES",
    "MAX_BATCH_EXTENTS",
    "MAX_BATCH_PAGES",
    "MAX_CHUNK_PAGES",
    "MAX_INDEX",
    "MAX_MESSAGE_BYTES",
    "MAX_OBJECT",
    "MAX_POOL_NAME_CHARS",
    "MAX_SEQUENCE",
    "MAX_SESSION_POOLS",
    "MIN_PING_INTERVAL_MS",
    "OBJECT_ID_BITS",
    "PAGE_BYTES",
    "PAGE_OVERHEAD_BYTES",
    "PROTOCOL_VERSION",
    "SAME_FILLED_BYTES",
    "SESSION_ID_BYTES",
    "TOKEN_MAX_BYTES",
    "TOKEN_MIN_BYTES",
    "UUID_BYTES",
    "client_channel_options",
    "server_options",
]

PROTOCOL_VERSION = 1

PAGE_BYTES = 4096
BLOCK_PAGES = 512
BLOCK_BYTES = PAGE_BYTES * BLOCK_PAGES

OBJECT_ID_BITS = 192
MAX_OBJECT = (1 << OBJECT_ID_BITS) - 1
MAX_INDEX = (1 << 32) - 1
MAX_SEQUENCE = (1 << 63) - 1

MAX_CHUNK_PAGES = 16
# 64 KiB of plain bytes compress about 1.15-1.4 x better than 4 KiB do and still decompress in 15 us; larger chunks gain
# little more and make a lone page's read dearer.
CHUNK_PAGES_DEFAULT = 16
# What a page takes in a dense block beside its encoded bytes, at most: a record's header with a large generation (26) and its
# checksum (4), its locator (8), and its share of the leaf.
PAGE_OVERHEAD_BYTES = 40
# The word that every 8 bytes of a same-filled chunk repeat.
SAME_FILLED_BYTES = 8

# One block: work between two awaits of the server stays below a millisecond, and a message stays in the range where
# gRPC in Python is fastest (256 KiB to 2 MiB of plain pages).
MAX_BATCH_PAGES = BLOCK_PAGES
MAX_BATCH_EXTENTS = 512
# Room for a block of incompressible pages with its columns, and for an answer of whole chunks around single pages.
MAX_MESSAGE_BYTES = 4 << 20
MAX_ANSWER_BYTES = 3 << 20

MAX_POOL_NAME_CHARS = 128
MAX_SESSION_POOLS = 1024
SESSION_ID_BYTES = 16
UUID_BYTES = 16
TOKEN_MIN_BYTES = 16
TOKEN_MAX_BYTES = 64

_CLIENT_KEEPALIVE_TIME_MS = 10_000
_CLIENT_KEEPALIVE_TIMEOUT_MS = 3_000
# Below the client's interval, or the server answers GOAWAY too_many_pings: the commonest self-made outage.
MIN_PING_INTERVAL_MS = 5_000

_MESSAGE_SIZE_OPTIONS = [
    ("grpc.max_receive_message_length", MAX_MESSAGE_BYTES),
    ("grpc.max_send_message_length", MAX_MESSAGE_BYTES),
]


def client_channel_options() -> list[tuple[str, int | str]]:
    """Channel arguments of every tmem client."""
    return [
        *_MESSAGE_SIZE_OPTIONS,
        ("grpc.keepalive_time_ms", _CLIENT_KEEPALIVE_TIME_MS),
        ("grpc.keepalive_timeout_ms", _CLIENT_KEEPALIVE_TIMEOUT_MS),
        ("grpc.keepalive_permit_without_calls", 1),
        # Go on asking however long nothing else is said: after two pings gRPC would stop, and a dead peer be believed.
        ("grpc.http2.max_pings_without_data", 0),
        # A proxy from the environment has no business between a machine and its memory.
        ("grpc.enable_http_proxy", 0),
        # One connection per client, never one shared by accident with another client of the same process.
        ("grpc.use_local_subchannel_pool", 1),
        # An endpoint that came back must be used within two seconds.
        ("grpc.initial_reconnect_backoff_ms", 100),
        # No pause, whatever its name: how long one attempt may take, with the server's first answer. Far and busy servers need more than
        # a moment; and in these two seconds the kernel asks twice, so a silent endpoint is asked every second all the same.
        ("grpc.min_reconnect_backoff_ms", 2_000),
        ("grpc.max_reconnect_backoff_ms", 1_000),
        # Replay is ours: it knows what is settled, gRPC does not.
        ("grpc.enable_retries", 0),
    ]


def server_options(*, max_concurrent_streams: int) -> list[tuple[str, int | str]]:
    """Channel arguments of every tmem server."""
    return [
        *_MESSAGE_SIZE_OPTIONS,
        ("grpc.max_concurrent_streams", max_concurrent_streams),
        # A second daemon must not share the port silently: each holds its own pages.
        ("grpc.so_reuseport", 0),
        ("grpc.keepalive_permit_without_calls", 1),
        ("grpc.http2.min_ping_interval_without_data_ms", MIN_PING_INTERVAL_MS),
        ("grpc.http2.max_ping_strikes", 0),
        # The server asks too, so that the state of a client that vanished without a goodbye does not stay for hours.
        ("grpc.keepalive_time_ms", 20_000),
        ("grpc.keepalive_timeout_ms", 10_000),
        ("grpc.max_metadata_size", 16 << 10),
    ]
