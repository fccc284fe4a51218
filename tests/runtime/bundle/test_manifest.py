from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import pytest
from edgeport.bundle import SCHEMA, FileRecord, Manifest
from edgeport.errors import BundleError


@pytest.fixture
def data(manifest_of: Callable[..., Manifest], variant_of: Callable[..., Any]) -> dict[str, Any]:
    files = {"model.fp32.onnx": FileRecord("0" * 64, 1), "tokenizer.json": FileRecord("1" * 64, 2)}
    manifest = manifest_of({"fp32": variant_of(measured={"parity": {"cosine": 1.0}})}, files, created="now")
    loaded: dict[str, Any] = json.loads(manifest.to_json())
    return loaded


def test_json_and_back_is_the_same(data: dict[str, Any]) -> None:
    manifest = Manifest.from_json(json.dumps(data))
    assert json.loads(manifest.to_json()) == data
    assert Manifest.from_json(manifest.to_json()) == manifest


def test_unknown_keys_are_ignored(data: dict[str, Any]) -> None:
    data["later"] = {"addition": 1}
    data["variants"]["fp32"]["later"] = 2
    Manifest.from_json(json.dumps(data))


@pytest.mark.parametrize("text", ["", "{", "[]", "null", '"x"', "{}", "[" * 100_000, '{"schema": 1e999}'])
def test_what_is_no_manifest_is_refused(text: str) -> None:
    with pytest.raises(BundleError):
        Manifest.from_json(text)


def test_newer_schema_says_what_to_do(data: dict[str, Any]) -> None:
    data["schema"] = SCHEMA + 1
    data["variants"] = "of a shape that this version cannot know"
    with pytest.raises(BundleError, match=f"schema {SCHEMA + 1}.*up to {SCHEMA}.*pip install --upgrade edgeport"):
        Manifest.from_json(json.dumps(data))


@pytest.mark.parametrize("schema", [None, 0, -1, True, "1", 1.0])
def test_bad_schema_is_refused(data: dict[str, Any], schema: object) -> None:
    data["schema"] = schema
    with pytest.raises(BundleError, match="no edgeport bundle"):
        Manifest.from_json(json.dumps(data))


@pytest.mark.parametrize(
    ("path", "value"),
    [
        (("task",), 3),
        (("labels",), ["a", 1]),
        (("labels",), "ab"),
        (("inputs", 0, "shape"), ["batch", 1.5]),
        (("inputs", 0, "shape"), ["batch", True]),
        (("files", "tokenizer.json", "bytes"), "2"),
        (("variants", "fp32", "size_bytes"), True),
        (("variants", "fp32", "graphs"), ["model.onnx"]),
        (("variants",), {}),
        (("source",), None),
        (("text", "max_length"), None),
        (("text", "max_length"), 0),
        (("text", "max_length"), 10**30),
        (("text", "fixed_length"), -1),
        (("text", "fixed_batch"), 10**9),
    ],
)
def test_wrong_values_name_the_field(data: dict[str, Any], path: tuple[Any, ...], value: object) -> None:
    place = data
    for key in path[:-1]:
        place = place[key]
    place[path[-1]] = value
    with pytest.raises(BundleError) as error:
        Manifest.from_json(json.dumps(data))
    assert "variant" in str(error.value) or str(path[-1]) in str(error.value)


@pytest.mark.parametrize("key", ["task", "source", "variants", "inputs", "outputs", "files"])
def test_missing_fields_are_named(data: dict[str, Any], key: str) -> None:
    del data[key]
    with pytest.raises(BundleError, match=f"lacks '{key}'"):
        Manifest.from_json(json.dumps(data))


UNSAFE = ["../x", "a/../../x", "/etc/passwd", "C:\\x", "C:/x", "..\\x", "a\\..\\x", "", ".", "./", "a\0b", "file:x"]


@pytest.mark.parametrize("name", UNSAFE)
@pytest.mark.parametrize("field", ["files", "graphs", "tokenizer"])
def test_paths_that_leave_the_folder_are_refused_in_every_field(data: dict[str, Any], field: str, name: str) -> None:
    if field == "files":
        data["files"][name] = {"sha256": "0" * 64, "bytes": 1}
    elif field == "graphs":
        data["variants"]["fp32"]["graphs"]["other"] = name
    else:
        data["text"]["tokenizer"] = name
    with pytest.raises(BundleError, match="outside its folder"):
        Manifest.from_json(json.dumps(data))
