"""A link beside servers that are none of ours, or none at all: it says what is wrong, and goes on where it can."""

import socket
from typing import Any

import pytest
from tests.faces import drive
from tests.grpc_peer import CAPABILITIES, EXCHANGE, Conversation, GrpcPeer

import tmem.client.link
from tmem.v1 import extents_pb2 as pb
from tmem.wire import errors


def connect(peer: GrpcPeer, **options: Any) -> tmem.client.link.Client:
    return tmem.client.link.connect(peer.target, **options)


class TestNoServer:
    @pytest.mark.parametrize(
        ("said", "error", "text"),
        [
            (b"HTTP/1.1 400 Bad Request\r\nConnection: close\r\n\r\n", errors.ProtocolError, "HTTP/2"),
            (b"SSH-2.0-OpenSSH_9.2\r\n", errors.ProtocolError, "HTTP/2"),
            (b"", errors.Unavailable, "closed the connection"),
            (b"\x00\x00\x00", errors.Unavailable, "closed the connection"),
        ],
    )
    def test_whoever_speaks_something_else_is_found_out(self, said: bytes, error: type[Exception], text: str) -> None:
        def answer(sock: socket.socket, number: int) -> None:
            sock.recv(24)
            sock.sendall(said)
            sock.shutdown(socket.SHUT_WR)
            while sock.recv(65536):
                pass

        with GrpcPeer(raw=answer) as peer, pytest.raises(error, match=text):
            connect(peer)

    def test_whoever_says_nothing_costs_the_deadline(self) -> None:
        def silent(sock: socket.socket, number: int) -> None:
            while sock.recv(65536):
                pass

        with GrpcPeer(raw=silent) as peer, pytest.raises(errors.DeadlineExceeded):
            connect(peer, connect_timeout=0.5)

    @pytest.mark.parametrize(
        ("head", "error", "text"),
        [
            ([(":status", "404"), ("content-type", "text/html")], errors.ProtocolError, "no tmem server"),
            ([(":status", "502")], errors.Unavailable, "502"),
            ([(":status", "200"), ("content-type", "text/html")], errors.RemoteError, "text/html"),
        ],
    )
    def test_web_servers_and_proxies_are_told_by_their_answer(
        self, head: list[tuple[str, str]], error: type[Exception], text: str
    ) -> None:
        def answer(conversation: Conversation, stream_id: int, message: bytes) -> None:
            conversation.h2.send_headers(stream_id, head)
            conversation.h2.send_data(stream_id, b"<html>no</html>", end_stream=True)

        def lone(conversation: Conversation, stream_id: int, message: bytes) -> None:
            conversation.h2.send_headers(stream_id, head, end_stream=True)

        for behave in (answer, lone):
            with GrpcPeer({CAPABILITIES: behave}) as peer, pytest.raises(errors.RemoteError) as raised:
                connect(peer)
            if behave is lone:
                assert isinstance(raised.value, error)
                assert text in str(raised.value)


class TestCalls:
    @pytest.mark.parametrize(
        ("status", "fields", "error", "text"),
        [
            ("12", {}, errors.ProtocolError, "no tmem server"),
            ("16", {"grpc_message": "who are you"}, errors.Unauthenticated, "who are you"),
            ("14", {"grpc_message": "gr%C3%BC%C3%9Fe %25 100%"}, errors.Unavailable, "grüße % 100%"),
            ("4", {}, errors.DeadlineExceeded, "in time"),
            ("3", {"grpc_message": "no"}, errors.InvalidRequest, "no"),
            ("8", {"tmem_reason": "QUOTA"}, errors.QuotaExceeded, ""),
            ("99", {}, errors.RemoteError, "UNKNOWN"),
            ("x", {}, errors.RemoteError, "without a status"),
        ],
    )
    def test_a_status_is_the_error_that_it_is_everywhere(
        self, status: str, fields: dict[str, str], error: type[Exception], text: str
    ) -> None:
        def answer(conversation: Conversation, stream_id: int, message: bytes) -> None:
            conversation.end(stream_id, status, **fields)

        with GrpcPeer({CAPABILITIES: answer}) as peer, pytest.raises(error) as raised:
            connect(peer)
        assert text in str(raised.value)

    def test_headers_that_are_all_of_an_answer(self) -> None:
        def answer(conversation: Conversation, stream_id: int) -> None:
            fields = [(":status", "200"), ("content-type", "application/grpc"), ("grpc-status", "16")]
            conversation.h2.send_headers(stream_id, fields, end_stream=True)

        answers: dict[str, Any] = {f"{CAPABILITIES} begins": answer, CAPABILITIES: lambda *_: None}
        with GrpcPeer(answers) as peer, pytest.raises(errors.Unauthenticated):
            connect(peer)

    @pytest.mark.parametrize("count", [0, 2])
    def test_one_message_answers_a_call(self, count: int) -> None:
        def answer(conversation: Conversation, stream_id: int, message: bytes) -> None:
            for _ in range(count):
                conversation.send(stream_id, b"")
            conversation.end(stream_id)

        with GrpcPeer({CAPABILITIES: answer}) as peer, pytest.raises(errors.ProtocolError, match=f"{count} messages"):
            connect(peer)

    @pytest.mark.parametrize(("code", "error"), [(7, errors.Unavailable), (2, errors.RemoteError)])
    def test_a_call_that_is_reset(self, code: int, error: type[Exception]) -> None:
        def answer(conversation: Conversation, stream_id: int, message: bytes) -> None:
            conversation.h2.reset_stream(stream_id, code)

        with GrpcPeer({CAPABILITIES: answer}) as peer, pytest.raises(error):
            connect(peer)

    def test_one_that_the_server_did_not_look_at_is_unavailable_and_the_next_has_a_new_connection(self) -> None:
        def answer(conversation: Conversation, stream_id: int, message: bytes) -> None:
            if conversation.number == 1:
                conversation.h2.close_connection(0, b"maintenance", last_stream_id=0)
            else:
                conversation.send(stream_id, b"")
                conversation.end(stream_id)
                conversation.h2.close_connection(0, b"after this", last_stream_id=stream_id)

        with GrpcPeer({CAPABILITIES: answer}) as peer:
            with connect(peer) as link:
                with pytest.raises(errors.Unavailable, match="maintenance"):
                    link._greet()
                link._greet()
            assert peer.connections == 3

    def test_a_length_that_lies_ends_the_connection(self) -> None:
        def answer(conversation: Conversation, stream_id: int, message: bytes) -> None:
            conversation.begin(stream_id)
            conversation.h2.send_data(stream_id, b"\0\x7f\xff\xff\xff" + bytes(100))

        with GrpcPeer({CAPABILITIES: answer}) as peer, pytest.raises(errors.ProtocolError, match="2147483647 bytes"):
            connect(peer)


class TestExchange:
    def test_it_echoes(self) -> None:
        """That this server is good enough for the tests below."""
        with GrpcPeer() as peer, connect(peer) as link:
            assert link.echo(b"body") == b"body"

    @pytest.mark.parametrize(
        "garbage",
        [
            b"\xff" * 50,
            pb.ExchangeResponse(opened=pb.Opened(protocol_version=1)).SerializeToString(),
            pb.ExchangeResponse(attached=pb.Attached(attach_id=9)).SerializeToString(),
            pb.ExchangeResponse(echo=pb.EchoAnswer(header=pb.AnswerHeader(batch_id=77))).SerializeToString(),
            b"",
        ],
    )
    def test_what_the_contract_forbids_ends_the_stream_and_the_next_goes_on(self, garbage: bytes) -> None:
        streams: list[int] = []

        def answer(conversation: Conversation, stream_id: int, message: bytes) -> None:
            conversation.echo(stream_id, message)
            if stream_id not in streams:
                streams.append(stream_id)
                if len(streams) < 3:
                    conversation.send(stream_id, garbage)

        with GrpcPeer({EXCHANGE: answer}) as peer, connect(peer) as link:
            assert link.echo(b"body") == b"body"
            for number in range(5):
                assert link.echo(b"%d" % number) == b"%d" % number
            assert len(streams) == 3
            assert peer.connections == 1

    def test_a_stream_that_is_never_opened_is_tried_on_another_connection(self) -> None:
        def answer(conversation: Conversation, stream_id: int, message: bytes) -> None:
            if conversation.number == 1:
                conversation.echo(stream_id, message)

        with GrpcPeer({EXCHANGE: answer}) as peer, connect(peer) as link:
            link._link.core.heartbeat_interval = 0.1
            assert link.echo(b"body") == b"body"
            assert peer.connections == 2

    def test_a_stream_that_falls_silent_is_tried_on_another_connection(self) -> None:
        def answer(conversation: Conversation, stream_id: int, message: bytes) -> None:
            request = pb.ExchangeRequest.FromString(message)
            if conversation.number == 1 or request.HasField("open"):
                conversation.echo(stream_id, message)

        with GrpcPeer({EXCHANGE: answer}) as peer, connect(peer) as link:
            assert link.echo(b"body") == b"body"
            assert peer.connections == 2
            assert link.counters.reconnects == 1
            assert link.counters.replays == 1

    def test_a_server_that_does_not_know_the_caller_fails_what_is_in_flight(self) -> None:
        def answer(conversation: Conversation, stream_id: int, message: bytes) -> None:
            conversation.end(stream_id, "16", grpc_message="who are you")

        with GrpcPeer({EXCHANGE: answer}) as peer, connect(peer) as link, pytest.raises(errors.Unauthenticated):
            link.echo(b"body")

    def test_a_stream_that_ends_well_is_opened_again(self) -> None:
        def answer(conversation: Conversation, stream_id: int, message: bytes) -> None:
            conversation.echo(stream_id, message)
            if b"last" in message:
                conversation.end(stream_id)

        with GrpcPeer({EXCHANGE: answer}) as peer, connect(peer) as link:
            for body in (b"one", b"last", b"two", b"last", b"three"):
                assert link.echo(body) == body
            assert peer.connections == 1
            assert link.counters.reconnects == 2

    def test_a_server_that_says_goodbye_is_left_once_it_has_answered(self) -> None:
        """GOAWAY: what is in flight is answered, what comes then goes over the next connection."""
        held: list[bytes] = []

        def answer(conversation: Conversation, stream_id: int, message: bytes) -> None:
            if b"first" in message:
                held.append(message)
                # h2 takes its own goodbye for the end; a server goes on with the streams that it has.
                conversation.flush()
                conversation.socket.sendall(
                    b"\0\0\x0a\x07\0\0\0\0\0" + stream_id.to_bytes(4, "big") + b"\0\0\0\0" + b"hi"
                )
                return
            conversation.echo(stream_id, message)
            if held and b"second" in message:
                conversation.echo(stream_id, held.pop())

        with GrpcPeer({EXCHANGE: answer}) as peer, connect(peer) as link:
            link.echo(b"warm")
            told = [submit_echo(link, body) for body in (b"first", b"second")]
            for _ in range(200):
                drive(link, 0.1)
                if all(operation.done for operation in told):
                    break
            assert [bytes(operation.body) for operation in told] == [b"first", b"second"]
            assert link.echo(b"third") == b"third"
            assert peer.connections == 2
            assert link.counters.reconnects == 1

    def test_a_length_that_lies_is_left_for_another_connection(self) -> None:
        def answer(conversation: Conversation, stream_id: int, message: bytes) -> None:
            conversation.echo(stream_id, message)
            if conversation.number == 0:
                conversation.h2.send_data(stream_id, b"\0\xff\xff\xff\xff")

        with GrpcPeer({EXCHANGE: answer}) as peer, connect(peer) as link:
            assert link.echo(b"body") == b"body"
            assert link.echo(b"more") == b"more"
            assert peer.connections == 2


def submit_echo(link: tmem.client.link.Client, body: bytes) -> Any:
    from tmem.client._core.operations import EchoOperation

    operation = EchoOperation(body, 0)
    link._link.enqueue(operation, 10.0, lambda _: None)
    return operation
