"""Scalers, encodings and ensembles as plain data in a file, and back."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from hessarray.errors import HessarrayError, LoadError
from hessarray.load.limits import shown
from hessarray.surrogates import (
    Clip,
    Decode,
    Encode,
    Ensemble,
    GaussianProcess,
    Mean,
    Mirror,
    Polynomial,
    Scale,
    Softmax,
)

__all__ = ["SURROGATES", "build", "describe"]

Entry = dict[str, Any]
Describe = Callable[[Any, str], Entry]  # a layer and its place to the entry of a file
Build = Callable[[Any, str], Any]  # the entry of an inner layer and its prefix to the layer
Tensor = Callable[[str, tuple[int, ...]], Any]


@dataclass(frozen=True)
class _Format:
    """How a layer of this class is written and read; ``keys`` are all that an entry holds."""

    cls: type
    keys: tuple[str, ...]
    write: Callable[[Any, str, Describe], Entry]
    read: Callable[[Entry, str, Tensor, Build], Any]


def describe(layer: Any, place: str, inner: Describe) -> Entry:
    """The entry of this layer; ``inner`` describes the layers in it.

    Raises
    ------
    LoadError
        A column's function is code, which a file cannot hold.
    """
    name = type(layer).__name__
    return {"layer": name, **_FORMATS[name].write(layer, place, inner)}


def build(entry: Mapping[str, Any], where: str, prefix: str, tensor: Tensor, inner: Build) -> Any:
    """The layer of this entry; ``tensor`` gives the arrays, ``inner`` builds the layers in it.

    Raises
    ------
    LoadError
        The entry holds other keys or values than this layer has.
    """
    kind = _FORMATS[entry["layer"]]
    given = {k: v for k, v in entry.items() if k != "layer"}
    if set(given) != set(kind.keys):
        raise LoadError(f"{where} needs exactly {', '.join(sorted(kind.keys))}")
    try:
        return kind.read(given, prefix, tensor, inner)
    except LoadError:
        raise
    except (HessarrayError, TypeError, ValueError, OverflowError) as error:
        raise LoadError(f"{where}: {shown(error)}") from None


# ---- values of entries -------------------------------------------------------------------------


def _length(value: Any) -> int:
    if not isinstance(value, int) or isinstance(value, bool) or not 0 < value < 2**31:
        raise ValueError(f"a length is {shown(value)}, a positive whole number is expected")
    return value


def _flag(value: Any) -> bool:
    if not isinstance(value, bool):
        raise ValueError(f"{shown(value)} is found where true or false is expected")
    return value


def _list(value: Any) -> list[Any]:
    if not isinstance(value, list):
        raise ValueError(f"{shown(value)} is found where a list is expected")
    return value


def _numbers(value: Any) -> list[Any]:
    for v in _list(value):
        if not isinstance(v, (int, float)) or isinstance(v, bool):
            raise ValueError(f"{shown(v)} is found where a number is expected")
    return list(value)


def _lists(value: Any) -> Any:
    """Nested tuples as nested lists, which JSON has."""
    return [_lists(v) for v in value] if isinstance(value, tuple) else value


# ---- writing and reading, layer by layer -------------------------------------------------------


def _write_columns(layer: Any, place: str, inner: Describe) -> Entry:
    for i, functions in enumerate(layer.columns):
        if any(callable(f) for f in functions):
            raise LoadError(
                f"layer {place} has a plain function at column {i}, which a file cannot hold: "
                "give it a name with register_activation"
            )
    columns = [
        [[f] if isinstance(f, str) else list(f) for f in functions] for functions in layer.columns
    ]
    return {"columns": columns}


def _read_columns(cls: Any) -> Callable[[Entry, str, Tensor, Build], Any]:
    def read(given: Entry, prefix: str, tensor: Tensor, inner: Build) -> Any:
        columns = [[tuple(_list(f)) for f in _list(c)] for c in _list(given["columns"])]
        if not all(f and isinstance(f[0], str) for c in columns for f in c):
            raise ValueError("a column holds what is no [name, numbers]")
        return cls(*columns)

    return read


def _read_scale(given: Entry, prefix: str, tensor: Tensor, inner: Build) -> Any:
    shape = (_length(given["features"]),)
    mean, std = tensor(f"{prefix}mean", shape), tensor(f"{prefix}std", shape)
    return Scale(mean, std, inverse=_flag(given["inverse"]))


def _members(given: Entry, prefix: str, inner: Build) -> list[Any]:
    members = _list(given["members"])
    return [inner(m, f"{prefix}members.{i}.") for i, m in enumerate(members)]


def _write_members(layer: Any, place: str, inner: Describe) -> Entry:
    return {"members": [inner(m, f"{place}.members.{i}") for i, m in enumerate(layer.members)]}


def _write_ensemble(layer: Any, place: str, inner: Describe) -> Entry:
    more = {"outputs": list(layer.outputs), "correction": layer.correction}
    return _write_members(layer, place, inner) | more


def _read_ensemble(given: Entry, prefix: str, tensor: Tensor, inner: Build) -> Any:
    outputs, correction = _list(given["outputs"]), given["correction"]
    _numbers([correction])
    members = _members(given, prefix, inner)
    return Ensemble(*members, outputs=outputs, correction=correction)


_MIRROR = ("inputs", "outputs", "input_signs", "output_signs")


def _write_mirror(layer: Any, place: str, inner: Describe) -> Entry:
    entry: Entry = {k: list(getattr(layer, k)) for k in _MIRROR}
    return entry | {"inner": inner(layer.inner, f"{place}.inner")}


def _read_mirror(given: Entry, prefix: str, tensor: Tensor, inner: Build) -> Any:
    orders = {k: _numbers(given[k]) for k in _MIRROR}
    return Mirror(inner(given["inner"], f"{prefix}inner."), **orders)


def _write_process(layer: Any, place: str, inner: Describe) -> Entry:
    points, targets = layer.alpha.shape
    return {
        "points": int(points),
        "features": layer.in_features,
        "targets": int(targets),
        "kernel": _lists(layer.kernel),
        "outputs": list(layer.outputs),
    }


def _read_process(given: Entry, prefix: str, tensor: Tensor, inner: Build) -> Any:
    n, d, m = (_length(given[k]) for k in ("points", "features", "targets"))
    outputs = _list(given["outputs"])
    arrays = {
        "X": tensor(f"{prefix}X", (n, d)),
        "alpha": tensor(f"{prefix}alpha", (n, m)),
        "mean": tensor(f"{prefix}mean", (m,)),
        "std": tensor(f"{prefix}std", (m,)),
    }
    if "variance" in outputs:
        arrays["inverse_root"] = tensor(f"{prefix}inverse_root", (n, n))
    return GaussianProcess(kernel=_list(given["kernel"]), outputs=outputs, **arrays)


_FORMATS: dict[str, _Format] = {
    "Clip": _Format(
        Clip,
        ("low", "high"),
        # JSON has no infinity.
        lambda a, place, inner: {
            "low": [v if v > -float("inf") else None for v in a.low],
            "high": [v if v < float("inf") else None for v in a.high],
        },
        lambda e, prefix, tensor, inner: Clip(
            _numbers([-float("inf") if v is None else v for v in _list(e["low"])]),
            _numbers([float("inf") if v is None else v for v in _list(e["high"])]),
        ),
    ),
    "Decode": _Format(Decode, ("columns",), _write_columns, _read_columns(Decode)),
    "Encode": _Format(Encode, ("columns",), _write_columns, _read_columns(Encode)),
    "Ensemble": _Format(
        Ensemble, ("members", "outputs", "correction"), _write_ensemble, _read_ensemble
    ),
    "GaussianProcess": _Format(
        GaussianProcess,
        ("points", "features", "targets", "kernel", "outputs"),
        _write_process,
        _read_process,
    ),
    "Mean": _Format(
        Mean,
        ("members",),
        _write_members,
        lambda e, prefix, tensor, inner: Mean(*_members(e, prefix, inner)),
    ),
    "Mirror": _Format(Mirror, ("inner", *_MIRROR), _write_mirror, _read_mirror),
    "Polynomial": _Format(
        Polynomial,
        ("powers",),
        lambda a, place, inner: {"powers": _lists(a.powers)},
        lambda e, prefix, tensor, inner: Polynomial([_numbers(row) for row in _list(e["powers"])]),
    ),
    "Scale": _Format(
        Scale,
        ("features", "inverse"),
        lambda a, place, inner: {"features": a.in_features, "inverse": a.inverse},
        _read_scale,
    ),
    "Softmax": _Format(
        Softmax,
        ("features", "log"),
        lambda a, place, inner: {"features": a.in_features, "log": a.log},
        lambda e, prefix, tensor, inner: Softmax(_length(e["features"]), log=_flag(e["log"])),
    ),
}
SURROGATES = {name: kind.cls for name, kind in _FORMATS.items()}
