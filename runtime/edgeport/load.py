"""``edgeport.load``: from a folder to a pipeline. Knows the order in which the parts are made, not their insides."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from edgeport.bundle import Bundle
from edgeport.errors import BundleError
from edgeport.tasks import TASKS, Pipeline, pipeline_class
from edgeport.text import TextEncoder

__all__ = ["load"]


def load(
    path: str | Path,
    *,
    variant: str | None = None,
    providers: Sequence[str] | str | None = None,
    threads: int | None = None,
    batch_size: int = 32,
    verify: bool = False,
) -> Pipeline:
    """Open a bundle and make it callable.

    Args:
        path: The bundle's folder.
        variant: Which variant to run (``fp32``, ``int8``, ...); the fastest that fits this machine where left out.
        providers: Execution providers by their short names, best first; the choice is this machine's where left out.
        threads: Threads within an operation; the processors that this process may use where left out.
        batch_size: Most texts that run at once.
        verify: Hash every file of the bundle first.

    Returns:
        A pipeline of the bundle's task. Use it as a context manager, or call ``close``, to give its memory back.

    Raises:
        BundleError: the bundle is damaged, unsafe, of a newer schema, or of a task that this edgeport does not know.
        ProviderError: a provider that was asked for is absent, or takes no node.
        UsageError: an option has an impossible value.
    """
    from edgeport.session import open_session  # brings onnxruntime, which is most of the import's time

    bundle = Bundle.open(path, verify=verify)
    manifest = bundle.manifest
    if manifest.task not in TASKS:
        known = ", ".join(TASKS)
        raise BundleError(f"the bundle's task is {manifest.task!r}, and this edgeport runs {known}: upgrade edgeport.")
    if manifest.text is None:
        raise BundleError(f"the bundle names no tokenizer, which {manifest.task} needs: export the model again.")
    text = TextEncoder.open(bundle.path(manifest.text.tokenizer), manifest.text)
    session = open_session(bundle, variant=variant, providers=providers, threads=threads)
    try:
        return pipeline_class(manifest.task)(bundle, session, text, batch_size=batch_size)
    except BaseException:
        session.close()
        raise
