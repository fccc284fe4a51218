"""What the model is for: a provider of this machine, or the processor of another one by its description."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from edgeport.session import resolve_providers, usable_threads

from edgeport_export.profile import Machine, read_description

__all__ = ["HERE", "Target", "parse_target"]

HERE = "cpu"


@dataclass(frozen=True)
class Target:
    """Where the model will run."""

    provider: str
    """As the runtime takes it; a device may follow a colon."""
    name: str
    """For people."""
    machine: Machine | None = None
    """What was described; None where times are measured here."""

    @property
    def plain(self) -> str:
        """The precision that candidates are timed beside: what is fastest there as a rule, without a search."""
        return resolve_providers(self.provider)[0].precisions[0]

    def threads(self, asked: int | None) -> int | None:
        """Threads that models are timed with here: as many as they will have, as far as this machine has them."""
        if asked is not None or self.machine is None:
            return asked
        return min(self.machine.threads, usable_threads())


def parse_target(text: str) -> Target:
    """``cpu``, ``cuda``, ``openvino:gpu``, or the file of a description.

    Raises:
        UsageError: there is no such provider or file, or the file says something else.
    """
    if text.endswith(".toml"):
        name, machine = read_description(Path(text))
        return Target(HERE, name, machine)
    provider = resolve_providers(text)[0].name
    return Target(text, "this machine" if provider == HERE else f"{text} of this machine")
