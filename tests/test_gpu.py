"""What only a CUDA device can show; `make test-gpu` runs it, elsewhere each test says why not.

The kernels and their order are tested without a device in test_cupy_source.py and
test_cupy_fake.py, the logic of CUDA graphs in test_torch_graphs.py.
"""

from __future__ import annotations

import numpy as np
import pytest
from compare import assert_close, normal, randomized
from threads import run_all

import hessarray as ha
from hessarray.backends.protocol import FunctionalExecutable
from hessarray.backends.registry import backend_named

on_cupy = pytest.mark.backends("cupy")
on_torch = pytest.mark.backends("torch-cuda")
TOLERANCE = {"float64": 1e-12, "float32": 2e-5}


def mlp(act="tanh"):
    return randomized(ha.fully_connected([3, 6, 6, 2], act=act), 1, 0.6)


@on_cupy
@pytest.mark.parametrize("dtype", TOLERANCE)
@pytest.mark.parametrize("act", sorted(ha.ACTIVATIONS))
def test_fused_against_unfused(backend, act, dtype, monkeypatch):
    x, p = (backend.asarray(normal(k, 50, 3), dtype) for k in (5, 6))

    def everything():
        net = mlp(act)
        three = net.value_gradient_hessian(x)
        return [*three, net.laplacian(x), net.hvp(x, p), net.value(x[0])]

    fused = everything()
    monkeypatch.setattr(type(backend_named("cupy")), "compile", unfused)
    for a, b in zip(fused, everything(), strict=True):
        assert_close(backend.to_numpy(a), backend.to_numpy(b), TOLERANCE[dtype], act, "unfused")


def unfused(self, program, source, layout):
    return FunctionalExecutable(self.xp, source)


@on_cupy
@pytest.mark.parametrize("dtype", TOLERANCE)
@pytest.mark.parametrize("special", [0.0, 1e-30, 30.0, 200.0, np.inf, np.nan])
def test_special_values(backend, special, dtype):
    """Infinities and NaN come out where NumPy has them."""
    for act in ("tanh", "relu", "silu", "softplus", "erf"):
        net = ha.Network(ha.Dense(2, 3, act=act), seed=0)
        x = np.asarray([[special, 0.5], [0.5, -special]], dtype)
        with np.errstate(all="ignore"):
            want = net.value_gradient_hessian(x)
        for a, b in zip(net.value_gradient_hessian(backend.asarray(x)), want, strict=True):
            np.testing.assert_allclose(backend.to_numpy(a), b, 1e-5, 1e-6, err_msg=act)


@on_cupy
@pytest.mark.parametrize("threads", [None, 1])
def test_chunks_on_streams(backend, threads):
    net, x = mlp(), normal(11, 20_000, 3)
    want = net.hessian(x)
    for _ in range(3):
        got = net.hessian(
            backend.asarray(x), memory_limit=2 * want.nbytes + 4_000_000, threads=threads
        )
        assert_close(backend.to_numpy(got), want, 1e-12, "in chunks")


@on_cupy
def test_a_stream_of_the_caller(backend):
    import cupy

    net, x = mlp(), normal(12, 5000, 3)
    want = net.hessian(x)
    streams = [cupy.cuda.Stream(non_blocking=True) for _ in range(3)]
    found = []
    for stream in streams:  # the first one folds the constants, the others wait for them
        with stream:
            found.append(net.hessian(cupy.asarray(x)))
    for stream, got in zip(streams, found, strict=True):
        stream.synchronize()
        assert_close(cupy.asnumpy(got), want, 1e-12)


@on_cupy
def test_threads_on_one_device(backend):
    net, xs = mlp(), [normal(k, 3000, 3) for k in range(4)]
    found = [None] * 4

    def work(k):
        got = net.hessian(backend.asarray(xs[k]), memory_limit=2 * 3000 * 18 * 8 + 1_000_000)
        found[k] = backend.to_numpy(got)

    run_all(work, 4)
    for x, got in zip(xs, found, strict=True):
        assert_close(got, net.hessian(x), 1e-12)


@pytest.mark.backends("cupy", "torch-cuda")
def test_float32_is_not_tf32(backend):
    """TF32 has 11 bits: errors of a thousandth, unless the user asked for it."""
    rng = np.random.default_rng(0)
    net = ha.Network(ha.Dense(512, 512, bias=False))
    net.load_parameters({"0.K": rng.standard_normal((512, 512)).astype("float32")})
    x = rng.standard_normal((256, 512)).astype("float32")
    got = backend.to_numpy(net.value(backend.asarray(x)))
    assert_close(got, net.value(x.astype("float64")), 1e-5, "a float32 product")


@on_torch
@pytest.mark.parametrize("dtype", TOLERANCE)
def test_cuda_graphs(backend, dtype, monkeypatch):
    import torch

    captured = []
    kept = torch.cuda.CUDAGraph.replay
    monkeypatch.setenv("HESSARRAY_CUDA_GRAPHS", "1")
    monkeypatch.setattr(
        torch.cuda.CUDAGraph, "replay", lambda self: (captured.append(1), kept(self))[1]
    )
    net = mlp()
    for round_ in range(2):
        for seed in range(6):
            x, p = (normal(k, 8, 3).astype(dtype) for k in (seed, seed + 50))
            results = [
                *net.value_gradient_hessian(backend.asarray(x)),
                net.hvp(backend.asarray(x), backend.asarray(p)),
            ]
            wanted = [*net.value_gradient_hessian(x), net.hvp(x, p)]
            for a, b in zip(results, wanted, strict=True):
                assert_close(backend.to_numpy(a), b, TOLERANCE[dtype], f"call {seed}")
        randomized(net, 100 + round_)
    assert len(captured) == 2 * 2 * 4


@on_torch
def test_cuda_graphs_on_streams_and_inside_a_capture(backend, monkeypatch):
    import torch

    monkeypatch.setenv("HESSARRAY_CUDA_GRAPHS", "1")
    net, xs = mlp(), [normal(k, 8, 3) for k in range(8)]
    found = []
    streams = [torch.cuda.Stream() for _ in range(2)]
    arrays = [backend.asarray(x) for x in xs]
    torch.cuda.synchronize()
    for k, x in enumerate(arrays):
        with torch.cuda.stream(streams[k % 2]):
            found.append(net.hessian(x))
    torch.cuda.synchronize()
    for x, got in zip(xs, found, strict=True):
        assert_close(backend.to_numpy(got), net.hessian(x), 1e-12)

    graph = torch.cuda.CUDAGraph()
    static = arrays[0].clone()
    with torch.cuda.graph(graph):
        result = net.hessian(static)
    static.copy_(arrays[1])
    graph.replay()
    assert_close(backend.to_numpy(result), net.hessian(xs[1]), 1e-12, "the caller's own graph")
