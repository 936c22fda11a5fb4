"""An airfoil of the highest lift-to-drag ratio, by IPOPT and trust-constr with exact Hessians.

NeuralFoil's published network gives lift, drag, moment and its own confidence for 18 shape
parameters and the angle of attack; `neuralfoil_sweep.py` writes that model as array API code. Here
it becomes the objective and the constraints of a design problem:

    maximise    CL / CD                           over 18 shape parameters and alpha
    subject to  thickness >= 12.8 % at 33 % chord, 1.4 % at 90 %, 0.4 % between nose and tail
                CM >= -0.1,  confidence >= 0.9,  waviness of the surfaces <= 0.03

Each solver gets the exact gradient and Hessian of the whole chain, then the gradient only (BFGS),
then neither (finite differences).

    pip install 'hessarray[examples,scipy,ipopt]' && pip install --no-deps neuralfoil
    python examples/neuralfoil_design.py --re 1e6 --airfoil 2412
"""

from __future__ import annotations

import argparse
import importlib.util
import math
import time
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import neuralfoil_sweep as sweep
import numpy as np
from scipy.optimize import BFGS, Bounds, minimize

import hessarray as ha

SHAPE, ALPHA = slice(0, 18), 18
D = 19
STATIONS = np.array([0.05, 0.1, 0.2, 0.33, 0.5, 0.7, 0.8, 0.9, 0.97])  # chord, front to back
THINNEST = np.array([0.004, 0.004, 0.004, 0.128, 0.004, 0.004, 0.004, 0.014, 0.004])
WAVIEST = 0.03  # sum of the squared second differences of the weights
OUTPUTS = ("loss", "CM", "confidence", "waviness", *(f"thickness {s:.0%}" for s in STATIONS))
SCALE = 100.0  # the loss is -CL / CD / SCALE, near one


def bernstein(x: np.ndarray) -> np.ndarray:
    """Kulfan's class function times Bernstein polynomials: surface (len(x), 8) per weight."""
    each = [math.comb(7, i) * x**i * (1 - x) ** (7 - i) for i in range(8)]
    return np.stack(each, axis=-1) * (np.sqrt(x) * (1 - x))[:, None]


def thickness_matrix(x: np.ndarray) -> np.ndarray:
    """Thickness at x is linear in the shape: this matrix (len(x), 18) times it."""
    surface = bernstein(x)
    return np.column_stack([surface, -surface, np.zeros(len(x)), x])


def design(z: Any, params: Mapping[str, Any], re: float) -> Any:
    """Make `OUTPUTS` of the design z (19,): shape, then alpha [degrees]."""
    xp = z.__array_namespace__()
    flow = xp.asarray(np.array([math.log(re), 9.0, 1.0, 1.0]))  # n_crit, free transition
    aero = sweep.aerodynamics(xp.concat([z, flow]), params)
    bends = [z[i + 2] - 2 * z[i + 1] + z[i] for i in (*range(6), *range(8, 14))]
    waviness = sum(b * b for b in bends)
    some = xp.stack([-aero[1] / aero[2] / SCALE, aero[3], aero[0], waviness])
    return xp.concat([some, thickness_matrix(STATIONS) @ z[:18]])


@dataclass(frozen=True)
class Problem:
    """The model with bounds on the design and on its outputs but the first."""

    model: ha.Function
    start: np.ndarray
    lb: np.ndarray
    ub: np.ndarray
    cl: np.ndarray
    cu: np.ndarray


def make_problem(size: str, re: float, digits: str) -> Problem:
    """A start from a NACA 4-digit airfoil at 4 degrees, and bounds that keep shapes real."""
    params = sweep.load_parameters(size)
    model = ha.Function(lambda z, p: design(z, p, re), in_shape=(D,), params=params)
    model.output_names = OUTPUTS
    shape, tilt, _ = sweep.fit_kulfan(sweep.naca4(digits))
    start = np.append(shape, 4.0 + tilt)
    lb = np.array([0.05, *[-0.25] * 7, *[-0.5] * 8, -0.5, 0.0005, 0.0])
    ub = np.array([*[0.6] * 8, -0.05, *[0.3] * 7, 0.5, 0.01, 10.0])
    cl = np.array([-0.1, 0.9, 0.0, *THINNEST])
    cu = np.array([np.inf, 1.0, WAVIEST, *[np.inf] * len(STATIONS)])
    return Problem(model, np.clip(start, lb, ub), lb, ub, cl, cu)


@dataclass(frozen=True)
class Run:
    """What a solver found, and what it took."""

    name: str
    z: np.ndarray
    glide: float
    violation: float
    converged: bool
    iterations: int
    evaluations: int
    seconds: float


Solver = Callable[[Problem, int], tuple[np.ndarray, bool, int, int]]


def by_ipopt(problem: Problem, most: int, **options: Any) -> tuple[np.ndarray, bool, int, int]:
    """IPOPT; the Hessian of the Lagrangian is one weighted Hessian of the network."""
    p = problem
    nlp = ha.ipopt_problem(
        p.model, "loss", constraints=OUTPUTS[1:], cl=p.cl, cu=p.cu, lb=p.lb, ub=p.ub
    )
    z, info = nlp.solve(p.start, print_level=0, sb="yes", tol=1e-7, max_iter=most, **options)
    return z, info["status"] == 0, info["iterations"], nlp.evaluations


def by_trust_constr(
    problem: Problem, most: int, jac: bool = True, hess: bool = True
) -> tuple[np.ndarray, bool, int, int]:
    """SciPy's trust-constr, with the derivatives that it is allowed to know."""
    p = problem
    f = ha.scipy_objective(p.model, "loss")
    c = ha.scipy_constraint(p.model, p.cl, p.cu, OUTPUTS[1:])
    if not jac:
        c.jac = "2-point"
    if not hess:
        c.hess = BFGS()
    found = minimize(
        f,
        p.start,
        jac=f.jac if jac else "2-point",
        hess=f.hess if hess else BFGS(),
        method="trust-constr",
        bounds=Bounds(p.lb, p.ub),
        constraints=c,
        options={"maxiter": most, "gtol": 1e-6, "xtol": 1e-8},
    )
    return found.x, found.optimality < 1e-4, found.nit, f.evaluations


def run(name: str, problem: Problem, solver: Solver, most: int) -> Run:
    """Solve, and measure."""
    began = time.perf_counter()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # BFGS: a linear constraint has no curvature
        z, converged, iterations, evaluations = solver(problem, most)
    seconds = time.perf_counter() - began
    f = problem.model.value(z)
    over = np.maximum(f[1:] - problem.cu, problem.cl - f[1:]).max()
    glide, violation = -SCALE * float(f[0]), max(float(over), 0.0)
    return Run(name, z, glide, violation, converged, iterations, evaluations, seconds)


def solvers() -> dict[str, Solver]:
    """Every solver that is here, by what it knows of the derivatives."""
    found: dict[str, Solver] = {}
    if importlib.util.find_spec("cyipopt") is not None:
        found["IPOPT, exact Hessian"] = by_ipopt
        found["IPOPT, L-BFGS"] = partial(by_ipopt, hessian_approximation="limited-memory")
    found["trust-constr, exact Hessian"] = by_trust_constr
    found["trust-constr, BFGS"] = partial(by_trust_constr, hess=False)
    found["trust-constr, differences"] = partial(by_trust_constr, jac=False, hess=False)
    return found


def print_table(runs: Sequence[Run]) -> None:
    """All runs side by side."""
    from rich.console import Console
    from rich.table import Table

    table = Table(
        "solver", "CL / CD", "violation", "converged", "iterations", "evaluations", "seconds"
    )
    for r in runs:
        table.add_row(
            r.name,
            f"{r.glide:.3f}",
            f"{r.violation:.0e}",
            "yes" if r.converged else "no",
            str(r.iterations),
            str(r.evaluations),
            f"{r.seconds:.2f}",
        )
    Console(width=110).print(table)


def outline(shape: np.ndarray, n: int = 200) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Stations x (n,) and the upper and lower surface of a Kulfan shape (18,)."""
    x = (1 - np.cos(np.linspace(0, math.pi, n))) / 2
    nose = shape[16] * x * np.maximum(1 - x, 0.0) ** 8.5
    tail = shape[17] * x / 2
    upper, lower = (bernstein(x) @ w for w in (shape[:8], shape[8:16]))
    return x, upper + nose + tail, lower + nose - tail


def save_picture(path: Path, title: str, problem: Problem, best: Run) -> None:
    """Both airfoils, and lift against drag of each over a range of angles."""
    import matplotlib as mpl

    mpl.use("Agg")
    import matplotlib.pyplot as plt

    figure, (shapes, polar) = plt.subplots(
        2, 1, figsize=(9, 8), layout="constrained", height_ratios=(1, 1.4)
    )
    designs = ("start", problem.start, "tab:gray"), ("optimum", best.z, "tab:blue")
    flow = best.z[ALPHA] + np.linspace(-6, 6, 97)
    for name, z, colour in designs:
        x, upper, lower = outline(z[SHAPE])
        shapes.plot(x, upper, color=colour, label=f"{name}, {z[ALPHA]:.2f}°")
        shapes.plot(x, lower, color=colour)
        shapes.fill_between(x, lower, upper, color=colour, alpha=0.12)
        rows = np.repeat(z[None], len(flow), axis=0)
        rows[:, ALPHA] = flow
        glide = -SCALE * problem.model.value(rows)[:, 0]
        polar.plot(flow, glide, color=colour, label=name)
        at = -SCALE * problem.model.value(z)[0]
        polar.plot(z[ALPHA], at, "o", color=colour)
        polar.annotate(f" {at:.1f}", (z[ALPHA], at), color=colour)
    shapes.set(aspect="equal", xlabel="x / chord", ylabel="y / chord")
    polar.set(xlabel=r"angle of attack $\alpha$  [deg]", ylabel="$C_L / C_D$")
    for axis in (shapes, polar):
        axis.legend()
        axis.grid(alpha=0.3)
    figure.suptitle(title)
    figure.savefig(path, dpi=150)
    plt.close(figure)


def main(arguments: Sequence[str] | None = None) -> None:
    """Command line: solve by every solver, compare, draw both airfoils."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--airfoil", default="2412", help="NACA 4-digit name of the start")
    parser.add_argument("--model-size", default="medium", help="xxsmall .. xxxlarge")
    parser.add_argument("--re", type=float, default=1e6, help="Reynolds number of the chord")
    parser.add_argument("--iterations", type=int, default=500, help="at most, of each solver")
    parser.add_argument("--out", type=Path, default=Path("neuralfoil_design.png"), help="picture")
    options = parser.parse_args(arguments)
    if options.re <= 0:
        parser.error("--re must be positive")
    try:
        problem = make_problem(options.model_size, options.re, options.airfoil)
    except (FileNotFoundError, ValueError) as error:
        raise SystemExit(str(error)) from None

    title = f"NeuralFoil {options.model_size}, Re = {options.re:,.0f}"
    problem.model.value_gradient_hessian(problem.start)  # traced and planned before any is timed
    before = -SCALE * float(problem.model.value(problem.start)[0])
    print(f"{title}: NACA {options.airfoil} at {problem.start[ALPHA]:.2f} deg has {before:.2f}\n")
    runs = [run(k, problem, s, options.iterations) for k, s in solvers().items()]
    print_table(runs)
    best = max(runs, key=lambda r: (r.violation < 1e-5, r.converged, r.glide))
    final = problem.model.value(best.z)
    active = [
        name
        for name, f, low, high in zip(OUTPUTS[1:], final[1:], problem.cl, problem.cu, strict=True)
        if min(f - low, high - f) < 1e-4
    ]
    print(f"\nbest: {best.glide:.2f} at {best.z[ALPHA]:.2f} deg, CM {final[1]:.4f},", end=" ")
    print(f"confidence {final[2]:.3f}; at their bounds: {', '.join(active)}")
    options.out.parent.mkdir(parents=True, exist_ok=True)
    save_picture(options.out, title, problem, best)
    print(f"picture: {options.out}")


if __name__ == "__main__":
    main()
