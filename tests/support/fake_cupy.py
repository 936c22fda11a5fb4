"""A CuPy that computes with NumPy, and with g++ where CuPy would compile CUDA C++.

It has what the backend uses and no more, and is stricter where CuPy is: a NumPy array among its
arrays is refused, a kernel checks the types of its arguments. Streams and events do nothing but
write down what was asked of them.
"""

from __future__ import annotations

import ctypes
import importlib
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.machinery import ModuleSpec
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any, Self

import array_api_compat.numpy as plain
import numpy as np
import pytest

NO_COMPILER = None if shutil.which("g++") else "no g++ to compile the bodies of kernels with"

# ------------------------------------------------------------------------------------- kernels

# Every warning that could hide double precision inside float is an error.
_FLAGS = "-std=c++17 -O0 -fPIC -shared -ffp-contract=off -Wall -Wextra -Werror"
_FLAGS += " -Wdouble-promotion -Wfloat-conversion -Wno-unused-variable -Wno-unused-function"
# CUDA's functions are overloads in the global namespace; declared here, as headers take a while.
_ONE = (
    "acos acosh asin asinh atan atanh ceil cos cosh erf erfc exp expm1 fabs floor log log10 log1p"
)
_ONE += " log2 rint sin sinh sqrt tan tanh trunc"
_HEAD = "typedef long long int64_t;\n" + "".join(
    f'extern "C" double {f}(double{", double" * two});\n'
    f'extern "C" float {f}f(float{", float" * two});\n'
    f"static inline float {f}(float x{', float y' * two}) {{ return {f}f(x{', y' * two}); }}\n"
    for f, two in [*((f, False) for f in _ONE.split()), ("pow", True)]
)


def parameters(text: str) -> list[tuple[str, str]]:
    """(type, name) of a kernel's parameters."""
    return [(kind, name) for kind, name in (part.split() for part in text.split(",") if part)]


def _function(number: int, inputs: str, outputs: str, body: str) -> str:
    lines = []
    for k, (kind, name) in enumerate(parameters(inputs) + parameters(outputs)):
        const = "const " if k < len(parameters(inputs)) else ""
        lines.append(f"{const}{kind}& {name} = (({const}{kind}*)p[{k}])[at];")
    loop = f"for (int64_t at = 0; at < n; at++) {{ {' '.join(lines)}\n{body}\n}}"
    template = f"template <typename T> static void f{number}(int64_t n, void** p) {{ {loop} }}\n"
    return template + "".join(
        f'extern "C" void f{number}_{t}(int64_t n, void** p) {{ f{number}<{t}>(n, p); }}\n'
        for t in ("float", "double")
    )


class Compiler:
    """Compiles all kernels that were made since the last time at once, and each only once."""

    def __init__(self) -> None:
        self.pending: dict[tuple[str, str, str], None] = {}
        self.done: dict[tuple[str, str, str], Any] = {}
        self.folder = tempfile.TemporaryDirectory()

    def compiled(self, code: tuple[str, str, str]) -> Any:
        """The kernel by the name of T."""
        if code not in self.done:
            codes = [k for k in self.pending if k not in self.done]
            self.pending.clear()
            library = self._library("".join(_function(i, *k) for i, k in enumerate(codes)))
            for i, k in enumerate(codes):
                self.done[k] = {t: getattr(library, f"f{i}_{t}") for t in ("float", "double")}
        return self.done[code]

    def _library(self, functions: str) -> Any:
        path = Path(self.folder.name, f"kernels{len(self.done)}.cpp")
        path.write_text(_HEAD + functions)
        command = ["g++", *_FLAGS.split(), "-o", str(path.with_suffix(".so")), str(path)]
        done = subprocess.run(command, capture_output=True, text=True)
        assert not done.returncode, done.stderr
        return ctypes.CDLL(str(path.with_suffix(".so")))


_compiler = Compiler()


class ElementwiseKernel:
    """Broadcasts, checks dtypes, and runs the compiled body entry by entry."""

    def __init__(self, inputs: str, outputs: str, body: str, name: str = "kernel", **options: Any):
        assert set(options) <= {"options", "reduce_dims", "preamble"}
        assert re.fullmatch(r"[a-z_]\w*", name)
        self.inputs, self.outputs, self.body = inputs, outputs, body
        self.options = options
        _compiler.pending[inputs, outputs, body] = None

    def __call__(self, *arrays: Any) -> Any:
        expected = parameters(self.inputs)
        assert len(arrays) == len(expected), "wrong number of arguments"
        floating = None
        for a, (kind, name) in zip(arrays, expected, strict=True):
            refuse_foreign(a)
            if kind == "bool":
                assert a.dtype == bool, f"{name} is {a.dtype}, not bool"
                continue
            floating = floating or a.dtype
            assert a.dtype == floating, f"type of T is mismatched: {name} is {a.dtype}"
        assert floating in (np.float32, np.float64), "no argument says what T is"
        shape = np.broadcast_shapes(*(a.shape for a in arrays))
        whole = [np.ascontiguousarray(np.broadcast_to(np.asarray(a), shape)) for a in arrays]
        outs = [
            np.empty(shape, bool if k == "bool" else floating) for k, _ in parameters(self.outputs)
        ]
        pointers = (ctypes.c_void_p * (len(whole) + len(outs)))(
            *(a.ctypes.data for a in whole + outs)
        )
        compiled = _compiler.compiled((self.inputs, self.outputs, self.body))
        run = compiled["float" if floating == np.float32 else "double"]
        run(ctypes.c_int64(int(np.prod(shape))), pointers)
        found = tuple(a.view(ndarray) for a in outs)
        return found[0] if len(found) == 1 else found


# -------------------------------------------------------------------------------------- arrays


class ndarray(np.ndarray):
    """NumPy's array under CuPy's name; refuses to meet NumPy's own."""

    def __array_ufunc__(self, ufunc: Any, method: str, *inputs: Any, **kwargs: Any) -> Any:
        for a in inputs:
            refuse_foreign(a)
        if "out" in kwargs:
            kwargs["out"] = tuple(map(_numpys, kwargs["out"]))
        return _ours(getattr(ufunc, method)(*map(_numpys, inputs), **kwargs))

    @property
    def device(self) -> Any:
        return SimpleNamespace(id=0)


ndarray.__module__ = "cupy"


def refuse_foreign(a: Any) -> None:
    if isinstance(a, (np.ndarray, np.generic)) and not isinstance(a, ndarray):
        raise TypeError(f"Unsupported type {type(a)}")


def _ours(found: Any) -> Any:
    if isinstance(found, (np.ndarray, np.generic)):
        return np.asarray(found).view(ndarray)
    if isinstance(found, (tuple, list)):
        return type(found)(map(_ours, found))
    return found


def _numpys(a: Any) -> Any:
    return a.view(np.ndarray) if isinstance(a, ndarray) else a


def _wrapped(function: Any) -> Any:
    def call(*args: Any, **kwargs: Any) -> Any:
        for a in args:
            for item in a if isinstance(a, (tuple, list)) else (a,):
                refuse_foreign(item)
        return _ours(function(*args, **kwargs))

    return call


def _asarray(a: Any, dtype: Any = None, order: str | None = None) -> Any:
    return np.asarray(a, dtype=dtype, order=order).view(ndarray)


# ------------------------------------------------------------------------- streams and the device


class Device:
    def __init__(self, number: int = 0) -> None:
        self.id = number

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        return None


class Event:
    def __init__(self, log: list[Any], name: str) -> None:
        self.log, self.name = log, name

    def synchronize(self) -> None:
        self.log.append(("host waits for", self.name))


class Stream:
    """Writes down (stream, what, event)."""

    def __init__(self, cuda: Any, name: str) -> None:
        self.cuda, self.name = cuda, name

    def record(self) -> Event:
        event = Event(self.cuda.log, f"event {len(self.cuda.log)}")
        self.cuda.log.append((self.name, "records", event.name))
        return event

    def wait_event(self, event: Event) -> None:
        self.cuda.log.append((self.name, "waits for", event.name))

    def synchronize(self) -> None:
        self.cuda.log.append((self.name, "synchronizes", ""))

    def __enter__(self) -> Self:
        self.cuda.stack.append(self)
        return self

    def __exit__(self, *error: object) -> None:
        self.cuda.stack.pop()


def _cuda(free: int) -> ModuleType:
    cuda = ModuleType("cupy.cuda")
    state = SimpleNamespace(log=[], stack=[], made=0)
    state.stack.append(Stream(state, "caller"))

    def stream(non_blocking: bool = False) -> Stream:
        assert non_blocking, "a stream that blocks would wait for the null stream"
        state.made += 1
        return Stream(state, f"stream {state.made}")

    memory = SimpleNamespace(
        memGetInfo=lambda: (free, 2 * free),
        getDeviceProperties=lambda number: {"name": b"Fake GPU", "totalGlobalMem": 2 * free},
        driverGetVersion=lambda: 12090,
        runtimeGetVersion=lambda: 12090,
    )
    stream.null = state.stack[0]  # type: ignore[attr-defined]
    vars(cuda).update(
        Device=Device,
        Stream=stream,
        state=state,
        runtime=memory,
        get_current_stream=lambda: state.stack[-1],
    )
    return cuda


def module(free: int = 1 << 30) -> ModuleType:
    """The module, with so many bytes free on its device."""
    cupy = ModuleType("cupy")
    cupy.__spec__ = ModuleSpec("cupy", None)  # find_spec asks for it
    held = SimpleNamespace(high=0)
    pool = SimpleNamespace(
        free_bytes=lambda: 0, free_all_blocks=lambda: None, total_bytes=lambda: held.high
    )
    vars(cupy).update(
        ndarray=ndarray,
        asarray=_asarray,
        asnumpy=lambda a: np.array(a, copy=True, subok=False),
        empty=lambda shape, dtype: np.empty(shape, dtype).view(ndarray),
        ElementwiseKernel=ElementwiseKernel,
        is_available=lambda: True,
        cuda=_cuda(free),
        copyto=lambda target, source: np.copyto(target, source),
        get_default_memory_pool=lambda: pool,
    )
    return cupy


class _Namespace(ModuleType):
    def __getattr__(self, name: str) -> Any:
        found = getattr(plain, name)
        return _wrapped(found) if callable(found) and not isinstance(found, type) else found


@contextmanager
def installed(free: int = 1 << 30) -> Iterator[ModuleType]:
    """As if CuPy and a device were here; hessarray's backend for it is loaded anew."""
    import array_api_compat
    import scipy.special

    from hessarray.backends import registry

    cupy = module(free)
    special = ModuleType("cupyx.scipy.special")
    special.erf, special.erfc = _wrapped(scipy.special.erf), _wrapped(scipy.special.erfc)  # type: ignore[attr-defined]
    cupyx, middle, xp = (
        ModuleType("cupyx"),
        ModuleType("cupyx.scipy"),
        _Namespace("array_api_compat.cupy"),
    )
    cupyx.scipy, middle.special = middle, special  # type: ignore[attr-defined]
    with pytest.MonkeyPatch.context() as patch:
        for name, found in (
            ("cupy", cupy),
            ("cupyx", cupyx),
            ("cupyx.scipy", middle),
            ("cupyx.scipy.special", special),
            ("array_api_compat.cupy", xp),
        ):
            patch.setitem(sys.modules, name, found)
        patch.setattr(array_api_compat, "cupy", xp, raising=False)
        patch.delitem(sys.modules, "hessarray.backends.cupy_backend", raising=False)
        known = registry.backend_named
        backend = importlib.import_module("hessarray.backends.cupy_backend").CupyBackend()
        patch.setattr(
            registry, "backend_named", lambda name: backend if name == "cupy" else known(name)
        )
        cupy.backend = backend  # type: ignore[attr-defined]
        yield cupy
        del sys.modules["hessarray.backends.cupy_backend"]
