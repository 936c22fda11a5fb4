"""The temperature profile of a batch reactor, by IPOPT through a learned model of the reactor.

In A -> B -> C both reactions speed up with temperature, the second one more: to end with as much B
as possible the reactor starts hot and is cooled as B builds up (Logsdon and Biegler, Ind. Eng.
Chem. Res. 28, 1989; without a limit on the cooling the best is B = 0.6108). A small network learns
one time step from simulated data; the yield is that network applied 20 times in a row, and
hessarray differentiates all of it twice.

    pip install 'hessarray[examples,ipopt]'
    python examples/ipopt_batch_reactor.py --out reactor.png
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

import hessarray as ha

STEPS = 20
CHANGE = 0.05  # of the controls, squared and summed: what the cooling can follow
DIFFERENCES = {
    "gradient_approximation": "finite-difference-values",
    "jacobian_approximation": "finite-difference-values",
}
MIDDLE, HALF = 348.0, 50.0  # kelvin: a control u in [-1, 1] is the temperature MIDDLE + HALF u


def rates(state: np.ndarray, u: np.ndarray) -> np.ndarray:
    """Change of (A, B) per hour, (..., 2), at control u."""
    kelvin = MIDDLE + HALF * u
    first, second = 4000 * np.exp(-2500 / kelvin), 620000 * np.exp(-5000 / kelvin)
    a, b = state[..., 0], state[..., 1]
    return np.stack([-first * a**2, first * a**2 - second * b], axis=-1)


def step(state: np.ndarray, u: np.ndarray, inner: int = 8) -> np.ndarray:
    """The reactor itself, one step on: Runge-Kutta."""
    h = 1 / STEPS / inner
    for _ in range(inner):
        k1 = rates(state, u)
        k2 = rates(state + h / 2 * k1, u)
        k3 = rates(state + h / 2 * k2, u)
        state = state + h / 6 * (k1 + 2 * k2 + 2 * k3 + rates(state + h * k3, u))
    return state


def learned_step(width: int = 96) -> tuple[ha.Network, float]:
    """A network (A, B, u) -> change of (A, B) in one step, and its largest error on new data."""
    rng = np.random.default_rng(0)

    def samples(n: int) -> tuple[np.ndarray, np.ndarray]:
        x = np.column_stack([rng.uniform(0, 1, (n, 2)), rng.uniform(-1, 1, n)])
        return x, step(x[:, :2], x[:, 2]) - x[:, :2]

    hidden = ha.Dense(3, width, act="tanh", seed=1)
    x, change = samples(4000)
    features = np.column_stack([ha.Network(hidden).value(x), np.ones(len(x))])
    # Only the last layer is fitted, so that no training library is needed.
    solution = np.linalg.lstsq(features, change, rcond=1e-10)[0]
    last = ha.Dense(width, 2)
    last.K, last.b = solution[:-1], solution[-1]
    net = ha.Network(hidden, last)
    x, change = samples(1000)
    return net, float(np.abs(net.value(x) - change).max())


def make_model(net: ha.Network) -> ha.Function:
    """Controls u (20,) to minus the final B, and how much the controls change."""

    def outputs(u: Any) -> Any:
        xp = u.__array_namespace__()
        state = xp.asarray(np.array([1.0, 0.0]))
        for k in range(STEPS):
            state = state + net(xp.concat([state, u[k : k + 1]]))
        return xp.stack([-state[1], xp.sum((u[1:] - u[:-1]) ** 2)])

    return ha.Function(outputs, in_shape=(STEPS,))


def simulate(u: np.ndarray) -> np.ndarray:
    """A and B of the reactor itself after every step, (21, 2)."""
    states = [np.array([1.0, 0.0])]
    for one in u:
        states.append(step(states[-1], one))
    return np.array(states)


def main(arguments: Sequence[str] | None = None) -> None:
    """Command line: solve with and without Hessians, compare, draw the profile."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--out", type=Path, default=Path("ipopt_batch_reactor.png"), help="picture")
    options = parser.parse_args(arguments)
    from rich.console import Console
    from rich.table import Table

    net, error = learned_step()
    model = make_model(net)
    # Everything is planned before anything is timed.
    ha.ipopt_problem(model, 0, constraints=1).solve(np.zeros(STEPS), print_level=0, sb="yes")
    print(f"learned time step: largest error {error:.1e}\n")
    quasi = {"hessian_approximation": "limited-memory"}
    ways = {
        "exact Hessian": {},
        "L-BFGS": quasi,
        "L-BFGS, IPOPT's differences": {**quasi, **DIFFERENCES},
    }
    table = Table("IPOPT with", "final B", "iterations", "evaluations", "seconds")
    found = {}
    for name, way in ways.items():
        problem = ha.ipopt_problem(model, 0, constraints=1, cu=CHANGE, lb=-1, ub=1)
        began = time.perf_counter()
        u, info = problem.solve(
            np.zeros(STEPS), print_level=0, sb="yes", tol=1e-8, max_iter=200, **way
        )
        seconds = time.perf_counter() - began
        found[name] = u
        counts = str(info["iterations"]), str(problem.evaluations)
        table.add_row(name, f"{-info['obj_val']:.8f}", *counts, f"{seconds:.2f}")
    Console(width=100).print(table)
    best = found["exact Hessian"]
    print(
        f"\nthe reactor itself ends with B = {simulate(best)[-1, 1]:.5f} at this profile,", end=""
    )
    print(f" and with {simulate(np.zeros(STEPS))[-1, 1]:.5f} at {MIDDLE:.0f} K throughout")
    save_picture(options.out, best)
    print(f"picture: {options.out}")


def save_picture(path: Path, u: np.ndarray) -> None:
    """The temperatures, and what they make of A and B."""
    import matplotlib as mpl

    mpl.use("Agg")
    import matplotlib.pyplot as plt

    hours = np.linspace(0, 1, STEPS + 1)
    figure, (top, bottom) = plt.subplots(2, 1, figsize=(7, 7), sharex=True, layout="constrained")
    top.stairs(MIDDLE + HALF * u, hours, baseline=None, color="tab:red", linewidth=2)
    top.set_ylabel("temperature  [K]")
    for profile, style, name in ((u, "-", "optimum"), (np.zeros(STEPS), "--", f"{MIDDLE:.0f} K")):
        a, b = simulate(profile).T
        bottom.plot(hours, a, "tab:gray", linestyle=style, label=f"A, {name}")
        bottom.plot(hours, b, "tab:blue", linestyle=style, label=f"B, {name}")
    bottom.set(xlabel="time  [h]", ylabel="concentration, A at the start = 1")
    bottom.legend()
    for axis in (top, bottom):
        axis.grid(alpha=0.3)
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=150)
    plt.close(figure)


if __name__ == "__main__":
    main()
