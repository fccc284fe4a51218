"""Plug-in execution providers: wheels that add a provider to a plain onnxruntime.

Knows how to register one and find its devices. Only modules that stand in the table of ``providers`` are imported.
"""

from __future__ import annotations

import importlib
import threading
from types import ModuleType
from typing import Any

from edgeport.errors import ProviderError
from edgeport.session.providers import Provider

__all__ = ["is_registered", "plugin_device", "plugin_options"]

_lock = threading.Lock()
_registered: dict[str, ModuleType] = {}
"""By ONNX Runtime's name. A library may be registered once a process, and stays for its life."""


def is_registered(provider: Provider) -> bool:
    """Whether the provider came from a plug-in, and not with onnxruntime itself."""
    return provider.onnxruntime_name in _registered


def plugin_device(provider: Provider) -> Any:
    """The device (onnxruntime's OrtEpDevice) that the plug-in offers here, the preferred kind first.

    Raises:
        ProviderError: the wheel is not installed, cannot be loaded, or offers no such device here.
    """
    import onnxruntime

    _register(provider)
    devices = [d for d in onnxruntime.get_ep_devices() if d.ep_name == provider.onnxruntime_name]
    kinds = [d.device.type.name.lower() for d in devices]
    for kind in provider.devices:
        if kind in kinds:
            return devices[kinds.index(kind)]
    wanted = " or ".join(provider.devices)
    raise ProviderError(
        f"the provider {provider.name!r} is installed but finds no {wanted} that it can use on this machine: "
        "choose another provider, or cpu."
    )


def plugin_options(provider: Provider) -> dict[str, str]:
    """The provider's options, those included whose values the plug-in's module knows."""
    module = _registered[provider.onnxruntime_name]
    asked = {option: getattr(module, function)() for option, function in provider.plugin_options.items()}
    return {**provider.options, **asked}


def _register(provider: Provider) -> None:
    import onnxruntime

    assert provider.plugin is not None
    with _lock:
        if provider.onnxruntime_name in _registered:
            return
        try:
            module = importlib.import_module(provider.plugin)
        except ImportError as e:
            raise ProviderError(f"the provider {provider.name!r} is not installed: {provider.remedy}.") from e
        if not hasattr(onnxruntime, "register_execution_provider_library"):
            raise ProviderError(
                f"onnxruntime {onnxruntime.__version__} takes no plug-in such as {provider.name!r}: "
                "pip install --upgrade onnxruntime."
            )
        try:
            # The name given here becomes the devices' ep_name for some plug-ins, so it must be the provider's own.
            onnxruntime.register_execution_provider_library(provider.onnxruntime_name, module.get_library_path())
        except Exception as e:  # onnxruntime's errors share no class but this one
            reason = str(e).splitlines()[0][:200]
            raise ProviderError(
                f"the plug-in of the provider {provider.name!r} cannot be loaded ({reason}): {provider.remedy}."
            ) from e
        _registered[provider.onnxruntime_name] = module
