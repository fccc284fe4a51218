"""Text that goes on: prompts or chats in, continuations out. Contract: the text-generation pipeline of transformers 5.

From text to tokens and back; how tokens are chosen is ``edgeport.generate``'s.
"""

from __future__ import annotations

import warnings
import weakref
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from edgeport.errors import InputError, UsageError
from edgeport.generate import (
    Decoder,
    GenerationConfig,
    TextStream,
    decoder_options,
    generate,
    open_decoder,
    search,
)
from edgeport.generate.model import Model
from edgeport.generate.prompt_cache import PromptCache
from edgeport.generate.result import Generated, log_softmax
from edgeport.generate.speculate import ReadAhead, check_vocabularies, guesser_for
from edgeport.generate.template import render
from edgeport.tasks.base import Pipeline, chunks
from edgeport.tasks.options import positive

__all__ = ["TextGeneration"]

_DEFAULTS = {"max_new_tokens": 256, "do_sample": True, "temperature": 0.7}
"""Where neither the caller nor the model says otherwise, as in transformers' pipeline."""

Chat = Sequence[Mapping[str, Any]]


@dataclass(frozen=True)
class _Prompt:
    """A text or a chat, and its tokens."""

    given: str | Chat
    tokens: list[int]
    continues: bool = False
    """Whether a chat's last message is gone on with."""


class TextGeneration(Pipeline):
    """A graph with a cache, see ``edgeport.generate.decoder``.

    Task options: ``vocab_size``, ``context_length``, ``generation`` (the model's defaults), ``chat_template``.
    """

    task = "text-generation"
    outputs = ("logits",)

    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, **options)
        self._decoder_options = decoder_options(self.bundle.manifest)
        self._context: int | None = self._decoder_options["context_length"]
        if ignored := GenerationConfig.ignored(self._options.get("generation") or {}):
            warnings.warn(
                f"the model's generation_config.json has {', '.join(ignored)}, which edgeport does not have: texts are "
                "written without, and may differ from transformers'.",
                stacklevel=3,  # whoever called edgeport.load
            )
        self._cache = PromptCache(self._open)
        self._assistants: weakref.WeakSet[TextGeneration] = weakref.WeakSet()
        """Those whose vocabulary was compared."""

    def __call__(
        self,
        inputs: Any,
        *,
        return_full_text: bool = True,
        return_tensors: bool = False,
        skip_special_tokens: bool = True,
        continue_final_message: bool | None = None,
        tools: Sequence[Any] | None = None,
        documents: Sequence[Any] | None = None,
        stop_sequence: str | None = None,
        cancel: Any = None,
        assistant: TextGeneration | None = None,
        batch_size: int | None = None,
        **options: Any,
    ) -> Any:
        """Continue texts or chats.

        Args:
            inputs: A string; a chat (a list of messages with ``role`` and ``content``); or a list or an iterator of
                either.
            return_full_text: Whether the prompt stands before the continuation.
            return_tensors: Token ids instead of text.
            skip_special_tokens: Whether to leave special tokens out of the text.
            continue_final_message: Go on with a chat's last message; where left out, if it is the assistant's.
            tools, documents: Handed to the chat template.
            stop_sequence: A text that ends the continuation.
            cancel: An object with ``is_set()``, a ``threading.Event`` for example: set it to stop.
            assistant: A smaller model with the same tokenizer: it guesses tokens, and this one, several at once, says
                which of them are right. See ``edgeport.generate.speculate``.
            batch_size: Most prompts that run at once; one after the other where left out.
            options: Those of ``edgeport.generate.GenerationConfig``: ``max_new_tokens``, ``do_sample``,
                ``temperature``, ``top_k``, ``num_beams``, ``seed``, …

        Returns:
            For each prompt a list of dictionaries, one for each of ``num_return_sequences``, with ``generated_text`` (a
            string, or the chat with the answer) or ``generated_token_ids``; with ``logprobs`` also those.

        Raises:
            InputError: an empty prompt where the model has nothing to begin with, or one longer than its context.
            UsageError: an unknown option, or a value that is not allowed.
        """
        if stop_sequence is not None:
            options["stop_strings"] = [stop_sequence]
        config = self._config(options)
        self._check_assistant(assistant)

        def run(prompts: list[Any]) -> list[Any]:
            ready = [self._prompt(p, continue_final_message, tools=tools, documents=documents) for p in prompts]
            rows = self._generate([p.tokens for p in ready], config, cancel, assistant)
            return [
                [self._record(p, row, return_full_text, return_tensors, skip_special_tokens) for row in own]
                for p, own in zip(ready, rows, strict=True)
            ]

        size = 1 if batch_size is None else positive("batch_size", batch_size)
        if _is_chat(inputs) or not isinstance(inputs, list | tuple | Iterator):
            return run([inputs])[0]
        if isinstance(inputs, Iterator):
            return (result for chunk in chunks(inputs, size) for result in run(chunk))
        return [result for chunk in chunks(iter(inputs), size) for result in run(chunk)]

    def stream(
        self,
        inputs: str | Chat,
        *,
        skip_special_tokens: bool = True,
        continue_final_message: bool | None = None,
        tools: Sequence[Any] | None = None,
        documents: Sequence[Any] | None = None,
        cancel: Any = None,
        assistant: TextGeneration | None = None,
        **options: Any,
    ) -> Iterator[str]:
        """Continue one text or chat, and yield the new text in pieces as it comes, never half a character.

        Leaving the loop early stops the model. Arguments and errors are those of a call; beams cannot be streamed.
        """
        config = self._config(options)
        if config.num_beams > 1 or config.num_return_sequences > 1:
            raise UsageError(
                "a stream has one continuation and no beams: leave num_beams and num_return_sequences out."
            )
        self._check_assistant(assistant)
        prompt = self._prompt(inputs, continue_final_message, tools=tools, documents=documents)
        return self._pieces(prompt, config, cancel, skip_special_tokens, assistant)

    def keep_prompts(self, count: int) -> None:
        """Keep what was read and written for so many recent prompts: 1 unless said otherwise, 0 for none.

        A prompt that begins as a kept one does is read from where they part: the next turn of a conversation, and, with
        a count of 2 or more, also other conversations with the same system prompt, in turns. Each takes the memory of a
        cache of its length: two vectors a token, a layer and a key-value head. Calls of several prompts at once, beams
        and several continuations keep nothing.

        Raises:
            UsageError: ``count`` is not an integer from 0.
        """
        self._cache.keep(positive("count", count) if count else 0)

    def _pieces(
        self, prompt: _Prompt, config: GenerationConfig, cancel: Any, skip: bool, assistant: TextGeneration | None
    ) -> Iterator[str]:
        tokenizer = self._text.tokenizer
        with self._reader([prompt.tokens], config, assistant) as model:
            stream = TextStream(tokenizer, skip_special_tokens=skip)
            steps = search(
                model, [prompt.tokens], config, tokenizer=tokenizer, cancel=cancel, max_positions=self._context
            )
            for step in steps:
                if step.fresh[0] and (piece := stream.put(int(step.tokens[0]))):
                    yield piece
            if piece := stream.end():
                yield piece

    def count(
        self, inputs: str | Chat, *, tools: Sequence[Any] | None = None, documents: Sequence[Any] | None = None
    ) -> int:
        """How many tokens a text or a chat has as a prompt; errors are those of a call."""
        return len(self._prompt(inputs, None, tools=tools, documents=documents).tokens)

    def logprobs(self, text: str, *, window: int | None = None) -> npt.NDArray[np.float32]:
        """The log-probability, in nats, of every token of a text but the first; perplexity is exp of minus their mean.

        Args:
            text: Any text, however long.
            window: The text is read in pieces of this many tokens, each predicting the next token from those before it
                in the piece; the context, or 512 where that is less, if left out.

        Returns:
            float32 (tokens - 1,).

        Raises:
            InputError: the text has fewer than two tokens.
        """
        tokens = self._text.prompt(text)
        if len(tokens) < 2:
            raise InputError(f"{text!r:.60} has {len(tokens)} tokens: log-probabilities need at least two.")
        found = []
        with self._model() as model:
            size = min(window or 512, model.context_length or window or 512)
            for start in range(0, len(tokens) - 1, size):
                piece = tokens[start : start + size + 1]
                logits = model.score([piece[:-1]])[0]
                found.append(log_softmax(logits)[np.arange(len(piece) - 1), piece[1:]])
        return np.concatenate(found)

    def warm_up(self, lengths: Sequence[int] = (8, 128)) -> None:
        with self._model() as model:
            for length in sorted(lengths, reverse=True):
                model.start([[0] * min(length, model.context_length or length)])

    def _config(self, options: Mapping[str, Any]) -> GenerationConfig:
        defaults = {**_DEFAULTS, **dict(self._options.get("generation") or {})}
        if options.get("max_length") is not None and "max_new_tokens" not in options:
            defaults["max_new_tokens"] = None
        return GenerationConfig.merged(defaults, options)

    def _prompt(self, given: Any, continues: bool | None, **variables: Any) -> _Prompt:
        if isinstance(given, str):
            return _Prompt(given, self._text.prompt(given))
        if not _is_chat(given):
            raise InputError(
                f"{self.task} takes a text or a list of messages, not {type(given).__name__}: {given!r:.60}."
            )
        if continues is None:
            continues = given[-1].get("role") == "assistant"
        template = self._options.get("chat_template")
        text = render(template, given, self._text.spec.special_tokens, continue_final=continues, **variables)
        return _Prompt(given, self._text.ids_of_text(text) if text else [], continues)

    def _generate(
        self, prompts: list[list[int]], config: GenerationConfig, cancel: Any, assistant: TextGeneration | None
    ) -> list[list[Generated]]:
        """The continuations of each prompt."""
        guesses = assistant is not None or config.prompt_lookup_num_tokens is not None
        by_prompt: list[list[Generated]] = []
        for group in [[prompt] for prompt in prompts] if guesses else [prompts]:
            with self._reader(group, config, assistant) as model:
                found = generate(
                    model,
                    group,
                    config,
                    tokenizer=self._text.tokenizer,
                    cancel=cancel,
                    max_positions=self._context,
                )
            by_prompt += [[row for row in found if row.prompt == i] for i in range(len(group))]
        return by_prompt

    def _record(self, prompt: _Prompt, row: Generated, full: bool, tensors: bool, skip: bool) -> dict[str, Any]:
        extra = {"logprobs": row.logprobs} if row.logprobs else {}
        if tensors:
            return {"generated_token_ids": [*prompt.tokens, *row.tokens], **extra}
        text = self._text.decode(row.tokens, skip_special_tokens=skip)
        if not full:
            return {"generated_text": text, **extra}
        if isinstance(prompt.given, str):
            return {"generated_text": prompt.given + text, **extra}
        messages = [dict(message) for message in prompt.given]
        if prompt.continues:
            messages[-1]["content"] += text
        else:
            messages.append({"role": "assistant", "content": text})
        return {"generated_text": messages, **extra}

    @contextmanager
    def _reader(
        self, prompts: list[list[int]], config: GenerationConfig, assistant: TextGeneration | None
    ) -> Iterator[Model]:
        """The model that these prompts are searched with; it reads ahead where the options say so."""
        single = config.num_beams == config.num_return_sequences == 1
        drafting = nullcontext() if assistant is None else assistant._model(prompts)
        with self._model(prompts, single=single) as model, drafting as draft:
            guesser = guesser_for(config, draft, max_positions=draft.context_length if draft else None)
            yield ReadAhead(model, guesser, config, max_positions=self._context) if guesser else model

    def _check_assistant(self, assistant: TextGeneration | None) -> None:
        if assistant is None or assistant in self._assistants:
            return
        if not isinstance(assistant, TextGeneration):
            raise UsageError(
                f"the assistant is {assistant!r:.80}: use a {self.task} pipeline, as edgeport.load gives it."
            )
        check_vocabularies(self._text.tokenizer, assistant._text.tokenizer)
        self._assistants.add(assistant)

    @contextmanager
    def _model(self, prompts: Sequence[Sequence[int]] = (), *, single: bool = True) -> Iterator[Decoder]:
        """A decoder for these prompts; for one of them, with what is kept of its beginning."""
        self._check_open()
        if len(prompts) != 1:
            yield self._open()
            return
        with self._cache.lend(prompts[0], single=single) as decoder:
            yield decoder

    def close(self) -> None:
        self._cache.keep(0)
        super().close()

    def _open(self) -> Decoder:
        return open_decoder(self._runner, **self._decoder_options)


def _is_chat(value: Any) -> bool:
    return isinstance(value, list | tuple) and bool(value) and isinstance(value[0], Mapping)
