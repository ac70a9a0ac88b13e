"""Header blocks and what gRPC says in them.

Owns: `HeaderCodec`, which packs requests and unpacks responses by HPACK (the library's work), and `Status`, how a call ended.

Must not know: frames, sockets, what is called.
"""

from typing import NamedTuple
from urllib.parse import unquote

from tmem.wire.errors import ProtocolError
from tmem.wire.metadata import REASON

try:
    import hpack
except ModuleNotFoundError as error:
    message = f"{error.name} is not installed: agents need an extra: pip install 'tmem[agents]'"
    raise ModuleNotFoundError(message, name=error.name) from None

__all__ = ["Fields", "HeaderCodec", "Status", "response_status", "trailer_status"]

Fields = list[tuple[str, str]]

_MAX_LIST_BYTES = 64 << 10
_MAX_TABLE_BYTES = 4096
_CONTENT_TYPE = "application/grpc"
_USER_AGENT = "tmem-link"
# Codes in the order of their numbers.
_CODES = (
    *("OK", "CANCELLED", "UNKNOWN", "INVALID_ARGUMENT", "DEADLINE_EXCEEDED", "NOT_FOUND", "ALREADY_EXISTS"),
    *("PERMISSION_DENIED", "RESOURCE_EXHAUSTED", "FAILED_PRECONDITION", "ABORTED", "OUT_OF_RANGE", "UNIMPLEMENTED"),
    *("INTERNAL", "UNAVAILABLE", "DATA_LOSS", "UNAUTHENTICATED"),
)
_MAX_CODE_DIGITS = 3
# What an answer by something that is no gRPC server means (a proxy, most often), as gRPC's specification has it.
_HTTP = {
    "400": "INTERNAL",
    "401": "UNAUTHENTICATED",
    "403": "PERMISSION_DENIED",
    "404": "UNIMPLEMENTED",
    **dict.fromkeys(("429", "502", "503", "504"), "UNAVAILABLE"),
}
# What an error code of RST_STREAM means, likewise.
_RESETS = {7: "UNAVAILABLE", 8: "CANCELLED", 11: "RESOURCE_EXHAUSTED", 12: "PERMISSION_DENIED"}


class Status(NamedTuple):
    """How a call ended.

    Attributes:
        code: the status's name.
        details: its message.
        reason: the contract's reason beside it, if there is one.
    """

    code: str
    details: str = ""
    reason: str | None = None

    @property
    def ok(self) -> bool:
        """Whether it ended well."""
        return self.code == "OK"

    @classmethod
    def of_reset(cls, code: int) -> "Status":
        """For a stream that was ended by an error code."""
        return cls(_RESETS.get(code, "INTERNAL"), f"the server reset the stream with error code {code}")


class HeaderCodec:
    """Both directions of one connection's header compression."""

    def __init__(self) -> None:
        self._encoder = hpack.Encoder()
        self._decoder = hpack.Decoder(max_header_list_size=_MAX_LIST_BYTES)

    def request(
        self,
        path: str,
        authority: str,
        metadata: tuple[tuple[str, str], ...],
        timeout: float | None,
        *,
        scheme: str = "http",
    ) -> bytes:
        """The header block that begins a call.

        Args:
            path: of the method.
            authority: the server as the client calls it.
            metadata: further fields. The token is among them: it is never put into the table of fields.
            timeout: seconds after which the server need not go on.
            scheme: "https" over TLS.
        """
        fields = [
            (":method", "POST"),
            (":scheme", scheme),
            (":path", path),
            (":authority", authority),
            ("te", "trailers"),
            ("content-type", _CONTENT_TYPE),
            ("user-agent", _USER_AGENT),
        ]
        if timeout is not None:
            fields.append(("grpc-timeout", _timeout(timeout)))
        block: bytes = self._encoder.encode([*fields, *(hpack.NeverIndexedHeaderTuple(*item) for item in metadata)])
        return block

    def limit_table(self, size: int) -> None:
        """The peer remembers so many bytes of fields."""
        self._encoder.header_table_size = min(size, _MAX_TABLE_BYTES)

    def decode(self, block: bytes) -> Fields:
        """The fields of a header block; raises ProtocolError."""
        try:
            return [(str(name), str(value)) for name, value in self._decoder.decode(block)]
        except (hpack.HPACKError, UnicodeError) as error:
            raise ProtocolError(f"a header block that can't be unpacked: {error}") from error


def _timeout(seconds: float) -> str:
    """A time-out as gRPC writes it: up to eight digits and a unit."""
    milliseconds = max(1, int(seconds * 1000))
    return f"{milliseconds}m" if milliseconds < 10**8 else f"{min(int(seconds), 10**8 - 1)}S"


def response_status(fields: Fields) -> Status | None:
    """What is wrong with the head of a response; None if it is gRPC's."""
    found = dict(fields)
    code = found.get(":status", "")
    if code != "200":
        return Status(_HTTP.get(code, "UNKNOWN"), f"the answer has HTTP status {code or 'none'}")
    content_type = found.get("content-type", "")
    if not content_type.startswith(_CONTENT_TYPE):
        return Status("UNKNOWN", f"the answer is of type {content_type or 'none'}, not {_CONTENT_TYPE}")
    return None


def trailer_status(fields: Fields) -> Status:
    """How a call ended, by its trailers (or by the headers of a response that has nothing else)."""
    found = dict(fields)
    code = found.get("grpc-status", "")
    if not code.isdecimal():
        wrong = response_status(fields) if ":status" in found else None
        return wrong or Status("UNKNOWN", "the server ended the call without a status")
    # Whatever the server says is an outcome: int() refuses thousands of digits.
    number = int(code) if len(code) <= _MAX_CODE_DIGITS else len(_CODES)
    name = _CODES[number] if number < len(_CODES) else "UNKNOWN"
    return Status(name, unquote(found.get("grpc-message", ""), errors="replace"), found.get(REASON))
