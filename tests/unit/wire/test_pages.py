from tests.pages import text_page

from tmem.v1 import capabilities_pb2, pages_pb2
from tmem.wire.pages import decode_echo_request, decode_get_response, decode_put_request, splice_page


def test_a_put_request_is_byte_equal_to_the_generated_class() -> None:
    message = pages_pb2.PutRequest(index=7, sequence=9)
    data = splice_page(message, text_page())

    assert pages_pb2.PutRequest.FromString(data) == pages_pb2.PutRequest(index=7, sequence=9, page=text_page())
    assert pages_pb2.PutRequest.FromString(data).SerializeToString() == data


def test_pages_come_back_as_views() -> None:
    put, page, slow = decode_put_request(splice_page(pages_pb2.PutRequest(index=7), b"abc"))
    assert (put.index, bytes(page), slow) == (7, b"abc", False)

    get, page, slow = decode_get_response(splice_page(pages_pb2.GetResponse(epoch=3), b"def"))
    assert (get.epoch, bytes(page), slow) == (3, b"def", False)

    echo, payload, slow = decode_echo_request(splice_page(capabilities_pb2.EchoRequest(zero_bytes=3), b"ghi"))
    assert (echo.zero_bytes, bytes(payload), slow) == (3, b"ghi", False)
