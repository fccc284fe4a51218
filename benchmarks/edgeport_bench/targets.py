"""What can be given to ``edgeport bench``: a bundle, a Hugging Face model, or an ONNX file of anyone's.

Each becomes a ``Target``: the subjects that it consists of, the original behind them, and how to make their inputs.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from edgeport.bundle import Bundle
from edgeport.errors import UsageError

from edgeport_bench.graph_inputs import GraphInputs, read_graph_inputs
from edgeport_bench.inputs import TextInputs, bundle_inputs
from edgeport_bench.original import Original, read_original
from edgeport_bench.subjects import SubjectSpec

__all__ = ["WRITING", "Target", "open_target"]

WRITING = "text-generation"
"""The task whose models write, and do not only read."""


@dataclass(frozen=True)
class Target:
    """What is measured."""

    source: str
    task: str
    specs: tuple[SubjectSpec, ...]
    inputs: TextInputs | GraphInputs
    original: Original | None
    """None where nothing tells."""


def open_target(
    path: str | Path,
    *,
    original: str | None = None,
    variants: Sequence[str] = (),
    providers: Sequence[str] = (),
    threads: int,
    reads_texts: bool = False,
) -> Target:
    """What ``path`` is.

    Args:
        path: A bundle's folder, an ONNX file, or a Hugging Face model's folder or hub id.
        original: Folder or hub id of the model that it was made of, where it is not what the bundle names.
        variants: Of a bundle; all where empty.
        providers: Each is measured: short names, best first, with commas between; the CPU where empty.
        threads: Of every subject.
        reads_texts: Whether the subjects tokenize, too.

    Raises:
        BundleError: the bundle is damaged, or has no such variant.
        UsageError: ``path`` is nothing that can be measured, or an option does not fit it.
    """
    if str(path).endswith(".onnx"):
        _refuse(variants, "--variant", "an ONNX file")
        return _graph(Path(path), original, providers, threads)
    if (Path(path) / "edgeport.json").is_file():
        return _bundle(Path(path), original, variants, providers, threads, reads_texts)
    _refuse(variants, "--variant", "a Hugging Face model")
    _refuse(providers, "--provider", "a Hugging Face model")
    if Path(path).is_dir() and not (Path(path) / "config.json").is_file():
        raise UsageError(
            f"{str(path)!r} is no bundle and no Hugging Face model: it has no edgeport.json or config.json."
        )
    found, inputs = read_original(str(path))
    return Target(str(path), found.task, (), inputs, found)


def _bundle(
    path: Path,
    original: str | None,
    variants: Sequence[str],
    providers: Sequence[str],
    threads: int,
    reads_texts: bool,
) -> Target:
    bundle = Bundle.open(path)
    manifest = bundle.manifest
    names = tuple(variants) or tuple(manifest.variants)
    for name in names:
        bundle.variant(name)
    if len(set(names)) != len(names):
        raise UsageError(f"variants are {', '.join(names)}: name each once.")
    kind = "bundle-writer" if manifest.task == WRITING else "bundle-pipeline" if reads_texts else "bundle"
    shared = {"path": str(bundle.root), "threads": threads}
    return Target(
        manifest.source.id,
        manifest.task,
        tuple(spec for name in names for spec in _on_each(name, kind, {**shared, "variant": name}, providers)),
        bundle_inputs(bundle),
        Original(
            original or manifest.source.id,
            manifest.task,
            manifest.source.architecture,
            tuple(t.name for t in manifest.outputs if not t.name.startswith("present.")),
        ),
    )


def _graph(path: Path, original: str | None, providers: Sequence[str], threads: int) -> Target:
    if not path.is_file():
        raise UsageError(f"there is no file {str(path)!r}.")
    found = read_original(original) if original else None
    options = {
        "path": str(path.resolve()),
        "threads": threads,
        "outputs": list(found[0].outputs) if found else None,
    }
    return Target(
        path.name,
        found[0].task if found else "",
        tuple(_on_each(path.stem, "onnx", options, providers)),
        found[1] if found else read_graph_inputs(path),
        found[0] if found else None,
    )


def _on_each(name: str, kind: str, options: Mapping[str, Any], providers: Sequence[str]) -> Iterator[SubjectSpec]:
    """A subject for each of the providers; where there are several, one that refuses does not end the others."""
    several = len(providers) > 1
    for provider in providers or (None,):
        label = f"{name} on {provider}" if several else name
        yield SubjectSpec(label, kind, {**options, "providers": provider}, is_peer=several)


def _refuse(values: Sequence[str], option: str, what: str) -> None:
    if values:
        raise UsageError(f"{option} {values[0]} does not go with {what}: leave it out.")
