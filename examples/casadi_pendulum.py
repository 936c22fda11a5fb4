"""The swing-up of a pendulum whose dynamics are a network inside CasADi.

The motor is too weak to lift the pendulum at once, so it has to swing. A network has learned one
time step from data, enters CasADi as a callback, and IPOPT gets its exact Hessians. The same
network written in CasADi's symbols, which CasADi differentiates by itself, is the comparison.

    pip install 'hessarray[examples,casadi]'
    python examples/casadi_pendulum.py --out pendulum.png
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import casadi
import numpy as np

import hessarray as ha

HORIZON, STEPS = 10.0, 50  # in units of sqrt(length / gravity)
H = HORIZON / STEPS
START, END = np.array([0.0, 0.0]), np.array([np.pi, 0.0])  # angle from hanging, its speed
STRONGEST = 0.5  # of the torque that holds the pendulum level


def rates(x: np.ndarray, u: np.ndarray) -> np.ndarray:
    """Speed and acceleration of the pendulum, (..., 2)."""
    return np.stack([x[..., 1], u - np.sin(x[..., 0])], axis=-1)


def step(x: np.ndarray, u: np.ndarray, inner: int = 8) -> np.ndarray:
    """The pendulum itself, one step on: Runge-Kutta."""
    h = H / inner
    for _ in range(inner):
        k1 = rates(x, u)
        k2 = rates(x + h / 2 * k1, u)
        k3 = rates(x + h / 2 * k2, u)
        x = x + h / 6 * (k1 + 2 * k2 + 2 * k3 + rates(x + h * k3, u))
    return x


def learned_step(width: int = 200) -> tuple[ha.Network, float]:
    """A network (angle, speed, torque) -> change of the first two, and its largest error."""
    rng = np.random.default_rng(0)

    def samples(n: int) -> tuple[np.ndarray, np.ndarray]:
        x = rng.uniform([-2.5, -2.5, -STRONGEST], [4.0, 2.5, STRONGEST], (n, 3))
        return x, step(x[:, :2], x[:, 2]) - x[:, :2]

    hidden = ha.Dense(3, width, act="tanh", seed=1)
    x, change = samples(4000)
    features = np.column_stack([ha.Network(hidden).value(x), np.ones(len(x))])
    # Only the last layer is fitted, so that no training library is needed.
    solution = np.linalg.lstsq(features, change, rcond=1e-12)[0]
    last = ha.Dense(width, 2)
    last.K, last.b = solution[:-1], solution[-1]
    net = ha.Network(hidden, last)
    x, change = samples(1000)
    return net, float(np.abs(net.value(x) - change).max())


def in_symbols(net: ha.Network) -> casadi.Function:
    """The same network in CasADi's own operations."""
    K1, b1, K2, b2 = (casadi.DM(np.array(a)) for a in net.parameters().values())
    x = casadi.MX.sym("x", 3)
    return casadi.Function("symbols", [x], [K2.T @ casadi.tanh(K1.T @ x + b1) + b2])


def solve(change: Callable[[Any], Any], options: dict[str, Any]) -> dict[str, Any]:
    """Multiple shooting: states and controls are unknowns, steps are equations."""
    x = casadi.MX.sym("x", 2, STEPS + 1)
    u = casadi.MX.sym("u", 1, STEPS)
    gaps = [x[:, k] + change(casadi.vertcat(x[:, k], u[:, k])) - x[:, k + 1] for k in range(STEPS)]
    problem = {
        "x": casadi.vertcat(casadi.vec(x), casadi.vec(u)),
        "f": H * casadi.sumsqr(u),
        "g": casadi.vertcat(*gaps),
    }
    quiet = {"ipopt.print_level": 0, "ipopt.sb": "yes", "print_time": False, "ipopt.tol": 1e-8}
    solver = casadi.nlpsol("control", "ipopt", problem, {**quiet, **options})
    free = np.full(2 * STEPS - 2, np.inf)
    guess = np.concatenate([np.linspace(START, END, STEPS + 1).reshape(-1), np.zeros(STEPS)])
    strongest = np.full(STEPS, STRONGEST)
    began = time.perf_counter()
    found = solver(
        x0=guess,
        lbg=0,
        ubg=0,
        lbx=np.concatenate([START, -free, END, -strongest]),
        ubx=np.concatenate([START, free, END, strongest]),
    )
    best = found["x"].full()[:, 0]
    return {
        "seconds": time.perf_counter() - began,
        "cost": float(found["f"]),
        "iterations": solver.stats()["iter_count"],
        "success": solver.stats()["success"],
        "x": best[: 2 * STEPS + 2].reshape(-1, 2),
        "u": best[2 * STEPS + 2 :],
    }


def main(arguments: Sequence[str] | None = None) -> None:
    """Command line: control through the network, three ways, and draw the motion."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--out", type=Path, default=Path("casadi_pendulum.png"), help="picture")
    options = parser.parse_args(arguments)
    from rich.console import Console
    from rich.table import Table

    net, error = learned_step()
    print(f"learned time step: largest error {error:.1e}\n")
    callback = ha.casadi_function(net)  # kept until the last solver is done
    without = {"ipopt.hessian_approximation": "limited-memory"}
    ways = {
        "hessarray, exact Hessian": (callback, {}),
        "CasADi's own derivatives": (in_symbols(net), {}),
        "hessarray, L-BFGS": (callback, without),
    }
    runs = {name: solve(*way) for name, way in ways.items()}
    table = Table("derivatives", "effort", "converged", "iterations", "seconds")
    for name, r in runs.items():
        done = "yes" if r["success"] else "no"
        table.add_row(name, f"{r['cost']:.8f}", done, str(r["iterations"]), f"{r['seconds']:.2f}")
    Console(width=100).print(table)
    best = runs["hessarray, exact Hessian"]
    states = [START]
    for u in best["u"]:
        states.append(step(states[-1], u))
    away = np.abs(np.array(states) - best["x"]).max()
    print(f"\nthe pendulum itself stays within {away:.1e} of the plan")
    save_picture(options.out, best, np.array(states))
    print(f"picture: {options.out}")


def save_picture(path: Path, plan: dict[str, Any], states: np.ndarray) -> None:
    """The planned motion, the pendulum under the same control, and the control."""
    import matplotlib as mpl

    mpl.use("Agg")
    import matplotlib.pyplot as plt

    t = np.linspace(0, HORIZON, STEPS + 1)
    figure, (top, bottom) = plt.subplots(2, 1, figsize=(7, 6), sharex=True, layout="constrained")
    for i, (name, colour) in enumerate((("angle", "tab:blue"), ("speed", "tab:orange"))):
        top.plot(t, plan["x"][:, i], color=colour, label=f"{name}, planned with the network")
        top.plot(t, states[:, i], "o", color=colour, ms=3.5, mfc="none", label=f"{name}, real")
    bottom.stairs(plan["u"], t, baseline=None, color="tab:red", linewidth=1.8)
    bottom.set(xlabel="time / sqrt(length / gravity)", ylabel="torque / (mass gravity length)")
    top.set_ylabel("angle [rad], speed")
    top.legend()
    for axis in (top, bottom):
        axis.grid(alpha=0.3)
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=150)
    plt.close(figure)


if __name__ == "__main__":
    main()
