"""Any torch module that torch.export can trace, as a function of one sample."""

from __future__ import annotations

import operator
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from hessarray.errors import LoadError
from hessarray.function import Function
from hessarray.load.limits import shown
from hessarray.load.steps import Ref, joined, references, resolved
from hessarray.load.torch_export import (
    called,
    check_mode,
    check_samples,
    exported,
    floating,
    name_of,
    named_tensors,
    nearby,
    quiet,
)
from hessarray.load.torch_operators import OPERATORS

__all__ = ["from_torch_graph"]

# These read no values of their argument, only its shape.
_FILLING = "zeros_like ones_like full_like new_zeros new_ones new_full new_empty empty_like".split()


def from_torch_graph(module: Any, examples: tuple[Any, ...]) -> Function:
    """The module as a Function, traced by torch.export with one sample.

    Raises
    ------
    LoadError
        The module mixes samples, is in training mode, cannot be traced, or has an operator that
        is not supported; names module and operator.
    """
    import torch

    place = type(module).__name__
    examples = floating(torch, module, examples, place)
    check_mode(torch, module, place)
    with quiet(torch):
        shape = check_samples(torch, module, examples, place)
        program = exported(torch, module, examples, place)
        graph, params = _Reader(torch, place).read(program, shape)
    function = Function(graph, [tuple(x.shape[1:]) for x in examples], params)
    function.output_names = _compare(torch, module, function, examples, place)
    return function


# ---- what is computed ----------------------------------------------------------------------


@dataclass(frozen=True)
class _Step:
    """One operator: its row in the table, its arguments, and where it stands in the module."""

    name: str
    operator: str
    args: tuple[Any, ...]
    options: Mapping[str, Any]
    place: str


@dataclass(frozen=True)
class _Graph:
    """Steps in order, over arrays whose batch axis has length one; needs no torch to run."""

    inputs: tuple[str, ...]
    params: Mapping[str, str]  # placeholder to name
    constants: Mapping[str, Any]
    steps: tuple[_Step, ...]
    outputs: tuple[str, ...]
    shape: tuple[int, ...]

    def __call__(self, *arrays: Any) -> Any:
        *xs, params = arrays
        xp = xs[0].__array_namespace__()
        values = dict(self.constants)
        values |= {k: params[name] for k, name in self.params.items()}
        values |= {k: xp.expand_dims(x, axis=0) for k, x in zip(self.inputs, xs, strict=True)}
        for step in self.steps:
            args, options = resolved(step.args, values), resolved(step.options, values)
            try:
                values[step.name] = _run(xp, step.operator, args, options)
            except (LoadError, TypeError, ValueError, IndexError) as error:
                raise LoadError(f"{step.place}: {step.operator}: {shown(error)}") from None
        return xp.reshape(joined(xp, [values[k] for k in self.outputs]), self.shape)


def _run(xp: Any, name: str, args: Any, options: Any) -> Any:
    return args[0][args[1]] if name == "getitem" else OPERATORS[name](xp, *args, **options)


# ---- from torch's graph --------------------------------------------------------------------


class _Reader:
    """Turns an exported program into steps; what depends on constants only is computed now."""

    def __init__(self, torch: Any, place: str) -> None:
        self.torch, self.place = torch, place
        self.constants: dict[str, Any] = {}  # torch tensors, or lists of them
        self.steps: list[_Step] = []

    def read(self, program: Any, shape: tuple[int, ...]) -> tuple[_Graph, dict[str, Any]]:
        signature = program.graph_signature
        if signature.buffers_to_mutate:
            name = next(iter(signature.buffers_to_mutate.values()))
            raise LoadError(
                f"{self.place}: a call changes the buffer '{name}': call module.eval() first"
            )
        params, arrays = self._parameters(program)
        for node in program.graph.nodes:
            if node.op == "call_function":
                self._node(node)
        outputs = _outputs(program)
        used = {r.name for s in self.steps for r in references((s.args, s.options))}
        used.update(outputs)
        inputs = tuple(s.arg.name for s in signature.input_specs if s.kind.name == "USER_INPUT")
        constants = {k: _numpy(v) for k, v in self.constants.items() if k in used}
        graph = _Graph(inputs, params, constants, tuple(self.steps), outputs, shape)
        return graph, arrays

    def _parameters(self, program: Any) -> tuple[dict[str, str], dict[str, Any]]:
        """Placeholder to name, and name to array; buffers and other tensors become constants."""
        params, arrays = {}, {}
        for spec in program.graph_signature.input_specs:
            kind, name, target = spec.kind.name, getattr(spec.arg, "name", ""), spec.target
            if kind == "PARAMETER":
                tensor = program.state_dict[target]
                if tensor.is_floating_point():
                    params[name], arrays[target] = target, _weights(tensor, self.place, target)
                    continue
                self.constants[name] = tensor
            elif kind in ("BUFFER", "CONSTANT_TENSOR"):
                found = program.state_dict.get(target)
                self.constants[name] = program.constants[target] if found is None else found
            elif kind != "USER_INPUT":
                raise LoadError(f"{self.place}: an input of kind {kind} is not supported")
        return params, arrays

    def _node(self, node: Any) -> None:
        target = node.target
        if target is operator.getitem:
            name = "getitem"
        elif hasattr(target, "_schema"):
            name = name_of(target)
        else:
            raise LoadError(f"{self._where(node)}: {shown(target)} is not supported")
        if name.startswith(("_assert_", "sym_constrain_")):
            return  # of shapes and dtypes, which held for the example
        if name.partition(".")[0] in _FILLING:
            like = self.torch.zeros(node.args[0].meta["val"].shape)
            self.constants[node.name] = target(like, *node.args[1:], **node.kwargs)
            return
        given = [n.name for n in node.all_input_nodes]
        if all(k in self.constants for k in given):
            args, options = (_references_of(t, self.constants) for t in (node.args, node.kwargs))
            self.constants[node.name] = target(*args, **options)
            return
        if name != "getitem" and name not in OPERATORS:
            short = name.partition(".")[0]
            raise LoadError(
                f"{self._where(node)}: torch operator {short} is not supported, "
                "hessarray.load.torch_operators.OPERATORS names those that are"
            )
        args, options = self._plain(node.args), self._plain(dict(node.kwargs))
        options.pop("memory_format", None)
        self.steps.append(_Step(node.name, name, args, options, self._where(node)))

    def _plain(self, tree: Any) -> Any:
        """Arguments without torch: references, numbers, names of dtypes."""
        if isinstance(tree, self.torch.fx.Node):
            return Ref(tree.name)
        if isinstance(tree, (list, tuple)):
            return tuple(self._plain(t) for t in tree)
        if isinstance(tree, dict):
            return {k: self._plain(t) for k, t in tree.items() if k not in _IGNORED}
        if isinstance(tree, self.torch.dtype):
            return str(tree).removeprefix("torch.")
        return tree

    def _where(self, node: Any) -> str:
        """Path of the submodule that calls the operator."""
        stack = list((node.meta.get("nn_module_stack") or {}).values())
        path = stack[-1][0] if stack else ""
        return f"{self.place}.{path}" if path else self.place


_IGNORED = ("memory_format", "layout", "device", "pin_memory", "non_blocking", "copy")


def _outputs(program: Any) -> tuple[str, ...]:
    specs = program.graph_signature.output_specs
    return tuple(s.arg.name for s in specs if type(s.arg).__name__ == "TensorArgument")


def _references_of(tree: Any, constants: Mapping[str, Any]) -> Any:
    """Arguments with torch's own constants, to compute with torch."""
    if isinstance(tree, (list, tuple)):
        return type(tree)(_references_of(t, constants) for t in tree)
    if isinstance(tree, dict):
        return {k: _references_of(t, constants) for k, t in tree.items()}
    return constants[tree.name] if hasattr(tree, "all_input_nodes") else tree


def _numpy(value: Any) -> Any:
    if isinstance(value, (list, tuple)):
        return [_numpy(v) for v in value]
    return value.detach().cpu().numpy().copy() if hasattr(value, "detach") else value


def _weights(tensor: Any, place: str, name: str) -> Any:
    dtype = str(tensor.dtype).removeprefix("torch.")
    if dtype not in ("float32", "float64"):
        raise LoadError(f"{place}: {name} has dtype {dtype}, float32 or float64 is expected")
    return tensor.detach().cpu().numpy()


def _compare(
    torch: Any, module: Any, function: Function, examples: tuple[Any, ...], place: str
) -> tuple[str, ...] | None:
    """Hooks and custom operators may do what a graph does not show: the values must be equal.

    Names of the outputs, if there are several.
    """
    batch = nearby(torch, examples, 3)
    with torch.no_grad():
        want = called(torch, module, batch, place).cpu().numpy()
        names = tuple(named_tensors(torch, module(*batch), place))
    got = function.value(*(x.cpu().numpy() for x in batch))
    scale = float(np.max(np.abs(np.nan_to_num(want)), initial=0.0))
    if not np.allclose(got, want, 1e-3, 1e-3 * scale, equal_nan=True):
        raise LoadError(
            f"{place}: the traced graph computes other values than the module: remove hooks and "
            "branches that depend on the batch"
        )
    return names if len(names) > 1 else None
