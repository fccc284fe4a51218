"""The arguments of ``edgeport bench``, and the words around them."""

from __future__ import annotations

import argparse
from pathlib import Path

from edgeport_bench.options import BenchOptions
from edgeport_bench.peers.catalog import PEERS
from edgeport_bench.scenarios import SCENARIOS

__all__ = ["DESCRIPTION", "EPILOG", "add_arguments"]

Group = argparse._ArgumentGroup


def _peers() -> str:
    return "\n  ".join(f"{p.name:<22} {', '.join(p.label(f) for f in p.flavours)}" for p in PEERS.values())


DESCRIPTION = """\
Measure a bundle, a Hugging Face model or an ONNX file: latency by batch and length with its intervals, throughput,
processor time, load time, memory and size. Of a model that writes text: the time to its first token by the prompt's
length, and of each token after it.
"""
EPILOG = f"""\
Each subject runs in a process of its own, and all of them take turns, so that the machine's moods hit them alike.
A speed-up is the ratio of the medians, with the interval that holds it with 95 % confidence.

peers for --against, all flavours of one or a single one (openvino-int8):
  {_peers()}
torch and torch-compile run with what is installed here. Each other peer gets an environment of its own, installed once
into the user's cache from a pinned list, converts the model there, and is measured beside the bundle on the same
tokens with the same threads; its outputs are compared with the original's, and a peer that fails is listed with why.

examples:
  edgeport bench minilm
  edgeport bench minilm --against torch=sentence-transformers/all-MiniLM-L6-v2
  edgeport bench minilm --original models/minilm --against openvino-int8,optimum-int8,ctranslate2
  edgeport bench minilm --original models/minilm --texts corpus.txt --against sentence-transformers,fastembed
  edgeport bench minilm --provider cpu --provider openvino
  edgeport bench minilm --variant int8 --batch 1,32 --length 16,64,256 --threads 1
  edgeport bench minilm --json > bench.json
  edgeport bench small --texts texts.txt --against dense,pruned
  edgeport bench writer --length 16,512 --new-tokens 128 --against torch=models/writer,llama.cpp
  edgeport bench models/minilm --against torch-compile,openvino
  edgeport bench intents --eval test.csv --columns label=category --html report.html
  edgeport bench detector.onnx --batch 1,4 --axis height=320 --axis width=320
  edgeport bench voices.onnx --batch 1 --axis samples=512 --input rate=16000
  edgeport bench minilm --variant int8 --length 128 --profile
  edgeport bench writer --length 256 --profile --html profile.html
  edgeport bench minilm --scenario single-stream,offline,server --rate 50 --seconds 10
  edgeport bench suite.toml --out results
  edgeport bench machine --threads 4 > phone.toml     # what this processor can do, for compress --target elsewhere
  edgeport bench compare before.json after.json --fail-if 'p50>+5%' --fail-if 'peak_rss>+10%'
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command's arguments."""
    parser.description = DESCRIPTION
    parser.epilog = EPILOG
    parser.add_argument(
        "model",
        metavar="MODEL",
        help="a bundle that `edgeport export` wrote, a Hugging Face model (folder or hub id), or an ONNX file; or "
        "a suite.toml, or one of the words compare and machine",
    )
    parser.add_argument("others", metavar="FILE", nargs="*", type=Path, help="compare: two results")
    _add_subject(parser.add_argument_group("what is measured"))
    _add_work(parser.add_argument_group("on what"))
    _add_others(parser.add_argument_group("beside what"))
    _add_instead(parser.add_argument_group("instead of measuring"))
    _add_output(parser.add_argument_group("output"))


def _add_subject(group: Group) -> None:
    group.add_argument(
        "--variant", action="append", default=[], metavar="NAME", help="repeat for several (default: all of the bundle)"
    )
    group.add_argument(
        "--provider",
        action="append",
        default=[],
        metavar="LIST",
        help="execution providers, best first, such as cuda,cpu; repeat to measure several beside each other",
    )
    group.add_argument("--threads", type=int, metavar="N", help="default: the cores that this process may use")
    group.add_argument("--cold", action="store_true", help="also time fresh processes up to their first result")


def _add_work(group: Group) -> None:
    group.add_argument(
        "--batch", metavar="LIST", help="batch sizes, comma-separated (default: 1,8; text-generation: 1)"
    )
    group.add_argument(
        "--length",
        metavar="LIST",
        help="lengths in tokens, comma-separated (default: 16,128); text-generation: of prompts (default: 16,128,512, "
        "as far as the context goes)",
    )
    group.add_argument(
        "--new-tokens", type=int, metavar="N", help="text-generation: tokens written after each prompt (default: 64)"
    )
    group.add_argument(
        "--axis",
        action="append",
        default=[],
        metavar="NAME=SIZE",
        help="of an ONNX file: the size of an axis that neither --batch nor --length tells; repeatable",
    )
    group.add_argument(
        "--input",
        action="append",
        default=[],
        metavar="NAME=VALUE",
        help="of an ONNX file: the number that an input is filled with, such as a sampling rate; repeatable (default: "
        "random numbers)",
    )
    group.add_argument(
        "--texts",
        type=Path,
        metavar="FILE",
        help="sentence-embedding: read the lines of this file whole, as long as they are, tokenizing included",
    )
    group.add_argument(
        "--seconds",
        type=float,
        default=BenchOptions.seconds,
        metavar="S",
        help=f"time of measuring for each subject and shape (default: {BenchOptions.seconds:g})",
    )


def _add_others(group: Group) -> None:
    group.add_argument(
        "--against",
        metavar="PEERS",
        help="peers and folders of other bundles to measure beside it, comma-separated; see below",
    )
    group.add_argument(
        "--original",
        metavar="MODEL",
        help="folder or hub id of the model that the bundle was made of (default: the id that the bundle names)",
    )
    group.add_argument(
        "--eval", type=Path, metavar="FILE", help="labelled data to score a bundle on, as `edgeport evaluate` takes it"
    )
    group.add_argument("--columns", metavar="LIST", help="what that file calls the columns, e.g. label=category")


def _add_instead(group: Group) -> None:
    group.add_argument(
        "--profile",
        action="store_true",
        help="name the operators and layers where the time of the first shape goes (of a prompt, and of a token "
        "behind it), against what this machine can do; --html draws it",
    )
    group.add_argument(
        "--scenario",
        metavar="LIST",
        help=f"run MLPerf's scenarios with LoadGen: {', '.join(SCENARIOS)}",
    )
    group.add_argument("--rate", type=float, metavar="N", help="server: texts a second")
    group.add_argument(
        "--latency-limit", type=float, default=100.0, metavar="MS", help="server: for 99 of 100 texts (default: 100)"
    )
    group.add_argument(
        "--fail-if",
        action="append",
        default=[],
        metavar="CONDITION",
        help="compare: exit with status 1 where a change is worse than this, and more than noise; repeatable",
    )


def _add_output(group: Group) -> None:
    group.add_argument("--json", action="store_true", help="print the result as JSON, raw samples included")
    group.add_argument("--html", type=Path, metavar="FILE", help="also write a report that a browser opens offline")
    group.add_argument("--out", type=Path, metavar="FOLDER", help="of a suite: where to write each result and its page")
