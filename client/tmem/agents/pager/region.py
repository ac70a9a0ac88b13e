"""What outlives an agent: one file in memory that the program, the holder and every agent of a region map.

Owns: its layout. In front a header: the settings, where the region is in the program, signs of life, figures, and for each target
the key of the pool there; then the state table; then for each target the presence map. Whoever is killed while it writes
leaves something that the next can read: a key counts once its mark is set, which is last.

    0          magic, length of the settings, whose end is the region's, base address, process id; then the settings (JSON, with the tokens: the file has no name)
    16 KiB     beat, agent's process id, starts of agents; then figures, and how long touches waited, 8 bytes each
    20 KiB     keys of pools, 512 bytes each
    64 KiB     the table, then the presence maps

Units: bytes.
"""

import mmap
import os
import struct
from dataclasses import dataclass

from tmem.wire.limits import BLOCK_BYTES, BLOCK_PAGES

from .latencies import BUCKETS
from .ledger import Figures
from .settings import MAX_TARGETS, Settings
from .table import Table, freed_offset, layout_bytes

__all__ = ["PoolKey", "Region"]

_MAGIC = b"TMEMPGR1"
_HEAD = struct.Struct("<8sIIQQ")
_BASE_AT = 16
_SETTINGS_AT = 64
_SIGNS_AT = 16 << 10
_FIGURES_AT = _SIGNS_AT + 64
_LATENCIES_AT = _SIGNS_AT + 2048
_KEYS_AT = 20 << 10
_KEY_BYTES = 512
_TABLE_AT = 64 << 10
_KEY = struct.Struct("<Q B 128s B 64s")  # epoch; name and token, each with its length
_U64 = struct.Struct("<Q")
_BEAT, _AGENT, _STARTS, _ACCEPTING = 0, 1, 2, 3


@dataclass(frozen=True, slots=True)
class PoolKey:
    """What opens a pool again.

    Attributes:
        name, token: of the pool. epoch: as of which its pages are known.
    """

    name: str
    token: bytes
    epoch: int


def _align(size: int) -> int:
    return -(-size // mmap.ALLOCATIONGRANULARITY) * mmap.ALLOCATIONGRANULARITY


def _presence_bytes(settings: Settings) -> int:
    # A head, and 4.5 bytes a page in whole blocks: who uses it checks that it is enough.
    blocks = -(-settings.size // BLOCK_BYTES)
    return _align(4096 + 5 * BLOCK_PAGES * blocks)


class Region:
    """The file, mapped.

    Args:
        descriptor: of the file; stays the caller's.

    Attributes:
        settings, base, pid: the region's, and where it is in which program.
        outlives_giver: only the program's end is the region's. Whoever gave it may end before: that nobody is at the other end of
            the control socket any more then says nothing.
        table: the state table.
    """

    def __init__(self, descriptor: int) -> None:
        self.descriptor = descriptor
        self._head = mmap.mmap(descriptor, _TABLE_AT)
        magic, length, outlives_giver, self.base, self.pid = _HEAD.unpack_from(self._head)
        assert magic == _MAGIC
        self.settings = Settings.decode(self._head[_SETTINGS_AT : _SETTINGS_AT + length])
        self.outlives_giver = bool(outlives_giver)
        self.table = Table(self.settings.units, descriptor, _TABLE_AT)
        self._words = memoryview(self._head)[_SIGNS_AT:_KEYS_AT].cast("Q")
        self._presences: list[mmap.mmap] = []

    def place(self, base: int, pid: int) -> None:
        """Notes where the region is, if that was not known when the file was made."""
        self.base, self.pid = base, pid
        _U64.pack_into(self._head, _BASE_AT, base)
        _U64.pack_into(self._head, _BASE_AT + 8, pid)

    @classmethod
    def create(cls, settings: Settings, base: int, pid: int, *, outlives_giver: bool = False) -> "Region":
        """A new file; its descriptor is the caller's to close.

        Raises:
            OSError: no memory for it.
        """
        encoded = settings.encode()
        assert len(encoded) <= _SIGNS_AT - _SETTINGS_AT
        presence = _presence_bytes(settings)
        descriptor = os.memfd_create("tmem-pager", os.MFD_CLOEXEC)
        try:
            os.ftruncate(descriptor, _TABLE_AT + layout_bytes(settings.units) + len(settings.targets) * presence)
            os.pwrite(descriptor, encoded, _SETTINGS_AT)
            os.pwrite(descriptor, _HEAD.pack(_MAGIC, len(encoded), outlives_giver, base, pid), 0)
            return cls(descriptor)
        except BaseException:
            os.close(descriptor)
            raise

    def close(self) -> None:
        """Lets go of the mappings."""
        self._words.release()
        self.table.close()
        for presence in self._presences:
            presence.close()
        self._head.close()

    def presence(self, target: int) -> mmap.mmap:
        """Room for the presence map of a target; zeros in a new file."""
        size = _presence_bytes(self.settings)
        offset = _TABLE_AT + layout_bytes(self.settings.units) + target * size
        mapped = mmap.mmap(self.descriptor, size, offset=offset)
        self._presences.append(mapped)
        return mapped

    # ---- Signs of life, figures ----

    @property
    def beat(self) -> int:
        """A number that the agent changes as long as it turns its loop."""
        return self._words[_BEAT]

    def note_beat(self) -> None:
        """The agent is alive."""
        self._words[_BEAT] += 1

    @property
    def agent(self) -> int:
        """The process id of the agent that serves; 0 before the first."""
        return self._words[_AGENT]

    @property
    def freed_at(self) -> int:
        """Where in the file the table's `freed` begins, for who maps it alone."""
        return _TABLE_AT + freed_offset(self.settings.units)

    @property
    def starts(self) -> int:
        """How many agents have begun to serve."""
        return self._words[_STARTS]

    def note_agent(self, pid: int) -> None:
        """An agent begins to serve."""
        self._words[_AGENT] = pid
        self._words[_STARTS] += 1

    @property
    def accepting(self) -> int:
        """How many targets take pages, as of a second ago."""
        return self._words[_ACCEPTING]

    def note_accepting(self, targets: int) -> None:
        """So many targets take pages."""
        self._words[_ACCEPTING] = targets

    def read_figures(self) -> dict[str, int]:
        """The figures, by name."""
        at = (_FIGURES_AT - _SIGNS_AT) // 8
        return {name: self._words[at + number] for number, name in enumerate(Figures.names())}

    def write_figures(self, figures: Figures) -> None:
        """The agent's figures."""
        at = (_FIGURES_AT - _SIGNS_AT) // 8
        for number, value in enumerate(figures.values()):
            self._words[at + number] = value

    @property
    def latencies(self) -> "memoryview[int]":
        """How long touches of remote pages waited, as `latencies` counts."""
        at = (_LATENCIES_AT - _SIGNS_AT) // 8
        return self._words[at : at + BUCKETS]

    # ---- Keys ----

    def key(self, target: int) -> PoolKey | None:
        """The key of the pool at a target; None before it was made."""
        at = self._key_at(target)
        if not self._head[at]:
            return None
        epoch, name_length, name, token_length, token = _KEY.unpack_from(self._head, at + 8)
        return PoolKey(name[:name_length].decode(), token[:token_length], epoch)

    def set_key(self, target: int, key: PoolKey) -> None:
        """Keeps the key of a pool."""
        at = self._key_at(target)
        name = key.name.encode()
        self._head[at] = 0
        _KEY.pack_into(self._head, at + 8, key.epoch, len(name), name, len(key.token), key.token)
        self._head[at] = 1

    @staticmethod
    def _key_at(target: int) -> int:
        assert 0 <= target < MAX_TARGETS
        return _KEYS_AT + target * _KEY_BYTES
