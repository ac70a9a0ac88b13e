"""Makes the blocking face of the client from the asyncio one: batch.py, carrier.py, client.py, pool.py and shards.py of tmem/client/sync.

The two differ in how they wait (stream.py, written twice) and in nothing else, so that knowing one face is knowing both.
Run by `make gen`; with --check it only says whether the files are current, and a test asks that.
"""

import re
import subprocess
import sys
from pathlib import Path

PACKAGE = Path(__file__).parent / "tmem" / "client"
FILES = ("batch.py", "carrier.py", "client.py", "pool.py", "shards.py")
NOTE = "# Made from ../aio/{name} by client/generate_sync.py; change it there.\n"

REPLACEMENTS = (
    (r"\basync def\b", "def"),
    (r"\basync for\b", "for"),
    (r"\basync with\b", "with"),
    (r"\bawait ", ""),
    (r"__aenter__", "__enter__"),
    (r"__aexit__", "__exit__"),
    (r"\ban `with", "a `with"),
    (r"\bAsyncIterator\b", "Iterator"),
    (r"\bfor asyncio\b", "blocking"),
    (r"\bfrom one task\b", "from one thread"),
)


def convert(name: str) -> str:
    """The blocking form of a file, formatted."""
    text = (PACKAGE / "aio" / name).read_text("utf-8")
    for pattern, replacement in REPLACEMENTS:
        text = re.sub(pattern, replacement, text)
    text = NOTE.format(name=name) + text
    for command in (("check", "--select", "I", "--fix-only"), ("format",)):
        words = [sys.executable, "-m", "ruff", *command, "--stdin-filename", str(PACKAGE / "sync" / name), "-"]
        text = subprocess.run(words, input=text, capture_output=True, text=True, check=True).stdout  # noqa: S603
    return text


def main() -> int:
    """Writes the files, or checks them."""
    stale = []
    for name in FILES:
        path = PACKAGE / "sync" / name
        text = convert(name)
        if not path.exists() or path.read_text("utf-8") != text:
            stale.append(name)
            if "--check" not in sys.argv:
                path.write_text(text, "utf-8")
    if stale and "--check" in sys.argv:
        print(f"not current: {', '.join(stale)}; run make gen")  # noqa: T201
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
