"""``edgeport verify``: everything that can be checked of a bundle without the original model."""

from __future__ import annotations

import argparse
import dataclasses
import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from edgeport.bundle import SCHEMA, Bundle
from edgeport.errors import BundleError, EdgeportError
from edgeport.session import open_session
from edgeport.text import TextEncoder

__all__ = ["Check", "add_arguments", "check_bundle", "run"]

_EPILOG = """\
examples:
  edgeport verify intents
  edgeport verify intents --json | jq .ok
"""


@dataclass(frozen=True)
class Check:
    """What was checked, whether it holds, and what was seen."""

    name: str
    ok: bool
    detail: str


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command's arguments."""
    parser.description = (
        "Check a bundle: its manifest, the SHA-256 of every file, its tokenizer, and that every graph opens here and\n"
        "has the inputs and outputs that the manifest names. The exit status is 1 if anything does not hold."
    )
    parser.epilog = _EPILOG
    parser.add_argument("bundle", metavar="BUNDLE", type=Path, help="the bundle's folder")
    parser.add_argument("--json", action="store_true", help="print the checks as JSON")


def run(args: argparse.Namespace) -> int:
    """Run the command; returns the exit status."""
    checks = []
    for check in check_bundle(args.bundle):
        checks.append(check)
        if not args.json:
            print(f"{'ok' if check.ok else 'FAILED':<6}  {check.name:<16}  {check.detail}", flush=True)
    ok = all(check.ok for check in checks)
    if args.json:
        listed = [dataclasses.asdict(check) for check in checks]
        print(json.dumps({"bundle": str(args.bundle), "ok": ok, "checks": listed}, indent=2, ensure_ascii=False))
    return 0 if ok else 1


def check_bundle(path: Path) -> Iterator[Check]:
    """Check the bundle in ``path``; without a sound manifest there is nothing else to check."""
    try:
        bundle = Bundle.open(path)
    except EdgeportError as e:
        yield Check("manifest", False, str(e))
        return
    manifest = bundle.manifest
    names = f"schema {manifest.schema} of {SCHEMA}, {len(manifest.files)} files in place, with the right sizes"
    yield Check("manifest", True, names)
    yield _check("hashes", lambda: _hashes(bundle))
    if manifest.text is not None:
        yield _check("tokenizer", lambda: _tokenizer(bundle))
    for variant, details in manifest.variants.items():
        for component in details.graphs:
            yield _check(f"graph {variant}", lambda v=variant, c=component: _graph(bundle, v, c))  # type: ignore[misc]


def _check(name: str, look: Callable[[], str]) -> Check:
    try:
        return Check(name, True, look())
    except EdgeportError as e:
        return Check(name, False, str(e))


def _hashes(bundle: Bundle) -> str:
    bundle.verify()
    size = sum(record.bytes for record in bundle.manifest.files.values())
    return f"SHA-256 of {len(bundle.manifest.files)} files, {size / 1e6:.1f} MB"


def _tokenizer(bundle: Bundle) -> str:
    text = bundle.manifest.text
    assert text is not None
    TextEncoder.open(bundle.path(text.tokenizer), text)
    return f"{text.tokenizer} opens, up to {text.max_length} tokens"


def _graph(bundle: Bundle, variant: str, component: str) -> str:
    with open_session(bundle, variant=variant, component=component) as session:
        if component == "model":
            _same("inputs", {t.name for t in bundle.manifest.inputs}, set(session.input_names))
            _same("outputs", {t.name for t in bundle.manifest.outputs}, set(session.output_names))
        nodes = sum(session.report().nodes.values())
    return f"{bundle.manifest.variants[variant].graphs[component]} opens, {nodes} nodes"


def _same(what: str, named: set[str], found: set[str]) -> None:
    if named != found:
        raise BundleError(
            f"the graph has the {what} {', '.join(sorted(found))}, and the manifest names {', '.join(sorted(named))}: "
            "export the model again."
        )
