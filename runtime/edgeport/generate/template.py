"""Chat messages to a prompt, by the template that came with the model: transformers' dialect of Jinja, in a sandbox.

A template is data from a stranger: it runs in Jinja's immutable sandbox, without access to anything but the messages.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from datetime import datetime
from functools import lru_cache
from typing import Any

from edgeport.errors import BundleError, InputError, MissingExtraError, UsageError

__all__ = ["check_messages", "render"]

Message = Mapping[str, Any]


def check_messages(messages: Sequence[Message]) -> None:
    """Raise InputError unless ``messages`` is a conversation: dictionaries with a role and a content."""
    if not messages:
        raise InputError("the conversation has no messages: give at least one with a role and a content.")
    for number, message in enumerate(messages, 1):
        if not isinstance(message, Mapping) or not isinstance(message.get("role"), str) or "content" not in message:
            raise InputError(f"message {number} is not a dictionary with role and content: {message!r:.80}.")


def render(
    template: str | None,
    messages: Sequence[Message],
    special_tokens: Mapping[str, str],
    *,
    continue_final: bool = False,
    **variables: Any,
) -> str:
    """The prompt for ``messages``.

    Args:
        template: The model's chat template; None where it has none.
        messages: The conversation.
        special_tokens: By role (``bos_token``, ...), as templates know them.
        continue_final: Leave the last message open, so that the model goes on with it.
        variables: What else the template takes, ``tools`` and ``documents`` for example.

    Raises:
        UsageError: the model has no template, or the last message cannot be continued.
        InputError: the template refuses the messages.
        BundleError: the template itself is wrong.
        MissingExtraError: jinja2 is not installed.
    """
    if template is None:
        raise UsageError("the model has no chat template, so it takes no messages: give the prompt as a string.")
    check_messages(messages)
    try:
        import jinja2
    except ImportError as e:
        raise MissingExtraError("a chat", "chat") from e
    try:
        compiled = _compiled(template)
    except jinja2.TemplateError as e:
        raise BundleError(f"the model's chat template is wrong ({e}): give the prompt as a string.") from e
    try:
        text: str = compiled(
            messages=list(messages),
            add_generation_prompt=not continue_final,
            **{"tools": None, "documents": None, **special_tokens, **variables},
        )
    except Exception as e:  # a template is a program: it may fail in any way
        raise InputError(f"the model's chat template refuses the messages ({str(e)[:200].rstrip('.')}).") from e
    return _cut_after(text, messages[-1]["content"]) if continue_final else text


def _cut_after(text: str, content: Any) -> str:
    """The prompt up to the end of the last message's content."""
    wanted = str(content).strip()
    place = text.rfind(wanted)
    if not wanted or place < 0:
        raise UsageError("the last message does not stand in the rendered chat, so it cannot be continued.")
    kept = text[: place + len(wanted)]
    # Some templates strip contents: what the caller ended with is what the model goes on with.
    return text[: place + len(str(content).lstrip())] if text[place:].startswith(str(content).lstrip()) else kept


@lru_cache(maxsize=8)
def _compiled(template: str) -> Callable[..., str]:
    import jinja2
    from jinja2 import nodes
    from jinja2.ext import Extension, loopcontrols
    from jinja2.parser import Parser
    from jinja2.sandbox import ImmutableSandboxedEnvironment

    class Generation(Extension):
        """``{% generation %}`` marks what the assistant said, for training; here it is only its contents."""

        tags = {"generation"}  # noqa: RUF012

        def parse(self, parser: Parser) -> list[nodes.Node]:
            next(parser.stream)
            return list(parser.parse_statements(("name:endgeneration",), drop_needle=True))

    def raise_exception(message: str) -> None:
        raise jinja2.TemplateError(message)

    environment = ImmutableSandboxedEnvironment(
        trim_blocks=True, lstrip_blocks=True, extensions=[Generation, loopcontrols]
    )
    environment.filters["tojson"] = _to_json
    environment.globals["raise_exception"] = raise_exception
    environment.globals["strftime_now"] = lambda form: datetime.now().strftime(form)
    return environment.from_string(template).render


def _to_json(value: Any, ensure_ascii: bool = False, indent: int | None = None, sort_keys: bool = False) -> str:
    """Jinja's own escapes for HTML."""
    return json.dumps(value, ensure_ascii=ensure_ascii, indent=indent, sort_keys=sort_keys)
