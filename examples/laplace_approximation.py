"""How sure is a network of what it says? Its variance by the Laplace approximation.

A small network is fitted to noisy values of a curve, with a gap in the middle. At the fitted
weights the posterior is taken for a Gaussian whose inverse covariance is the Gauss-Newton matrix of
the loss plus that of the prior,

    covariance = (H + lambda I)^-1,   variance of f(x) = J (H + lambda I)^-1 J^T,   J = df/dtheta

(MacKay, A practical Bayesian framework for backpropagation networks, 1992). Matrix and Jacobian are
closed forms; the same variance comes from products alone, by conjugate gradients.

    pip install 'hessarray[examples]'
    python examples/laplace_approximation.py --out laplace.png
"""

from __future__ import annotations

import argparse
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

import hessarray as ha
from hessarray.curvature import (
    Loss,
    gauss_newton_matrix,
    gauss_newton_operator,
    loss_gradient,
    loss_hessian_matrix,
    loss_value,
    model_gradient_dict,
    solve,
)

NOISE = 0.1  # standard deviation of a measurement
PRIOR = 1.0  # lambda: one over the variance of a weight before there were data
GAP = (-1.0, 1.2)  # without data
RANGE = (-3.0, 3.0)  # of the data


def misfit(f, t):
    """Minus the log likelihood of one measurement, without its constant."""
    return np.sum((f - t) ** 2) / (2 * NOISE**2)


LOSS = Loss(misfit, "sum")


def curve(x: np.ndarray) -> np.ndarray:
    """The truth."""
    return np.sin(2 * x) + 0.4 * x


def measurements(n: int = 60) -> tuple[np.ndarray, np.ndarray]:
    """Noisy values on both sides of the gap, (n, 1) each."""
    rng = np.random.default_rng(0)
    left = rng.uniform(RANGE[0], GAP[0], (n // 2, 1))
    right = rng.uniform(GAP[1], RANGE[1], (n - n // 2, 1))
    x = np.concatenate([left, right])
    return x, curve(x) + NOISE * rng.normal(size=x.shape)


def in_one(parts: Mapping[str, np.ndarray], lead: Sequence[int] = ()) -> np.ndarray:
    """What was given by name as (*lead, p), in the order of the parameters."""
    return np.concatenate([a.reshape(*lead, -1) for a in parts.values()], axis=-1)


def positive_definite(matrix: np.ndarray) -> bool:
    """Whether it has a Cholesky factor."""
    try:
        np.linalg.cholesky(matrix)
    except np.linalg.LinAlgError:
        return False
    return True


def fit(
    net: ha.Network, loss: Loss, x: np.ndarray, t: np.ndarray, prior: float, most: int = 400
) -> tuple[float, int]:
    """Minimise loss + prior/2 |theta|^2 by damped Newton steps; its value and their number.

    The Hessian is exact, so that the last steps converge quadratically; damping makes it positive
    definite before. Parameters are replaced in the network itself, which is then traced once.
    """

    def objective(theta: np.ndarray) -> float:
        net.load_parameter_vector(theta)
        return float(loss_value(net, loss, x, t) + prior / 2 * theta @ theta)

    theta, damping = net.parameter_vector(), 1.0
    value = objective(theta)
    for step in range(most):
        slope = in_one(loss_gradient(net, loss, x, t)) + prior * theta
        if np.abs(slope).max() <= 1e-9 * (1 + abs(value)):
            return value, step
        H = loss_hessian_matrix(net, loss, x, t)
        while damping < 1e12:
            damped = H + (prior + damping) * np.eye(theta.size)
            if positive_definite(damped):
                moved = theta - np.linalg.solve(damped, slope)
                new = objective(moved)
                if new <= value + 1e-12 * abs(value):
                    break
            damping = max(4 * damping, 1e-3)
        theta, value, damping = moved, new, damping / 8
    return value, most


def variance(net: ha.Network, x: np.ndarray, t: np.ndarray, at: np.ndarray) -> np.ndarray:
    """J (H + lambda I)^-1 J^T at each of the points ``at``, from the matrix."""
    J = in_one(model_gradient_dict(net, at), (len(at),))
    H = gauss_newton_matrix(net, LOSS, x, t)
    return np.sum(J * np.linalg.solve(H + PRIOR * np.eye(len(H)), J.T).T, axis=1)


def variance_by_products(
    net: ha.Network, x: np.ndarray, t: np.ndarray, at: np.ndarray
) -> tuple[np.ndarray, int]:
    """The same without the matrix, and how many products it took."""
    J = in_one(model_gradient_dict(net, at), (len(at),))
    H = gauss_newton_operator(net, LOSS, x, t)
    found = solve(H, J.T, damping=PRIOR, tolerance=1e-8)
    return np.sum(J * found.solution.T, axis=1), found.products


def main(arguments: Sequence[str] | None = None) -> None:
    """Command line: fit, say how sure the network is and where, and draw the band."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--out", type=Path, default=Path("laplace.png"), help="picture")
    options = parser.parse_args(arguments)

    x, t = measurements()
    net = ha.Network(ha.Dense(1, 10, act="tanh"), ha.Dense(10, 10, act="tanh"), ha.Dense(10, 1))
    net.initialize(np.random.default_rng(0), "float64")
    value, steps = fit(net, LOSS, x, t, PRIOR)
    count = net.parameter_vector().size
    error = np.sqrt(np.mean((net.value(x) - t) ** 2))
    print(f"{count} parameters after {steps} Newton steps: penalised loss {value:.3f}")
    print(f"root mean square error {error:.3f}, noise {NOISE}\n")

    grid = np.linspace(2 * RANGE[0], 2 * RANGE[1], 241)[:, None]
    spread = np.sqrt(variance(net, x, t, grid))
    inside = (grid[:, 0] >= RANGE[0]) & (grid[:, 0] <= RANGE[1])
    gap = (grid[:, 0] > GAP[0]) & (grid[:, 0] < GAP[1])
    for name, where in (("at the data", inside & ~gap), ("in the gap", gap), ("beyond", ~inside)):
        print(f"deviation of f {name + ',':12} mean {spread[where].mean():.3f}")
    away = np.abs(net.value(grid)[:, 0] - curve(grid)[:, 0])
    share = np.mean(away[inside] <= 2 * spread[inside])
    print(f"the true curve is within two deviations at {share:.0%} of the points within the data")

    few = grid[::24]
    by_products, products = variance_by_products(net, x, t, few)
    apart = np.abs(by_products / spread[::24] ** 2 - 1).max()
    print(f"\nat {len(few)} points by {products} products, no matrix: to {apart:.0e} the same")
    save_picture(options.out, x, t, grid[:, 0], net.value(grid)[:, 0], spread)
    print(f"picture: {options.out}")


def save_picture(
    path: Path, x: np.ndarray, t: np.ndarray, grid: np.ndarray, f: np.ndarray, spread: np.ndarray
) -> None:
    """Data, truth, fit, and the band of two deviations of f and of a measurement."""
    import matplotlib as mpl

    mpl.use("Agg")
    import matplotlib.pyplot as plt

    figure, axis = plt.subplots(figsize=(8, 4.5), layout="constrained")
    whole = np.sqrt(spread**2 + NOISE**2)
    for sigma, shade, name in ((whole, 0.15, "a measurement"), (spread, 0.3, "f")):
        label = f"two deviations of {name}"
        axis.fill_between(
            grid, f - 2 * sigma, f + 2 * sigma, color="tab:blue", alpha=shade, lw=0, label=label
        )
    axis.plot(grid, f, color="tab:blue", label="network")
    axis.plot(grid, curve(grid), "k--", lw=1, label="truth")
    axis.plot(x[:, 0], t[:, 0], ".", color="tab:red", label="measured")
    axis.set(xlabel="x", ylabel="f", ylim=(curve(grid).min() - 2.5, curve(grid).max() + 2.5))
    axis.legend(loc="upper left")
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=150)
    plt.close(figure)


if __name__ == "__main__":
    main()
