"""One conversation with one model: answers as they come, in a context that ends somewhere.

Knows a text-generation pipeline and a terminal; what was said is the conversation's, and commands are another file's.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import nullcontext
from typing import Any

from edgeport.cli.conversation import Conversation, Prompt, Turn
from edgeport.cli.terminal import Meter, Terminal, interruptible
from edgeport.errors import InputError, UsageError
from edgeport.tasks.text_generation import TextGeneration

__all__ = ["ChatSession"]

_KEPT = 0.5
"""Share of a full context that is kept when the oldest turns are dropped: with less, more is forgotten; with more, a
conversation is read anew more often than every few turns."""


class ChatSession:
    """What goes on between a person, or a pipe, and a model."""

    def __init__(
        self,
        pipe: TextGeneration,
        conversation: Conversation,
        terminal: Terminal,
        options: dict[str, Any],
        *,
        drop_oldest: bool = False,
    ) -> None:
        """Put the parts together.

        Args:
            pipe: The model.
            conversation: What was said so far.
            terminal: Where answers go.
            options: Of the pipeline's ``stream``.
            drop_oldest: Whether to forget turns when the context is full.

        Raises:
            EdgeportError: as ``check``.
        """
        self.pipe = pipe
        self.conversation = conversation
        self.terminal = terminal
        self.options = options
        self.meters: list[Meter] = []
        """One an answer."""
        self._drop_oldest = drop_oldest
        context = pipe.bundle.manifest.task_options.get("context_length")
        self._context = context if isinstance(context, int) else None
        self.check(options)

    def check(self, options: Mapping[str, Any]) -> None:
        """Look at the options and the template without running the model.

        Raises:
            EdgeportError: a turn would be refused for them.
        """
        self._stream(self.conversation.prompt("Hello"), Meter(), options)

    def welcome(self) -> None:
        """Say who answers, and how."""
        if self.terminal.interactive:
            context = f", {self._context} tokens of context" if self._context else ""
            self.terminal.note(f"{self.pipe.bundle.manifest.source.id}, {self.pipe.report().variant}{context}.")
        if not self.conversation.template:
            self.terminal.note("The model has no chat template: it goes on with the text, turn by turn.")
        if self.terminal.interactive:
            self.terminal.note("/help lists the commands, Ctrl-C stops an answer, Ctrl-D leaves.")

    def answer(self, said: str) -> None:
        """Let the model answer, and remember both. A turn of spaces is none, but lets a text without a template go on.

        Raises:
            EdgeportError: the turn was refused, and is not remembered.
        """
        if not said.strip() and (self.conversation.template or not self.conversation.turns):
            return
        prompt, used = self._fitting(said)
        meter = Meter()
        pieces: list[str] = []
        stream = self._stream(prompt, meter, self.options)
        try:
            with interruptible(meter) if self.terminal.interactive else nullcontext():
                for piece in stream:
                    pieces.append(piece)
                    self.terminal.show(piece)
        except KeyboardInterrupt:
            if not self.terminal.interactive:
                raise
            meter.stopped = True
        finally:
            meter.end()
            if meter.stopped or not pieces or not pieces[-1].endswith("\n"):  # the terminal has written ^C
                self.terminal.end_line()
        self.meters.append(meter)
        if pieces or not meter.stopped:
            self.conversation.turns.append(Turn(said, "".join(pieces)))
        self.terminal.note(self._figures(meter, used))

    def _stream(self, prompt: Prompt, meter: Meter, options: Mapping[str, Any]) -> Iterator[str]:
        """The answer to come. What is wrong with prompt or options is raised here, before the model runs."""
        for name in ("inputs", "cancel", "continue_final_message"):
            if name in options:
                raise UsageError(f"{name!r} is the conversation's own and no option here: leave it out.")
        return self.pipe.stream(prompt, cancel=meter, **options)

    def _fitting(self, said: str) -> tuple[Prompt, int]:
        """The prompt and how many tokens it has, after the oldest turns were dropped where that is wished and needed.

        Raises:
            InputError: it leaves no room for an answer.
        """
        turns = list(self.conversation.turns)
        prompt = self.conversation.prompt(said)
        used = self._count(prompt)
        if self._context is None:
            return prompt, used
        # An answer wants more than the last free token; a quarter of the context is no less than most of them take.
        room = min(self._longest(used) or 1, self._context // 4) if self._drop_oldest else 1
        if used + room > self._context and self._drop_oldest:
            # What is kept moves to the front and is read anew, so room is made for the turns to come as well.
            most = min(self._context - room, int(self._context * _KEPT))
            while used > most and self.conversation.turns:
                del self.conversation.turns[0]
                prompt = self.conversation.prompt(said)
                used = self._count(prompt)
        if used >= self._context:
            alone = not self.conversation.turns
            self.conversation.turns = turns
            what, remedy = ("this turn", "shorten it") if alone else ("the conversation", self._remedy())
            raise InputError(
                f"{what} has {used} tokens and the model takes {self._context}, answer included: {remedy}."
            )
        if dropped := len(turns) - len(self.conversation.turns):
            self.terminal.note(f"The context is full: the oldest {dropped} of {len(turns)} turns are forgotten.")
        return prompt, used

    def _count(self, prompt: Prompt) -> int:
        variables = {name: self.options.get(name) for name in ("tools", "documents")}
        return int(self.pipe.count(prompt, **variables))

    def _longest(self, used: int) -> int | None:
        """Most tokens of an answer behind a prompt of ``used`` tokens; None where the options do not say."""
        given, whole = self.options.get("max_new_tokens"), self.options.get("max_length")
        return given if isinstance(given, int) else whole - used if isinstance(whole, int) else None

    def _remedy(self) -> str:
        here = "/undo or /reset it, or " if self.terminal.interactive else ""
        return f"{here}start with --drop-oldest, which forgets the oldest turns"

    def _figures(self, meter: Meter, used: int) -> str:
        """What is to be said about an answer."""
        tokens, whole = meter.tokens, used + meter.tokens
        parts = [f"{tokens} token{'s' * (tokens != 1)}"]
        if meter.rate is not None:
            parts.append(f"{meter.rate:.0f} tokens/s")
        if tokens:
            parts.append(f"first after {meter.first_ms:.0f} ms")
        if self._context is not None:
            parts.append(f"{whole} of {self._context} tokens of context used")
        if meter.stopped:
            parts.append("stopped")
        elif self._context is not None and whole >= self._context:
            parts.append("the context is full")
        elif tokens == self._longest(used):
            parts.append("cut by max_new_tokens" if self.options.get("max_new_tokens") else "cut by max_length")
        return f"[{', '.join(parts)}]"
