import pytest

from tmem.wire.sizes import format_size, parse_size


@pytest.mark.parametrize(
    ("text", "size"),
    [
        ("0", 0),
        ("4096", 4096),
        (4096, 4096),
        ("4KiB", 4096),
        ("4K", 4096),
        ("4kB", 4000),
        ("512MiB", 512 << 20),
        ("64M", 64 << 20),
        ("4GiB", 4 << 30),
        ("1.5G", 3 << 29),
        ("2 TiB", 2 << 40),
        ("1GB", 10**9),
        (" 7B ", 7),
        ("9007199254740993B", 2**53 + 1),
    ],
)
def test_sizes_as_people_write_them(text: str | int, size: int) -> None:
    assert parse_size(text) == size


@pytest.mark.parametrize("text", ["", "x", "4X", "-1", "4 GiBs", "GiB", "1e9", "4gib", "0x10", 1.5, None, [1]])
def test_anything_else_says_what_a_size_looks_like(text: object) -> None:
    with pytest.raises(ValueError, match="write a number and a unit"):
        parse_size(text)


@pytest.mark.parametrize("size", [0, 1, 1023, 1024, 4096, 1 << 20, 3 << 29, 4 << 30, 5 << 40, 12345])
def test_what_is_printed_is_read_back(size: int) -> None:
    assert parse_size(format_size(size)) == size


def test_exact_units_are_preferred() -> None:
    assert [format_size(size) for size in (4 << 30, 1536, 1000)] == ["4GiB", "1536B", "1000B"]
