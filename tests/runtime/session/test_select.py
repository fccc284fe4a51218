from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from edgeport.bundle import Variant
from edgeport.errors import BundleError
from edgeport.session import PROVIDERS
from edgeport.session.select import choose_variant

CPU, CUDA = PROVIDERS["cpu"], PROVIDERS["cuda"]
Make = Callable[..., Variant]


def timed(provider: str = "cpu", **milliseconds: float) -> dict[str, Any]:
    times = {shape.removeprefix("at_"): ms for shape, ms in milliseconds.items()}
    return {"latency": {"milliseconds": times, "provider": provider}}


def test_the_fastest_measured_wins(variant_of: Make) -> None:
    variants = {
        "int8": variant_of("int8", measured=timed(at_1x16=5, at_1x128=40)),
        "fp32": variant_of("fp32", measured=timed(at_1x16=3, at_1x128=30)),
    }
    choice = choose_variant(variants, CPU, frozenset(), "1.32.0")
    assert choice.name == "fp32"
    assert choice.reason == "the fastest on cpu when it was exported (30.0 ms at 1x128 against 40.0 ms for int8)"


def test_what_was_measured_elsewhere_or_in_part_does_not_count(variant_of: Make) -> None:
    fast = timed(at_1x16=1)
    for other in ({}, timed("cuda", at_1x16=9), timed(at_1x99=9), {"latency": 3}, {"latency": {"provider": "cpu"}}):
        variants = {"fp32": variant_of("fp32", measured=fast), "int8": variant_of("int8", measured=other)}
        choice = choose_variant(variants, CPU, frozenset(), "1.32.0")
        assert (choice.name, "none was measured" in choice.reason) == ("int8", True)


@pytest.mark.parametrize(("provider", "best"), [(CPU, "int8"), (CUDA, "fp16"), (PROVIDERS["xnnpack"], "fp32")])
def test_without_measurements_the_precision_decides(variant_of: Make, provider: Any, best: str) -> None:
    variants = {p: variant_of(p) for p in ("fp32", "int8", "fp16")}
    assert choose_variant(variants, provider, frozenset(), "1.32.0").name == best


def test_a_variant_for_another_provider_or_cpu_comes_last(variant_of: Make) -> None:
    variants = {
        "int8": variant_of("int8", cpu_features=("avx512_vnni",)),
        "fp16": variant_of("fp16", providers=("cuda",)),
        "fp32": variant_of("fp32"),
    }
    assert choose_variant(variants, CPU, frozenset({"avx2"}), "1.32.0").name == "fp32"
    assert choose_variant(variants, CPU, frozenset({"avx2", "avx512_vnni"}), "1.32.0").name == "int8"
    assert choose_variant(variants, CUDA, frozenset(), "1.32.0").name == "fp16"
    del variants["fp32"]
    assert choose_variant(variants, CPU, frozenset(), "1.32.0").name == "int8"


def test_asked_for_is_given(variant_of: Make) -> None:
    variants = {"int8": variant_of("int8"), "fp16": variant_of("fp16", providers=("cuda",))}
    assert choose_variant(variants, CPU, frozenset(), "1.32.0", asked="fp16").reason == "asked for"
    with pytest.raises(BundleError, match="no variant 'int4': choose one of int8, fp16"):
        choose_variant(variants, CPU, frozenset(), "1.32.0", asked="int4")


def test_versions_are_compared_as_numbers(variant_of: Make) -> None:
    variants = {"int8": variant_of("int8", min_onnxruntime="1.9"), "fp32": variant_of(min_onnxruntime="1.100")}
    assert choose_variant(variants, CPU, frozenset(), "1.32.0rc1").name == "int8"
    with pytest.raises(BundleError, match=r"fp32 needs onnxruntime 1\.100 or newer, and 1\.32\.0 is installed"):
        choose_variant(variants, CPU, frozenset(), "1.32.0", asked="fp32")
    with pytest.raises(BundleError, match=r"int8, fp32 needs onnxruntime 1\.9"):
        choose_variant(variants, CPU, frozenset(), "1.8")
