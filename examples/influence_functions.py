"""Which measurement moves a prediction? Influence functions against leaving each one out.

To first order, a sample i that is left out of the fit moves the prediction f at x by

    f(x; without i) - f(x)  =  J (H + lambda I)^-1 g_i,    J = df/dtheta,   g_i = dl_i/dtheta

(Cook and Weisberg, Residuals and influence in regression, 1982; Koh and Liang, Understanding
black-box predictions via influence functions, 2017). One product with the inverse of the exact
Hessian, (H + lambda I)^-1 J^T, by conjugate gradients, answers for all samples. The network is then
fitted anew without each of them to see what really happens.

    pip install 'hessarray[examples]'
    python examples/influence_functions.py --out influence.png
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from laplace_approximation import fit, in_one

import hessarray as ha
from hessarray.curvature import (
    Loss,
    Solution,
    loss_hessian_operator,
    model_gradient_dict,
    solve,
)

PRIOR = 0.02  # lambda
OUTLIERS = (7, 31)  # measured wrongly


def misfit(f, t):
    """One sample's squared error, times its weight; a target is the pair of value and weight."""
    return t[1] * np.sum((f - t[0]) ** 2)


LOSS = Loss(misfit, "sum")


def measurements(n: int = 40) -> tuple[np.ndarray, np.ndarray]:
    """x (n, 1), and t (n, 2): noisy values of a curve, two of them wrong, each of weight one."""
    rng = np.random.default_rng(0)
    x = np.sort(rng.uniform(-2, 2, n))
    value = np.sin(2 * x) + 0.1 * rng.normal(size=n)
    value[list(OUTLIERS)] += [0.8, -0.8]
    return x[:, None], np.stack([value, np.ones(n)], axis=1)


def influences(
    net: ha.Network, x: np.ndarray, t: np.ndarray, at: np.ndarray
) -> tuple[np.ndarray, Solution]:
    """By how much f at the one point ``at`` would move without each of the samples, (n,)."""
    J = in_one(model_gradient_dict(net, at, is_batch=False), (1,))[0]
    H = loss_hessian_operator(net, LOSS, x, t)
    found = solve(H, J, damping=PRIOR, tolerance=1e-10)
    residuals = net.value(x)[:, 0] - t[:, 0]
    gradients = 2 * residuals[:, None] * in_one(model_gradient_dict(net, x), (len(x),))
    return gradients @ found.solution, found


def left_out(net: ha.Network, x: np.ndarray, t: np.ndarray, at: np.ndarray) -> np.ndarray:
    """By how much f at ``at`` moves when the network is fitted again without each sample, (n,)."""
    theta, before = net.parameter_vector(), net.value(at)[0]
    moved = np.empty(len(x))
    for i in range(len(x)):
        without = t.copy()
        without[i, 1] = 0.0
        net.load_parameter_vector(theta)
        fit(net, LOSS, x, without, PRIOR)
        moved[i] = net.value(at)[0] - before
    net.load_parameter_vector(theta)
    return moved


def main(arguments: Sequence[str] | None = None) -> None:
    """Command line: fit, foretell each sample's influence, leave it out, compare, and draw."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--at", type=float, default=0.3, help="the point of the prediction")
    parser.add_argument("--out", type=Path, default=Path("influence.png"), help="picture")
    options = parser.parse_args(arguments)

    x, t = measurements()
    at = np.array([options.at])
    net = ha.Network(ha.Dense(1, 8, act="tanh"), ha.Dense(8, 1))
    net.initialize(np.random.default_rng(0), "float64")
    value, steps = fit(net, LOSS, x, t, PRIOR)
    count = net.parameter_vector().size
    print(f"{count} parameters after {steps} Newton steps: penalised loss {value:.4f}")
    print(f"f({options.at}) = {net.value(at)[0]:.4f}\n")

    foretold, found = influences(net, x, t, at)
    print(f"{len(x)} influences by {found.products} products with the Hessian")
    moved = left_out(net, x, t, at)
    print(" sample       x   foretold   left out")
    for i in np.argsort(-np.abs(foretold))[:6]:
        print(f"{i:7}  {x[i, 0]:6.2f}  {foretold[i]:9.4f}  {moved[i]:9.4f}")
    print(f"correlation {np.corrcoef(foretold, moved)[0, 1]:.4f}")
    save_picture(options.out, net, x, t, at, foretold, moved)
    print(f"picture: {options.out}")


def save_picture(
    path: Path,
    net: ha.Network,
    x: np.ndarray,
    t: np.ndarray,
    at: np.ndarray,
    foretold: np.ndarray,
    moved: np.ndarray,
) -> None:
    """The samples in the colour of their influence, and what was foretold against what happened."""
    import matplotlib as mpl

    mpl.use("Agg")
    import matplotlib.pyplot as plt

    figure, (left, right) = plt.subplots(1, 2, figsize=(10, 4.2), layout="constrained")
    grid = np.linspace(-2.2, 2.2, 200)[:, None]
    left.plot(grid, net.value(grid), color="0.6", zorder=0)
    most = np.abs(foretold).max()
    dots = left.scatter(
        x[:, 0], t[:, 0], c=foretold, cmap="coolwarm", vmin=-most, vmax=most, edgecolor="0.3"
    )
    figure.colorbar(dots, ax=left, label=f"influence on f({at[0]:g})")
    left.plot(at, net.value(at), "k*", ms=12, label="prediction")
    left.set(xlabel="x", ylabel="f")
    left.legend()
    ends = [min(foretold.min(), moved.min()), max(foretold.max(), moved.max())]
    right.plot(ends, ends, color="0.6", lw=1)
    right.plot(foretold, moved, "o", color="tab:blue", ms=5)
    right.set(xlabel="foretold by influence functions", ylabel="change when left out")
    for axis in (left, right):
        axis.grid(alpha=0.3)
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=150)
    plt.close(figure)


if __name__ == "__main__":
    main()
