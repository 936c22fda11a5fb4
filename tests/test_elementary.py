"""Elementary functions: (s, s', s'') against mpmath over the whole range of float32 and float64."""

from __future__ import annotations

import math

import numpy as np
import pytest
from mpmath import mp, mpf
from oracle import BOUND, DTYPES, XP, Case, check, erf, erfc, evaluate, failures

from hessarray.graph.elementary import PRIMITIVES, Elementary, power


def case(name, s, **options):
    return Case(name, PRIMITIVES[name], s, **options)


def pow_case(c, low=-math.inf, **options):
    return Case(f"power({c})", power(c), lambda x: mp.power(x, mpf(c)), low=low, **options)


CASES = [
    case("exp", mp.exp),
    case("expm1", lambda x: mp.exp(x) - 1),
    case("log", mp.log, low=0.0, near=(1.0,)),
    case("log1p", lambda x: mp.log(1 + x), low=-1.0),
    case("log2", lambda x: mp.log(x) / mp.log(2), low=0.0, near=(1.0,)),
    case("log10", lambda x: mp.log(x) / mp.log(10), low=0.0, near=(1.0,)),
    case("sqrt", mp.sqrt, low=0.0),
    case("square", lambda x: x * x),
    case("reciprocal", lambda x: 1 / x, bends=(0.0,)),
    case("sin", mp.sin, near=(math.pi, 2 * math.pi, 22 * math.pi)),
    case("cos", mp.cos, near=(math.pi / 2, 1.5 * math.pi, 20.5 * math.pi)),
    case("tan", mp.tan, near=(math.pi / 2, math.pi, -1.5 * math.pi)),
    case("asin", mp.asin, low=-1.0, high=1.0),
    case("acos", mp.acos, low=-1.0, high=1.0),
    case("atan", mp.atan),
    case("sinh", mp.sinh),
    case("cosh", mp.cosh),
    case("tanh", mp.tanh),
    # The textbook logarithms cancel for negative or small x: mpmath's own functions do not.
    case("asinh", mp.asinh),
    case("acosh", mp.acosh, low=1.0),
    case("atanh", mp.atanh, low=-1.0, high=1.0),
    case("abs", abs),
    case("sign", mp.sign),
    case("erf", erf, gaussian=True, near=(0.5,)),
    case("erfc", erfc, gaussian=True, near=(0.5,)),
    *(pow_case(float(c)) for c in (0, 1, 2, 3, 4, 5, 8)),
    *(pow_case(float(c), bends=(0.0,)) for c in (-1, -2, -3, -4, -6)),
    *(pow_case(c, low=0.0) for c in (0.5, 1.5, 2.5, 0.75, -0.5, -1.5, -0.25)),
    # c - 1 and c - 2 are rounded, and so is c itself in float32: |log x| times that, relatively.
    *(
        pow_case(c, low=0.0, bound=lambda x: BOUND + 2 * abs(math.log(x)))
        for c in (float(np.float32(0.1)), float(np.float32(1.3)), float(np.float32(-2.7)))
    ),
]


@pytest.mark.parametrize("dtype", DTYPES, ids=lambda d: d.__name__)
@pytest.mark.parametrize("case", CASES, ids=str)
def test_jet_against_mpmath(case, dtype):
    check(case, dtype)


@pytest.mark.parametrize("name", ["floor", "ceil", "round", "trunc", "sign"])
def test_steps_have_no_slope(name):
    f = PRIMITIVES[name]
    x = np.asarray([-2.5, -0.5, 0.0, 0.3, 1.5, 1e300])
    np.testing.assert_array_equal(f.s(XP, x), getattr(np, name)(x))
    assert (f.s1, f.s2) == (0.0, 0.0)


@pytest.mark.parametrize("dtype", DTYPES, ids=lambda d: d.__name__)
def test_one_sided_values_at_the_kinks(dtype):
    zero = np.zeros(1, dtype=dtype)
    assert PRIMITIVES["abs"].kinks == PRIMITIVES["sign"].kinks == (0.0,)
    # right-sided, so that derivatives of smooth even functions of |z| stay right at 0
    assert [float(evaluate(PRIMITIVES["abs"], k, zero)[0]) for k in range(3)] == [0.0, 1.0, 0.0]


@pytest.mark.parametrize("dtype", DTYPES, ids=lambda d: d.__name__)
@pytest.mark.parametrize(
    ("name", "x", "jet"),
    [
        ("sqrt", 0.0, (0.0, math.inf, -math.inf)),
        ("log", 0.0, (-math.inf, math.inf, -math.inf)),
        ("log1p", -1.0, (-math.inf, math.inf, -math.inf)),
        ("asin", 1.0, (math.pi / 2, math.inf, math.inf)),
        ("asin", -1.0, (-math.pi / 2, math.inf, -math.inf)),
        ("acos", 1.0, (0.0, -math.inf, -math.inf)),
        ("acosh", 1.0, (0.0, math.inf, -math.inf)),
        ("atanh", 1.0, (math.inf, math.inf, math.inf)),
        ("atanh", -1.0, (-math.inf, math.inf, -math.inf)),
    ],
)
def test_singular_ends_follow_ieee(name, x, jet, dtype):
    got = [evaluate(PRIMITIVES[name], k, np.asarray([x], dtype=dtype))[0] for k in range(3)]
    np.testing.assert_array_equal(got, np.asarray(jet, dtype=dtype))


@pytest.mark.parametrize("dtype", DTYPES, ids=lambda d: d.__name__)
@pytest.mark.parametrize("f", [*PRIMITIVES.values(), power(3.0), power(-2.0), power(5.0)], ids=str)
def test_nan_stays_nan(f, dtype):
    nan = np.asarray([np.nan], dtype=dtype)
    assert np.isnan(evaluate(f, 0, nan)[0])
    for order in (1, 2):
        code = (f.s1, f.s2)[order - 1]
        if callable(code):
            assert np.isnan(evaluate(f, order, nan)[0])


def test_integer_powers_at_zero_and_left_of_it():
    x = np.asarray([-3.0, -0.0, 0.0, 2.0])
    for c, s, s1, s2 in [
        (0, x**0, 0 * x, 0 * x),
        (1, x, x**0, 0 * x),
        (2, x**2, 2 * x, 2 + 0 * x),
        (3, x**3, 3 * x**2, 6 * x),
        (5, x**5, 5 * x**4, 20 * x**3),
    ]:
        for order, expected in enumerate((s, s1, s2)):
            np.testing.assert_allclose(evaluate(power(c), order, x), expected, rtol=1e-15)
    assert power(2).s2 == 2.0
    assert power(0).s1 == power(0).s2 == power(1).s2 == 0.0
    assert power(1).s1 == 1.0
    for order, limit in enumerate((0.0, 0.0, math.inf)):
        assert evaluate(power(1.5), order, np.asarray([0.0]))[0] == limit
    for order, limit in enumerate((math.inf, -math.inf, math.inf)):
        assert evaluate(power(-3), order, np.asarray([0.0]))[0] == limit or order == 1


def test_powers_are_shared_by_exponent():
    assert power(3) == power(3.0)
    assert hash(power(3)) == hash(power(3.0))
    assert power(3) != power(4)
    assert power(0.5) is PRIMITIVES["sqrt"]
    assert power(2) is PRIMITIVES["square"]
    assert power(-1) is PRIMITIVES["reciprocal"]


def test_a_primitive_is_the_call_of_its_name():
    x = np.asarray([1.25, 1.5])
    for name, f in PRIMITIVES.items():
        assert f.name == name
        assert f.primitive
        with np.errstate(invalid="ignore"):
            np.testing.assert_array_equal(f.s(XP, x), getattr(XP, name)(x))
    assert power(2.5).primitive
    np.testing.assert_array_equal(power(2.5).s(XP, x), XP.pow(x, 2.5))
    assert not power(3).primitive


NAIVE = {  # label: (name, order, formula that other libraries have shipped)
    "1 - tanh^2": ("tanh", 1, lambda xp, z: 1.0 - xp.tanh(z) ** 2),
    "1 / (1 + x^2)": ("atan", 1, lambda xp, z: 1.0 / (1.0 + z * z)),
    "1 / sqrt(1 + x^2)": ("asinh", 1, lambda xp, z: 1.0 / xp.sqrt(1.0 + z * z)),
    "-1 / sqrt(1 - x^2)": ("acos", 1, lambda xp, z: -1.0 / xp.sqrt(1.0 - z * z)),
    "exp(-x x)": ("erf", 1, lambda xp, z: xp.exp(-(z * z)) * (2.0 / math.sqrt(math.pi))),
    "1 - erf": ("erfc", 0, lambda xp, z: 1.0 - xp.erf(z)),
    "x**-1.5 / 4": ("sqrt", 2, lambda xp, z: -0.25 / (z * xp.sqrt(z))),
}


@pytest.mark.parametrize("dtype", DTYPES, ids=lambda d: d.__name__)
@pytest.mark.parametrize("label", NAIVE)
def test_the_bound_catches_naive_formulas(label, dtype):
    name, order, formula = NAIVE[label]
    right = next(c for c in CASES if c.label == name)
    codes = [right.function.s, right.function.s1, right.function.s2]
    codes[order] = formula
    largest = float(np.finfo(dtype).max)
    x = np.concatenate([np.linspace(0.05, 27.0, 40), [0.9999, 1e25, largest]])
    # Where 1 / x^2 and x^-1.5 are subnormal.
    x = np.concatenate([x, [2.0 * largest**0.5, 2.0 * largest ** (2 / 3)]])
    x = x[(x > right.low) & (x < right.high)].astype(dtype)
    wrong = Case(name, Elementary("naive", *codes), right.s, gaussian=right.gaussian)
    bad = failures(wrong, dtype, x)
    assert bad
    assert all(f"order {order}" in line for line in bad)
