"""``out=``: results in the caller's arrays, for every method, and what is refused."""

from __future__ import annotations

import re
import tracemalloc

import numpy as np
import pytest
from compare import normal

import hessarray as ha
from hessarray.errors import OptionError, ShapeError

NET = ha.Network(ha.Dense(3, 16, act="tanh"), ha.Dense(16, 2, act="sin"), seed=0)
LAM = np.array([1.0, -2.0])

METHODS = {
    "value": lambda x, **o: NET.value(x, **o),
    "gradient": lambda x, **o: NET.gradient(x, **o),
    "hessian": lambda x, **o: NET.hessian(x, **o),
    "laplacian": lambda x, **o: NET.laplacian(x, **o),
    "hessian_diagonal": lambda x, **o: NET.hessian_diagonal(x, **o),
    "hvp": lambda x, **o: NET.hvp(x, np.ones(3), **o),
    "weighted_hessian": lambda x, **o: NET.weighted_hessian(x, LAM, **o),
    "value_gradient_hessian": lambda x, **o: NET.value_gradient_hessian(x, **o),
}


def arrays(found):
    return found if isinstance(found, tuple) else (found,)


@pytest.mark.parametrize("shape", [(3,), (0, 3), (1, 3), (7, 3), (2, 90, 3)])
@pytest.mark.parametrize("options", [{}, {"memory_limit": 300_000, "threads": 2}], ids=str)
@pytest.mark.parametrize("method", METHODS)
def test_results_are_in_the_arrays_that_were_given(method, options, shape):
    call, x = METHODS[method], normal(1, *shape)
    for _ in range(3):  # call by call, and as recorded
        want = arrays(call(x))
        out = tuple(np.full_like(a, np.nan) for a in want)
        found = arrays(call(x, out=out if len(out) > 1 else out[0], **options))
        for a, b, c in zip(want, out, found, strict=True):
            assert c is b or not b.size
            np.testing.assert_allclose(b, a, rtol=1e-13, atol=1e-15)


def test_inputs_and_weights_may_share_memory_with_results():
    def aligned(*shape):  # where constants are read in place
        raw = np.empty(8 * int(np.prod(shape)) + 64, np.uint8)
        start = -raw.ctypes.data % 64
        return raw[start : start + raw.size - 64].view(float).reshape(shape)

    x = normal(2, 500, 3)
    want = NET.gradient(x)
    out = aligned(500, 3, 2)
    inside = out.reshape(-1)[:1500].reshape(500, 3)
    inside[...] = x
    np.testing.assert_allclose(NET.gradient(inside, out=out), want, rtol=1e-13)

    want = NET.weighted_hessian(x, LAM)
    out = aligned(500, 3, 3)
    inside = out.reshape(-1)[:2]
    inside[...] = LAM
    np.testing.assert_allclose(NET.weighted_hessian(x, inside, out=out), want, rtol=1e-13)

    want, params = NET.value(x), NET.parameters()
    out = aligned(500, 2)
    inside = out.reshape(-1)[:16]
    inside[...] = params["0.b"]
    given = {**params, "0.b": inside}
    np.testing.assert_allclose(NET.value(x, parameters=given, out=out), want, rtol=1e-13)


def test_results_go_to_a_file(tmp_path):
    x = normal(3, 400, 3)
    out = np.memmap(tmp_path / "h", dtype=np.float64, mode="w+", shape=(400, 3, 3, 2))
    assert NET.hessian(x, out=out) is out
    out.flush()
    np.testing.assert_array_equal(np.fromfile(tmp_path / "h"), NET.hessian(x).reshape(-1))


@pytest.mark.parametrize(
    ("out", "error", "sentence"),
    [
        (np.empty((5, 3, 2)), ShapeError, "out for the hessian is (5, 3, 2) float64: expected"),
        (np.empty((5, 3, 3, 2), "f4"), ShapeError, "is (5, 3, 3, 2) float32: expected"),
        (np.empty((5, 3, 3, 2), ">f8"), ShapeError, "is (5, 3, 3, 2) >f8: expected"),
        ([0.0], ShapeError, "out for the hessian is float: expected (5, 3, 3, 2) float64"),
        (np.empty((5, 3, 2, 3)).swapaxes(2, 3), OptionError, "contiguous, aligned and writeable"),
        (np.broadcast_to(0.0, (5, 3, 3, 2)), OptionError, "contiguous, aligned and writeable"),
        ((np.empty((5, 3, 3, 2)),) * 2, OptionError, "out holds 2 arrays, 1 are expected: hessian"),
    ],
    ids=range(7),
)
def test_what_is_refused(out, error, sentence):
    with pytest.raises(error, match=re.escape(sentence)):
        NET.hessian(normal(4, 5, 3), out=out)


def test_arrays_that_share_memory_and_other_libraries_are_refused():
    x, both, whole = normal(5, 5, 3), np.empty((5, 2)), np.empty(200)
    value, gradient = whole[:10].reshape(5, 2), whole[:30].reshape(5, 3, 2)
    with pytest.raises(OptionError, match="share memory: pass separate ones"):
        NET.value_gradient_hessian(x, out=(value, gradient, np.empty((5, 3, 3, 2))))
    import torch

    with pytest.raises(OptionError, match="out= needs NumPy arrays"):
        NET.value(torch.as_tensor(x), out=both)
    two = ha.Function(lambda x, y: x * y, ((2,), (2,)))
    with pytest.raises(OptionError, match="functions of one input"):
        two.value(both, both, out=np.empty((5, 2)))


@pytest.mark.parametrize("method", sorted(set(METHODS) - {"hvp", "weighted_hessian"}))
def test_steady_calls_allocate_nothing_but_results(method):
    """Those two repeat a direction or weight for every sample."""
    call, x = METHODS[method], normal(6, 3000, 3)
    for _ in range(3):
        call(x)
    tracemalloc.start()
    try:
        found = call(x)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak - sum(a.nbytes for a in arrays(found)) < 20_000
