"""The NeuralFoil example: equal to the published code, derivatives equal to JAX's, and it runs."""

from __future__ import annotations

import importlib.util
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest

SCRIPT = Path(__file__).parents[1] / "examples" / "neuralfoil_sweep.py"
SIZES = ("xxsmall", "xsmall", "small", "medium", "large", "xlarge", "xxlarge", "xxxlarge")

pytestmark = pytest.mark.skipif(
    importlib.util.find_spec("neuralfoil") is None,
    reason="the published weights are missing: pip install --no-deps neuralfoil",
)

# Runs the published code itself. It wants AeroSandbox (and CasADi, pandas, ...) for four functions
# and two type annotations; scipy serves only its training code.
ORACLE = """
import sys, types
import numpy as np

stub = types.ModuleType("aerosandbox.numpy")
stub.__dict__.update({name: getattr(np, name) for name in np.__all__})
stub.length = np.size
stub.sind = lambda x: np.sin(np.radians(x))
stub.cosd = lambda x: np.cos(np.radians(x))
stub.swish = lambda x: x / (1 + np.exp(-x))
aerosandbox = types.ModuleType("aerosandbox")
aerosandbox.numpy = stub
aerosandbox.Airfoil = aerosandbox.KulfanAirfoil = type("Airfoil", (), {})
scipy = types.ModuleType("scipy")
scipy.interpolate = None
sys.modules.update({"aerosandbox": aerosandbox, "aerosandbox.numpy": stub, "scipy": scipy})
from neuralfoil import get_aero_from_kulfan_parameters

source, target, *sizes = sys.argv[1:]
x, re = (np.load(source)[name] for name in ("x", "re"))
results = {}
for size in sizes:
    rows = []
    for row, one_re in zip(x, re):
        shape = dict(upper_weights=row[:8], lower_weights=row[8:16],
                     leading_edge_weight=row[16], TE_thickness=row[17])
        rows.append(get_aero_from_kulfan_parameters(
            shape, row[18], one_re, row[20], row[21], row[22], model_size=size))
    results[size] = np.array([[value.item() for value in row.values()] for row in rows])
results["names"] = np.array(list(rows[0]))
np.savez(target, **results)
"""

# aerosandbox 4.2.10: get_kulfan_parameters(get_NACA_coordinates("naca2412"))
AEROSANDBOX_2412 = [
    *(0.1769325839471, 0.1831877827716, 0.2262605855078, 0.1895973375316,
      0.2012980301753, 0.2003080728540, 0.2013378282820, 0.2085297066117),
    *(-0.1700731667456, -0.1207583709066, -0.1204467028177, -0.0658518963442,
      -0.1284965169174, -0.0522516690173, -0.0908674717621, -0.0703821263021),
    0.0489441486280,
    0.0025539055000,
]  # fmt: skip


@pytest.fixture(scope="module")
def example() -> ModuleType:
    spec = importlib.util.spec_from_file_location("neuralfoil_sweep", SCRIPT)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def inputs(example: ModuleType) -> np.ndarray:
    """Physical inputs (40, 23): four airfoils, deformed, over all the ranges that users give."""
    rng = np.random.default_rng(0)
    rows = []
    for digits in ("0012", "2412", "4412", "6409"):
        shape, tilt, chord = example.fit_kulfan(example.naca4(digits))
        alpha = np.array([-170.0, -12.0, -5.0, -1.0, 0.3, 2.0, 6.0, 11.0, 17.0, 60.0])
        x = example.sweep_inputs(shape, alpha + tilt, 1e6 * chord)
        x[:, :18] += rng.normal(scale=0.01, size=(10, 18)) * [*[1] * 17, 0.05]
        x[:, example.LN_RE] = np.log(10 ** rng.uniform(3.5, 8.5, 10))
        x[5:, example.N_CRIT] = rng.uniform(3, 14, 5)
        x[5:, example.XTR_UPPER :] = rng.uniform(0.05, 1, (5, 2))
        rows.append(x)
    return np.concatenate(rows)


@pytest.fixture(scope="module")
def published(
    example: ModuleType, inputs: np.ndarray, tmp_path_factory: pytest.TempPathFactory
) -> dict[str, np.ndarray]:
    folder = tmp_path_factory.mktemp("neuralfoil")
    np.savez(folder / "in.npz", x=inputs, re=np.exp(inputs[:, example.LN_RE]))
    files = [str(folder / "in.npz"), str(folder / "out.npz")]
    subprocess.run([sys.executable, "-c", ORACLE, *files, *SIZES], check=True)
    with np.load(folder / "out.npz") as file:
        return dict(file)


@pytest.mark.parametrize("size", SIZES)
def test_values_are_those_of_the_published_code(
    size: str, example: ModuleType, inputs: np.ndarray, published: dict[str, np.ndarray]
) -> None:
    params = example.load_parameters(size, boundary_layer=True)
    f = np.stack([example.aerodynamics(x, params) for x in inputs])
    assert f.shape == (40, 198)
    assert tuple(published["names"][:6]) == example.OUTPUTS
    np.testing.assert_allclose(f, published[size], rtol=1e-12, atol=1e-14)
    six = np.stack([example.aerodynamics(x, example.load_parameters(size)) for x in inputs])
    np.testing.assert_allclose(six, published[size][:, :6], rtol=1e-12, atol=1e-14)


def test_model_is_symmetric(example: ModuleType, inputs: np.ndarray) -> None:
    """An airfoil upside down gives the opposite lift and moment and the same drag."""
    params = example.load_parameters("medium")
    x = inputs[12]
    turned = x.copy()
    turned[:8], turned[8:16], turned[[16, 18]] = -x[8:16], -x[:8], -x[[16, 18]]
    turned[21:23] = x[[22, 21]]
    f, g = (example.aerodynamics(row, params) for row in (x, turned))
    np.testing.assert_allclose(g, f[[0, 1, 2, 3, 5, 4]] * [1, -1, 1, -1, 1, 1], rtol=1e-12)


@pytest.mark.parametrize("boundary_layer", [False, True])
def test_batched_values_are_those_of_single_samples(
    boundary_layer: bool, example: ModuleType, inputs: np.ndarray
) -> None:
    params = example.load_parameters("xlarge", boundary_layer)
    model = example.ha.Function(example.aerodynamics, in_shape=(example.D,), params=params)
    f = np.stack([example.aerodynamics(x, params) for x in inputs])
    np.testing.assert_allclose(model.value(inputs), f, rtol=1e-11, atol=1e-13)


@pytest.mark.parametrize(("size", "boundary_layer"), [("xxsmall", True), ("xlarge", False)])
def test_derivatives_are_those_of_jax(
    size: str, boundary_layer: bool, example: ModuleType, inputs: np.ndarray
) -> None:
    jax = pytest.importorskip("jax")
    params = example.load_parameters(size, boundary_layer)
    model = example.ha.Function(example.aerodynamics, in_shape=(example.D,), params=params)
    x = inputs[[3, 14, 26, 37]]
    _, df, d2f = model.value_gradient_hessian(x)

    def function(row):
        return example.aerodynamics(row, params)

    with jax.enable_x64(True):
        jacobian = np.asarray(jax.jit(jax.vmap(jax.jacfwd(function)))(x))
        hessian = np.asarray(jax.jit(jax.vmap(jax.hessian(function)))(x))
    assert hessian.dtype == np.float64
    for result, reference in (
        (df, np.moveaxis(jacobian, 1, -1)),
        (d2f, np.moveaxis(hessian, 1, -1)),
    ):
        # An output's derivatives differ by orders of magnitude; what counts is its largest.
        axes = tuple(range(1, reference.ndim - 1))
        scale = np.max(np.abs(reference), axis=axes, keepdims=True)
        assert np.max(np.abs(result - reference) / np.where(scale > 0, scale, 1)) < 1e-11


def test_lift_slope_and_curvature_against_differences(example: ModuleType) -> None:
    shape, tilt, chord = example.fit_kulfan(example.naca4("2412"))
    x = example.sweep_inputs(shape, np.array([-3.0, 1.0, 4.0, 8.0]) + tilt, 1e6 * chord)
    params = example.load_parameters("large")
    model = example.ha.Function(example.aerodynamics, in_shape=(example.D,), params=params)
    _, df, d2f = model.value_gradient_hessian(x)
    h = 1e-3
    step = h * np.eye(example.D)[example.ALPHA]
    before, at, after = (
        np.stack([example.aerodynamics(row, params) for row in rows])[:, [example.CL, example.CD]]
        for rows in (x - step, x, x + step)
    )
    a = example.ALPHA
    slope, curvature = df[:, a, 1:3], d2f[:, a, a, 1:3]
    np.testing.assert_allclose(slope, (after - before) / (2 * h), rtol=1e-5, atol=1e-8)
    np.testing.assert_allclose(curvature, (after - 2 * at + before) / h**2, rtol=1e-4, atol=1e-7)


def test_taylor_check_passes(example: ModuleType, inputs: np.ndarray) -> None:
    params = example.load_parameters("small")
    model = example.ha.Function(example.aerodynamics, in_shape=(example.D,), params=params)
    result = example.ha.check_derivatives(model, inputs[[3, 14, 26]])
    assert result.passed, str(result)


def test_kulfan_fit_is_that_of_aerosandbox(example: ModuleType) -> None:
    shape, tilt, chord = example.fit_kulfan(example.naca4("2412"))
    np.testing.assert_allclose(shape, AEROSANDBOX_2412, rtol=0, atol=1e-11)
    assert tilt == pytest.approx(0.08024741, abs=1e-8)
    assert chord == pytest.approx(1 / 0.9999219061211021, rel=1e-14)


def test_script_prints_the_lift_slope_and_saves_a_picture(tmp_path: Path) -> None:
    arguments = ["--model-size", "xxsmall", "--alpha", "-2", "6", "5", "--out", str(tmp_path)]
    done = subprocess.run(
        [sys.executable, str(SCRIPT), *arguments], check=True, capture_output=True, text=True
    )
    assert "dCL/dalpha" in done.stdout
    assert "Hessian (5, 23, 23, 6)" in done.stdout
    assert "flops" in done.stdout
    picture = (tmp_path / "neuralfoil_naca2412.png").read_bytes()
    assert picture.startswith(b"\x89PNG")
    assert len(picture) > 20_000


@pytest.mark.parametrize(
    ("arguments", "message"),
    [(["--model-size", "huge"], "xxxlarge"), (["--airfoil", "23012"], "four digits")],
)
def test_a_wrong_choice_is_one_sentence(
    arguments: list[str], message: str, example: ModuleType
) -> None:
    with pytest.raises(SystemExit, match=message):
        example.main(arguments)


def test_missing_weights_name_the_command(
    example: ModuleType, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(example.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(SystemExit, match="pip install --no-deps neuralfoil"):
        example.main([])


def test_neuralfoil_is_never_imported(example: ModuleType) -> None:
    example.load_parameters("xxsmall")
    assert "neuralfoil" not in sys.modules
