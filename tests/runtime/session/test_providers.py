from __future__ import annotations

import sys
from collections.abc import Callable
from types import ModuleType, SimpleNamespace
from typing import Any

import onnxruntime
import pytest
from edgeport.bundle import Bundle
from edgeport.errors import ProviderError, UsageError
from edgeport.session import PROVIDERS, open_graph, open_session, plugins, resolve_providers
from edgeport.session.plugins import plugin_device, plugin_options


def test_short_names_aliases_and_onnxruntimes_own() -> None:
    def names(asked: Any) -> list[str]:
        return [p.name for p in resolve_providers(asked)]

    assert names(None) == ["cpu"]
    assert names("CUDA") == names(["CUDAExecutionProvider"]) == ["cuda"]
    assert names("tensorrt, cuda") == ["tensorrt", "cuda"]
    assert names(["dml"]) == ["directml"]
    assert resolve_providers("openvino:npu")[0].devices == ("npu",)


@pytest.mark.parametrize("asked", ["", [], "gpu", ["cpu", "foo"], [None], "cuda,cuda", "cuda:1", "openvino:tpu"])
def test_unknown_names_are_refused_with_what_is_allowed(asked: Any) -> None:
    with pytest.raises(UsageError, match=r"use |name "):
        resolve_providers(asked)


def test_every_row_names_itself_and_a_remedy() -> None:
    for name, provider in PROVIDERS.items():
        assert provider.name == name
        assert provider.onnxruntime_name in onnxruntime.get_all_providers() or provider.plugin or name == "directml"
        assert provider.remedy
        assert not provider.remedy.endswith(".")


@pytest.mark.parametrize("name", [n for n in PROVIDERS if n != "cpu"])
def test_absent_providers_name_the_remedy(
    make_bundle: Callable[..., Bundle], monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    monkeypatch.setattr(onnxruntime, "get_available_providers", lambda: ["CPUExecutionProvider"])
    provider = PROVIDERS[name]
    if provider.plugin is not None:
        monkeypatch.setitem(sys.modules, provider.plugin, None)  # not installed, whatever is
    with pytest.raises(ProviderError) as error:
        open_session(make_bundle(), providers=name)
    assert repr(name) in str(error.value)
    assert provider.remedy in str(error.value)


class FakeGraph:
    """What onnxruntime would return; ``nodes`` by provider."""

    def __init__(self, active: list[str], nodes: dict[str, int]) -> None:
        self._active, self._nodes = active, nodes

    def get_providers(self) -> list[str]:
        return self._active

    def get_provider_graph_assignment_info(self) -> list[Any]:
        return [
            SimpleNamespace(ep_name=n, get_nodes=lambda c=c: [SimpleNamespace(domain="")] * c)
            for n, c in self._nodes.items()
        ]


@pytest.mark.parametrize(
    ("active", "nodes", "message"),
    [
        (["CPUExecutionProvider"], {"CPUExecutionProvider": 5}, "does not start on this machine.*onnxruntime-gpu"),
        (["CUDAExecutionProvider"], {"CPUExecutionProvider": 5}, "takes none of the 5 nodes.*onnxruntime-gpu"),
        (["CUDAExecutionProvider"], {}, "cannot tell which nodes"),
    ],
)
def test_no_silent_fall_back(
    make_bundle: Callable[..., Bundle],
    monkeypatch: pytest.MonkeyPatch,
    active: list[str],
    nodes: dict[str, int],
    message: str,
) -> None:
    monkeypatch.setattr(onnxruntime, "get_available_providers", lambda: ["CUDAExecutionProvider"])
    monkeypatch.setattr(onnxruntime, "InferenceSession", lambda *_, **__: FakeGraph(active, nodes))
    with pytest.raises(ProviderError, match=message):
        open_session(make_bundle(), providers="cuda")


def test_a_provider_that_takes_some_nodes_is_accepted(
    make_bundle: Callable[..., Bundle], monkeypatch: pytest.MonkeyPatch
) -> None:
    given: dict[str, Any] = {}

    def make(path: str, options: Any, **kwargs: Any) -> FakeGraph:
        given.update(kwargs)
        return FakeGraph(["CUDAExecutionProvider"], {"CUDAExecutionProvider": 4, "CPUExecutionProvider": 1})

    monkeypatch.setattr(onnxruntime, "get_available_providers", lambda: ["CUDAExecutionProvider"])
    monkeypatch.setattr(onnxruntime, "InferenceSession", make)
    open_graph(make_bundle().graph("model.fp32.onnx"), providers=resolve_providers("cuda"))
    assert [p if isinstance(p, str) else p[0] for p in given["providers"]] == [
        "CUDAExecutionProvider",
        "CPUExecutionProvider",
    ]
    assert given["enable_fallback"] == 0


def test_a_provider_that_fails_to_start_is_not_the_bundles_fault(
    make_bundle: Callable[..., Bundle], monkeypatch: pytest.MonkeyPatch
) -> None:
    """CUDA is claimed to be there, and onnxruntime then finds that it is not."""
    available = onnxruntime.get_available_providers()
    monkeypatch.setattr(onnxruntime, "get_available_providers", lambda: [*available, "CUDAExecutionProvider"])

    def fail(*_: Any, **__: Any) -> None:
        raise RuntimeError("[ONNXRuntimeError] : 1 : FAIL : no driver\nstack")

    monkeypatch.setattr(onnxruntime, "InferenceSession", fail)
    with pytest.raises(ProviderError, match=r"cuda cannot open model\.fp32\.onnx .*no driver"):
        open_graph(make_bundle().graph("model.fp32.onnx"), providers=resolve_providers("cuda"))


@pytest.fixture
def fake_plugin(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """OpenVINO's wheel, as far as Python can see it; returns the calls and lets a test choose the devices."""
    module = ModuleType("onnxruntime_ep_openvino")
    module.get_library_path = lambda: "/lib/plugin.so"  # type: ignore[attr-defined]
    calls: list[Any] = []
    monkeypatch.setitem(sys.modules, "onnxruntime_ep_openvino", module)
    monkeypatch.setattr(plugins, "_registered", {})
    monkeypatch.setattr(onnxruntime, "register_execution_provider_library", lambda *args: calls.append(args))
    return calls


def devices(*kinds: str) -> list[Any]:
    return [
        SimpleNamespace(ep_name="OpenVINOExecutionProvider", device=SimpleNamespace(type=SimpleNamespace(name=kind)))
        for kind in kinds
    ]


def test_a_plugin_is_registered_once_and_its_preferred_device_taken(
    fake_plugin: list[Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(onnxruntime, "get_ep_devices", lambda: devices("NPU", "GPU", "CPU"))
    for asked, kind in (("openvino", "CPU"), ("openvino:npu", "NPU"), ("openvino", "CPU")):
        assert plugin_device(resolve_providers(asked)[0]).device.type.name == kind
    assert fake_plugin == [("OpenVINOExecutionProvider", "/lib/plugin.so")]
    assert plugin_options(PROVIDERS["openvino"]) == {}


def test_a_plugin_without_a_device_here(fake_plugin: list[Any], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(onnxruntime, "get_ep_devices", lambda: devices("GPU"))
    with pytest.raises(ProviderError, match="finds no npu that it can use on this machine"):
        plugin_device(resolve_providers("openvino:npu")[0])


def test_a_plugin_that_cannot_be_loaded(fake_plugin: list[Any], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.undo()  # the true onnxruntime, and a library that is not there
    module = ModuleType("onnxruntime_ep_openvino")
    module.get_library_path = lambda: "/nowhere/plugin.so"  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "onnxruntime_ep_openvino", module)
    with pytest.raises(ProviderError, match=r"cannot be loaded.*pip install onnxruntime-ep-openvino"):
        plugin_device(PROVIDERS["openvino"])
