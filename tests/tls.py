"""Certificates, and a real daemon behind them."""

import subprocess
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from tests.processes import Program

__all__ = ["Authority", "TlsDaemon"]

# tmemd, but for the one line that would listen without TLS.
_SCRIPT = """
import sys
import grpc, grpc.aio
key, certificate, authority, listen = sys.argv[1:]
def read(path):
    with open(path, "rb") as file:
        return file.read()
pair = [(read(key), read(certificate))]
roots = read(authority) if authority else None
credentials = grpc.ssl_server_credentials(pair, roots, require_client_auth=bool(authority))
server = type(grpc.aio.server())
def listen_with_tls(self, address):
    return self.add_secure_port(address, credentials)
server.add_insecure_port = listen_with_tls
from tmem.server.entry import main
sys.argv = ["tmemd", "--listen", listen, "--metrics-listen", "127.0.0.1:0"]
sys.exit(main())
"""


@dataclass(frozen=True)
class Pair:
    """A key and its certificate: paths of PEM files."""

    key: str
    certificate: str


class Authority:
    """Signs certificates, by the command openssl.

    Attributes:
        certificate: its own, which others must trust: a path.
    """

    def __init__(self, directory: Path, require_tool: Callable[[str], str], name: str = "ca") -> None:
        self._directory = directory
        self._openssl = require_tool("openssl")
        self._name = name
        self._key = str(directory / f"{name}.key")
        self.certificate = str(directory / f"{name}.pem")
        self._run(
            "req", "-x509", *self._new_key(self._key), "-out", self.certificate, "-days", "2", "-subj", f"/CN={name}"
        )

    def sign(self, name: str, *, days: int = 2) -> Pair:
        """A certificate for a host or client of this name."""
        pair = Pair(
            str(self._directory / f"{self._name}-{name}.key"), str(self._directory / f"{self._name}-{name}.pem")
        )
        request = str(self._directory / "request")
        extensions = self._directory / "extensions"
        kind = "IP" if name[0].isdigit() else "DNS"
        extensions.write_text(f"subjectAltName={kind}:{name}\n", "utf-8")
        self._run("req", *self._new_key(pair.key), "-out", request, "-subj", f"/CN={name}")
        self._run(
            *("x509", "-req", "-in", request, "-CA", self.certificate, "-CAkey", self._key, "-CAcreateserial"),
            *("-out", pair.certificate, "-days", str(days), "-extfile", str(extensions)),
        )
        return pair

    @staticmethod
    def _new_key(path: str) -> tuple[str, ...]:
        return ("-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes", "-keyout", path)

    def _run(self, *arguments: str) -> None:
        done = subprocess.run([self._openssl, *arguments], capture_output=True, text=True, timeout=30, check=False)
        assert done.returncode == 0, done.stderr


class TlsDaemon(Program):
    """A daemon that speaks TLS only; it ends with the `with` block.

    Args:
        pair: its certificate.
        authority: path of the authority that must have signed its clients'; none: they need none.

    Attributes:
        target: where clients reach it.
    """

    def __init__(self, pair: Pair, authority: str = "", listen: str = "127.0.0.1:0") -> None:
        super().__init__(_SCRIPT, pair.key, pair.certificate, authority, listen)
        ready = self.line().split()
        assert ready[:2] == ["tmemd", "ready"], ready
        self.target = ready[2].removeprefix("target=")
