"""What torch.onnx makes of a program that it does not run again is what it makes of one that it does."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any

import numpy as np
import onnx_ir as ir
import onnxruntime
import pytest
import torch
from edgeport_export.capture.vocabulary import spoken
from torch import Tensor, nn
from torch.onnx._internal.fx.passes import type_promotion


class Mixed(nn.Module):  # type: ignore[misc]
    """Types that torch converts by itself: integers and floats, numbers, truth values, sizes, half precision."""

    def forward(self, ids: Tensor, x: Tensor) -> tuple[Tensor, ...]:
        many = ids > 2
        half = x.half()
        return (
            ids * x + ids / 2,
            many * x - 1,
            torch.where(many, x, 0) + x.shape[0],
            ids + 0.5,
            (half * 2 + x).reshape(-1, 2),
            torch.nn.functional.softmax(ids * 2.0, dim=-1).type_as(half) * half,
        )


IDS, X = torch.arange(12).reshape(3, 4), torch.linspace(-1, 1, 12).reshape(3, 4)


def _traced() -> ir.Model:
    axes = {0: "rows", 1: "columns"}
    with warnings.catch_warnings():  # both inputs have the same axes
        warnings.simplefilter("ignore")
        program = torch.onnx.export(
            Mixed().eval(), (IDS, X), dynamo=True, dynamic_shapes=(axes, axes), opset_version=20, verbose=False
        )
    assert program is not None
    model: ir.Model = program.model
    return model


def _written(model: ir.Model) -> list[Any]:
    return [(node.op_type, [str(v.dtype) for v in node.outputs]) for node in model.graph]


def test_conversions_are_written_down(tmp_path: Path) -> None:
    usual = _written(_traced())
    with spoken():
        model = _traced()
    assert _written(model) == usual
    assert sum(op == "Cast" for op, _ in usual) >= 6
    ir.save(model, tmp_path / "mixed.onnx")
    session = onnxruntime.InferenceSession(tmp_path / "mixed.onnx")
    ids, x = IDS[:2].repeat(2, 1), X[1:].repeat(2, 1)
    found = session.run(None, {i.name: t.numpy() for i, t in zip(session.get_inputs(), (ids, x), strict=True)})
    for got, want in zip(found, Mixed()(ids, x), strict=True):
        assert got.dtype == want.numpy().dtype
        np.testing.assert_allclose(got, want.numpy(), rtol=1e-3)


def test_only_what_is_added_runs(monkeypatch: pytest.MonkeyPatch) -> None:
    ran = []

    class Counted(type_promotion._TypePromotionInterpreter):  # type: ignore[misc]
        def call_function(self, target: Any, args: Any, kwargs: Any) -> Any:
            ran.append(target)
            return super().call_function(target, args, kwargs)

    monkeypatch.setattr(type_promotion, "_TypePromotionInterpreter", Counted)
    _traced()
    everything = len(ran)
    with spoken():
        _traced()
    assert 0 < len(ran) - everything < everything / 2
