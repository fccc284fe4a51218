"""``edgeport inspect``: what is in a bundle, for people and for programs. Opens no graph."""

from __future__ import annotations

import argparse
import json
import textwrap
from collections.abc import Iterator, Mapping, Sequence
from itertools import islice
from pathlib import Path
from typing import Any

from edgeport.bundle import Bundle, Manifest, TensorSpec, Variant
from edgeport.errors import BundleError
from edgeport.session import cpu_features
from edgeport.session.providers import PROVIDERS
from edgeport.session.select import choose_variant

__all__ = ["add_arguments", "describe", "run"]

_EPILOG = """\
examples:
  edgeport inspect intents
  edgeport inspect intents --json | jq '.variants | keys'
"""
_WIDTH = 100
_INDENT = 12


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command's arguments."""
    parser.description = "Show what is in a bundle: the model, its variants with what was measured, and its files."
    parser.epilog = _EPILOG
    parser.add_argument("bundle", metavar="BUNDLE", type=Path, help="the bundle's folder")
    parser.add_argument("--json", action="store_true", help="print the manifest as it is stored")


def run(args: argparse.Namespace) -> int:
    """Run the command; returns the exit status."""
    manifest = Bundle.open(args.bundle).manifest
    print(manifest.to_json().rstrip() if args.json else "\n".join(describe(manifest)))
    return 0


def describe(manifest: Manifest) -> Iterator[str]:
    """The manifest as lines of at most 100 columns."""
    source = manifest.source
    yield from _row("model", f"{source.id}{f' at {source.revision}' if source.revision else ''}")
    yield from _row("", f"{source.architecture} ({source.model_type})")
    yield from _row("task", manifest.task)
    if manifest.labels:
        yield from _row("labels", f"{len(manifest.labels)}: {_some(manifest.labels, 12)}")
    for option, value in manifest.task_options.items():
        yield from _row("", f"{option} = {json.dumps(value, ensure_ascii=False)[:200]}")
    if manifest.text is not None:
        yield from _row("text", _text(manifest))
    yield from _row("inputs", ", ".join(map(_tensor, manifest.inputs)))
    yield from _row("outputs", ", ".join(map(_tensor, manifest.outputs)))
    if manifest.capture:
        yield from _row("captured", ", ".join(f"{k} {_short(v)}" for k, v in manifest.capture.items() if v))
    yield ""
    yield from _table(
        ["variant", *_columns(manifest)], [_variant(n, v, manifest) for n, v in manifest.variants.items()]
    )
    yield ""
    yield from _quality(manifest)
    yield from _compression(manifest)
    yield from _row("runs here", _choice(manifest))
    for name, variant in manifest.variants.items():
        operators = [f"{count} {op}" for op, count in variant.operators.items()]
        yield from _row(name, "; ".join(variant.notes) or "as captured")
        yield from _row("", _some(operators, 8))
    yield ""
    width = max(map(len, manifest.files))
    for i, (name, record) in enumerate(manifest.files.items()):
        yield f"{'files' if i == 0 else '':<{_INDENT}}{name:<{width}}  {_size(record.bytes):>9}  {record.sha256[:12]}"
    yield from _row("made", f"{manifest.created or 'at an unknown time'}, schema {manifest.schema}")
    yield from _row("with", ", ".join(f"{name} {version}" for name, version in manifest.versions.items()))


def _row(key: str, text: str) -> Iterator[str]:
    lines = textwrap.wrap(text, _WIDTH - _INDENT, break_long_words=True, break_on_hyphens=False)
    for i, line in enumerate(lines):
        yield f"{key if i == 0 else '':<{_INDENT}}{line}"


def _text(manifest: Manifest) -> str:
    text = manifest.text
    assert text is not None
    fixed = f", always padded to {text.fixed_batch or 1}x{text.fixed_length}" if text.fixed_length else ""
    return f"up to {text.max_length} tokens, padded {text.padding_side} with {text.pad_token}{fixed}"


def _tensor(spec: TensorSpec) -> str:
    return f"{spec.name} {spec.dtype}[{', '.join(map(str, spec.shape))}]"


def _choice(manifest: Manifest) -> str:
    import onnxruntime

    try:
        choice = choose_variant(manifest.variants, PROVIDERS["cpu"], cpu_features(), onnxruntime.__version__)
    except BundleError as e:
        return f"nothing: {e}"
    return f"{choice.name}: {choice.reason}"


def _quality(manifest: Manifest) -> Iterator[str]:
    """How good the variants of a model are that writes text, and how long they take; nothing for any other."""
    found = {name: _measured(variant, "quality") for name, variant in manifest.variants.items()}
    original = next((_number(q.get("original_perplexity"), ".5g") for q in found.values() if q), None)
    if original is None:
        return
    figures = {"perplexity": ".5g", "divergence": ".5f", "agreement": ".1%"}
    times = {name: _measured(variant, "latency", "milliseconds") for name, variant in manifest.variants.items()}
    shapes = _shapes(manifest)
    yield from _table(
        ["quality", "perplexity", "divergence", "same token", *(f"{shape}, ms" for shape in shapes)],
        [
            [
                name,
                *(_number(quality.get(key), form) for key, form in figures.items()),
                *(_number(times[name].get(shape), ".1f") for shape in shapes),
            ]
            for name, quality in found.items()
        ],
    )
    text = manifest.validation.get("text")
    text = text if isinstance(text, Mapping) else {}
    yield from _row("", f"{text.get('tokens')} tokens of {text.get('name')}; the original's perplexity is {original}")
    yield ""


def _compression(manifest: Manifest) -> Iterator[str]:
    """What a variant of `edgeport compress` has lost, and what it has gained; nothing for any other."""
    for name, variant in manifest.variants.items():
        if loss := _measured(variant, "compression"):
            value, low, high = (_number(loss.get(key), ".2f") for key in ("value", "low", "high"))
            speeds = _measured(variant, "compression", "times_as_fast_as")
            faster = [f"{_number(_measured_in(speeds, other), '.2f')} x {other}" for other in speeds]
            what = f"{loss.get('unit')} of {loss.get('metric')} on {loss.get('rows')} rows"
            lost = f"{name} lost {value} ({low} to {high}) {what}"
            yield from _row("compressed", f"{lost}; speed: {', '.join(faster)}; see report.html")


def _measured_in(speeds: Mapping[str, Any], other: str) -> object:
    found = speeds[other]
    return found.get("value") if isinstance(found, Mapping) else None


def _columns(manifest: Manifest) -> list[str]:
    return ["size", "opset", "largest difference", "cosine", "same label", *(f"ms at {s}" for s in _timed(manifest))]


def _timed(manifest: Manifest) -> list[str]:
    """Shapes whose times stand beside the sizes: none where they stand beside the quality."""
    return [] if any(_measured(v, "quality") for v in manifest.variants.values()) else _shapes(manifest)


def _shapes(manifest: Manifest) -> list[str]:
    """Shapes that some variant was timed at; four fit the width."""
    seen = {shape: None for v in manifest.variants.values() for shape in _measured(v, "latency", "milliseconds")}
    return list(islice(seen, 4))


def _variant(name: str, variant: Variant, manifest: Manifest) -> list[str]:
    parity, times = _measured(variant, "parity"), _measured(variant, "latency", "milliseconds")
    return [
        name,
        _size(variant.size_bytes),
        str(variant.opset),
        _number(parity.get("max_abs"), ".2g"),
        _number(parity.get("cosine"), ".5f"),
        _number(parity.get("agreement"), ".1%"),
        *(_number(times.get(shape), ".1f") for shape in _timed(manifest)),
    ]


def _measured(variant: Variant, *keys: str) -> Mapping[str, Any]:
    """The mapping under ``keys`` in what was measured, empty if there is none: the schema leaves it open."""
    found: Any = variant.measured
    for key in keys:
        found = found.get(key) if isinstance(found, Mapping) else None
    return found if isinstance(found, Mapping) else {}


def _number(value: object, form: str) -> str:
    return format(value, form) if isinstance(value, int | float) else "–"


def _table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> Iterator[str]:
    """Columns as wide as they must be, the first to the left and numbers to the right."""
    widths = [max(map(len, column)) for column in zip(head, *rows, strict=True)]
    widths[0] = max(widths[0], _INDENT - 2)
    for row in (head, *rows):
        cells = [f"{row[0]:<{widths[0]}}", *(f"{c:>{w}}" for c, w in zip(row[1:], widths[1:], strict=True))]
        yield "  ".join(cells).rstrip()


def _some(items: Sequence[str], count: int) -> str:
    rest = len(items) - count
    return ", ".join(items[:count]) + (f", and {rest} more" if rest > 0 else "")


def _short(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)


def _size(size: int) -> str:
    return f"{size / 1e6:.1f} MB" if size >= 10**5 else f"{size / 1e3:.1f} kB"
