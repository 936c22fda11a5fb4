"""Activations against torch.func; the traced namespace and what is made of it against JAX."""

from __future__ import annotations

import ast
import inspect
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from compare import (
    EPS,
    assert_close,
    jax_truth,
    jax_truth_of,
    normal,
    positive,
    randomized,
    torch_truth,
)

import hessarray as ha
from hessarray.graph import namespace

torch = pytest.importorskip("torch")
F = torch.nn.functional

N = 4
TOLERANCE = {"float64": 1e-12, "float32": 2e-5}

# ---- activations -------------------------------------------------------------------------------

# Every name of the table in torch's own words; a name may stand with parameters.
TORCH_ACTIVATIONS = {
    "identity": lambda x: x,
    "quadratic": lambda x: 0.5 * x * x,
    "tanh": torch.tanh,
    "antitanh": lambda x: torch.log(torch.cosh(x)) + math.log(2.0),
    "sigmoid": torch.sigmoid,
    "softplus": lambda x: torch.log1p(torch.exp(x)),
    "log_sigmoid": lambda x: -torch.log1p(torch.exp(-x)),
    "relu": torch.relu,
    "leaky_relu": F.leaky_relu,
    "relu6": F.relu6,
    "squared_relu": lambda x: torch.relu(x) ** 2,
    "elu": F.elu,
    "selu": F.selu,
    "celu": F.celu,
    "gelu": F.gelu,
    "gelu_tanh": lambda x: F.gelu(x, approximate="tanh"),
    "silu": F.silu,
    "swish": F.silu,
    "mish": lambda x: x * torch.tanh(torch.log1p(torch.exp(x))),
    "softsign": F.softsign,
    "hardtanh": F.hardtanh,
    "hard_sigmoid": lambda x: F.relu6(x + 3.0) / 6.0,
    "hard_swish": lambda x: x * F.relu6(x + 3.0) / 6.0,
    "gaussian": lambda x: torch.exp(-x * x),
    "sin": torch.sin,
    "cos": torch.cos,
    "exp": torch.exp,
    "arctan": torch.atan,
    "erf": torch.erf,
}
WITH_PARAMETERS = {
    "softplus beta": (
        ("softplus", {"beta": 2.5}),
        lambda x: torch.log1p(torch.exp(2.5 * x)) / 2.5,
    ),
    "leaky_relu slope": (
        ("leaky_relu", {"negative_slope": 0.2}),
        lambda x: F.leaky_relu(x, negative_slope=0.2),
    ),
    "elu alpha": (("elu", {"alpha": 0.7}), lambda x: F.elu(x, alpha=0.7)),
    # torch's own celu rounds alpha to float32 in its derivatives.
    "celu alpha": (
        ("celu", {"alpha": 1.7}),
        lambda x: torch.where(x > 0.0, x, 1.7 * torch.expm1(x / 1.7)),
    ),
    "gelu tanh": (
        ("gelu", {"approximate": "tanh"}),
        lambda x: F.gelu(x, approximate="tanh"),
    ),
    "hardtanh bounds": (
        ("hardtanh", {"min_val": -0.5, "max_val": 2.0}),
        lambda x: F.hardtanh(x, min_val=-0.5, max_val=2.0),
    ),
}
EVERY_ACTIVATION = {
    **{name: (ha.activation(name), theirs) for name, theirs in TORCH_ACTIVATIONS.items()},
    **{
        shown: (ha.activation(name, **params), theirs)
        for shown, ((name, params), theirs) in WITH_PARAMETERS.items()
    },
}


def test_every_activation_of_the_table_has_an_oracle():
    built_in = {name for name, act in ha.ACTIVATIONS.items() if "<lambda>" not in repr(act)}
    assert set(TORCH_ACTIVATIONS) <= set(ha.ACTIVATIONS)
    assert {n for n in built_in if n not in TORCH_ACTIVATIONS} <= {"cube"}  # of a doctest


@pytest.mark.parametrize("dtype", TOLERANCE)
@pytest.mark.parametrize("name", EVERY_ACTIVATION)
def test_activation_elementwise(name, dtype):
    ours, theirs = EVERY_ACTIVATION[name]
    x = np.linspace(-4.03, 4.01, 37).astype(dtype)[:, None]  # no kink is hit
    truth = torch_truth(theirs, x)
    f = ha.Function(ours, in_shape=(1,))
    got = f.value_gradient_hessian(x)
    for a, b, what in zip(got, truth, ("s", "s'", "s''"), strict=True):
        assert a.dtype == dtype
        assert_close(a, b, 40 * EPS[dtype], f"{what} of {name}", f"torch.func {dtype}")


@pytest.mark.parametrize("dtype", TOLERANCE)
@pytest.mark.parametrize("name", EVERY_ACTIVATION)
def test_activation_in_a_network(name, dtype):
    ours, theirs = EVERY_ACTIVATION[name]
    net = ha.Network(
        ha.Dense(3, 5, act=ours), ha.Residual(5, h=0.5, act=ours), ha.Dense(5, 2, act=ours)
    )
    randomized(net, seed=21, scale=0.45)
    net.load_parameters({k: v.astype(dtype) for k, v in net.parameters().items()})
    w = {k: torch.asarray(a.astype(np.float64)) for k, a in net.parameters().items()}

    def fn(u):
        u = theirs(u @ w["0.K"] + w["0.b"])
        u = u + 0.5 * theirs(u @ w["1.K"] + w["1.b"])
        return theirs(u @ w["2.K"] + w["2.b"])

    x = normal(22, N, 3).astype(dtype)
    truth = torch_truth(fn, x)
    for mode in (None, True, False):
        got = net(x, do_gradient=True, do_Hessian=True, forward_mode=mode)
        for a, b, what in zip(got, truth, ("value", "gradient", "Hessian"), strict=True):
            where = f"{what} with {name}, forward_mode {mode}"
            assert_close(a, b, TOLERANCE[dtype], where, f"torch.func {dtype}")
    laplacian = net(x, do_Laplacian=True).d2f
    assert_close(laplacian, truth.laplacian, TOLERANCE[dtype], "Laplacian", f"torch.func {dtype}")


# ---- the traced namespace ----------------------------------------------------------------------

A = normal(31, 3, 4)
S = normal(32, 3, 3)
T = normal(33, 2, 3, 4)
C = normal(34, 3)
P = positive(35, 3)

V, M, R3 = (3,), (2, 3), (2, 3, 4)

# What is called -> (shape of x, code of xp and one sample x). "+" in front: x is positive.
CODE = {
    # operators, with constants on either side
    "add": (V, lambda xp, x: x + C + 1.0 + x),
    "radd": (V, lambda xp, x: C + (2.0 + x * x)),
    "subtract": (V, lambda xp, x: (x - C) * (1.5 - x) - 0.0),
    "rsubtract": (V, lambda xp, x: (C - x) * (x - x[0])),
    "multiply": (V, lambda xp, x: x * x * C * 3.0),
    "multiply broadcast": (M, lambda xp, x: x * x[:, :1] * x[0] * C),
    "multiply ones": ((1, 3), lambda xp, x: x * xp.permute_dims(x, (1, 0))),
    "divide": ("+V", lambda xp, x: x[0] / x + 1.0 / x + x / 4.0 + C / x),
    "divide by constant array": (V, lambda xp, x: (x * x) / P),
    "rdivide": ("+M", lambda xp, x: x / (x[0] + x)),
    "negative": (V, lambda xp, x: -(x * x) + (+x)),
    "abs": (V, lambda xp, x: abs(x) * x * x),
    "pow 2": (V, lambda xp, x: x**2),
    "pow 3": (V, lambda xp, x: x**3),
    "pow 4": (V, lambda xp, x: x**4),
    "pow 5": (V, lambda xp, x: x**5),
    "pow 0": (V, lambda xp, x: x**0 + x),
    "pow 1": (V, lambda xp, x: x**1 * x),
    "pow -1": ("+V", lambda xp, x: x**-1),
    "pow -2": ("+V", lambda xp, x: x**-2.0),
    "pow 0.5": ("+V", lambda xp, x: x**0.5),
    "pow 2.5": ("+V", lambda xp, x: x**2.5),
    "pow -0.3": ("+V", lambda xp, x: x**-0.3),
    "pow variable": ("+V", lambda xp, x: x ** (x[0] * x)),
    "pow constant array": ("+V", lambda xp, x: x ** np.asarray([2.0, -1.5, 0.5])),
    "pow equal array": (V, lambda xp, x: x ** np.asarray([3.0, 3.0, 3.0])),
    "pow array of bases": (V, lambda xp, x: P**x),
    "rpow": (V, lambda xp, x: 2.0**x + 0.3**x),
    "xp.pow": ("+V", lambda xp, x: xp.pow(x, 3) + xp.pow(x, x)),
    "function names": (
        V,
        lambda xp, x: xp.add(xp.multiply(x, x), xp.subtract(x, xp.negative(xp.positive(x)))),
    ),
    "xp.divide": ("+V", lambda xp, x: xp.divide(x[0], x)),
    # contractions
    "matmul vector matrix": (V, lambda xp, x: (x @ A) ** 2),
    "matmul matrix vector": (V, lambda xp, x: (S @ x) ** 2),
    "matmul inner": (V, lambda xp, x: (x @ C) * (x @ x)),
    "matmul matrix matrix": (M, lambda xp, x: (x @ A) ** 3),
    "matmul constant left": (M, lambda xp, x: (np.ones((4, 2)) @ x) ** 2),
    "matmul batched": (R3, lambda xp, x: (x @ xp.matrix_transpose(x)) ** 2),
    "matmul batched constant": (R3, lambda xp, x: (T[0].T @ x) ** 2),
    "matmul broadcast batch": (R3, lambda xp, x: x @ (xp.matrix_transpose(x[:1]) ** 2)),
    "matmul batched vector": (R3, lambda xp, x: (x @ x[0, 0]) ** 2),
    "matmul vector batched": ((3, 3), lambda xp, x: (x[0] @ xp.stack([x, x * x])) ** 2),
    "matmul self": ((3, 3), lambda xp, x: x @ x @ x),
    "matmul 1x1": ((1, 1), lambda xp, x: x @ x),
    "x.T and x.mT": (M, lambda xp, x: (x @ x.T) * (x @ x.mT)),
    "quadratic form": (V, lambda xp, x: x @ S @ x),
    "quadratic form of features": (V, lambda xp, x: xp.tanh(x @ A) @ A.T @ S @ xp.tanh(x)),
    "tensordot 1": (V, lambda xp, x: xp.tensordot(x, A, axes=1) ** 2),
    "tensordot 2": (M, lambda xp, x: xp.tensordot(x, x * x, axes=2)),
    "tensordot 0": (V, lambda xp, x: xp.tensordot(x, x, axes=0)),
    "tensordot axes": (
        R3,
        lambda xp, x: xp.tensordot(x, T, axes=((0, 2), (0, 2))) ** 2,
    ),
    "tensordot negative axes": (R3, lambda xp, x: xp.tensordot(x, x, axes=((-1, 1), (-1, 1)))),
    "vecdot": (V, lambda xp, x: xp.vecdot(x, x) * xp.vecdot(x, C)),
    "vecdot axis": (R3, lambda xp, x: xp.vecdot(x, x * x, axis=-2)),
    "einsum linear": (M, lambda xp, x: xp.einsum("ij,jk->ki", x, A) ** 2),
    "einsum product": (M, lambda xp, x: xp.einsum("ij,kj->ik", x, x)),
    "einsum triple": (M, lambda xp, x: xp.einsum("ij,kj,j->ik", x, x, x[0])),
    "einsum outer": (V, lambda xp, x: xp.einsum("i,j,k->ijk", x, x, x)),
    "einsum sums an axis of its own": (M, lambda xp, x: xp.einsum("ij,k->k", x, x[0])),
    "einsum one operand": (M, lambda xp, x: xp.einsum("ij->j", x) ** 2),
    "einsum transpose": (R3, lambda xp, x: xp.einsum("ijk->kij", x) ** 2),
    "einsum hadamard": (M, lambda xp, x: xp.einsum("ij,ij,ij->ij", x, x, x)),
    # reductions
    "sum": (M, lambda xp, x: xp.sum(x * x)),
    "sum axis": (R3, lambda xp, x: xp.sum(x**3, axis=1)),
    "sum axes": (R3, lambda xp, x: xp.sum(x**3, axis=(0, -1))),
    "sum keepdims": (M, lambda xp, x: x * xp.sum(x, axis=-1, keepdims=True)),
    "mean": (M, lambda xp, x: xp.mean(x) ** 2),
    "mean axis": (R3, lambda xp, x: xp.mean(x * x, axis=(0, 2))),
    "var": (M, lambda xp, x: xp.var(x, axis=1)),
    "var correction": (M, lambda xp, x: xp.var(x, axis=0, correction=1)),
    "var all": (M, lambda xp, x: xp.var(x, keepdims=True)),
    "std": (M, lambda xp, x: xp.std(x, axis=-1)),
    "std correction": (M, lambda xp, x: xp.std(x, axis=-1, correction=1, keepdims=True)),
    "prod": ((5,), lambda xp, x: xp.prod(x)),
    "prod axis": (M, lambda xp, x: xp.prod(x, axis=1)),
    "prod all": (M, lambda xp, x: xp.prod(x)),
    "prod keepdims": (M, lambda xp, x: x * xp.prod(x, axis=0, keepdims=True)),
    "prod of zeros": (V, lambda xp, x: xp.prod(x * np.asarray([1.0, 0.0, 1.0]))),
    "max": ((7,), lambda xp, x: xp.max(x * x)),
    "max axis": (R3, lambda xp, x: xp.max(x**3, axis=1)),
    "max keepdims": (M, lambda xp, x: (x - xp.max(x, axis=-1, keepdims=True)) ** 2),
    "min": ((5,), lambda xp, x: xp.min(x**3)),
    "min axes": (R3, lambda xp, x: xp.min(x**3, axis=(0, 2))),
    # shapes
    "reshape": (M, lambda xp, x: xp.reshape(x, (3, 2)) @ x),
    "reshape -1": (R3, lambda xp, x: xp.reshape(x, (-1, 4)) ** 2),
    "reshape scalar": ((1,), lambda xp, x: xp.reshape(x, ()) ** 2),
    "permute_dims": (R3, lambda xp, x: xp.permute_dims(x, (2, 0, 1)) ** 2),
    "matrix_transpose": (R3, lambda xp, x: xp.matrix_transpose(x) ** 2),
    "moveaxis": (R3, lambda xp, x: xp.moveaxis(x, 0, -1) ** 2),
    "moveaxis several": (R3, lambda xp, x: xp.moveaxis(x, (0, 1), (-1, 0)) ** 2),
    "expand_dims": (V, lambda xp, x: xp.expand_dims(x, axis=1) * x),
    "expand_dims last": (M, lambda xp, x: xp.expand_dims(x, axis=-1) * xp.sin(x)[:, None]),
    "squeeze": ((3, 1), lambda xp, x: xp.squeeze(x, axis=1) ** 2),
    "broadcast_to": (V, lambda xp, x: xp.broadcast_to(x, (2, 3)) * xp.asarray(T[:, :, 0])),
    "broadcast_to grown": ((2, 1), lambda xp, x: xp.broadcast_to(x * x, (4, 2, 3))),
    "broadcast_arrays": (
        M,
        lambda xp, x: xp.broadcast_arrays(x, x[0])[1] * xp.broadcast_arrays(x, x[:, :1])[1],
    ),
    "concat": (M, lambda xp, x: xp.concat([x, x[:1] ** 2, xp.asarray(T[0, :1, :3])], axis=0)),
    "concat last": (M, lambda xp, x: xp.concat([x * x, x, x[:, ::2]], axis=-1)),
    "concat flat": (M, lambda xp, x: xp.concat([x, x * x], axis=None)),
    "concat twice the same": (V, lambda xp, x: xp.concat([x, x], axis=0) ** 2),
    "stack": (V, lambda xp, x: xp.stack([x, x * x, xp.asarray(C)])),
    "stack last": (V, lambda xp, x: xp.stack([x, x**3], axis=-1) ** 2),
    "flip": (M, lambda xp, x: xp.flip(x) * x),
    "flip axis": (R3, lambda xp, x: xp.flip(x, axis=1) * x),
    "flip axes": (R3, lambda xp, x: xp.flip(x, axis=(0, 2)) * x),
    "roll": ((5,), lambda xp, x: xp.roll(x, 2) * x),
    "roll negative": (M, lambda xp, x: xp.roll(x, -1, axis=1) * x),
    "roll axes": (R3, lambda xp, x: xp.roll(x, (1, 2), axis=(0, 2)) * x),
    "roll flat": (M, lambda xp, x: xp.roll(x, 1) * x),
    "roll beyond": (V, lambda xp, x: xp.roll(x, 7, axis=0) * x),
    # indexing
    "index int": (M, lambda xp, x: x[1] * x[0] * x[-1]),
    "index two ints": (M, lambda xp, x: x[1, -1] ** 2 * x[0, 0]),
    "index slice": ((7,), lambda xp, x: x[1:5] * x[-4:]),
    "index step": ((7,), lambda xp, x: x[::2] ** 2 * x[1::2][0]),
    "index negative step": ((7,), lambda xp, x: x[::-1] * x * x[5:1:-2][1]),
    "index ellipsis": (R3, lambda xp, x: x[..., 1] * x[..., -1]),
    "index ellipsis inside": (R3, lambda xp, x: x[0, ..., 1:3] ** 2),
    "index none": (V, lambda xp, x: x[:, None] * x[None, :]),
    "index none inside": (M, lambda xp, x: x[1, None, :] * x[:, None, 0]),
    "index array": (V, lambda xp, x: x[np.asarray([2, 0, 0, -1])] ** 2),
    "index list": (M, lambda xp, x: x[:, np.asarray([2, 1])] * x[:, np.asarray([0, 0])]),
    "index 2-d array": (V, lambda xp, x: x[np.asarray([[0, 1], [2, 2]])] ** 3),
    "index whole": (M, lambda xp, x: x[...] * x[:, :]),
    "index length one": (V, lambda xp, x: x[1:2] * x),
    "iteration": (V, lambda xp, x: sum(u * v for u, v in zip(x, x[::-1], strict=True))),
    "unpacking": (V, lambda xp, x: (lambda a, b, c: a * b + xp.sin(c))(*x)),
    "len": (M, lambda xp, x: x * x / len(x)),
    "take": (M, lambda xp, x: xp.take(x, np.asarray([2, 0, 2]), axis=1) ** 2),
    "take first": (V, lambda xp, x: xp.take(x, np.asarray([1, 1]), axis=0) ** 2),
    "take negative axis": (R3, lambda xp, x: xp.take(x, np.asarray([3, 0]), axis=-1) ** 2),
    # selection
    "where": (V, lambda xp, x: xp.where(x > 0.1, x**3, xp.exp(x))),
    "where constant": (V, lambda xp, x: xp.where(x < 0.0, 0.0, x**2)),
    "where constants": (V, lambda xp, x: x * xp.where(x < 0.0, 2.0, 3.0) * x),
    "where broadcast": (M, lambda xp, x: xp.where(x[:1] > x[:, :1], x * x, x[0])),
    "where fixed mask": (V, lambda xp, x: xp.where(np.asarray([True, False, True]), x * x, x)),
    "logical": (
        V,
        lambda xp, x: xp.where(
            xp.logical_and(x > -1.0, xp.logical_not(x >= 1.0)) | (x == 5.0), x**2, x
        ),
    ),
    "operators on masks": (
        V,
        lambda xp, x: xp.where(~((x > 0.0) & (x < 1.0)) ^ (x > 2.0), x * x, x),
    ),
    "comparison functions": (
        V,
        lambda xp, x: xp.where(
            xp.logical_or(
                xp.logical_xor(xp.less(x, 0.0), xp.greater(x, 1.0)),
                xp.logical_and(
                    xp.not_equal(x, 2.0),
                    xp.logical_and(xp.less_equal(x, 9.0), xp.greater_equal(x, 0.5)),
                ),
            ),
            xp.where(xp.equal(x, 1.0), x, x**3),
            x,
        ),
    ),
    "isnan": (V, lambda xp, x: xp.where(xp.isnan(x), 0.0, x * x)),
    "maximum": (V, lambda xp, x: xp.maximum(x * x, 0.3) * x),
    "maximum of two": (M, lambda xp, x: xp.maximum(x[0] ** 2, x[1] ** 3)),
    "minimum": (V, lambda xp, x: xp.minimum(x**3, 0.3 * x) * x),
    "minimum constant left": (V, lambda xp, x: xp.minimum(0.5, x**2)),
    "clip": (V, lambda xp, x: xp.clip(x * x, 0.1, 1.2)),
    "clip below": (V, lambda xp, x: xp.clip(x**3, min=-0.2)),
    "clip above": (V, lambda xp, x: xp.clip(x**3, max=0.2)),
    "clip by x": (M, lambda xp, x: xp.clip(x[0] ** 2, max=x[1] ** 2)),
    "sign": (V, lambda xp, x: xp.sign(x) * x**3),
    "floor": (V, lambda xp, x: xp.floor(x) * x**2),
    "ceil": (V, lambda xp, x: xp.ceil(x) * x**2),
    "round": (V, lambda xp, x: xp.round(x) * x**2),
    "remainder": (V, lambda xp, x: (x % 0.7) * x + xp.remainder(x**2, 0.4)),
    "remainder by x": (V, lambda xp, x: 5.0 % (2.0 + x * x) + x[0] % (1.0 + x * x)),
    "floor_divide": (V, lambda xp, x: (x // 0.7) * x**2 + xp.floor_divide(x, 0.4) * x),
    "trunc": (V, lambda xp, x: xp.trunc(x) * x**2),
    # elementary functions
    **{
        name: (V, lambda xp, x, name=name: getattr(xp, name)(x) * xp.sin(x))
        for name in "exp expm1 sin cos tan sinh cosh tanh asinh atan square".split()
    },
    **{
        name: ("+V", lambda xp, x, name=name: getattr(xp, name)(x) * xp.sin(x))
        for name in "log log1p log2 log10 sqrt reciprocal".split()
    },
    **{
        name: (V, lambda xp, x, name=name: getattr(xp, name)(0.9 * xp.sin(x)) * x)
        for name in "asin acos atanh".split()
    },
    "acosh": ("+V", lambda xp, x: xp.acosh(x + 1.0) * x),
    "erf": (V, lambda xp, x: (xp.erf if hasattr(xp, "erf") else jax.scipy.special.erf)(x) * x),
    "erfc": (V, lambda xp, x: (xp.erfc if hasattr(xp, "erfc") else jax.scipy.special.erfc)(x) * x),
    "logaddexp": (M, lambda xp, x: xp.logaddexp(3.0 * x[0], x[1])),
    "logaddexp constant": (V, lambda xp, x: xp.logaddexp(x, 0.2)),
    "logaddexp constant left": (V, lambda xp, x: xp.logaddexp(1.0, x * x)),
    "hypot": (M, lambda xp, x: xp.hypot(x[0], x[1])),
    "hypot constant": (V, lambda xp, x: xp.hypot(x, 1.3)),
    "atan2": (M, lambda xp, x: xp.atan2(x[0], x[1])),
    "atan2 constant": (V, lambda xp, x: xp.atan2(x, -1.5) + xp.atan2(0.7, x)),
    "stop_gradient": (
        V,
        lambda xp, x: (
            x * (xp.stop_gradient if hasattr(xp, "stop_gradient") else jax.lax.stop_gradient)(x * x)
        ),
    ),
    # making constants
    "zeros_like": (V, lambda xp, x: xp.zeros_like(x) + x**2 + xp.ones_like(x) * x),
    "full_like": (M, lambda xp, x: xp.full_like(x, 2.5) * x**2),
    "creation": (
        V,
        lambda xp, x: (
            x @ (xp.eye(3) + xp.tril(xp.ones((3, 3))) + xp.triu(xp.full((3, 3), 0.5))) * x
            + x * xp.arange(3) * xp.linspace(0.0, 1.0, 3)
            + xp.zeros(3)
        ),
    ),
    "astype": (V, lambda xp, x: xp.astype(x, xp.float64) * xp.astype(x > 0.0, xp.float64) * x),
    "asarray": (V, lambda xp, x: xp.asarray(x) * x * xp.asarray([1.0, 2.0, 3.0])),
    "numbers of xp": (V, lambda xp, x: x**2 * xp.pi + x * xp.e),
    # what networks are made of
    "gated unit": (V, lambda xp, x: (x @ A) * (1.0 / (1.0 + xp.exp(-(x @ T[0])))) @ A.T),
    "softmax": (
        V,
        lambda xp, x: (lambda w: w / xp.sum(w))(xp.exp(x - xp.max(x))),
    ),
    "attention": (
        (4, 3),
        lambda xp, x: (lambda w: (w / xp.sum(w, axis=-1, keepdims=True)) @ (x @ S))(
            xp.exp((x @ S) @ xp.matrix_transpose(x @ S.T) / math.sqrt(3.0))
        ),
    ),
    "layer norm": (
        (4,),
        lambda xp, x: (x - xp.mean(x)) / xp.sqrt(xp.var(x) + 1e-5) * A[0] + A[1],
    ),
    "rational": ("+V", lambda xp, x: (x[0] * x + 1.0) / (x[1] ** 2 + x * x[2] + 0.5)),
    "product chain": ((6,), lambda xp, x: x[0] * x[1] * x[2] * x[3] * x[4] * x[5] * x[0]),
    "products of products": (V, lambda xp, x: (x * x[0]) * (x * x[1]) * ((x * x[2]) * (x * x))),
    "deep chain": (
        V,
        lambda xp, x: (lambda f: f(f(f(f(f(f(f(f(x)))))))))(lambda u: xp.sin(u * x) + u),
    ),
    "deep powers": (V, lambda xp, x: ((((x * x) * x) * (x * x)) * x) * (x * x * x)),
    "shared": (
        V,
        lambda xp, x: (lambda u: u * u + xp.exp(u) * u + (u @ u) * x)(xp.tanh(x @ S)),
    ),
    "distance": (M, lambda xp, x: xp.sqrt(xp.sum((x[0] - x[1]) ** 2)) ** -1),
    "determinant": (
        (2, 2),
        lambda xp, x: xp.log(x[0, 0] ** 2 * x[1, 1] ** 2 + (x[0, 1] * x[1, 0]) ** 2),
    ),
    "norm of norms": (R3, lambda xp, x: xp.sqrt(xp.sum(xp.sqrt(xp.sum(x * x, axis=-1)) ** 3))),
    "log sum exp": (V, lambda xp, x: xp.log(xp.sum(xp.exp(x @ A))) * x),
    # degenerate outputs
    "constant output": (V, lambda xp, x: xp.asarray([1.0, 2.0])),
    "constant of x": (V, lambda xp, x: x * 0.0 + 3.0),
    "difference of equals": (V, lambda xp, x: x - x + xp.exp(x) - xp.exp(x)),
    "linear output": (V, lambda xp, x: x @ A + 2.0),
    "identity": (M, lambda xp, x: x),
    "partly constant": (V, lambda xp, x: xp.stack([x[0] ** 2, xp.asarray(2.0), x[1]])),
    "some inputs unused": ((5,), lambda xp, x: x[1] ** 3 * x[3]),
    "scalar output": (V, lambda xp, x: xp.sum(xp.sin(x) * x)),
    "scalar input": ((), lambda xp, x: xp.sin(x) * x),
    "scalar input to vector": ((), lambda xp, x: xp.exp(x * C)),
    "matrix output": (M, lambda xp, x: xp.sin(x)[:, :, None] * x[0]),
    "one by one": ((1,), lambda xp, x: xp.sin(x) ** 2),
    "wide": ((40,), lambda xp, x: xp.tanh(x[:20]) * x[20:] @ normal(3, 20, 2)),
}

SHAPES = {"+V": V, "+M": M}


def case(name, seed=40):
    shape, code = CODE[name]
    draw = normal
    if isinstance(shape, str):
        shape, draw = SHAPES[shape], positive
    return shape, code, draw(seed, N, *shape)


def ours(shape, code):
    return ha.Function(lambda x: code(x.__array_namespace__(), x), in_shape=shape)


@pytest.mark.parametrize("name", CODE)
def test_code_against_jax(name):
    shape, code, x = case(name)
    truth = jax_truth(lambda u: jnp.asarray(code(jnp, u)), x)
    f = ours(shape, code)
    for mode in (None, True, False):
        got = f.value_gradient_hessian(x, forward_mode=mode)
        for a, b, what in zip(got, truth, ("value", "gradient", "Hessian"), strict=True):
            assert_close(a, b, 1e-12, f"{what} of {name}, forward_mode {mode}", "jax float64")
    out = truth.f.shape[1:]
    d = math.prod(shape)
    flat = truth.d2f.reshape(N, d, d, *out)
    trace = np.einsum("naa...->n...", flat)[:, None]
    diagonal = np.einsum("naa...->na...", flat).reshape(truth.df.shape)
    p = normal(41, *x.shape)
    product = np.einsum("nab...,nb->na...", flat, p.reshape(N, d)).reshape(truth.df.shape)
    lam = normal(42, *out)
    weighted = truth.d2f.reshape(N, *shape, *shape, -1) @ lam.reshape(-1)
    scale = np.abs(truth.d2f).max() or 1.0  # a trace may cancel
    for got, want, what in [
        (f.laplacian(x), trace, "Laplacian"),
        (f.hessian_diagonal(x), diagonal, "diagonal"),
        (f.hvp(x, p), product, "hvp"),
        (f.weighted_hessian(x, lam), weighted, "weighted Hessian"),
    ]:
        size = np.abs(want).max() if want.size else 0.0
        tol = 1e-12 * max(1.0, scale / size) if size else 1e-12 * scale
        assert_close(got, want, tol, f"{what} of {name}", "jax float64")


@pytest.mark.parametrize(
    "name",
    ["gated unit", "softmax", "attention", "layer norm", "rational", "shared", "log sum exp",
     "hypot", "atan2", "logaddexp", "pow variable", "matmul batched", "products of products",
     "wide"],
)  # fmt: skip
def test_code_in_float32(name):
    shape, code, x = case(name)
    x = x.astype(np.float32)
    truth = jax_truth(lambda u: jnp.asarray(code(jnp, u)), x)
    got = ours(shape, code).value_gradient_hessian(x)
    for a, b, what in zip(got, truth, ("value", "gradient", "Hessian"), strict=True):
        assert a.dtype == np.float32
        assert_close(a, b, 2e-5, f"{what} of {name}", "jax float32")


def test_every_function_of_the_namespace_is_in_some_code():
    tree = ast.parse(inspect.getsource(inspect.getmodule(test_code_against_jax)))
    called = {node.attr for node in ast.walk(tree) if isinstance(node, ast.Attribute)}
    called |= {word for name in CODE for word in name.split()}
    assert set(namespace.FUNCTIONS) <= called


# ---- several inputs ----------------------------------------------------------------------------

SEVERAL = {
    "two vectors": (((3,), (2,)), lambda xp, x, y: xp.sin(x)[:, None] * xp.exp(y)),
    "three of any shape": (
        ((2, 3), (3,), ()),
        lambda xp, x, y, z: xp.tanh(x @ (y * z)) * z + xp.sum(x, axis=1),
    ),
    "bilinear": (((3,), (4,)), lambda xp, x, y: x @ A @ y),
    "second unused": (((3,), (2,)), lambda xp, x, y: x**3),
    "first unused": (((3,), (2,)), lambda xp, x, y: y[0] * y**2),
    "both unused": (((2,), (2,)), lambda xp, x, y: xp.asarray([1.0, 2.0])),
    "linear in one": (((3,), (3,)), lambda xp, x, y: xp.exp(x) * y),
    "additive": (((2,), (2,)), lambda xp, x, y: x**3 + y**2),
    "scalar output": (((2, 2), (2,)), lambda xp, x, y: y @ x @ xp.exp(y)),
    "matrix times matrix": (((2, 3), (3, 2)), lambda xp, x, y: (x @ y) ** 2),
    "weights as an input": (
        ((3,), (3, 4), (4,)),
        lambda xp, u, K, b: xp.tanh(u @ K + b),
    ),
}


@pytest.mark.parametrize("name", SEVERAL)
def test_several_inputs(name):
    shapes, code = SEVERAL[name]
    xs = [normal(50 + i, *s) for i, s in enumerate(shapes)]
    f, df, d2f = jax_truth_of(lambda *u: jnp.asarray(code(jnp, *u)), *xs)
    fn = ha.Function(lambda *u: code(u[0].__array_namespace__(), *u), in_shape=shapes)
    assert fn.in_shapes == shapes
    assert fn.out_shape == f.shape
    assert_close(fn(*xs), f, 1e-13, "value", "jax float64")
    for mode in (None, True, False):
        gradient = fn.gradient(*xs, forward_mode=mode)
        hessian = fn.hessian(*xs, forward_mode=mode)
        for i, block in enumerate(df):
            assert_close(gradient[i], block, 1e-12, f"gradient {i}", "jax float64")
            for j, second in enumerate(d2f[i]):
                assert_close(hessian[i][j], second, 1e-12, f"Hessian {i} {j}", "jax float64")
    ps = [normal(60 + i, *s) for i, s in enumerate(shapes)]
    products = fn.hvp(*xs, *ps)
    diagonal = fn.hessian_diagonal(*xs)
    trace = 0.0
    for i, s in enumerate(shapes):
        d = math.prod(s)
        want = sum(
            np.tensordot(p.reshape(-1), d2f[i][j].reshape(d, p.size, *f.shape), axes=(0, 1))
            for j, p in enumerate(ps)
        )
        assert_close(products[i], want.reshape(df[i].shape), 1e-12, f"hvp {i}", "jax float64")
        own = np.einsum("aa...->a...", d2f[i][i].reshape(d, d, *f.shape))
        assert_close(diagonal[i], own.reshape(df[i].shape), 1e-12, f"diagonal {i}", "jax float64")
        trace = trace + own.sum(axis=0)
    assert_close(fn.laplacian(*xs)[0], trace, 1e-12, "Laplacian", "jax float64")
    lam = normal(70, *f.shape)
    weighted = fn.weighted_hessian(*xs, lam)
    for i, s in enumerate(shapes):
        for j, t in enumerate(shapes):
            want = d2f[i][j].reshape(*s, *t, -1) @ lam.reshape(-1)
            assert_close(weighted[i][j], want, 1e-12, f"weighted {i} {j}", "jax float64")


def test_several_inputs_with_a_batch():
    shapes, code = SEVERAL["three of any shape"]
    xs = [normal(80 + i, 5, 2, *s) for i, s in enumerate(shapes)]
    fn = ha.Function(lambda *u: code(u[0].__array_namespace__(), *u), in_shape=shapes)
    got = fn.hessian(*xs)
    gradient = fn.gradient(*xs)
    for n in np.ndindex(5, 2):
        _, df, d2f = jax_truth_of(lambda *u: code(jnp, *u), *(x[n] for x in xs))
        for i in range(3):
            assert_close(gradient[i][n], df[i], 1e-12, "gradient", "jax float64")
            for j in range(3):
                assert_close(got[i][j][n], d2f[i][j], 1e-12, "Hessian", "jax float64")


# ---- layers against autodiff, beside hessQuik --------------------------------------------------


def test_network_against_jax_and_finite_differences():
    net = randomized(
        ha.Network(
            ha.Dense(3, 6, act="antitanh"), ha.Residual(6, h=0.7, act="gelu"), ha.Quadratic(6, 3)
        ),
        seed=90,
        scale=0.5,
    )
    K, b, K1, b1, v, A2, mu = (net.parameters()[k] for k in (
        "0.K", "0.b", "1.K", "1.b", "2.v", "2.A", "2.mu"))  # fmt: skip

    def fn(u):
        u = jnp.logaddexp(u @ K + b, -(u @ K + b))
        u = u + 0.7 * jax.nn.gelu(u @ K1 + b1, approximate=False)
        return jnp.reshape(u @ v + 0.5 * jnp.sum((A2 @ u) ** 2), (1,)) + mu

    x = normal(91, N, 3)
    truth = jax_truth(fn, x)
    got = net.value_gradient_hessian(x)
    for a, b, what in zip(got, truth, ("value", "gradient", "Hessian"), strict=True):
        assert_close(a, b, 1e-12, what, "jax float64")
    from compare import finite_differences

    assert_close(got.df, finite_differences(net.value, x), 1e-8, "gradient", "differences")
    assert_close(got.d2f, finite_differences(net.gradient, x), 1e-8, "Hessian", "differences")
