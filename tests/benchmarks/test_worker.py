"""The worker's protocol, in this process and in its own."""

from __future__ import annotations

import io
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from edgeport.errors import BundleError, EdgeportError
from edgeport.session import memory
from edgeport_bench.process import Worker
from edgeport_bench.subjects import KINDS, SubjectSpec
from edgeport_bench.worker import Server
from tiny_bundle import embedding_table

IDS = np.array([[2, 9, 4, 5, 3], [11, 10, 12, 1, 0]])
FEEDS = {"input_ids": IDS, "attention_mask": np.array([[1, 1, 1, 1, 1], [1, 1, 1, 1, 0]])}


def _spec(bundle: Path, variant: str = "fp32") -> SubjectSpec:
    options = {"path": str(bundle), "variant": variant, "providers": None, "threads": 1}
    return SubjectSpec(variant, "bundle", options)


def _serve(*requests: Any) -> list[dict[str, Any]]:
    replies = io.StringIO()
    Server(memory).serve([r if isinstance(r, str) else json.dumps(r) for r in requests], replies)
    return [json.loads(line) for line in replies.getvalue().splitlines()]


def test_every_line_gets_one_reply(tiny_bundle: Path, tmp_path: Path) -> None:
    feeds = tmp_path / "feeds.npz"
    np.savez(feeds, **FEEDS)
    imported, loaded, fed, ran, used = _serve(
        {"op": "import", "module": KINDS["bundle"]},
        {"op": "load", "options": dict(_spec(tiny_bundle).options)},
        {"op": "feed", "tensors": str(feeds), "texts": None, "new_tokens": 0},
        {"op": "run", "times": 4, "untimed": 2},
        {"op": "memory"},
    )
    assert imported["import_ms"] >= 0
    assert loaded["about"]["size_bytes"] == (tiny_bundle / "model.fp32.onnx").stat().st_size
    assert loaded["about"]["report"]["threads"] == 1
    assert fed == {}
    assert len(ran["ms"]) == 4
    assert all(len(run) == 1 and run[0] > 0 for run in ran["ms"])
    assert len(ran["cpu_ms"]) == 4
    assert used["peak_rss"] >= used["rss"] > 0


def test_errors_are_replies_and_the_next_request_is_answered(tiny_bundle: Path) -> None:
    bad = _spec(tiny_bundle, "int3").options
    replies = _serve(
        "{",
        {"op": "fly"},
        {"op": "run", "times": 1, "untimed": 0},
        {"op": "import", "module": KINDS["bundle"]},
        {"op": "load", "options": dict(bad)},
        {"op": "memory"},
    )
    assert [r.get("type", "fine") for r in replies] == [None, None, None, "fine", "BundleError", "fine"]
    assert "int3" in replies[4]["error"]


def test_process_runs_the_graph(tiny_bundle: Path) -> None:
    with Worker(_spec(tiny_bundle)) as worker:
        assert worker.load()["load_ms"] > 0
        worker.feed(FEEDS)
        assert len(worker.run(3).ms) == 3
        found = worker.outputs()["sentence_embedding"]
    rows = embedding_table()[IDS]
    np.testing.assert_allclose(found, [rows[0].mean(axis=0), rows[1, :4].mean(axis=0)], rtol=1e-5)


def test_process_raises_the_worker_s_error(tiny_bundle: Path) -> None:
    with Worker(_spec(tiny_bundle, "int3")) as worker, pytest.raises(BundleError, match="no variant 'int3'"):
        worker.load()


def test_other_errors_name_the_subject(tiny_bundle: Path) -> None:
    with (
        Worker(_spec(tiny_bundle)) as worker,
        pytest.raises(EdgeportError, match=r"^fp32 does not run here \(RuntimeErr"),
    ):
        worker.run(1)


def test_a_dead_process_is_one_sentence(tiny_bundle: Path) -> None:
    with Worker(_spec(tiny_bundle)) as worker:
        worker.load()
        worker._process.kill()
        with pytest.raises(EdgeportError, match="measured fp32 ended by itself"):
            worker.memory()


def test_leaving_ends_the_process(tiny_bundle: Path) -> None:
    with Worker(_spec(tiny_bundle)) as worker:
        worker.load()
    assert worker._process.returncode == 0
    with pytest.raises(ZeroDivisionError), Worker(_spec(tiny_bundle)) as worker:
        _ = 1 / 0
    assert worker._process.returncode is not None


def test_what_a_library_prints_stays_out_of_the_replies() -> None:
    code = (
        "import edgeport_bench.worker as w, edgeport.session.memory as memory\n"
        "w.Server._memory = lambda self, request: print('noise') or {'rss': 1}\n"
        "raise SystemExit(w.main(memory.__file__))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], input='{"op": "memory"}\n', capture_output=True, text=True, check=True
    )
    assert json.loads(done.stdout) == {"rss": 1}
    assert "noise" in done.stderr


def test_worker_of_a_bundle_is_free_of_torch(tiny_bundle: Path) -> None:
    load = {"op": "load", "options": dict(_spec(tiny_bundle).options)}
    code = (
        "import io, json, sys\n"
        "from edgeport.session import memory\n"
        "from edgeport_bench.worker import Server\n"
        f"requests = [{{'op': 'import', 'module': {KINDS['bundle']!r}}}, {load!r}]\n"
        "replies = io.StringIO()\n"
        "Server(memory).serve(map(json.dumps, requests), replies)\n"
        "assert 'error' not in replies.getvalue(), replies.getvalue()\n"
        "print(*sorted({'torch', 'transformers', 'onnx', 'rich', 'scipy', 'edgeport_export'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == ""
