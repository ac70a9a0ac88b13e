"""Which gauges must be 0 when nothing is held: for statement 96, and for whoever looks at a server after its clients are gone."""

from collections.abc import Mapping

__all__ = ["leftovers"]

_HELD = (
    *("tmem_pages", "tmem_objects", "tmem_blocks", "tmem_payload_bytes", "tmem_index_bytes", "tmem_dead_bytes"),
    *("tmem_same_filled_pages", "tmem_raw_pages", "tmem_tenant_pages_max"),
    *("tmem_pools", "tmem_parked_pools", "tmem_held_bytes", "tmem_resident_bytes", "tmem_spilled_bytes"),
)
_CONNECTED = ("tmem_sessions", "tmem_streams")


def leftovers(samples: Mapping[str, float], *, sessions: bool = True) -> dict[str, float]:
    """The gauges of held pages, pools and bytes that are not 0; with `sessions` those of clients too."""
    names = {*_HELD, *(_CONNECTED if sessions else ())}
    return {sample: value for sample, value in samples.items() if sample.partition("{")[0] in names and value}
