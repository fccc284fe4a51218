from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import onnx
import pytest
from edgeport.bundle import MANIFEST_NAME, Bundle
from edgeport.errors import BundleError
from onnx.external_data_helper import convert_model_to_external_data


def edit(bundle: Bundle, change: Callable[[dict[str, Any]], object]) -> None:
    path = bundle.root / MANIFEST_NAME
    data = json.loads(path.read_text())
    change(data)
    path.write_text(json.dumps(data))


def test_a_whole_bundle_opens_and_verifies(make_bundle: Callable[..., Bundle]) -> None:
    bundle = Bundle.open(make_bundle().root, verify=True)
    assert bundle.path("tokenizer.json").is_file()
    assert bundle.variant("fp32").opset == 18


def test_no_folder_a_file_and_a_folder_without_manifest(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("x")
    (tmp_path / "folder").mkdir()
    with pytest.raises(BundleError, match="there is no folder"):
        Bundle.open(tmp_path / "nothing")
    with pytest.raises(BundleError, match="is a file"):
        Bundle.open(tmp_path / "file")
    with pytest.raises(BundleError, match=r"holds no edgeport\.json"):
        Bundle.open(tmp_path / "folder")


def test_truncated_file_is_found_on_opening(make_bundle: Callable[..., Bundle]) -> None:
    bundle = make_bundle()
    graph = bundle.path("model.fp32.onnx")
    graph.write_bytes(graph.read_bytes()[:-10])
    with pytest.raises(BundleError, match=r"'model.fp32.onnx' has .* bytes where the manifest says"):
        Bundle.open(bundle.root)


def test_changed_byte_is_found_by_verify_alone(make_bundle: Callable[..., Bundle]) -> None:
    bundle = make_bundle()
    path = bundle.path("tokenizer.json")
    data = bytearray(path.read_bytes())
    data[5] ^= 1
    path.write_bytes(bytes(data))
    Bundle.open(bundle.root)
    with pytest.raises(BundleError, match=r"'tokenizer.json' has other bytes .*SHA-256"):
        Bundle.open(bundle.root, verify=True)


def test_missing_file(make_bundle: Callable[..., Bundle]) -> None:
    bundle = make_bundle()
    bundle.path("tokenizer.json").unlink()
    with pytest.raises(BundleError, match=r"'tokenizer\.json' is missing"):
        Bundle.open(bundle.root)


@pytest.mark.parametrize("name", ["model.fp32.onnx", "tokenizer.json"])
def test_a_file_that_is_used_must_be_listed(make_bundle: Callable[..., Bundle], name: str) -> None:
    bundle = make_bundle()
    edit(bundle, lambda data: data["files"].pop(name))
    with pytest.raises(BundleError, match=f"uses the file '{name}' but does not list it"):
        Bundle.open(bundle.root)


@pytest.mark.parametrize("name", ["tokenizer.json", MANIFEST_NAME])
def test_links_that_lead_outside_are_refused(make_bundle: Callable[..., Bundle], tmp_path: Path, name: str) -> None:
    bundle = make_bundle()
    outside = tmp_path / "outside"
    (bundle.root / name).rename(outside)
    (bundle.root / name).symlink_to(outside)
    with pytest.raises(BundleError, match="leads outside its folder"):
        Bundle.open(bundle.root)


def test_a_linked_folder_inside_is_refused(make_bundle: Callable[..., Bundle], tmp_path: Path) -> None:
    bundle = make_bundle()
    (tmp_path / "outside").mkdir()
    (tmp_path / "outside" / "x").write_text("1")
    (bundle.root / "sub").symlink_to(tmp_path / "outside")
    edit(bundle, lambda data: data["files"].update({"sub/x": {"sha256": "0" * 64, "bytes": 1}}))
    with pytest.raises(BundleError, match="leads outside"):
        Bundle.open(bundle.root)


def test_a_bundle_behind_a_link_opens(make_bundle: Callable[..., Bundle], tmp_path: Path) -> None:
    (tmp_path / "current").symlink_to(make_bundle().root)
    Bundle.open(tmp_path / "current", verify=True)


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="needs named pipes")
def test_a_pipe_in_place_of_a_file_does_not_hang(make_bundle: Callable[..., Bundle]) -> None:
    bundle = make_bundle()
    bundle.path("tokenizer.json").unlink()
    os.mkfifo(bundle.root / "tokenizer.json")
    with pytest.raises(BundleError, match="is missing"):
        Bundle.open(bundle.root)


def test_a_huge_manifest_is_not_read(make_bundle: Callable[..., Bundle]) -> None:
    bundle = make_bundle()
    with (bundle.root / MANIFEST_NAME).open("ab") as f:
        f.truncate(2**40)  # sparse: a terabyte that takes no room
    with pytest.raises(BundleError, match="larger than 16 MiB"):
        Bundle.open(bundle.root)


def test_a_manifest_that_is_not_text(make_bundle: Callable[..., Bundle]) -> None:
    bundle = make_bundle()
    (bundle.root / MANIFEST_NAME).write_bytes(b"\xff\xfe\x00")
    with pytest.raises(BundleError, match="not UTF-8"):
        Bundle.open(bundle.root)


def test_unknown_variant_lists_those_there_are(make_bundle: Callable[..., Bundle]) -> None:
    with pytest.raises(BundleError, match="no variant 'int4': choose one of fp32"):
        make_bundle().variant("int4")


def external(model: onnx.ModelProto, folder: Path, location: str) -> bytes:
    """``model`` with its largest weight stored as external data at ``location``."""
    convert_model_to_external_data(model, location="weights.data", size_threshold=50)
    onnx.save(model, folder / "tmp.onnx")
    for tensor in model.graph.initializer:
        for entry in tensor.external_data:
            if entry.key == "location":
                entry.value = location
    return model.SerializeToString()


@pytest.mark.parametrize("location", ["../weights.data", "/etc/passwd", "sub/../../x", "C:\\x", "unlisted.data"])
def test_external_data_outside_is_refused(
    make_bundle: Callable[..., Bundle], scores: onnx.ModelProto, tmp_path: Path, location: str
) -> None:
    bundle = make_bundle(graphs={"model.fp32.onnx": external(scores, tmp_path, location)})
    with pytest.raises(BundleError, match=r"outside its folder|does not list it"):
        bundle.graph("model.fp32.onnx")


def test_external_data_inside_is_found_beside_its_graph(
    make_bundle: Callable[..., Bundle], variant_of: Callable[..., Any], scores: onnx.ModelProto, tmp_path: Path
) -> None:
    variants = [variant_of(graphs={"model": "sub/model.onnx", "data": "sub/w.data"})]
    graph = external(scores, tmp_path, "w.data")
    bundle = make_bundle(variants, {"sub/model.onnx": graph, "sub/w.data": (tmp_path / "weights.data").read_bytes()})
    assert bundle.graph("sub/model.onnx") == bundle.root / "sub/model.onnx"
