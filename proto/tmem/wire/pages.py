"""The unary page messages with their payload spliced on.

Owns: PutRequest and GetResponse (tmem.v1 pages.proto), whose field `page` carries an encoded page, and EchoRequest and
EchoResponse, whose field `payload` does. The other unary messages are small; the generated classes serve them.
"""

from tmem.v1 import capabilities_pb2, pages_pb2

from .splice import BytesLike, join, parse

__all__ = ["decode_echo_request", "decode_get_response", "decode_put_request", "splice_page"]


def splice_page(
    message: pages_pb2.PutRequest
    | pages_pb2.GetResponse
    | capabilities_pb2.EchoRequest
    | capabilities_pb2.EchoResponse,
    page: BytesLike,
) -> bytes:
    """The serialized message with its payload, which must not be set in `message`."""
    return join(message.SerializeToString(), [page], len(page))


def decode_put_request(data: bytes) -> tuple[pages_pb2.PutRequest, memoryview, bool]:
    """The request without its page, the page as a view, and whether the slow path was taken.

    Raises:
        ProtocolError: no PutRequest.
    """
    return parse(data, pages_pb2.PutRequest(), "page")


def decode_get_response(data: bytes) -> tuple[pages_pb2.GetResponse, memoryview, bool]:
    """The response without its page, the page as a view, and whether the slow path was taken.

    Raises:
        ProtocolError: no GetResponse.
    """
    return parse(data, pages_pb2.GetResponse(), "page")


def decode_echo_request(data: bytes) -> tuple[capabilities_pb2.EchoRequest, memoryview, bool]:
    """The request without its payload, the payload as a view, and whether the slow path was taken.

    Raises:
        ProtocolError: no EchoRequest.
    """
    return parse(data, capabilities_pb2.EchoRequest(), "payload")
