"""hessQuik's layers and networks against ours, with the same weights: every mode and result."""

from __future__ import annotations

import numpy as np
import pytest
from compare import assert_close, normal

import hessarray as ha

torch = pytest.importorskip("torch")
hq_act = pytest.importorskip("hessQuik.activations")
hq_layers = pytest.importorskip("hessQuik.layers")
hq_networks = pytest.importorskip("hessQuik.networks")

N = 11
TOLERANCE = {"float64": 1e-12, "float32": 1e-5}
MODES = (None, True, False)

# hessQuik's softplus has torch's threshold of 20 built in.
ACTIVATIONS = {
    "antitanh": (hq_act.antiTanhActivation, "antitanh"),
    "identity": (hq_act.identityActivation, "identity"),
    "quadratic": (hq_act.quadraticActivation, "quadratic"),
    "sigmoid": (hq_act.sigmoidActivation, "sigmoid"),
    "softplus": (hq_act.softplusActivation, ha.activation("softplus", threshold=20.0)),
    "tanh": (hq_act.tanhActivation, "tanh"),
}


class Both:
    """The same constructors in both libraries; an activation object of hessQuik keeps state, so
    that every layer needs its own.
    """

    def single(self, n, m, act, bias=True):
        theirs, ours = ACTIVATIONS[act]
        return (
            ha.Dense(n, m, act=ours, bias=bias),
            hq_layers.singleLayer(n, m, act=theirs(), bias=bias, dtype=torch.float64),
        )

    def resnet(self, width, h, act, bias=True):
        theirs, ours = ACTIVATIONS[act]
        return (
            ha.Residual(width, h=h, act=ours, bias=bias),
            hq_layers.resnetLayer(width, h=h, act=theirs(), bias=bias, dtype=torch.float64),
        )

    def icnn(self, d, n, m, act, bias=True):
        theirs, ours = ACTIVATIONS[act]
        return (
            ha.InputConvex(d, n, m, act=ours, bias=bias),
            hq_layers.ICNNLayer(d, n, m, act=theirs(), bias=bias, dtype=torch.float64),
        )

    def quadratic(self, n, rank):
        return ha.Quadratic(n, rank), hq_layers.quadraticLayer(n, rank, dtype=torch.float64)

    def quadratic_icnn(self, d, n, rank):
        return (
            ha.InputConvexQuadratic(d, n, rank),
            hq_layers.quadraticICNNLayer(d, n, rank, dtype=torch.float64),
        )

    def network(self, *layers):
        ours, theirs = zip(*layers, strict=True)
        return ha.Network(*ours), hq_networks.NN(*theirs)

    def fully_connected(self, widths, act):
        theirs, ours = ACTIVATIONS[act]
        return (
            ha.fully_connected(widths, act=ours),
            hq_networks.fullyConnectedNN(widths, act=theirs(), dtype=torch.float64),
        )

    def resnet_network(self, width, depth, h, act):
        theirs, ours = ACTIVATIONS[act]
        return (
            ha.resnet(width, depth, h=h, act=ours),
            hq_networks.resnetNN(width, depth, h=h, act=theirs(), dtype=torch.float64),
        )

    def icnn_network(self, d, widths, act):
        theirs, ours = ACTIVATIONS[act]
        return (
            ha.icnn(d, widths, act=ours),
            hq_networks.ICNN(d, widths, act=theirs(), dtype=torch.float64),
        )


B = Both()


def deep(m):
    """The network of hessQuik's own tests."""
    return B.network(
        B.single(3, 2, "softplus"),
        B.single(2, 7, "softplus"),
        B.resnet(7, 0.25, "antitanh"),
        B.single(7, 5, "softplus"),
        B.resnet(5, 0.5, "quadratic"),
        B.single(5, m, "softplus"),
    )


LAYERS = {
    **{
        f"{kind}-{act}-{'bias' if bias else 'no_bias'}": (
            lambda act=act, bias=bias, make=make: B.network(make(act, bias))
        )
        for act in ACTIVATIONS
        for bias in (True, False)
        for kind, make in {
            "single": lambda act, bias: B.single(4, 7, act, bias),
            "resnet": lambda act, bias: B.resnet(4, 0.25, act, bias),
            "icnn_first": lambda act, bias: B.icnn(4, None, 3, act, bias),
        }.items()
    },
    "single-one_to_one": lambda: B.network(B.single(1, 1, "tanh")),
    "single-wide_to_one": lambda: B.network(B.single(9, 1, "sigmoid")),
    "single-one_to_wide": lambda: B.network(B.single(1, 9, "softplus")),
    "resnet-width_one": lambda: B.network(B.resnet(1, 0.5, "tanh")),
    **{f"icnn_inner-{act}": lambda act=act: B.network(B.icnn(4, 5, 3, act)) for act in ACTIVATIONS},
    "icnn_inner-no_bias": lambda: B.network(B.icnn(2, 3, 1, "tanh", bias=False)),
    "quadratic_icnn": lambda: B.network(B.quadratic_icnn(3, 4, 2)),
    "quadratic_icnn-first": lambda: B.network(B.quadratic_icnn(4, None, 3)),
    "quadratic": lambda: B.network(B.quadratic(4, 2)),
    "quadratic-rank_one": lambda: B.network(B.quadratic(4, 1)),
    "quadratic-rank_above_width": lambda: B.network(B.quadratic(3, 7)),
}
NETWORKS = {
    "deep-1": lambda: deep(1),
    "deep-3": lambda: deep(3),
    "deep-8": lambda: deep(8),
    "fully_connected": lambda: B.fully_connected([3, 2, 5, 1], "softplus"),
    "fully_connected-wide": lambda: B.fully_connected([2, 12, 6], "tanh"),
    "resnet": lambda: B.resnet_network(3, 4, 0.25, "quadratic"),
    "resnet-tanh": lambda: B.resnet_network(4, 3, 0.5, "tanh"),
    "icnn_layers": lambda: B.network(
        B.icnn(3, None, 5, "softplus"), B.icnn(3, 5, 2, "softplus"), B.icnn(3, 2, 7, "softplus")
    ),
    "icnn": lambda: B.icnn_network(3, [None, 5, 2, 7], "softplus"),
    "block_fully_connected": lambda: B.network(
        B.fully_connected([3, 2, 3], "antitanh"),
        B.fully_connected([3, 4, 5], "identity"),
        B.fully_connected([5, 7, 6, 1], "softplus"),
    ),
    "block_resnet": lambda: B.network(
        B.single(3, 7, "antitanh"), B.resnet_network(7, 3, 0.8, "softplus"), B.quadratic(7, 2)
    ),
    "block_icnn": lambda: B.network(
        B.icnn_network(3, [None, 4, 5, 2, 7], "tanh"), B.quadratic_icnn(3, 7, 2)
    ),
    "block_in_block": lambda: B.network(
        B.network(B.single(3, 4, "tanh"), B.network(B.resnet(4, 0.7, "sigmoid"))),
        B.network(B.network(B.single(4, 2, "quadratic"))),
    ),
}
# What hessQuik itself cannot do: forward mode of a lone ICNN layer that has features: it takes them
# for constants.
BACKWARD_ONLY = [name for name in LAYERS if name.startswith(("icnn_inner", "quadratic_icnn"))]
# Its quadratic layers and ICNN layers neither take directions nor
# give a Laplacian.
WITH_DIRECTIONS = [
    name for name in [*LAYERS, *NETWORKS] if "icnn" not in name and not name.startswith("quadratic")
]
WITH_DIRECTIONS.remove("block_resnet")


def weights(theirs):
    """hessQuik's weights by our names; a resnetLayer holds its singleLayer as .layer."""
    return {k.replace("layer.", ""): v.numpy() for k, v in theirs.state_dict().items()}


def pair(name, dtype="float64", seed=0):
    """Both networks with the same weights, x in ``dtype``, and x for hessQuik in float64."""
    torch.manual_seed(seed)
    ours, theirs = {**LAYERS, **NETWORKS}[name]()
    with torch.no_grad():
        for p in theirs.parameters():
            p.copy_(p.to(getattr(torch, dtype)))
    ours.load_parameters(weights(theirs))
    x = normal(seed + 1, N, ours.in_features).astype(dtype)
    return ours, theirs, x, torch.asarray(x.astype(np.float64))


def run_theirs(theirs, x, **options):
    with torch.no_grad():
        return [None if a is None else a.numpy() for a in theirs(x, **options)]


@pytest.mark.parametrize("dtype", TOLERANCE)
@pytest.mark.parametrize("name", [*LAYERS, *NETWORKS])
def test_value_gradient_hessian(name, dtype):
    ours, theirs, x, y = pair(name, dtype)
    tol = TOLERANCE[dtype]
    for their_mode in (True, False) if name not in BACKWARD_ONLY else (False,):
        f, df, d2f = run_theirs(
            theirs, y, do_gradient=True, do_Hessian=True, forward_mode=their_mode
        )
        # A lone quadratic layer returns its Hessian without the batch axis in forward mode.
        d2f = np.broadcast_to(d2f, (N, x.shape[1], x.shape[1], f.shape[1]))
        for mode in MODES:
            got = ours(x, do_gradient=True, do_Hessian=True, forward_mode=mode)
            where = f"{name}, forward_mode {mode} and {their_mode}"
            assert {a.dtype.name for a in got} == {dtype}
            assert_close(got.f, f, tol, f"value, {where}", f"hessQuik {dtype}")
            assert_close(got.df, df, tol, f"gradient, {where}", f"hessQuik {dtype}")
            assert_close(got.d2f, d2f, tol, f"Hessian, {where}", f"hessQuik {dtype}")


@pytest.mark.parametrize("name", ["deep-3", "icnn", "block_resnet", "single-tanh-bias"])
def test_value_and_gradient_alone(name):
    ours, theirs, x, y = pair(name)
    for mode in (True, False):
        f, df, nothing = run_theirs(theirs, y, do_gradient=True, forward_mode=mode)
        assert nothing is None
        got = ours(x, do_gradient=True, forward_mode=mode)
        assert got.d2f is None
        assert_close(got.f, f, 1e-12, "value", "hessQuik float64")
        assert_close(got.df, df, 1e-12, "gradient", "hessQuik float64")
    f, *nothing = run_theirs(theirs, y)
    got = ours(x)
    assert nothing == [None, None] == [got.df, got.d2f]
    assert_close(got.f, f, 1e-12, "value", "hessQuik float64")


@pytest.mark.parametrize("dtype", TOLERANCE)
@pytest.mark.parametrize("name", WITH_DIRECTIONS)
def test_laplacian(name, dtype):
    ours, theirs, x, y = pair(name, dtype, seed=5)
    f, df, laplacian = run_theirs(theirs, y, do_gradient=True, do_Laplacian=True)
    for mode in MODES:
        got = ours(x, do_gradient=True, do_Laplacian=True, forward_mode=mode)
        assert_close(got.f, f, TOLERANCE[dtype], f"value, {mode}", f"hessQuik {dtype}")
        assert_close(got.df, df, TOLERANCE[dtype], f"gradient, {mode}", f"hessQuik {dtype}")
        assert_close(got.d2f, laplacian, TOLERANCE[dtype], f"Laplacian {mode}", f"hessQuik {dtype}")


@pytest.mark.parametrize("name", ["icnn", "block_icnn", "block_resnet", "quadratic", "icnn_layers"])
def test_laplacian_is_the_trace_where_hessquik_has_none(name):
    ours, theirs, x, y = pair(name, seed=6)
    *_, d2f = run_theirs(theirs, y, do_gradient=True, do_Hessian=True, forward_mode=False)
    trace = np.einsum("naam->nm", d2f)[:, None]
    for mode in MODES:
        got = ours(x, do_Laplacian=True, forward_mode=mode)
        assert got.df is None
        assert_close(got.d2f, trace, 1e-12, "Laplacian", "hessQuik float64")


@pytest.mark.parametrize("k", [1, 3])
@pytest.mark.parametrize("name", WITH_DIRECTIONS)
def test_directions_from_the_left(name, k):
    ours, theirs, x, y = pair(name, seed=7)
    v = normal(8, k, x.shape[1])
    options = {"do_gradient": True, "do_Hessian": True, "forward_mode": True}
    f, df, d2f = run_theirs(theirs, y, v=torch.asarray(v), **options)
    got = ours(x, v=v, **options)
    assert_close(got.f, f, 1e-12, "value", "hessQuik float64")
    assert_close(got.df, df, 1e-12, "v df", "hessQuik float64")
    assert_close(got.d2f, d2f, 1e-12, "v d2f v^T", "hessQuik float64")


@pytest.mark.parametrize("k", [1, 3])
@pytest.mark.parametrize("name", WITH_DIRECTIONS)
def test_directions_from_the_right(name, k):
    ours, theirs, x, y = pair(name, seed=9)
    v = normal(10, theirs.dim_output(), k)
    options = {"do_gradient": True, "do_Hessian": True, "forward_mode": False}
    f, df, d2f = run_theirs(theirs, y, v=torch.asarray(v), **options)
    got = ours(x, v=v, **options)
    assert_close(got.f, f, 1e-12, "value", "hessQuik float64")
    assert_close(got.df, df, 1e-12, "df v", "hessQuik float64")
    assert_close(got.d2f, d2f, 1e-12, "d2f v", "hessQuik float64")


@pytest.mark.parametrize("name", ["deep-3", "single-tanh-bias", "resnet-softplus-bias"])
def test_directional_laplacian(name):
    ours, theirs, x, y = pair(name, seed=11)
    v = normal(12, 3, x.shape[1])
    options = {"do_gradient": True, "do_Laplacian": True}
    *_, laplacian = run_theirs(theirs, y, v=torch.asarray(v), **options)
    got = ours(x, v=v, **options)
    assert_close(got.d2f, laplacian, 1e-12, "Laplacian along v", "hessQuik float64")


@pytest.mark.parametrize("name", ["deep-3", "block_icnn"])
def test_torch_tensors_in_torch_tensors_out(name):
    ours, theirs, _, y = pair(name)
    want = run_theirs(theirs, y, do_gradient=True, do_Hessian=True, forward_mode=False)
    got = ours(y, do_gradient=True, do_Hessian=True)
    for a, b in zip(got, want, strict=True):
        assert isinstance(a, torch.Tensor)
        assert_close(a.numpy(), b, 1e-12, name, "hessQuik float64")


def test_large_arguments_agree_with_hessquiks_threshold():
    """Beyond 20 hessQuik's softplus is linear below and above, and so is ours when asked."""
    ours, theirs, x, y = pair("single-softplus-bias")
    f, df, d2f = run_theirs(theirs, 60.0 * y, do_gradient=True, do_Hessian=True, forward_mode=True)
    got = ours(60.0 * x, do_gradient=True, do_Hessian=True)
    assert (d2f == 0.0).any()
    np.testing.assert_array_equal(got.d2f == 0.0, d2f == 0.0)
    for a, b in zip(got, (f, df, d2f), strict=True):
        assert_close(a, b, 1e-12, "beyond the threshold", "hessQuik float64")


def test_shapes_of_weights_and_counts_are_hessquiks():
    ours, theirs, *_ = pair("block_icnn")
    assert {k: v.shape for k, v in ours.parameters().items()} == {
        k: v.shape for k, v in weights(theirs).items()
    }
    assert (ours.in_features, ours.out_features) == (theirs.dim_input(), theirs.dim_output())
