"""`tmem ping`: is it there, and how far away."""

import statistics
import time

import click

from .options import Server, server_options
from .output import console, print_json

__all__ = ["ping"]


@click.command()
@click.option("--count", "-c", default=5, show_default=True, type=click.IntRange(1, 100_000), help="How many echoes.")
@server_options
def ping(server: Server, count: int) -> None:
    """Say whether the server answers, and how long an echo takes."""
    begun = time.perf_counter()
    with server.connect() as client:
        connected = time.perf_counter() - begun
        capabilities = client.capabilities
        client.echo()  # opens the stream
        unary = [_time(client.echo_page_sync) for _ in range(count)]
        stream = [_time(client.echo) for _ in range(count)]
    report = {
        "target": server.target,
        "server_version": capabilities.server_version,
        "store": capabilities.store,
        "tenant": capabilities.tenant,
        "connect_us": round(connected * 1e6),
        "unary_echo_us": round(statistics.median(unary) * 1e6),
        "stream_echo_us": round(statistics.median(stream) * 1e6),
    }
    if server.json:
        print_json(report)
        return
    console.print(
        f"{server.target}: tmemd {report['server_version']}, store {report['store']}, you are tenant "
        f"{report['tenant']}\nconnected in {report['connect_us']} us; an echo takes {report['unary_echo_us']} us as a "
        f"call, {report['stream_echo_us']} us on the stream (median of {count})",
        markup=False,
    )


def _time(function: object) -> float:
    begun = time.perf_counter()
    function()  # type: ignore[operator]
    return time.perf_counter() - begun
