"""Reads .keras files: JSON and HDF5 in a zip. Keras is not needed, and nothing is executed."""

from __future__ import annotations

import io
import json
import zipfile
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from hessarray.errors import LoadError
from hessarray.function import Function
from hessarray.load.archives import checked_members, unpacked
from hessarray.load.keras_layers import LAYERS
from hessarray.load.keras_model import from_config
from hessarray.load.keras_reader import layer_entries, snake_case
from hessarray.load.limits import MAX_TEXT, check_sizes, shown

__all__ = ["from_keras", "read_keras"]

_CONFIG, _WEIGHTS = "config.json", "model.weights.h5"
_MEMBERS = {_CONFIG, _WEIGHTS, "metadata.json"}
_OVERHEAD = 100_000_000  # bytes of an HDF5 file besides its tensors
_GROWTH = 20  # trained numbers hardly compress: a megabyte that becomes a gigabyte holds none


def read_keras(path: Path, limit: int) -> tuple[dict[str, Any], Function]:
    """The weights of a .keras file, and its model.

    Raises
    ------
    LoadError
        h5py is missing, the file is damaged or too large, or the model holds what is not supported.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            members = checked_members(path, archive)
            odd = next((k for k in members if k not in _MEMBERS), None)
            missing = next((k for k in (_CONFIG, _WEIGHTS) if k not in members), None)
            if odd is not None or missing is not None:
                problem = f"there is no {missing}" if odd is None else f"{shown(odd)} is no part"
                raise LoadError(f"{path}: {problem} of a .keras file, as model.save writes it")
            text = unpacked(path, archive, members[_CONFIG], MAX_TEXT)
            bound = max(_OVERHEAD, _GROWTH * members[_WEIGHTS].compress_size)
            data = unpacked(path, archive, members[_WEIGHTS], min(limit + _OVERHEAD, bound))
        config = json.loads(text)
        with _library().File(io.BytesIO(data), "r") as file:
            weights = _weights(path, file, config, limit)
    except LoadError:
        raise
    # zipfile, json and h5py raise a dozen kinds of errors for damaged files.
    except Exception as error:
        raise LoadError(f"{path}: not a readable .keras file ({shown(error)})") from None
    arrays = {f"{k}/{i}": a for k, found in weights.items() for i, a in enumerate(found)}
    return arrays, from_config(config, weights, str(path))


def from_keras(model: Any) -> Function:
    """The function that a Keras 3 model computes, with its weights copied to NumPy.

    Sequential and Functional models, on any of Keras's backends, nested ones too. A chain of
    Dense layers and activations becomes a ``Network``, anything else a ``Function`` whose
    parameters are called ``layer/weight``; what is not trained, such as moving averages, is
    constant. Layers: see docs/loading.md.

    Raises
    ------
    LoadError
        A layer or activation is not supported; names it.

    Examples
    --------
    >>> import hessarray as ha
    >>> ha.from_keras(keras.Sequential([...])).hessian(x)  # doctest: +SKIP
    """
    name = f"{type(model).__name__} {shown(getattr(model, 'name', ''))}"
    if not hasattr(model, "to_json") or not hasattr(model, "layers"):
        raise LoadError(f"{type(model).__name__} is no Keras model")
    try:
        config = json.loads(model.to_json())
    except Exception as error:  # a subclassed model has no description of itself
        raise LoadError(
            f"{name} has no description of its layers ({shown(error)}): Sequential and Functional "
            "models are supported"
        ) from None
    return from_config(config, dict(_live(model, "")), name)


def _live(model: Any, prefix: str) -> Iterator[tuple[str, list[Any]]]:
    """Arrays of each layer of a model in memory, by its path."""
    for layer in model.layers:
        if hasattr(layer, "layers") and hasattr(layer, "to_json"):
            yield from _live(layer, f"{prefix}{layer.name}/")
        elif layer.weights:
            yield f"{prefix}{layer.name}", [np.array(w.numpy()) for w in layer.weights]


# ---- HDF5 ----------------------------------------------------------------------------------


def _weights(path: Path, file: Any, config: Any, limit: int) -> dict[str, list[Any]]:
    found = dict(_datasets(path, file, layer_entries(config, str(path)), ""))
    flat = {
        f"{k}/{i}": a
        for k, arrays in found.items()
        for i, a in enumerate(arrays)
        if a.dtype.kind == "f"  # the others are single counts
    }
    check_sizes(path, {k: (a.dtype.name, tuple(a.shape)) for k, a in flat.items()}, limit)
    for name, a in flat.items():
        # An HDF5 file may promise gigabytes of zeros in a few bytes.
        if a.id.get_storage_size() != a.nbytes:
            raise LoadError(f"{path}: tensor {shown(name)} is compressed or incomplete")
    return {k: [np.asarray(a[()]) for a in arrays] for k, arrays in found.items()}


def _datasets(
    path: Path, group: Any, entries: list[Any], prefix: str
) -> Iterator[tuple[str, list[Any]]]:
    """Datasets of each layer by its path; layers without any are left out."""
    layers = _child(path, group, "layers")
    places = _places(path, layers, entries) if layers is not None else {}
    for entry in entries:
        name = entry["config"]["name"]
        place = places.get(name)
        if place is None:
            continue
        inner = layer_entries(entry, str(path), optional=True)
        if inner is not None:
            yield from _datasets(path, place, inner, f"{prefix}{name}/")
            continue
        rule = LAYERS.get(entry["class_name"])
        parts = [_child(path, place, k) for k in rule.parts] if rule else []
        groups = [_child(path, g, "vars") for g in (place, *parts) if g is not None]
        arrays = [
            _dataset(path, own, str(i))
            for own in groups
            if own is not None
            for i in range(len(own))
        ]
        if arrays:
            yield f"{prefix}{name}", arrays


def _places(path: Path, layers: Any, entries: list[Any]) -> dict[str, Any]:
    """Group of each layer by name: Keras writes it beside the variables, or counts the classes."""
    named, counts = {}, Counter[str]()
    for key in layers:
        group = _child(path, layers, key)
        own = None if group is None else _child(path, group, "vars")
        name = None if own is None else own.attrs.get("name")
        if isinstance(name, str):
            named[name] = group
    if named:
        return named
    for entry in entries:
        key = snake_case(str(entry["class_name"]))
        counts[key] += 1
        numbered = key if counts[key] == 1 else f"{key}_{counts[key] - 1}"
        named[entry["config"]["name"]] = _child(path, layers, numbered)
    return named


def _child(path: Path, group: Any, name: str) -> Any:
    """The group of this name inside the file, or None."""
    h5py = _library()
    if not isinstance(group, h5py.Group):
        raise LoadError(f"{path}: {shown(getattr(group, 'name', ''))} is no group of tensors")
    link = group.get(name, getlink=True)
    if link is None:
        return None
    if not isinstance(link, h5py.HardLink):
        raise LoadError(f"{path}: {shown(name)} is a link, tensors inside the file are expected")
    return group[name]


def _dataset(path: Path, group: Any, name: str) -> Any:
    found = _child(path, group, name)
    where = f"{path}: tensor {shown(f'{group.name}/{name}')}"
    if not isinstance(found, _library().Dataset):
        raise LoadError(f"{where} is missing")
    if found.is_virtual or found.external:
        raise LoadError(f"{where} lies in another file, tensors inside the file are expected")
    if found.dtype.kind != "f" and not (found.dtype.kind in "iu" and found.shape == ()):
        raise LoadError(
            f"{where} has dtype {shown(str(found.dtype))}, float32 or float64 is expected"
        )
    return found


def _library() -> Any:
    try:
        import h5py
    except ImportError:
        raise LoadError(".keras files need the extra: pip install 'hessarray[keras]'") from None
    return h5py
