"""TLS for channels of gRPC.

Owns: what the tls_ options of a client mean to gRPC. Imports gRPC: for the faces that have it anyway.
"""

from pathlib import Path

import grpc

from tmem.client._core.options import Options
from tmem.wire.errors import InvalidOption
from tmem.wire.limits import client_channel_options

__all__ = ["channel_credentials", "channel_options"]


def channel_credentials(options: Options) -> grpc.ChannelCredentials | None:
    """The credentials of a channel; None for one without TLS. The files are read anew each time.

    Raises:
        InvalidOption: a file that can't be read.
    """
    if options.tls_ca is None:
        return None
    try:
        authorities, key, certificate = (
            None if path is None else Path(path).read_bytes()
            for path in (options.tls_ca, options.tls_key, options.tls_cert)
        )
    except OSError as error:
        raise InvalidOption(f"{error.filename} can't be read: {error.strerror}") from None
    return grpc.ssl_channel_credentials(authorities, key, certificate)


def channel_options(options: Options) -> list[tuple[str, int | str]]:
    """The arguments of a channel."""
    if not options.tls_name:
        return client_channel_options()
    return [*client_channel_options(), ("grpc.ssl_target_name_override", options.tls_name)]
