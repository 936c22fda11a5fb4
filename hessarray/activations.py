"""One table of activations, each with s, s' and s'' accurate to a few ulp over the whole range.

With sigma(x) = 1 / (1 + exp(-x)), Phi and phi the normal distribution and density:

=================  ===================================  ============================================
name               s(x)                                 parameters
=================  ===================================  ============================================
identity           x
quadratic          x^2 / 2
tanh               tanh x
antitanh           log cosh x + log 2                   hessQuik's antiderivative of tanh
sigmoid            sigma(x)
softplus           log(1 + exp(beta x)) / beta          beta=1, threshold=None
log_sigmoid        log sigma(x)
relu               max(x, 0)
leaky_relu         x or negative_slope x                negative_slope=0.01
relu6              min(max(x, 0), 6)
squared_relu       max(x, 0)^2
elu                x or alpha (exp(x) - 1)              alpha=1
selu               lambda elu(x; alpha)                 constants of the paper
celu               x or alpha (exp(x / alpha) - 1)      alpha=1
gelu               x Phi(x)                             approximate="none" or "tanh"
silu, swish        x sigma(x)
mish               x tanh(log(1 + exp x))
softsign           x / (1 + |x|)
hardtanh           min(max(x, min_val), max_val)        min_val=-1, max_val=1
hard_sigmoid       relu6(x + 3) / 6
hard_swish         x relu6(x + 3) / 6
gaussian           exp(-x^2)
sin, cos, exp      as named
arctan, erf        as named
=================  ===================================  ============================================

Names ignore case, underscores, hyphens and spaces: "LeakyReLU" is leaky_relu. Where s or s' jumps
(``kinks``), s' and s'' are those of one side, as in torch: 0 for relu, relu6, hardtanh and
hard_sigmoid, the left side for the leaky and exponential units, the outer side for hard_swish.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

from hessarray.errors import UnknownActivationError
from hessarray.graph.elementary import MAKERS, PRIMITIVES, Elementary, clip_gauss, gauss, sech2

__all__ = [
    "ACTIVATIONS",
    "activation",
    "celu",
    "elu",
    "gelu",
    "hardtanh",
    "leaky_relu",
    "register_activation",
    "softplus",
]

Plain = Callable[[Any], Any]

# ---- the logistic family ---------------------------------------------------------------------


def _decay(xp: Any, z: Any) -> Any:
    """e = exp(-|z|), which never overflows."""
    return xp.exp(-xp.abs(z))


def _logistic(xp: Any, z: Any) -> Any:
    """sigma(|z|) = 1 / (1 + e)."""
    return xp.reciprocal(1.0 + _decay(xp, z))


def _complement(xp: Any, z: Any) -> Any:
    """sigma(-|z|) = e / (1 + e)."""
    return _decay(xp, z) * _logistic(xp, z)


def _sigmoid(xp: Any, z: Any) -> Any:
    return xp.where(z < 0.0, _complement(xp, z), _logistic(xp, z))


def _sigmoid1(xp: Any, z: Any) -> Any:
    # sigma(z) sigma(-z): sigma (1 - sigma) would cancel.
    return _complement(xp, z) * _logistic(xp, z)


def _sigmoid2(xp: Any, z: Any) -> Any:
    # 1 - 2 sigma(z) = -tanh(z / 2), which keeps its relative accuracy at 0.
    return -(xp.tanh(z * 0.5) * _sigmoid1(xp, z))


_SIGMOID = Elementary("sigmoid", _sigmoid, _sigmoid1, _sigmoid2, smooth=True)


def _log_sigmoid(xp: Any, z: Any) -> Any:
    return xp.minimum(z, 0.0) - xp.log1p(_decay(xp, z))


def _log_sigmoid1(xp: Any, z: Any) -> Any:
    return xp.where(z < 0.0, _logistic(xp, z), _complement(xp, z))


def _antitanh(xp: Any, z: Any) -> Any:
    a = xp.abs(z)
    return a + xp.log1p(xp.exp(a * -2.0))


def softplus(
    beta: float = 1.0, threshold: float | None = None, one_sided: bool = False
) -> Elementary:
    """Softplus, s(x) = log(1 + exp(beta x)) / beta, s' = sigma(beta x), s'' = beta sigma sigma(-).

    Parameters
    ----------
    beta : float
        Steepness, positive.
    threshold : float, optional
        None: exact everywhere. A number t: s(x) = x, s' = 1, s'' = 0 where beta x > t, and also
        s' = s'' = 0 where beta x < -t, as in hessQuik (t = 20).
    one_sided : bool
        With a threshold: exact below it, as in torch.

    Returns
    -------
    Elementary

    Raises
    ------
    ValueError
        beta is not positive, or threshold is negative.

    Examples
    --------
    >>> softplus(beta=2.0).parameters
    (2.0,)
    """
    beta = float(beta)
    if not 0.0 < beta < math.inf:
        raise ValueError(f"softplus got beta={beta}, it must be positive and finite")

    def scaled(z: Any) -> Any:
        return z if beta == 1.0 else z * beta

    def s(xp: Any, z: Any) -> Any:
        # max(z, 0) is not scaled: beta z may overflow.
        return xp.maximum(z, 0.0) + xp.log1p(_decay(xp, scaled(z))) * (1.0 / beta)

    def s1(xp: Any, z: Any) -> Any:
        return _sigmoid(xp, scaled(z))

    def s2(xp: Any, z: Any) -> Any:
        return _sigmoid1(xp, scaled(z)) * beta

    if threshold is None:
        return Elementary("softplus", s, s1, s2, (beta,), slope=_SIGMOID if beta == 1.0 else None)
    t = float(threshold)
    if not t >= 0.0:
        raise ValueError(
            f"softplus got threshold={t}, it must not be negative: leave it out for none"
        )

    def cut(xp: Any, z: Any) -> Any:
        return xp.where(scaled(z) > t, z, s(xp, z))

    if one_sided:

        def above(xp: Any, z: Any, line: Any, code: Any) -> Any:
            return xp.where(scaled(z) > t, line, code(xp, z))

        return Elementary(
            "softplus",
            cut,
            lambda xp, z: above(xp, z, xp.ones_like(z), s1),
            lambda xp, z: above(xp, z, xp.zeros_like(z), s2),
            (beta, t, 1.0),
            kinks=(t / beta,),
        )

    def cut1(xp: Any, z: Any) -> Any:
        inner = xp.where(scaled(z) < -t, xp.zeros_like(z), s1(xp, z))
        return xp.where(scaled(z) > t, xp.ones_like(z), inner)

    def cut2(xp: Any, z: Any) -> Any:
        return xp.where(xp.abs(scaled(z)) > t, xp.zeros_like(z), s2(xp, z))

    return Elementary("softplus", cut, cut1, cut2, (beta, t), kinks=(-t / beta, t / beta))


# ---- x times a distribution function: silu, mish, gelu ----------------------------------------
#
# x exp(-|x|) is far from underflow where exp(-|x|) alone is a subnormal with few bits left. So
# the exponential is kept as the square of h = exp(-|x| / 2), and products are ordered so that x
# meets one h before the other.


def _half(xp: Any, z: Any) -> Any:
    return xp.exp(xp.abs(z) * -0.5)


def _logistic_h(xp: Any, z: Any) -> Any:
    """sigma(|z|)."""
    return xp.reciprocal(1.0 + xp.square(_half(xp, z)))


def _root(xp: Any, z: Any) -> Any:
    """p = h / (1 + h^2): p^2 = sigma'(z), and h p = sigma(-|z|)."""
    return _half(xp, z) * _logistic_h(xp, z)


def _sigmoid_h(xp: Any, z: Any) -> Any:
    return xp.where(z < 0.0, _half(xp, z) * _root(xp, z), _logistic_h(xp, z))


def _times_sigmoid(xp: Any, z: Any, y: Any) -> Any:
    """z sigma(y) for y of the sign of z."""
    return xp.where(z < 0.0, (z * _half(xp, y)) * _root(xp, y), z * _logistic_h(xp, y))


def _silu1(xp: Any, z: Any) -> Any:
    p = _root(xp, z)
    return _sigmoid_h(xp, z) + (z * p) * p


def _silu2(xp: Any, z: Any) -> Any:
    p = _root(xp, z)
    return (p * (2.0 - z * xp.tanh(z * 0.5))) * p


# mish: with p = sigma(x), q = sigma(-x), k = 1 / (1 + q^2), w = tanh(softplus(x)) is p (1 + q) k,
# w' = 4 p q^2 k^2 and w'' = w' (q - 2 p + 4 p q^2 k): no cancellation but at their own zeros.


def _mish_parts(xp: Any, z: Any) -> tuple[Any, Any, Any, Any]:
    """q, k, and f, g with p = f g, of which f carries half of the exponential."""
    h, r = _half(xp, z), _logistic_h(xp, z)
    negative = z < 0.0
    f = xp.where(negative, h, xp.ones_like(z))
    q = xp.where(negative, r, h * _root(xp, z))
    return q, xp.reciprocal(1.0 + xp.square(q)), f, f * r


def _mish(xp: Any, z: Any) -> Any:
    q, k, f, g = _mish_parts(xp, z)
    return ((z * f) * g) * ((1.0 + q) * k)


def _mish1(xp: Any, z: Any) -> Any:
    q, k, f, g = _mish_parts(xp, z)
    return (f * g) * ((1.0 + q) * k) + (((f * q) * z) * ((g * q) * xp.square(k))) * 4.0


def _mish2(xp: Any, z: Any) -> Any:
    q, k, f, g = _mish_parts(xp, z)
    p = f * g
    bend = 1.0 + z * (q * 0.5 - p + (p * (xp.square(q) * k)) * 2.0)
    return (((f * q) * bend) * ((g * q) * xp.square(k))) * 8.0


def _phi(xp: Any, z: Any) -> Any:
    return gauss(xp, z, 0.5) * (1.0 / math.sqrt(2.0 * math.pi))


def _big_phi(xp: Any, z: Any) -> Any:
    # erfc, not 1 + erf, which cancels for negative z.
    return xp.erfc(z * -math.sqrt(0.5)) * 0.5


def _gelu1(xp: Any, z: Any) -> Any:
    return _big_phi(xp, z) + clip_gauss(xp, z, 0.5) * _phi(xp, z)


def _gelu2(xp: Any, z: Any) -> Any:
    return (2.0 - xp.square(clip_gauss(xp, z, 0.5))) * _phi(xp, z)


# The tanh form is x sigma(y) with y = a x + b x^3; beyond +-30, sigma(y) is 0 or 1.
_A = 2.0 * math.sqrt(2.0 / math.pi)
_B = _A * 0.044715


def _gelu_tanh_parts(xp: Any, z: Any) -> tuple[Any, Any, Any]:
    """z clipped, its square, and y."""
    w = xp.clip(z, -30.0, 30.0)
    w2 = xp.square(w)
    return w, w2, w * (_A + w2 * _B)


def _gelu_tanh(xp: Any, z: Any) -> Any:
    return _times_sigmoid(xp, z, _gelu_tanh_parts(xp, z)[2])


def _gelu_tanh1(xp: Any, z: Any) -> Any:
    w, w2, y = _gelu_tanh_parts(xp, z)
    p = _root(xp, y)
    return _sigmoid_h(xp, y) + (w * p) * (p * (_A + w2 * (3.0 * _B)))


def _gelu_tanh2(xp: Any, z: Any) -> Any:
    w, w2, y = _gelu_tanh_parts(xp, z)
    p = _root(xp, y)
    slope = xp.square(_A + w2 * (3.0 * _B))
    bend = 2.0 * _A + w2 * (12.0 * _B) - (w * xp.tanh(y * 0.5)) * slope
    return (p * bend) * p


def gelu(approximate: str = "none") -> Elementary:
    """GELU, s(x) = x Phi(x) with the normal distribution function Phi, or its tanh form.

    Parameters
    ----------
    approximate : {"none", "tanh"}
        "tanh": s(x) = x (1 + tanh(sqrt(2/pi) (x + 0.044715 x^3))) / 2.

    Returns
    -------
    Elementary

    Raises
    ------
    ValueError
        approximate is something else.

    Examples
    --------
    >>> gelu("tanh").name
    'gelu_tanh'
    """
    if approximate == "tanh":
        return Elementary("gelu_tanh", _gelu_tanh, _gelu_tanh1, _gelu_tanh2)
    if approximate != "none":
        raise ValueError(f"gelu got approximate={approximate!r}, it must be 'none' or 'tanh'")
    return Elementary("gelu", lambda xp, z: z * _big_phi(xp, z), _gelu1, _gelu2)


# ---- piecewise linear and exponential units ----------------------------------------------------


def _either(xp: Any, condition: Any, z: Any, yes: float, no: float) -> Any:
    return xp.where(condition, xp.full_like(z, yes), xp.full_like(z, no))


def _relu(xp: Any, z: Any) -> Any:
    return xp.maximum(z, 0.0)


def _relu1(xp: Any, z: Any) -> Any:
    return xp.sign(_relu(xp, z))  # 0 at 0; one operation on what s has computed


def leaky_relu(negative_slope: float = 0.01) -> Elementary:
    """Leaky ReLU, s(x) = x for x > 0, else negative_slope x; s'(0) is negative_slope.

    Parameters
    ----------
    negative_slope : float
        The slope to the left of 0.

    Returns
    -------
    Elementary

    Examples
    --------
    >>> leaky_relu(0.2).parameters
    (0.2,)
    """
    a = float(negative_slope)
    return Elementary(
        "leaky_relu",
        lambda xp, z: xp.where(z > 0.0, z, z * a),
        lambda xp, z: _either(xp, z > 0.0, z, 1.0, a),
        0.0,
        (a,),
        kinks=(0.0,),
    )


def _exponential_unit(
    name: str, parameters: tuple[float, ...], right: float, left: float, rate: float
) -> Elementary:
    """right x for x > 0, else left (exp(rate x) - 1); at 0 the left side."""

    def m(xp: Any, z: Any) -> Any:
        low = xp.minimum(z, 0.0)  # exp of the other branch must not overflow
        return low if rate == 1.0 else low * rate

    def s(xp: Any, z: Any) -> Any:
        return xp.where(z > 0.0, z * right, xp.expm1(m(xp, z)) * left)

    def s1(xp: Any, z: Any) -> Any:
        e = xp.exp(m(xp, z)) * (left * rate)
        # Where the slopes agree, exp(0) is already that of the right side.
        return e if left * rate == right else xp.where(z > 0.0, xp.full_like(z, right), e)

    def s2(xp: Any, z: Any) -> Any:
        return xp.where(z > 0.0, xp.zeros_like(z), xp.exp(m(xp, z)) * (left * rate * rate))

    kinks = () if math.isclose(left * rate, right, rel_tol=1e-15) else (0.0,)
    return Elementary(name, s, s1, s2, parameters, kinks=kinks)


def elu(alpha: float = 1.0) -> Elementary:
    """ELU, s(x) = x for x > 0, else alpha (exp(x) - 1); s' and s'' at 0 are the left side's.

    Parameters
    ----------
    alpha : float
        The scale of the left side.

    Returns
    -------
    Elementary

    Examples
    --------
    >>> elu(0.5).kinks
    (0.0,)
    """
    return _exponential_unit("elu", (float(alpha),), 1.0, float(alpha), 1.0)


def celu(alpha: float = 1.0) -> Elementary:
    """CELU, s(x) = x for x > 0, else alpha (exp(x / alpha) - 1); s''(0) is the left side's.

    Parameters
    ----------
    alpha : float
        The scale of the left side, positive.

    Returns
    -------
    Elementary

    Raises
    ------
    ValueError
        alpha is not positive.

    Examples
    --------
    >>> celu(2.0).kinks
    ()
    """
    alpha = float(alpha)
    if not 0.0 < alpha < math.inf:
        raise ValueError(f"celu got alpha={alpha}, it must be positive and finite")
    return _exponential_unit("celu", (alpha,), 1.0, alpha, 1.0 / alpha)


def hardtanh(min_val: float = -1.0, max_val: float = 1.0) -> Elementary:
    """Hard tanh, s(x) = x within [min_val, max_val], clipped outside; s' is 0 at both ends.

    Parameters
    ----------
    min_val, max_val : float
        The ends, min_val < max_val.

    Returns
    -------
    Elementary

    Raises
    ------
    ValueError
        min_val is not below max_val.

    Examples
    --------
    >>> hardtanh(0.0, 6.0).kinks
    (0.0, 6.0)
    """
    return _clipped("hardtanh", float(min_val), float(max_val))


def _clipped(name: str, low: float, high: float) -> Elementary:
    if not low < high:
        raise ValueError(
            f"{name} got min_val={low} and max_val={high}, min_val must be the smaller"
        )
    return Elementary(
        name,
        lambda xp, z: xp.clip(z, low, high),
        lambda xp, z: _either(xp, (z > low) & (z < high), z, 1.0, 0.0),
        0.0,
        (low, high),
        kinks=(low, high),
    )


def _hard_gate(xp: Any, z: Any) -> Any:
    """relu6(z + 3) / 6."""
    return xp.clip(z + 3.0, 0.0, 6.0) / 6.0


def _inside(z: Any) -> Any:
    return (z > -3.0) & (z < 3.0)


def _hard_swish1(xp: Any, z: Any) -> Any:
    inner = (z + 1.5) / 3.0
    return xp.where(_inside(z), inner, _either(xp, z > 0.0, z, 1.0, 0.0))


def _softsign1(xp: Any, z: Any) -> Any:
    return xp.square(xp.reciprocal(1.0 + xp.abs(z)))


def _softsign2(xp: Any, z: Any) -> Any:
    # s'' jumps from 2 to -2 at 0, where sign makes it 0.
    return (_softsign1(xp, z) * (xp.reciprocal(1.0 + xp.abs(z)) * xp.sign(z))) * -2.0


def _gaussian1(xp: Any, z: Any) -> Any:
    return (clip_gauss(xp, z, 1.0) * gauss(xp, z, 1.0)) * -2.0


def _gaussian2(xp: Any, z: Any) -> Any:
    return (xp.square(clip_gauss(xp, z, 1.0)) * 4.0 - 2.0) * gauss(xp, z, 1.0)


# ---- the table -------------------------------------------------------------------------------

# Klambauer et al., Self-normalizing neural networks (2017).
_SELU_SCALE = 1.0507009873554804934193349852946
_SELU_ALPHA = 1.6732632423543772848170429916717

_SILU = Elementary("silu", lambda xp, z: _times_sigmoid(xp, z, z), _silu1, _silu2, smooth=True)

#: Every activation by name: an Elementary, a factory of one with keyword parameters, or a plain
#: array API function that was registered. ``activation`` looks names up here.
ACTIVATIONS: dict[str, Elementary | Callable[..., Any]] = {
    "identity": Elementary("identity", lambda xp, z: z, 1.0, 0.0),
    "quadratic": Elementary("quadratic", lambda xp, z: (z * 0.5) * z, lambda xp, z: z, 1.0),
    "tanh": PRIMITIVES["tanh"],
    "antitanh": Elementary(
        "antitanh", _antitanh, lambda xp, z: xp.tanh(z), sech2, slope=PRIMITIVES["tanh"]
    ),
    "sigmoid": _SIGMOID,
    "softplus": softplus,
    "log_sigmoid": Elementary(
        "log_sigmoid", _log_sigmoid, _log_sigmoid1, lambda xp, z: -_sigmoid1(xp, z)
    ),
    "relu": Elementary("relu", _relu, _relu1, 0.0, kinks=(0.0,)),
    "leaky_relu": leaky_relu,
    "relu6": _clipped("relu6", 0.0, 6.0),
    "squared_relu": Elementary(
        "squared_relu",
        lambda xp, z: xp.square(_relu(xp, z)),
        lambda xp, z: _relu(xp, z) * 2.0,
        lambda xp, z: _relu1(xp, z) * 2.0,
    ),
    "elu": elu,
    "selu": _exponential_unit("selu", (), _SELU_SCALE, _SELU_SCALE * _SELU_ALPHA, 1.0),
    "celu": celu,
    "gelu": gelu,
    "gelu_tanh": gelu("tanh"),
    "silu": _SILU,
    "swish": _SILU,
    "mish": Elementary("mish", _mish, _mish1, _mish2),
    "softsign": Elementary(
        "softsign", lambda xp, z: z * xp.reciprocal(1.0 + xp.abs(z)), _softsign1, _softsign2
    ),
    "hardtanh": hardtanh,
    "hard_sigmoid": Elementary(
        "hard_sigmoid",
        _hard_gate,
        lambda xp, z: _either(xp, _inside(z), z, 1.0 / 6.0, 0.0),
        0.0,
        kinks=(-3.0, 3.0),
    ),
    "hard_swish": Elementary(
        "hard_swish",
        lambda xp, z: z * _hard_gate(xp, z),
        _hard_swish1,
        lambda xp, z: _either(xp, _inside(z), z, 1.0 / 3.0, 0.0),
        kinks=(-3.0, 3.0),
    ),
    "gaussian": Elementary("gaussian", lambda xp, z: gauss(xp, z, 1.0), _gaussian1, _gaussian2),
    "sin": PRIMITIVES["sin"],
    "cos": PRIMITIVES["cos"],
    "exp": PRIMITIVES["exp"],
    "arctan": PRIMITIVES["atan"],
    "erf": PRIMITIVES["erf"],
}


def _key(name: str) -> str:
    return "".join(c for c in name.lower() if c not in "_- ")


_KEYS = {_key(name): name for name in ACTIVATIONS}
_KEYS |= {"atan": "arctan", "linear": "identity"}
_BUILT_IN = frozenset(_KEYS)
MAKERS.update({k: a for k, a in ACTIVATIONS.items() if k not in PRIMITIVES})
_generations: dict[str, int] = {}


def activation(act: str | Plain | Elementary, **params: float | str | None) -> Any:
    """The activation of this name, or the given function itself.

    Parameters
    ----------
    act : str, Elementary or callable
        A name in ``ACTIVATIONS`` (case, underscores and hyphens do not matter), or any plain array
        API function of one array, which is returned as it is.
    **params
        The parameters of a named activation that has some, such as ``beta=2.0`` for softplus.

    Returns
    -------
    Elementary or callable

    Raises
    ------
    UnknownActivationError
        No activation has this name; the message lists near names.
    TypeError
        act is neither a name nor callable, or does not take these parameters.

    Examples
    --------
    >>> activation("LeakyReLU", negative_slope=0.2)
    Elementary(name='leaky_relu', parameters=(0.2,), primitive=False, kinks=(0.0,))
    """
    if not isinstance(act, str):
        if not (isinstance(act, Elementary) or callable(act)):
            raise TypeError(f"an activation is a name or a function of one array, not {act!r}")
        return _without(act, repr(act), params)
    name = _KEYS.get(_key(act))
    if name is None:
        import difflib

        near = [_KEYS[k] for k in difflib.get_close_matches(_key(act), _KEYS, n=3)]
        hint = (
            f"did you mean {' or '.join(map(repr, dict.fromkeys(near)))}?"
            if near
            else f"known are {', '.join(sorted(ACTIVATIONS))}"
        )
        raise UnknownActivationError(f"no activation is called {act!r}: {hint}")
    found = ACTIVATIONS[name]
    if isinstance(found, Elementary) or _key(name) not in _BUILT_IN:
        return _without(found, repr(name), params)
    return found(**params)


def _without(act: Any, shown: str, params: dict[str, Any]) -> Any:
    if params:
        raise TypeError(f"activation {shown} takes no parameters, it was given {', '.join(params)}")
    return act


def register_activation(
    name: str,
    s: Plain,
    s1: Plain | float | None = None,
    s2: Plain | float | None = None,
    *,
    kinks: tuple[float, ...] = (),
) -> None:
    """Make an activation known by name.

    With s alone, its derivatives follow by tracing its code. With s1 and s2 these are used as they
    are, which is right where the traced ones would cancel or overflow.

    Parameters
    ----------
    name : str
        The new name. A name that was registered before is replaced; a built-in one is refused.
    s : callable
        s(x), plain array API code of one array.
    s1, s2 : callable or float, optional
        s'(x) and s''(x) of the same kind, or numbers where they are constant: both or neither.
    kinks : tuple of float
        Where s or s' jumps.

    Raises
    ------
    ValueError
        The name is built in, or only one of s1 and s2 is given.

    Examples
    --------
    >>> register_activation("cube", lambda x: x * x * x)
    >>> activation("cube")(2.0)
    8.0
    """
    key = _key(name)
    if key in _BUILT_IN:
        raise ValueError(f"activation {_KEYS[key]!r} is built in: register yours by another name")
    if (s1 is None) != (s2 is None):
        raise ValueError(f"activation {name!r} needs both s1 and s2, or neither: then s is traced")
    if s1 is None or s2 is None:
        ACTIVATIONS.pop(_KEYS.get(key, name), None)
        ACTIVATIONS[name], _KEYS[key] = s, name
        return
    # Functions are equal by name and parameters, so a replacement must differ in one of them.
    generation = _generations[key] = _generations.get(key, 0) + 1
    ACTIVATIONS.pop(_KEYS.get(key, name), None)
    ACTIVATIONS[name] = Elementary(
        name, _of_x(s), _number_or(s1), _number_or(s2), (float(generation),), kinks=tuple(kinks)
    )
    MAKERS[name] = ACTIVATIONS[name]
    _KEYS[key] = name


def _of_x(f: Plain) -> Callable[[Any, Any], Any]:
    return lambda xp, z: f(z)


def _number_or(f: Plain | float) -> Callable[[Any, Any], Any] | float:
    return _of_x(f) if callable(f) else float(f)
