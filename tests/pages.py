"""Pages for tests: every kind that compression treats differently, always the same."""

import random

PAGE = 4096


def text_page(seed: int = 0) -> bytes:
    """Compresses about threefold."""
    chance = random.Random(seed)
    words = [chance.choice(("alpha", "beta", "gamma", "delta", "epsilon", "zeta", "eta", "theta")) for _ in range(900)]
    return " ".join(words).encode().ljust(PAGE, b".")[:PAGE]


def random_page(seed: int = 0) -> bytes:
    """Does not compress."""
    return random.Random(seed).randbytes(PAGE)


def same_filled_page(word: bytes = b"\x00" * 8) -> bytes:
    """One word, over and over."""
    return word * (PAGE // len(word))


def mixed_page(seed: int = 0) -> bytes:
    """Half random, half zero."""
    return random.Random(seed).randbytes(PAGE // 2) + bytes(PAGE // 2)


KINDS = (text_page, random_page, mixed_page)


def page(seed: int) -> bytes:
    """A page of some kind, told from others by its seed."""
    if seed % 5 == 4:
        return same_filled_page(seed.to_bytes(8, "little"))
    return KINDS[seed % 3](seed)


def extent(first_seed: int, pages: int) -> bytearray:
    """So many pages of all kinds."""
    return bytearray(b"".join(page(first_seed + number) for number in range(pages)))
