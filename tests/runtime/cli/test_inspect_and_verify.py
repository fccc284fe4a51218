from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import pytest
from edgeport.bundle import MANIFEST_NAME, SCHEMA, Bundle
from edgeport.cli import main


@pytest.fixture
def rich_bundle(make_bundle: Callable[..., Bundle], variant_of: Callable[..., Any]) -> Bundle:
    def measured(ms: float) -> dict[str, Any]:
        return {
            "parity": {"max_abs": 2.4e-7, "cosine": 0.99998, "agreement": 0.998},
            "latency": {"milliseconds": {"1x16": ms, "1x128": 8 * ms}, "provider": "cpu"},
        }

    operators = {f"Operator{i}": 99 - i for i in range(30)}
    return make_bundle(
        [
            variant_of("fp32", measured=measured(4), operators=operators, notes=("as captured",)),
            variant_of("int8", measured=measured(2.5), size_bytes=23_000_000, operators=operators),
        ],
        task_options={"function_to_apply": "softmax", "names": ["a long name"] * 40},
        versions={"edgeport": "0.1.0", "torch": "2.13.0"},
        labels=tuple(f"label {i}" for i in range(77)),
    )


def test_inspect_tells_what_a_compression_cost(
    make_bundle: Callable[..., Bundle], variant_of: Callable[..., Any], capsys: pytest.CaptureFixture[str]
) -> None:
    ratio = {"value": 1.5, "low": 1.4, "high": 1.6}
    loss = {"value": 0.25, "low": -0.1, "high": 0.6, "unit": "points", "metric": "accuracy", "rows": 2056}
    measured = {"compression": {**loss, "times_as_fast_as": {"torch fp32": ratio, "odd": 3}}}
    bundle = make_bundle([variant_of("int8", measured=measured), variant_of("fp32")])
    assert main(["inspect", str(bundle.root)]) == 0
    said = " ".join(capsys.readouterr().out.split())
    assert "int8 lost 0.25 (-0.10 to 0.60) points of accuracy on 2056 rows" in said
    assert "1.50 x torch fp32" in said


def test_inspect_fits_a_terminal(rich_bundle: Bundle, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["inspect", str(rich_bundle.root)]) == 0
    out = capsys.readouterr().out
    assert max(map(len, out.splitlines())) <= 100
    for part in (
        "model       tiny", "task        text-classification", "77: label 0, label 1", "and 65 more",
        "input_ids int64[batch, sequence]", "ms at 1x128", "23.0 MB", "2.4e-07", "0.99998", "99.8%", "tokenizer.json",
        "runs here   int8: the fastest on cpu", "torch 2.13.0",
    ):  # fmt: skip
        assert part in out
    table = out.splitlines().index(next(line for line in out.splitlines() if line.startswith("variant")))
    head, fp32, int8 = out.splitlines()[table : table + 3]
    assert head.endswith("ms at 1x128")
    assert len(head) == len(fp32) == len(int8)


def test_inspect_json_is_the_manifest(rich_bundle: Bundle, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["inspect", str(rich_bundle.root), "--json"]) == 0
    assert capsys.readouterr().out == (rich_bundle.root / MANIFEST_NAME).read_text()


def test_inspect_of_a_bare_manifest(make_bundle: Callable[..., Bundle], capsys: pytest.CaptureFixture[str]) -> None:
    """Everything optional left out, and measurements of another make."""
    bundle = make_bundle(text=None, labels=(), task="some-later-task")
    data = json.loads((bundle.root / MANIFEST_NAME).read_text())
    data["variants"]["fp32"]["measured"] = {"parity": [1, 2], "latency": {"milliseconds": {"1x1": "fast"}}}
    (bundle.root / MANIFEST_NAME).write_text(json.dumps(data))
    assert main(["inspect", str(bundle.root)]) == 0
    assert "some-later-task" in capsys.readouterr().out


def test_verify_says_what_it_checked(rich_bundle: Bundle, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["verify", str(rich_bundle.root)]) == 0
    rows = [line.split(maxsplit=1) for line in capsys.readouterr().out.splitlines()]
    assert [status for status, _ in rows] == ["ok"] * 5
    names = ("manifest", "hashes", "tokenizer", "graph fp32", "graph int8")
    assert all(text.startswith(name) for (_, text), name in zip(rows, names, strict=True))


def change(bundle: Bundle, what: str) -> None:
    manifest = bundle.root / MANIFEST_NAME
    data = json.loads(manifest.read_text())
    if what == "graphs' outputs":
        data["outputs"][0]["name"] = "other"
    elif what == "a newer schema":
        data["schema"] = SCHEMA + 1
    elif what == "the tokenizer":
        path = bundle.path("tokenizer.json")
        path.write_text("{".ljust(path.stat().st_size))
    elif what == "a hash":
        data["files"]["model.int8.onnx"]["sha256"] = "0" * 64
    elif what == "the manifest":
        manifest.write_text("{")
        return
    manifest.write_text(json.dumps(data))


@pytest.mark.parametrize(
    ("what", "failed"),
    [
        ("a hash", ["hashes"]),
        ("the tokenizer", ["hashes", "tokenizer"]),
        ("graphs' outputs", ["graph fp32", "graph int8"]),
        ("a newer schema", ["manifest"]),
        ("the manifest", ["manifest"]),
    ],
)
def test_verify_finds_what_is_wrong(
    rich_bundle: Bundle, capsys: pytest.CaptureFixture[str], what: str, failed: list[str]
) -> None:
    change(rich_bundle, what)
    assert main(["verify", str(rich_bundle.root), "--json"]) == 1
    result = json.loads(capsys.readouterr().out)
    assert result["ok"] is False
    assert [c["name"] for c in result["checks"] if not c["ok"]] == failed
    assert main(["verify", str(rich_bundle.root)]) == 1
    assert "FAILED" in capsys.readouterr().out


def test_verify_of_a_broken_graph_goes_on_to_the_next(
    make_bundle: Callable[..., Bundle], variant_of: Callable[..., Any], capsys: pytest.CaptureFixture[str]
) -> None:
    bundle = make_bundle([variant_of("fp32"), variant_of("int8")], {"model.fp32.onnx": b"no graph"})
    assert main(["verify", str(bundle.root)]) == 1
    out, err = capsys.readouterr()
    assert "FAILED  graph fp32" in out
    assert "ok      graph int8" in out
    assert err == ""
