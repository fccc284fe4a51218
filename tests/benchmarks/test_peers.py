"""Peers: their names, their environments, what their scripts may import, and the arithmetic that is written here."""

from __future__ import annotations

import ast
import json
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from edgeport.errors import EdgeportError, UsageError
from edgeport_bench.peers import environment
from edgeport_bench.peers.catalog import PEERS, resolve_peers
from edgeport_bench.peers.heads import sentence_head
from edgeport_bench.subjects import KINDS
from edgeport_bench.subjects.torch_original import _sentence_head

SCRIPTS = sorted(Path(environment.__file__).parent.glob("run_*.py"))


def test_a_name_is_a_peer_or_one_of_its_flavours() -> None:
    labels = [peer.label(flavour) for peer, flavour in resolve_peers("torch, openvino,optimum-int8,openvino-int8")]
    assert labels == ["torch", "openvino-default", "openvino-int8", "openvino-int4", "optimum-int8"]
    assert resolve_peers("") == []
    with pytest.raises(UsageError, match=r"'openvin' is unknown: did you mean 'openvino'\?"):
        resolve_peers("torch,openvin")


def test_every_peer_has_a_script_and_a_pinned_list() -> None:
    for peer in PEERS.values():
        assert peer.name in KINDS
        for name in {peer.requirements, peer.prepared_by} - {None}:
            lines = environment.requirements(str(name)).split()
            assert lines
            assert all(re.fullmatch(r"[A-Za-z0-9._-]+==[0-9][0-9a-z.]*", line) for line in lines)


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda p: p.stem)
def test_a_script_needs_nothing_of_edgeport_that_its_environment_lacks(script: Path) -> None:
    found = set()
    for path in (script, *(script.with_name(n) for n in ("heads.py", "calibration.py", "__init__.py"))):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.ImportFrom):
                found.add(str(node.module))
            elif isinstance(node, ast.Import):
                found |= {alias.name for alias in node.names}
    ours = {name for name in found if name.startswith("edgeport")}
    shared = {"edgeport_bench.subjects", "edgeport_bench.peers", "edgeport_bench.peers.heads"}
    assert ours <= shared | {"edgeport_bench.peers.calibration", *(f"edgeport_bench.peers.{s.stem}" for s in SCRIPTS)}


def test_the_worker_runs_as_a_file_apart_from_this_environment(tmp_path: Path) -> None:
    """Site packages are switched off: numpy is put back, and nothing of edgeport's own can be imported."""
    from edgeport.session import memory

    (tmp_path / "numpy").symlink_to(Path(np.__file__).parent)
    libraries = Path(np.__file__).parent.with_name("numpy.libs")
    if libraries.is_dir():
        (tmp_path / "numpy.libs").symlink_to(libraries)
    worker = Path(environment.__file__).parents[1] / "worker.py"
    code = (
        f"import sys; sys.path[:0] = [{str(tmp_path)!r}]; import runpy\n"
        f"sys.argv = ['worker', {str(memory.__file__)!r}]\n"
        f"runpy.run_path({str(worker)!r}, run_name='__main__')"
    )
    requests = [{"op": "import", "module": "edgeport_bench.peers.heads"}, {"op": "memory"}]
    requests.append({"op": "import", "module": "edgeport"})
    done = subprocess.run(
        [sys.executable, "-I", "-S", "-c", code],
        input="\n".join(map(json.dumps, requests)),
        capture_output=True,
        text=True,
    )
    imported, used, refused = map(json.loads, done.stdout.splitlines())
    assert imported["import_ms"] > 0
    assert used["peak_rss"] > 1e6
    assert refused["error"] == "ModuleNotFoundError: No module named 'edgeport'"


@pytest.fixture
def commands(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[list[str]]:
    """The commands that would be run, with a cache of its own; pip's exit status is the number of 'bad' packages."""
    found: list[list[str]] = []

    def run(command: list[str], **options: Any) -> subprocess.CompletedProcess[str]:
        found.append(command)
        assert "PYTHONPATH" not in options["env"]
        bad = "bad" in Path(command[-1]).read_text() if command[-2] == "-r" else False
        return subprocess.CompletedProcess(command, int(bad), "", "ERROR: no such package\nmore\n")

    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setenv("PYTHONPATH", "here")
    monkeypatch.setattr(environment.subprocess, "run", run)
    return found


def test_an_environment_is_made_once_for_each_list(commands: list[list[str]], monkeypatch: pytest.MonkeyPatch) -> None:
    first = environment.environment_python("fastembed")
    assert [c[1:3] for c in commands] == [["-m", "venv"], ["-m", "pip"]]
    assert commands[1][0] == str(first)
    assert environment.environment_python("fastembed") == first
    assert len(commands) == 2
    monkeypatch.setattr(environment, "requirements", lambda name: "fastembed==0\n")
    assert environment.environment_python("fastembed") != first
    assert len(commands) == 4


def test_an_environment_that_cannot_be_made_is_one_sentence_and_is_tried_again(
    commands: list[list[str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(environment, "requirements", lambda name: "bad==1\n")
    for _ in range(2):
        with pytest.raises(EdgeportError, match=r"packages of x cannot be installed \(ERROR: no such package\)\."):
            environment.environment_python("x")
    assert len(commands) == 4


def test_what_is_made_of_a_model_is_kept_until_the_model_changes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    model = tmp_path / "model"
    model.mkdir()
    (model / "weights").write_text("1")
    filled: list[Path] = []
    key = environment.model_key(model, "script")
    kept = environment.reserve("x", key, filled.append)
    assert environment.reserve("x", key, filled.append) == kept
    assert filled == [kept]
    (model / "weights").write_text("12")
    assert environment.model_key(model, "script") != key != environment.model_key(model, "other")
    with pytest.raises(ZeroDivisionError):
        environment.reserve("y", key, lambda folder: 1 / 0)
    assert environment.reserve("y", key, filled.append) == filled[-1]


@pytest.mark.parametrize("pooling", ["mean", "cls"])
@pytest.mark.parametrize("normalized", [False, True])
def test_heads_give_what_the_exporter_s_give(tmp_path: Path, pooling: str, normalized: bool) -> None:
    package = "sentence_transformers.models."
    modules = [("", "Transformer"), ("1_Pooling", "Pooling")] + [("2_Normalize", "Normalize")] * normalized
    (tmp_path / "modules.json").write_text(
        json.dumps([{"idx": i, "name": str(i), "path": p, "type": package + t} for i, (p, t) in enumerate(modules)])
    )
    (tmp_path / "1_Pooling").mkdir()
    flags = {"pooling_mode_mean_tokens": pooling == "mean", "pooling_mode_cls_token": pooling == "cls"}
    (tmp_path / "1_Pooling" / "config.json").write_text(json.dumps({"word_embedding_dimension": 8, **flags}))
    hidden = np.random.default_rng(0).normal(size=(2, 5, 8)).astype(np.float32)
    mask = np.array([[1, 1, 1, 1, 1], [1, 1, 0, 0, 0]])
    theirs = _sentence_head(str(tmp_path))(torch.from_numpy(hidden), torch.from_numpy(mask)).numpy()
    np.testing.assert_allclose(sentence_head(tmp_path)(hidden, mask), theirs, rtol=1e-5)


def test_a_head_that_is_not_known_is_no_guess(tmp_path: Path) -> None:
    (tmp_path / "modules.json").write_text(json.dumps([{"type": "a.Transformer"}, {"type": "a.Dense", "path": "x"}]))
    with pytest.raises(NotImplementedError, match="Dense"):
        sentence_head(tmp_path)


def test_rows_of_heads_are_paired_as_llama_cpp_rotates_them() -> None:
    """Scores of rotated queries and keys are the same: by halves as transformers does it, and by neighbours."""
    from edgeport_bench.peers.run_llama_cpp import _interleave
    from transformers.models.llama.modeling_llama import apply_rotary_pos_emb

    heads, size, length = 2, 6, 3
    rng = np.random.default_rng(1)
    query, key = (rng.normal(size=(heads * size, 4)) for _ in range(2))
    texts = rng.normal(size=(length, 4))
    angles = np.outer(np.arange(length), 10000.0 ** (-np.arange(size // 2) / (size // 2)))

    def halves(weights: np.ndarray) -> torch.Tensor:
        return torch.from_numpy((texts @ weights.T).reshape(length, heads, size).swapaxes(0, 1))[None]

    def pairs(weights: np.ndarray) -> np.ndarray:
        x = (texts @ _interleave(weights, heads).T).reshape(length, heads, size // 2, 2)
        turned = (x[..., 0] + 1j * x[..., 1]) * np.exp(1j * angles)[:, None]
        return np.stack([turned.real, turned.imag], axis=-1).reshape(length, heads, size).swapaxes(0, 1)

    doubled = torch.from_numpy(np.concatenate([angles, angles], axis=1))[None]
    q, k = apply_rotary_pos_emb(halves(query), halves(key), doubled.cos(), doubled.sin())
    wanted = (q @ k.transpose(-1, -2))[0].numpy()
    np.testing.assert_allclose(pairs(query) @ pairs(key).swapaxes(1, 2), wanted, atol=1e-9)
