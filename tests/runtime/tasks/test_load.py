"""``edgeport.load``: the parts it puts together, and what it refuses. The session is a fake."""

from __future__ import annotations

import json
import sys
import types
from pathlib import Path
from typing import Any

import edgeport
import pytest
from edgeport.bundle import BundleWriter

LABELS = ["A", "B"]


class _Session:
    tokens_at_once = 512

    def __init__(self, bundle: Any, options: dict[str, Any]) -> None:
        self.bundle, self.options, self.closed = bundle, options, False

    def run(self, feeds: dict[str, Any]) -> dict[str, Any]:
        import numpy as np

        return {"logits": np.stack([feeds["attention_mask"].sum(axis=1), feeds["input_ids"][:, 1]], axis=1) * 0.01}

    def report(self) -> dict[str, Any]:
        return self.options

    def close(self) -> None:
        self.closed = True


@pytest.fixture
def sessions(monkeypatch: pytest.MonkeyPatch) -> list[_Session]:
    opened: list[_Session] = []

    def open_session(bundle: Any, **options: Any) -> _Session:
        opened.append(_Session(bundle, options))
        return opened[-1]

    fake = types.ModuleType("edgeport.session")
    fake.open_session = open_session  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "edgeport.session", fake)
    return opened


@pytest.fixture
def bundle(tmp_path: Path, tokenizers: Any, make: Any) -> Path:
    manifest = make("text-classification", None, tokenizers["wordpiece"], labels=LABELS).bundle.manifest
    with BundleWriter(tmp_path / "bundle") as writer:
        (writer.directory / "model.fp32.onnx").write_bytes(b"")
        tokenizers["wordpiece"].backend_tokenizer.save(str(writer.directory / "tokenizer.json"))
        writer.commit(manifest)
    return tmp_path / "bundle"


def _edit(bundle: Path, **changes: Any) -> None:
    path = bundle / "edgeport.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


def test_load(bundle: Path, sessions: list[_Session]) -> None:
    with edgeport.load(bundle, variant="fp32", providers=["cpu"], threads=2, batch_size=7) as pipe:
        assert isinstance(pipe, edgeport.Pipeline)
        assert pipe.task == "text-classification"
        [result] = pipe("the fox")
        assert result["label"] in LABELS
        assert pipe.report() == {"variant": "fp32", "providers": ["cpu"], "threads": 2}
        assert pipe.bundle.root == bundle
    assert sessions[0].closed


def test_verify(bundle: Path, sessions: list[_Session]) -> None:
    tokenizer = bundle / "tokenizer.json"
    data = tokenizer.read_bytes()
    tokenizer.write_bytes(data.replace(b"quick", b"quack").replace(b"fox", b"fax"))
    if tokenizer.read_bytes() == data:
        tokenizer.write_bytes(data[:-2] + b" }")
    with pytest.raises(edgeport.BundleError, match="SHA-256"):
        edgeport.load(bundle, verify=True)
    assert sessions == []


def test_an_unknown_task(bundle: Path, sessions: list[_Session]) -> None:
    _edit(bundle, task="time-travel")
    with pytest.raises(edgeport.BundleError, match=r"'time-travel'.*text-classification"):
        edgeport.load(bundle)


def test_no_tokenizer(bundle: Path, sessions: list[_Session]) -> None:
    _edit(bundle, text=None)
    with pytest.raises(edgeport.BundleError, match="tokenizer"):
        edgeport.load(bundle)


def test_the_session_is_closed_when_the_pipeline_is_refused(bundle: Path, sessions: list[_Session]) -> None:
    with pytest.raises(edgeport.UsageError, match="batch_size"):
        edgeport.load(bundle, batch_size=0)
    assert [s.closed for s in sessions] == [True]


def test_no_bundle(tmp_path: Path) -> None:
    with pytest.raises(edgeport.BundleError, match="no folder"):
        edgeport.load(tmp_path / "nothing")
