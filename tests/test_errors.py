"""Bad input: one sentence that names the value, what is expected and the mend; a typed error."""

from __future__ import annotations

import inspect
import math
import re

import numpy as np
import pytest
from compare import normal

import hessarray as ha


def net(d=3, m=2):
    return ha.Network(ha.Dense(d, 4, act="tanh"), ha.Dense(4, m, act="softplus"))


def function(code, *shapes):
    return ha.Function(code, in_shape=shapes if shapes else (3,))


X = normal(0, 4, 3)


def raised(call, kind):
    """The message of the error of this kind; it is a HessarrayError and reads as one sentence."""
    with pytest.raises(kind) as caught:
        call()
    message = str(caught.value)
    assert isinstance(caught.value, ha.HessarrayError), f"{type(caught.value)}: {message}"
    assert one_sentence(message), message
    return message


def one_sentence(message):
    text = re.sub(r"\(at .*\)$", "", message)  # the line of the user's code is quoted as it is
    return (
        len(text) > 20
        and "\n" not in message
        and not re.search(r"[.!?]\s+[A-Z]", text)
        and not text.rstrip().endswith((".", ":", ",", ";"))
        and not re.search(r"\bNone\b(?!\])", text)
    )


# What is called -> (call, kinds of error, what the message must contain).
CALLS = {
    # x
    "width": (lambda: net()(np.zeros((4, 5))), (ha.ShapeError, ValueError), ["(4, 5)", "(..., 3)"]),
    "one sample's width": (lambda: net()(np.zeros(5)), ha.ShapeError, ["(5,)", "(..., 3)"]),
    "rank": (lambda: net()(np.zeros(())), ha.ShapeError, ["()", "(..., 3)"]),
    "rank of a matrix input": (
        lambda: function(lambda x: x, (2, 3))(np.zeros((4, 3))),
        ha.ShapeError,
        ["(4, 3)", "(..., 2, 3)", "2 axes"],
    ),
    "int x": (
        lambda: net()(np.zeros((4, 3), dtype=int)),
        (ha.DTypeError, TypeError),
        ["int64", "float64", "astype"],
    ),
    "complex x": (lambda: net()(np.zeros((4, 3), complex)), ha.DTypeError, ["complex128"]),
    "half x": (lambda: net()(np.zeros((4, 3), np.float16)), ha.DTypeError, ["float16"]),
    "long double x": (
        lambda: net()(np.zeros((4, 3), np.longdouble)),
        ha.DTypeError,
        [np.dtype(np.longdouble).name],
    ),
    "bool x": (lambda: net()(np.zeros((4, 3), bool)), ha.DTypeError, ["bool"]),
    "object x": (lambda: net()(np.zeros((4, 3), object)), ha.DTypeError, ["object"]),
    "list x": (
        lambda: net()([[1.0, 2.0, 3.0]]),
        (ha.BackendError, TypeError),
        ["list", "numpy", "torch"],
    ),
    "tuple x": (lambda: net()((1.0, 2.0, 3.0)), ha.BackendError, ["tuple", "numpy"]),
    "number x": (lambda: net()(1.0), ha.BackendError, ["float", "numpy"]),
    "no x": (lambda: net()(None), ha.BackendError, ["NoneType", "numpy"]),
    "two inputs for one": (lambda: function(lambda x: x)(X, X), ha.ShapeError, ["1 input", "2"]),
    "one input for two": (
        lambda: function(lambda x, y: x, (3,), (3,))(X),
        ha.ShapeError,
        ["2 inputs", "1"],
    ),
    "inputs of two batches": (
        lambda: function(lambda x, y: x * y, (3,), (3,))(X, X[:2]),
        ha.ShapeError,
        ["(4,)", "(2,)"],
    ),
    "inputs of two dtypes": (
        lambda: function(lambda x, y: x * y, (3,), (3,))(X, X.astype(np.float32)),
        ha.BackendError,
        ["float64", "float32"],
    ),
    # directions
    "v too wide": (
        lambda: net()(X, do_gradient=True, v=np.zeros((2, 5)), forward_mode=True),
        ha.ShapeError,
        ["(2, 5)", "(k, 3)", "forward_mode=True"],
    ),
    "v on the wrong side": (
        lambda: net(m=5)(X, do_gradient=True, v=np.zeros((3, 3)), forward_mode=False),
        ha.ShapeError,
        ["(3, 3)", "(5, k)", "forward_mode=False"],
    ),
    "v that fits both sides": (
        lambda: net(m=3)(X, do_gradient=True, v=np.zeros((3, 3))),
        ha.ShapeError,
        ["(3, 3)", "forward_mode=True", "forward_mode=False"],
    ),
    "v that fits neither side": (
        lambda: net()(X, do_gradient=True, v=np.zeros((5, 7))),
        ha.ShapeError,
        ["(5, 7)", "(k, 3)", "(2, k)"],
    ),
    "v of one axis": (
        lambda: net()(X, do_gradient=True, v=np.zeros(3), forward_mode=True),
        ha.ShapeError,
        ["(3,)", "(k, 3)"],
    ),
    "no direction at all": (
        lambda: net()(X, do_gradient=True, v=np.zeros((0, 3)), forward_mode=True),
        ha.ShapeError,
        ["(0, 3)"],
    ),
    "v as a word": (
        lambda: net()(X, do_gradient=True, v="abc", forward_mode=True),
        ha.HessarrayError,
        ["v"],
    ),
    "p": (lambda: net().hvp(X, np.zeros(5)), ha.ShapeError, ["(5,)", "(3,)", "(4, 3)"]),
    "no p": (lambda: net().hvp(X), ha.ShapeError, ["1 input", "1 direction", "1 array"]),
    "lam": (
        lambda: net().weighted_hessian(X, np.zeros(5)),
        ha.ShapeError,
        ["(5,)", "(2,)", "(4, 2)"],
    ),
    # networks and layers
    "empty network": (lambda: ha.Network(), (ha.ShapeError, ValueError), ["layer", "Dense"]),
    "layers that do not fit": (
        lambda: ha.Network(ha.Dense(3, 64), ha.Residual(32)),
        (ha.ShapeError, ValueError),
        ["layer 1 (Residual)", "32", "layer 0 (Dense)", "64"],
    ),
    "networks that do not fit": (
        lambda: ha.Network(net(m=5), ha.Quadratic(7, 2)),
        ha.ShapeError,
        ["Quadratic", "7", "Network", "5"],
    ),
    "no widths": (lambda: ha.fully_connected([3]), ha.ShapeError, ["[3]", "two"]),
    "no depth": (lambda: ha.resnet(3, 0), ha.ShapeError, ["0", "one"]),
    "no icnn widths": (lambda: ha.icnn(3, [None]), ha.ShapeError, ["one or more"]),
    "width zero": (lambda: ha.Dense(0, 3), ha.ShapeError, ["in_features=0", "positive"]),
    "width negative": (lambda: ha.Dense(3, -1), ha.ShapeError, ["out_features=-1", "positive"]),
    "width a float": (lambda: ha.Dense(3, 2.5), ha.ShapeError, ["2.5", "integer"]),
    "activation": (
        lambda: ha.Dense(3, 2, act="tahn"),
        (ha.UnknownActivationError, ValueError),
        ["'tahn'", "did you mean 'tanh'"],
    ),
    "activation of nothing": (
        lambda: ha.Dense(3, 2, act="zzzzz"),
        ha.UnknownActivationError,
        ["'zzzzz'", "tanh", "softplus"],
    ),
    # functions
    "in_shape of zero": (lambda: function(lambda x: x, (0,)), ha.ShapeError, ["0", "(3,)"]),
    "in_shape negative": (lambda: function(lambda x: x, (-2,)), ha.ShapeError, ["-2"]),
    "in_shape a word": (
        lambda: ha.Function(lambda x: x, in_shape="abc"),
        ha.ShapeError,
        ["'abc'", "(3,)"],
    ),
    "in_shape a float": (
        lambda: ha.Function(lambda x: x, in_shape=(3.5,)),
        ha.ShapeError,
        ["3.5", "(3,)"],
    ),
    "returns a list": (
        lambda: function(lambda x: [x, x])(X),
        ha.ShapeError,
        ["2 arrays", "xp.concat", "xp.stack"],
    ),
    "returns a tuple": (lambda: function(lambda x: (x, x, x))(X), ha.ShapeError, ["3 arrays"]),
    "returns nothing": (
        lambda: function(lambda x: print(end=""))(X), ha.HessarrayError, ["return"]
    ),
    "returns a word": (lambda: function(lambda x: "abc")(X), ha.HessarrayError, ["str"]),
    "returns a dict": (lambda: function(lambda x: {"a": x})(X), ha.HessarrayError, ["dict"]),
    # parameters and devices
    "library": (
        lambda: net().to("tensorflow"),
        (ha.BackendError, TypeError),
        ["'tensorflow'", "numpy", "torch", "jax"],
    ),
    "dtype of to": (lambda: net().to("numpy", dtype="float16"), ha.DTypeError, ["'float16'"]),
    "parameter name": (
        lambda: net().load_parameters({**net().parameters(), "0.k": np.zeros(2)}),
        (ha.ParameterError, KeyError),
        ["'0.k'", "did you mean", "0.K"],
    ),
    "parameters= name": (
        lambda: net().value(X, parameters={"0.K": np.zeros((3, 4))}),
        ha.ParameterError,
        ["missing", "0.b"],
    ),
    # memory
    "memory of a Hessian": (
        lambda: net().hessian(np.zeros((1000, 3)), memory_limit=50_000),
        (ha.MemoryLimitError, MemoryError),
        ["hessian of 1000 samples", "144,000", "50,000", "hvp(x, p)", "laplacian(x)"],
    ),
    "memory of a value": (
        lambda: net().value(np.zeros((1000, 3)), memory_limit=100),
        ha.MemoryLimitError,
        ["value of 1000 samples", "16,000", "100", "fewer samples"],
    ),
    "memory of one sample": (
        lambda: net().laplacian(np.zeros((1, 3)), memory_limit=20),
        ha.MemoryLimitError,
        ["laplacian of 1 sample", "20"],
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", CALLS)
def test_bad_calls(name):
    call, kinds, words = CALLS[name]
    for kind in kinds if isinstance(kinds, tuple) else (kinds,):
        message = raised(call, kind)
        for word in words:
            assert word in message, f"{word!r} is not in: {message}"


# Plain Python errors: a wrong type or option of a call, not of the mathematics.
PYTHON = {
    "option": (lambda: net().value(X, thread=2), TypeError, ["'thread'", "threads"]),
    "limit of zero": (lambda: net().value(X, memory_limit=0), ValueError, ["memory_limit=0"]),
    "threads of zero": (lambda: net().value(X, threads=0), ValueError, ["threads=0"]),
    "not a function": (lambda: ha.Function(3, in_shape=(3,)), TypeError, ["int", "function"]),
    "not a layer": (
        lambda: ha.Network(ha.Dense(3, 2), lambda u: u),
        TypeError,
        ["layer 1", "function", "hessarray.Function"],
    ),
    "not an activation": (lambda: ha.Dense(3, 2, act=3), TypeError, ["3", "activation"]),
    "parameter of an activation": (
        lambda: ha.activation("tanh", beta=2.0),
        TypeError,
        ["tanh", "beta"],
    ),
    "want": (lambda: net().plan(want="hessain"), ValueError, ["hessain", "hessian"]),
    "two second derivatives": (
        lambda: net().plan(want=("hessian", "laplacian")),
        ValueError,
        ["at most one"],
    ),
}


@pytest.mark.parametrize("name", PYTHON)
def test_bad_python(name):
    call, kind, words = PYTHON[name]
    with pytest.raises(kind) as caught:
        call()
    message = str(caught.value)
    assert one_sentence(message), message
    for word in words:
        assert word in message


def test_arrays_of_another_library_than_the_pinned_one():
    jax = pytest.importorskip("jax")
    pinned = net().to("jax")
    message = raised(lambda: pinned(X), ha.BackendError)
    for word in ("numpy", "pinned to jax", "to('numpy')"):
        assert word in message
    inputs = function(lambda x, y: x * y, (3,), (3,))
    message = raised(lambda: inputs(X, jax.numpy.asarray(X)), ha.BackendError)
    assert "numpy" in message
    assert "jax" in message


@pytest.mark.backends("torch", "jax", "strict", "cupy")
def test_dtypes_of_other_libraries(backend):
    for dtype in ("int64", "complex128"):
        x = backend.asarray(np.zeros((4, 3)), dtype)
        message = raised(lambda x=x: net()(x), ha.DTypeError)
        assert dtype in message
        assert "float64" in message


def test_half_precision_of_torch():
    torch = pytest.importorskip("torch")
    for dtype in (torch.float16, torch.bfloat16):
        message = raised(lambda d=dtype: net()(torch.zeros((4, 3), dtype=d)), ha.DTypeError)
        assert str(dtype).removeprefix("torch.") in message


# ---- code that cannot be traced ----------------------------------------------------------------


def branch(xp, x):
    return x if x[0] > 0.0 else -x


def to_float(xp, x):
    return x * float(x[0])


def to_int(xp, x):
    return x * int(x[0])


def from_math(xp, x):
    return x * math.sin(x[0])


def as_index(xp, x):
    return x * range(5)[x[0]]


def numpy_sort(xp, x):
    return np.sort(x)


def numpy_norm(xp, x):
    return x / np.linalg.norm(x)


def numpy_asarray(xp, x):
    return np.asarray(x) * 2.0


def numpy_reduce(xp, x):
    return np.add.reduce(x)


def numpy_into(xp, x):
    return np.exp(x, out=np.zeros(3))


def method(xp, x):
    return x.sum()


def reshape_method(xp, x):
    return x.reshape(3, 1)


def mask(xp, x):
    return x[x > 0.0]


def fixed_mask(xp, x):
    return x[np.asarray([True, False, True])]


def traced_take(xp, x):
    return xp.take(x, x, axis=0)


def unknown_function(xp, x):
    return xp.sort(x)


def misspelt_function(xp, x):
    return xp.tahn(x)


def linalg(xp, x):
    return xp.linalg.norm(x)


def assign(xp, x):
    x[0] = 1.0
    return x


def built_in_max(xp, x):
    return x * max(x)


def sorted_entries(xp, x):
    return xp.stack(sorted(x))


def to_int_dtype(xp, x):
    return xp.astype(x, xp.int64)


def complex_constant(xp, x):
    return x * 2j


def word_constant(xp, x):
    return x + "a"


def implicit_einsum(xp, x):
    return xp.einsum("i,i", x, x)


def diagonal_einsum(xp, x):
    return xp.einsum("ii->i", xp.stack([x, x, x]))


def logic_on_numbers(xp, x):
    return xp.where(xp.logical_and(x, x), x, 0.0)


def where_on_numbers(xp, x):
    return xp.where(x, x, 0.0)


def a_loop(xp, x):
    while x[0] < 3.0:
        x = x + 1.0
    return x


UNTRACEABLE = {
    # code -> what the message names besides the line
    branch: ["bool(x)", "xp.where"],
    to_float: ["float(x)"],
    to_int: ["int(x)"],
    from_math: ["float(x)"],
    as_index: ["index"],
    numpy_sort: ["np.sort"],
    numpy_norm: ["norm"],
    numpy_asarray: ["np.asarray(x)", "xp"],
    numpy_reduce: ["np.add.reduce"],
    numpy_into: ["np.exp"],
    method: ["x.sum", "xp.sum(x"],
    reshape_method: ["x.reshape", "xp.reshape(x"],
    mask: ["x[mask]", "xp.where"],
    fixed_mask: ["mask"],
    traced_take: ["take"],
    unknown_function: ["xp.sort"],
    misspelt_function: ["xp.tahn"],
    linalg: ["xp.linalg"],
    assign: ["x[...] = value", "xp.where"],
    built_in_max: ["bool(x)"],
    sorted_entries: ["bool(x)"],
    to_int_dtype: ["astype", "int64"],
    complex_constant: ["complex"],
    word_constant: ["<U1", "real"],
    implicit_einsum: ["einsum('i,i')", "->"],
    diagonal_einsum: ["einsum('ii->i')"],
    logic_on_numbers: ["logical", "x > 0"],
    where_on_numbers: ["x > 0"],
    a_loop: ["bool(x)"],
}


def trace(code):
    f = ha.Function(lambda x: code(x.__array_namespace__(), x), in_shape=(3,))
    return lambda: f.hessian(X)


def line_of(code, message):
    """The message names this file and a line of the code."""
    lines, first = inspect.getsourcelines(code)
    found = re.search(r"test_errors\.py:(\d+): (.*)\)$", message)
    assert found, f"no line of the user's code in: {message}"
    number = int(found[1])
    assert first < number < first + len(lines), message
    assert found[2] == lines[number - first].strip()


@pytest.mark.parametrize("code", UNTRACEABLE, ids=lambda c: c.__name__)
def test_untraceable_code_names_the_call_and_the_line(code):
    message = raised(trace(code), (ha.TraceError, TypeError))
    for word in UNTRACEABLE[code]:
        assert word in message, f"{word!r} is not in: {message}"
    line_of(code, message)


def batch_axis(xp, x):
    return xp.sum(x, axis=1)


def negative_axis(xp, x):
    return xp.sum(x, axis=-2)


def batch_index(xp, x):
    return x[:, 0]


def beyond(xp, x):
    return x[3]


def beyond_array(xp, x):
    return x[np.asarray([0, 5])]


def many_indices(xp, x):
    return x[..., 0, 1]


def broadcasting(xp, x):
    return x + np.zeros(4)


def product(xp, x):
    return x @ np.zeros((4, 2))


def scalar_product(xp, x):
    return x[0] @ x


def reshaping(xp, x):
    return xp.reshape(x, (2, 2))


def growing(xp, x):
    return xp.broadcast_to(x, (2, 4))


def joining(xp, x):
    return xp.concat([x[None, :], xp.stack([x[:2], x[:2]])], axis=0)


def stacking(xp, x):
    return xp.stack([x, x[:2]])


def squeezing(xp, x):
    return xp.squeeze(x, axis=0)


def transposing(xp, x):
    return xp.matrix_transpose(x)


def sums(xp, x):
    return xp.einsum("ij,j->i", x, x)


def lengths(xp, x):
    return xp.einsum("i,i->i", x, x[:2])


def permuting(xp, x):
    return xp.permute_dims(x, (1, 0))


def contracting(xp, x):
    return xp.tensordot(x, np.zeros((4, 2)), axes=1)


MISSHAPEN = {
    batch_axis: ["axis 1", "batch axis"],
    negative_axis: ["axis -2", "batch axis"],
    batch_index: ["x[:, 0]", "(3,)", "batch axis"],
    beyond: ["3", "length 3", "batch axis"],
    beyond_array: ["5", "length 3"],
    many_indices: ["2 indices", "(3,)"],
    broadcasting: ["(3,)", "(4,)", "broadcast"],
    product: ["(3,)", "(4, 2)", "matmul"],
    scalar_product: ["matmul", "*"],
    reshaping: ["reshape", "(3,)", "(2, 2)"],
    growing: ["broadcast", "(3,)", "(2, 4)"],
    joining: ["concat", "(1, 3)", "(2, 2)"],
    stacking: ["(3,)", "(2,)"],
    squeezing: ["squeeze", "axis 0", "3"],
    transposing: ["matrix_transpose", "(3,)"],
    sums: ["'ij'", "(3,)"],
    lengths: ["3", "2"],
    permuting: ["axis 1"],
    contracting: ["3", "4"],
}


@pytest.mark.parametrize("code", MISSHAPEN, ids=lambda c: c.__name__)
def test_shapes_that_do_not_fit_name_the_shapes_and_the_line(code):
    message = raised(trace(code), ha.HessarrayError)
    for word in MISSHAPEN[code]:
        assert word in message, f"{word!r} is not in: {message}"
    line_of(code, message)


def test_indices_beyond_the_end_are_index_errors():
    """So that old-style iteration over a traced array ends."""
    for code in (beyond, beyond_array, batch_index):
        with pytest.raises(IndexError):
            trace(code)()


def test_hasattr_works_on_traced_arrays():
    def code(x):
        assert not hasattr(x, "sum")
        assert not hasattr(x.__array_namespace__(), "sort")
        return x * x

    np.testing.assert_array_equal(function(code)(X), X * X)


def test_a_failing_function_fails_again_and_leaves_no_trace():
    calls = []

    def code(x):
        calls.append(1)
        if len(calls) < 2:
            raise RuntimeError("not yet")
        return x * x

    f = function(code)
    with pytest.raises(RuntimeError, match="not yet"):
        f.hessian(X)
    assert f.hessian(X).shape == (4, 3, 3, 3)


def test_a_layer_that_returns_another_width():
    class Wrong(ha.Layer):
        def __call__(self, u):
            return u[:2]

    model = ha.Network(ha.Dense(3, 4), Wrong(4, 4))
    message = raised(lambda: model(X), ha.ShapeError)
    for word in ("layer 1", "Wrong", "(2,)", "(4,)"):
        assert word in message


def test_a_layer_without_code():
    model = ha.Network(ha.Layer(3, 3))
    with pytest.raises(NotImplementedError, match="__call__"):
        model(X)


def test_errors_derive_from_what_a_caller_would_catch():
    for kind, builtin in {
        ha.ShapeError: ValueError,
        ha.DTypeError: TypeError,
        ha.BackendError: TypeError,
        ha.TraceError: TypeError,
        ha.MemoryLimitError: MemoryError,
        ha.ParameterError: KeyError,
        ha.LoadError: ValueError,
        ha.UnknownActivationError: ValueError,
    }.items():
        assert issubclass(kind, builtin)
        assert issubclass(kind, ha.HessarrayError)
