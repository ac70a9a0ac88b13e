"""What the words of a documented line name."""

import click

__all__ = ["commands_of"]


def commands_of(words: list[str]) -> list[str]:
    """Of the words of a line those that name a command, and one of its own commands."""
    from tmem.cli.main import main

    found: list[str] = []
    command: click.Command = main
    assert words[0] in main.commands
    for word in words:
        if not isinstance(command, click.Group) or word not in command.commands:
            break
        command = command.commands[word]
        found.append(word)
    return found
