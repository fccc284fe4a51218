"""A pipeline's options on the command line: those of text-generation by flags of their own, all others as KEY=VALUE.

Knows names and how values are written; what a value may be is the pipeline's to say.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterable
from typing import Any

from edgeport.errors import UsageError
from edgeport.session.providers import PROVIDERS

__all__ = ["add_generation_arguments", "add_option_argument", "add_session_arguments", "given_options", "parse_option"]

_SAMPLING = ("temperature", "top_p")
"""Flags that say by themselves that the text is to be sampled."""


def add_session_arguments(group: argparse._ArgumentGroup) -> None:
    """Declare how a bundle is to be loaded."""
    group.add_argument("--variant", help="which variant, such as int8 (default: the fastest that fits this machine)")
    group.add_argument("--provider", help=f"comma-separated, from {', '.join(PROVIDERS)} (default: cpu)")
    group.add_argument("--threads", type=int, help="threads within an operation (default: the cores allowed here)")


def add_generation_arguments(group: argparse._ArgumentGroup, *, new_tokens: str = "256") -> None:
    """Declare how a text is to be written, but for ``--top-k``, which other tasks have too.

    Args:
        group: Where they are listed.
        new_tokens: What the help calls the default of ``--max-new-tokens``.
    """
    group.add_argument("--max-new-tokens", type=int, metavar="N", help=f"longest answer (default: {new_tokens})")
    group.add_argument("--temperature", type=float, metavar="T", help="lower is likelier, higher is more varied")
    group.add_argument("--top-p", type=float, metavar="P", help="choose among the likeliest that make up this share")
    group.add_argument("--seed", type=int, metavar="N", help="the same seed writes the same text")
    group.add_argument("--greedy", action="store_true", help="always take the likeliest token")


def add_option_argument(group: argparse._ArgumentGroup) -> None:
    """Declare ``--option``."""
    group.add_argument(
        "--option",
        metavar="KEY=VALUE",
        action="append",
        default=[],
        help="any other option of the task's pipeline; VALUE is JSON, or else a string",
    )


def given_options(args: argparse.Namespace, names: Iterable[str]) -> dict[str, Any]:
    """The options that were given, by their names in Python.

    Args:
        args: With ``names``, the generation flags and ``option``.
        names: Further flags that are options of a pipeline.

    Raises:
        UsageError: an ``--option`` that is none, or flags that exclude each other.
    """
    flags = (*names, "max_new_tokens", "temperature", "top_p", "seed")
    options = {name: getattr(args, name) for name in flags if getattr(args, name) is not None}
    sampling = [name for name in _SAMPLING if name in options]
    if args.greedy and sampling:
        flag = sampling[0].replace("_", "-")
        raise UsageError(f"--greedy takes the likeliest token, and --{flag} chooses by chance: leave one of them out.")
    if args.greedy:
        options["do_sample"] = False
    elif sampling:
        options["do_sample"] = True
    for pair in args.option:
        key, equals, value = pair.partition("=")
        if not equals or not key.isidentifier():
            raise UsageError(f"--option {pair!r} is not KEY=VALUE: write it like --option multi_label=true.")
        options[key] = parse_option(value)
    return options


def parse_option(value: str) -> Any:
    """JSON where it is JSON, else the text itself."""
    try:
        return json.loads(value)
    except (ValueError, RecursionError):
        return value
