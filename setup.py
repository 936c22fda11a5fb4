"""Which folders are installed, under which names, and the C part.

The folder ``backends/`` lies beside ``hessarray/`` and is installed as ``hessarray.backends``.
pyproject.toml can either find packages or rename them, not both, hence these lines.

``_loops`` runs a planned program without the interpreter between its steps. It is optional: where
no C compiler is at hand the same program runs call by call.
"""

import os
from glob import glob

import numpy as np
from setuptools import Extension, find_packages, setup

setup(
    packages=[
        *find_packages(include=["hessarray", "hessarray.*"]),
        *(f"hessarray.{name}" for name in find_packages(include=["backends", "backends.*"])),
    ],
    package_dir={"hessarray": "hessarray", "hessarray.backends": "backends"},
    package_data={"hessarray": ["py.typed"], "hessarray.backends": ["*.pyi"]},
    ext_modules=[
        Extension(
            "hessarray.backends._loops",
            ["backends/_loops.c"],
            include_dirs=[np.get_include()],
            depends=sorted(glob("backends/_*.h")),
            # Remainders of products are a multiplication and a subtraction in one.
            extra_compile_args=[] if os.name == "nt" else ["-O3", "-ffp-contract=fast"],
            extra_link_args=[] if os.name == "nt" else ["-pthread"],
            libraries=[] if os.name == "nt" else ["m"],
            optional=True,
        )
    ],
)
