"""Networks in files: tensors with their architecture or without, and files of whole models."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import numpy as np

from hessarray._arguments import plain
from hessarray._files import replacing
from hessarray.errors import LoadError
from hessarray.function import Function
from hessarray.load.architecture import from_architecture, to_architecture
from hessarray.load.limits import shown
from hessarray.load.pairs import from_pairs
from hessarray.load.state_dict import filled
from hessarray.networks import Network

__all__ = ["load", "save"]

_MAX_BYTES = 4 << 30
_FORMATS = (".npz", ".safetensors")  # that can be written, too
_READ = (*_FORMATS, ".pt", ".pth", ".keras", ".onnx")


def load(
    path: str | os.PathLike[str],
    *,
    act: Any = None,
    final_act: Any = "identity",
    architecture: Function | None = None,
    max_bytes: int = _MAX_BYTES,
) -> Any:
    """The network in a file.

    A file that ``save`` wrote holds its architecture. Any other .npz or .safetensors file, and a
    state dict in a .pt file, is read as (weight, bias) pairs of dense layers, ordered by the
    numbers in their names, which must not differ otherwise: names that end in ``weight`` hold
    (out, in) as in torch, other matrices (in, out); ``act`` follows every layer but the last,
    ``final_act`` the last. Other networks are given as ``architecture``, whose parameters the
    tensors replace. A .keras file holds a whole model, an .onnx file too, which ``from_onnx``
    also reads and there selects inputs and outputs.

    Parameters
    ----------
    path : path
        .npz, .safetensors, .pt or .pth (extra torch), .keras or .onnx (extras of those names).
    act, final_act : str or callable, optional
        Activations of a file of pairs; ``act`` is then required.
    architecture : Network or Function, optional
        What to fill: parameters of the same names, or layers in the order of the numbers in the
        tensors' names. It is itself left as it is.
    max_bytes : int
        Refuse files whose tensors take more, before memory is taken.

    Raises
    ------
    LoadError
        The file is missing, truncated, too large, or holds what is not supported; one sentence
        that names file and tensor.

    Warns
    -----
    UserWarning
        A tensor holds NaN or infinity; names the tensor.

    Examples
    --------
    >>> import hessarray as ha
    >>> ha.load("weights.npz", act="tanh")  # doctest: +SKIP
    Network(Dense(3, 16), Dense(16, 1))
    """
    import warnings

    path = Path(path)
    if path.suffix == ".onnx":
        from hessarray.load.onnx_model import from_onnx

        return from_onnx(path, max_bytes=max_bytes)
    read = _reader(path)
    if not path.is_file():
        raise LoadError(f"{path}: no such file")
    arrays, made = read(path, max_bytes)
    network: Function
    if isinstance(made, Function):
        network = made
    elif made is not None:
        network = from_architecture(_parsed(made, path), arrays, str(path))
    elif architecture is not None:
        network = filled(architecture, arrays, str(path))
    else:
        network = from_pairs(arrays, act, final_act, str(path))
    bad = [k for k, a in arrays.items() if not np.all(np.isfinite(a))]
    if bad:
        more = f" (and {len(bad) - 1} more)" if bad[1:] else ""
        warnings.warn(f"{path}: tensor {shown(bad[0])}{more} holds NaN or infinity", stacklevel=2)
    return network


def save(function: Function, path: str | os.PathLike[str]) -> None:
    """Write parameters, and a network's architecture, to .npz or .safetensors.

    Of a `Function`, and so of an ONNX model, the parameters alone are written: no file holds code.
    ``load(path, architecture=function)`` fills the function with them again.

    The file is written beside and then renamed: an interrupted write leaves no half file.

    Raises
    ------
    LoadError
        Unknown file type, or a layer or activation that a file cannot name.
    """
    import json

    path = Path(path)
    write = _writer(path)
    arrays = {k: np.asarray(plain(a), order="C") for k, a in function.parameters().items()}
    text = None
    if isinstance(function, Network):
        text = json.dumps(to_architecture(function))
        from_architecture(_parsed(text, path), arrays, str(path))  # what is written can be read
    with replacing(path) as file:
        write(file, arrays, text)


def _reader(path: Path) -> Any:
    """Path and limit to arrays, and the architecture's text, the function itself, or None."""
    if path.suffix == ".npz":  # loaded where it is used: zipfile brings all its compressors
        from hessarray.load.npz import read_npz

        return read_npz
    if path.suffix == ".safetensors":
        from hessarray.load.safetensors_file import read_safetensors

        return read_safetensors
    if path.suffix in (".pt", ".pth"):
        from hessarray.load.torch_file import read_torch

        return read_torch
    if path.suffix == ".keras":
        from hessarray.load.keras_file import read_keras

        return read_keras
    raise LoadError(f"{path}: unknown file type '{path.suffix}', supported are {', '.join(_READ)}")


def _writer(path: Path) -> Any:
    if path.suffix == ".npz":
        from hessarray.load.npz import write_npz

        return write_npz
    if path.suffix == ".safetensors":
        from hessarray.load.safetensors_file import write_safetensors

        return write_safetensors
    raise LoadError(
        f"{path}: unknown file type '{path.suffix}', supported are {', '.join(_FORMATS)}"
    )


def _parsed(text: str, path: Path) -> Any:
    import json

    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        raise LoadError(f"{path}: the architecture is no JSON") from None
