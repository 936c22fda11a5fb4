"""erf and erfc in array API standard code: accuracy, tails, special values, any library."""

from __future__ import annotations

import math

import numpy as np
import pytest
from mpmath import mp, mpf
from oracle import DTYPES, erf, erfc, ulp

from hessarray.backends import _special, numpy_loops


def _points(dtype):
    info = np.finfo(dtype)
    rng = np.random.default_rng(0)
    smallest = math.log10(float(info.smallest_subnormal))
    magnitudes = np.concatenate(
        [
            10.0 ** np.linspace(smallest + 0.1, 2.0, 300),
            rng.uniform(0.0, 1.0, 800),
            rng.uniform(0.49, 0.51, 200),
            rng.uniform(0.0, 30.0, 800),
            np.arange(1, 29 * 32) / 32.0,  # where the split rounds the other way
            [0.5, np.nextafter(0.5, 0), 6.0, 28.0, 1e30, float(info.max)],
        ]
    )
    return np.unique(np.concatenate([magnitudes, -magnitudes, [0.0]]).astype(dtype))


@pytest.mark.parametrize("dtype", DTYPES, ids=lambda d: d.__name__)
@pytest.mark.parametrize(
    ("function", "truth", "bound"),
    [(_special.erf, erf, 3.0), (_special.erfc, erfc, 6.0)],
    ids=["erf", "erfc"],
)
def test_accuracy(function, truth, bound, dtype):
    """A few ulp everywhere, also where erfc is 1e-300 (exp(-x x) alone would lose x^2 ulp)."""
    mp.dps = 40
    x = _points(dtype)
    with np.errstate(under="ignore"):  # nothing else may happen for finite x
        got = function(np, x)
    assert got.dtype == dtype
    assert np.all(np.isfinite(got))
    worst = max(
        (abs(mpf(float(y)) - t) / ulp(t, dtype), v)
        for v, y in zip(map(float, x), got, strict=True)
        for t in [truth(mpf(v))]
    )
    assert worst[0] <= bound


@pytest.mark.parametrize("dtype", DTYPES, ids=lambda d: d.__name__)
def test_special_values(dtype):
    x = np.asarray([np.inf, -np.inf, 0.0, -0.0, np.nan], dtype=dtype)
    with np.errstate(all="raise", under="ignore"):
        e, c = _special.erf(np, x), _special.erfc(np, x)
    np.testing.assert_array_equal(e, np.asarray([1.0, -1.0, 0.0, -0.0, np.nan], dtype=dtype))
    np.testing.assert_array_equal(np.signbit(e[:4]), [False, True, False, True])
    np.testing.assert_array_equal(c, np.asarray([0.0, 2.0, 1.0, 1.0, np.nan], dtype=dtype))


@pytest.mark.parametrize("dtype", DTYPES, ids=lambda d: d.__name__)
def test_symmetry_and_argument_left_alone(dtype):
    x = np.linspace(0.01, 9.0, 500).astype(dtype)
    before = x.copy()
    np.testing.assert_array_equal(_special.erf(np, -x), -_special.erf(np, x))
    np.testing.assert_allclose(
        _special.erfc(np, -x) + _special.erfc(np, x), 2.0, rtol=4 * np.finfo(dtype).eps
    )
    np.testing.assert_array_equal(x, before)


@pytest.mark.parametrize("shape", [(), (0,), (3,), (2, 1, 3)])
def test_shapes(shape):
    x = np.full(shape, 0.75)
    for function in (_special.erf, _special.erfc):
        assert function(np, x).shape == shape


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("library", ["array_api_strict", "torch", "jax"])
def test_any_library(library, dtype):
    module = pytest.importorskip(library)
    if library == "torch":
        xp = pytest.importorskip("array_api_compat.torch")
    elif library == "jax":
        xp = module.numpy
        if dtype == "float64" and not module.config.jax_enable_x64:
            dtype = "float32"  # what asarray gives without the switch, which is global
    else:
        xp = module
    x = np.linspace(-8.0, 8.0, 101).astype(dtype)
    for function in (_special.erf, _special.erfc):
        got = function(xp, xp.asarray(x.tolist(), dtype=getattr(xp, dtype)))
        assert got.dtype == getattr(xp, dtype)
        eps = float(np.finfo(dtype).eps)
        np.testing.assert_allclose(np.asarray(got), function(np, x), rtol=16 * eps)


def test_array_stays_on_its_device():
    strict = pytest.importorskip("array_api_strict")
    device = strict.Device("device1")
    x = strict.asarray([-1.0, 0.25, 3.0], dtype=strict.float32, device=device)
    assert _special.erf(strict, x).device == device
    assert _special.erfc(strict, x).device == device


def test_extended_adds_to_the_namespace():
    x = np.asarray([0.5, 2.0])
    xp = _special.Extended(np)
    assert xp.exp is np.exp
    np.testing.assert_array_equal(xp.reciprocal(x), [2.0, 0.5])
    np.testing.assert_array_equal(xp.erf(x), _special.erf(np, x))
    np.testing.assert_array_equal(xp.erfc(x), _special.erfc(np, x))
    with pytest.raises(AttributeError):
        _ = xp.no_such_function
    own = _special.Extended(np, erf=np.sin, erfc=np.cos, reciprocal=np.reciprocal)
    assert (own.erf, own.erfc, own.reciprocal) == (np.sin, np.cos, np.reciprocal)


# ---- what NumPy programs call: the C library's where the compiled part is there ------------------


@pytest.mark.parametrize("dtype", DTYPES, ids=lambda d: d.__name__)
@pytest.mark.parametrize(("name", "truth", "bound"), [("erf", erf, 3.0), ("erfc", erfc, 6.0)])
def test_accuracy_of_the_function_of_numpy_programs(name, truth, bound, dtype):
    mp.dps = 40
    x = _points(dtype)[::5]
    out = np.empty_like(x)
    function = numpy_loops.specials()[name]
    with np.errstate(under="ignore"):
        assert function(x, out=out) is out
        np.testing.assert_array_equal(out, function(x))
    for v, y in zip(map(float, x), map(float, out), strict=True):
        assert abs(mpf(y) - truth(mpf(v))) <= bound * ulp(truth(mpf(v)), dtype)


@pytest.mark.parametrize("dtype", DTYPES, ids=lambda d: d.__name__)
def test_special_values_of_the_functions_of_numpy_programs(dtype):
    x = np.asarray([np.inf, -np.inf, 0.0, -0.0, np.nan], dtype=dtype)
    e, c = (numpy_loops.specials()[name](x) for name in ("erf", "erfc"))
    np.testing.assert_array_equal(e, np.asarray([1.0, -1.0, 0.0, -0.0, np.nan], dtype=dtype))
    np.testing.assert_array_equal(np.signbit(e[:4]), [False, True, False, True])
    np.testing.assert_array_equal(c, np.asarray([0.0, 2.0, 1.0, 1.0, np.nan], dtype=dtype))
