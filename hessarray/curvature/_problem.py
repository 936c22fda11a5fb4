"""A model, a loss and selected parameters as a perturbed graph, and its sums over samples."""

from __future__ import annotations

import math
import weakref
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

from hessarray.curvature._composed import Composition, compositions
from hessarray.curvature._samples import Samples
from hessarray.curvature.losses import Loss
from hessarray.errors import OptionError, ParameterError, ShapeError, near_names
from hessarray.function import Function
from hessarray.graph.array import TracedArray
from hessarray.graph.builder import Builder
from hessarray.graph.node import Node
from hessarray.graph.trace import inline
from hessarray.graph.where import naming_the_line
from hessarray.plan.injection import Injected, inject
from hessarray.plan.parameters import (
    FisherForm,
    Form,
    GaussNewtonForm,
    HessianForm,
)

__all__ = ["Problem", "problem", "selected"]

Shape = tuple[int, ...]
FORMS: dict[str, Callable[[Injected], Form]] = {
    "hessian": HessianForm,
    "gauss_newton": GaussNewtonForm,
    "fisher": FisherForm,
}


def selected(
    model: Function, params: Iterable[str] | None, frozen: Iterable[str] | None = ()
) -> tuple[str, ...]:
    """Names of the parameters to differentiate by, in the model's order.

    Frozen ones are left out: those named, and torch tensors that require no gradient where the
    model is pinned to torch.
    """
    if not isinstance(model, Function):
        kind = f"{type(model).__module__}.{type(model).__name__}"
        mend = "from_torch(module)" if _is_torch(model) else "Function(fn, in_shape, params)"
        raise OptionError(
            f"model is a {kind}: pass a hessarray Network or Function, such as ha.{mend}"
        )
    known = model.parameters()
    wanted = None if params is None else _names("params", params)
    frozen = _names("frozen", frozen)
    for name in (*(wanted or ()), *frozen):
        if name not in known:
            near = near_names(str(name), known)
            raise ParameterError(
                f"parameter '{name}' is unknown: {near or 'the names are ' + ', '.join(known)}"
            )
    pinned = model._pinned is not None and model._pinned[0] == "torch"
    still = {k for k, a in known.items() if pinned and not a.requires_grad}
    names = tuple(
        k for k in known if (wanted is None or k in wanted) and k not in frozen and k not in still
    )
    if not names:
        raise ParameterError(
            "no parameter is selected: the model has none, or all are frozen or left out"
        )
    return names


def _names(option: str, names: Iterable[str] | None) -> list[str]:
    if isinstance(names, str):
        return [names]
    try:
        return list(names or ())
    except TypeError:
        raise OptionError(f"{option}={names!r}: pass names of parameters") from None


def _is_torch(model: Any) -> bool:
    return any(c.__module__.startswith("torch.nn") for c in type(model).__mro__)


_problems: weakref.WeakKeyDictionary[Function, dict[Any, Problem]] = weakref.WeakKeyDictionary()
_MOST = 32  # of one model


def problem(
    model: Function, loss: Loss | None, names: tuple[str, ...], target: Shape | None
) -> Problem:
    """The same object for the same question: what it traced and planned is used again."""
    known = _problems.setdefault(model, {})
    shapes = tuple((k, tuple(map(int, a.shape))) for k, a in model._parameters().items())
    key = (loss, names, target, shapes, model._code_version())
    found = known.get(key)
    if found is None:
        if len(known) >= _MOST:
            known.clear()
        found = known[key] = Problem(model, loss, names, target)
    return found


class Problem:
    """The traced loss (or the model's flat output) of one sample, perturbed where ``names`` enter.

    ``kind`` of a form is 'hessian', 'gauss_newton' or 'fisher'.
    """

    def __init__(
        self, model: Function, loss: Loss | None, names: tuple[str, ...], target: Shape | None
    ) -> None:
        self._model = weakref.ref(model)
        self.loss, self.names = loss, names
        self.shapes = {k: tuple(map(int, a.shape)) for k, a in model._parameters().items()}
        self.in_shapes = (*model.in_shapes, *(() if target is None else (target,)))
        value, f, inputs = _traced(model, loss, self.in_shapes)
        self._source = value, f, inputs
        self._injected: dict[str, Injected] = {}
        self._forms: dict[str, Form] = {}
        self._kept: dict[Any, Any] = {}

    @property
    def model(self) -> Function:
        model = self._model()
        assert model is not None
        return model

    def injected(self, kind: str) -> Injected:
        value, f, inputs = self._source
        if kind == "gauss_newton" and self.loss is not None and self.loss.needs != ("value",):
            raise OptionError(
                "the Gauss-Newton matrix is for losses of the model's output alone, this one needs "
                f"{' and '.join(self.loss.needs)}: take the Hessian or the empirical Fisher matrix"
            )
        pins: Sequence[Node] = {"gauss_newton": (f,), "mixed": inputs}.get(kind, ())
        if kind not in self._injected:
            self._injected[kind] = inject([value], self.names, pins)
        return self._injected[kind]

    def form(self, kind: str) -> Form:
        if kind not in self._forms:
            make = FORMS.get(kind, HessianForm)
            self._forms[kind] = make(self.injected(kind))
        return self._forms[kind]

    def compositions(self, kind: str) -> list[Composition]:
        """How each psi of the form is made of the parameters."""
        found: list[Composition] = self.kept(
            ("compositions", kind),
            lambda: compositions(self.injected(kind), self.names, self.shapes),
        )
        return found

    def kept(self, key: Any, make: Callable[[], Any]) -> Any:
        """What ``make`` returned the first time."""
        if key not in self._kept:
            self._kept[key] = make()
        return self._kept[key]

    def keep(self, key: Any, value: Any) -> None:
        self._kept[key] = value

    def samples(
        self,
        key: Any,
        nodes: Mapping[str, Node],
        builder: Builder,
        more: Sequence[Shape] = (),
        kind: type[Samples] = Samples,
    ) -> Any:
        """The program for these nodes, made once; ``more`` arrays come behind inputs and target."""
        shapes = (*self.in_shapes, *more)
        return self.kept(("program", kind, key), lambda: kind(self.model, builder, nodes, shapes))


def _traced(
    model: Function, loss: Loss | None, shapes: Sequence[Shape]
) -> tuple[Node, Node, list[Node]]:
    """The loss, () (without one the flat output), the model's output, and its inputs."""
    graph = model.graph()
    builder = Builder()
    nodes = [builder.input(i, (math.prod(s),)) for i, s in enumerate(shapes)]
    data = [TracedArray(builder.reshape(x, s), builder) for x, s in zip(nodes, shapes, strict=True)]
    inputs = data[: len(model.in_shapes)]
    params = {
        k: TracedArray(builder.parameter(k, tuple(map(int, a.shape))), builder)
        for k, a in model._parameters().items()
    }
    flat = inline(graph, graph.output, builder, inputs, params)
    if loss is None:
        return flat.node, flat.node, nodes[: len(inputs)]
    f = TracedArray(builder.reshape(flat.node, model.out_shape), builder)
    needs = [
        f if k == "value" else _derivative(k, model, inputs, params, builder) for k in loss.needs
    ]
    with naming_the_line():
        value = loss.function(*needs, *data[len(inputs) :])
    if not isinstance(value, TracedArray) or math.prod(value.shape) != 1:
        got = f"shape {value.shape}" if hasattr(value, "shape") else f"a {type(value).__name__}"
        raise ShapeError(
            f"the loss of one sample has {got}, one number is expected: sum or average it over "
            "the outputs"
        )
    return builder.reshape(value.node, ()), f.node, nodes[: len(inputs)]


def _derivative(
    name: str,
    model: Function,
    inputs: Sequence[TracedArray],
    params: Mapping[str, Any],
    builder: Builder,
) -> Any:
    from hessarray._evaluation import derived_nodes
    from hessarray.plan.want import Want

    if len(model.in_shapes) > 1:
        raise OptionError(f"needs='{name}' is for models of one input")
    graph = model.graph()
    want = (
        Want(value=False, gradient=True)
        if name == "gradient"
        else Want(value=False, second="laplacian")
    )
    ((_, node),) = derived_nodes(graph, want).items()
    flat = inline(graph, node, builder, inputs, params)
    lead = model.in_shape if name == "gradient" else (1,)
    return TracedArray(builder.reshape(flat.node, (*lead, *model.out_shape)), builder)
