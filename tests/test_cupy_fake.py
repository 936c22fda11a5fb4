"""The CuPy backend from end to end on the CuPy of ``fake_cupy``: no device is needed.

Kernels are compiled C++, arrays are NumPy's. What only a device can show is in test_gpu.py.
"""

from __future__ import annotations

import array_api_compat.numpy as xp
import numpy as np
import pytest
from compare import assert_close, normal, randomized
from fake_cupy import NO_COMPILER, installed

import hessarray as ha
from hessarray.backends.protocol import Work

pytestmark = pytest.mark.skipif(NO_COMPILER is not None, reason=str(NO_COMPILER))


@pytest.fixture
def cupy():
    with installed() as module:
        yield module


def mlp(act):
    return randomized(ha.fully_connected([3, 6, 6, 2], act=act), 1, 0.6)


def gated(x, p):
    u = x.__array_namespace__()
    y = u.where(x > 0.0, x * x * x, u.exp(x) - 1.0)
    y = u.concat([y, x[::-1] * x[1:2]], axis=0)
    w = u.exp(y - u.max(y))
    return u.maximum(u.tanh(y @ p["K"]), 0.1) * (u.sum(w) + u.sqrt(1.0 + x @ x)) / (1.0 + x @ x)


FUNCTIONS = {
    **{act: lambda act=act: mlp(act) for act in ("tanh", "silu", "softplus", "gelu", "relu")},
    **{act: lambda act=act: mlp(act) for act in ("antitanh", "mish", "elu", "sin")},
    "residual": lambda: randomized(ha.resnet(4, 3, act="tanh"), 2, 0.4),
    "icnn": lambda: randomized(ha.icnn(3, [4, 5], act="softplus"), 3, 0.5),
    # NeuralFoil's: silu within, a linear last layer with several outputs.
    "foil": lambda: ha.Network(
        ha.Dense(5, 16, act="silu"), ha.Dense(16, 16, act="silu"), ha.Dense(16, 6), seed=0
    ),
    "gated": lambda: ha.Function(gated, in_shape=(3,), params={"K": normal(4, 6, 2)}),
}
TOLERANCE = {"float64": 1e-13, "float32": 1e-5}


@pytest.mark.parametrize("dtype", TOLERANCE)
@pytest.mark.parametrize("name", FUNCTIONS)
def test_every_result_is_numpys(cupy, name, dtype):
    net = FUNCTIONS[name]()
    (d,), m = net.in_shape, int(np.prod(net.out_shape))
    x, p = (normal(k, 7, d).astype(dtype) for k in (5, 6))
    lam = normal(7, m).reshape(net.out_shape)
    calls = {
        "three": lambda a, b: net.value_gradient_hessian(a),
        "laplacian": lambda a, b: (net.laplacian(a),),
        "hvp": lambda a, b: (net.hvp(a, b),),
        "weighted": lambda a, b: (net.weighted_hessian(a, lam),),
        "one sample": lambda a, b: net.value_gradient_hessian(a[0]),
    }
    for what, call in calls.items():
        got, want = call(cupy.asarray(x), cupy.asarray(p)), call(x, p)
        for a, b in zip(got, want, strict=True):
            assert type(a) is cupy.ndarray
            assert a.dtype == dtype
            assert_close(cupy.asnumpy(a), b, TOLERANCE[dtype], what, "NumPy")


def test_fused_programs_run(cupy):
    net = mlp("silu")
    net.value(cupy.asarray(normal(8, 4, 3)))
    (plan,) = (p for key, p in net._plans.items() if key[-1] == "cupy")
    source = plan.compiled(cupy.backend).source
    assert "fused0(" in source
    assert "xp.exp" not in source


def test_parameters_that_change_are_seen(cupy):
    net, x = mlp("tanh"), normal(9, 4, 3)
    net.value(cupy.asarray(x))
    randomized(net, 10)
    assert_close(cupy.asnumpy(net.hessian(cupy.asarray(x))), net.hessian(x), 1e-13)


# ------------------------------------------------------------------------------ chunks and streams


def chunked(net, x, **options):
    """With a limit that makes a few chunks of 1,000 samples."""
    return net.hessian(x, memory_limit=2 * 8 * 18 * len(x) + 250_000, **options)


@pytest.mark.parametrize("threads", [None, 1, 2, 5])
def test_chunks_in_turn_on_two_streams(cupy, threads):
    net, x = mlp("tanh"), normal(11, 1000, 3)
    net.hessian(cupy.asarray(x))  # binds
    log = cupy.cuda.state.log
    log.clear()
    seen = []
    got = chunked(net, cupy.asarray(x), threads=threads, progress=seen.append)
    assert_close(cupy.asnumpy(got), net.hessian(x), 1e-13, "in chunks")
    names = {entry[0] for entry in log} - {"caller", "host waits for"}
    assert len(names) == (0 if threads == 1 else 2)
    assert seen == sorted(seen)
    assert seen[-1] == 1000
    assert len(seen) >= 4
    if threads != 1:
        check_order(log, names)


def check_order(log, names):
    """Streams start after the caller, and the caller goes on after the streams."""
    for name in names:
        mine = [entry for entry in log if entry[0] == name]
        assert mine[0][1] == "waits for"
        start = next(k for k, e in enumerate(log) if e == ("caller", "records", mine[0][2]))
        assert start < log.index(mine[0])
        assert mine[-1][1] == "records"
        assert ("caller", "waits for", mine[-1][2]) in log[log.index(mine[-1]) :]


def test_streams_are_joined_after_an_error(cupy):
    net, x = mlp("tanh"), normal(12, 1000, 3)
    net.hessian(cupy.asarray(x))
    cupy.cuda.state.log.clear()

    def stop(done):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        chunked(net, cupy.asarray(x), progress=stop)
    names = {entry[0] for entry in cupy.cuda.state.log} - {"caller", "host waits for"}
    check_order(cupy.cuda.state.log, names)
    assert cupy.cuda.get_current_stream().name == "caller"


def test_one_chunk_stays_on_the_callers_stream(cupy):
    net, x = mlp("tanh"), cupy.asarray(normal(13, 50, 3))
    mine = cupy.cuda.Stream(non_blocking=True)
    net.hessian(x)
    bound = next(entry for entry in cupy.cuda.state.log if entry[1] == "records")
    cupy.cuda.state.log.clear()
    with mine:
        net.hessian(x)
    # The folded constants were made on another stream.
    assert cupy.cuda.state.log == [(mine.name, "waits for", bound[2])]


def test_threads_have_streams_of_their_own(cupy):
    from concurrent.futures import ThreadPoolExecutor
    from importlib import import_module

    streams = import_module("hessarray.backends.cupy_backend")._streams
    with ThreadPoolExecutor(1) as pool:
        other = pool.submit(streams, 0).result()
    assert not set(map(id, other)) & set(map(id, streams(0)))
    assert streams(0) is streams(0)


def test_schedule(cupy):
    def work(n, room=None, threads=None):
        return Work(n, 1000, 0, room, threads)

    assert cupy.backend.schedule(work(10)) == (10, 1)
    assert cupy.backend.schedule(work(1000, 1_000_000)) == (375, 2)
    assert cupy.backend.schedule(work(1000, 1_000_000, 1)) == (750, 1)
    assert cupy.backend.schedule(work(10, 1)) == (1, 2)
    chunk, streams = cupy.backend.schedule(work(10**7))
    assert (chunk, streams) == ((1 << 30) // 2 * 3 // 4 // 2 // 1000, 2)


def test_the_stand_in_is_strict(cupy):
    """What it refuses, CuPy refuses."""
    a = cupy.asarray(np.ones(3))
    with pytest.raises(TypeError, match="Unsupported type"):
        a + np.ones(3)
    with pytest.raises(TypeError, match="Unsupported type"):
        cupy.backend.xp.sum(np.ones(3))
    kernel = cupy.ElementwiseKernel("T i0, T i1", "T o0", "o0 = i0 * i1;")
    with pytest.raises(AssertionError, match="mismatched"):
        kernel(a, cupy.asarray(np.ones(3, np.float32)))
    assert xp.sum(np.asarray(kernel(a, a))) == 3.0
    with pytest.raises(AssertionError, match=r"double-promotion|float-conversion"):
        cupy.ElementwiseKernel("T i0", "T o0", "o0 = i0 * 0.1;")(a)
