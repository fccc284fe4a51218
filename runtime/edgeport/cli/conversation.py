"""What was said so far, and the prompt that it makes: messages for a chat template, or one text that goes on.

Knows no terminal, no tokens and no model.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from edgeport.errors import InputError

__all__ = ["Conversation", "Prompt", "Turn"]

Prompt = str | list[dict[str, str]]
"""What a text-generation pipeline takes."""


@dataclass(frozen=True)
class Turn:
    """What the user said, and what the model wrote then."""

    said: str
    answer: str


class Conversation:
    """Turns, oldest first, and what the model is told before them."""

    def __init__(self, *, template: bool, system: str | None = None) -> None:
        """Begin without a turn.

        Args:
            template: Whether the model takes messages; without, all turns are one text.
            system: The first message's content; only with a template.
        """
        self.template = template
        self.system = system
        self.turns: list[Turn] = []

    def prompt(self, said: str) -> Prompt:
        """What the model is given when the user says ``said`` next."""
        return self._messages([*self.turns, Turn(said, "")])[:-1] if self.template else self._text(said)

    def as_line(self) -> dict[str, Any]:
        """All of it, as `edgeport run` takes it as a line on stdin."""
        return {"messages": self._messages(self.turns)} if self.template else {"text": self._text("")}

    def read_line(self, data: Any) -> None:
        """Take up a conversation that ``as_line`` gave, in place of what was said so far.

        Raises:
            InputError: it is none, or one for a model of the other kind; nothing is changed then.
        """
        key = "messages" if self.template else "text"
        given = data.get(key) if isinstance(data, dict) else None
        if not self.template and isinstance(given, str):
            self.turns = [Turn("", given)] if given else []
            return
        if not self.template or not isinstance(given, list):
            found = ", ".join(map(str, data)) if isinstance(data, dict) else type(data).__name__
            raise InputError(f"a conversation with this model has the key {key!r}, and this has {found}: give another.")
        said = [(m.get("role"), m.get("content")) if isinstance(m, dict) else (None, None) for m in given]
        first = 1 if said and said[0][0] == "system" else 0
        roles = [role for role, _ in said[first:]]
        contents = [content for _, content in said if isinstance(content, str)]
        if roles != ["user", "assistant"] * (len(roles) // 2) or len(contents) < len(said):
            raise InputError(
                f"a conversation is a system message or none, and then user and assistant in turns, and this has "
                f"{', '.join(str(role) for role, _ in said[:6])}: give another."
            )
        self.system = contents[0] if first else None
        self.turns = [Turn(*turn) for turn in zip(contents[first::2], contents[first + 1 :: 2], strict=True)]

    def _messages(self, turns: list[Turn]) -> list[dict[str, str]]:
        messages = [] if self.system is None else [{"role": "system", "content": self.system}]
        for turn in turns:
            messages += [{"role": "user", "content": turn.said}, {"role": "assistant", "content": turn.answer}]
        return messages

    def _text(self, said: str) -> str:
        text = ""
        for turn in [*self.turns, Turn(said, "")]:
            # A turn is a new line; one that says nothing lets the text go on where it is.
            line_ends = not text or text.endswith("\n") or not turn.said
            text += ("" if line_ends else "\n") + turn.said + turn.answer
        return text
