"""From the names after ``--against`` to subjects that can be measured: environments made, models converted."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from importlib.util import find_spec
from pathlib import Path

from edgeport.errors import EdgeportError, MissingExtraError

from edgeport_bench.harness import Refusal
from edgeport_bench.inputs import sample_sentences
from edgeport_bench.original import Original, model_folder
from edgeport_bench.peers.catalog import Peer
from edgeport_bench.peers.environment import environment_python, model_key, requirements, reserve
from edgeport_bench.process import Worker
from edgeport_bench.subjects import KINDS, SubjectSpec

__all__ = ["peer_specs"]

Say = Callable[[str], None]


def peer_specs(
    peers: Sequence[tuple[Peer, str]], original: Original, threads: int, say: Say = lambda doing: None
) -> tuple[list[SubjectSpec], list[Refusal]]:
    """The peers as subjects, and those that cannot be one, each with the reason.

    Args:
        peers: Peers and flavours, as ``resolve_peers`` gives them.
        original: The model.
        threads: Of every peer.
        say: Is told what is being done.

    Raises:
        MissingExtraError: torch is asked for, and absent.
        UsageError: the original is not found.
    """
    specs, refusals = [], []
    for peer, flavour in peers:
        try:
            specs.append(_spec(peer, flavour, original, threads, say))
        except MissingExtraError:
            raise
        except EdgeportError as e:
            refusals.append(Refusal(peer.label(flavour), "", str(e)))
    return specs, refusals


def _spec(peer: Peer, flavour: str, original: Original, threads: int, say: Say) -> SubjectSpec:
    label = peer.label(flavour)
    if original.task not in peer.tasks:
        raise EdgeportError(f"it is not measured for {original.task}, only for {', '.join(peer.tasks)}.")
    if peer.requirements is None:
        return _own_environment(peer, original, threads)
    folder = model_folder(original.model)
    original = dataclasses.replace(original, model=str(folder))
    options = {**original.options(threads), "flavour": flavour}
    python = environment_python(peer.requirements, say)
    spec = SubjectSpec(label, peer.name, options, str(python), is_peer=True)
    prepared_by = peer.prepared_by or peer.requirements
    converting = dataclasses.replace(
        spec,
        options={**options, "calibration": sample_sentences()},
        python=str(environment_python(prepared_by, say)),
    )
    script = Path(__file__).parent / f"{KINDS[peer.name].rpartition('.')[2]}.py"
    key = model_key(folder, original.task, script.read_text(encoding="utf-8"), requirements(prepared_by))
    say(f"converting for {label}")
    return dataclasses.replace(
        spec, options={**options, "folder": str(reserve(label, key, lambda target: _prepare(converting, target)))}
    )


def _prepare(spec: SubjectSpec, target: Path) -> None:
    with Worker(spec) as worker:
        worker.prepare(target)


def _own_environment(peer: Peer, original: Original, threads: int) -> SubjectSpec:
    if find_spec("torch") is None or find_spec("transformers") is None:
        raise MissingExtraError(f"`edgeport bench --against {peer.name}`", "export")
    kind = "torch-writer" if original.task == "text-generation" else peer.name
    return SubjectSpec(peer.name, kind, original.options(threads), is_peer=peer.name != "torch")
