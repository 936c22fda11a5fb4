"""Any torch module that torch.export can trace, as a function of one sample."""

from __future__ import annotations

import operator
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np

from hessarray.errors import LoadError
from hessarray.function import Function
from hessarray.load.limits import shown
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
    examples = _floating(torch, module, examples, place)
    _check_mode(torch, module, place)
    with _quiet(torch):
        shape = _check_samples(torch, module, examples, place)
        program = _exported(torch, module, examples, place)
        graph, params = _Reader(torch, place).read(program, shape)
    function = Function(graph, [tuple(x.shape[1:]) for x in examples], params)
    _compare(torch, module, function, examples, place)
    return function


# ---- what is computed ----------------------------------------------------------------------


@dataclass(frozen=True)
class _Ref:
    """The value of this name, in the arguments of a step."""

    name: str


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
    output: str
    shape: tuple[int, ...]

    def __call__(self, *arrays: Any) -> Any:
        *xs, params = arrays
        xp = xs[0].__array_namespace__()
        values = dict(self.constants)
        values |= {k: params[name] for k, name in self.params.items()}
        values |= {k: xp.expand_dims(x, axis=0) for k, x in zip(self.inputs, xs, strict=True)}
        for step in self.steps:
            args, options = _resolved(step.args, values), _resolved(step.options, values)
            try:
                values[step.name] = _run(xp, step.operator, args, options)
            except (LoadError, TypeError, ValueError, IndexError) as error:
                raise LoadError(f"{step.place}: {step.operator}: {shown(error)}") from None
        return xp.reshape(values[self.output], self.shape)


def _run(xp: Any, name: str, args: Any, options: Any) -> Any:
    return args[0][args[1]] if name == "getitem" else OPERATORS[name](xp, *args, **options)


def _resolved(tree: Any, values: Mapping[str, Any]) -> Any:
    if isinstance(tree, _Ref):
        return values[tree.name]
    if isinstance(tree, (list, tuple)):
        return type(tree)(_resolved(t, values) for t in tree)
    if isinstance(tree, dict):
        return {k: _resolved(t, values) for k, t in tree.items()}
    return tree


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
        output = self._output(program)
        used = {r.name for s in self.steps for r in _references((s.args, s.options))} | {output}
        inputs = tuple(s.arg.name for s in signature.input_specs if s.kind.name == "USER_INPUT")
        constants = {k: _numpy(v) for k, v in self.constants.items() if k in used}
        graph = _Graph(inputs, params, constants, tuple(self.steps), output, shape)
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
            name = _name(target)
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
                f"{self._where(node)}: torch operator {short} is not supported, docs/loading.md "
                "lists those that are"
            )
        args, options = self._plain(node.args), self._plain(dict(node.kwargs))
        options.pop("memory_format", None)
        self.steps.append(_Step(node.name, name, args, options, self._where(node)))

    def _plain(self, tree: Any) -> Any:
        """Arguments without torch: references, numbers, names of dtypes."""
        if isinstance(tree, self.torch.fx.Node):
            return _Ref(tree.name)
        if isinstance(tree, (list, tuple)):
            return tuple(self._plain(t) for t in tree)
        if isinstance(tree, dict):
            return {k: self._plain(t) for k, t in tree.items() if k not in _IGNORED}
        if isinstance(tree, self.torch.dtype):
            return str(tree).removeprefix("torch.")
        return tree

    def _output(self, program: Any) -> str:
        specs = program.graph_signature.output_specs
        names = [s.arg.name for s in specs if type(s.arg).__name__ == "TensorArgument"]
        if len(names) != 1:
            raise LoadError(
                f"{self.place} returns {len(names)} tensors, one is expected: wrap it in a module "
                "that returns one of them, or joins them"
            )
        return str(names[0])

    def _where(self, node: Any) -> str:
        """Path of the submodule that calls the operator."""
        stack = list((node.meta.get("nn_module_stack") or {}).values())
        path = stack[-1][0] if stack else ""
        return f"{self.place}.{path}" if path else self.place


_IGNORED = ("memory_format", "layout", "device", "pin_memory", "non_blocking", "copy")


def _name(target: Any) -> str:
    """Row of the table: with the overload where the table has it."""
    packet, _, overload = target.name().removeprefix("aten::").partition(".")
    full = f"{packet}.{overload}"
    return full if full in OPERATORS else str(packet)


def _references(tree: Any) -> Iterator[_Ref]:
    if isinstance(tree, _Ref):
        yield tree
    elif isinstance(tree, (list, tuple)):
        for t in tree:
            yield from _references(t)
    elif isinstance(tree, dict):
        yield from _references(tuple(tree.values()))


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


# ---- torch's part --------------------------------------------------------------------------


@contextmanager
def _quiet(torch: Any) -> Iterator[None]:
    """No fused transformer kernels, which export cannot take apart; no deprecations of torch's."""
    fast = torch.backends.mha.get_fastpath_enabled()
    torch.backends.mha.set_fastpath_enabled(False)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        torch.backends.mha.set_fastpath_enabled(fast)


def _floating(torch: Any, module: Any, examples: tuple[Any, ...], place: str) -> tuple[Any, ...]:
    """The examples as tensors in the module's dtype and on its device."""
    tensors = [*module.parameters(), *module.buffers()]
    like = next((t for t in tensors if t.is_floating_point()), torch.zeros(()))
    if any(t.is_meta for t in tensors):
        raise LoadError(f"{place}: weights on the device 'meta' have no values")
    if str(like.dtype) not in ("torch.float32", "torch.float64"):
        dtype = str(like.dtype).removeprefix("torch.")
        raise LoadError(f"{place}: weights of dtype {dtype}, float32 or float64 is expected")
    found = []
    for example in examples:
        x = torch.as_tensor(example).detach()
        if not x.is_floating_point():
            raise LoadError(
                f"{place}: the example has dtype {str(x.dtype).removeprefix('torch.')}, floating "
                "numbers are expected: whole numbers have no derivative"
            )
        if x.ndim < 1 or not x.numel():
            raise LoadError(
                f"{place}: the example has shape {tuple(x.shape)}, a batch of one or more samples "
                "(n, ...) is expected"
            )
        found.append(x.to(dtype=like.dtype, device=like.device))
    return tuple(found)


def _check_mode(torch: Any, module: Any, place: str) -> None:
    nn = torch.nn.modules
    random = (nn.dropout._DropoutNd, nn.batchnorm._BatchNorm, nn.RReLU)
    for name, m in module.named_modules():
        if m.training and isinstance(m, random):
            raise LoadError(
                f"{place}{'.' * bool(name)}{name}: {type(m).__name__} is in training mode, where "
                "it mixes samples or is random: call module.eval() first"
            )


def _check_samples(
    torch: Any, module: Any, examples: tuple[Any, ...], place: str
) -> tuple[int, ...]:
    """One sample's shape of the output; a sample's result must not depend on the others.

    A sample of NaN spoils what it takes part in, whatever the weights; what is chosen by
    comparisons, which NaN passes through, shows where samples are evaluated alone.
    """
    batch = _samples(torch, examples, 3)
    try:
        with torch.no_grad():
            together = _one(module(*batch), place)
            alone = [_one(module(*(x[i : i + 1] for x in batch)), place) for i in range(3)]
            spoilt = tuple(x.clone() for x in batch)
            for x in spoilt:
                x[1] = torch.nan
            beside = _one(module(*spoilt), place)
    except LoadError:
        raise
    except Exception as error:  # the module's own code may raise anything
        shapes = " and ".join(str(tuple(x.shape)) for x in batch)
        raise LoadError(f"{place} fails on inputs of shape {shapes}: {shown(error)}") from None
    if together.shape[:1] != (3,):
        raise LoadError(
            f"{place} returns shape {tuple(together.shape)} for 3 samples, which must be on the "
            "first axis"
        )
    tolerance = 1e-3 if together.dtype == torch.float32 else 1e-9
    scale = torch.nan_to_num(together).abs().max() if together.numel() else 0.0
    for i in (0, 1, 2):
        same = alone[i].numel() == together[i].numel() and torch.allclose(
            alone[i].reshape(together[i].shape),
            together[i],
            tolerance,
            tolerance * float(scale),
            equal_nan=True,
        )
        apart = i == 1 or torch.allclose(
            beside[i], together[i], tolerance, tolerance * float(scale), equal_nan=True
        )
        if not same or not apart:
            raise LoadError(
                f"{place} mixes samples, or is random: the result for one changes with the others "
                "in the batch, so that it is no function of one sample"
            )
    return tuple(together.shape[1:])


def _samples(torch: Any, examples: tuple[Any, ...], count: int) -> tuple[Any, ...]:
    """Different samples near the first of the example, so that they stay in its domain."""
    generator = torch.Generator().manual_seed(0)
    found = []
    for x in examples:
        noise = torch.rand((count, *x.shape[1:]), generator=generator, dtype=x.dtype).to(x.device)
        found.append(x[:1] * (1.0 + 0.1 * noise) + 0.01 * noise)
    return tuple(found)


def _one(output: Any, place: str) -> Any:
    values = output if isinstance(output, (tuple, list)) else [output]
    tensors = [v for v in values if v is not None]
    if len(tensors) != 1 or not hasattr(tensors[0], "is_floating_point"):
        raise LoadError(
            f"{place} returns {len(tensors)} values, one tensor is expected: wrap it in a module "
            "that returns one of them, or joins them"
        )
    return tensors[0]


def _exported(torch: Any, module: Any, examples: tuple[Any, ...], place: str) -> Any:
    if not hasattr(torch.export, "default_decompositions"):
        raise LoadError(
            f"tracing torch modules needs torch 2.6 or newer, this is {torch.__version__}"
        )
    try:
        program = torch.export.export(module, _samples(torch, examples, 1))
        if all(map(_known, program.graph.nodes)):
            return program  # what follows takes torch a second, whatever the model
        table = torch.export.default_decompositions()
        for target in list(table):
            if _name(target) in OPERATORS:
                table.pop(target)
        return program.run_decompositions(table)
    except Exception as error:
        raise LoadError(f"{place} cannot be traced by torch.export: {shown(error)}") from None


def _known(node: Any) -> bool:
    """Whether the table has the operator as it is; one that writes into its argument it has not."""
    if node.op != "call_function" or node.target is operator.getitem:
        return True
    schema = getattr(node.target, "_schema", None)
    return schema is not None and not schema.is_mutable and _name(node.target) in OPERATORS


def _compare(
    torch: Any, module: Any, function: Function, examples: tuple[Any, ...], place: str
) -> None:
    """Hooks and custom operators may do what a graph does not show: the values must be equal."""
    batch = _samples(torch, examples, 3)
    with torch.no_grad():
        want = _one(module(*batch), place).cpu().numpy()
    got = function.value(*(x.cpu().numpy() for x in batch))
    scale = float(np.max(np.abs(np.nan_to_num(want)), initial=0.0))
    if not np.allclose(got, want, 1e-3, 1e-3 * scale, equal_nan=True):
        raise LoadError(
            f"{place}: the traced graph computes other values than the module: remove hooks and "
            "branches that depend on the batch"
        )
