"""Command lines of the pager's processes."""

from tmem.agents.pager.launch import Descriptors, read_arguments


def test_descriptors_survive_a_command_line() -> None:
    made = Descriptors(3, 4, 5, 6, 7)
    assert read_arguments("agent", made.arguments()) == made
    assert made.numbers() == (3, 4, 5, 6, 7)
