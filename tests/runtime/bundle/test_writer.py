from __future__ import annotations

import errno
import os
import signal
import subprocess
import sys
import textwrap
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from edgeport.bundle import Bundle, BundleWriter, Manifest, check_target, swap, writer
from edgeport.errors import BundleError, UsageError


def names(folder: Path) -> list[str]:
    return sorted(p.name for p in folder.iterdir())


def write(target: Path, manifest: Manifest, content: str = "new", *, force: bool = True) -> None:
    with BundleWriter(target, force=force) as w:
        for file in ("model.fp32.onnx", "tokenizer.json"):
            (w.directory / file).write_text(content)
        w.commit(manifest)


@pytest.fixture
def manifest(manifest_of: Callable[..., Manifest], variant_of: Callable[..., Any]) -> Manifest:
    return manifest_of({"fp32": variant_of()})


def test_writes_what_the_reader_reads_and_nothing_else(tmp_path: Path, manifest: Manifest) -> None:
    write(tmp_path / "new" / "deep" / "bundle", manifest)
    bundle = Bundle.open(tmp_path / "new" / "deep" / "bundle", verify=True)
    assert set(bundle.manifest.files) == {"model.fp32.onnx", "tokenizer.json"}
    assert names(tmp_path / "new" / "deep") == ["bundle"]


def test_without_commit_nothing_is_left(tmp_path: Path) -> None:
    with BundleWriter(tmp_path / "bundle") as w:
        (w.directory / "model.onnx").write_text("x")
    with pytest.raises(RuntimeError), BundleWriter(tmp_path / "bundle") as w:
        raise RuntimeError
    assert names(tmp_path) == []


@pytest.mark.parametrize("exchange", [True, False])
def test_force_replaces_a_bundle(
    tmp_path: Path, manifest: Manifest, monkeypatch: pytest.MonkeyPatch, exchange: bool
) -> None:
    if not exchange:
        monkeypatch.setattr(swap, "_exchange", lambda a, b: False)
    write(tmp_path / "bundle", manifest, "old")
    with pytest.raises(UsageError, match="--force"):
        write(tmp_path / "bundle", manifest, force=False)
    write(tmp_path / "bundle", manifest, "new")
    assert Bundle.open(tmp_path / "bundle", verify=True).path("tokenizer.json").read_text() == "new"
    assert names(tmp_path) == ["bundle"]


def test_what_is_not_a_bundle_is_never_replaced(tmp_path: Path) -> None:
    (tmp_path / "photos").mkdir()
    (tmp_path / "photos" / "a.jpg").write_text("x")
    (tmp_path / "file").write_text("x")
    for name in ("photos", "file"):
        with pytest.raises(UsageError, match="not a bundle"):
            check_target(tmp_path / name, force=True)
    with pytest.raises(UsageError, match="not a folder"):
        check_target(tmp_path / "file" / "bundle", force=False)
    (tmp_path / "empty").mkdir()
    check_target(tmp_path / "empty", force=False)


def test_a_link_to_a_bundle_stays_a_link(tmp_path: Path, manifest: Manifest) -> None:
    write(tmp_path / "v1", manifest, "old")
    (tmp_path / "current").symlink_to(tmp_path / "v1")
    write(tmp_path / "current", manifest, "new")
    assert (tmp_path / "current").is_symlink()
    assert (tmp_path / "v1" / "tokenizer.json").read_text() == "new"
    assert names(tmp_path) == ["current", "v1"]


def test_a_link_among_the_files_is_refused(tmp_path: Path, manifest: Manifest) -> None:
    with BundleWriter(tmp_path / "bundle") as w:
        (w.directory / "tokenizer.json").symlink_to("/etc/hostname")
        with pytest.raises(BundleError, match="is a link"):
            w.commit(manifest)
    assert names(tmp_path) == []


@pytest.mark.parametrize("where", ["manifest", "flush", "swap"])
def test_full_disk_leaves_the_old_bundle(
    tmp_path: Path, manifest: Manifest, monkeypatch: pytest.MonkeyPatch, where: str
) -> None:
    write(tmp_path / "bundle", manifest, "old")

    def full(*_: object, **__: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    if where == "manifest":
        monkeypatch.setattr(Path, "write_text", full)
    elif where == "flush":
        monkeypatch.setattr(os, "fsync", full)
    else:
        monkeypatch.setattr(writer, "swap_folders", full)
    with BundleWriter(tmp_path / "bundle", force=True) as w:
        (w.directory / "model.fp32.onnx").write_bytes(b"new")
        (w.directory / "tokenizer.json").write_bytes(b"new")
        with pytest.raises(OSError, match="No space left"):
            w.commit(manifest)
    monkeypatch.undo()
    assert Bundle.open(tmp_path / "bundle", verify=True).path("tokenizer.json").read_text() == "old"
    assert names(tmp_path) == ["bundle"]


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs /dev/full")
def test_a_disk_that_is_really_full(tmp_path: Path) -> None:
    def fill() -> None:
        with BundleWriter(tmp_path / "bundle"), Path("/dev/full").open("wb", buffering=0) as f:
            f.write(b"x")

    with pytest.raises(OSError, match="No space left"):
        fill()
    assert names(tmp_path) == []


def test_swap_that_fails_half_way_puts_the_old_back(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("new", "target"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "is").write_text(name)
    monkeypatch.setattr(swap, "_exchange", lambda a, b: False)
    rename = Path.rename

    def fail_for_new(self: Path, to: Path) -> Path:
        if self.name == "new":
            raise OSError(errno.EIO, "broken disk")
        return rename(self, to)

    monkeypatch.setattr(Path, "rename", fail_for_new)
    with pytest.raises(OSError, match="broken disk"):
        swap.swap_folders(tmp_path / "new", tmp_path / "target")
    assert names(tmp_path) == ["new", "target"]
    assert (tmp_path / "target" / "is").read_text() == "target"


KILLED = """
    import os, signal, sys
    from pathlib import Path
    from edgeport.bundle import BundleWriter, Bundle, swap, writer

    target, where = Path(sys.argv[1]), sys.argv[2]
    manifest = Bundle.open(target).manifest

    def die(*_):
        os.kill(os.getpid(), signal.SIGKILL)

    with BundleWriter(target, force=True) as w:
        (w.directory / "model.fp32.onnx").write_text("new")
        if where == "write":
            die()
        (w.directory / "tokenizer.json").write_text("new")
        if where == "hash":
            writer.sha256_of = die
        elif where == "flush":
            writer._flush = die
        elif where == "before the swap":
            writer.swap_folders = die
        elif where == "after the swap":
            writer._flush_names = die
        w.commit(manifest)
"""


@pytest.mark.skipif(not hasattr(signal, "SIGKILL"), reason="needs signals")
@pytest.mark.parametrize("where", ["write", "hash", "flush", "before the swap", "after the swap"])
def test_kill_leaves_one_whole_bundle_and_the_next_writer_cleans_up(
    tmp_path: Path, manifest: Manifest, where: str
) -> None:
    write(tmp_path / "bundle", manifest, "old")
    command = [sys.executable, "-c", textwrap.dedent(KILLED), str(tmp_path / "bundle"), where]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    assert subprocess.run(command, env=environment, check=False).returncode == -signal.SIGKILL
    expected = "new" if where == "after the swap" else "old"
    assert Bundle.open(tmp_path / "bundle", verify=True).path("tokenizer.json").read_text() == expected
    assert len(names(tmp_path)) == 2
    write(tmp_path / "bundle", manifest, "later")
    assert names(tmp_path) == ["bundle"]


def test_a_living_writers_folder_is_left_alone(tmp_path: Path, manifest: Manifest) -> None:
    with BundleWriter(tmp_path / "bundle") as first:
        (first.directory / "model.fp32.onnx").write_text("first")
        write(tmp_path / "bundle", manifest, "second", force=False)
        assert (first.directory / "model.fp32.onnx").read_text() == "first"
    assert names(tmp_path) == ["bundle"]
