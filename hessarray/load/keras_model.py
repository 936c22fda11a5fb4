"""Sequential and Functional models of Keras, from their description and their weights."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from hessarray.activations import activation
from hessarray.errors import HessarrayError, LoadError
from hessarray.function import Function
from hessarray.layers import Dense
from hessarray.load.keras_activations import activation_of
from hessarray.load.keras_config import room
from hessarray.load.keras_layers import LAYERS, OPERATIONS
from hessarray.load.keras_reader import Calls, Step, read_calls
from hessarray.load.limits import shown
from hessarray.load.steps import Ref, joined, resolved
from hessarray.networks import Network

__all__ = ["from_config"]

# What odd values in a description come to, wherever they stand.
_DAMAGED = (ArithmeticError, AttributeError, LookupError, TypeError, ValueError)


def from_config(config: Any, weights: Mapping[str, list[Any]], where: str) -> Function:
    """The function of this description with these weights, by the path of their layer.

    Raises
    ------
    LoadError
        A layer or activation is not supported, or its weights do not fit; names the layer.
    """
    try:
        calls = read_calls(config, weights, where)
        network = _as_network(calls, where)
    except LoadError:
        raise
    except RecursionError:
        raise LoadError(f"{where}: the description is nested too deeply") from None
    except _DAMAGED as error:
        raise LoadError(f"{where}: the description is damaged ({shown(error)})") from None
    if network is not None:
        return network
    function = Function(_Graph(calls.steps, calls.outputs), calls.shapes, calls.params)
    function.output_names = calls.output_names
    try:
        function.graph()
    except LoadError:
        raise
    except (HessarrayError, *_DAMAGED) as error:
        raise LoadError(f"{where}: {shown(error)}") from None
    return function


# ---- what is computed ----------------------------------------------------------------------


@dataclass(frozen=True)
class _Graph:
    """Steps in order; the results of the first ones are the inputs."""

    steps: tuple[Step, ...]
    outputs: tuple[Ref, ...]

    def __call__(self, *arrays: Any) -> Any:
        *inputs, params = arrays
        values = dict(enumerate(inputs))
        xp = inputs[0].__array_namespace__()
        for step in self.steps:
            args = resolved(step.args, values)
            weights = {k: params[v] for k, v in step.params.items()} | dict(step.constants)
            try:
                if step.operation:
                    out = OPERATIONS[step.kind](xp, *args)
                else:
                    out = LAYERS[step.kind].apply(xp, args[0], step.config, weights)
                room(*out.shape)
            except (HessarrayError, *_DAMAGED) as error:
                raise LoadError(f"{step.place}: {shown(error)}") from None
            values[len(values)] = out
        outputs = [values[r.name] for r in self.outputs]
        return outputs[0] if len(outputs) == 1 else joined(xp, outputs)


# ---- networks ------------------------------------------------------------------------------


def _as_network(graph: Calls, where: str) -> Network | None:
    """Dense layers with activations, one after another; None where it is anything else."""
    if len(graph.shapes) != 1 or len(graph.shapes[0]) != 1:
        return None
    layers: list[Dense] = []
    for i, step in enumerate(graph.steps):
        if step.args != (Ref(i),) or step.operation:
            return None
        act = activation_of({"class_name": step.kind, "config": step.config, "module": "keras."})
        if step.kind == "Dense":
            act = activation_of(step.config.get("activation"))
            if act is None:
                return None
            layers.append(_dense(step, graph.params, act))
        elif act is not None:
            if not layers or layers[-1].act is not activation("identity"):
                return None
            layers[-1].act = act
        elif LAYERS[step.kind] is not LAYERS["Dropout"]:
            return None
    if not layers or graph.outputs != (Ref(len(graph.steps)),):
        return None
    try:
        return Network(*layers)
    except ValueError as error:  # neighbours of different widths
        raise LoadError(f"{where}: {error}") from None


def _dense(step: Step, params: Mapping[str, Any], act: Any) -> Dense:
    K = params[step.params["kernel"]]
    b = params[step.params["bias"]] if "bias" in step.params else None
    if K.ndim != 2 or (b is not None and b.shape != K.shape[1:]):
        shapes = f"{K.shape}" if b is None else f"{K.shape} and {b.shape}"
        raise LoadError(
            f"{step.place} has weights of shape {shapes}, (in, out) and (out,) expected"
        )
    rows, columns = K.shape
    layer = Dense(rows, columns, act, b is not None, seed=...)
    layer.K = K
    if b is not None:
        layer.b = b
    return layer
