"""``edgeport chat``: a conversation in the terminal. Knows arguments, and the order of a conversation's beginning."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from edgeport.cli.chat_commands import list_commands, take
from edgeport.cli.chat_session import ChatSession
from edgeport.cli.conversation import Conversation
from edgeport.cli.options import add_generation_arguments, add_option_argument, add_session_arguments, given_options
from edgeport.cli.streams import plain_warnings
from edgeport.cli.terminal import Terminal
from edgeport.errors import EdgeportError, UsageError
from edgeport.load import load
from edgeport.tasks.text_generation import TextGeneration

__all__ = ["add_arguments", "run"]

_DESCRIPTION = """\
Talk with a model. Answers come as they are written; Ctrl-C stops one, Ctrl-D leaves. Where stdin is no terminal, each
line is a turn, and stdout has the answers alone. A model without a chat template goes on with the text, turn by turn.
"""
_EPILOG = """\
in a conversation:
{commands}

examples:
  edgeport chat assistant --system 'Answer in one sentence.'
  edgeport chat assistant --greedy --max-new-tokens 80 < questions.txt > answers.txt
  edgeport chat writer --temperature 0.9 --top-p 0.95 --seed 7
"""
_NEW_TOKENS = {True: 512, False: 64}
"""With a template and without: a model that only goes on with texts rarely ends by itself."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command's arguments."""
    parser.description = _DESCRIPTION
    parser.epilog = _EPILOG.format(commands="\n".join(f"  {line}" for line in list_commands()))
    parser.add_argument("bundle", metavar="BUNDLE", type=Path, help="the bundle's folder")
    where = parser.add_argument_group("how to run it")
    add_session_arguments(where)
    what = parser.add_argument_group("the conversation")
    what.add_argument("--system", metavar="TEXT", help="what the model is told before the conversation")
    what.add_argument("--drop-oldest", action="store_true", help="forget the oldest turns when the context is full")
    how = parser.add_argument_group("how it answers")
    how.add_argument("--top-k", type=int, metavar="K", help="choose among the K likeliest tokens")
    add_generation_arguments(how, new_tokens=f"{_NEW_TOKENS[True]}; {_NEW_TOKENS[False]} without a chat template")
    add_option_argument(how)


def run(args: argparse.Namespace) -> int:
    """Run the command; returns the exit status."""
    options = given_options(args, ("top_k",))
    with (
        plain_warnings(),
        load(args.bundle, variant=args.variant, providers=args.provider, threads=args.threads) as pipe,
    ):
        if not isinstance(pipe, TextGeneration):
            raise UsageError(f"chat is for text-generation, and this bundle is for {pipe.task}: use `edgeport run`.")
        template = pipe.bundle.manifest.task_options.get("chat_template") is not None
        if args.system is not None and not template:
            raise UsageError("the model has no chat template, so nothing can be said to it by --system: leave it out.")
        if not {"max_new_tokens", "max_length"} & options.keys():
            options["max_new_tokens"] = _NEW_TOKENS[template]
        conversation = Conversation(template=template, system=args.system)
        terminal = Terminal()
        session = ChatSession(pipe, conversation, terminal, options, drop_oldest=args.drop_oldest)
        session.welcome()
        return _talk(session)


def _talk(session: ChatSession) -> int:
    """Turn by turn. One that fails costs itself alone, and, where nobody sits there to see it, the exit status."""
    status = 0
    interactive = session.terminal.interactive
    for said in session.terminal.turns():
        try:
            if not interactive:
                session.answer(said)
            elif not take(session, said):
                break
        except EdgeportError as e:
            print(f"edgeport: error: {e}", file=sys.stderr, flush=True)
            status = 0 if interactive else e.exit_status
    return status
