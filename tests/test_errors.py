"""Bad input: one sentence that names the value, what is expected and the mend; a typed error."""

from __future__ import annotations

import inspect
import math
import re

import numpy as np
import pytest
from compare import normal

import hessarray as ha
from hessarray import errors
from hessarray._arguments import KEYWORDS
from hessarray.errors import OptionError


def net(d=3, m=2):
    return ha.Network(ha.Dense(d, 4, act="tanh"), ha.Dense(4, m, act="softplus"))


def function(code, *shapes):
    return ha.Function(code, in_shape=shapes if shapes else (3,))


X = normal(0, 4, 3)
MASKED = np.ma.masked_less(X, 0.0)


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


OPTION = (OptionError, ValueError, TypeError)

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
    "masked x": (
        lambda: net()(MASKED), (ha.BackendError, TypeError), ["x is a masked", ".filled("]
    ),
    "masked second input": (
        lambda: function(lambda x, y: x * y, (3,), (3,))(X, MASKED),
        ha.BackendError,
        ["masked", ".filled("],
    ),
    "masked p": (lambda: net().hvp(X, MASKED), ha.BackendError, ["p is a masked", ".filled("]),
    "masked lam": (
        lambda: net(m=3).weighted_hessian(X, MASKED), ha.BackendError, ["lam is a masked"]
    ),
    "masked v": (
        lambda: net()(X, do_gradient=True, v=MASKED, forward_mode=True),
        ha.BackendError,
        ["v is a masked", ".filled("],
    ),
    "masked parameter": (
        lambda: ha.Function(lambda x, p: x * p["a"], (3,), {"a": MASKED[0]}),
        ha.BackendError,
        ["'a'", "masked", ".filled("],
    ),
    "masked parameters=": (
        lambda: net().value(X, parameters={**net().parameters(), "0.b": MASKED[:, 0]}),
        ha.BackendError,
        ["'0.b'", "masked", ".filled("],
    ),
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
    "width a bool": (lambda: ha.Dense(True, 2), ha.ShapeError, ["in_features=True"]),
    "rank a float": (lambda: ha.Quadratic(3, 2.5), ha.ShapeError, ["rank=2.5", "integer"]),
    "rank negative": (lambda: ha.InputConvexQuadratic(3, 2, -1), ha.ShapeError, ["rank=-1"]),
    "length of x a word": (
        lambda: ha.InputConvex("a", 2, 3), ha.ShapeError, ["input_dim='a'", "integer"]
    ),
    "depth a float": (lambda: ha.resnet(3, 2.5), ha.ShapeError, ["depth=2.5", "whole number"]),
    "widths a number": (lambda: ha.fully_connected(3), ha.ShapeError, ["widths=3", "[3, 16, 1]"]),
    "icnn widths a number": (lambda: ha.icnn(3, 4), ha.ShapeError, ["widths=4", "[16, 1]"]),
    "dtype of a layer": (
        lambda: ha.Dense(3, 2, dtype="flaot32"),
        (ha.DTypeError, TypeError),
        ["'flaot32'", "'float32'"],
    ),
    "dtype of a network": (
        lambda: ha.Network(ha.Dense(3, 2), dtype="int32"), ha.DTypeError, ["'int32'", "'float64'"]
    ),
    # options
    "option": (lambda: net().value(X, thread=2), OPTION, ["'thread'", "did you mean threads"]),
    "option of a call": (
        lambda: net()(X, forwrad_mode=True), OPTION, ["'forwrad_mode'", "did you mean forward_mode"]
    ),
    "option in lower case": (
        lambda: net()(X, do_hessian=True), OPTION, ["'do_hessian'", "did you mean do_Hessian"]
    ),
    "option of a Hessian": (
        lambda: net().hessian(X, forwrad_mode=True), OPTION, ["did you mean forward_mode"]
    ),
    "option of hvp": (lambda: net().hvp(X, X, paramters={}), OPTION, ["did you mean parameters"]),
    "option of others": (
        lambda: net().hvp(X, X, forward_mode=True),
        OPTION,
        ["'forward_mode'", "here", "memory_limit, threads, progress, parameters"],
    ),
    "option of nothing": (lambda: net()(X, zzz=1), OPTION, ["'zzz'", "memory_limit", "do_Hessian"]),
    "limit of zero": (lambda: net().value(X, memory_limit=0), OPTION, ["memory_limit=0"]),
    "limit in words": (
        lambda: net().value(X, memory_limit="1 GB"), OPTION, ["memory_limit='1 GB'", "bytes"]
    ),
    "threads of zero": (lambda: net().value(X, threads=0), OPTION, ["threads=0", "1 or more"]),
    "threads a float": (lambda: net().value(X, threads=2.5), OPTION, ["threads=2.5", "whole"]),
    "progress in words": (
        lambda: net().value(X, progress="yes"), OPTION, ["progress='yes'", "True", "function"]
    ),
    "forward_mode in words": (
        lambda: net().hessian(X, forward_mode="forward"),
        OPTION,
        ["forward_mode='forward'", "True", "False"],
    ),
    "forward_mode a number": (
        lambda: net()(X, do_gradient=True, forward_mode=2), OPTION, ["forward_mode=2"]
    ),
    "forward_mode of a plan": (
        lambda: net().plan(forward_mode="reverse"), OPTION, ["forward_mode='reverse'"]
    ),
    "parameters= a list": (
        lambda: net().value(X, parameters=[np.zeros((3, 4))]), OPTION, ["list", "mapping"]
    ),
    "parameters to load": (lambda: net().load_parameters([1.0]), OPTION, ["list", "mapping"]),
    "params a list": (
        lambda: ha.Function(lambda x, p: x, (3,), [1.0]), OPTION, ["list", "mapping"]
    ),
    "parameters= complex": (
        lambda: net().value(X, parameters={k: a * 1j for k, a in net().parameters().items()}),
        ha.DTypeError,
        ["'0.K'", "complex128", "real part"],
    ),
    "parameters= where x is traced": (
        lambda: function(lambda x: net().gradient(x, parameters=net().parameters()))(X),
        OPTION,
        ["parameters=", "params"],
    ),
    "option where x is traced": (
        lambda: function(lambda x: net().gradient(x, thread=1))(X),
        OPTION,
        ["'thread'", "did you mean threads"],
    ),
    # plans
    "plan of a negative n": (lambda: net().plan(n=-1), OPTION, ["n=-1", "1 or more"]),
    "plan of nothing": (lambda: net().plan(n=0), OPTION, ["n=0", "1 or more"]),
    "plan of half a sample": (lambda: net().plan(n=2.5), OPTION, ["n=2.5", "whole number"]),
    "plan of a word": (lambda: net().plan("hessian"), OPTION, ["n='hessian'", "whole number"]),
    "plan without directions": (lambda: net().plan(left=0), OPTION, ["left=0", "1 or more"]),
    "plan of left a float": (lambda: net().plan(left=1.5), OPTION, ["left=1.5"]),
    "plan of right negative": (lambda: net().plan(right=-1), OPTION, ["right=-1", "0 or more"]),
    "plan of a number": (lambda: net().plan(want=3), OPTION, ["want=3", "hessian"]),
    "plan of no result": (lambda: net().plan(want=()), OPTION, ["want=()", "gradient"]),
    "want": (lambda: net().plan(want="hessain"), OPTION, ["hessain", "hessian"]),
    "two second derivatives": (
        lambda: net().plan(want=("hessian", "laplacian")), OPTION, ["at most one"]
    ),
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
    # Where the signature is explicit Python names the keyword, since 3.13 with near names.
    "keyword of a layer": (lambda: ha.Dense(3, 2, atc="tanh"), TypeError, ["'atc'"]),
    "keyword of networks": (lambda: ha.resnet(3, 2, sede=1), TypeError, ["'sede'"]),
    "keyword of a plan": (lambda: net().plan(forwrad_mode=True), TypeError, ["'forwrad_mode'"]),
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


def test_keywords_beyond_the_common_options_are_known():
    """A misspelt one is found near these."""
    methods = [f for f in vars(ha.Function).values() if inspect.isfunction(f)]
    signatures = [inspect.signature(f).parameters.values() for f in methods]
    found = {
        p.name
        for ps in signatures
        if any(p.kind is p.VAR_KEYWORD for p in ps)
        for p in ps
        if p.kind is p.KEYWORD_ONLY
    }
    assert found == set(KEYWORDS)


def test_options_may_be_numbers_of_numpy():
    f = net()
    assert f.plan(n=np.int64(3), left=np.int32(2)).n == 3
    want = f.hessian(X, forward_mode=True)
    got = f.hessian(X, forward_mode=np.bool_(True), threads=np.int64(1), memory_limit=np.inf)
    np.testing.assert_array_equal(got, want)
    assert ha.Dense(3, 2, dtype=np.float32).K.dtype == np.float32


def test_a_network_in_traced_code_takes_options():
    inner = net()
    outer = function(lambda x: inner(x, do_gradient=True).df)
    np.testing.assert_array_equal(outer.value(X), inner.gradient(X))


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


def test_keywords_of_the_torch_modules():
    torch = pytest.importorskip("torch")
    from hessarray.hessquik import layers, networks

    x, module = torch.zeros((4, 3)), networks.NN(layers.singleLayer(3, 2))
    for call, words in {
        lambda: module(x, do_hessian=True): ["'do_hessian'", "did you mean do_Hessian"],
        lambda: module(x, forwrad_mode=True): ["'forwrad_mode'", "did you mean forward_mode"],
        lambda: module(x, do_gradient=True, forward_mode="left"): ["forward_mode='left'"],
        lambda: module[0](x, do_gradient=True, forward_mode="left"): ["forward_mode='left'"],
    }.items():
        message = raised(call, OptionError)
        for word in words:
            assert word in message


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


def masked_constant(xp, x):
    return x * MASKED[0]


def product_with_a_masked_constant(xp, x):
    return MASKED[0] * x


def constants_only(xp, x):
    return x * xp.matmul(np.eye(3), np.ones(3))


def len_of_a_number(xp, x):
    return x * len(x[0])


def entries_of_a_number(xp, x):
    return x * next(iter(x[0]))


def numpy_arguments(xp, x):
    return np.sum(x, 0)


def numpy_where(xp, x):
    return np.sum(x, where=np.asarray([True, False, True]))


def sum_twice(xp, x):
    return xp.sum(x, axis=(0, -1))


def sum_over_a_float(xp, x):
    return xp.sum(x, axis=0.0)


def sum_over_a_word(xp, x):
    return xp.sum(x, axis="a")


def mean_twice(xp, x):
    return xp.mean(x, axis=(0, 0))


def permute_twice(xp, x):
    return xp.permute_dims(x[None, :], (0, 0))


def permute_too_few(xp, x):
    return xp.permute_dims(x[None, :], (1,))


def permute_too_many(xp, x):
    return xp.permute_dims(x, (0, 0))


def transpose_too_few(xp, x):
    return np.transpose(x[None, :], (1,))


def flip_twice(xp, x):
    return xp.flip(x, axis=(0, -1))


def expand_twice(xp, x):
    return xp.expand_dims(x, axis=(0, 0))


def squeeze_twice(xp, x):
    return xp.squeeze(x[None, :], axis=(0, 0))


def squeeze_a_float(xp, x):
    return xp.squeeze(x[None, :], axis=0.0)


def numpy_squeeze(xp, x):
    return np.squeeze(x[None, :])


def unequal_tensordot(xp, x):
    return xp.tensordot(x[None, :], x[None, :], axes=((0, 1), (0,)))


def tensordot_twice(xp, x):
    return xp.tensordot(x[None, :], x[:, None], axes=((1, 1), (0, 0)))


def unequal_moveaxis(xp, x):
    return xp.moveaxis(x[None, :], (0, 1), (1,))


def moveaxis_twice(xp, x):
    return xp.moveaxis(x[None, :], (0, 0), (0, 1))


def unequal_roll(xp, x):
    return xp.roll(x[None, :], (1, 2, 3), axis=(0, 1))


def roll_by_a_float(xp, x):
    return xp.roll(x, 1.5)


def concat_along_a_float(xp, x):
    return xp.concat([x, x], axis=0.0)


def stack_along_two(xp, x):
    return xp.stack([x, x], axis=(0, 1))


def reshape_to_floats(xp, x):
    return xp.reshape(x, (1.0, 3.0))


def float_index(xp, x):
    return x[1.0]


def bool_index(xp, x):
    return x[True]


def word_index(xp, x):
    return x["a"]


def float_indices(xp, x):
    return x[[0.0, 1.0]]


def bool_indices(xp, x):
    return x[[True, False, True]]


def float_slice(xp, x):
    return x[0.5:]


def no_step(xp, x):
    return x[::0]


def two_ellipses(xp, x):
    return x[..., 0, ...]


def two_arrays(xp, x):
    return xp.stack([x, x])[[0, 1], [0, 1]]


def array_apart_from_an_integer(xp, x):
    return xp.stack([x, x])[None][0, :, [0, 1]]


def float_take(xp, x):
    return xp.take(x, [0.0, 1.0], axis=0)


def bool_take(xp, x):
    return xp.take(x, [True, False], axis=0)


def unknown_letter_einsum(xp, x):
    return xp.einsum("i->ij", x)


def operand_too_few_einsum(xp, x):
    return xp.einsum("i,i->i", x)


def operand_too_many_einsum(xp, x):
    return xp.einsum("i->i", x, x)


def repeated_output_einsum(xp, x):
    return xp.einsum("i->ii", x)


def digit_einsum(xp, x):
    return xp.einsum("1->1", x)


def einsum_without_subscripts(xp, x):
    return xp.einsum(x, x)


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
    misspelt_function: ["xp.tahn", "did you mean", "tanh"],
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
    masked_constant: ["masked", ".filled("],
    product_with_a_masked_constant: ["np.asarray(x)"],
    constants_only: ["constants", "NumPy"],
    len_of_a_number: ["len(x)", "no axes"],
    entries_of_a_number: ["iterating over x", "no axes"],
    numpy_arguments: ["np.sum", "positional", "axis=0"],
    numpy_where: ["np.sum", "'where'"],
    sum_twice: ["sum", "(0, -1)", "axis 0 is there twice", "once"],
    sum_over_a_float: ["sum", "axis 0.0", "whole numbers"],
    sum_over_a_word: ["sum", "axis 'a'", "whole numbers"],
    mean_twice: ["mean", "(0, 0)", "twice"],
    permute_twice: ["permute_dims", "(0, 0)", "twice"],
    permute_too_few: ["permute_dims", "(1,)", "2 axes", "(0, 1)"],
    permute_too_many: ["permute_dims", "(0, 0)"],
    transpose_too_few: ["permute_dims", "(1,)", "2 axes"],
    flip_twice: ["flip", "(0, -1)", "twice"],
    expand_twice: ["expand_dims", "(0, 0)", "twice"],
    squeeze_twice: ["squeeze", "(0, 0)", "twice"],
    squeeze_a_float: ["squeeze", "axis 0.0"],
    numpy_squeeze: ["np.squeeze", "'axis'"],
    unequal_tensordot: ["tensordot", "(0, 1)", "(0,)", "2", "1"],
    tensordot_twice: ["tensordot", "(1, 1)", "twice"],
    unequal_moveaxis: ["moveaxis", "(0, 1)", "(1,)"],
    moveaxis_twice: ["moveaxis", "(0, 0)", "twice"],
    unequal_roll: ["roll", "(1, 2, 3)", "(0, 1)"],
    roll_by_a_float: ["roll", "shift 1.5", "whole numbers"],
    concat_along_a_float: ["concat", "axis 0.0"],
    stack_along_two: ["stack", "axis (0, 1)"],
    reshape_to_floats: ["reshape", "(1.0, 3.0)", "whole numbers"],
    float_index: ["x[1.0]", "integers"],
    bool_index: ["x[mask]", "integers"],
    word_index: ["x['a']", "integers"],
    float_indices: ["x[[0.0, 1.0]]", "integers"],
    bool_indices: ["x[mask]", "xp.where"],
    float_slice: ["x[0.5:]", "whole numbers"],
    no_step: ["x[::0]", "step"],
    two_ellipses: ["x[..., 0, ...]", "two ellipses"],
    two_arrays: ["x[[0, 1], [0, 1]]", "xp.stack"],
    array_apart_from_an_integer: ["x[0, :, [0, 1]]", "two steps"],
    float_take: ["take", "[0.0, 1.0]", "integers"],
    bool_take: ["take", "[True, False]", "integers"],
    unknown_letter_einsum: ["einsum('i->ij')", "'j'", "xp.broadcast_to"],
    operand_too_few_einsum: ["einsum('i,i->i')", "terms is 2", "operands 1"],
    operand_too_many_einsum: ["einsum('i->i')", "terms is 1", "operands 2"],
    repeated_output_einsum: ["einsum('i->ii')", "output", "once"],
    digit_einsum: ["einsum('1->1')", "'1'", "letter"],
    einsum_without_subscripts: ["einsum", "string"],
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


def two_unknown_lengths(xp, x):
    return xp.reshape(x, (-1, -1, 3))


def squeezing_beyond(xp, x):
    return xp.squeeze(x, axis=1)


def contracting_too_much(xp, x):
    return xp.tensordot(x, x, axes=2)


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
    squeezing: ["squeeze", "axis 0", "3", "index"],
    squeezing_beyond: ["axis 1 of squeeze", "batch axis"],
    two_unknown_lengths: ["reshape", "(3,)", "(-1, -1, 3)"],
    contracting_too_much: ["tensordot", "2 axes", "(3,)"],
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


def test_axes_and_indices_that_numpy_takes():
    """What is refused above leaves this as NumPy has it."""

    def code(x):
        xp = x.__array_namespace__()
        y = xp.stack([x, 2.0 * x])
        one = np.int64(1)
        parts = [
            xp.sum(y, axis=one),
            xp.sum(y, axis=np.asarray([0, 1]))[None],
            xp.reshape(xp.permute_dims(y, np.asarray([1, 0])), np.int64(6)),
            np.transpose(y)[:, 0],
            y[one, np.asarray([0, -1])],
            y[:, [0, 2]][0],
            y[[0, 1], 0],
            y[[]][:, 0],
            y[None, 1, [2, 0]][0],
            xp.take(x, [], axis=0),
            xp.roll(y, (1, 1), axis=(0, 1))[0],
            xp.tensordot(y, y, axes=(1, 1))[0],
            xp.expand_dims(x, axis=(0, -1))[0, :, 0],
        ]
        return xp.concat(parts, axis=0)

    def plain(x):
        y = np.stack([x, 2.0 * x])
        return np.concatenate([
            y.sum(1), y.sum((0, 1))[None], y.T.reshape(6), y.T[:, 0], y[1, [0, -1]], y[0, [0, 2]],
            y[[0, 1], 0], y[[]][:, 0], y[1, [2, 0]], x[:0], np.roll(y, (1, 1), (0, 1))[0],
            (y @ y.T)[0], x,
        ])  # fmt: skip

    want = np.stack([plain(x) for x in X])
    np.testing.assert_allclose(function(code).value(X), want, rtol=1e-15)


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
        OptionError: ValueError,
        errors.SampleIndexError: IndexError,
        errors.TraceAttributeError: AttributeError,
    }.items():
        assert issubclass(kind, builtin)
        assert issubclass(kind, ha.HessarrayError)
