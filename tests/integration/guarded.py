"""A daemon with tenants."""

import hashlib
import signal
from collections.abc import Callable
from pathlib import Path

from tests.waiting import wait_until

from tmem.client.testing import CaptiveDaemon

Start = Callable[..., CaptiveDaemon]

ALICE, BOB, CAROL = "a-token-of-alice-0001", "a-token-of-bob-000001", "a-token-of-carol-0001"
FILE = f"""
[tenants.alice]
tokens = ["{ALICE}", "sha256:{hashlib.sha256(b"alices-second-token").hexdigest()}"]

[tenants.bob]
tokens = ["{BOB}"]
quota = "100KiB"
max_pools = 2

[tenants.carol]
tokens = ["{CAROL}"]
"""


class Guarded:
    """A daemon with a token file that the test may change."""

    def __init__(self, start_daemon: Start, file: Path) -> None:
        self.file = file
        file.write_text(FILE, "utf-8")
        self.daemon = start_daemon("--tokens", str(file))
        self.target = self.daemon.target

    def reload(self, text: str, event: str = "daemon.reloaded") -> None:
        """Changes the file, says so to the daemon, and waits until it has read it."""
        before = self.daemon.log().count(f'"{event}"')
        new = self.file.with_suffix(".new")
        new.write_text(text, "utf-8")
        new.rename(self.file)
        self.daemon.signal(signal.SIGHUP)
        wait_until(lambda: self.daemon.log().count(f'"{event}"') > before)
