"""Reading a server's metrics.

Owns: a scrape as a flat mapping from sample ("name{labels}") to value. The text format is simple enough to be read here;
what serves it is a library's business.
"""

import urllib.request
from http.client import HTTPException

from tmem.wire.errors import Unavailable

__all__ = ["moved", "scrape", "total"]


def scrape(url: str) -> dict[str, float]:
    """All samples that a server reports now.

    Raises:
        Unavailable: there is nothing at that address, or something that is no metrics.
    """
    try:
        with urllib.request.urlopen(url, timeout=10) as response:  # noqa: S310  the URL is the operator's
            text = response.read().decode()
        samples = {}
        for line in text.splitlines():
            if line and not line.startswith("#"):
                name, _, value = line.rpartition(" ")
                samples[name] = float(value)
    except HTTPException as error:
        # Its text may be whatever bytes came.
        raise Unavailable(f"no metrics at {url}: what answers there does not speak HTTP") from error
    except (OSError, ValueError) as error:
        raise Unavailable(f"no metrics at {url}: {getattr(error, 'reason', error)}") from error
    return samples


def moved(before: dict[str, float], after: dict[str, float]) -> dict[str, tuple[float, float]]:
    """The tmem samples that changed, without the buckets of histograms: (before, after)."""
    return {
        name: (before.get(name, 0.0), value)
        for name, value in after.items()
        if name.startswith("tmem_") and "_bucket{" not in name and value != before.get(name, 0.0)
    }


def total(samples: dict[str, float], name: str, **labels: str) -> float:
    """The sum of a metric's samples that have these labels."""
    wanted = [f'{key}="{value}"' for key, value in labels.items()]
    return sum(
        value
        for sample, value in samples.items()
        if sample.partition("{")[0] == name and all(label in sample for label in wanted)
    )
