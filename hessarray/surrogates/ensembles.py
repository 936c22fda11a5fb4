"""Several networks side by side, their mean and spread, and one network seen in a mirror."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from hessarray.errors import OptionError, ShapeError
from hessarray.layers import Layer
from hessarray.surrogates.columns import taken

__all__ = ["Ensemble", "Mean", "Mirror"]

_OUTPUTS = ("all", "mean", "variance", "std")


class Ensemble(Layer):
    """Networks of the same inputs, and what is asked of their outputs f_1 ... f_k, each (m,).

    Parameters
    ----------
    *members : Network or Layer
        The networks.
    outputs : str or sequence of str
        One or several of ``"all"`` (f_1, then f_2, ...: k m outputs), ``"mean"`` (m),
        ``"variance"`` (m: the mean of (f_i - mean)^2 over k - ``correction``) and ``"std"`` (m: its
        square root, which has no derivative where all members agree), one after another.
    correction : int
        0 for the variance of the members as they are, 1 for the estimate of the variance of a
        larger population that they were drawn from.

    Raises
    ------
    ShapeError
        There is no member, or their widths differ; names both.
    OptionError
        ``outputs`` names something else.

    Notes
    -----
    The spread over networks that were trained from different starts is the uncertainty of
    Lakshminarayanan et al., "Simple and scalable predictive uncertainty estimation using deep
    ensembles" (2017); its gradient says where to sample next.

    Examples
    --------
    >>> import numpy as np, hessarray as ha
    >>> members = [ha.fully_connected([3, 8, 2], act="tanh", seed=i) for i in range(5)]
    >>> net = ha.Network(ha.Ensemble(*members, outputs=("mean", "variance")))
    >>> net.hessian(np.zeros(3)).shape
    (3, 3, 4)
    """

    def __init__(
        self, *members: Any, outputs: str | Sequence[str] = "all", correction: int = 0
    ) -> None:
        kind = type(self).__name__
        if not members:
            raise ShapeError(f"{kind} needs at least one member: {kind}(network, network)")
        for i, member in enumerate(members):
            _check_layer(f"{kind}: member {i}", member)
            for side in ("in_features", "out_features"):
                got, expected = getattr(member, side), getattr(members[0], side)
                if got != expected:
                    raise ShapeError(
                        f"{kind}: member {i} has {side}={got}, member 0 has {expected}: make them "
                        "equal"
                    )
        wanted = (outputs,) if isinstance(outputs, str) else tuple(outputs)
        unknown = [w for w in wanted if w not in _OUTPUTS]
        if unknown or not wanted:
            raise OptionError(
                f"{kind}: outputs={outputs!r}, one or several of {', '.join(_OUTPUTS)} are expected"
            )
        spread = "variance" in wanted or "std" in wanted
        if correction not in (0, 1) or (spread and len(members) <= correction):
            raise OptionError(
                f"{kind}: correction={correction!r} with {len(members)} members: use 0, or 1 for "
                "two members or more"
            )
        m = members[0].out_features
        size = sum(len(members) * m if w == "all" else m for w in wanted)
        super().__init__(members[0].in_features, size)
        self.outputs, self.correction = wanted, int(correction)
        self.members = members

    def __call__(self, u: Any) -> Any:
        """The layer's value for the features of one sample."""
        xp = u.__array_namespace__()
        values = [member(u) for member in self.members]
        every = xp.stack(values)
        found = {"all": lambda: xp.concat(values, axis=0), "mean": lambda: xp.mean(every, axis=0)}
        found["variance"] = lambda: xp.var(every, axis=0, correction=self.correction)
        found["std"] = lambda: xp.std(every, axis=0, correction=self.correction)
        parts = [found[w]() for w in self.outputs]
        return parts[0] if len(parts) == 1 else xp.concat(parts, axis=0)


class Mean(Ensemble):
    """The mean of several networks: ``Ensemble(*members, outputs="mean")``.

    Examples
    --------
    >>> import hessarray as ha
    >>> ha.Network(ha.Mean(ha.Dense(2, 1, seed=0), ha.Dense(2, 1, seed=1)))
    Network(Mean(2, 1))
    """

    def __init__(self, *members: Any) -> None:
        super().__init__(*members, outputs="mean")


class Mirror(Layer):
    """f(u) = (g(u) + B g(A u)) / 2: a network averaged with its mirror image.

    A and B exchange columns and change signs, as where the same flow is seen upside down. The
    layer is then exactly symmetric, f(A u) = B f(u), if A and B are their own inverses.

    Parameters
    ----------
    inner : Network or Layer
        g.
    inputs, outputs : sequence of int, optional
        Entry i of A u is ``input_signs[i] * u[inputs[i]]``, entry i of B y is
        ``output_signs[i] * y[outputs[i]]``; left out, all stay where they are.
    input_signs, output_signs : sequence of float, optional
        1 and -1; left out, all are 1.

    Raises
    ------
    ShapeError
        A sequence has another length than there are columns.
    OptionError
        ``inputs`` or ``outputs`` is no order of the columns, or a sign is neither 1 nor -1.

    Examples
    --------
    An even function of the first input from any network:

    >>> import numpy as np, hessarray as ha
    >>> net = ha.Network(ha.Mirror(ha.fully_connected([2, 8, 1], seed=0), input_signs=[-1, 1]))
    >>> x = np.array([[0.3, 0.5], [-0.3, 0.5]])
    >>> f = net.value(x)
    >>> bool(np.isclose(f[0, 0], f[1, 0], rtol=1e-14))
    True
    """

    def __init__(
        self,
        inner: Any,
        inputs: Sequence[int] | None = None,
        outputs: Sequence[int] | None = None,
        input_signs: Sequence[float] | None = None,
        output_signs: Sequence[float] | None = None,
    ) -> None:
        _check_layer("Mirror: inner", inner)
        super().__init__(inner.in_features, inner.out_features)
        self.inputs = _order("inputs", inputs, self.in_features)
        self.outputs = _order("outputs", outputs, self.out_features)
        self.input_signs = _signs("input_signs", input_signs, self.in_features)
        self.output_signs = _signs("output_signs", output_signs, self.out_features)
        self.inner = inner

    def __call__(self, u: Any) -> Any:
        """The layer's value for the features of one sample."""
        image = self.inner(_turned(u, self.inputs, self.input_signs))
        return (self.inner(u) + _turned(image, self.outputs, self.output_signs)) / 2.0


def _turned(u: Any, order: Sequence[int], signs: Sequence[float]) -> Any:
    import numpy as np

    u = taken(u, order)
    return u if all(s == 1.0 for s in signs) else u * np.asarray(signs)


def _check_layer(where: str, layer: Any) -> None:
    if not hasattr(layer, "with_parameters") or isinstance(layer, type):
        raise OptionError(
            f"{where} is {type(layer).__name__}: pass a network or a layer, such as Dense(3, 1)"
        )


def _order(name: str, given: Sequence[int] | None, size: int) -> tuple[int, ...]:
    order = tuple(range(size)) if given is None else tuple(int(i) for i in given)
    if len(order) != size:
        raise ShapeError(f"Mirror: {name} has {len(order)} entries for {size} columns")
    if sorted(order) != list(range(size)):
        raise OptionError(f"Mirror: {name} is no order of the columns 0 to {size - 1}")
    return order


def _signs(name: str, given: Sequence[float] | None, size: int) -> tuple[float, ...]:
    signs = (1.0,) * size if given is None else tuple(float(s) for s in given)
    if len(signs) != size:
        raise ShapeError(f"Mirror: {name} has {len(signs)} entries for {size} columns")
    wrong = [s for s in signs if abs(s) != 1.0]
    if wrong:
        raise OptionError(f"Mirror: {name} has the entry {wrong[0]}, 1 or -1 is expected")
    return signs
