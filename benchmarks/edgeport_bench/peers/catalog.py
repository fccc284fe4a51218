"""Which peers there are, what each can run, and what it is called."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from difflib import get_close_matches

from edgeport.errors import UsageError

__all__ = ["PEERS", "Peer", "resolve_peers"]

_WRITING = "text-generation"
_EMBEDDING = ("sentence-embedding",)
_READING = (
    "text-classification",
    "token-classification",
    "question-answering",
    "fill-mask",
    "zero-shot-classification",
    "feature-extraction",
    "sentence-embedding",
    "text-ranking",
)
_ANY = (*_READING, _WRITING)


@dataclass(frozen=True)
class Peer:
    """A way to run the model that is compared with ours."""

    name: str
    flavours: tuple[str, ...]
    """What it is measured as: precisions, or back ends."""
    tasks: tuple[str, ...]
    requirements: str | None = None
    """Which list of packages it runs with; None: those that are installed here."""
    prepared_by: str | None = None
    """Whose list converts the model, where that is another one."""
    reads_texts: bool = False
    """Whether it tokenizes, too."""

    def label(self, flavour: str) -> str:
        """What tables call it."""
        return f"{self.name}-{flavour}" if flavour else self.name


PEERS: Mapping[str, Peer] = {
    peer.name: peer
    for peer in (
        Peer("torch", ("",), _ANY),
        Peer("torch-compile", ("",), _READING),
        Peer("optimum", ("fp32", "int8"), _ANY, "optimum"),
        Peer("openvino", ("default", "int8", "int4"), _ANY, "openvino"),
        Peer(
            "sentence-transformers",
            ("torch", "onnx-int8", "openvino-int8"),
            _EMBEDDING,
            "sentence-transformers",
            reads_texts=True,
        ),
        Peer("fastembed", ("fp32", "int8"), _EMBEDDING, "fastembed", prepared_by="optimum", reads_texts=True),
        Peer(
            "ctranslate2",
            ("fp32", "int8"),
            (*_EMBEDDING, "feature-extraction", "text-classification", _WRITING),
            "ctranslate2",
        ),
        Peer("llama.cpp", ("q8_0", "q4_0"), (_WRITING,), "llama.cpp"),
        Peer("genai", ("fp32", "int8", "int4"), (_WRITING,), "genai"),
    )
}


def resolve_peers(names: str) -> list[tuple[Peer, str]]:
    """Peers and flavours of a comma-separated list, such as ``torch,openvino-int8``; a bare name is all its flavours.

    Raises:
        UsageError: a name that is none.
    """
    known = {p.label(f): [(p, f)] for p in PEERS.values() for f in p.flavours}
    known |= {p.name: [(p, f) for f in p.flavours] for p in PEERS.values()}
    found: dict[str, tuple[Peer, str]] = {}
    for name in (part.strip() for part in names.split(",") if part.strip()):
        if name not in known:
            near = get_close_matches(name, known, n=1)
            hint = f"did you mean {near[0]!r}?" if near else f"choose from {', '.join(PEERS)}."
            raise UsageError(f"--against {name!r} is unknown: {hint}")
        found |= {peer.label(flavour): (peer, flavour) for peer, flavour in known[name]}
    return list(found.values())
