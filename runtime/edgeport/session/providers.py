"""The execution providers that edgeport knows: one row each. Knows names and packages; opens nothing."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

from edgeport.errors import UsageError

__all__ = ["ALIASES", "PROVIDERS", "Provider", "resolve_providers"]

_ON_CPU = ("int8", "fp32", "fp16")
_ON_ACCELERATOR = ("fp16", "fp32", "int8")
"""int8 comes last: dynamic quantization uses operators that few accelerators have."""


@dataclass(frozen=True)
class Provider:
    """One execution provider of ONNX Runtime."""

    name: str
    """Short name, as users write it."""
    onnxruntime_name: str
    remedy: str
    """How to get it: the second half of an error message."""
    plugin: str | None = None
    """Module of the plug-in's wheel, for providers that are added to a plain onnxruntime."""
    devices: tuple[str, ...] = ("gpu", "npu", "cpu")
    """Kinds of device that a plug-in may use, the preferred first."""
    options: Mapping[str, str] = field(default_factory=dict)
    plugin_options: Mapping[str, str] = field(default_factory=dict)
    """Option to the function of ``plugin`` that returns its value."""
    memory: str = "cpu"
    """Where what a loop keeps between runs lies, by ONNX Runtime's name of the device."""
    precisions: tuple[str, ...] = _ON_ACCELERATOR
    """Which precision to prefer where nothing was measured, best first."""


PROVIDERS: Mapping[str, Provider] = {
    "cpu": Provider("cpu", "CPUExecutionProvider", "pip install onnxruntime", precisions=_ON_CPU),
    "cuda": Provider(
        "cuda",
        "CUDAExecutionProvider",
        "pip install onnxruntime-gpu (in place of onnxruntime), with an NVIDIA driver, CUDA and cuDNN",
        # Doubling with each extension can claim most of a small GPU for one long input.
        options={"arena_extend_strategy": "kSameAsRequested"},
        memory="cuda",
    ),
    "tensorrt": Provider(
        "tensorrt",
        "TensorrtExecutionProvider",
        "pip install onnxruntime-gpu (in place of onnxruntime) tensorrt, with an NVIDIA driver",
        memory="cuda",
    ),
    "openvino": Provider(
        "openvino",
        "OpenVINOExecutionProvider",
        "pip install onnxruntime-ep-openvino, on a machine with an Intel processor",
        plugin="onnxruntime_ep_openvino",
        devices=("cpu", "gpu", "npu"),
    ),
    "coreml": Provider(
        "coreml",
        "CoreMLExecutionProvider",
        "pip install onnxruntime on macOS",
        options={"ModelFormat": "MLProgram"},
    ),
    "xnnpack": Provider(
        "xnnpack",
        "XnnpackExecutionProvider",
        "no wheel on PyPI has it, so build onnxruntime with --use_xnnpack",
        precisions=("fp32", "fp16", "int8"),
    ),
    "nnapi": Provider("nnapi", "NnapiExecutionProvider", "it is part of onnxruntime's Android package only"),
    "qnn": Provider(
        "qnn",
        "QNNExecutionProvider",
        "pip install onnxruntime-qnn",
        plugin="onnxruntime_qnn",
        devices=("npu", "cpu", "gpu"),
        plugin_options={"backend_path": "get_qnn_htp_path"},
    ),
    "directml": Provider(
        "directml", "DmlExecutionProvider", "pip install onnxruntime-directml (in place of onnxruntime) on Windows"
    ),
    "webgpu": Provider(
        "webgpu",
        "WebGpuExecutionProvider",
        "pip install onnxruntime-ep-webgpu, on a machine with a GPU and its Vulkan, Metal or Direct3D driver",
        plugin="onnxruntime_ep_webgpu",
        devices=("gpu",),
    ),
    "migraphx": Provider(
        "migraphx",
        "MIGraphXExecutionProvider",
        "pip install onnxruntime-migraphx (in place of onnxruntime), with AMD's ROCm",
    ),
}

ALIASES: Mapping[str, str] = {"dml": "directml", "trt": "tensorrt", "rocm": "migraphx"}
"""Other short names; ONNX Runtime's own names are understood too."""

_BY_ANY_NAME: Mapping[str, Provider] = {
    **PROVIDERS,
    **{alias: PROVIDERS[name] for alias, name in ALIASES.items()},
    **{p.onnxruntime_name.lower(): p for p in PROVIDERS.values()},
}


def resolve_providers(names: Sequence[str] | str | None) -> tuple[Provider, ...]:
    """The providers called ``names``, best first; the CPU where ``names`` is None.

    A plug-in provider's device may follow a colon: ``openvino:gpu``.

    Raises:
        UsageError: an unknown name or device, a name twice, or no name at all.
    """
    if names is None:
        return (PROVIDERS["cpu"],)
    listed = names.split(",") if isinstance(names, str) else list(names)
    found = tuple(_resolve(name) for name in listed)
    if not found:
        raise UsageError(f"providers is empty: name at least one of {', '.join(PROVIDERS)}, or leave it out.")
    twice = [p.name for i, p in enumerate(found) if p.name in (q.name for q in found[:i])]
    if twice:
        raise UsageError(f"the provider {twice[0]!r} is named twice: name each once, the preferred first.")
    return found


def _resolve(asked: object) -> Provider:
    name, _, device = str(asked).strip().lower().partition(":")
    provider = _BY_ANY_NAME.get(name) if isinstance(asked, str) else None
    if provider is None:
        raise UsageError(f"there is no provider {asked!r}: use one of {', '.join(PROVIDERS)}.")
    if not device:
        return provider
    if provider.plugin is None or device not in provider.devices:
        allowed = ", ".join(f"{provider.name}:{d}" for d in provider.devices) if provider.plugin else provider.name
        raise UsageError(f"the provider {asked!r} names no device that it has: use {allowed}.")
    return replace(provider, devices=(device,))
