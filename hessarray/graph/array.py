"""The traced array: stands for one sample's value while a function is traced."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator
from typing import Any, NoReturn

import numpy as np

from hessarray.errors import TraceAttributeError
from hessarray.graph.builder import Builder
from hessarray.graph.node import Node
from hessarray.graph.where import trace_error

__all__ = ["TracedArray"]


class TracedArray:
    """An array API array of one sample, without the batch axis, whose operations build a graph."""

    __slots__ = ("builder", "node")
    __array_priority__ = 1000.0
    __hash__ = None  # type: ignore[assignment]

    def __init__(self, node: Node, builder: Builder) -> None:
        self.node = node
        self.builder = builder

    def __array_namespace__(self, api_version: str | None = None) -> Any:
        from hessarray.graph import namespace

        return namespace

    @property
    def shape(self) -> tuple[int, ...]:
        return self.node.shape

    @property
    def ndim(self) -> int:
        return len(self.node.shape)

    @property
    def size(self) -> int:
        return self.node.size

    @property
    def dtype(self) -> np.dtype[Any]:
        # Nominal: a traced function runs in the dtype of the caller's x.
        return np.dtype(bool) if self.node.truth else np.dtype(np.float64)

    @property
    def device(self) -> str:
        return "traced"

    def __repr__(self) -> str:
        return f"TracedArray(shape={self.shape})"

    # ---- what has no value yet ------------------------------------------------------------------

    def _refuse(self, call: str) -> NoReturn:
        raise trace_error(
            call,
            "its result would depend on the values of x",
            "choose with xp.where(condition, a, b) instead of branching on values",
        )

    def _has_no_axes(self, call: str) -> NoReturn:
        raise trace_error(
            call,
            "x has no axes here, as a traced function sees one sample without the batch axis",
            "use x as the number that it is",
        )

    def __bool__(self) -> bool:
        self._refuse("bool(x)")

    def __float__(self) -> float:
        self._refuse("float(x)")

    def __int__(self) -> int:
        self._refuse("int(x)")

    def __index__(self) -> int:
        self._refuse("using x as an index")

    def __complex__(self) -> complex:
        self._refuse("complex(x)")

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> Any:
        raise trace_error(
            "np.asarray(x)",
            "the traced x has no values",
            "use the functions of xp = x.__array_namespace__() on it",
        )

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        raise trace_error(
            f"x.{name}",
            "arrays of the array API standard have no such attribute",
            f"write xp.{name}(x, ...) with xp = x.__array_namespace__()",
            TraceAttributeError,
        )

    def __setitem__(self, key: Any, value: Any) -> None:
        raise trace_error(
            "x[...] = value",
            "a traced array is immutable",
            "build the new array with xp.where or xp.concat",
        )

    def __iter__(self) -> Iterator[TracedArray]:
        if not self.shape:
            self._has_no_axes("iterating over x")
        return (_method("getitem")(self, i) for i in range(self.shape[0]))

    def __len__(self) -> int:
        if not self.shape:
            self._has_no_axes("len(x)")
        return self.shape[0]

    # ---- numpy's own functions called on a traced array -----------------------------------------

    def __array_ufunc__(self, ufunc: Any, method: str, *inputs: Any, **kwargs: Any) -> Any:
        name = ufunc.__name__
        if method != "__call__" or kwargs:
            raise trace_error(
                f"np.{name}.{method}" if method != "__call__" else f"np.{name} with options",
                "hessarray traces the plain call only",
                f"write np.{name}(x), or xp.sum for a reduction",
            )
        return _call(name, f"np.{name}", *inputs)

    def __array_function__(self, func: Any, types: Any, args: Any, kwargs: Any) -> Any:
        home = func.__module__.replace("numpy", "np", 1).split("._", 1)[0]
        return _call(func.__name__, f"{home}.{func.__name__}", *args, **kwargs)


def _call(name: str, shown: str, *args: Any, **kwargs: Any) -> Any:
    """The traced namespace's function of this name, by NumPy's or the standard's spelling."""
    from hessarray.graph import namespace

    name = namespace.NUMPY_NAMES.get(name, name)
    function = getattr(namespace, name, None) if name in namespace.FUNCTIONS else None
    if function is None:
        raise trace_error(
            shown,
            "hessarray knows no derivative of it",
            "compose it from functions of the array API standard, see docs/tracing.md",
        )
    try:
        inspect.signature(function).bind(*args, **kwargs)
    except TypeError as error:
        raise trace_error(
            shown,
            f"the standard's function takes other arguments ({error})",
            f"write xp.{name} as the array API standard has it, such as xp.sum(x, axis=0)",
        ) from None
    return function(*args, **kwargs)


def _method(name: str, reflected: bool = False) -> Callable[..., Any]:
    def method(self: TracedArray, *others: Any) -> Any:
        from hessarray.graph import namespace

        args = (*others, self) if reflected else (self, *others)
        return getattr(namespace, name)(*args)

    return method


_OPERATORS = {
    "add": "add",
    "sub": "subtract",
    "mul": "multiply",
    "truediv": "divide",
    "pow": "pow",
    "matmul": "matmul",
    "mod": "remainder",
    "floordiv": "floor_divide",
    "and": "logical_and",
    "or": "logical_or",
    "xor": "logical_xor",
}
for _dunder, _name in _OPERATORS.items():
    setattr(TracedArray, f"__{_dunder}__", _method(_name))
    setattr(TracedArray, f"__r{_dunder}__", _method(_name, reflected=True))
for _dunder, _name in {
    "neg": "negative",
    "pos": "positive",
    "abs": "abs",
    "invert": "logical_not",
    "lt": "less",
    "le": "less_equal",
    "gt": "greater",
    "ge": "greater_equal",
    "eq": "equal",
    "ne": "not_equal",
    "getitem": "getitem",
}.items():
    setattr(TracedArray, f"__{_dunder}__", _method(_name))
TracedArray.T = property(lambda self: _method("matrix_transpose")(self))  # type: ignore[attr-defined]
TracedArray.mT = TracedArray.T  # type: ignore[attr-defined]
