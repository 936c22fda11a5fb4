"""What the printer for CuPy makes of a program: which operations run together, and their kernels.

The kernels are compiled with g++ for float and double and compared with NumPy.
"""

from __future__ import annotations

import re
import shutil
import subprocess
from importlib.util import find_spec

import numpy as np
import pytest
from fake_cupy import NO_COMPILER, ElementwiseKernel, installed, parameters
from hypothesis import given
from hypothesis import strategies as st

import hessarray as ha
from hessarray.backends._special import Extended
from hessarray.backends.cupy_source import Grouping, cupy_source
from hessarray.backends.protocol import load_source
from hessarray.graph.elementary import PRIMITIVES
from hessarray.plan.source import functional_source
from hessarray.plan.step import Program, Step, Value, dims, row_major

needs_compiler = pytest.mark.skipif(NO_COMPILER is not None, reason=str(NO_COMPILER))
WANTS = [("value", "gradient", "hessian"), "laplacian", "hvp"]


class Steps:
    """A program written by hand: samples of shape (n, ...)."""

    def __init__(self):
        self.steps = []

    def __call__(self, op, *args, shape=None, truth=False, **attributes):
        arrays = [a for a in args if isinstance(a, Value)]
        if shape is None:
            shape = np.broadcast_shapes(*(a.shape for a in arrays))
        strides = row_major(dims(1, shape, 0))
        out = Value(f"t{len(self.steps)}", 1, tuple(shape), 2, truth, 0, strides)
        self.steps.append(Step(op, out, args, attributes))
        return out

    def input(self, k, *shape):
        return self("input", shape=shape, name=f"x{k}")

    def program(self, *outputs):
        return Program(tuple(self.steps), {}, {f"r{k}": v for k, v in enumerate(outputs)}, ())


def run(source, kernel, xp, arrays):
    scope = load_source(source, "test", {"kernel": kernel})
    x = {f"x{k}": a for k, a in enumerate(arrays)}
    b = scope["seed"](xp, scope["bind"](xp, {}, {}), {})
    return scope["run"](xp, b, len(arrays[0]), x, x)


def kernels(source):
    return re.findall(r'kernel\(\n    "([^"]*)",\n    "([^"]*)",\n    """\n([^"]*)"""', source)


# ------------------------------------------------------------------------- every operation, once

ONE = [name for name in PRIMITIVES if name != "power"] + ["negative"]
TWO = "add subtract multiply divide pow maximum minimum".split()
TESTS = "less less_equal greater greater_equal equal not_equal".split()
EXACT = {*TWO, *"abs sqrt square reciprocal sign floor ceil round trunc negative".split()} - {"pow"}


def special(dtype):
    info = np.finfo(dtype)
    some = [0.0, 1.0, 0.5, 1.5, 2.5, 3.0, 1e-3, 17.0, 90.0, 800.0, info.max, info.tiny]
    some += [info.smallest_subnormal, np.inf]
    values = np.asarray([*some, *(-v for v in some), np.nan], dtype)
    rng = np.random.default_rng(0)
    values = np.concatenate([values, rng.standard_normal(30).astype(dtype)])
    return tuple(a.ravel() for a in np.meshgrid(values, values))


@needs_compiler
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_every_operation_as_numpy_has_it(dtype):
    t = Steps()
    x, y = t.input(0), t.input(1)
    conditions = [t(name, x, y, truth=True) for name in TESTS]
    conditions += [
        t(f"logical_{name}", *conditions[:2], truth=True) for name in ("and", "or", "xor")
    ]
    conditions.append(t("logical_not", conditions[0], truth=True))
    found = {name: t(name, x) for name in ONE}
    found |= {name: t(name, x, y) for name in TWO}
    # A second use inside, literals, and conditions as operands.
    found["literal"] = t("multiply", t("subtract", 0.1, x), -1e-30)
    found |= {f"where {k}": t("where", c, x, y) for k, c in enumerate(conditions)}
    program = t.program(*found.values(), *conditions)
    source = cupy_source(program, functional_source(program))
    assert sum(len(g.steps) for g in Grouping(t.steps, []).found) == len(t.steps) - 2
    arrays = special(dtype)
    with np.errstate(all="ignore"):
        want = run(functional_source(program), None, numpy_namespace(), arrays)
    with installed() as cupy:
        got = run(source, ElementwiseKernel, cupy.backend.xp, [cupy.asarray(a) for a in arrays])
    names = [*found, *(f"condition {k}" for k in range(len(conditions)))]
    for name, a, b in zip(names, got, want, strict=True):
        a = np.asarray(a)
        assert a.dtype == b.dtype, name
        if name in EXACT or " " in name or name == "literal":
            np.testing.assert_array_equal(a, b, name)
        else:
            tiny = np.finfo(dtype).smallest_subnormal
            np.testing.assert_allclose(a, b, 8 * np.finfo(dtype).eps, 4 * tiny, err_msg=name)


def numpy_namespace():
    import array_api_compat.numpy as xp
    import scipy.special

    return Extended(xp, erf=scipy.special.erf, erfc=scipy.special.erfc)


def test_no_double_in_single_precision():
    """Every literal is cast to T, also where it stands for a constant of one entry."""
    net = ha.fully_connected([3, 4, 4, 2], act="gelu", seed=0)
    plan = net.plan(10)
    found = kernels(cupy_source(plan.functional, plan.source))
    assert found
    for _, _, body in found:
        assert "." not in re.sub(r"T\(-?[\d.e-]+\)", "", body)


# ---------------------------------------------------------------- which operations run together


def grouped(t, *outputs):
    """Names of the operations by kernel, in the order of the kernels."""
    found = Grouping(t.steps, [v.name for v in outputs]).found
    found.sort(key=lambda g: g.place)
    return [[g.steps[i].op for i in sorted(g.steps)] for g in found]


def test_an_activation_and_its_derivatives_are_one_kernel():
    net = ha.fully_connected([3, 8, 8, 1], act="tanh", seed=0)
    net = ha.Network(*net[:2], ha.Dense(8, 1))
    plan = net.plan(1000)
    steps = plan.functional.at(2)
    found = Grouping(steps, [v.name for v in plan.functional.outputs.values()]).found
    for g in found:
        ops = {s.op for s in g.steps.values()}
        assert "tanh" not in ops or {"add", "cosh", "reciprocal", "square"} <= ops
    assert sum(any(s.op == "tanh" for s in g.steps.values()) for g in found) == 2


def test_what_joins_comes_forward_only_where_its_operands_are_there():
    t = Steps()
    x, y = t.input(0, 3), t.input(1, 3)
    a = t("exp", x)
    m = t("flip", y, axis=1)
    h = t("sum", a, shape=(), axes=(1,))
    b = t("multiply", a, m)  # flip is a view of what was there, but stands after exp
    c = t("negative", a)
    assert grouped(t, h, b, c) == [["exp", "negative"], ["multiply"]]


def test_what_waits_keeps_no_more_alive():
    t = Steps()
    x = t.input(0, 3)
    m = [t("take", x, x, axis=1, shape=(3,)) for _ in range(2)]
    a = t("add", *m)
    m.append(t("take", x, x, axis=1, shape=(3,)))
    b = t("add", a, m[-1])  # would keep three arrays where the sum is one
    assert grouped(t, b) == [["add"], ["add"]]
    t = Steps()
    x = t.input(0, 3)
    a = t("negative", t("take", x, x, axis=1, shape=(3,)))
    b = t("add", a, t("take", x, x, axis=1, shape=(3,)))
    assert grouped(t, b) == [["negative", "add"]]


def test_other_shapes_are_other_kernels():
    t = Steps()
    x = t.input(0, 3)
    a = t("exp", x)
    b = t("multiply", a, t("sum", x, shape=(1,), axes=(1,)))
    c = t("negative", t("reshape", b, shape=(1, 3)))
    assert grouped(t, c) == [["exp", "multiply"], ["negative"]]


def test_kernels_are_bounded():
    t = Steps()
    x = t.input(0, 3)
    for _ in range(300):
        x = t("negative", x)
    assert [len(g) for g in grouped(t, x)] == [96, 96, 96, 12]
    t = Steps()
    inputs = [t.input(k, 3) for k in range(60)]
    total = inputs[0]
    for x in inputs[1:]:
        total = t("add", total, x)
    program = t.program(total)
    for ins, outs, _ in kernels(cupy_source(program, functional_source(program))):
        assert len(parameters(ins)) + len(parameters(outs)) <= 24


def test_infinite_literals_stay_array_code():
    t = Steps()
    x = t.input(0, 3)
    a = t("multiply", t("add", t("minimum", x, t("exp", x)), float("inf")), 2.0)
    program = t.program(a)
    assert '+ float("inf")' in cupy_source(program, functional_source(program))


def test_equal_layers_share_a_kernel():
    net = ha.fully_connected([3, *[8] * 6, 1], act="tanh", seed=0)
    plan = net.plan(1000, want="value")
    source = cupy_source(plan.functional, plan.source)
    assert source.count("fused0(") == 7
    assert len(kernels(source)) == 1


def in_python(inputs, outputs, body):
    """A kernel of sums and products, evaluated by NumPy."""

    def call(*arrays):
        scope = {name: a for (_, name), a in zip(parameters(inputs), arrays, strict=True)}
        for line in body.split(";"):
            exec(re.sub(r"const T |T(?=\()", "", line).strip(), scope)
        shape = np.broadcast_shapes(*(a.shape for a in arrays))
        found = tuple(np.broadcast_to(scope[name], shape) for _, name in parameters(outputs))
        return found if len(found) > 1 else found[0]

    return call


@st.composite
def programs(draw):
    """Chains of elementwise operations of three shapes with views, sums and products between."""
    t = Steps()
    values = [t.input(0, 3), t.input(1, 3)]
    for _ in range(draw(st.integers(1, 25))):
        kind = draw(st.sampled_from(["add", "multiply", "subtract", "negative", "square", "heavy"]))
        x, y = (draw(st.sampled_from(values)) for _ in range(2))
        if kind == "heavy":
            ways = {(3,): ["sum", "reshape", "flip"], (1,): ["flip"], (1, 3): ["flip", "sum"]}
            way = draw(st.sampled_from(ways[x.shape]))
            if way == "sum":  # (n, 3) -> (n,): shapes of one axis more take part as they are
                axes, shape = ((1,), (1,)) if x.shape == (3,) else ((2,), (1,))
                total = t("sum", x, shape=(), axes=axes) if x.shape == (3,) else None
                x = total if total is not None else t("sum", x, shape=(1,), axes=axes)
                values.append(t("reshape", x, shape=shape))
            elif way == "reshape":
                values.append(t("reshape", x, shape=(1, 3)))
            else:
                values.append(t("flip", x, shape=x.shape, axis=1))
        elif kind in ("negative", "square"):
            values.append(t(kind, x))
        else:
            number = draw(st.booleans())
            if len(x.shape) != len(y.shape) or number:
                y = draw(st.sampled_from([0.5, -2.0]))
            values.append(t(kind, x, y))
    outputs = draw(st.lists(st.sampled_from(values[2:]), min_size=1, max_size=4, unique=True))
    return t.program(*outputs)


@given(programs())
def test_any_program_gives_the_same(program):
    rng = np.random.default_rng(0)
    arrays = [rng.standard_normal((4, 3)) for _ in range(2)]
    source = functional_source(program)
    xp = numpy_namespace()
    with np.errstate(all="ignore"):
        want = run(source, None, xp, arrays)
        got = run(cupy_source(program, source), in_python, xp, arrays)
    for a, b in zip(got, want, strict=True):
        np.testing.assert_array_equal(a, b)


# ------------------------------------------------------------------------------- real networks

ACTS = ["tanh", "silu", "softplus", "gelu", "relu", "mish", "antitanh"]


@pytest.mark.parametrize("act", ACTS)
@pytest.mark.parametrize("want", WANTS, ids=str)
def test_memory_is_what_was_planned(act, want):
    """Kernels may run earlier than their results are needed: a quarter of the room is for that."""
    with installed() as cupy:
        net = ha.Network(
            ha.Dense(8, 16, act=act), *[ha.Residual(16, act=act) for _ in range(4)], ha.Dense(16, 1)
        )
        for n in (10, 100_000):
            plan = plan_for(net, want, n, cupy.backend)
            assert peak(plan.functional) <= 4 / 3 * max(plan.entries_functional, 1)


@pytest.fixture(scope="module")
def bodies():
    """The kernels of every named activation."""
    found = {}
    with installed() as cupy:
        for act in ha.ACTIVATIONS:
            net = ha.Network(ha.Dense(3, 6, act=act), ha.Dense(6, 6, act=act), ha.Dense(6, 2))
            for want in WANTS:
                program = plan_for(net, want, 1000, cupy.backend).program
                found |= dict.fromkeys(kernels(cupy_source(program, functional_source(program))))
    assert len(found) > 50
    return list(found)


@pytest.mark.skipif(shutil.which("nvcc") is None, reason="no nvcc to compile kernels as CUDA with")
def test_cuda_compiles_every_kernel(bodies, tmp_path):
    text = []
    for k, (inputs, outputs, body) in enumerate(bodies):
        for t in ("float", "double"):
            args = [f"const {a}" for a in inputs.split(", ")]
            args += [f"{b.replace(' ', '* _')}" for b in outputs.split(", ")]
            names = [name for _, name in parameters(outputs)]
            refs = " ".join(f"auto& {name} = *_{name};" for name in names)
            head = f'extern "C" __global__ void k{k}_{t}({", ".join(args)})'
            text.append(f"#define T {t}\n{head} {{ {refs}\n{body} }}\n#undef T\n")
    path = tmp_path / "kernels.cu"
    path.write_text("".join(text))
    command = ["nvcc", "-ptx", "--fmad=false", "-arch=sm_80", "-Xcompiler=-w", str(path)]
    done = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path)
    assert not done.returncode, done.stderr
    ptx = (tmp_path / "kernels.ptx").read_text()
    assert ptx.count(".visible .entry") == 2 * len(bodies)


@pytest.mark.skipif(find_spec("cupy") is None, reason="CuPy is not installed")
def test_cupy_takes_every_kernel(bodies):
    import cupy

    for code in bodies:
        kernel = cupy.ElementwiseKernel(*code, "hessarray_fused", options=("--fmad=false",))
        assert [p.name for p in kernel.in_params] == [name for _, name in parameters(code[0])]


def plan_for(net, want, n, backend):
    from hessarray.plan.plan import make_plan
    from hessarray.plan.want import Want

    names = [want] if isinstance(want, str) else want
    second = next((s for s in names if s not in ("value", "gradient")), None)
    spec = Want(value="value" in names, gradient="gradient" in names, second=second)
    return make_plan(net.graph(), spec, n, backend.costs)


def peak(program):
    """Entries per sample that the printed program holds at most, besides inputs and results."""
    steps = {s.out.name: s for s in program.at(2)}
    views = ("reshape", "permute", "slice", "flip", "broadcast", "batch", "copy", "input", "seed")

    def root(name):
        while name in steps and steps[name].op in views and steps[name].args:
            name = steps[name].args[0].name
        return name

    kept = {root(v.name) for v in program.outputs.values()}
    source = cupy_source(program, functional_source(program))
    held, most, names = {}, 0, {}
    for line in source[source.index("def run(") :].splitlines()[1:]:
        if line.startswith("    del "):
            for name in line[8:].split(", "):
                names[root(name)] -= 1
                if not names[root(name)]:
                    held.pop(root(name), None)
        elif match := re.match(r"    ([\w, ]+) = ", line):
            for name in match[1].split(", "):
                names[root(name)] = names.get(root(name), 0) + 1
                own = name in steps and root(name) == name and steps[name].op not in views
                if own and name not in kept:
                    held[name] = steps[name].out.size
            most = max(most, sum(held.values()))
    return most
