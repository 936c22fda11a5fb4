"""Reads state dicts that torch.save wrote: tensors only, by torch.load(weights_only=True)."""

from __future__ import annotations

import pickletools
import zipfile
from pathlib import Path
from typing import Any

import numpy as np

from hessarray.errors import LoadError
from hessarray.load.archives import checked_members, unpacked
from hessarray.load.limits import MAX_TEXT, Arrays, check_sizes, shown

__all__ = ["read_torch"]

_ADVICE = "save it with torch.save(module.state_dict(), path)"
# All that a state dict of plain tensors names; torch.load would allow a few dozen more.
_GLOBALS = {
    "collections OrderedDict",
    "torch._utils _rebuild_parameter",
    "torch._utils _rebuild_tensor_v2",
}
_OTHER_IMPORTS = ("STACK_GLOBAL", "INST", "OBJ", "NEWOBJ", "NEWOBJ_EX", "EXT1", "EXT2", "EXT4")


def read_torch(path: Path, limit: int) -> tuple[Arrays, None]:
    """The tensors of a state dict; such a file holds no architecture.

    Raises
    ------
    LoadError
        torch is missing, or the file is damaged, too large, or holds anything but float tensors.
    """
    torch = _library()
    try:
        with zipfile.ZipFile(path) as archive:
            _check_archive(path, archive)
        found = torch.load(path, map_location="cpu", weights_only=True)
    except LoadError:
        raise
    # zipfile, pickletools and torch raise a dozen kinds of errors for damaged files.
    except Exception as error:
        raise LoadError(f"{path}: not a readable state dict ({shown(error)}): {_ADVICE}") from None
    tensors = _tensors(torch, path, found)
    sizes = {k: (str(t.dtype).removeprefix("torch."), tuple(t.shape)) for k, t in tensors.items()}
    check_sizes(path, sizes, limit)
    for name, t in tensors.items():
        if t.numel() * t.element_size() > t.untyped_storage().nbytes():
            raise LoadError(
                f"{path}: tensor {shown(name)} has fewer numbers than its shape promises"
            )
    return {k: np.array(t.detach().numpy()) for k, t in tensors.items()}, None


def _check_archive(path: Path, archive: zipfile.ZipFile) -> None:
    """Members as torch.save writes them, and no pickle of anything but tensors."""
    members = checked_members(path, archive)
    pickles = [m for k, m in members.items() if k.endswith(".pkl")]
    if any(m.compress_type != zipfile.ZIP_STORED for m in members.values()):
        raise LoadError(f"{path}: the members are compressed, which torch.save does not do")
    if len(pickles) != 1 or not pickles[0].filename.endswith("/data.pkl"):
        raise LoadError(f"{path}: not a state dict, but {len(pickles)} pickles: {_ADVICE}")
    for opcode, value, _ in pickletools.genops(unpacked(path, archive, pickles[0], MAX_TEXT)):
        if opcode.name in _OTHER_IMPORTS or (opcode.name == "GLOBAL" and not _harmless(str(value))):
            name = value if opcode.name == "GLOBAL" else opcode.name
            raise LoadError(
                f"{path}: the pickle asks for {shown(name)}, a state dict does not: {_ADVICE}"
            )


def _harmless(name: str) -> bool:
    module, _, attribute = name.partition(" ")
    return name in _GLOBALS or (module == "torch" and attribute.endswith("Storage"))


def _tensors(torch: Any, path: Path, found: Any) -> dict[str, Any]:
    if not isinstance(found, dict):
        raise LoadError(f"{path}: holds a {type(found).__name__}, not a state dict: {_ADVICE}")
    for name, value in found.items():
        if not isinstance(name, str) or not isinstance(value, torch.Tensor):
            raise LoadError(
                f"{path}: entry {shown(name)} is a {type(value).__name__}, a state dict holds "
                f"tensors only: {_ADVICE}"
            )
    return found


def _library() -> Any:
    try:
        import torch
    except ImportError:
        raise LoadError(".pt files need the extra: pip install 'hessarray[torch]'") from None
    return torch
