"""The calls that a Keras model makes, from its description and its weights."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Hashable, Mapping
from dataclasses import dataclass
from typing import Any

from hessarray.errors import LoadError
from hessarray.load.keras_config import Rule, room
from hessarray.load.keras_layers import LAYERS, OPERATIONS
from hessarray.load.limits import shown
from hessarray.load.steps import Ref, ordered, references, resolved

__all__ = ["Calls", "Step", "layer_entries", "read_calls", "snake_case"]

_MODELS = ("Sequential", "Functional", "Model")
_MAX_DEPTH, _MAX_LAYERS = 20, 10_000


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
    twice = [k for k, n in Counter(e["config"]["name"] for e in layers).items() if n > 1]
    if twice:
        raise LoadError(f"{where}: two layers are named {shown(twice[0])}")
    return layers


@dataclass(frozen=True)
class Step:
    """One call of a layer: its row of the table, its description, its weights by name."""

    place: str
    kind: str
    operation: bool  # of keras.ops
    config: Mapping[str, Any]
    params: Mapping[str, str]
    constants: Mapping[str, Any]
    args: tuple[Any, ...]  # references are numbers: the inputs, then the steps


@dataclass(frozen=True)
class Calls:
    """What a description holds: shapes of the inputs, steps, outputs and parameters."""

    shapes: tuple[tuple[int, ...], ...]
    steps: tuple[Step, ...]
    outputs: tuple[Ref, ...]
    output_names: tuple[str, ...] | None  # of several
    params: dict[str, Any]


def read_calls(config: Any, weights: Mapping[str, list[Any]], where: str) -> Calls:
    """The calls of a model, with these weights by the path of their layer.

    Raises
    ------
    LoadError
        A layer is not supported, its weights do not fit, or the description is damaged; names it.
    """
    return _Reader(weights, where).read(config)


_NO_RULE = Rule(lambda xp, x, config, w: x)


class _Reader:
    """Lists the calls of layers in order; nested models are taken apart."""

    def __init__(self, weights: Mapping[str, list[Any]], where: str) -> None:
        self.weights, self.where = weights, where
        self.steps: list[Step] = []
        self.params: dict[str, Any] = {}
        self.inputs = self.calls = 0

    def read(self, entry: Any) -> Calls:
        shapes = self.input_shapes(entry)
        self.inputs = len(shapes)
        outputs = self.model(entry, [Ref(i) for i in range(len(shapes))], "", 0)
        names = self.output_names(entry) if len(outputs) > 1 else None
        return Calls(shapes, tuple(self.steps), tuple(outputs), names, self.params)

    def output_names(self, entry: Any) -> tuple[str, ...]:
        """Keys of a dict of outputs, else the layers that give them."""
        given = entry["config"]["output_layers"]
        return (
            tuple(map(str, given))
            if isinstance(given, dict)
            else tuple(name for name, _, _ in self.histories(given))
        )

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
        if not all(isinstance(n, int) and n > 0 for n in lengths):
            raise LoadError(
                f"{self.where}: {shown(name)} takes inputs of shape {shown(shape)}, lengths of all "
                "axes but the first must be known: build the model with an Input of that shape"
            )
        try:
            room(*lengths)
        except LoadError as error:
            raise LoadError(f"{self.where}: {shown(name)}: {error}") from None
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
            if item[2] != 0:
                raise LoadError(f"{self.where}: {shown(item)} is not the first result of a layer")
        return [(str(k), i, j) for k, i, j in items]

    def model(self, entry: Any, inputs: list[Ref], prefix: str, depth: int) -> list[Ref]:
        if depth > _MAX_DEPTH:
            raise LoadError(f"{self.where}: models are nested more than {_MAX_DEPTH} deep")
        layers = layer_entries(entry, self.where)
        if entry["class_name"] == "Sequential":
            (u,) = inputs
            for layer in layers:
                u = self.call(layer, (u,), prefix, depth)
            return [u]
        return self.functional(entry["config"], layers, inputs, prefix, depth)

    def functional(
        self, config: Any, layers: list[Any], inputs: list[Ref], prefix: str, depth: int
    ) -> list[Ref]:
        sources = self.histories(config.get("input_layers"))
        if len(sources) != len(inputs):
            raise LoadError(
                f"{self.where}: a model of {len(sources)} inputs is called with {len(inputs)}"
            )
        known = {(name, 0): ref for (name, _, _), ref in zip(sources, inputs, strict=True)}
        calls = {
            (layer["config"]["name"], i): (layer, *self.arguments(layer, node))
            for layer in layers
            for i, node in enumerate(layer.get("inbound_nodes") or ())
        }
        needs: dict[Hashable, list[Any]] = {
            k: [r.name for r in references(args)] for k, (_, args, _) in calls.items()
        }
        try:
            order = ordered(needs, known)
        except LookupError as error:
            name = error.args[0][0]
            raise LoadError(
                f"{self.where}: layer {shown(name)} waits for what nothing gives"
            ) from None
        for key in order:
            layer, args, options = calls[key]
            known[key] = self.call(layer, resolved(args, known), prefix, depth, options)
        outputs = self.histories(config.get("output_layers"))
        if len(outputs) != 1 and depth:
            raise LoadError(
                f"{self.where}: the model {shown(prefix[:-1])} inside has {len(outputs)} outputs, "
                "one is expected: join them with Concatenate"
            )
        for output in outputs:
            if output[:2] not in known:
                raise LoadError(f"{self.where}: nothing gives the output {shown(output)}")
        return [known[name, i] for name, i, _ in outputs]

    def arguments(self, layer: Any, node: Any) -> tuple[tuple[Any, ...], dict[str, bool]]:
        """Arguments of a call, in which tensors are named by layer and call, and its options."""
        name = layer["config"]["name"]
        if not isinstance(node, dict) or not isinstance(node.get("args"), list):
            raise LoadError(f"{self.where}: layer {shown(name)} has no inputs")
        args, options = [self.argument(a, layer) for a in node["args"]], {}
        rule = LAYERS.get(layer["class_name"], _NO_RULE)
        named = dict(zip(rule.inputs, args, strict=False))
        for key, value in (node.get("kwargs") or {}).items():
            if value is None or value is False:
                continue
            if key in rule.options and value is True:
                options[key] = True
            elif key in rule.inputs[len(args) :]:
                named[key] = self.argument(value, layer)
            else:
                raise LoadError(
                    f"{self.where}: layer {shown(name)} is called with "
                    f"{shown(key)}={shown(value)}, which is not supported"
                )
        if rule.inputs:
            missing = [k for k in rule.inputs[: len(named)] if k not in named]
            if missing or len(args) > len(rule.inputs):
                raise LoadError(
                    f"{self.where}: layer {shown(name)} is called with {len(args)} inputs, "
                    f"{', '.join(rule.inputs)} are expected"
                )
            args = [[named[k] for k in rule.inputs if k in named]]
        return tuple(args), options

    def argument(self, value: Any, layer: Any) -> Any:
        if isinstance(value, dict) and value.get("class_name") == "__keras_tensor__":
            config = value.get("config")
            history = config.get("keras_history") if isinstance(config, dict) else None
            ((name, i, _),) = self.histories(history)
            return Ref((name, i))
        if isinstance(value, list):
            return tuple(self.argument(v, layer) for v in value)
        if isinstance(value, (int, float)) and not isinstance(value, bool):
            return value
        place = f"layer {shown(layer['config']['name'])} ({shown(layer['class_name'])[1:-1]})"
        raise LoadError(f"{self.where}: {place} takes {shown(value)}, which is no tensor or number")

    def call(
        self,
        layer: Any,
        args: tuple[Any, ...],
        prefix: str,
        depth: int,
        options: Mapping[str, bool] | None = None,
    ) -> Ref:
        self.calls += 1  # a model inside that has no layers may be called, too
        if self.calls > _MAX_LAYERS:
            raise LoadError(f"{self.where}: the model has more than {_MAX_LAYERS} layers")
        kind, config = layer["class_name"], layer["config"]
        name = config["name"]
        place = f"{self.where}: layer {shown(prefix + name)} ({kind})"
        if kind == "InputLayer":
            if len(args) != 1 or not isinstance(args[0], Ref):
                raise LoadError(f"{place} is called with {shown(args)}, one tensor is expected")
            return args[0]
        self.check_origin(layer, place)
        if kind in _MODELS:
            flat = list(references(args))
            (out,) = self.model(layer, flat, f"{prefix}{name}/", depth + 1)
            return out
        operation = ".ops." in str(layer.get("module"))
        if kind not in (OPERATIONS if operation else LAYERS):
            raise LoadError(f"{place} {_unsupported(kind)}")
        params: dict[str, str] = {}
        constants: dict[str, Any] = {}
        if not operation:
            params, constants = self.arrays(kind, config, f"{prefix}{name}", place)
        step = Step(place, kind, operation, {**config, **(options or {})}, params, constants, args)
        self.steps.append(step)
        return Ref(self.inputs + len(self.steps) - 1)

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
        self, kind: str, config: Any, path: str, place: str
    ) -> tuple[dict[str, str], dict[str, Any]]:
        names = LAYERS[kind].weights(config).split()
        found = self.weights.get(path, [])
        if len(found) != len(names):
            expected = ", ".join(k.strip("~") for k in names) or "none"
            raise LoadError(f"{place} has {len(found)} weights, {expected} expected")
        _check_count(kind, config, dict(zip(names, found, strict=True)), place)
        params = {}
        for name, array in zip(names, found, strict=True):
            if not name.startswith("~"):
                params[name] = f"{path}/{name}"
                self.params[params[name]] = array
        constants = {k: a for k, a in zip(names, found, strict=True) if k.startswith("~")}
        return params, constants


def _check_count(kind: str, config: Any, arrays: Mapping[str, Any], place: str) -> None:
    """Kernel and bias are of as many features as the description says."""
    count = config.get("units", config.get("filters"))
    kernel, bias = arrays.get("kernel"), arrays.get("bias")
    if count is None or kernel is None:
        return
    axis = -2 if kind.endswith("Transpose") else -1
    if kernel.shape[axis:][:1] != (count,) or (bias is not None and bias.shape != (count,)):
        shapes = f"{kernel.shape}" if bias is None else f"{kernel.shape} and {bias.shape}"
        raise LoadError(f"{place} has weights of shape {shapes} for {shown(count)} features")


def _unsupported(kind: str) -> str:
    if kind == "Lambda":
        return "holds Python code, which is never executed from a file: use Keras's own layers"
    return f"is not supported, supported are {', '.join(sorted(LAYERS))}"
