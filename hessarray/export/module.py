"""The text of an exported module: what it says about itself, its functions, its programs."""

from __future__ import annotations

import inspect
import re
import textwrap
from collections.abc import Iterator, Mapping, Sequence
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any

import hessarray
from hessarray.backends import _special
from hessarray.export.printer import bind_text, run_text
from hessarray.export.programs import FUNCTIONS, Kind
from hessarray.export.weights import Store, beside_text, inside_text
from hessarray.plan.plan import Plan

if TYPE_CHECKING:
    from hessarray.function import Function

__all__ = ["module_text"]

Shape = tuple[int, ...]
_IMPORTS = {
    "numpy": "import numpy as np\n",
    "cupy": "import cupy as cp\nimport numpy as np\n",
    "torch": "import numpy as np\nimport torch\n",
}
_BYTES = {"numpy": "1 << 20", "cupy": "1 << 30", "torch": "256 << 20"}


def module_text(
    function: Function, plans: Mapping[str, Plan], store: Store, library: str, file: str | None
) -> str:
    """The whole module; the weights come from ``file`` beside it, or lie inside where it is None.

    ``store`` receives the large constants of the programs.
    """
    several = len(function.in_shapes) > 1
    programs = "\n\n".join(
        _program(name, plan, library, store, function) for name, plan in plans.items()
    )
    functions = "\n\n".join(_public(name, function) for name in plans)
    weights = inside_text(store.arrays) if file is None else beside_text(file)
    parts = [
        _head(function, plans, library, file)
        + _imports(library, programs, file)
        + _settings(function, list(plans), library),
        "# ---- functions " + 83 * "-",
        functions,
        "# ---- weights " + 85 * "-",
        weights + "".join(f"{line}\n" for line in store.lines),
        "# ---- evaluation " + 82 * "-",
        _runtime(library, several),
        _specials(library, programs),
        "# ---- programs " + 84 * "-",
        programs,
    ]
    return "\n\n\n".join(part.strip("\n") for part in parts if part) + "\n"


# ---- head ------------------------------------------------------------------------------------


def _head(function: Function, plans: Mapping[str, Plan], library: str, file: str | None) -> str:
    name = {"numpy": "NumPy", "cupy": "CuPy", "torch": "torch"}[library]
    x = "; ".join(_shape_text(s) for s in function.in_shapes)
    where = "inside, as base64" if file is None else f"in {file}, which must lie beside this file"
    lines = [
        f"Exact derivatives of a network, on {name} alone; written by hessarray "
        f"{hessarray.__version__}.",
        "",
        *_filled("network", _described(function)),
        *_filled("functions", ", ".join(plans)),
        *_filled("input", f"{x}, float32 or float64; what stands before one sample is batch"),
        *_filled("output", f"{_shape_text(function.out_shape)} for m; derivatives are exact"),
        *_filled("weights", where),
        "",
        "Each function runs one straight line of array calls (below: a ``_bind`` part that depends",
        "on the weights alone, and a ``_run`` part for a chunk of samples). x_a are the entries of",
        "one sample, f_m those of the output.",
    ]
    text = "\n".join(lines).replace("\\", "/").replace('"""', "'''")
    return f'"""{text}\n"""\n\n'


def _filled(title: str, text: str) -> list[str]:
    return textwrap.wrap(
        f"{title:11}{text}", 96, subsequent_indent=" " * 11, break_long_words=False
    )


def _described(function: Function) -> str:
    """The network on one line of printable characters, not too long."""
    text = repr(function)
    acts = dict.fromkeys(_activations(function))
    text = " ".join([*text.split(), *([f"with {', '.join(acts)}"] if acts else [])])
    return text if len(text) < 300 else f"{text[:300]}..."


def _activations(function: Any) -> Iterator[str]:
    """Names of the activations of all layers that have one."""
    for layer in getattr(function, "layers", ()):
        yield from _activations(layer)
        act = getattr(layer, "act", None)
        name = getattr(act, "name", "a function")
        if act is not None and name != "identity":
            yield name


def _imports(library: str, programs: str, file: str | None) -> str:
    text = ("import base64\n" if file is None else "import os\n") + "from typing import Any\n\n"
    text += _IMPORTS[library]
    if library == "cupy" and "special." in programs:
        text += "from cupyx.scipy import special\n"
    return text + "\n"


def _settings(function: Function, names: Sequence[str], library: str) -> str:
    rows = "".join(f'    "{name}",\n' for name in sorted(names))
    return (
        f"__all__ = [\n{rows}]\n\n"
        f"IN_SHAPES = {function.in_shapes!r}\n"
        f"OUT_SHAPE = {function.out_shape!r}\n"
        f"CHUNK_BYTES = {_BYTES[library]}  # of intermediates that are held at a time\n\n"
        "_Shape = tuple[int, ...]\n"
    )


# ---- functions -------------------------------------------------------------------------------


def _public(name: str, function: Function) -> str:
    """One function of the module: what it is called with, and the shapes of what it returns."""
    kind = FUNCTIONS[name]
    x, directions = _arguments(function, kind)
    several = len(x) > 1
    out = () if kind.direction == "lam" else function.out_shape
    found = ["f", "df", "d2f"] if len(kind.times) > 1 else ["found"]
    texts = [
        f"_blocks({k}, batch, {out}, {times})"
        if several and times
        else f"{k}.reshape(batch + {_tail(name, function, times)})"
        for k, times in zip(found, kind.times, strict=True)
    ]
    extra = "".join(f"({k}, {shape}), " for k, shape in directions.items()).rstrip()
    call = f"_{name.upper()}, ({', '.join(x)},)" + (f", ({extra})" if extra else "")
    return (
        f"def {name}({', '.join([*x, *directions])}):\n"
        f'    """{_sentence(name, function)}"""\n'
        f"    batch, {_unpacked(found)} = _evaluate({call})\n"
        f"    return {', '.join(texts)}\n"
    )


def _unpacked(names: Sequence[str]) -> str:
    return f"({', '.join(names)})" if len(names) > 1 else f"({names[0]},)"


def _arguments(function: Function, kind: Kind) -> tuple[list[str], dict[str, Shape]]:
    """Names of the inputs, and names and shapes of the directions for one sample."""
    shapes = function.in_shapes
    x = [f"x{i}" for i in range(len(shapes))] if len(shapes) > 1 else ["x"]
    if kind.direction == "lam":
        return x, {"lam": function.out_shape}
    if kind.direction == "p":
        return x, {f"p{name[1:]}": shape for name, shape in zip(x, shapes, strict=True)}
    return x, {}


def _tail(name: str, function: Function, times: int) -> Shape:
    """The shape of a result for one sample of a function of one input."""
    out = () if FUNCTIONS[name].direction == "lam" else function.out_shape
    return (1, *out) if name == "laplacian" else (*function.in_shape * times, *out)


def _sentence(name: str, function: Function) -> str:
    """What is computed, and the shapes of what goes in and comes out."""
    kind = FUNCTIONS[name]
    x, directions = _arguments(function, kind)
    given = [f"{k} {_shape_text(s)}" for k, s in zip(x, function.in_shapes, strict=True)]
    given += [f"{k} {_shape_text(s)} or {s}" for k, s in directions.items()]
    if len(x) > 1 and any(kind.times):
        result = "blocks (..., *in, *out) for each input, (..., *in, *in, *out) for each pair"
    else:
        result = ", ".join(_shape_text(_tail(name, function, t)) for t in kind.times)
    text = f"{kind.formula}: {', '.join(given)} gives {result}."
    return text if len(text) < 88 else text.replace(": ", ":\n\n    ", 1) + "\n    "


def _shape_text(sample: Shape) -> str:
    return f"({', '.join(['...', *map(str, sample)])})"


# ---- programs --------------------------------------------------------------------------------


def _program(name: str, plan: Plan, library: str, store: Store, function: Function) -> str:
    """``_bind`` and ``_run`` of one function, and the object that holds both."""
    program = plan.program
    inputs = [f"x{i}" for i in range(len(function.in_shapes))]
    inputs += {"p": ["p"], "lam": ["w"]}.get(FUNCTIONS[name].direction, [])
    once, each = program.flops
    results = tuple(v.shape for v in program.outputs.values())
    return (
        f"# {name}: {plan.mode}; {each:,} operations a sample, {once:,} once\n\n\n"
        + bind_text(f"_bind_{name}", program, library, store.constants(program))
        + "\n\n"
        + run_text(f"_run_{name}", program, library, inputs)
        + f"\n\n_{name.upper()} = _Program(\n"
        f"    _bind_{name},\n    _run_{name},\n"
        f"    entries={plan.entries_functional},\n    results={results},\n)\n"
    )


def _runtime(library: str, several: bool) -> str:
    """The text of the library's runtime, and of what is the same on all of them."""
    text = _source("torch" if library == "torch" else "array", "class _Program")
    if library == "cupy":
        text = re.sub(r"@np\.errstate.*\n", "", text)
        text = re.sub(r"\bnp\.", "cp.", text)
    shapes = _source("shapes", "def _product")
    return f"{text}\n\n{shapes if several else shapes[: shapes.index('def _blocks')]}"


def _source(kind: str, first: str) -> str:
    """A runtime file from this line on."""
    name = f"hessarray.export._{kind}_runtime"
    spec: Any = find_spec(name)  # read, not imported: torch need not be installed here
    text = str(spec.loader.get_source(name))
    return text[text.index(first) :]


def _specials(library: str, programs: str) -> str:
    """erf and erfc in NumPy's calls, where the programs use them."""
    if library != "numpy" or "erf" not in programs:
        return ""
    names = [k for k in ("erf", "erfc") if re.search(rf"= {k}\(np, ", programs)]
    tables = ["_ERFCX_64", "_ERFCX_32", *(["_ERF_64", "_ERF_32"] if "erf" in names else [])]
    functions = [*names, "_erfcx", "_horner"]
    texts = [inspect.getsource(getattr(_special, k)) for k in functions]
    for k in tables:
        rows = ",\n    ".join(map(repr, getattr(_special, k)))
        texts.append(f"{k} = (\n    {rows},\n)\n")
    return "\n\n".join(texts)
