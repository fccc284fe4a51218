"""Write a bundle so that it is either whole or not there.

Files go into a hidden folder beside the target; the manifest is written last; then one rename puts it in place. An old
bundle changes places with the new one and is deleted after that, so a crash at any point loses nothing.
"""

from __future__ import annotations

import os
import shutil
import tempfile
from dataclasses import dataclass, replace
from pathlib import Path
from types import TracebackType

from edgeport.bundle.files import sha256_of
from edgeport.bundle.leftovers import hold, remove_leftovers
from edgeport.bundle.manifest import MANIFEST_NAME, FileRecord, Manifest, check_path
from edgeport.bundle.swap import swap_folders
from edgeport.errors import BundleError, UsageError

__all__ = ["BundleWriter", "check_target"]


def check_target(target: Path, *, force: bool) -> None:
    """Refuse early what ``BundleWriter`` would refuse late.

    Raises:
        UsageError: ``target`` exists and ``force`` is off, or it exists and is not a bundle (never overwritten), or its
            parent cannot be written.
    """
    if target.exists() or target.is_symlink():
        bundle = (target / MANIFEST_NAME).is_file()
        empty = target.is_dir() and not target.is_symlink() and not any(target.iterdir())
        if not bundle and not empty:
            raise UsageError(f"{str(target)!r} exists and is not a bundle, so it is left alone: choose another folder.")
        if bundle and not force:
            raise UsageError(f"{str(target)!r} exists: choose another folder, or replace it with --force.")
    parent = target.absolute().parent
    existing = next(p for p in (parent, *parent.parents) if p.exists())
    if not existing.is_dir() or not os.access(existing, os.W_OK):
        raise UsageError(f"{str(existing)!r} is not a folder that can be written: choose another place for the bundle.")


@dataclass
class BundleWriter:
    """A context manager that collects a bundle's files and puts them in place at the end.

    Use ``directory`` to write files, then ``commit``. Leaving the context without a commit removes everything.
    """

    target: Path
    force: bool = False

    def __enter__(self) -> BundleWriter:
        check_target(self.target, force=self.force)
        self.target = self.target.resolve()  # a link to a bundle stays, and what it leads to is replaced
        self.target.parent.mkdir(parents=True, exist_ok=True)
        remove_leftovers(self.target)
        self.directory = Path(
            tempfile.mkdtemp(prefix=f".{self.target.name}.", suffix=".partial", dir=self.target.parent)
        )
        self._lock = hold(self.directory)
        self.directory.chmod(0o755)  # mkdtemp makes it private, and a bundle is there to be shared
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        shutil.rmtree(self.directory, ignore_errors=True)
        if self._lock is not None:
            os.close(self._lock)

    def commit(self, manifest: Manifest) -> Manifest:
        """Hash what lies in ``directory``, write ``manifest`` with these files, and rename; returns what it wrote."""
        from concurrent.futures import ThreadPoolExecutor  # not for the device, which only reads bundles

        written = sorted(self.directory.rglob("*"))
        links = [p.name for p in written if p.is_symlink()]
        if links:
            raise BundleError(f"{links[0]!r} is a link, and a bundle is complete by itself: put the file itself there.")
        names = {check_path(p.relative_to(self.directory).as_posix()): p for p in written if p.is_file()}
        with ThreadPoolExecutor() as threads:  # one file waits for the disk while another is hashed
            records = dict(zip(names, threads.map(_recorded, names.values()), strict=True))
        manifest = replace(manifest, files=records)
        (self.directory / MANIFEST_NAME).write_text(manifest.to_json(), encoding="utf-8")
        _flush(self.directory / MANIFEST_NAME)
        self._replace_target()
        return manifest

    def _replace_target(self) -> None:
        if self.target.exists():
            swap_folders(self.directory, self.target)  # the old bundle is then in the hidden folder, and goes with it
        else:
            self.directory.rename(self.target)
        _flush_names(self.target.parent)


def _recorded(path: Path) -> FileRecord:
    _flush(path)
    return FileRecord(sha256_of(path), path.stat().st_size)


def _flush(path: Path) -> None:
    """Force the file to disk, so that a power cut after the rename cannot leave it empty."""
    with path.open("rb") as f:
        os.fsync(f.fileno())


def _flush_names(folder: Path) -> None:
    """Force the folder's list of names to disk, so that the rename itself outlives a power cut."""
    if os.name != "posix":  # Windows opens no folders
        return
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
