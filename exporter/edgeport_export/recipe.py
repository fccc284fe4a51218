"""The recipe: every choice of an export, as frozen dataclasses that TOML, JSON and the manifest share.

Knows names, defaults and allowed values; does no work. The same model, recipe and versions give the same bundle.
"""

from __future__ import annotations

import dataclasses
import json
import re
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from edgeport.errors import UsageError

from edgeport_export.allowed import one_of
from edgeport_export.pruning import Prune, Recover, Sparsity

__all__ = [
    "BLOCK_SIZES",
    "CALIBRATED",
    "CALIBRATORS",
    "METHODS",
    "OPSETS",
    "PRECISIONS",
    "QUANTIZERS",
    "TABLE_BITS",
    "Limits",
    "Recipe",
]

PRECISIONS = ("fp32", "fp16", "int8", "int4")
METHODS = ("rtn", "hqq", "gptq", "awq")
CALIBRATED = ("gptq", "awq")
"""Methods that look at what the model does with sample texts."""
BLOCK_SIZES = (16, 32, 64, 128)
QUANTIZERS = ("dynamic", "static")
"""How int8 of models that read comes by the ranges of activations: as they are at run time, or set beforehand."""
CALIBRATORS = ("percentile", "minmax", "entropy", "mse")
TABLE_BITS = (8, 4)
OPSETS = range(18, 24)


@dataclass(frozen=True)
class Limits:
    """How far a variant may be from the original before it is refused.

    ``max_abs`` is relative to the root mean square of the original's outputs, so that it means the same for logits of
    any scale; ``cosine`` and ``agreement`` (same top label, token by token) lie between 0 and 1. None switches a
    limit off.
    """

    max_abs: float | None = None
    cosine: float | None = None
    agreement: float | None = None


DEFAULT_LIMITS: Mapping[str, Limits] = {
    "fp32": Limits(max_abs=1e-3, cosine=0.999999, agreement=0.999),
    "fp16": Limits(max_abs=5e-2, cosine=0.9999, agreement=0.99),
    "int8": Limits(cosine=0.95),
    "int4": Limits(cosine=0.9),
}


@dataclass(frozen=True)
class Recipe:
    """Every choice of an export.

    Raises:
        UsageError: a value is not allowed; the message lists those that are.
    """

    task: str | None = None
    """None infers it from the model."""
    precisions: tuple[str, ...] = ()
    """None named leaves it to the model: fp32 and int8; int8 alone, a fifth of the size, for models that write text;
    the bits of a checkpoint that comes quantized."""
    opset: int = 20
    fixed_shape: tuple[int, int] | None = None
    """(batch, sequence), for accelerators that compile for one shape."""
    keep_fp32: str | None = None
    """Regular expression; the weights whose names it finds stay in fp32 when the rest is quantized."""
    method: str = "rtn"
    """How weights that are quantized alone (int4; int8 of models that write text) are rounded: to nearest, by
    half-quadratic quantization, or by GPTQ or AWQ, which need sample texts."""
    block_size: int | None = None
    """Weights that share a scale, where weights are quantized alone; None leaves it to the number of bits."""
    symmetric: bool = True
    """No zero points, where weights are quantized alone."""
    calibration: str | None = None
    """A file of what the model will see, for what needs samples: rows that the task is scored on, with labels or
    without, or plain text."""
    columns: Mapping[str, str] = field(default_factory=dict)
    """What that file calls its columns: ``{"label": "category"}``."""
    seed: int = 0
    """Draws the samples, and whatever else is drawn."""
    quantize: str = "dynamic"
    """How int8 of models that read is made: ``static`` sets ranges of activations by sample rows."""
    calibrator: str = "percentile"
    """How static ranges are set."""
    smooth: float | None = None
    """SmoothQuant's alpha, 0 to 1: how much of their size activations hand over to weights before int8."""
    tables: int = 8
    """Bits of embedding tables, and of the output layer of models that write text: 8 or 4."""
    prune: Prune | None = None
    """What is cut out of the model before it is captured; None leaves it whole."""
    recover: Recover | None = None
    """How the model that was cut learns from the original."""
    sparsity: Sparsity | None = None
    """Weights that become zero, after what is cut out is gone; None leaves them."""
    evaluation: str | None = None
    """A text file that variants of a model that writes text are scored on; None takes a text that comes along."""
    revision: str | None = None
    trust_remote_code: bool = False
    validate: bool = True
    limits: Mapping[str, Limits] = field(default_factory=lambda: dict(DEFAULT_LIMITS))

    def __post_init__(self) -> None:
        one_of("precision", self.precisions, PRECISIONS)
        if len(set(self.precisions)) != len(self.precisions):
            raise UsageError(f"precisions are {', '.join(self.precisions)}: name each once.")
        if self.opset not in OPSETS:
            raise UsageError(f"opset {self.opset} is not supported: choose {OPSETS[0]} to {OPSETS[-1]}.")
        if self.fixed_shape is not None and (len(self.fixed_shape) != 2 or min(self.fixed_shape) < 1):
            raise UsageError(f"fixed shape {self.fixed_shape} is not a batch and a length of at least 1: try 1x128.")
        one_of("method", (self.method,), METHODS)
        if self.block_size is not None and self.block_size not in BLOCK_SIZES:
            raise UsageError(f"block size {self.block_size} is not supported: choose from {BLOCK_SIZES}.")
        if self.method in CALIBRATED and self.calibration is None:
            raise UsageError(f"{self.method} rounds by what the model does with sample texts: pass --calibration FILE.")
        self._check_int8()
        if self.recover is not None and self.prune is None:
            raise UsageError("there is nothing to recover from where nothing is pruned: pass --prune as well.")
        if self.recover is not None and self.calibration is None:
            raise UsageError("distillation learns from what the model will see: pass --calibration FILE.")
        if self.prune is not None and self.prune.wants_calibration and self.calibration is None:
            raise UsageError("pruning looks at what the model will see: pass --calibration FILE.")
        if self.sparsity is not None and self.sparsity.wants_samples and self.calibration is None:
            raise UsageError(
                f"{self.sparsity.method} looks at what layers read: pass --calibration FILE, or choose magnitude."
            )
        one_of("precision in limits", tuple(self.limits), PRECISIONS)
        try:
            re.compile(self.keep_fp32 or "")
        except re.error as e:
            raise UsageError(f"--keep-fp32 {self.keep_fp32!r} is no regular expression: {e}.") from e

    def _check_int8(self) -> None:
        one_of("quantizer", (self.quantize,), QUANTIZERS)
        one_of("calibrator", (self.calibrator,), CALIBRATORS)
        if self.tables not in TABLE_BITS:
            raise UsageError(f"tables of {self.tables} bits are not supported: choose 8 or 4.")
        if self.smooth is not None and not 0 <= self.smooth <= 1:
            raise UsageError(f"--smooth {self.smooth:g} is not between 0 and 1: 0.5 is the usual choice.")
        if self.samples_int8 and self.calibration is None:
            why = "static int8 sets ranges" if self.quantize == "static" else "--smooth looks for large channels"
            raise UsageError(f"{why} by what the model does with sample rows: pass --calibration FILE.")

    @property
    def samples_int8(self) -> bool:
        """Whether int8 of models that read looks at what the model does with sample rows."""
        return self.quantize == "static" or self.smooth is not None

    def settled(self, bits: int | None, *, generates: bool) -> Recipe:
        """The recipe with its precisions chosen.

        Args:
            bits: Those that the checkpoint comes quantized to; None for a plain one.
            generates: Whether the model writes text.

        Raises:
            UsageError: a method is to round what the checkpoint has rounded already.
        """
        own = None if bits is None else f"int{bits}"
        precisions = self.precisions or ((own,) if own else ("int8",) if generates else ("fp32", "int8"))
        if own in precisions and self.method in CALIBRATED:
            raise UsageError(
                f"the checkpoint comes with weights of {bits} bits, which {own} keeps: leave --method {self.method} "
                "away, or give the model as it was before."
            )
        return dataclasses.replace(self, precisions=precisions)

    @classmethod
    def from_toml(cls, path: str | Path) -> Recipe:
        """Read a recipe from a TOML file; keys are this class's fields.

        Raises:
            UsageError: the file is missing or not TOML, or has a key or value that is not allowed.
        """
        try:
            data = tomllib.loads(Path(path).read_text(encoding="utf-8"))
        except OSError as e:
            raise UsageError(f"recipe {str(path)!r} cannot be read ({e.strerror}): give a TOML file.") from e
        except (tomllib.TOMLDecodeError, UnicodeDecodeError) as e:
            raise UsageError(f"recipe {str(path)!r} is not TOML ({e}): correct it.") from e
        return cls.from_dict(data)

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> Recipe:
        """The inverse of ``to_dict``; missing keys take their defaults."""
        one_of("recipe key", tuple(data), tuple(f.name for f in dataclasses.fields(cls)))
        values = dict(data)
        try:
            for key in ("precisions", "fixed_shape"):
                if values.get(key) is not None:
                    values[key] = tuple(values[key])
            if values.get("recover") is not None:
                values["recover"] = Recover(**values["recover"])
            if values.get("sparsity") is not None:
                values["sparsity"] = Sparsity(**values["sparsity"])
            if values.get("prune") is not None:
                given_prune = dict(values["prune"])
                if isinstance(given_prune.get("layers"), list):
                    given_prune["layers"] = tuple(given_prune["layers"])
                values["prune"] = Prune(**given_prune)
            if "limits" in values:
                given = {k: Limits(**v) for k, v in values["limits"].items()}
                values["limits"] = {**DEFAULT_LIMITS, **given}
            return cls(**values)
        except (TypeError, AttributeError) as e:
            raise UsageError(f"the recipe has a value of the wrong type ({e}): see `edgeport export --help`.") from e

    def to_dict(self) -> dict[str, Any]:
        """Plain data, for the manifest and for TOML."""
        return dataclasses.asdict(self)

    def to_toml(self) -> str:
        """The inverse of ``from_toml``, without what is at its default."""
        default = Recipe()
        changed = {k: v for k, v in self.to_dict().items() if getattr(self, k) != getattr(default, k)}
        return "".join(f"{key} = {_toml(value)}\n" for key, value in changed.items())


def _toml(value: Any) -> str:
    """A value in TOML, tables in one line; JSON's strings and numbers are TOML's."""
    if isinstance(value, Mapping):
        return "{" + ", ".join(f"{json.dumps(k)} = {_toml(v)}" for k, v in value.items() if v is not None) + "}"
    if isinstance(value, list | tuple):
        return "[" + ", ".join(map(_toml, value)) + "]"
    return json.dumps(value, ensure_ascii=False)
