"""The blocking face: plain calls that wait. Every object may be used by several threads at once, except a batch."""

from .batch import Batch
from .client import Client
from .client import open_client as connect
from .pool import Pool

__all__ = ["Batch", "Client", "Pool", "connect"]
