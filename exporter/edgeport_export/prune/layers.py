"""Whole layers: which do least, and how a model goes on without them."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from edgeport.errors import ExportError, UsageError
from torch import Tensor, nn

from edgeport_export.prune.units import DENSE

__all__ = ["find_layers", "remove_layers", "skipped", "weakest"]


def find_layers(model: nn.Module) -> list[str]:
    """Names of the items of the outermost lists of two or more modules of a class that multiply with matrices."""
    lists = {n: m for n, m in model.named_modules() if isinstance(m, nn.ModuleList) and len(m) > 1}
    return [
        f"{name}.{i}"
        for name, items in lists.items()
        if not any(name.startswith(f"{other}.") for other in lists)
        and len({type(item) for item in items}) == 1
        and all(any(isinstance(m, DENSE) for m in item.modules()) for item in items)
        for i in range(len(items))
    ]


@contextmanager
def skipped(model: nn.Module, names: Sequence[str]) -> Iterator[None]:
    """The layers hand on what they are given while this lasts."""

    def hook(_: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], output: Any) -> Any:
        given = args[0] if args else kwargs["hidden_states"]
        return (given, *output[1:]) if isinstance(output, tuple) else given

    handles = [model.get_submodule(n).register_forward_hook(hook, with_kwargs=True) for n in names]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def weakest(model: nn.Module, names: Sequence[str], count: int, run: Callable[[], Tensor]) -> list[str]:
    """The ``count`` layers whose loss changes the outputs least, found one after the other.

    Args:
        model: Left as it is.
        names: Of its layers.
        count: Fewer than there are.
        run: The outputs on samples.

    Raises:
        UsageError: so many layers there are not.
    """
    if count >= len(names):
        raise UsageError(f"the model has {len(names)} layers that can be removed and not {count}: leave one at least.")
    wanted, gone = run(), list[str]()
    for _ in range(count):
        lost = {}
        for name in (n for n in names if n not in gone):
            with skipped(model, [*gone, name]):
                lost[name] = float((run() - wanted).square().mean())
        gone.append(min(lost, key=lost.__getitem__))
    return gone


def remove_layers(model: nn.Module, names: Sequence[str], run: Callable[[], Tensor]) -> None:
    """Take the layers out of their lists, count the rest anew, and see that it is what skipping them gives.

    Raises:
        UsageError: no layer is called so.
        ExportError: the model does not go on without them.
    """
    known = find_layers(model)
    strange = next((n for n in names if n not in known), None)
    if strange is not None:
        shown = f"{known[0]} to {known[-1]}" if known else "there are none"
        raise UsageError(f"layer {strange!r} is not one that can be removed: choose from those of the model ({shown}).")
    try:
        with skipped(model, names):
            wanted = run()
        by_list: dict[str, set[int]] = {}
        for name in names:
            path, _, number = name.rpartition(".")
            by_list.setdefault(path, set()).add(int(number))
        for path, numbers in by_list.items():
            _shorten(model, path, numbers)
        given = run()
    except Exception as e:
        raise ExportError(f"layers {', '.join(names)} cannot be removed: the model does not run without them.") from e
    if (given - wanted).abs().max() > 1e-4 * wanted.abs().max():
        raise ExportError(
            f"layers {', '.join(names)} cannot be removed: what follows them depends on how many they are."
        )


def _shorten(model: nn.Module, path: str, gone: set[int]) -> None:
    items = model.get_submodule(path)
    assert isinstance(items, nn.ModuleList)
    before = len(items)
    kept = [i for i in range(before) if i not in gone]
    owner = model.get_submodule(path.rpartition(".")[0])
    setattr(owner, path.rpartition(".")[2], nn.ModuleList(items[i] for i in kept))
    for new, old in enumerate(kept):
        for module in items[old].modules():
            for name, value in list(vars(module).items()):
                if "layer" in name and name.endswith(("idx", "id", "index", "number")) and value == old:
                    setattr(module, name, new)  # whose cache is whose
    for config in _configs(model):
        for name, value in list(vars(config).items()):
            if "layer" not in name and name != "attention_types":
                continue
            if isinstance(value, list) and len(value) == before:
                setattr(config, name, [value[i] for i in kept])
            elif isinstance(value, int) and not isinstance(value, bool) and value == before:
                setattr(config, name, len(kept))


def _configs(model: Any) -> list[Any]:
    """The model's configuration, and those that its modules hold, each once."""
    found = {id(c): c for m in model.modules() if (c := getattr(m, "config", None)) is not None}
    return list(found.values())
