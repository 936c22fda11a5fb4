"""What is in the wheel. It is built from a copy of the sources, without a network."""

from __future__ import annotations

import shutil
import subprocess
import sys
import tomllib
import zipfile
from importlib import metadata
from pathlib import Path

import pytest

import hessarray

ROOT = Path(__file__).parents[1]
FILES = ("pyproject.toml", "setup.py", "README.md", "LICENSE")
FOLDERS = ("hessarray", "backends")


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> zipfile.ZipFile:
    # In a copy, because setuptools leaves build/ behind, and whatever an earlier build/ holds
    # ends up in the wheel.
    source = tmp_path_factory.mktemp("source")
    out = tmp_path_factory.mktemp("wheel")
    for name in FILES:
        shutil.copy(ROOT / name, source)
    for name in FOLDERS:
        shutil.copytree(
            ROOT / name, source / name, ignore=shutil.ignore_patterns("__pycache__", "*.egg-info")
        )
    command = [sys.executable, "-m", "pip", "--disable-pip-version-check", "wheel", "--quiet"]
    command += ["--no-deps", "--no-build-isolation", "--no-index", "--wheel-dir", str(out)]
    done = subprocess.run([*command, str(source)], capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stdout + done.stderr
    (path,) = out.glob("*.whl")
    return zipfile.ZipFile(path)


def test_wheel_holds_every_source_file_and_no_other(wheel: zipfile.ZipFile) -> None:
    packed = {name for name in wheel.namelist() if name.endswith(".py")}
    own = {path.relative_to(ROOT).as_posix() for path in (ROOT / "hessarray").rglob("*.py")}
    beside = {
        f"hessarray/{path.relative_to(ROOT).as_posix()}"
        for path in (ROOT / "backends").rglob("*.py")
    }
    assert "hessarray/backends/__init__.py" in beside
    assert packed == own | beside


def test_wheel_has_one_top_level_package(wheel: zipfile.ZipFile) -> None:
    top = {name.split("/")[0] for name in wheel.namelist()}
    assert {name for name in top if not name.endswith(".dist-info")} == {"hessarray"}


def test_wheel_is_typed_and_licensed(wheel: zipfile.ZipFile) -> None:
    names = wheel.namelist()
    assert "hessarray/py.typed" in names
    assert any(name.endswith(".dist-info/licenses/LICENSE") for name in names)


def test_one_version() -> None:
    with open(ROOT / "pyproject.toml", "rb") as file:
        version = tomllib.load(file)["project"]["version"]
    assert metadata.version("hessarray") == version
    assert hessarray.__version__ == version


def test_no_extra_takes_everything() -> None:
    extras = metadata.metadata("hessarray").get_all("Provides-Extra") or []
    assert "all" not in extras
    assert {"torch", "jax", "cuda12", "cuda13", "safetensors", "examples", "test"} <= set(extras)
