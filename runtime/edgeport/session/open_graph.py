"""Open one ONNX file in ONNX Runtime, with the options that were found best. Knows no bundle and no variant."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from edgeport.errors import ProviderError
from edgeport.session.cpu import usable_threads
from edgeport.session.kernel_graph import DOMAIN
from edgeport.session.kernels import PACKAGE, find_kernels
from edgeport.session.plugins import is_registered, plugin_device, plugin_options
from edgeport.session.providers import PROVIDERS, Provider

if TYPE_CHECKING:
    from onnxruntime import InferenceSession, SessionOptions

__all__ = ["all_on", "first_line", "node_counts", "open_graph"]

_CPU = PROVIDERS["cpu"]
_FATAL = 4


def open_graph(
    path: Path,
    *,
    providers: Sequence[Provider] = (_CPU,),
    threads: int | None = None,
    profile: Path | None = None,
) -> InferenceSession:
    """Open the graph in the file ``path``.

    Args:
        path: The ONNX file.
        providers: In order of priority; the CPU takes what the others leave.
        threads: Threads within an operation; ``usable_threads()`` where left out.
        profile: How the file begins that ``end_profiling`` of the session writes; none where left out.

    Raises:
        ProviderError: a provider is absent, does not start, or takes no node.
        Exception: onnxruntime refuses the graph; its errors share no other class.
    """
    import onnxruntime

    options = _session_options(threads or usable_threads())
    if profile is not None:
        options.enable_profiling = True
        options.profile_file_prefix = str(profile)
    accelerators = [p for p in providers if p.name != _CPU.name]
    listed = _add_providers(options, accelerators)
    # onnxruntime would print a banner and go on with the CPU alone, and would take options from the stranger's file.
    kwargs: dict[str, Any] = {"enable_fallback": 0, "read_config_from_model": 0}
    model: str | bytes = str(path)
    if not accelerators:
        kwargs["disabled_optimizers"] = _SLOWER_ON_CPU
        model = _with_kernels(path, options) or model
    try:
        session = onnxruntime.InferenceSession(model, options, providers=listed, **kwargs)
    except Exception as e:
        if not accelerators:
            raise
        names = ", ".join(p.name for p in accelerators)
        raise ProviderError(
            f"{names} cannot open {path.name} ({first_line(e)}): choose another provider, or another variant."
        ) from e
    if accelerators:
        _check_taken(session, accelerators, path.name)
    return session


def _session_options(threads: int) -> SessionOptions:
    """The options of every session. Figures: 6-layer MiniLM in int8 (23 MB), onnxruntime 1.32, two Zen 3 cores.

    Left as they are, because nothing was gained: graph optimization (all), prepacked weights (off: 7 MB less, 20 %
    slower), spinning threads (off: 30 % slower at 16 tokens), device allocator for initializers (no difference). Nor is
    ``session.x64quantprecision`` set: x86 without VNNI needs it to be exact with weights of 8 bits, and takes 20 % more
    time then (128 tokens). The exporter writes weights of 7 bits, which are exact on every processor as they are.
    """
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    # Plans memory by shape, and keeps a plan for each: no gain in time, and 5 to 40 MB more over 120 shapes.
    options.enable_mem_pattern = False
    # Every error comes as an exception; logged as well, it would stand twice in the user's terminal.
    options.log_severity_level = _FATAL
    for key, value in _CONFIG.items():
        options.add_session_config_entry(key, value)
    return options


_CONFIG = {
    # The file's name must not choose another parser.
    "session.load_model_format": "ONNX",
    # Names of nodes, so that they can be counted; no cost that could be measured.
    "session.record_ep_graph_assignment_info": "1",
}


def _with_kernels(path: Path, options: SessionOptions) -> bytes | None:
    """The graph as installed kernels run it, with their operators in ``options``; None where they have none for it."""
    kernels = find_kernels()
    if kernels is None or (graph := kernels.graph(path)) is None:
        return None
    options.register_custom_ops_library(str(kernels.library))
    options.add_session_config_entry("session.model_external_initializers_file_folder_path", str(path.parent))
    return graph


# onnxruntime would fuse additions and layer normalizations into an operator whose CPU kernel (1.32) is four times as
# slow as the two: 9 % of an int8 BERT-base at 128 tokens.
_SLOWER_ON_CPU = ["SkipLayerNormFusion"]


def node_counts(session: InferenceSession) -> dict[str, int]:
    """Provider (short name), or package of kernels, to the nodes that it was given; empty where this onnxruntime cannot
    tell."""
    if not hasattr(session, "get_provider_graph_assignment_info"):
        return {}
    short = {p.onnxruntime_name: p.name for p in PROVIDERS.values()}
    counts: dict[str, int] = {}
    for part in session.get_provider_graph_assignment_info():
        for node in part.get_nodes():
            name = PACKAGE if node.domain == DOMAIN else short.get(part.ep_name, part.ep_name)
            counts[name] = counts.get(name, 0) + 1
    return counts


def all_on(session: InferenceSession, operator: str, provider: Provider) -> bool:
    """Whether the provider was given every node of that operator; not where this onnxruntime cannot tell."""
    if not hasattr(session, "get_provider_graph_assignment_info"):
        return False
    parts = session.get_provider_graph_assignment_info()
    owners = {part.ep_name for part in parts for node in part.get_nodes() if node.op_type == operator}
    return owners <= {provider.onnxruntime_name}


def first_line(error: BaseException) -> str:
    """An onnxruntime error without its code and its stack, fit for the middle of a sentence."""
    line = (str(error).strip().splitlines() or [type(error).__name__])[0]
    return line.removeprefix("[ONNXRuntimeError] : ")[:200].rstrip(" .:")


def _add_providers(options: SessionOptions, accelerators: Sequence[Provider]) -> list[Any] | None:
    """The list of built-in providers for InferenceSession, or None where ``options`` carries plug-ins."""
    import onnxruntime

    available = onnxruntime.get_available_providers()
    built_in = [p for p in accelerators if p.onnxruntime_name in available and not is_registered(p)]
    plugged = [p for p in accelerators if p not in built_in]
    for provider in plugged:
        if provider.plugin is None:
            raise ProviderError(f"the provider {provider.name!r} is not in this onnxruntime: {provider.remedy}.")
        device = plugin_device(provider)
        options.add_provider_for_devices([device], plugin_options(provider))
    if plugged and built_in:
        names = f"{plugged[0].name} is a plug-in and {built_in[0].name} is built in"
        raise ProviderError(f"{names}, and onnxruntime does not run both in one session: choose one.")
    if plugged:
        return None
    return [*((p.onnxruntime_name, dict(p.options)) for p in built_in), _CPU.onnxruntime_name]


def _check_taken(session: InferenceSession, accelerators: Sequence[Provider], file: str) -> None:
    """Running on the CPU alone, when something else was asked for, must not pass in silence."""
    active = session.get_providers()
    for provider in accelerators:
        if provider.onnxruntime_name not in active:
            raise ProviderError(f"the provider {provider.name!r} does not start on this machine: {provider.remedy}.")
    counts = node_counts(session)
    if not counts:
        raise ProviderError(
            f"this onnxruntime cannot tell which nodes {accelerators[0].name} took: pip install 'onnxruntime>=1.24' "
            "or the like, or use cpu."
        )
    for provider in accelerators:
        if not counts.get(provider.name):
            raise ProviderError(
                f"the provider {provider.name!r} takes none of the {sum(counts.values())} nodes of {file}: choose "
                f"another variant or provider (it comes with: {provider.remedy})."
            )
