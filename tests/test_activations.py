"""Activations: (s, s', s'') against mpmath over the whole float range; torch, JAX and hessQuik."""

from __future__ import annotations

import math
import pickle

import numpy as np
import pytest
from mpmath import mp, mpf
from oracle import BOUND, DTYPES, Case, check, erfc, evaluate, failures

import hessarray as ha
from hessarray import activations
from hessarray.activations import ACTIVATIONS, activation, register_activation
from hessarray.errors import UnknownActivationError
from hessarray.graph.elementary import Elementary

# ---- definitions, as the textbooks have them -----------------------------------------------------


def sigma(x):
    return 1 / (1 + mp.exp(-x))


def softplus(x):
    # log(1 + exp(-900)) needs 400 digits, log(1 + exp(-10^9)) cannot be had that way.
    return mp.exp(x) if x < -3000 else mp.log(1 + mp.exp(x))


def relu(x):
    return max(x, mpf(0))


def relu6(x):
    return min(relu(x), mpf(6))


def elu(alpha, rate=1):
    return lambda x: x if x > 0 else alpha * (mp.exp(x * rate) - 1)


def gelu_tanh(x):
    u = mp.sqrt(2 / mp.pi) * (x + mpf("0.044715") * x**3)
    return x * sigma(2 * u)


def softplus_at(beta):
    return lambda x: softplus(mpf(beta) * x) / mpf(beta)


def argument_error(rate):
    """exp(rate x) of a rounded rate x: half an ulp of it makes |rate x| ulp of the result."""
    return lambda x: BOUND + 2 * abs(rate * x)


def case(name, s, label=None, params=None, **options):
    return Case(label or name, activation(name, **(params or {})), s, **options)


SELU_SCALE = mpf("1.0507009873554804934193349852946")
SELU_ALPHA = mpf("1.6732632423543772848170429916717")

CASES = [
    case("identity", lambda x: x),
    case("quadratic", lambda x: x * x / 2),
    case("tanh", mp.tanh),
    case("antitanh", lambda x: mp.log(2 * mp.cosh(x)) if abs(x) < 3000 else abs(x)),
    case("sigmoid", sigma),
    case("softplus", softplus),
    case("softplus", softplus_at(4.0), "softplus beta=4", {"beta": 4.0}),
    case(
        "softplus",
        softplus_at(0.75),
        "softplus beta=0.75",
        {"beta": 0.75},
        bound=argument_error(0.75),
    ),
    case("log_sigmoid", lambda x: -softplus(-x)),
    case("relu", relu),
    case("leaky_relu", lambda x: x if x > 0 else x / 8, params={"negative_slope": 0.125}),
    case("relu6", relu6),
    case("squared_relu", lambda x: relu(x) ** 2, bends=(0.0,)),
    case("elu", elu(1), bends=(0.0,)),
    case("elu", elu(mpf(1.25)), "elu alpha=1.25", {"alpha": 1.25}),
    case("selu", lambda x: SELU_SCALE * elu(SELU_ALPHA)(x)),
    case("celu", elu(1), "celu alpha=1", bends=(0.0,)),
    case("celu", elu(mpf(0.5), 2), "celu alpha=0.5", {"alpha": 0.5}, bends=(0.0,)),
    case(
        "celu",
        elu(mpf(1.5), 1 / mpf(1.5)),
        "celu alpha=1.5",
        {"alpha": 1.5},
        bends=(0.0,),
        bound=argument_error(1 / 1.5),
    ),
    case(
        "gelu",
        lambda x: x * erfc(-x / mp.sqrt(2)) / 2,
        zeros=((), (-0.751791524693564,), (-math.sqrt(2), math.sqrt(2))),
        gaussian=True,
        amplified=True,
    ),
    case(
        "gelu_tanh",
        gelu_tanh,
        zeros=((), (-0.7524614220710162,), (-1.41, 1.41)),
        gaussian=True,
        amplified=True,
    ),
    case(
        "silu",
        lambda x: x * sigma(x),
        zeros=((), (-1.2784645427610738,), (-2.399357280520549, 2.399357280520549)),
    ),
    case(
        "mish",
        lambda x: x * mp.tanh(softplus(x)),
        zeros=((), (-1.1924512286917573,), (-2.2563, 1.4906)),
    ),
    case("softsign", lambda x: x / (1 + abs(x))),
    case("hardtanh", lambda x: min(max(x, mpf(-1)), mpf(1))),
    case(
        "hardtanh",
        lambda x: min(max(x, mpf(-0.5)), mpf(2)),
        "hardtanh -0.5 2",
        {"min_val": -0.5, "max_val": 2.0},
    ),
    case("hard_sigmoid", lambda x: relu6(x + 3) / 6),
    case("hard_swish", lambda x: x * relu6(x + 3) / 6, zeros=((), (-1.5,), ())),
    case(
        "gaussian",
        lambda x: mp.exp(-x * x),
        zeros=((), (), (-math.sqrt(0.5), math.sqrt(0.5))),
        gaussian=True,
    ),
]


@pytest.mark.parametrize("dtype", DTYPES, ids=lambda d: d.__name__)
@pytest.mark.parametrize("case", CASES, ids=str)
def test_jet_against_mpmath(case, dtype):
    check(case, dtype)


def test_every_activation_has_a_case():
    elementary = {"tanh", "sin", "cos", "exp", "arctan", "erf"}  # see test_elementary
    names = {c.label.split()[0] for c in CASES}
    assert names | elementary | {"swish"} == set(_built_in())


def _built_in():
    return [name for name in ACTIVATIONS if activations._key(name) in activations._BUILT_IN]


def _default(name):
    found = ACTIVATIONS[name]
    return found if isinstance(found, Elementary) else found()


# ---- kinks and special values --------------------------------------------------------------------

ONE_SIDED = [  # name, parameters, x, (s, s', s'') as torch has them where torch defines them
    ("relu", {}, 0.0, (0.0, 0.0, 0.0)),
    ("leaky_relu", {"negative_slope": 0.25}, 0.0, (0.0, 0.25, 0.0)),
    ("relu6", {}, 0.0, (0.0, 0.0, 0.0)),
    ("relu6", {}, 6.0, (6.0, 0.0, 0.0)),
    ("squared_relu", {}, 0.0, (0.0, 0.0, 0.0)),
    ("elu", {"alpha": 1.0}, 0.0, (0.0, 1.0, 1.0)),
    ("elu", {"alpha": 0.5}, 0.0, (0.0, 0.5, 0.5)),
    ("celu", {"alpha": 2.0}, 0.0, (0.0, 1.0, 0.5)),
    ("hardtanh", {}, -1.0, (-1.0, 0.0, 0.0)),
    ("hardtanh", {}, 1.0, (1.0, 0.0, 0.0)),
    ("hard_sigmoid", {}, -3.0, (0.0, 0.0, 0.0)),
    ("hard_sigmoid", {}, 3.0, (1.0, 0.0, 0.0)),
    ("hard_swish", {}, -3.0, (0.0, 0.0, 0.0)),
    ("hard_swish", {}, 3.0, (3.0, 1.0, 0.0)),
    ("softsign", {}, 0.0, (0.0, 1.0, 0.0)),
]


@pytest.mark.parametrize("dtype", DTYPES, ids=lambda d: d.__name__)
@pytest.mark.parametrize(("name", "params", "x", "jet"), ONE_SIDED)
def test_documented_side_at_the_kinks(name, params, x, jet, dtype):
    f = activation(name, **params)
    got = [float(evaluate(f, k, np.asarray([x], dtype=dtype))[0]) for k in range(3)]
    assert got == list(jet)


def test_kinks_are_where_s_or_its_slope_jumps():
    for name in _built_in():
        f = _default(name)
        for kink in f.kinks:
            x = np.asarray([kink - 1e-9, kink + 1e-9])
            assert any(abs(np.diff(evaluate(f, order, x))[0]) > 1e-3 for order in (0, 1)), (
                f"{name} has no kink at {kink}"
            )
    assert activation("elu", alpha=2.0).kinks == (0.0,)
    assert activation("celu", alpha=2.0).kinks == activation("elu").kinks == ()


@pytest.mark.parametrize("dtype", DTYPES, ids=lambda d: d.__name__)
@pytest.mark.parametrize("name", _built_in())
def test_nan_stays_nan(name, dtype):
    assert np.isnan(evaluate(_default(name), 0, np.asarray([np.nan], dtype=dtype))[0])


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("name", _built_in())
def test_code_is_pure_array_api_standard(name, dtype):
    strict = pytest.importorskip("array_api_strict")
    from hessarray.backends import _special

    f = _default(name)
    xp = _special.Extended(strict)
    x = np.linspace(-4.1, 4.1, 41).astype(dtype)
    for order, code in enumerate((f.s, f.s1, f.s2)):
        if callable(code):
            got = code(xp, strict.asarray(x, copy=True))
            assert got.dtype == getattr(strict, dtype)
            np.testing.assert_allclose(np.asarray(got), evaluate(f, order, x), rtol=1e-6)


# ---- the table -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("alias", "name"),
    [
        ("swish", "silu"),
        ("SiLU", "silu"),
        ("logsigmoid", "log_sigmoid"),
        ("LeakyReLU", "leaky_relu"),
        ("antiTanh", "antitanh"),
        ("hard-swish", "hard_swish"),
        ("Hard Sigmoid", "hard_sigmoid"),
        ("atan", "arctan"),
        ("linear", "identity"),
    ],
)
def test_aliases(alias, name):
    assert activation(alias) == _default(name)


def test_unknown_name_lists_near_ones():
    with pytest.raises(UnknownActivationError, match=r"'softplsu': did you mean 'softplus'"):
        activation("softplsu")
    with pytest.raises(UnknownActivationError, match=r"'zzz': known are antitanh, "):
        activation("zzz")
    with pytest.raises(ValueError, match="no activation"):
        activation("zzz")


def test_functions_pass_through():
    f = _default("tanh")
    assert activation(f) is f

    def plain(x):
        return x * x

    assert activation(plain) is plain
    with pytest.raises(TypeError, match="a name or a function of one array, not 3"):
        activation(3)


def test_parameters_take_part_in_equality():
    assert activation("softplus", beta=2) == activation("softplus", beta=2.0)
    assert hash(activation("softplus", beta=2)) == hash(activation("softplus", beta=2.0))
    assert activation("softplus", beta=2) != activation("softplus")
    assert activation("softplus", threshold=20) != activation("softplus")
    assert activation("gelu") != activation("gelu", approximate="tanh")
    assert len({_default(name) for name in _built_in()}) == len(_built_in()) - 1  # swish is silu


@pytest.mark.parametrize(
    ("name", "params", "kind", "message"),
    [
        ("softplus", {"beta": 0.0}, ValueError, "beta=0.0, it must be positive"),
        ("softplus", {"threshold": -1.0}, ValueError, "threshold=-1.0"),
        ("celu", {"alpha": -1.0}, ValueError, "alpha=-1.0, it must be positive"),
        ("hardtanh", {"min_val": 2.0}, ValueError, "min_val must be the smaller"),
        ("gelu", {"approximate": "fast"}, ValueError, "'fast', it must be 'none' or 'tanh'"),
        ("tanh", {"beta": 1.0}, TypeError, "'tanh' takes no parameters, it was given beta"),
    ],
)
def test_wrong_parameters(name, params, kind, message):
    with pytest.raises(kind, match=message):
        activation(name, **params)


@pytest.fixture
def registry(monkeypatch):
    """A copy of the table, so that what a test registers is gone after it."""
    for name in ("_KEYS", "_generations"):
        monkeypatch.setattr(activations, name, dict(getattr(activations, name)))
    table = dict(ACTIVATIONS)
    yield
    ACTIVATIONS.clear()
    ACTIVATIONS.update(table)


@pytest.mark.usefixtures("registry")
def test_register_plain_code():
    def cube(x):
        return x * x * x

    register_activation("Cube", cube)
    assert activation("cube") is cube
    with pytest.raises(TypeError, match="takes no parameters"):
        activation("cube", beta=1.0)


@pytest.mark.usefixtures("registry")
def test_register_with_derivatives():
    register_activation("mine", lambda x: x * x, lambda x: 2.0 * x, 2.0, kinks=(0.0,))
    first = activation("mine")
    x = np.asarray([1.0, 3.0])
    assert [evaluate(first, k, x).tolist() for k in range(3)] == [[1, 9], [2, 6], [2, 2]]
    assert first.kinks == (0.0,)
    register_activation("mine", lambda x: x, 1.0, 0.0)
    assert activation("mine") != first  # a plan of the old one must not serve the new one


@pytest.mark.usefixtures("registry")
def test_constant_slopes_are_not_all_of_a_function():
    """x + 1 and the slope x + 3 have the slope 1, and are not x."""
    register_activation("shifted", lambda x: x + 1.0, 1.0, 0.0)
    register_activation("bent", lambda x: x * (x * 0.5 + 3.0), lambda x: x + 3.0, 1.0)
    x = np.asarray([[2.0], [-1.0]])
    shifted = ha.Function(lambda u: activation("shifted")(u), in_shape=(1,))
    np.testing.assert_array_equal(shifted.value(x), x + 1.0)
    bent = ha.Function(lambda u: activation("bent")(u), in_shape=(1,))
    value, gradient, hessian = (a.ravel() for a in bent.value_gradient_hessian(x))
    np.testing.assert_array_equal(value, [8.0, -2.5])
    np.testing.assert_array_equal(gradient, [5.0, 2.0])
    np.testing.assert_array_equal(hessian, [1.0, 1.0])


@pytest.mark.usefixtures("registry")
@pytest.mark.parametrize("name", ["tanh", "Leaky-ReLU", "atan"])
def test_built_in_names_are_refused(name):
    with pytest.raises(ValueError, match="is built in: register yours by another name"):
        register_activation(name, lambda x: x)


@pytest.mark.usefixtures("registry")
def test_register_needs_both_derivatives():
    with pytest.raises(ValueError, match="needs both s1 and s2, or neither"):
        register_activation("mine", lambda x: x, 1.0)


# ---- the bound has teeth -------------------------------------------------------------------------


def _naive_sigmoid(xp, z):
    return 1.0 / (1.0 + xp.exp(-z))


def _naive_softplus2(xp, z):
    s = _naive_sigmoid(xp, z)
    return s * (1.0 - s)


NAIVE = {  # label: (definition, order, formula that other libraries have shipped)
    "tanh 1 - tanh^2": ("tanh", 1, lambda xp, z: 1.0 - xp.tanh(z) ** 2),
    "sigmoid 1 / (1 + exp(-x))": ("sigmoid", 0, _naive_sigmoid),
    "sigmoid s (1 - s)": ("sigmoid", 1, _naive_softplus2),
    "sigmoid s (1 - s) (1 - 2 s)": (
        "sigmoid",
        2,
        lambda xp, z: _naive_softplus2(xp, z) * (1.0 - 2.0 * _naive_sigmoid(xp, z)),
    ),
    "softplus s (1 - s)": ("softplus", 2, _naive_softplus2),
    "softplus log(1 + exp)": ("softplus", 0, lambda xp, z: xp.log(1.0 + xp.exp(z))),
    "softplus threshold": ("softplus", 2, activation("softplus", threshold=20.0).s2),
    "gelu 1 + erf": ("gelu", 0, lambda xp, z: 0.5 * z * (1.0 + xp.erf(z * math.sqrt(0.5)))),
    "gaussian x^2": ("gaussian", 2, lambda xp, z: (4.0 * z * z - 2.0) * xp.exp(-z * z)),
    "gaussian exp(-x x)": ("gaussian", 0, lambda xp, z: xp.exp(-z * z)),
    "silu x exp(-x)": ("silu", 0, lambda xp, z: z * _default("sigmoid").s(xp, z)),
    "antitanh constant": ("antitanh", 0, lambda xp, z: xp.log(xp.cosh(z))),
    "softsign x^2": ("softsign", 1, lambda xp, z: 1.0 / (1.0 + 2.0 * xp.abs(z) + z * z)),
}


@pytest.mark.parametrize("dtype", DTYPES, ids=lambda d: d.__name__)
@pytest.mark.parametrize("label", NAIVE)
def test_the_bound_catches_naive_formulas(label, dtype):
    name, order, formula = NAIVE[label]
    right = next(c for c in CASES if c.label == name)
    codes = [right.function.s, right.function.s1, right.function.s2]
    codes[order] = formula
    wrong = Case(
        name,
        Elementary("naive", *codes),
        right.s,
        zeros=right.zeros,
        gaussian=right.gaussian,
        amplified=right.amplified,
    )
    x = np.concatenate([np.linspace(-40.0, 40.0, 60), [1e-6, -1e-6, 1e30, -1e30]])
    # Where exp(-|x|) and 1 / x^2 are subnormal.
    low = np.linspace(-745.0, -704.0, 6) if dtype is np.float64 else np.linspace(-103.0, -87.5, 6)
    x = np.concatenate([x, low, [2.0 * math.sqrt(float(np.finfo(dtype).max))]])
    bad = failures(wrong, dtype, x.astype(dtype))
    assert bad
    assert all(f"order {order}" in line for line in bad)


# ---- name for name as torch, JAX and hessQuik ----------------------------------------------------

MODERATE = np.concatenate([np.linspace(-7.9, 7.9, 80), [-3.5, -0.1, 0.1, 4.5]])

TORCH = {
    "identity": (lambda F, x: x, {}),
    "tanh": (lambda F, x: x.tanh(), {}),
    "sigmoid": (lambda F, x: x.sigmoid(), {}),
    "softplus": (lambda F, x: F.softplus(x, beta=0.7, threshold=1e9), {"beta": 0.7}),
    "log_sigmoid": (lambda F, x: F.logsigmoid(x), {}),
    "relu": (lambda F, x: F.relu(x), {}),
    "leaky_relu": (lambda F, x: F.leaky_relu(x), {}),
    "relu6": (lambda F, x: F.relu6(x), {}),
    "squared_relu": (lambda F, x: F.relu(x) ** 2, {}),
    "elu": (lambda F, x: F.elu(x, 1.3), {"alpha": 1.3}),
    "selu": (lambda F, x: F.selu(x), {}),
    # torch rounds 1 / alpha to float32: a power of two is the same in both.
    "celu": (lambda F, x: F.celu(x, 2.0), {"alpha": 2.0}),
    "gelu": (lambda F, x: F.gelu(x), {}),
    "gelu_tanh": (lambda F, x: F.gelu(x, approximate="tanh"), {}),
    "silu": (lambda F, x: F.silu(x), {}),
    "mish": (lambda F, x: F.mish(x), {}),
    "softsign": (lambda F, x: F.softsign(x), {}),
    "hardtanh": (lambda F, x: F.hardtanh(x, -0.5, 2.0), {"min_val": -0.5, "max_val": 2.0}),
    # torch has no second derivative of hardsigmoid and hardswish: written out by their definition.
    "hard_sigmoid": (lambda F, x: F.relu6(x + 3) / 6, {}),
    "hard_swish": (lambda F, x: x * F.relu6(x + 3) / 6, {}),
    "sin": (lambda F, x: x.sin(), {}),
    "cos": (lambda F, x: x.cos(), {}),
    "exp": (lambda F, x: x.exp(), {}),
    "arctan": (lambda F, x: x.atan(), {}),
    "erf": (lambda F, x: x.erf(), {}),
}


@pytest.mark.parametrize("name", TORCH)
def test_torch_autograd_twice(name):
    torch = pytest.importorskip("torch")
    fn, params = TORCH[name]
    x = torch.tensor(MODERATE, dtype=torch.float64, requires_grad=True)
    value = fn(torch.nn.functional, x)
    (slope,) = torch.autograd.grad(value.sum(), x, create_graph=True)
    bend = torch.zeros_like(x)
    if slope.requires_grad:
        (bend,) = torch.autograd.grad(slope.sum(), x, allow_unused=True, materialize_grads=True)
    f = activation(name, **params)
    for order, expected in enumerate((value, slope, bend)):
        np.testing.assert_allclose(
            evaluate(f, order, MODERATE), expected.detach().numpy(), rtol=3e-12, atol=3e-14
        )


def test_torch_hard_functions_have_the_same_values():
    torch = pytest.importorskip("torch")
    x = torch.tensor(MODERATE)
    for name, expected in [
        ("hard_sigmoid", torch.nn.functional.hardsigmoid(x)),
        ("hard_swish", torch.nn.functional.hardswish(x)),
    ]:
        np.testing.assert_allclose(
            evaluate(activation(name), 0, MODERATE), expected.numpy(), rtol=1e-14, atol=1e-15
        )


JAX = {
    "relu": "relu",
    "relu6": "relu6",
    "sigmoid": "sigmoid",
    "softplus": "softplus",
    "softsign": "soft_sign",
    "silu": "silu",
    "log_sigmoid": "log_sigmoid",
    "leaky_relu": "leaky_relu",
    "hard_sigmoid": "hard_sigmoid",
    "hard_swish": "hard_silu",
    "hardtanh": "hard_tanh",
    "elu": "elu",
    "celu": "celu",
    "selu": "selu",
    "gelu_tanh": "gelu",
    "mish": "mish",
}


@pytest.mark.parametrize("name", JAX)
def test_jax_nn(name):
    jax = pytest.importorskip("jax")
    # float32 only: the switch for float64 is global to the process.
    fn = getattr(jax.nn, JAX[name])
    x = MODERATE.astype(np.float32)
    f = activation(name)
    slope = jax.grad(lambda v: fn(v))
    for order, g in enumerate((fn, jax.vmap(slope), jax.vmap(jax.grad(slope)))):
        # The absolute tolerance is for JAX: its derivatives of tanh forms cancel in float32.
        np.testing.assert_allclose(
            evaluate(f, order, x), np.asarray(g(jax.numpy.asarray(x))), rtol=2e-5, atol=5e-5
        )


@pytest.mark.parametrize("beta", [1.0, 0.5])
def test_softplus_threshold_is_hessquiks(beta):
    torch = pytest.importorskip("torch")
    module = pytest.importorskip("hessQuik.activations")
    x = np.concatenate(
        [MODERATE, [-60.0, -41.0, -39.0, -21.0, -19.0, 19.0, 21.0, 39.0, 41.0, 60.0]]
    )
    theirs = module.softplusActivation(beta=beta, threshold=20.0)(
        torch.tensor(x), do_gradient=True, do_Hessian=True
    )
    f = activation("softplus", beta=beta, threshold=20.0)
    for order, expected in enumerate(theirs):
        np.testing.assert_allclose(evaluate(f, order, x), expected.numpy(), rtol=1e-12, atol=0)
    far = np.asarray([-21.0, 21.0]) / beta
    assert evaluate(f, 0, far).tolist()[1] == far[1]
    assert evaluate(f, 1, far).tolist() == [0.0, 1.0]
    assert evaluate(f, 2, far).tolist() == [0.0, 0.0]
    assert np.all(evaluate(activation("softplus", beta=beta), 2, far) > 0.0)


@pytest.mark.parametrize(("ours", "theirs"), [("antitanh", "antiTanh"), ("quadratic", "quadratic")])
def test_hessquik_activations(ours, theirs):
    torch = pytest.importorskip("torch")
    module = pytest.importorskip("hessQuik.activations")
    jet = getattr(module, f"{theirs}Activation")()(
        torch.tensor(MODERATE), do_gradient=True, do_Hessian=True
    )
    for order, expected in enumerate(jet):
        expected = np.broadcast_to(np.asarray(expected), MODERATE.shape)
        np.testing.assert_allclose(
            evaluate(activation(ours), order, MODERATE), expected, rtol=1e-9, atol=1e-13
        )


@pytest.mark.parametrize("name", ["tanh", "silu", "softplus", "gelu", "elu"])
def test_derivatives_are_functions_that_can_be_pickled(name):
    function = activation(name)
    slope = function.derivative()
    second = slope.derivative()
    assert len({function, slope, second}) == 3
    for f in (slope, second):
        again = pickle.loads(pickle.dumps(f))
        assert again == f
        assert hash(again) == hash(f)
    assert (second.derivative() is None) is (name != "softplus")  # sigmoid has another one
