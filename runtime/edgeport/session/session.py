"""Run a bundle's graph: arrays by name in, arrays by name out. Knows no task and no text."""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self

import numpy.typing as npt

from edgeport.bundle import Bundle
from edgeport.errors import BundleError, EdgeportError, InputError, UsageError
from edgeport.session.binding import Binding
from edgeport.session.cpu import cpu_features, usable_threads
from edgeport.session.huge_pages import NewMemory
from edgeport.session.memory import peak_rss, rss
from edgeport.session.open_graph import all_on, first_line, node_counts, open_graph
from edgeport.session.providers import PROVIDERS, Provider, resolve_providers
from edgeport.session.report import Report, notable
from edgeport.session.select import Choice, choose_variant

if TYPE_CHECKING:
    from onnxruntime import InferenceSession

__all__ = ["Session", "open_plain_session", "open_session"]

Array = npt.NDArray[Any]

_SHRINK_BELOW = 1 / 4
"""A run with inputs this much smaller than the largest since the last time returns the unused memory."""

_TOKENS_A_THREAD = 256
"""On the CPU. More at once are slower, since what is between two layers leaves the cache, and the more rows go together
the more they are padded: 240 texts of 8 to 256 tokens through MiniLM in int8 on 2 threads, a second: 113 texts with 128
tokens a thread, 128 with 256 or 384, 121 with 512, 95 with 4,096, which also take 490 MB instead of 122 (Zen 3)."""
_TOKENS_ON_A_DEVICE = 2**15

_CACHING = "GroupQueryAttention"
"""The operator that writes over its inputs. Providers have it for some types alone (onnxruntime's CUDA for fp16 and
bf16), and leave it to the CPU for others."""


def open_session(
    bundle: Bundle,
    *,
    variant: str | None = None,
    providers: Sequence[str] | str | None = None,
    threads: int | None = None,
    component: str = "model",
) -> Session:
    """Open a graph of ``bundle``.

    Args:
        bundle: The opened bundle.
        variant: Which variant; where left out, the one that should be fastest on the first provider and this CPU.
        providers: Execution providers by short name, in order of priority; the CPU where left out.
        threads: Threads within an operation; where left out, the cores that this process may use.
        component: Which of the variant's graphs.

    Raises:
        BundleError: no such variant, or its graph is damaged, unsafe, or too new for this onnxruntime.
        ProviderError: a provider is absent, or takes no node.
        UsageError: an unknown provider, or no positive number of threads.
    """
    if threads is not None and (isinstance(threads, bool) or not isinstance(threads, int) or threads < 1):
        raise UsageError(f"threads={threads!r} is no positive whole number: leave it out to use all that there are.")
    threads = threads or usable_threads()
    asked = resolve_providers(providers)
    import onnxruntime

    manifest = bundle.manifest
    choice = choose_variant(manifest.variants, asked[0], cpu_features(), onnxruntime.__version__, asked=variant)
    graphs = manifest.variants[choice.name].graphs
    if component not in graphs:
        raise BundleError(f"the variant {choice.name!r} has no graph {component!r}: it has {', '.join(graphs)}.")
    path = bundle.graph(graphs[component])
    try:
        with NewMemory() as memory:
            graph = open_graph(path, providers=asked, threads=threads)
    except EdgeportError:
        raise
    except Exception as e:  # onnxruntime's errors share no class but this one
        raise BundleError(
            f"onnxruntime {onnxruntime.__version__} cannot open {path.name} ({first_line(e)}): export the model again."
        ) from e
    return Session(graph, choice, asked, threads, manifest.variants[choice.name].size_bytes, memory)


def open_plain_session(
    path: Path,
    *,
    threads: int | None = None,
    providers: Sequence[Provider] = (PROVIDERS["cpu"],),
    profile: Path | None = None,
) -> Session:
    """Open a graph that is in no bundle yet; arguments and errors are those of ``open_graph``."""
    threads = threads or usable_threads()
    with NewMemory() as memory:
        graph = open_graph(path, providers=providers, threads=threads, profile=profile)
    return Session(graph, Choice(path.name, "the only one"), providers, threads, path.stat().st_size, memory)


class Session:
    """An open graph. Several threads may call ``run`` at once."""

    def __init__(
        self,
        graph: InferenceSession,
        choice: Choice,
        providers: Sequence[Provider],
        threads: int,
        model_bytes: int,
        memory: NewMemory,
    ) -> None:
        """Use ``open_session`` instead."""
        import onnxruntime

        self._graph: InferenceSession | None = graph
        self._choice = choice
        self._providers = tuple(providers)
        self._threads = threads
        self._model_bytes = model_bytes
        self._memory = memory
        self._onnxruntime = onnxruntime.__version__
        self.input_names: tuple[str, ...] = tuple(x.name for x in graph.get_inputs())
        self.input_types: dict[str, str] = {x.name: x.type for x in graph.get_inputs()}
        """As onnxruntime writes them: ``tensor(float16)``."""
        self.input_shapes: dict[str, tuple[int | str | None, ...]] = {
            x.name: tuple(x.shape) for x in graph.get_inputs()
        }
        """Sizes, and names or None of what is open."""
        self.output_names: tuple[str, ...] = tuple(x.name for x in graph.get_outputs())
        self.tokens_at_once = threads * _TOKENS_A_THREAD if providers[0].name == "cpu" else _TOKENS_ON_A_DEVICE
        """As many as keep it busy."""
        self._largest = 0
        self._shrink = onnxruntime.RunOptions()
        # Where addresses have 32 bits there is no arena, and onnxruntime refuses to shrink what is not there.
        if sys.maxsize > 2**32:
            self._shrink.add_run_config_entry("memory.enable_memory_arena_shrinkage", "cpu:0")

    def run(self, feeds: Mapping[str, Array]) -> dict[str, Array]:
        """Run the graph on ``feeds``, by input name; returns every output by name.

        Raises:
            InputError: an input is missing, unknown, or of a shape or dtype that the graph does not take.
            UsageError: the session is closed.
        """
        graph = self._graph
        if graph is None:
            raise UsageError("the session is closed: open the bundle again.")
        try:
            values = graph.run(None, feeds, self._run_options(feeds))
        except Exception as e:  # onnxruntime's errors share no class but this one
            shapes = ", ".join(f"{name} {array.dtype}{list(array.shape)}" for name, array in feeds.items())
            raise InputError(f"the graph does not run on {shapes} ({first_line(e)}).") from e
        return dict(zip(self.output_names, values, strict=True))

    def bind(self) -> Binding:
        """A loop's own arrays for this graph, whose weights move into huge pages: a loop reads them again and again.

        Raises:
            UsageError: the session is closed.
        """
        if self._graph is None:
            raise UsageError("the session is closed: open the bundle again.")
        self._memory.collapse()
        first, copied = self._providers[0], [p.name for p in self._providers] != ["cpu"]
        if copied and all_on(self._graph, _CACHING, first):
            return Binding(self._graph, first.memory, copied=True)
        return Binding(self._graph, copied=copied)

    def report(self) -> Report:
        """How the graph runs here."""
        if self._graph is None:
            raise UsageError("the session is closed: open the bundle again.")
        return Report(
            variant=self._choice.name,
            reason=self._choice.reason,
            providers=tuple(p.name for p in self._providers),
            nodes=node_counts(self._graph),
            threads=self._threads,
            model_bytes=self._model_bytes,
            rss_bytes=rss(),
            peak_rss_bytes=peak_rss(),
            cpu_features=notable(cpu_features()),
            onnxruntime=self._onnxruntime,
        )

    def close(self) -> None:
        """Give the memory back; a call that runs in another thread still ends well."""
        self._graph = None

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _run_options(self, feeds: Mapping[str, Array]) -> Any:
        """Return the arena's unused memory when the inputs get much smaller.

        The arena never gives back what one large input made it take. After one batch of 32 x 256 tokens MiniLM in int8
        holds 436 MB; shrinking after every run makes that 170 MB at 5 to 15 % more time; shrinking when the inputs drop
        makes it 150 MB at no cost while they stay alike. No arena at all: 310 MB, since the C library keeps the pieces.
        """
        size = sum(array.nbytes for array in feeds.values())
        if size > self._largest * _SHRINK_BELOW:
            self._largest = max(size, self._largest)
            return None
        self._largest = size
        return self._shrink
