"""Open a bundle, and check it as one checks a stranger's parcel.

``Bundle.open`` reads the manifest and checks names and sizes (milliseconds). ``Bundle.verify`` hashes every file.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from edgeport.bundle.files import sha256_of
from edgeport.bundle.manifest import MANIFEST_NAME, Manifest, Variant, check_path
from edgeport.bundle.onnx_scan import external_files
from edgeport.errors import BundleError

__all__ = ["Bundle"]

_MAX_MANIFEST_BYTES = 16 * 2**20


@dataclass(frozen=True)
class Bundle:
    """An opened bundle: a folder and its manifest."""

    root: Path
    manifest: Manifest

    @classmethod
    def open(cls, path: str | Path, *, verify: bool = False) -> Bundle:
        """Open the bundle in the folder ``path``.

        Args:
            path: The bundle's folder.
            verify: Also hash every file (reads the whole bundle).

        Raises:
            BundleError: not a bundle, damaged, unsafe, or of a newer schema.
        """
        root = Path(path)
        if not root.exists():
            raise BundleError(f"there is no folder {str(path)!r}: give the folder that `edgeport export` wrote.")
        if not root.is_dir():
            raise BundleError(f"{str(path)!r} is a file: give the bundle's folder, the one with {MANIFEST_NAME} in it.")
        manifest_path = root / MANIFEST_NAME
        if not manifest_path.is_file():
            raise BundleError(f"{str(path)!r} holds no {MANIFEST_NAME}, so it is no complete bundle: export it again.")
        if not manifest_path.resolve().is_relative_to(root.resolve()):
            raise BundleError(f"{MANIFEST_NAME} is a link that leads outside its folder: do not use this bundle.")
        if manifest_path.stat().st_size > _MAX_MANIFEST_BYTES:
            raise BundleError(
                f"{MANIFEST_NAME} is larger than {_MAX_MANIFEST_BYTES >> 20} MiB: do not use this bundle."
            )
        try:
            text = manifest_path.read_text(encoding="utf-8")
        except UnicodeDecodeError as e:
            raise BundleError(f"{MANIFEST_NAME} is not UTF-8 text: export the model again.") from e
        bundle = cls(root, Manifest.from_json(text))
        bundle._check_files()
        if verify:
            bundle.verify()
        return bundle

    def path(self, name: str) -> Path:
        """The file ``name`` of the bundle, checked to be listed and inside the folder.

        Raises:
            BundleError: the manifest does not list it, or it is missing or leads outside.
        """
        check_path(name)
        if name not in self.manifest.files:
            raise BundleError(f"the bundle uses the file {name!r} but does not list it: export the model again.")
        path = self.root / name
        # A link could lead anywhere, even with an innocent name.
        if not path.resolve().is_relative_to(self.root.resolve()):
            raise BundleError(f"the bundle's file {name!r} leads outside its folder: do not use this bundle.")
        if not path.is_file():
            raise BundleError(f"the bundle's file {name!r} is missing: copy the bundle again, or export it again.")
        return path

    def graph(self, name: str) -> Path:
        """The ONNX file ``name``, checked to read nothing but files of the bundle.

        Raises:
            BundleError: as ``path``, for the graph and for its external data; or it is not an ONNX file.
        """
        path = self.path(name)
        folder = PurePosixPath(name).parent
        for location in external_files(path):
            self.path((folder / location).as_posix())
        return path

    def variant(self, name: str) -> Variant:
        """The variant called ``name``.

        Raises:
            BundleError: there is none; the message lists those there are.
        """
        try:
            return self.manifest.variants[name]
        except KeyError:
            have = ", ".join(self.manifest.variants)
            raise BundleError(f"the bundle has no variant {name!r}: choose one of {have}.") from None

    def verify(self) -> None:
        """Hash every file.

        Raises:
            BundleError: a file's bytes are not those that the manifest recorded.
        """
        for name, record in self.manifest.files.items():
            if sha256_of(self.path(name)) != record.sha256:
                raise BundleError(
                    f"{name!r} has other bytes than when it was exported (SHA-256 differs): copy or export it again."
                )

    def _check_files(self) -> None:
        used = {graph for variant in self.manifest.variants.values() for graph in variant.graphs.values()}
        for name in used | ({self.manifest.text.tokenizer} if self.manifest.text else set()):
            self.path(name)
        for name, record in self.manifest.files.items():
            size = self.path(name).stat().st_size
            if size != record.bytes:
                raise BundleError(
                    f"{name!r} has {size:,} bytes where the manifest says {record.bytes:,}: copy or export it again."
                )
