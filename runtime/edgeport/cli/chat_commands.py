"""What a person can tell a conversation instead of saying it: the lines that begin with a slash.

A command is a function of the session and of the text behind its name. One file for all: each is a few lines.
"""

from __future__ import annotations

import difflib
import json
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from statistics import median

from edgeport.cli.chat_session import ChatSession
from edgeport.cli.options import parse_option
from edgeport.errors import EdgeportError, UsageError

__all__ = ["COMMANDS", "ChatCommand", "list_commands", "take"]

_COMMAND = re.compile(r"/([a-z]+)(?:\s+(.*))?", re.DOTALL)
"""A path is no command."""


@dataclass(frozen=True)
class ChatCommand:
    """What is typed, what it is for, and what does it."""

    usage: str
    help: str
    run: Callable[[ChatSession, str], None] | None
    """None ends the conversation."""


def take(session: ChatSession, line: str) -> bool:
    """Do what a person typed, a turn or a command; False if it was the last.

    Raises:
        EdgeportError: it was refused, and everything is as it was before.
    """
    match = _COMMAND.fullmatch(line.strip())
    if match is None:
        session.answer(line[1:] if line.startswith("//") else line)
        return True
    name = {"quit": "exit"}.get(match[1], match[1])
    if name not in COMMANDS:
        near = difflib.get_close_matches(name, COMMANDS, n=1)
        hint = f"did you mean /{near[0]}?" if near else "/help lists them, and // begins a text with a slash."
        raise UsageError(f"there is no command /{name}: {hint}")
    run = COMMANDS[name].run
    if run is None:
        return False
    run(session, (match[2] or "").strip())
    return True


def list_commands() -> list[str]:
    """A line for each, and for what is no command."""
    rows = [*((c.usage, c.help) for c in COMMANDS.values()), ('""" ... """', "a turn of several lines")]
    return [f"{usage:<18} {what}" for usage, what in rows]


def _help(session: ChatSession, text: str) -> None:
    for line in list_commands():
        session.terminal.note(line)


def _reset(session: ChatSession, text: str) -> None:
    session.conversation.turns.clear()
    session.terminal.note("All turns are forgotten.")


def _undo(session: ChatSession, text: str) -> None:
    if not session.conversation.turns:
        raise UsageError("there is no turn to undo: nothing is remembered.")
    session.terminal.note(f"Forgotten: {_start(session.conversation.turns.pop().said)}")


def _system(session: ChatSession, text: str) -> None:
    conversation = session.conversation
    if not conversation.template:
        raise UsageError("the model has no chat template, so it takes no system message: say it in the text.")
    before, conversation.system = conversation.system, text or None
    try:
        session.check(session.options)
    except EdgeportError:
        conversation.system = before
        raise
    session.terminal.note(f"System message: {_start(text)}" if text else "There is no system message now.")


def _set(session: ChatSession, text: str) -> None:
    if text:
        name, equals, value = (part.strip() for part in text.partition("="))
        name = name.replace("-", "_")
        if not equals or not name.isidentifier():
            raise UsageError(f"{text!r} is not NAME=VALUE: write it like /set temperature=0.5.")
        options = {key: given for key, given in session.options.items() if key != name}
        if value:
            options[name] = parse_option(value)
        session.check(options)
        session.options = options
    given = ", ".join(f"{key}={json.dumps(value, ensure_ascii=False)}" for key, value in session.options.items())
    session.terminal.note(given or "All options are the model's own.")


def _stats(session: ChatSession, text: str) -> None:
    report = session.pipe.report()
    meters = [meter for meter in session.meters if meter.tokens]
    rates = [meter.rate for meter in meters if meter.rate is not None]
    turns, tokens = len(session.conversation.turns), sum(meter.tokens for meter in meters)
    lines = [f"turns        {turns} remembered; {tokens} tokens in {len(session.meters)} answers"]
    if rates:
        first = median(meter.first_ms for meter in meters)
        lines.append(f"speed        {median(rates):.0f} tokens/s, the first after {first:.0f} ms, in the median answer")
    for line in [*lines, *str(report).splitlines()]:
        session.terminal.note(line)


def _save(session: ChatSession, text: str) -> None:
    if not text:
        raise UsageError("/save needs the name of a file: write it like /save talk.jsonl.")
    path = Path(text).expanduser()
    try:
        with path.open("x", encoding="utf-8") as file:
            file.write(json.dumps(session.conversation.as_line(), ensure_ascii=False) + "\n")
    except FileExistsError as e:
        raise UsageError(f"{str(path)!r} is there already: choose another name.") from e
    except OSError as e:
        raise UsageError(f"{str(path)!r} cannot be written ({e.strerror}): choose another name.") from e
    session.terminal.note(f"Saved in {path}, as a line that `edgeport run` takes.")


def _load(session: ChatSession, text: str) -> None:
    if not text:
        raise UsageError("/load needs the name of a file: write it like /load talk.jsonl.")
    path = Path(text).expanduser()
    try:
        data = json.loads(path.read_text(encoding="utf-8"))
    except OSError as e:
        raise UsageError(f"{str(path)!r} cannot be read ({e.strerror}): give a file that /save wrote.") from e
    except (ValueError, RecursionError) as e:
        raise UsageError(f"{str(path)!r} is not one line of JSON ({e}): give a file that /save wrote.") from e
    conversation = session.conversation
    before = conversation.system, conversation.turns
    try:
        conversation.read_line(data)
        session.check(session.options)
    except EdgeportError:
        conversation.system, conversation.turns = before
        raise
    count = len(conversation.turns)
    session.terminal.note(f"Loaded {count} turn{'s' * (count != 1)} from {path}, in place of what was said.")


def _start(text: str) -> str:
    """Enough of a text to know it by."""
    line = " ".join(text.split())
    return line if len(line) <= 60 else line[:59] + "…"


COMMANDS: Mapping[str, ChatCommand] = {
    "help": ChatCommand("/help", "list the commands", _help),
    "reset": ChatCommand("/reset", "forget all turns", _reset),
    "undo": ChatCommand("/undo", "forget the last turn", _undo),
    "system": ChatCommand("/system TEXT", "tell the model what holds for all turns; without TEXT, no more", _system),
    "set": ChatCommand("/set NAME=VALUE", "change an option; NAME= gives the default, and /set alone shows them", _set),
    "stats": ChatCommand("/stats", "speed, variant and memory", _stats),
    "save": ChatCommand("/save FILE", "write the conversation to a new file", _save),
    "load": ChatCommand("/load FILE", "go on with a conversation that was saved", _load),
    "exit": ChatCommand("/exit", "leave, as Ctrl-D does", None),
}
