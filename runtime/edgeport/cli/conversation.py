"""What was said so far, and the prompt that it makes: messages for a chat template, or one text that goes on.

Knows no terminal, no tokens and no model.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

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
