"""A network of its own for a daemon, in which packets can be lost in one direction.

Owns: `Network`, a namespace, a pair of virtual cables, and their end. Packets are lost by a wrong hardware address for the neighbour: they
leave, and nobody takes them, as behind a broken switch.
"""

import contextlib
import itertools
import os
import shutil
import subprocess
import sys
from typing import Self

_numbers = itertools.count(1)
_NOBODY = "02:00:00:00:00:99"


def why_not() -> str | None:
    """Why there can be no such network here; None if there can."""
    if os.geteuid():
        return "network namespaces need root"
    if shutil.which("ip") is None:
        return "ip is not installed"
    try:
        with Network():
            return None
    except subprocess.CalledProcessError as error:
        return f"no network namespace can be made: {error.stderr.strip()}"


def _ip(*words: str) -> str:
    done = subprocess.run(["ip", *words], capture_output=True, text=True, timeout=20, check=True)
    return done.stdout


class Network:
    """Use it in a `with` statement.

    Attributes:
        address: of the daemon's side. program: what runs a daemon there.
    """

    def __init__(self) -> None:
        number = next(_numbers)
        self.name = f"tmem-{os.getpid()}-{number}"
        self._ours, self._theirs = f"tmo{os.getpid() % 100000}{number}", f"tmt{os.getpid() % 100000}{number}"
        third, fourth = os.getpid() % 250, number % 60 * 4
        self._our_address, self.address = f"198.18.{third}.{fourth + 1}", f"198.18.{third}.{fourth + 2}"
        self.program = ("ip", "netns", "exec", self.name, sys.executable, "-m", "tmem.server")

    def __enter__(self) -> Self:
        try:
            _ip("netns", "add", self.name)
            _ip("link", "add", self._ours, "type", "veth", "peer", "name", self._theirs, "netns", self.name)
            _ip("addr", "add", f"{self._our_address}/30", "dev", self._ours)
            _ip("link", "set", self._ours, "up")
            _ip("-n", self.name, "addr", "add", f"{self.address}/30", "dev", self._theirs)
            _ip("-n", self.name, "link", "set", self._theirs, "up")
            _ip("-n", self.name, "link", "set", "lo", "up")
            self.heal()
        except BaseException:
            self.close()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Takes it away; whatever runs in it must have ended."""
        for words in (("link", "del", self._ours), ("netns", "del", self.name)):
            with contextlib.suppress(subprocess.CalledProcessError):
                _ip(*words)

    def lose(self, *, to_daemon: bool = False, to_client: bool = False) -> None:
        """From now on packets of these directions are lost."""
        self._point(to_daemon=to_daemon, to_client=to_client)

    def heal(self) -> None:
        """Everything arrives again."""
        self._point(to_daemon=False, to_client=False)

    def _point(self, *, to_daemon: bool, to_client: bool) -> None:
        theirs = _NOBODY if to_daemon else _hardware(_ip("-n", self.name, "-o", "link", "show", self._theirs))
        ours = _NOBODY if to_client else _hardware(_ip("-o", "link", "show", self._ours))
        _ip("neigh", "replace", self.address, "lladdr", theirs, "dev", self._ours, "nud", "permanent")
        neighbour = ("neigh", "replace", self._our_address, "lladdr", ours, "dev", self._theirs, "nud", "permanent")
        _ip("-n", self.name, *neighbour)


def _hardware(line: str) -> str:
    words = line.split()
    return words[words.index("link/ether") + 1]
