"""The solvers' examples run, reach the optimum of plain autodiff, and save their pictures."""

from __future__ import annotations

import importlib.util
import re
import subprocess
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest

FOLDER = Path(__file__).parents[1] / "examples"


def needs(*packages: str) -> Any:
    absent = [p for p in packages if importlib.util.find_spec(p) is None]
    return pytest.mark.skipif(bool(absent), reason=f"{', '.join(absent)}: not installed")


def load(name: str, monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    monkeypatch.syspath_prepend(str(FOLDER))
    spec = importlib.util.spec_from_file_location(name, FOLDER / f"{name}.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    monkeypatch.setitem(sys.modules, name, module)  # dataclasses look there
    spec.loader.exec_module(module)
    return module


def run(name: str, tmp_path: Path, *arguments: str) -> dict[str, list[float]]:
    """Run a script; the numbers in its table, by row, once its picture is there."""
    picture = tmp_path / "deep" / "picture.png"
    command = [sys.executable, str(FOLDER / f"{name}.py"), *arguments, "--out", str(picture)]
    done = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path, timeout=300)
    assert done.returncode == 0, done.stderr
    assert picture.read_bytes().startswith(b"\x89PNG")
    assert picture.stat().st_size > 15_000
    assert str(picture) in done.stdout
    rows = [line.strip("│ ").split("│") for line in done.stdout.splitlines() if "│" in line]
    return {
        row[0].strip(): [float(c) for c in row[1:] if re.fullmatch(r"\s*[-+.e\d]+\s*", c)]
        for row in rows
    }


@needs("cyipopt", "rich")
def test_batch_reactor(tmp_path: Path) -> None:
    rows = run("ipopt_batch_reactor", tmp_path)
    exact, quasi = rows["exact Hessian"], rows["L-BFGS"]
    assert exact[0] == pytest.approx(quasi[0], abs=1e-7)
    assert exact[0] == pytest.approx(rows["L-BFGS, IPOPT's differences"][0], abs=1e-4)
    assert exact[1] < quasi[1]


@needs("cyipopt", "jax")
def test_batch_reactor_has_the_optimum_of_plain_autodiff(monkeypatch: pytest.MonkeyPatch) -> None:
    import cyipopt
    import jax
    import jax.numpy as jnp

    example = load("ipopt_batch_reactor", monkeypatch)
    net, _ = example.learned_step()
    K1, b1, K2, b2 = (np.asarray(a) for a in net.parameters().values())

    def outputs(u: Any) -> Any:
        state = jnp.array([1.0, 0.0])
        for k in range(example.STEPS):
            x = jnp.concatenate([state, u[k : k + 1]])
            state = state + jnp.tanh(x @ K1 + b1) @ K2 + b2
        return jnp.stack([-state[1], jnp.sum((u[1:] - u[:-1]) ** 2)])

    with jax.enable_x64(True):
        value, jacobian = jax.jit(outputs), jax.jit(jax.jacfwd(outputs))
        hessian = jax.jit(jax.hessian(outputs))
        options = {"print_level": 0, "sb": "yes", "tol": 1e-8}
        limit = {
            "type": "ineq",
            "fun": lambda u: example.CHANGE - np.asarray(value(u))[1:],
            "jac": lambda u: -np.asarray(jacobian(u))[1:],
            "hess": lambda u, v: -np.asarray(hessian(u))[1] * v[0],
        }
        theirs = cyipopt.minimize_ipopt(
            lambda u: float(value(u)[0]),
            np.zeros(example.STEPS),
            jac=lambda u: np.asarray(jacobian(u))[0],
            hess=lambda u: np.asarray(hessian(u))[0],
            bounds=[(-1, 1)] * example.STEPS,
            constraints=[limit],
            options=dict(options),  # which cyipopt changes
        )
    problem = example.ha.ipopt_problem(
        example.make_model(net), 0, constraints=1, cu=example.CHANGE, lb=-1, ub=1
    )
    u, info = problem.solve(np.zeros(example.STEPS), **options)
    assert info["status"] == theirs.status == 0
    assert info["obj_val"] == pytest.approx(theirs.fun, abs=1e-8)
    np.testing.assert_allclose(u, theirs.x, atol=1e-4)


@needs("casadi", "rich")
def test_pendulum(tmp_path: Path) -> None:
    rows = run("casadi_pendulum", tmp_path)
    exact, own = rows["hessarray, exact Hessian"], rows["CasADi's own derivatives"]
    quasi = rows["hessarray, L-BFGS"]
    assert exact[0] == pytest.approx(own[0], abs=1e-7)
    assert exact[0] == pytest.approx(quasi[0], abs=1e-5)
    assert exact[1] < quasi[1]


@needs("pyomo", "cyipopt", "rich")
def test_reactors(tmp_path: Path) -> None:
    rows = run("pyomo_reactors", tmp_path)
    exact, quasi = rows["exact Hessian"], rows["L-BFGS"]
    assert exact[0] == pytest.approx(quasi[0], abs=1e-5)
    # Either may take fewer: the last digits of the fitted layer decide how often IPOPT restores
    # feasibility.
    assert max(exact[1], quasi[1]) < 40


@needs("neuralfoil", "cyipopt", "rich")
def test_neuralfoil_design(tmp_path: Path) -> None:
    rows = run("neuralfoil_design", tmp_path, "--iterations", "60")
    exact, quasi = rows["IPOPT, exact Hessian"], rows["IPOPT, L-BFGS"]
    assert exact[0] > 170  # from 99
    assert exact[1] < 1e-6
    assert exact[2] < 50 < quasi[2]
    assert {"trust-constr, exact Hessian", "trust-constr, differences"} <= set(rows)


@needs("neuralfoil")
def test_neuralfoil_design_has_right_derivatives(monkeypatch: pytest.MonkeyPatch) -> None:
    example = load("neuralfoil_design", monkeypatch)
    problem = example.make_problem("xxsmall", 1e6, "2412")
    assert example.ha.check_derivatives(problem.model, problem.start)


def test_thickness_is_that_of_the_outline(monkeypatch: pytest.MonkeyPatch) -> None:
    example = load("neuralfoil_design", monkeypatch)
    shape, _, _ = example.sweep.fit_kulfan(example.sweep.naca4("2412"))
    x, upper, lower = example.outline(shape)
    np.testing.assert_allclose(example.thickness_matrix(x) @ shape, upper - lower, atol=1e-14)
    assert (upper - lower).max() == pytest.approx(0.12, abs=1e-3)


@needs("neuralfoil")
@pytest.mark.parametrize(
    ("arguments", "message"),
    [(["--model-size", "huge"], "xxxlarge"), (["--airfoil", "23012"], "four digits")],
)
def test_a_wrong_choice_is_one_sentence(
    arguments: list[str], message: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(SystemExit, match=message):
        load("neuralfoil_design", monkeypatch).main(arguments)
