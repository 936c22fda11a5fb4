"""Sequential and Functional models of Keras, from their description and their weights."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from hessarray.activations import activation
from hessarray.errors import HessarrayError, LoadError
from hessarray.function import Function
from hessarray.layers import Dense
from hessarray.load.keras_activations import activation_of
from hessarray.load.keras_config import Rule
from hessarray.load.keras_layers import LAYERS, OPERATIONS
from hessarray.load.limits import shown
from hessarray.networks import Network

__all__ = ["from_config", "layer_entries", "snake_case"]

_MODELS = ("Sequential", "Functional", "Model")
_MAX_DEPTH, _MAX_LAYERS = 20, 10_000
# What odd values in a description come to, wherever they stand.
_DAMAGED = (ArithmeticError, AttributeError, LookupError, TypeError, ValueError)


def snake_case(name: str) -> str:
    """Keras's name for the first layer of a class."""
    name = re.sub("(.)([A-Z][a-z]+)", r"\1_\2", re.sub(r"\W+", "", name))
    return re.sub("([a-z])([A-Z])", r"\1_\2", name).lower()


def layer_entries(entry: Any, where: str, optional: bool = False) -> Any:
    """Descriptions of a model's layers; None where it is a layer and ``optional`` allows it."""
    kind = entry.get("class_name") if isinstance(entry, dict) else None
    if optional and kind not in _MODELS:
        return None
    config = entry.get("config") if isinstance(entry, dict) else None
    layers = config.get("layers") if isinstance(config, dict) else None
    if kind not in _MODELS or not isinstance(layers, list) or len(layers) > _MAX_LAYERS:
        raise LoadError(
            f"{where}: {shown(kind)} is no Sequential and no Functional model of Keras 3"
        )
    for layer in layers:
        config = layer.get("config") if isinstance(layer, dict) else None
        if not isinstance(config, dict) or not isinstance(config.get("name"), str):
            raise LoadError(f"{where}: a layer has no name and no configuration")
        if not isinstance(layer.get("class_name"), str):
            raise LoadError(f"{where}: layer {shown(config['name'])} has no class name")
    return layers


def from_config(config: Any, weights: Mapping[str, list[Any]], where: str) -> Function:
    """The function of this description with these weights, by the path of their layer.

    Raises
    ------
    LoadError
        A layer or activation is not supported, or its weights do not fit; names the layer.
    """
    reader = _Reader(weights, where)
    try:
        graph = reader.read(config)
        network = _as_network(graph, reader.params, where)
    except LoadError:
        raise
    except RecursionError:
        raise LoadError(f"{where}: models are nested more than {_MAX_DEPTH} deep") from None
    except _DAMAGED as error:
        raise LoadError(f"{where}: the description is damaged ({shown(error)})") from None
    if network is not None:
        return network
    function = Function(graph, graph.shapes, reader.params)
    try:
        function.graph()
    except LoadError:
        raise
    except (HessarrayError, *_DAMAGED) as error:
        raise LoadError(f"{where}: {shown(error)}") from None
    return function


# ---- what is computed ----------------------------------------------------------------------


@dataclass(frozen=True)
class _Ref:
    """The result of this step, among the arguments of another."""

    index: int


@dataclass(frozen=True)
class _Step:
    """One call of a layer: its row of the table, its description, its weights by name."""

    place: str
    kind: str
    operation: bool  # of keras.ops
    config: Mapping[str, Any]
    params: Mapping[str, str]
    constants: Mapping[str, Any]
    args: tuple[Any, ...]


@dataclass(frozen=True)
class _Graph:
    """Steps in order; the first ones are the inputs."""

    shapes: tuple[tuple[int, ...], ...]
    steps: tuple[_Step, ...]
    output: _Ref

    def __call__(self, *arrays: Any) -> Any:
        *values, params = arrays
        xp = values[0].__array_namespace__()
        for step in self.steps:
            args = _resolved(step.args, values)
            weights = {k: params[v] for k, v in step.params.items()} | dict(step.constants)
            try:
                if step.operation:
                    out = OPERATIONS[step.kind](xp, *args)
                else:
                    out = LAYERS[step.kind].apply(xp, args[0], step.config, weights)
            except (HessarrayError, *_DAMAGED) as error:
                raise LoadError(f"{step.place}: {shown(error)}") from None
            values.append(out)
        return values[self.output.index]


def _resolved(tree: Any, values: list[Any]) -> Any:
    if isinstance(tree, _Ref):
        return values[tree.index]
    return [_resolved(t, values) for t in tree] if isinstance(tree, (list, tuple)) else tree


# ---- from a description --------------------------------------------------------------------


class _Reader:
    """Lists the calls of layers in order; nested models are taken apart."""

    def __init__(self, weights: Mapping[str, list[Any]], where: str) -> None:
        self.weights, self.where = weights, where
        self.steps: list[_Step] = []
        self.params: dict[str, Any] = {}
        self.inputs = 0

    def read(self, entry: Any) -> _Graph:
        shapes = self.input_shapes(entry)
        self.inputs = len(shapes)
        (output,) = self.model(entry, [_Ref(i) for i in range(len(shapes))], "", 0)
        return _Graph(shapes, tuple(self.steps), output)

    def input_shapes(self, entry: Any) -> tuple[tuple[int, ...], ...]:
        layers = layer_entries(entry, self.where)
        config = entry["config"]
        if entry["class_name"] == "Sequential":
            first = layers[0]["config"] if layers else {}
            shape = first.get("batch_shape") or config.get("build_input_shape")
            return (self.input_shape("the first layer", shape),)
        by_name = {e["config"]["name"]: e["config"] for e in layers}
        names = [name for name, _, _ in self.histories(config.get("input_layers"))]
        shapes = (by_name.get(name, {}).get("batch_shape") for name in names)
        return tuple(self.input_shape(k, s) for k, s in zip(names, shapes, strict=True))

    def input_shape(self, name: str, shape: Any) -> tuple[int, ...]:
        lengths = shape[1:] if isinstance(shape, list) else [None]
        if not all(isinstance(n, int) and 0 < n < 2**31 for n in lengths):
            raise LoadError(
                f"{self.where}: {shown(name)} takes inputs of shape {shown(shape)}, lengths of all "
                "axes but the first must be known: build the model with an Input of that shape"
            )
        return tuple(lengths)

    def histories(self, value: Any) -> list[tuple[str, int, int]]:
        """(layer, node, tensor) triples, of which there may be one without a list around it."""
        items = (
            [value] if isinstance(value, list) and value and isinstance(value[0], str) else value
        )
        if isinstance(items, dict):
            items = list(items.values())
        if not isinstance(items, list) or not items:
            raise LoadError(f"{self.where}: {shown(value)} names no layers")
        for item in items:
            if not (isinstance(item, list) and len(item) == 3 and isinstance(item[0], str)):
                raise LoadError(f"{self.where}: {shown(item)} names no tensor")
        return [(str(k), i, j) for k, i, j in items]

    def model(self, entry: Any, inputs: list[_Ref], prefix: str, depth: int) -> list[_Ref]:
        if depth > _MAX_DEPTH:
            raise RecursionError
        layers = layer_entries(entry, self.where)
        if entry["class_name"] == "Sequential":
            (u,) = inputs
            for layer in layers:
                u = self.call(layer, (u,), prefix, depth)
            return [u]
        return self.functional(entry["config"], layers, inputs, prefix, depth)

    def functional(
        self, config: Any, layers: list[Any], inputs: list[_Ref], prefix: str, depth: int
    ) -> list[_Ref]:
        known: dict[tuple[str, int], _Ref] = {}
        sources = self.histories(config.get("input_layers"))
        if len(sources) != len(inputs):
            raise LoadError(
                f"{self.where}: a model of {len(sources)} inputs is called with {len(inputs)}"
            )
        for (name, _, _), ref in zip(sources, inputs, strict=True):
            known[name, 0] = ref
        waiting = [(e, i) for e in layers for i in range(len(e.get("inbound_nodes") or ()))]
        while waiting:
            later = []
            for layer, i in waiting:
                name = layer["config"]["name"]
                args = self.arguments(layer, layer["inbound_nodes"][i], known)
                if args is None:
                    later.append((layer, i))
                else:
                    known[name, i] = self.call(layer, args, prefix, depth)
            if len(later) == len(waiting):
                name = later[0][0]["config"]["name"]
                raise LoadError(f"{self.where}: layer {shown(name)} waits for what nothing gives")
            waiting = later
        outputs = self.histories(config.get("output_layers"))
        if len(outputs) != 1:
            raise LoadError(
                f"{self.where}: the model has {len(outputs)} outputs, one is expected: join them "
                "with Concatenate"
            )
        found = [known.get((name, i)) for name, i, _ in outputs]
        if found[0] is None:
            raise LoadError(f"{self.where}: nothing gives the output {shown(outputs[0])}")
        return [found[0]]

    def arguments(self, layer: Any, node: Any, known: Any) -> tuple[Any, ...] | None:
        """Arguments of a call; None where some are not there yet."""
        if not isinstance(node, dict) or not isinstance(node.get("args"), list):
            raise LoadError(f"{self.where}: layer {shown(layer['config']['name'])} has no inputs")
        for key, value in (node.get("kwargs") or {}).items():
            if value is not None and value is not False:
                raise LoadError(
                    f"{self.where}: layer {shown(layer['config']['name'])} is called with "
                    f"{shown(key)}={shown(value)}, which is not supported"
                )
        args = tuple(self.argument(a, known) for a in node["args"])
        return None if any(r is None for a in args for r in _leaves(a)) else args

    def argument(self, value: Any, known: Any) -> Any:
        if isinstance(value, dict) and value.get("class_name") == "__keras_tensor__":
            config = value.get("config")
            history = config.get("keras_history") if isinstance(config, dict) else None
            ((name, i, _),) = self.histories(history)
            return known.get((name, i))
        if isinstance(value, list):
            return tuple(self.argument(v, known) for v in value)
        if isinstance(value, (int, float)) and not isinstance(value, bool):
            return value
        raise LoadError(f"{self.where}: {shown(value)} is no tensor and no number")

    def call(self, layer: Any, args: tuple[Any, ...], prefix: str, depth: int) -> _Ref:
        kind, config = layer["class_name"], layer["config"]
        name = config["name"]
        place = f"{self.where}: layer {shown(prefix + name)} ({kind})"
        if kind == "InputLayer":
            if len(args) != 1 or not isinstance(args[0], _Ref):
                raise LoadError(f"{place} is called with {shown(args)}, one tensor is expected")
            return args[0]
        self.check_origin(layer, place)
        if kind in _MODELS:
            flat = list(_leaves(args))
            (out,) = self.model(layer, flat, f"{prefix}{name}/", depth + 1)
            return out
        operation = ".ops." in str(layer.get("module"))
        if kind not in (OPERATIONS if operation else LAYERS):
            raise LoadError(f"{place} {_unsupported(kind)}")
        params: dict[str, str] = {}
        constants: dict[str, Any] = {}
        if not operation:
            params, constants = self.arrays(LAYERS[kind], config, f"{prefix}{name}", place)
        step = _Step(place, kind, operation, config, params, constants, args)
        self.steps.append(step)
        if len(self.steps) > _MAX_LAYERS:
            raise LoadError(f"{self.where}: the model has more than {_MAX_LAYERS} layers")
        return _Ref(self.inputs + len(self.steps) - 1)

    def check_origin(self, layer: Any, place: str) -> None:
        """Only Keras's own classes mean what their names say."""
        module, registered = layer.get("module"), layer.get("registered_name")
        own = isinstance(module, str) and module.split(".")[0] == "keras"
        if not own or registered not in (None, layer["class_name"]):
            raise LoadError(
                f"{place} is no layer of Keras's own ({shown(module)}, {shown(registered)}): what "
                "it computes cannot be known"
            )
        dtype = layer["config"].get("dtype")
        policy = dtype.get("config") if isinstance(dtype, dict) else dtype
        name = policy.get("name") if isinstance(policy, dict) else policy
        if name not in (None, "float32", "float64"):
            raise LoadError(f"{place} has dtype {shown(name)}, float32 or float64 is expected")

    def arrays(
        self, rule: Rule, config: Any, path: str, place: str
    ) -> tuple[dict[str, str], dict[str, Any]]:
        names = rule.weights(config).split()
        found = self.weights.get(path, [])
        if len(found) != len(names):
            expected = ", ".join(k.strip("~") for k in names) or "none"
            raise LoadError(f"{place} has {len(found)} weights, {expected} expected")
        params = {}
        for name, array in zip(names, found, strict=True):
            if not name.startswith("~"):
                params[name] = f"{path}/{name}"
                self.params[params[name]] = array
        constants = {k: a for k, a in zip(names, found, strict=True) if k.startswith("~")}
        return params, constants


def _leaves(tree: Any) -> Iterator[Any]:
    if isinstance(tree, (list, tuple)):
        for t in tree:
            yield from _leaves(t)
    else:
        yield tree


def _unsupported(kind: str) -> str:
    if kind == "Lambda":
        return "holds Python code, which is never executed from a file: use Keras's own layers"
    return f"is not supported, supported are {', '.join(sorted(LAYERS))}"


# ---- networks ------------------------------------------------------------------------------


def _as_network(graph: _Graph, params: Mapping[str, Any], where: str) -> Network | None:
    """Dense layers with activations, one after another; None where it is anything else."""
    if len(graph.shapes) != 1 or len(graph.shapes[0]) != 1:
        return None
    layers: list[Dense] = []
    for i, step in enumerate(graph.steps):
        if step.args != (_Ref(i),) or step.operation:
            return None
        act = activation_of({"class_name": step.kind, "config": step.config, "module": "keras."})
        if step.kind == "Dense":
            act = activation_of(step.config.get("activation"))
            if act is None:
                return None
            layers.append(_dense(step, params, act))
        elif act is not None:
            if not layers or layers[-1].act is not activation("identity"):
                return None
            layers[-1].act = act
        elif LAYERS[step.kind] is not LAYERS["Dropout"]:
            return None
    if not layers or graph.output != _Ref(len(graph.steps)):
        return None
    try:
        return Network(*layers)
    except ValueError as error:  # neighbours of different widths
        raise LoadError(f"{where}: {error}") from None


def _dense(step: _Step, params: Mapping[str, Any], act: Any) -> Dense:
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
