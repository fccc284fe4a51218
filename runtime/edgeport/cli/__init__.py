"""The command ``edgeport``: dispatch (which command, which errors), and one file a command of the runtime's own."""

from edgeport.cli.dispatch import COMMANDS, Command, main

__all__ = ["COMMANDS", "Command", "main"]
