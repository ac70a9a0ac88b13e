"""Every face over TLS, to the real daemon behind gRPC's own TLS."""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from tests.faces import Face
from tests.links import Told, drive_until
from tests.pages import PAGE, random_page, text_page
from tests.proxy import Proxy
from tests.tls import Authority, TlsDaemon

import tmem.client.link
from tmem.wire import errors

A = text_page(1)
BLOCK = b"".join(map(random_page, range(512)))
Names = Callable[[], str]


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory, require_tool: Callable[[str], str]) -> Authority:
    return Authority(tmp_path_factory.mktemp("tls"), require_tool)


@pytest.fixture(scope="module")
def daemon(authority: Authority) -> Iterator[TlsDaemon]:
    with TlsDaemon(authority.sign("127.0.0.1")) as started:
        yield started


def test_pages_go_out_and_come_back(face: Face, daemon: TlsDaemon, authority: Authority, pool_name: Names) -> None:
    with face.connect(daemon.target, tls_ca=authority.certificate) as client:
        pool = client.create_pool(pool_name())
        buffer = bytearray(len(BLOCK))
        for plain in (A, BLOCK, bytes(len(BLOCK))):
            pool.put(7, 0, plain)
            assert pool.get_into(7, 0, memoryview(buffer)[: len(plain)]).hit
            assert buffer[: len(plain)] == plain
        assert (client.counters.copies.put_pages, client.counters.copies.get_pages) == (0, 0)


def test_a_server_of_another_authority_is_not_believed(
    face: Face, daemon: TlsDaemon, tmp_path: Path, require_tool: Callable[[str], str]
) -> None:
    other = Authority(tmp_path, require_tool, "other")
    with pytest.raises(errors.Unavailable, match="can't be reached") as raised:
        face.connect(daemon.target, tls_ca=other.certificate)
    if face.name == "link":
        assert "certificate verify failed" in str(raised.value)


def test_a_certificate_for_another_name_is_not_believed_unless_it_is_asked_for(
    face: Face, authority: Authority, pool_name: Names
) -> None:
    with TlsDaemon(authority.sign("memory.example")) as elsewhere:
        with pytest.raises(errors.Unavailable):
            face.connect(elsewhere.target, tls_ca=authority.certificate)
        with face.connect(elsewhere.target, tls_ca=authority.certificate, tls_name="memory.example") as client:
            assert client.create_pool(pool_name()).put(7, 0, A).stored


def test_a_server_may_want_a_certificate(face: Face, authority: Authority, pool_name: Names) -> None:
    mine = authority.sign("agent")
    with TlsDaemon(authority.sign("127.0.0.1"), authority.certificate) as strict:
        with pytest.raises(errors.Unavailable):
            face.connect(strict.target, tls_ca=authority.certificate)
        options = {"tls_cert": mine.certificate, "tls_key": mine.key}
        with face.connect(strict.target, tls_ca=authority.certificate, **options) as client:
            assert client.create_pool(pool_name()).put(7, 0, A).stored


@pytest.mark.parametrize("option", ["tls_ca", "tls_cert"])
def test_files_that_can_not_be_read_are_named(
    face: Face, daemon: TlsDaemon, authority: Authority, tmp_path: Path, option: str
) -> None:
    mine = authority.sign("somebody")
    options = {"tls_ca": authority.certificate, "tls_cert": mine.certificate, "tls_key": mine.key}
    options[option] = str(tmp_path / "not-there.pem")
    with pytest.raises(errors.InvalidOption, match=r"not-there\.pem"):
        face.connect(daemon.target, **options)


def test_without_tls_a_server_that_wants_it_is_unavailable(face: Face, daemon: TlsDaemon) -> None:
    with pytest.raises(errors.Unavailable, match="can't be reached"):
        face.connect(daemon.target, connect_timeout=3.0)


class TestLink:
    def test_a_server_without_tls_is_unavailable(self, start_daemon: Any, authority: Authority) -> None:
        plain = start_daemon()
        with pytest.raises(errors.Unavailable, match="can't be reached"):
            tmem.client.link.connect(plain.target, tls_ca=authority.certificate, connect_timeout=3.0)

    def test_over_a_unix_socket(self, authority: Authority, pool_name: Names, tmp_path: Path) -> None:
        pair, listen = authority.sign("localhost"), f"unix:{tmp_path}/tls.sock"
        with TlsDaemon(pair, listen=listen), tmem.client.link.connect(listen, tls_ca=authority.certificate) as link:
            assert link.create_pool(pool_name()).put(7, 0, BLOCK).stored

    @pytest.mark.parametrize("cut_after", [1, 300, 2_000, 20_000, 300_000, 1_000_000])
    @pytest.mark.parametrize("downstream", [False, True], ids=["up", "down"])
    def test_a_connection_that_breaks_anywhere_is_made_again(
        self, daemon: TlsDaemon, authority: Authority, pool_name: Names, cut_after: int, downstream: bool
    ) -> None:
        options: dict[str, Any] = {"tls_ca": authority.certificate, "tls_name": "127.0.0.1"}
        with Proxy(daemon.target) as proxy, tmem.client.link.connect(proxy.target, **options) as link:
            pool = link.create_pool(pool_name())
            pool.put(7, 0, BLOCK)
            told = Told()
            buffer = bytearray(len(BLOCK))
            proxy.cut_after(cut_after, downstream=downstream)
            put, get = pool.submit_put(8, 0, BLOCK, told), pool.submit_get_into(7, 0, buffer, told)
            drive_until(link, lambda: len(told) == 2)
            proxy.restore()
            assert put.stored
            assert get.hit
            assert buffer == BLOCK
            assert pool.get_into(8, 0, buffer).hit
            assert buffer == BLOCK

    def test_what_came_in_one_record_is_not_left_lying(
        self, daemon: TlsDaemon, authority: Authority, pool_name: Names
    ) -> None:
        """Plain bytes that are decrypted already are announced by no descriptor."""
        with tmem.client.link.connect(daemon.target, tls_ca=authority.certificate) as link:
            pool = link.create_pool(pool_name(), chunk_pages=1)
            told = Told()
            for number in range(300):
                pool.submit_put(7, number, A, told)
            buffers = [bytearray(PAGE) for _ in range(300)]
            drive_until(link, lambda: len(told) == 300)
            for number, buffer in enumerate(buffers):
                pool.submit_get_into(7, number, buffer, told)
            drive_until(link, lambda: len(told) == 600)
            assert all(buffer == A for buffer in buffers)
