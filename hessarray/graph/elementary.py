"""Elementary functions: elementwise s with s' and s'', each written as array API code."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any

from hessarray.backends import backend_of
from hessarray.errors import BackendError

__all__ = ["Elementary", "MAKERS", "PRIMITIVES", "gauss", "power"]

Derivative = Callable[[Any, Any], Any]


def _in_the_code(xp: Any, z: Any) -> Any:
    raise AssertionError("a third derivative is the derivative of the code of s''")


@dataclass(frozen=True)
class Elementary:
    """An elementwise function s with its first two derivatives.

    Each of ``s``, ``s1``, ``s2`` is array API code ``f(xp, z)`` that is accurate to a few ulp over
    the whole range of the dtype; ``s1`` and ``s2`` may instead be a number where the derivative is
    constant (0.0: the planner sees no curvature). The code is traced, so that what s, s' and s''
    share (an exponential, say) is computed once.

    Two functions are equal when their names, parameters and orders are: that is what lets the graph
    share equal nodes.
    """

    name: str
    s: Derivative = field(compare=False, repr=False)
    s1: Derivative | float = field(compare=False, repr=False)
    s2: Derivative | float = field(compare=False, repr=False)
    parameters: tuple[float, ...] = ()
    primitive: bool = False  # s is one call: xp.<name>(z), for a power xp.pow(z, c)
    kinks: tuple[float, ...] = ()  # where s or s' jumps: the one-sided value is taken there
    slope: Elementary | None = field(default=None, compare=False, repr=False)  # s', if named
    order: int = field(default=0, repr=False)  # of the derivative of the function of that name
    smooth: bool = field(default=False, compare=False, repr=False)  # no derivative has kinks

    def derivative(self) -> Elementary | float | None:
        """s' as a function of its own.

        A number where it is constant; None where only the code of s, differentiated, says it.
        """
        if self.slope is not None:
            return self.slope
        if not callable(self.s1):
            return float(self.s1)
        if self.s1 is _in_the_code:
            return None
        further = _in_the_code if callable(self.s2) else 0.0
        return replace(
            self, s=self.s1, s1=self.s2, s2=further, primitive=False, order=self.order + 1
        )

    def __reduce__(self) -> Any:
        # Code cannot be pickled, names can: the other process looks the function up again.
        if self.name not in MAKERS:
            import pickle

            raise pickle.PicklingError(
                f"{self.name} has no name in a table: register_activation gives it one"
            )
        return _made, (self.name, self.parameters, self.order)

    def __call__(self, z: Any) -> Any:
        """s(z) of a traced array, as a node, or of an array of any library that has a backend."""
        from hessarray.graph.array import TracedArray

        if isinstance(z, TracedArray):
            return TracedArray(z.builder.elementwise(self, z.node), z.builder)
        backend = backend_of(z)
        if backend is None:
            raise BackendError(f"{self.name} of a {type(z).__name__}: pass an array")
        return self.s(backend.xp, z)


# ---- shared pieces ---------------------------------------------------------------------------
#
# The dtype of z is unknown here, so every threshold and every constant is right for float32 and
# float64 alike, and no constant leaves float32's range.


def clip_gauss(xp: Any, z: Any, c: float) -> Any:
    """z, held where exp(-c z^2) underflows in float64 too: no infinity meets that zero."""
    bound = 28.0 if c == 1.0 else 40.0
    return xp.clip(z, -bound, bound)


def gauss(xp: Any, z: Any, c: float) -> Any:
    """exp(-c z^2) for c = 1 or 1/2 to a few ulp.

    The rounding of z^2 alone would cost c z^2 ulp, so z is split as fdlibm's erfc does:
    z = q + r with q a multiple of 1/16, q^2 exact, and z^2 = q^2 + (z - q)(z + q).
    """
    w = clip_gauss(xp, z, c)
    q = xp.round(w * 16.0) * 0.0625
    return xp.exp((q * q) * -c) * xp.exp(((q - w) * (q + w)) * c)


def sech2(xp: Any, z: Any) -> Any:
    """sech(z)^2 = (1 / cosh z)^2: 1 - tanh(z)^2 would cancel, and where cosh overflows it is 0."""
    return xp.square(xp.reciprocal(xp.cosh(z)))


def _rsqrt(xp: Any, z: Any) -> Any:
    return xp.reciprocal(xp.sqrt(z))


def _log1p1(xp: Any, z: Any) -> Any:
    return xp.reciprocal(1.0 + z)


def _tan1(xp: Any, z: Any) -> Any:
    return 1.0 + xp.square(xp.tan(z))


def _asin1(xp: Any, z: Any) -> Any:
    return _rsqrt(xp, (1.0 - z) * (1.0 + z))


def _asin2(xp: Any, z: Any) -> Any:
    r = _asin1(xp, z)
    return (z * r) * (r * r)


def _atan1(xp: Any, z: Any) -> Any:
    # 1 / (1 + z^2) with both terms scaled by 2^-54: z^2 overflows where the quotient is still a
    # subnormal, (2^-27 z)^2 only where it is zero.
    return xp.reciprocal(2.0**-54 + xp.square(z * 2.0**-27)) * 2.0**-54


def _atan2(xp: Any, z: Any) -> Any:
    # Unscaled: 2 z / (1 + z^2)^2 is zero long before z^2 overflows. The planner gathers the numbers
    # of a product and may apply them to z first, where 2^-108 z underflows and 2 z overflows: so
    # neither occurs, and 2 r is r + r.
    r = xp.reciprocal(1.0 + xp.square(z))
    return -((z * r) * (r + r))


def _asinh1(xp: Any, z: Any) -> Any:
    # sqrt(1 + z^2) is |z| long before 1e10, and 1e20 is still in float32's range.
    a = xp.abs(z)
    return xp.reciprocal(xp.maximum(a, xp.sqrt(1.0 + xp.square(xp.minimum(a, 1e10)))))


def _asinh2(xp: Any, z: Any) -> Any:
    r = _asinh1(xp, z)
    return -(((z * r) * r) * r)


def _acosh1(xp: Any, z: Any) -> Any:
    # Two roots: (z - 1)(z + 1) would overflow.
    return xp.reciprocal(xp.sqrt(z - 1.0) * xp.sqrt(z + 1.0))


def _acosh2(xp: Any, z: Any) -> Any:
    r = _acosh1(xp, z)
    return -(((z * r) * r) * r)


def _atanh1(xp: Any, z: Any) -> Any:
    return xp.reciprocal((1.0 - z) * (1.0 + z))


def _log_base(name: str, factor: float) -> Elementary:
    """log_b, with factor 1 / log(b)."""
    return Elementary(
        name,
        lambda xp, z: getattr(xp, name)(z),
        lambda xp, z: xp.reciprocal(z) * factor,
        lambda xp, z: (xp.reciprocal(z) * -factor) * xp.reciprocal(z),
        primitive=True,
    )


def _constant_steps(name: str, kinks: tuple[float, ...] = ()) -> Elementary:
    """Piecewise constant: s' = s'' = 0 everywhere, at the jumps too."""
    return Elementary(
        name, lambda xp, z: getattr(xp, name)(z), 0.0, 0.0, primitive=True, kinks=kinks
    )


def _erf1(xp: Any, z: Any) -> Any:
    return gauss(xp, z, 1.0) * (2.0 / math.sqrt(math.pi))


def _erf2(xp: Any, z: Any) -> Any:
    return (clip_gauss(xp, z, 1.0) * _erf1(xp, z)) * -2.0


# ---- the table -------------------------------------------------------------------------------

# How to make a function again from its name and parameters: itself, or its factory.
MAKERS: dict[str, Elementary | Callable[..., Elementary]] = {}


def _made(name: str, parameters: tuple[float, ...], order: int = 0) -> Elementary:
    maker = MAKERS[name]
    function = maker if isinstance(maker, Elementary) else maker(*parameters)
    for _ in range(order):
        found = function.derivative()
        assert isinstance(found, Elementary)
        function = found
    return function


PRIMITIVES: dict[str, Elementary] = {
    f.name: f
    for f in [
        Elementary(
            "exp",
            lambda xp, z: xp.exp(z),
            lambda xp, z: xp.exp(z),
            lambda xp, z: xp.exp(z),
            primitive=True,
        ),
        Elementary(
            "expm1",
            lambda xp, z: xp.expm1(z),
            lambda xp, z: xp.exp(z),
            lambda xp, z: xp.exp(z),
            primitive=True,
        ),
        Elementary(
            "log",
            lambda xp, z: xp.log(z),
            lambda xp, z: xp.reciprocal(z),
            lambda xp, z: -xp.square(xp.reciprocal(z)),
            primitive=True,
        ),
        Elementary(
            "log1p",
            lambda xp, z: xp.log1p(z),
            _log1p1,
            lambda xp, z: -xp.square(_log1p1(xp, z)),
            primitive=True,
        ),
        _log_base("log2", 1.0 / math.log(2.0)),
        _log_base("log10", 1.0 / math.log(10.0)),
        Elementary(
            "sqrt",
            lambda xp, z: xp.sqrt(z),
            lambda xp, z: _rsqrt(xp, z) * 0.5,
            lambda xp, z: -(xp.square(_rsqrt(xp, z) * 0.5) * _rsqrt(xp, z)),
            primitive=True,
        ),
        Elementary(
            "square",
            lambda xp, z: xp.square(z),
            lambda xp, z: z * 2.0,
            2.0,
            primitive=True,
        ),
        Elementary(
            "reciprocal",  # not in the standard: every backend's namespace provides it
            lambda xp, z: xp.reciprocal(z),
            lambda xp, z: -xp.square(xp.reciprocal(z)),
            lambda xp, z: (xp.reciprocal(z) * xp.square(xp.reciprocal(z))) * 2.0,
            primitive=True,
        ),
        Elementary(
            "sin",
            lambda xp, z: xp.sin(z),
            lambda xp, z: xp.cos(z),
            lambda xp, z: -xp.sin(z),
            primitive=True,
        ),
        Elementary(
            "cos",
            lambda xp, z: xp.cos(z),
            lambda xp, z: -xp.sin(z),
            lambda xp, z: -xp.cos(z),
            primitive=True,
        ),
        Elementary(
            "tan",
            lambda xp, z: xp.tan(z),
            _tan1,
            lambda xp, z: (xp.tan(z) * _tan1(xp, z)) * 2.0,
            primitive=True,
        ),
        Elementary("asin", lambda xp, z: xp.asin(z), _asin1, _asin2, primitive=True),
        Elementary(
            "acos",
            lambda xp, z: xp.acos(z),
            lambda xp, z: -_asin1(xp, z),
            lambda xp, z: -_asin2(xp, z),
            primitive=True,
        ),
        Elementary("atan", lambda xp, z: xp.atan(z), _atan1, _atan2, primitive=True),
        Elementary(
            "sinh",
            lambda xp, z: xp.sinh(z),
            lambda xp, z: xp.cosh(z),
            lambda xp, z: xp.sinh(z),
            primitive=True,
        ),
        Elementary(
            "cosh",
            lambda xp, z: xp.cosh(z),
            lambda xp, z: xp.sinh(z),
            lambda xp, z: xp.cosh(z),
            primitive=True,
        ),
        Elementary(
            "tanh",
            lambda xp, z: xp.tanh(z),
            sech2,
            lambda xp, z: (xp.tanh(z) * sech2(xp, z)) * -2.0,
            primitive=True,
            smooth=True,
        ),
        Elementary("asinh", lambda xp, z: xp.asinh(z), _asinh1, _asinh2, primitive=True),
        Elementary("acosh", lambda xp, z: xp.acosh(z), _acosh1, _acosh2, primitive=True),
        Elementary(
            "atanh",
            lambda xp, z: xp.atanh(z),
            _atanh1,
            lambda xp, z: (z * xp.square(_atanh1(xp, z))) * 2.0,
            primitive=True,
        ),
        Elementary(
            "abs",
            lambda xp, z: xp.abs(z),
            lambda xp, z: xp.where(z == 0.0, xp.ones_like(z), xp.sign(z)),  # right-sided at 0
            0.0,
            primitive=True,
            kinks=(0.0,),
        ),
        _constant_steps("sign", kinks=(0.0,)),
        _constant_steps("floor"),  # these jump at every integer, round at every half-integer
        _constant_steps("ceil"),
        _constant_steps("round"),
        _constant_steps("trunc"),
        Elementary("erf", lambda xp, z: xp.erf(z), _erf1, _erf2, primitive=True),
        Elementary(
            "erfc",
            lambda xp, z: xp.erfc(z),
            lambda xp, z: -_erf1(xp, z),
            lambda xp, z: -_erf2(xp, z),
            primitive=True,
        ),
    ]
}


# ---- powers ----------------------------------------------------------------------------------

_PRODUCTS = 4  # integer exponents up to this are products: ten times faster than pow


def _power(xp: Any, z: Any, c: float) -> Any:
    """z**c for an exponent that is not 0."""
    if c == 1.0:
        return z
    if c == 0.5:
        return xp.sqrt(z)
    if not c.is_integer() or abs(c) > _PRODUCTS:
        return xp.pow(z, c)
    base = z if c > 0 else xp.reciprocal(z)
    k = int(abs(c))
    if k == 1:
        return base
    square = xp.square(base)
    if k == 2:
        return square
    return base * square if k == 3 else xp.square(square)


def _scaled_power(xp: Any, z: Any, c: float, factor: float) -> Any:
    if abs(factor) < 16.0:
        return _power(xp, z, c) * factor
    # A large factor comes in before the last power: afterwards it would blow up the rounding of a
    # subnormal.
    if c > 0:
        return _power(xp, z, c - 1.0) * (z * factor)
    return _power(xp, z, c + 1.0) * (xp.reciprocal(z) * factor)


def power(exponent: float) -> Elementary:
    """The power z**c with a constant exponent c.

    s' = c z**(c - 1) and s'' = c (c - 1) z**(c - 2). Integer exponents hold for negative z and at
    0 (z**2 has s'' = 2 everywhere); for other exponents negative z gives NaN, as in the reals.
    An exponent that the dtype does not hold exactly is rounded to it, which costs |log z| ulp.

    Parameters
    ----------
    exponent : float
        The exponent c.

    Returns
    -------
    Elementary
        Equal for equal exponents; 1/2, 2 and -1 are ``sqrt``, ``square`` and ``reciprocal``.

    Examples
    --------
    >>> power(3.0).parameters, power(2.0).s2
    ((3.0,), 2.0)
    """
    c = float(exponent)
    known = {0.5: "sqrt", 2.0: "square", -1.0: "reciprocal"}.get(c)
    if known is not None:
        return PRIMITIVES[known]
    if c == 0.0:
        return Elementary("power", lambda xp, z: xp.ones_like(z), 0.0, 0.0, (c,))
    if c == 1.0:
        return Elementary("power", lambda xp, z: z, 1.0, 0.0, (c,))

    def s(xp: Any, z: Any) -> Any:
        return _power(xp, z, c)

    def s1(xp: Any, z: Any) -> Any:
        if -1.0 < c < 0.0:  # z**(c - 1) overflows where c z**(c - 1) does not
            return (s(xp, z) * c) * xp.reciprocal(z)
        if 0.0 < c < 0.25:  # so does it here, and 1 / z too
            root = _power(xp, z, 0.5 * (c - 1.0))
            return (root * c) * root
        return _scaled_power(xp, z, c - 1.0, c)

    def s2(xp: Any, z: Any) -> Any:
        if c < 1.0 and not c.is_integer():
            r = xp.reciprocal(z)
            return ((s(xp, z) * r) * (c * (c - 1.0))) * r
        return _scaled_power(xp, z, c - 2.0, c * (c - 1.0))

    small = c.is_integer() and abs(c) <= _PRODUCTS
    return Elementary("power", s, s1, s2, (c,), primitive=not small)


# What s, s' and s'' of these share is one node from the start.
for _name, _slope in (
    ("exp", "exp"),
    ("expm1", "exp"),
    ("sin", "cos"),
    ("sinh", "cosh"),
    ("cosh", "sinh"),
):
    object.__setattr__(PRIMITIVES[_name], "slope", PRIMITIVES[_slope])

MAKERS.update(PRIMITIVES)
MAKERS["power"] = power
