"""Three stirred tanks in a row, designed in Pyomo through a network as a grey box.

Cyclopentadiene becomes cyclopentenol, which is sold, and then by-products (van de Vusse's
reactions, with the constants of Klatt and Engell, Comput. Chem. Eng. 22, 1998). A network has
learned one tank in steady state; three of them in a row, with the profit at their end, are one grey
box for Pyomo. IPOPT chooses the flow and the three temperatures.

    pip install 'hessarray[examples,pyomo,ipopt]'
    python examples/pyomo_reactors.py --out reactors.png

Pyomo's own call of IPOPT needs pynumero's compiled library (conda install pynumero_libraries).
Without it the block is passed to IPOPT by itself, which this model allows: all else are bounds.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyomo.environ as pyo
from pyomo.contrib.pynumero.algorithms.solvers.cyipopt_solver import CyIpoptSolver
from pyomo.contrib.pynumero.asl import AmplInterface
from pyomo.contrib.pynumero.interfaces.cyipopt_interface import CyIpoptNLP
from pyomo.contrib.pynumero.interfaces.external_grey_box import ExternalGreyBoxBlock
from pyomo.contrib.pynumero.interfaces.pyomo_grey_box_nlp import (
    PyomoNLPWithGreyBoxBlocks,
    _ExternalGreyBoxAsNLP,
)

import hessarray as ha

TANKS = 3
FEED = 5.1  # mol / L
INPUTS = ("flow", *(f"T{i + 1}" for i in range(TANKS)))  # in [-1, 1]
LOW = np.array([10.0, 80.0, 80.0, 80.0])  # 1 / h for each tank, then degrees Celsius
HIGH = np.array([80.0, 130.0, 130.0, 130.0])
LEFT = 2.0  # mol / L: at most so much of the feed may leave unused


def tank(state: np.ndarray, flow: np.ndarray, celsius: np.ndarray) -> np.ndarray:
    """The tank itself: concentrations (A, B) that leave of those that enter, (..., 2) [mol / L]."""
    kelvin = celsius + 273.15
    first = 1.287e12 * np.exp(-9758.3 / kelvin)  # A -> B and B -> C alike [1 / h]
    side = 9.043e9 * np.exp(-8560 / kelvin)  # 2 A -> D [L / mol / h]
    p = flow + first
    a = 2 * flow * state[..., 0] / (p + np.sqrt(p**2 + 4 * side * flow * state[..., 0]))
    return np.stack([a, (flow * state[..., 1] + first * a) / p], axis=-1)


def learned_tank(width: int = 160) -> tuple[ha.Network, float]:
    """A network (A, B, flow, T), all scaled, to (A, B), and its largest error on new data."""
    rng = np.random.default_rng(0)

    def samples(n: int) -> tuple[np.ndarray, np.ndarray]:
        x = rng.uniform([0, 0, -1, -1], [1, 0.5, 1, 1], (n, 4))
        flow, celsius = (LOW[:2] + (x[:, 2:] + 1) / 2 * (HIGH - LOW)[:2]).T
        return x, tank(FEED * x[:, :2], flow, celsius) / FEED

    hidden = ha.Dense(4, width, act="tanh", seed=1)
    x, out = samples(6000)
    features = np.column_stack([ha.Network(hidden).value(x), np.ones(len(x))])
    # Only the last layer is fitted, so that no training library is needed.
    solution = np.linalg.lstsq(features, out, rcond=1e-12)[0]
    last = ha.Dense(width, 2)
    last.K, last.b = solution[:-1], solution[-1]
    net = ha.Network(hidden, last)
    x, out = samples(1000)
    return net, FEED * float(np.abs(net.value(x) - out).max())


def make_model(net: ha.Network) -> ha.Function:
    """Flow and temperatures, scaled (4,), to minus the profit, and to A and B at the end."""

    def outputs(x: Any) -> Any:
        xp = x.__array_namespace__()
        state = xp.asarray(np.array([1.0, 0.0]))
        for i in range(TANKS):
            state = net(xp.concat([state, x[:1], x[i + 1 : i + 2]]))
        a, b = FEED * state[0], FEED * state[1]
        flow = LOW[0] + (x[0] + 1) / 2 * (HIGH[0] - LOW[0])
        heating, pumping = 0.5 * xp.sum((x[1:] + 1) ** 2), (x[0] + 1) ** 2
        return xp.stack([0.02 * flow * (FEED - 8 * b) + heating + pumping, a, b])

    fn = ha.Function(outputs, in_shape=(1 + TANKS,))
    fn.output_names = ("loss", "A", "B")
    return fn


def build(model: ha.Function) -> Any:
    """The Pyomo model: the grey box, bounds, and the objective."""
    whole = pyo.ConcreteModel()
    whole.tanks = ExternalGreyBoxBlock()
    whole.tanks.set_external_model(ha.pyomo_model(model, input_names=INPUTS))
    for v in whole.tanks.inputs.values():
        v.setlb(-1.0)
        v.setub(1.0)
        v.set_value(0.0)
    start = model.value(np.zeros(1 + TANKS))
    for v, value in zip(whole.tanks.outputs.values(), start, strict=True):
        v.set_value(float(value))
    whole.tanks.outputs["A"].setub(LEFT)
    whole.objective = pyo.Objective(expr=whole.tanks.outputs["loss"])
    return whole


class LossOfBlock(_ExternalGreyBoxAsNLP):
    """The block by itself as a problem: its first output is the objective."""

    def evaluate_objective(self) -> float:
        return float(self.get_primals()[len(INPUTS)])

    def evaluate_grad_objective(self, out: Any = None) -> Any:
        gradient = np.eye(self.n_primals())[len(INPUTS)] if out is None else out
        gradient[:] = np.eye(self.n_primals())[len(INPUTS)]
        return gradient

    def get_obj_scaling(self) -> None:
        return None

    def get_primals_scaling(self) -> None:
        return None


def solve(whole: Any, **options: Any) -> tuple[np.ndarray, float, int]:
    """IPOPT through pynumero: inputs, loss, and iterations."""
    counted = [0]

    def count(_nlp: Any, _mode: int, iteration: int, *_: Any) -> bool:
        counted[0] = iteration
        return True

    nlp = (
        PyomoNLPWithGreyBoxBlocks(whole) if AmplInterface.available() else LossOfBlock(whole.tanks)
    )
    problem = CyIpoptNLP(nlp, intermediate_callback=count)
    settings = {"print_level": 0, "sb": "yes", "tol": 1e-8, "max_iter": 300, **options}
    values, info = CyIpoptSolver(problem, options=settings).solve()
    found = dict(zip(nlp.primals_names(), values, strict=True))
    x = np.array([found[f"tanks.inputs[{name}]"] for name in INPUTS])
    return x, float(info["obj_val"]), counted[0]


def save_picture(path: Path, model: ha.Function, best: np.ndarray) -> None:
    """Profit over flow and the common temperature, and the tanks' temperatures at the best."""
    import matplotlib as mpl

    mpl.use("Agg")
    import matplotlib.pyplot as plt

    s = np.linspace(-1, 1, 81)
    flow, common = np.meshgrid(s, s)
    x = np.stack([flow, common, common, common], axis=-1)
    f = model.value(x)
    real = LOW + (best + 1) / 2 * (HIGH - LOW)
    axes = LOW[0] + (s + 1) / 2 * (HIGH - LOW)[0], LOW[1] + (s + 1) / 2 * (HIGH - LOW)[1]
    figure, (left, right) = plt.subplots(1, 2, figsize=(10, 4.2), layout="constrained")
    filled = left.contourf(*axes, -f[..., 0], 24, cmap="viridis")
    left.contour(*axes, f[..., 1], [LEFT], colors="white", linestyles="--")
    figure.colorbar(filled, ax=left, label="profit, all tanks at one temperature")
    left.axvline(real[0], color="tab:red")
    left.set(xlabel="flow  [1/h]", ylabel="temperature  [°C]")
    left.set_title(f"dashed: A = {LEFT:g} mol/L at the end; red: the best flow", fontsize="small")
    right.bar(range(1, TANKS + 1), real[1:], color="tab:red", width=0.5)
    right.set(xlabel="tank", ylabel="temperature  [°C]", ylim=(LOW[1], HIGH[1]))
    right.set_xticks(range(1, TANKS + 1))
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=150)
    plt.close(figure)


def main(arguments: Sequence[str] | None = None) -> None:
    """Command line: solve with and without Hessians, compare, draw."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--out", type=Path, default=Path("pyomo_reactors.png"), help="picture")
    options = parser.parse_args(arguments)
    from rich.console import Console
    from rich.table import Table

    net, error = learned_tank()
    model = make_model(net)
    model.value_gradient_hessian(np.zeros(1 + TANKS))  # planned before anything is timed
    way = "Pyomo's model" if AmplInterface.available() else "the grey box block"
    print(f"learned tank: largest error {error:.1e} mol/L; IPOPT solves {way}\n")
    table = Table("IPOPT with", "profit", "iterations", "seconds")
    found = {}
    for name, more in (
        ("exact Hessian", {}),
        ("L-BFGS", {"hessian_approximation": "limited-memory"}),
    ):
        whole = build(model)
        began = time.perf_counter()
        found[name], loss, iterations = solve(whole, **more)
        seconds = time.perf_counter() - began
        table.add_row(name, f"{-loss:.7f}", str(iterations), f"{seconds:.2f}")
    Console(width=100).print(table)
    best = found["exact Hessian"]
    real = LOW + (best + 1) / 2 * (HIGH - LOW)
    state = np.array([FEED, 0.0])
    for celsius in real[1:]:
        state = tank(state, real[0], celsius)
    print(
        f"\nflow {real[0]:.2f} /h, tanks at {', '.join(f'{t:.1f}' for t in real[1:])} °C:", end=""
    )
    print(f" the tanks themselves end with A = {state[0]:.3f}, B = {state[1]:.3f} mol/L")
    save_picture(options.out, model, best)
    print(f"picture: {options.out}")


if __name__ == "__main__":
    main()
