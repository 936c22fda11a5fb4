"""Which folders are installed, and under which names; everything else is in pyproject.toml.

The folder ``backends/`` lies beside ``hessarray/`` and is installed as ``hessarray.backends``.
pyproject.toml can either find packages or rename them, not both, hence these lines.
"""

from setuptools import find_packages, setup

setup(
    packages=[
        *find_packages(include=["hessarray", "hessarray.*"]),
        *(f"hessarray.{name}" for name in find_packages(include=["backends", "backends.*"])),
    ],
    package_dir={"hessarray": "hessarray", "hessarray.backends": "backends"},
    package_data={"hessarray": ["py.typed"]},
)
