"""Checkpoints that come quantized: packed tensors become ``Quantized`` matrices, integer by integer.

Two formats, both of which put the integers of a layer, (inputs, outputs), into int32 words, the lowest bits first:

- GPTQ (AutoGPTQ, GPTQModel): ``qweight`` (inputs / n, outputs), n neighbouring inputs a word; ``qzeros`` (groups,
  outputs / n), n neighbouring outputs a word, less one in the first version of the format (``gptq``) and as they are in
  the second (``gptq_v2``); ``scales`` (groups, outputs); ``g_idx`` (inputs), the group of each input. Inputs that were
  rounded in the order of their activity have groups that are scattered over the row.
- AWQ (AutoAWQ, version ``gemm``): ``qweight`` (inputs, outputs / 8) and ``qzeros`` (groups, outputs / 8), eight outputs
  a word in the order 0 2 4 6 1 3 5 7; ``scales`` (groups, outputs). Groups follow each other.

A weight is (integer - zero point) x scale of its group. Groups that are larger than the kernels' blocks become several
blocks with the same scale. Knows numpy; who reads files and builds models is ``source``.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from edgeport.errors import ExportError
from numpy.typing import NDArray

from edgeport_export.quantize.blockwise import Grid, Quantized

__all__ = ["AWQFormat", "Format", "GPTQFormat", "format_of", "unpacked"]

_BLOCK_SIZES = (128, 64, 32, 16)
_WORD = 32
"""Bits."""

Array = NDArray[Any]


@dataclass(frozen=True)
class Format(ABC):
    """How a checkpoint packs its layers."""

    bits: int
    group_size: int
    """Inputs that share a scale; -1 for all of them."""

    @property
    def block_size(self) -> int:
        """The largest that the kernels take and that no group ends in."""
        fitting = (size for size in _BLOCK_SIZES if self.group_size == -1 or self.group_size % size == 0)
        return next(fitting, 0)

    @abstractmethod
    def integers(self, words: Array) -> NDArray[np.uint8]:
        """``qweight`` as (inputs, outputs)."""

    @abstractmethod
    def zeros(self, words: Array) -> NDArray[np.uint8]:
        """``qzeros`` as (groups, outputs)."""


@dataclass(frozen=True)
class GPTQFormat(Format):
    """GPTQ."""

    less_one: bool = True
    """Zero points are stored less one."""

    def integers(self, words: Array) -> NDArray[np.uint8]:
        return _apart(words.T, self.bits).T

    def zeros(self, words: Array) -> NDArray[np.uint8]:
        stored = _apart(words, self.bits)
        return (stored + np.uint8(1)) & np.uint8(2**self.bits - 1) if self.less_one else stored


@dataclass(frozen=True)
class AWQFormat(Format):
    """AWQ, version gemm."""

    def integers(self, words: Array) -> NDArray[np.uint8]:
        return _apart(words, self.bits, (0, 2, 4, 6, 1, 3, 5, 7))

    def zeros(self, words: Array) -> NDArray[np.uint8]:
        return self.integers(words)


def format_of(config: Mapping[str, Any]) -> Format:
    """The format of a ``quantization_config``.

    Raises:
        ExportError: a method, version, number of bits or group size that is not read.
    """
    method = str(config.get("quant_method")).lower()
    if method not in _FORMATS:
        raise ExportError(
            f"the checkpoint comes quantized by {method!r}, and of those {' and '.join(_FORMATS)} are read: "
            "give one of them, or the model as it was before."
        )
    version = str(config.get("checkpoint_format") or config.get("version") or config.get("format") or "").lower()
    if config.get("backend") == "llm-awq":
        version = "llm-awq"
    versions, bits = _FORMATS[method]
    if version and version not in versions:
        raise ExportError(
            f"the checkpoint is packed in {method}'s format {version!r}, and {' and '.join(versions)} are read: "
            "convert it, or give the model as it was before."
        )
    if config.get("bits") not in bits:
        raise ExportError(
            f"the checkpoint has {config.get('bits')!r} bits, and of {method} {' and '.join(map(str, bits))} are read: "
            "give one of those, or the model as it was before."
        )
    size = config.get("group_size", -1)
    if not isinstance(size, int) or (size != -1 and (size < 1 or size % _BLOCK_SIZES[-1])):
        raise ExportError(f"the checkpoint has groups of {size!r}: -1 and multiples of {_BLOCK_SIZES[-1]} are read.")
    if method == "awq":
        return AWQFormat(config["bits"], size)
    return GPTQFormat(config["bits"], size, less_one=version != "gptq_v2")


_FORMATS: Mapping[str, tuple[Sequence[str], Sequence[int]]] = {
    "gptq": (("gptq", "gptq_v2"), (4, 8)),
    "awq": (("gemm",), (4,)),
}
"""By method: versions, bits."""


def unpacked(layers: Mapping[str, Mapping[str, Array]], form: Format) -> dict[str, Quantized]:
    """The layers of a checkpoint, one row an output.

    Args:
        layers: By name, e.g. ``model.layers.0.mlp.up_proj``: ``qweight`` int32, ``qzeros`` int32, ``scales`` float, and
            ``g_idx`` int32 where there is one.
        form: How they are packed.

    Returns:
        By the same names. All are symmetric if no layer has a zero point elsewhere than in the middle.

    Raises:
        ExportError: a tensor is missing, or is not of the type and size that the others ask for.
    """
    found = {name: _layer(name, tensors, form) for name, tensors in layers.items()}
    middle = 2 ** (form.bits - 1)
    if all(q.zeros is not None and (q.zeros == middle).all() for q in found.values()):
        grid = Grid(form.bits, form.block_size, symmetric=True)
        return {name: replace(q, grid=grid, zeros=None) for name, q in found.items()}
    return found


def _layer(name: str, tensors: Mapping[str, Array], form: Format) -> Quantized:
    for suffix in ("qweight", "qzeros", "scales"):
        if suffix not in tensors:
            raise ExportError(f"the checkpoint has no {name}.{suffix}: download it again.")
        if tensors[suffix].ndim != 2 or (suffix != "scales" and tensors[suffix].dtype != np.int32):
            given = f"{tensors[suffix].dtype} {tensors[suffix].shape}"
            raise ExportError(
                f"{name}.{suffix} is {given}, not a matrix of int32 words: download the checkpoint again."
            )
    integers, scales = form.integers(tensors["qweight"]), tensors["scales"].astype(np.float32)
    width, count = integers.shape
    size = width if form.group_size == -1 else form.group_size
    zeros = form.zeros(tensors["qzeros"])
    groups = -(-width // size)
    if scales.shape != (groups, count) or zeros.shape[0] != groups or zeros.shape[1] < count:
        raise ExportError(
            f"{name} has {width} inputs and {count} outputs in groups of {size}, but scales {scales.shape} and zero "
            f"points {zeros.shape}, not {(groups, count)}: config.json and weights do not belong together."
        )
    if not np.isfinite(scales).all():
        raise ExportError(f"{name}.scales are not all finite numbers: download the checkpoint again.")
    order = _order(name, tensors.get("g_idx"), width, size)
    return _in_blocks(
        integers.T if order is None else integers.T[:, order], scales.T, zeros[:, :count].T, order, form, size
    )


def _order(name: str, groups: Array | None, width: int, size: int) -> NDArray[np.int64] | None:
    """The inputs in the order of their groups; None if they stand in it already."""
    if groups is None:
        return None
    order: NDArray[np.int64] = np.argsort(groups, kind="stable").astype(np.int64)
    if groups.shape != (width,) or (groups[order] != np.arange(width) // size).any():
        raise ExportError(f"{name}.g_idx does not put {width} inputs into groups of {size}: download it again.")
    return None if (order == np.arange(width)).all() else order


def _in_blocks(
    rows: NDArray[np.uint8],
    scales: NDArray[np.float32],
    zeros: NDArray[np.uint8],
    order: NDArray[np.int64] | None,
    form: Format,
    size: int,
) -> Quantized:
    """Rows of integers with a scale a group as rows of blocks, the last filled up with its zero point."""
    count, width = rows.shape
    grid = Grid(form.bits, form.block_size, symmetric=False)
    group = np.arange(0, width, grid.block_size) // size
    zeros = np.ascontiguousarray(zeros[:, group])
    blocks = np.repeat(zeros[:, :, None], grid.block_size, axis=2)
    blocks.reshape(count, -1)[:, :width] = rows
    return Quantized(grid, width, blocks, np.ascontiguousarray(scales[:, group]), zeros, order)


def _apart(words: Array, bits: int, order: Sequence[int] | None = None) -> NDArray[np.uint8]:
    """The integers in each word, (rows, words) to (rows, words * n), in the ``order`` in which they are packed."""
    places = order or range(_WORD // bits)
    plain = np.ascontiguousarray(words).view(np.uint32)
    integers = np.empty((*words.shape, len(places)), np.uint8)
    for shift, place in enumerate(places):
        integers[..., place] = (plain >> np.uint32(shift * bits)) & np.uint32(2**bits - 1)
    return integers.reshape(len(words), -1)
