"""What an import brings with it, which names a module offers, and under which name it is found.

Each import is made in a fresh interpreter, in a folder that has nothing to do with the checkout.
"""

from __future__ import annotations

import ast
import importlib
import importlib.util
import json
import os
import pkgutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

import hessarray
import hessarray.backends

HEAVY = ("torch", "jax", "jaxlib", "cupy", "array_api_strict", "scipy", "matplotlib", "safetensors")
LIBRARIES = ("torch", "jax", "cupy", "array_api_strict")
BACKEND_MODULES = sorted(
    module.name
    for module in pkgutil.iter_modules(hessarray.backends.__path__)
    if module.name.endswith("_backend")
)


def _public_modules() -> list[str]:
    """Every module without an underscore in its dotted name, found without importing it."""

    def walk(paths: Any, prefix: str) -> list[str]:
        names = []
        for module in pkgutil.iter_modules(paths):
            if module.name.startswith("_"):
                continue
            names.append(prefix + module.name)
            if module.ispkg:
                inner = [str(Path(path, module.name)) for path in paths]
                names += walk(inner, f"{prefix}{module.name}.")
        return names

    inside = walk(hessarray.__path__, "hessarray.")
    beside = ["hessarray.backends", *walk(hessarray.backends.__path__, "hessarray.backends.")]
    return sorted({"hessarray", *inside, *beside})


def fresh(code: str, cwd: Path) -> Any:
    """Run code in a new interpreter, in cwd; its last line of output, read as JSON."""
    env = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=cwd, env=env, capture_output=True, text=True, timeout=120
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout.splitlines()[-1])


def modules_after(statement: str, cwd: Path) -> set[str]:
    return set(fresh(f"{statement}; import json, sys; print(json.dumps(sorted(sys.modules)))", cwd))


def test_import_hessarray_brings_nothing_heavy(tmp_path: Path) -> None:
    loaded = modules_after("import hessarray", tmp_path)
    assert not loaded & set(HEAVY)


@pytest.mark.parametrize("module", BACKEND_MODULES)
def test_a_backend_imports_no_other(module: str, tmp_path: Path) -> None:
    own = {"strict_backend": "array_api_strict"}.get(module, module.removesuffix("_backend"))
    if own in LIBRARIES and importlib.util.find_spec(own) is None:
        pytest.skip(f"{own}: not installed, so hessarray.backends.{module} is not imported")
    before = modules_after("import hessarray", tmp_path)
    after = modules_after(f"import hessarray.backends.{module}", tmp_path)
    others = {f"hessarray.backends.{name}" for name in BACKEND_MODULES if name != module}
    assert not (after - before) & others
    assert not (after - before) & (set(LIBRARIES) - {own})


def test_there_are_backends() -> None:
    assert {"numpy_backend", "torch_backend", "jax_backend"} <= set(BACKEND_MODULES)


@pytest.mark.parametrize("name", _public_modules())
def test_all_is_sorted_and_resolves(name: str) -> None:
    try:
        module = importlib.import_module(name)
    except ModuleNotFoundError as error:
        if error.name is None or error.name.split(".")[0] == "hessarray":
            raise
        pytest.skip(f"{error.name}: not installed, so {name} is not imported")
    assert hasattr(module, "__all__"), f"{name} has no __all__"
    assert list(module.__all__) == sorted(set(module.__all__))
    missing = [each for each in module.__all__ if not hasattr(module, each)]
    assert not missing, f"{name}.__all__ names {missing}, which {name} does not have"


def test_backends_is_no_top_level_package(tmp_path: Path) -> None:
    code = "import importlib.util, json; print(json.dumps(importlib.util.find_spec('{}') is None))"
    assert fresh(code.format("backends"), tmp_path) is True
    assert fresh(code.format("hessarray.backends"), tmp_path) is False


def test_sources_say_hessarray_backends() -> None:
    """`import backends` would work from the root of a checkout, and nowhere else."""
    for folder in (*hessarray.__path__, *hessarray.backends.__path__):
        for path in sorted(Path(folder).rglob("*.py")):
            for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
                names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
                if isinstance(node, ast.ImportFrom) and node.level == 0:
                    names.append(node.module or "")
                assert not any(each.split(".")[0] == "backends" for each in names), path
