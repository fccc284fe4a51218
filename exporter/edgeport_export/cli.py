"""``edgeport export``: arguments to a recipe, a recipe to a bundle, a bundle to a table."""

from __future__ import annotations

import argparse
import dataclasses
import json
import os
import re
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import edgeport_export.scan_once  # noqa: F401 (before what imports transformers.models)

# isort: split
import transformers
from edgeport.bundle import Manifest, Variant
from edgeport.errors import UsageError
from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table

from edgeport_export.packed_source import packed_format
from edgeport_export.pipeline import ExportResult, export
from edgeport_export.progress import Progress
from edgeport_export.prune import pruning_notes, pruning_summary
from edgeport_export.pruning import SPARSIFIERS, Prune, Recover, Sparsity
from edgeport_export.quality.rows import parse_columns
from edgeport_export.recipe import (
    BLOCK_SIZES,
    CALIBRATORS,
    METHODS,
    OPSETS,
    PRECISIONS,
    QUANTIZERS,
    TABLE_BITS,
    Recipe,
)
from edgeport_export.source import settle_task
from edgeport_export.tasks import TASKS

__all__ = ["DESCRIPTION", "EPILOG", "add_arguments", "run", "silence_transformers"]

DESCRIPTION = "Export a Hugging Face model to a bundle: ONNX graphs, tokenizer, and the proof that they are the model."
EPILOG = """\
examples:
  edgeport export sentence-transformers/all-MiniLM-L6-v2 minilm
  edgeport export ./my-finetuned-bert intents --precision int8 --keep-fp32 'classifier'
  edgeport export ./my-finetuned-bert intents --precision int8 --quantize static --smooth --calibration train.csv
  edgeport export HuggingFaceTB/SmolLM2-135M-Instruct chat --precision int8,int4
  edgeport export ./gpt2 writer --precision int4 --method gptq --calibration texts.txt --evaluation others.txt
  edgeport export dslim/bert-base-NER ner --fixed-shape 1x128 --precision fp16
  edgeport export ./my-finetuned-bert small --prune latency=0.6 --calibration train.csv --columns label=intent
  edgeport export ./my-finetuned-bert small --prune vocabulary=corpus --calibration texts.txt
  edgeport export ./gpt2 sparse --precision fp32,int4 --sparsity 2:4 --calibration texts.txt
  edgeport export ./model out --dry-run
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command's arguments."""
    parser.description = DESCRIPTION
    parser.epilog = EPILOG
    parser.add_argument("model", metavar="MODEL", help="hub id (owner/name) or a local folder in transformers' format")
    parser.add_argument("out", metavar="OUT", type=Path, help="folder of the bundle; must not exist (see --force)")
    parser.add_argument("--task", help=f"default: inferred; one of {', '.join(TASKS)}, or a synonym")
    parser.add_argument(
        "--precision",
        metavar="LIST",
        help=f"variants to make, comma-separated, from {', '.join(PRECISIONS)} (default: fp32,int8; "
        "int8 for models that write text; the bits of a checkpoint that comes quantized)",
    )
    parser.add_argument("--opset", type=int, help=f"ONNX opset, {OPSETS[0]} to {OPSETS[-1]} (default: {Recipe.opset})")
    parser.add_argument(
        "--fixed-shape", metavar="BxS", help="one shape only, e.g. 1x128, for accelerators that compile for it"
    )
    parser.add_argument(
        "--keep-fp32", metavar="REGEX", help="weights whose names it finds stay in fp32 when the rest is quantized"
    )
    parser.add_argument(
        "--tables",
        type=int,
        choices=TABLE_BITS,
        help="bits of embedding tables, and of the output layer of models that write text, in int8 and int4; 4 is "
        "smaller, and writes faster (default: 8)",
    )
    _reading(parser.add_argument_group("int8 of models that read"))
    _weights(parser.add_argument_group("weights quantized alone (int4; int8 of models that write text)"))
    _pruning(parser.add_argument_group("a smaller model"))
    _samples(
        parser.add_argument_group(
            "samples of what the model will see (--quantize static, --smooth, --prune, --sparsity, --method gptq, awq)"
        )
    )
    parser.add_argument(
        "--evaluation",
        metavar="FILE",
        help="text that a model which writes text is scored on (default: one that comes along)",
    )
    parser.add_argument("--revision", help="branch, tag or commit of a hub model")
    parser.add_argument(
        "--trust-remote-code", action="store_true", default=None, help="run Python code that the model brings along"
    )
    parser.add_argument("--no-validate", action="store_true", help="skip the comparison with the original; is recorded")
    parser.add_argument("--recipe", metavar="FILE", help="TOML file of these choices; options given here win")
    parser.add_argument("--dry-run", action="store_true", help="print the recipe and what would be done, and stop")
    parser.add_argument(
        "--force", action="store_true", help="replace OUT if it is a bundle, once the new one is complete"
    )
    parser.add_argument("--json", action="store_true", help="print the result as JSON")


def _reading(reading: argparse._ArgumentGroup) -> None:
    reading.add_argument(
        "--quantize",
        choices=QUANTIZERS,
        help="where the ranges of activations come from. dynamic: from each input as it comes; static: from the rows "
        "of --calibration, once and for all (default: dynamic)",
    )
    reading.add_argument(
        "--calibrator",
        choices=CALIBRATORS,
        help="how static ranges are set. percentile: all but the rarest values; minmax: all; entropy: the least "
        "divergence; mse: the least squared error (default: percentile)",
    )
    reading.add_argument(
        "--smooth",
        metavar="ALPHA",
        type=float,
        nargs="?",
        const=0.5,
        help="SmoothQuant: large channels hand some of their size over to the weights, 0 none, 1 all (0.5 where no "
        "number is given); wants --calibration",
    )


def _weights(weights: argparse._ArgumentGroup) -> None:
    weights.add_argument(
        "--method",
        choices=METHODS,
        help="how they are rounded. rtn: to nearest, in seconds; hqq: half-quadratic, few large errors and many small "
        "ones; gptq: weights not yet rounded make up for those that are, the most exact; awq: large inputs get "
        "finer steps. gptq and awq want --calibration (default: rtn)",
    )
    weights.add_argument(
        "--block-size",
        type=int,
        choices=BLOCK_SIZES,
        help="weights that share a scale (default: 32 with 4 bits, 128 with 8)",
    )
    weights.add_argument("--asymmetric", action="store_true", help="give every block a zero point of its own")


def _pruning(pruning: argparse._ArgumentGroup) -> None:
    pruning.add_argument(
        "--prune",
        metavar="LIST",
        help="cut out of the model, for a graph that is dense and smaller: shares to remove, heads=0.3,ffn=0.4; shares "
        "to keep of the layers' arithmetic, flops=0.6, or of their time on this machine, latency=0.6, with heads and "
        "neurons searched; layers=2 (or names, joined by +); vocabulary=corpus for the words that the rows of "
        "--calibration use, or a share of them to keep, vocabulary=0.5, with the tokenizer cut to match; "
        "importance=fisher|wanda|magnitude|random; reconstruct=no to leave out the refit; samples=1024 (wants "
        "--calibration)",
    )
    pruning.add_argument(
        "--recover",
        metavar="TIME",
        help="let the pruned model learn from the original with the rows of --calibration: 10m, 90s or 500steps, then "
        "batch=32, rate=1e-4 (left out, both follow from the rows and the model), folder=DIR for checkpoints to go on "
        "from, logs=yes for TensorBoard",
    )

    pruning.add_argument(
        "--sparsity",
        metavar="AMOUNT",
        help="weights that become zero: a share, 0.5, or 2:4, two of every four staying. ONNX Runtime's processor "
        "kernels are no faster for it, and the file is as large until it is packed (zip, zstd): this is for downloads "
        "and for engines that skip zeros, such as TensorRT with 2:4. For speed here take --prune",
    )
    pruning.add_argument(
        "--sparsity-method",
        choices=SPARSIFIERS,
        help="how weights are chosen. sparsegpt: those that stay make up for the others; wanda: the least of weight "
        "times input; magnitude: the smallest; the first two want --calibration (default: sparsegpt)",
    )


def _samples(samples: argparse._ArgumentGroup) -> None:
    samples.add_argument(
        "--calibration",
        metavar="FILE",
        help="rows of the task as `edgeport evaluate` takes them, with labels or without, or plain text (.txt)",
    )
    samples.add_argument(
        "--columns", metavar="LIST", help="what FILE calls its columns, e.g. text=utterance,label=intent"
    )
    samples.add_argument("--seed", type=int, help="draws the samples (default: 0)")


def run(args: argparse.Namespace) -> int:
    """Run the command; returns the exit status."""
    recipe = make_recipe(args)
    silence_transformers()
    if args.dry_run:
        return _dry_run(args, recipe)
    result = export(args.model, args.out, recipe, force=args.force, progress=Progress(show=not args.json))
    if args.json:
        print(json.dumps(_as_json(result), indent=2))
    else:
        _print_summary(result)
    return 0


def make_recipe(args: argparse.Namespace) -> Recipe:
    """The recipe file's choices, with those of the command line on top.

    Raises:
        UsageError: a value is not allowed.
    """
    recipe = Recipe.from_toml(args.recipe) if args.recipe else Recipe()
    given: dict[str, Any] = {
        "task": args.task,
        "precisions": tuple(p.strip() for p in args.precision.split(",")) if args.precision else None,
        "opset": args.opset,
        "fixed_shape": _shape(args.fixed_shape),
        "keep_fp32": args.keep_fp32,
        "quantize": args.quantize,
        "calibrator": args.calibrator,
        "smooth": args.smooth,
        "tables": args.tables,
        "method": args.method,
        "block_size": args.block_size,
        "symmetric": False if args.asymmetric else None,
        "calibration": args.calibration,
        "recover": Recover.parse(args.recover) if args.recover else None,
        "prune": Prune.parse(args.prune) if args.prune else None,
        "sparsity": _sparsity(args),
        "columns": parse_columns(args.columns) or None,
        "seed": args.seed,
        "evaluation": args.evaluation,
        "revision": args.revision,
        "trust_remote_code": args.trust_remote_code,
        "validate": False if args.no_validate else None,
    }
    return dataclasses.replace(recipe, **{k: v for k, v in given.items() if v is not None})


def _sparsity(args: argparse.Namespace) -> Sparsity | None:
    if args.sparsity is None:
        if args.sparsity_method is not None:
            raise UsageError(f"--sparsity-method {args.sparsity_method} needs an amount: pass --sparsity 0.5 or 2:4.")
        return None
    return Sparsity(args.sparsity, args.sparsity_method or Sparsity.method)


def _shape(text: str | None) -> tuple[int, int] | None:
    if text is None:
        return None
    match = re.fullmatch(r"(\d+)[x×](\d+)", text)
    if match is None:
        raise UsageError(f"--fixed-shape {text!r} is not a batch and a length: write it like 1x128.")
    return int(match[1]), int(match[2])


def _dry_run(args: argparse.Namespace, recipe: Recipe) -> int:
    config, task, _ = settle_task(args.model, recipe)
    form = packed_format(config)
    bits = None if form is None else form.bits
    recipe = dataclasses.replace(recipe, task=task.name).settled(bits, generates=task.generates)
    architecture = (getattr(config, "architectures", None) or ["unknown"])[0]
    if args.json:
        print(json.dumps({"model": args.model, "architecture": architecture, "recipe": recipe.to_dict()}, indent=2))
        return 0
    shape = "batch × sequence" if recipe.fixed_shape is None else "{}x{}".format(*recipe.fixed_shape)
    print(f"Would load      {args.model} ({architecture}, {config.model_type}) for {task.name}")
    print(f"Would capture   inputs of {shape}, opset {recipe.opset}, attention fused by construction")
    print(f"Would make      {', '.join(f'model.{p}.onnx' for p in recipe.precisions)}")
    print("Would compare   each with the original in torch fp32" if recipe.validate else "Would not compare")
    print(f"Would write     {args.out}")
    print("\nrecipe:\n" + json.dumps(recipe.to_dict(), indent=2))
    return 0


def _as_json(result: ExportResult) -> dict[str, Any]:
    manifest = result.manifest
    return {
        "path": str(result.path),
        "task": manifest.task,
        "capture": manifest.capture,
        "variants": {name: dataclasses.asdict(variant) for name, variant in manifest.variants.items()},
        "refused": result.refused,
        "seconds": result.seconds,
    }


def _print_summary(result: ExportResult) -> None:
    manifest = result.manifest
    console = Console()
    console.print(_table(manifest))
    if text := manifest.validation.get("text"):
        original = next(v.measured["quality"]["original_perplexity"] for v in manifest.variants.values())
        console.print(
            "KL: mean divergence of the next token from the original's. KL, same top token and perplexity (the "
            f"original's: {original:.5g}) are of {text['tokens']:,} tokens of {text['name']}.",
            highlight=False,
        )
    if manifest.pruning:
        for line in (f"Pruned: {pruning_summary(manifest.pruning)}", *pruning_notes(manifest.pruning)):
            console.print(f"{line}.", highlight=False)
    for name, why in result.refused.items():
        console.print(f"[yellow]{name} was left out:[/] {why}", highlight=False)
    for name, variant in manifest.variants.items():
        for note in variant.notes:
            if "skipped" in note:
                console.print(f"{name}: {note}", highlight=False, soft_wrap=True)
    shape = manifest.recipe["fixed_shape"]
    if shape is not None:
        console.print(f"Runs inputs of {shape[0]}x{shape[1]} alone: shorter ones are padded, longer ones cut.")
    seconds = sum(result.seconds.values())
    console.print(f'Wrote {result.path} in {seconds:.0f} s. Try: edgeport run {result.path} "…"', highlight=False)


def _table(manifest: Manifest) -> Table:
    """A row a variant, in 80 columns: what it is, how near to the original, and milliseconds."""
    writes = "text" in manifest.validation
    table = Table(
        title=f"{manifest.source.id} · {manifest.task}", title_justify="left", box=SIMPLE_HEAD, padding=(0, 1, 0, 0)
    )
    nearness = ("cosine", "KL\nnats", "same\ntop", "perplexity") if writes else ("max diff", "cosine", "agree")
    timed = list(dict.fromkeys(k for v in manifest.variants.values() for k in _milliseconds(v)))
    times = [f"{name} ms".replace("prompt of ", "prompt\n").replace("token ", "token\n") for name in timed]
    for column in ("variant", "size\nMB", *nearness, *times):
        table.add_column(column, justify="left" if column == "variant" else "right")
    for name, variant in manifest.variants.items():
        near = _quality(variant) if writes else _parity(variant)
        milliseconds = _milliseconds(variant)
        times = [f"{milliseconds[key]:.1f}" if key in milliseconds else "–" for key in timed]
        table.add_row(name, f"{variant.size_bytes / 1e6:.1f}", *near, *times)
    return table


def _parity(variant: Variant) -> tuple[str, ...]:
    parity = variant.measured.get("parity")
    if parity is None:
        return "not checked", "–", "–"
    agreement = parity["agreement"]
    return f"{parity['max_abs']:.2g}", f"{parity['cosine']:.5f}", "–" if agreement is None else f"{agreement:.1%}"


def _quality(variant: Variant) -> tuple[str, ...]:
    quality = variant.measured["quality"]
    return (
        f"{variant.measured['parity']['cosine']:.5f}",
        f"{quality['divergence']:.4f}",
        f"{quality['agreement']:.1%}",
        f"{quality['perplexity']:.5g}",
    )


def _milliseconds(variant: Variant) -> Mapping[str, float]:
    return variant.measured.get("latency", {}).get("milliseconds", {})


def silence_transformers() -> None:
    """transformers' bars and notices would run through ours; what goes wrong is raised."""
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    transformers.logging.set_verbosity_error()
    transformers.logging.disable_progress_bar()
    if not sys.stderr.isatty():
        os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")
