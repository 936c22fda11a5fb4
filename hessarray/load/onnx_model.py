"""Functions from ONNX models: inputs, outputs, parameters, and the batch axis that a file has."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from hessarray.errors import LoadError, near_names
from hessarray.function import Function
from hessarray.load.limits import shown
from hessarray.load.onnx_file import Model, check_valid, read_onnx
from hessarray.load.onnx_graph import Steps, check_samples_apart, steps_to
from hessarray.load.onnx_samples import Samples, check_entries
from hessarray.load.onnx_tensors import dtype_of

__all__ = ["OnnxFunction", "from_onnx"]

Shape = tuple[int, ...]
_MAX_BYTES = 4 << 30
_FLOATS = ("float32", "float64", "float16", "bfloat16")


class OnnxFunction(Function):
    """A function of one sample that an ONNX graph describes; made by ``from_onnx``.

    Attributes
    ----------
    input_names, output_names : tuple of str
        In the order in which x is passed, and in which outputs are joined.
    output_shapes : dict of str to tuple of int
        The shape of each output for one sample; their flattened entries, one after the other, are
        the m features of f.
    place : str
        The file, as messages name it.
    opset : int
        The version of the ONNX operators that the file was written for.
    """

    input_names: tuple[str, ...]
    output_shapes: dict[str, Shape]
    place: str
    opset: int

    @property
    def operators(self) -> dict[str, int]:
        """How often each operator occurs, activations of several nodes as one, in their order."""
        forward: Any = self._fn
        return dict(Counter(node.kind for node in forward.steps.nodes))

    def __repr__(self) -> str:
        pairs = zip(self.input_names, self.in_shapes, strict=True)
        inputs = ", ".join(f"{name} {shape}" for name, shape in pairs)
        outputs = ", ".join(f"{name} {shape}" for name, shape in self.output_shapes.items())
        return f"OnnxFunction({inputs} -> {outputs})"


def from_onnx(
    source: Any,
    outputs: str | Sequence[str] | None = None,
    inputs: str | Sequence[str] | Mapping[str, Sequence[int]] | None = None,
    *,
    max_bytes: int = _MAX_BYTES,
) -> OnnxFunction:
    """The function of one sample that an ONNX model computes, with its weights as parameters.

    The first axis of an input counts the samples: it is left away where the file gives it no
    length, length one or, if the model allows any number of samples, another length. An input of
    one axis of fixed length is a single vector. Half precision weights are widened to float32.

    Parameters
    ----------
    source : path or onnx.ModelProto
        The model, of opset 7 or later.
    outputs : str or sequence of str, optional
        Which outputs, or other values of the graph, to compute; all outputs where left out. They
        are flattened and joined along the features.
    inputs : str, sequence of str, or mapping of str to tuple of int, optional
        The order of the inputs, and the shape of one sample of each where the file leaves it open.
        A shape with as many axes as the file's says that there is no batch axis.
    max_bytes : int
        Refuse models whose weights take more, before memory is taken.

    Raises
    ------
    LoadError
        The file is damaged, or the model mixes samples or holds what is not supported; one
        sentence that names file, node or tensor.

    Warns
    -----
    UserWarning
        A tensor holds NaN or infinity; names the tensor.

    Examples
    --------
    >>> import hessarray as ha
    >>> net = ha.from_onnx("model.onnx", outputs="lift")  # doctest: +SKIP
    >>> net.input_names, net.output_names  # doctest: +SKIP
    (('x',), ('lift',))
    """
    try:
        function = _function(source, outputs, inputs, max_bytes)
    except UnicodeDecodeError:  # from wherever a name is looked at first
        place = source if isinstance(source, (str, os.PathLike)) else "the ONNX model"
        raise LoadError(f"{place}: a name in it is no text") from None
    _warn_of_nan(function)
    return function


def _function(source: Any, outputs: Any, inputs: Any, max_bytes: int) -> OnnxFunction:
    model = read_onnx(source, max_bytes)
    steps = steps_to(model, _chosen_outputs(model, outputs))
    check_valid(model)
    steps = steps.fused(model.weights)
    variables = _variables(model, steps, inputs)
    forward = _forward(model, steps, variables)
    found = forward.verified()
    params = {k: model.weights[k] for k in forward.parameters}
    function = OnnxFunction(forward, [v.shape or (1,) for v in variables], params)
    function.input_names = tuple(v.name for v in variables)
    function.output_names = steps.outputs
    function.output_shapes = {k: tuple(s) for k, s in found.items()}
    function.place = model.place
    function.opset = model.opsets.get("", 0)
    return function


def _warn_of_nan(function: OnnxFunction) -> None:
    import sys
    import warnings

    bad = [k for k, a in function.parameters().items() if not np.all(np.isfinite(a))]
    if bad:
        # The caller's line, whether through ha.load or not.
        level, here = 1, os.path.dirname(__file__)
        while sys._getframe(level - 1).f_code.co_filename.startswith(here):
            level += 1
        more = f" (and {len(bad) - 1} more)" if bad[1:] else ""
        warnings.warn(
            f"{function.place}: tensor {shown(bad[0])}{more} holds NaN or infinity",
            stacklevel=level,
        )


# ---- outputs and inputs ----------------------------------------------------------------------


def _chosen_outputs(model: Model, outputs: Any) -> list[str]:
    declared = [value.name for value in model.graph.output]
    if outputs is None:
        return declared
    chosen = [outputs] if isinstance(outputs, str) else list(outputs)
    known = {name for node in model.graph.node for name in node.output if name}
    for name in chosen or [None]:
        if name not in known:
            near = near_names(name, known) if isinstance(name, str) else ""
            raise LoadError(
                f"{model.place}: there is no output {shown(name)}, "
                f"{near or 'its outputs are ' + ', '.join(map(shown, declared[:8]))}"
            )
    if len(set(chosen)) < len(chosen):
        raise LoadError(f"{model.place}: outputs={chosen} names one output twice")
    return chosen


@dataclass(frozen=True)
class _Variable:
    """An input of the graph: the shape of one sample, and whether the graph has a batch axis."""

    name: str
    shape: Shape
    batched: bool
    fixed: int | None  # the length of the batch axis in the file

    def in_graph(self, samples: int) -> Shape:
        return (samples, *self.shape) if self.batched else self.shape


def _variables(model: Model, steps: Steps, inputs: Any) -> list[_Variable]:
    values = {v.name: v for v in model.graph.input}
    given = {v.name for v in model.graph.input if v.name not in model.weights}
    read = {name for node in steps.nodes for name in node.inputs} | set(steps.outputs)
    needed = [name for name in values if name in given and name in read]
    named = [inputs] if isinstance(inputs, str) else list(inputs or ())
    for name in named:
        if name not in values or name not in read:
            raise LoadError(
                f"{model.place}: outputs {', '.join(map(shown, steps.outputs[:4]))} read no input "
                f"{shown(name)}, they read {', '.join(map(shown, needed[:8])) or 'none'}"
            )
    shapes = inputs if isinstance(inputs, Mapping) else {}
    partly = len(named) < len(needed) and isinstance(inputs, Mapping)
    order = needed if partly or not named else named
    missing = [name for name in needed if name not in order]
    if missing or len(set(order)) < len(order):
        raise LoadError(
            f"{model.place}: inputs={named} must name each input once: "
            f"{', '.join(map(shown, needed))}"
        )
    if not order:
        raise LoadError(
            f"{model.place}: outputs {', '.join(map(shown, steps.outputs[:4]))} depend on no input"
        )
    return [_variable(model, values[name], shapes.get(name)) for name in order]


def _variable(model: Model, value: Any, wanted: Any) -> _Variable:
    what = f"{model.place}: input {shown(value.name)}"
    if not value.type.HasField("tensor_type"):
        raise LoadError(f"{what} is no tensor")
    kind = value.type.tensor_type
    dtype = dtype_of(kind.elem_type)
    if dtype not in _FLOATS:
        raise LoadError(f"{what} holds {dtype}, real numbers are expected")
    declared = None
    if kind.HasField("shape"):
        declared = [d.dim_value if d.HasField("dim_value") else None for d in kind.shape.dim]
    shown_shape = "(" + ", ".join(str(n or "?") for n in declared or ()) + ")"
    if wanted is not None:
        return _as_wanted(what, value.name, declared, wanted, shown_shape)
    batched = declared is None or not (len(declared) == 0 or (len(declared) == 1 and declared[0]))
    rest = declared[1:] if declared and batched else declared
    lengths = [n for n in rest or () if n is not None]
    if rest is None or len(lengths) < len(rest):
        raise LoadError(
            f"{what} of shape {shown_shape} has axes of open length: say the shape of one sample, "
            f"inputs={{{shown(value.name)}: (...)}}"
        )
    return _checked(what, _Variable(value.name, tuple(lengths), batched, _fixed(declared, batched)))


def _fixed(declared: Any, batched: bool) -> int | None:
    return declared[0] if batched and declared else None


def _as_wanted(what: str, name: str, declared: Any, wanted: Any, shown_shape: str) -> _Variable:
    try:
        shape = tuple(int(n) for n in wanted)
    except TypeError:
        shape = (0,)
    batched = declared is None or len(shape) + 1 == len(declared)
    rest = shape if declared is None else declared[1:] if batched else declared
    fits = len(rest) == len(shape) and all(n in (None, m) for n, m in zip(rest, shape, strict=True))
    if not fits or any(n < 1 for n in shape):
        raise LoadError(f"{what} of shape {shown_shape} does not take samples of shape {wanted}")
    return _checked(what, _Variable(name, shape, batched, _fixed(declared, batched)))


def _checked(what: str, variable: _Variable) -> _Variable:
    if any(n < 1 for n in variable.shape):
        raise LoadError(f"{what} has the empty sample shape {variable.shape}")
    try:
        check_entries(variable.shape)
    except ValueError as error:
        raise LoadError(f"{what}: {error}") from None
    return variable


# ---- the function ----------------------------------------------------------------------------


@dataclass(frozen=True)
class _Forward:
    """The graph as code of one sample: ``forward(*inputs, params)``."""

    steps: Steps
    variables: tuple[_Variable, ...]
    constants: dict[str, Any]
    parameters: dict[str, Shape]

    def __call__(self, *inputs: Any) -> Any:
        *x, params = inputs
        xp = x[0].__array_namespace__()
        values = {
            v.name: xp.reshape(a, v.in_graph(1)) for v, a in zip(self.variables, x, strict=True)
        }
        found = self.steps.run({**self.constants, **params, **values})
        parts = [xp.reshape(found[name], (-1,)) for name in self.steps.outputs]
        return parts[0] if len(parts) == 1 else xp.concat(parts, axis=0)

    def values(self, samples: int) -> dict[str, Any]:
        """All values of the graph for this many samples, as arrays of samples."""
        start: dict[str, Any] = {
            name: Samples(np.broadcast_to(np.uint8(0), shape))
            for name, shape in self.parameters.items()
        }
        for v in self.variables:
            bits = np.zeros(v.in_graph(samples), dtype=np.uint8)
            if v.batched:
                bits += (1 << np.arange(samples, dtype=np.uint8)).reshape(-1, *[1] * len(v.shape))
            start[v.name] = Samples(bits)
        return self.steps.run({**self.constants, **start})

    def verified(self) -> dict[str, Shape]:
        """The shapes of the outputs for one sample, if the graph keeps samples apart."""
        batched = [v for v in self.variables if v.batched]
        several = [v.fixed for v in batched if v.fixed is not None and v.fixed > 1]
        try:
            one = self.values(1)
            if any(v.fixed != 1 for v in batched):
                check_samples_apart(self.steps, one, self.values(2))
        except LoadError as error:
            if not several:
                raise
            raise LoadError(
                f"{error}; the file fixes a batch of {several[0]}: export it with a batch of one "
                "or of open length, or pass inputs= with the whole shape as one sample"
            ) from None
        return {name: self._sample_shape(one[name]) for name in self.steps.outputs}

    def _sample_shape(self, value: Any) -> Shape:
        shape = tuple(value.shape)
        alone = any(v.batched for v in self.variables) and shape[:1] == (1,)
        return shape[1:] if alone else shape


def _forward(model: Model, steps: Steps, variables: Sequence[_Variable]) -> _Forward:
    """Real tensors are parameters, but for single numbers and for what says how to compute."""
    settings = steps.settings()
    read = {name for node in steps.nodes for name in node.inputs} | set(steps.outputs)
    names = {v.name for v in variables}
    tensors = {k: a for k, a in model.weights.items() if k in read and k not in names}
    parameters = {
        k: tuple(a.shape)
        for k, a in tensors.items()
        if a.dtype.kind == "f" and a.ndim and k not in settings
    }
    constants = {k: a for k, a in tensors.items() if k not in parameters}
    return _Forward(steps, tuple(variables), constants, parameters)
