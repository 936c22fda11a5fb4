"""The logic of CUDA graphs for torch, without a device: a graph is a recording that is run again.

What only a device can show is in test_gpu.py.
"""

from __future__ import annotations

import gc
import weakref
from contextlib import contextmanager

import pytest
from compare import assert_close, normal, randomized

import hessarray as ha

torch = pytest.importorskip("torch")

from torch.utils._python_dispatch import TorchDispatchMode  # noqa: E402

from hessarray.backends import torch_graphs  # noqa: E402


class Recording(TorchDispatchMode):
    """Every operation with the tensors that it was given and those that it gave."""

    def __init__(self):
        super().__init__()
        self.notes = []

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        found = function(*args, **(kwargs or {}))
        self.notes.append((function, args, kwargs or {}, found))
        return found


class Graph:
    """Runs again what was recorded, in the same tensors."""

    def __init__(self):
        self.recording = Recording()
        self.replays = 0

    def replay(self):
        self.replays += 1
        for function, args, kwargs, found in self.recording.notes:
            again = function(*args, **kwargs)
            if isinstance(found, torch.Tensor) and found.data_ptr() != again.data_ptr():
                found.copy_(again)


class Stub:
    """As much of torch.cuda as is used; ``fails`` makes every capture fail."""

    def __init__(self, fails=False):
        self.fails, self.graphs, self.modes, self.order = fails, [], [], []

    def CUDAGraph(self):
        self.graphs.append(Graph())
        return self.graphs[-1]

    @contextmanager
    def graph(self, graph, capture_error_mode):
        self.modes.append(capture_error_mode)
        if self.fails:
            raise RuntimeError("operation not permitted when stream is capturing")
        with graph.recording:
            yield

    @contextmanager
    def stream(self, stream):
        yield

    def current_stream(self):
        return self

    Stream = current_stream

    def wait_stream(self, other):
        pass

    def wait_event(self, event):
        self.order.append("wait")

    def Event(self):
        return self

    def record(self, stream):
        self.order.append("record")


@pytest.fixture
def cuda(monkeypatch):
    stub = Stub()
    pretend(monkeypatch, stub)
    return stub


def pretend(monkeypatch, stub):
    monkeypatch.setenv("HESSARRAY_CUDA_GRAPHS", "1")
    monkeypatch.setattr(torch_graphs, "_on_cuda", lambda tensor: True)
    monkeypatch.setattr(torch.cuda, "is_current_stream_capturing", lambda: False)
    kept = torch_graphs.Graphs
    monkeypatch.setattr(torch_graphs, "Graphs", lambda: kept(stub))


def mlp():
    return randomized(ha.fully_connected([3, 5, 4, 2], act="tanh"), 1, 0.6)


def x_of(seed, n=4, dtype="float64"):
    return torch.asarray(normal(seed, n, 3).astype(dtype))


def test_the_third_call_is_captured_and_later_ones_are_replayed(cuda):
    net = mlp()
    for seed in range(6):
        x = x_of(seed)
        assert_close(net.hessian(x).numpy(), net.hessian(x.numpy()), 1e-13, f"call {seed}")
        assert len(cuda.graphs) == (seed >= 2)
    assert cuda.graphs[0].replays == 4
    assert cuda.modes == ["thread_local"]
    assert cuda.order == ["record", *["wait", "record"] * 4]


def test_results_belong_to_the_caller(cuda):
    net = mlp()
    calls = [(x, net.value_gradient_hessian(x)) for x in map(x_of, range(6))]
    for x, found in calls:
        for a, b in zip(found, net.value_gradient_hessian(x.numpy()), strict=True):
            assert a.is_contiguous()
            assert_close(a.numpy(), b, 1e-13)


def test_directions_and_weights_are_inputs(cuda):
    net, x = mlp(), x_of(0)
    for seed in range(5):
        v, p, lam = normal(seed, 2, 3), normal(seed, 4, 3), normal(seed, 2)
        got = net(x, do_gradient=True, do_Hessian=True, v=torch.asarray(v), forward_mode=True)
        want = net(x.numpy(), do_gradient=True, do_Hessian=True, v=v, forward_mode=True)
        assert_close(got.d2f.numpy(), want.d2f, 1e-13, "v")
        assert_close(net.hvp(x, torch.asarray(p)).numpy(), net.hvp(x.numpy(), p), 1e-13, "p")
        got = net.weighted_hessian(x, torch.asarray(lam))
        assert_close(got.numpy(), net.weighted_hessian(x.numpy(), lam), 1e-13, "lam")
    assert len(cuda.graphs) == 3


def test_new_parameters_are_seen(cuda):
    net, x = mlp(), x_of(0)
    for seed in range(3):
        for _ in range(4):
            assert_close(net.hessian(x).numpy(), net.hessian(x.numpy()), 1e-13)
        randomized(net, seed)
    assert len(cuda.graphs) == 3


def test_parameters_changed_in_place_are_seen(cuda):
    net, x = mlp(), x_of(0)
    p = {k: torch.asarray(v.copy()) for k, v in net.parameters().items()}
    for seed in range(6):
        p["0.K"].mul_(1.1)
        want = net.hessian(x.numpy(), parameters={k: v.numpy() for k, v in p.items()})
        assert_close(net.hessian(x, parameters=p).numpy(), want, 1e-13, f"call {seed}")


def test_shapes_and_dtypes_have_graphs_of_their_own(cuda):
    net = mlp()
    for _ in range(4):
        for n in (1, 4):
            for dtype in ("float32", "float64"):
                x = x_of(n, n, dtype)
                assert net.hessian(x).dtype == x.dtype
                net.hessian(x[0])
    assert len(cuda.graphs) == 4  # one sample alone is a batch of one to the program


def test_graphs_are_bounded(cuda):
    net = mlp()
    for n in range(20, 40):  # of one plan
        for _ in range(4):
            net.value(x_of(n, n))
        made = [weakref.ref(g) for g in cuda.graphs]
    cuda.graphs.clear()
    gc.collect()
    assert len(made) == 20
    assert sum(r() is not None for r in made) == torch_graphs._MOST_GRAPHS


def test_captures_end_where_nothing_comes_back(cuda, monkeypatch):
    monkeypatch.setattr(torch_graphs, "_MOST_CAPTURES", 5)
    net = mlp()
    for n in range(20, 40):  # of one plan
        for _ in range(4):
            net.value(x_of(n, n))
    assert len(cuda.graphs) == 5


@pytest.mark.parametrize(
    "how",
    ["x", "parameters", "no_grad", "vmap", "jvp", "dual", "autocast", "capture", "mode", "compile"],
)
@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_where_somebody_watches_there_is_no_graph(cuda, how, monkeypatch):
    net, x = mlp(), x_of(0)
    want = net.laplacian(x.numpy())
    if how == "parameters":
        net.to("torch")
    if how == "capture":
        monkeypatch.setattr(torch.cuda, "is_current_stream_capturing", lambda: True)
    for _ in range(5):
        if how in ("x", "no_grad"):
            with torch.set_grad_enabled(how == "x"):
                got = net.laplacian(x.clone().requires_grad_(True))
            assert got.requires_grad == (how == "x")
        elif how == "vmap":
            got = torch.func.vmap(net.laplacian)(x)
        elif how == "jvp":
            got, tangent = torch.func.jvp(net.laplacian, (x,), (x,))
            assert tangent.abs().max() > 0
        elif how == "dual":
            with torch.autograd.forward_ad.dual_level():
                dual = net.laplacian(torch.autograd.forward_ad.make_dual(x, x))
                got = torch.autograd.forward_ad.unpack_dual(dual).primal
        elif how == "autocast":
            torch.set_autocast_enabled("cuda", True)
            try:
                got = net.laplacian(x)
            finally:
                torch.set_autocast_enabled("cuda", False)
        elif how == "mode":
            with Recording():
                got = net.laplacian(x)
        elif how == "compile":
            torch._dynamo.reset()
            got = torch.compile(net.laplacian, backend="eager")(x)
        else:
            got = net.laplacian(x)
        assert_close(got.detach().numpy(), want, 1e-13)
    assert not cuda.graphs


def test_a_capture_that_fails_is_not_tried_again(monkeypatch):
    stub = Stub(fails=True)
    pretend(monkeypatch, stub)
    net, x = mlp(), x_of(0)
    for _ in range(6):
        assert_close(net.hessian(x).numpy(), net.hessian(x.numpy()), 1e-13)
    assert len(stub.graphs) == 1


def test_large_calls_and_chunks_have_none(cuda, monkeypatch):
    net = mlp()
    for _ in range(4):
        net.hessian(x_of(0, 1000), memory_limit=2 * 8 * 18 * 1000 + 100_000)
    monkeypatch.setattr(torch_graphs, "MOST_BYTES", 1000)
    for _ in range(4):
        net.hessian(x_of(0, 100))
    assert not cuda.graphs


def test_progress_is_told(cuda):
    net, seen = mlp(), []
    for _ in range(4):
        net.value(x_of(0), progress=seen.append)
    assert seen == [4] * 4
    assert cuda.graphs


def test_inference_mode_and_precision_have_graphs_of_their_own(cuda, monkeypatch):
    net, x = mlp(), x_of(0)
    for _ in range(4):
        with torch.inference_mode():
            got = net.value(x)
        assert_close(got.numpy(), net.value(x.numpy()), 1e-13)
        net.value(x)
    assert len(cuda.graphs) == 2
    monkeypatch.setattr(torch_graphs, "_settings", lambda: "tf32")
    for _ in range(4):
        net.value(x)
    assert len(cuda.graphs) == 3


@pytest.mark.parametrize(
    ("value", "wanted"), [(None, False), ("0", False), ("", False), ("1", True)]
)
def test_only_on_request(monkeypatch, value, wanted):
    monkeypatch.delenv("HESSARRAY_CUDA_GRAPHS", raising=False)
    if value is not None:
        monkeypatch.setenv("HESSARRAY_CUDA_GRAPHS", value)
    assert torch_graphs.wanted() == wanted


def test_cpu_tensors_have_none(monkeypatch):
    monkeypatch.setenv("HESSARRAY_CUDA_GRAPHS", "1")
    net, x = mlp(), x_of(0)
    for _ in range(4):
        assert_close(net.hessian(x).numpy(), net.hessian(x.numpy()), 1e-13)
    assert not torch_graphs.replayable([x])
