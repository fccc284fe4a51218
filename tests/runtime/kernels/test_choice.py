"""When a session uses the kernels, and that it says so."""

from __future__ import annotations

import numpy as np
import pytest
from edgeport.session import kernels as module
from edgeport.session import open_plain_session
from edgeport.session.kernel_graph import DYNAMIC
from edgeport.session.kernels import CHOICE, PACKAGE, find_kernels

from .test_products import Product

AVX2 = ("avx2",)
VNNI = (*AVX2, "avx512_vnni")


@pytest.fixture
def processor(monkeypatch):
    """Sets what the processor has, and the choice."""

    def become(features: tuple[str, ...], choice: str | None) -> None:
        monkeypatch.setattr(module, "cpu_features", lambda: frozenset(features))
        monkeypatch.delenv(CHOICE, raising=False)
        if choice is not None:
            monkeypatch.setenv(CHOICE, choice)

    return become


@pytest.mark.usefixtures("kernels")
@pytest.mark.parametrize(
    ("features", "choice", "used"),
    [
        (AVX2, None, True),
        (AVX2, "0", False),
        (AVX2, "1", True),
        (VNNI, None, True),
        (VNNI, "0", False),
        ((*AVX2, "avx_vnni"), None, False),
        ((*AVX2, "avx_vnni"), "1", True),
        ((*VNNI, "avx_vnni"), None, True),
        ((*VNNI, "amx_int8"), None, False),
        ((*VNNI, "amx_int8"), "avx2", True),
        (("asimd", "asimddp"), "1", False),
        ((), None, False),
    ],
    ids=str,
)
def test_the_processor_and_the_user_decide(features, choice, used, processor):
    processor(features, choice)
    assert (find_kernels() is not None) is used


@pytest.mark.usefixtures("kernels")
@pytest.mark.parametrize(
    ("features", "choice", "replaced"),
    [(AVX2, None, False), (VNNI, None, True), (VNNI, "1", True), (VNNI, "avx2", False)],
)
def test_dynamic_products_are_replaced_with_vnni(features, choice, replaced, processor):
    processor(features, choice)
    found = find_kernels()
    assert found is not None
    assert (DYNAMIC in found.operators) is replaced


@pytest.mark.usefixtures("kernels")
def test_a_library_with_other_operators_is_left_alone(processor, monkeypatch):
    processor(AVX2, None)
    assert find_kernels() is not None
    monkeypatch.setattr("edgeport_kernels.INTERFACE", 1)
    assert find_kernels() is None


def test_a_session_says_which_nodes_they_run(kernels, processor, tmp_path):
    product = Product(64, 64, 4, 32)
    path = tmp_path / "model.onnx"
    path.write_bytes(product.model().SerializeToString())
    x = np.random.default_rng(0).standard_normal((3, 64)).astype(np.float32)
    results = []
    for choice, nodes in (("1", {PACKAGE: 1}), ("0", {"cpu": 1})):
        processor(AVX2, choice)
        with open_plain_session(path, threads=1) as session:
            assert dict(session.report().nodes) == nodes
            results.append(session.run({"x": x})["y"])
    np.testing.assert_allclose(*results, rtol=1e-3, atol=1e-3 * np.abs(results[0]).max())
