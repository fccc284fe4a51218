from __future__ import annotations

import gc
import json
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from edgeport.bundle import Bundle
from edgeport.errors import BundleError, InputError, UsageError
from edgeport.session import open_session
from edgeport.session.memory import peak_rss, rss
from onnx import TensorProto, helper, numpy_helper

GOOD, BAD, FILM = 2, 3, 4


def feeds(*rows: list[int]) -> dict[str, np.ndarray]:
    ids = np.array(rows, dtype=np.int64)
    return {"input_ids": ids, "attention_mask": (ids != 0).astype(np.int64)}


def test_runs_and_names_its_arrays(make_bundle: Callable[..., Bundle]) -> None:
    with open_session(make_bundle()) as session:
        assert session.input_names == ("input_ids", "attention_mask")
        assert session.output_names == ("logits",)
        logits = session.run(feeds([GOOD, FILM, 0], [BAD, BAD, GOOD]))["logits"]
    np.testing.assert_array_equal(logits, [[-1, 1], [1, -1]])


def test_report_tells_how_it_runs(make_bundle: Callable[..., Bundle]) -> None:
    with open_session(make_bundle(), threads=2) as session:
        report = session.report()
    assert (report.variant, report.reason) == ("fp32", "the only variant")
    assert report.providers == ("cpu",)
    assert report.nodes == {"cpu": 5}
    assert report.threads == 2
    assert report.model_bytes == 1000
    text = str(report)
    for line in ("variant      fp32: the only variant", "nodes        5 on cpu", "threads      2"):
        assert line in text
    assert json.loads(json.dumps(report.to_dict()))["nodes"] == {"cpu": 5}


@pytest.mark.parametrize(("threads", "tokens"), [(1, 256), (4, 1024)])
def test_each_thread_asks_for_tokens(make_bundle: Callable[..., Bundle], threads: int, tokens: int) -> None:
    with open_session(make_bundle(), threads=threads) as session:
        assert session.tokens_at_once == tokens


def test_asked_variant_and_component(make_bundle: Callable[..., Bundle], variant_of: Callable[..., Any]) -> None:
    bundle = make_bundle([variant_of("fp32"), variant_of("int8")])
    with open_session(bundle) as session:
        assert session.report().variant == "int8"
    with open_session(bundle, variant="fp32") as session:
        assert session.report().reason == "asked for"
    with pytest.raises(BundleError, match="has no graph 'decoder': it has model"):
        open_session(bundle, component="decoder")


@pytest.mark.parametrize("threads", [0, -1, True, 1.5, "2"])
def test_impossible_threads(make_bundle: Callable[..., Bundle], threads: Any) -> None:
    with pytest.raises(UsageError, match="threads="):
        open_session(make_bundle(), threads=threads)


def test_several_threads_share_a_session(make_bundle: Callable[..., Bundle]) -> None:
    """Runs of all sizes at once, so that shrinking the memory meets runs that use it."""
    with open_session(make_bundle(), threads=1) as session, ThreadPoolExecutor(8) as pool:
        rows = [[GOOD] * (1 + 997 * i % 4000) for i in range(200)]
        for row, result in zip(rows, pool.map(lambda r: session.run(feeds(r)), rows), strict=True):
            np.testing.assert_array_equal(result["logits"], [[-len(row), len(row)]])


def test_closed_sessions_say_so(make_bundle: Callable[..., Bundle]) -> None:
    session = open_session(make_bundle())
    session.close()
    session.close()
    with pytest.raises(UsageError, match="the session is closed"):
        session.run(feeds([GOOD]))
    with pytest.raises(UsageError, match="the session is closed"):
        session.report()


@pytest.mark.parametrize(
    "wrong",
    [
        {"input_ids": np.zeros((1, 2), np.int64)},
        {**feeds([1]), "other": np.zeros(1)},
        {"input_ids": np.zeros((1, 2), np.float32), "attention_mask": np.zeros((1, 2), np.int64)},
        {"input_ids": np.zeros(2, np.int64), "attention_mask": np.zeros(2, np.int64)},
        {"input_ids": np.full((1, 2), 99), "attention_mask": np.zeros((1, 2), np.int64)},
    ],
)
def test_wrong_inputs_are_one_sentence(
    make_bundle: Callable[..., Bundle], wrong: dict[str, Any], capfd: pytest.CaptureFixture[str]
) -> None:
    with open_session(make_bundle()) as session, pytest.raises(InputError, match="the graph does not run on") as error:
        session.run(wrong)
    assert "\n" not in str(error.value)
    assert capfd.readouterr().err == ""  # onnxruntime would log it, too


def broken(model: onnx.ModelProto, how: str) -> bytes:
    if how == "operator":
        model.graph.node[0].op_type = "NoSuchOperator"
    elif how == "domain":
        model.graph.node[0].domain = "custom.library"
    elif how == "opset":
        model.opset_import[0].version = 999
    elif how == "dangling":
        model.graph.node[1].input[0] = "nothing"
    data = model.SerializeToString()
    return data[: len(data) // 2] if how == "truncated" else b"" if how == "empty" else data


@pytest.mark.parametrize("how", ["operator", "domain", "opset", "dangling", "truncated", "empty"])
def test_broken_graphs_are_bundle_errors(
    make_bundle: Callable[..., Bundle], scores: onnx.ModelProto, how: str, capfd: pytest.CaptureFixture[str]
) -> None:
    bundle = make_bundle(graphs={"model.fp32.onnx": broken(scores, how)})
    with pytest.raises(BundleError, match=r"model\.fp32\.onnx") as error:
        open_session(bundle)
    assert "\n" not in str(error.value)
    assert capfd.readouterr().err == ""


def int8_graph(largest: int) -> onnx.ModelProto:
    """x (batch, 64) times a matrix of signed bytes, all at ``largest`` hundredths: the sums that overflow first."""
    weight = numpy_helper.from_array(np.full((64, 8), largest, np.int8), "w")
    scale, zero = numpy_helper.from_array(np.float32(0.01), "s"), numpy_helper.from_array(np.int8(0), "z")
    node = helper.make_node("DynamicQuantizeMatMul", ["x", "w", "s", "z"], ["y"], domain="com.microsoft")
    x, y = (helper.make_tensor_value_info(n, TensorProto.FLOAT, ["b", d]) for n, d in (("x", 64), ("y", 8)))
    opsets = [helper.make_opsetid("", 18), helper.make_opsetid("com.microsoft", 1)]
    return helper.make_model(
        helper.make_graph([node], "g", [x], [y], [weight, scale, zero]), opset_imports=opsets, ir_version=8
    )


def test_weights_of_seven_bits_do_not_saturate(make_bundle: Callable[..., Bundle]) -> None:
    """With eight, x86 processors that have no VNNI return half of it."""
    with open_session(make_bundle(graphs={"model.fp32.onnx": int8_graph(63)})) as session:
        y = session.run({"x": np.ones((2, 64), np.float32)})["y"]
    np.testing.assert_allclose(y, np.full((2, 8), 64 * 0.63), rtol=1e-4)


def widening_graph() -> onnx.ModelProto:
    """x (n,) to a scalar, by way of two arrays of (n, 256): n KiB of memory each."""
    row = numpy_helper.from_array(np.ones((1, 256), np.float32), "row")
    nodes = [
        helper.make_node("Unsqueeze", ["x", "one"], ["column"]),
        helper.make_node("MatMul", ["column", "row"], ["wide"]),
        helper.make_node("Sin", ["wide"], ["wider"]),
        helper.make_node("ReduceSum", ["wider"], ["y"], keepdims=0),
    ]
    x, y = (
        helper.make_tensor_value_info("x", TensorProto.FLOAT, ["n"]),
        helper.make_tensor_value_info("y", TensorProto.FLOAT, []),
    )
    graph = helper.make_graph(nodes, "g", [x], [y], [row, numpy_helper.from_array(np.array([1]), "one")])
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=8)


@pytest.mark.skipif(rss() is None, reason="needs /proc")
def test_memory_comes_back_after_a_large_input(make_bundle: Callable[..., Bundle]) -> None:
    with open_session(make_bundle(graphs={"model.fp32.onnx": widening_graph()})) as session:
        session.run({"x": np.ones(64, np.float32)})
        gc.collect()
        before = rss() or 0
        session.run({"x": np.ones(100_000, np.float32)})  # two arrays of 100 MB
        large = rss() or 0
        session.run({"x": np.ones(64, np.float32)})
        after = rss() or 0
    assert large - before > 90 * 2**20
    assert after - before < 20 * 2**20


@pytest.mark.skipif(rss() is None, reason="needs /proc")
def test_memory_does_not_grow_over_many_shapes(make_bundle: Callable[..., Bundle]) -> None:
    sizes = np.random.default_rng(0).integers(1, 4000, (3, 200))
    with open_session(make_bundle(graphs={"model.fp32.onnx": widening_graph()})) as session:

        def most(row: np.ndarray) -> int:
            seen = 0
            for n in row:
                session.run({"x": np.ones(n, np.float32)})
                seen = max(seen, rss() or 0)
            return seen

        first = most(sizes[0])
        # A memory plan for each shape would make it 55 MB; the rest of the process moves by some.
        assert max(map(most, sizes[1:])) - first < 24 * 2**20
    assert (peak_rss() or 0) >= first


def test_external_data_beside_the_graph_is_read(
    make_bundle: Callable[..., Bundle], variant_of: Callable[..., Any], scores: onnx.ModelProto, tmp_path: Path
) -> None:
    onnx.save(scores, tmp_path / "m.onnx", save_as_external_data=True, location="w.data", size_threshold=50)
    graphs = {name: (tmp_path / name).read_bytes() for name in ("m.onnx", "w.data")}
    bundle = make_bundle([variant_of(graphs={"model": "m.onnx", "data": "w.data"})], graphs)
    with open_session(bundle) as session:
        np.testing.assert_array_equal(session.run(feeds([GOOD]))["logits"], [[-1, 1]])
