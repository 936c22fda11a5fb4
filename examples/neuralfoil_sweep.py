"""NeuralFoil's published airfoil model, with exact slopes and curvatures, over an angle sweep.

NeuralFoil (P. Sharpe, https://github.com/peterdsharpe/NeuralFoil) gives lift, drag and moment of an
airfoil from a network trained on XFoil runs. The network is only the middle of the published model.
Around it stand an encoding of shape, angle and Reynolds number, a mirrored second pass, a distance
to the training data, and a decoding. This script writes the whole chain once, forward only, as
array API code of 23 physical inputs, and lets hessarray differentiate all of it.

    pip install --no-deps neuralfoil          # the weights; the package itself is never imported
    python examples/neuralfoil_sweep.py --airfoil 2412 --re 1e6 --alpha -5 15 181
"""

from __future__ import annotations

import argparse
import importlib.util
import math
import time
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

import hessarray as ha

Array = Any  # an array of any library, concrete or traced

# x = (8 upper weights, 8 lower weights, leading-edge weight, tail thickness [chord],
#      angle of attack [degrees], ln Re, n_crit, forced transition upper and lower [chord])
D = 23
TE_THICKNESS, ALPHA, LN_RE, N_CRIT, XTR_UPPER, XTR_LOWER = range(17, D)
OUTPUTS = ("analysis_confidence", "CL", "CD", "CM", "Top_Xtr", "Bot_Xtr")
CL, CD = 1, 2

# What stands around the network, as layers: first the 25 inputs of the 23 physical ones.
DEGREE, SAME = math.pi / 180, ["identity"]
ENCODING = (
    ha.Encode(*SAME * 18, [("sin", 2 * DEGREE), ("cos", DEGREE), ("sin", DEGREE)], *SAME * 4),
    ha.Encode(*SAME * 20, "square", *SAME * 4),  # published as 1 - cos^2, which cancels
    ha.Scale(
        [0.0] * 21 + [12.5, 9.0, 0.0, 0.0],
        [1.0] * 17 + [0.02, 1.0, 1.0, 1.0, 3.5, 4.5, 1.0, 1.0],
    ),
)
# Transition at an edge of the chord is a kink: the slope is zero there.
DECODING = (
    ha.Scale([0.0, 0.0, 2.0, 0.0, 0.0, 0.0], [1.0, 2.0, 0.5, 20.0, 1.0, 1.0]),
    ha.Decode("sigmoid", "identity", "exp", "identity", ("clip", 0.0, 1.0), ("clip", 0.0, 1.0)),
)

# The same flow seen upside down: upper and lower swap, and what points up changes its sign.
MIRROR_INPUTS = np.array([*range(8, 16), *range(8), *range(16, 23), 24, 23])
MIRROR_INPUTS_SIGN = np.ones(25)
MIRROR_INPUTS_SIGN[[*range(17), 18]] = -1.0
MIRROR_OUTPUTS = np.array([0, 1, 2, 3, 5, 4, *range(102, 198), *range(6, 102)])
MIRROR_OUTPUTS_SIGN = np.ones(198)
MIRROR_OUTPUTS_SIGN[[1, 3, *range(70, 102), *range(166, 198)]] = -1.0

silu = ha.activations.activation("silu")


def find_weights() -> Path:
    """Folder of the published weights, found without importing neuralfoil (it needs aerosandbox).

    Raises
    ------
    FileNotFoundError
        Where the package is not installed.
    """
    spec = importlib.util.find_spec("neuralfoil")
    if spec is None or not spec.submodule_search_locations:
        raise FileNotFoundError(
            "The published NeuralFoil weights are not installed: pip install --no-deps neuralfoil"
        )
    return Path(spec.submodule_search_locations[0]) / "nn_weights_and_biases"


def load_parameters(size: str = "xlarge", boundary_layer: bool = False) -> dict[str, np.ndarray]:
    """All numbers of the published model in float64 (the files hold float32).

    Parameters
    ----------
    size : str
        One of NeuralFoil's model sizes, ``"xxsmall"`` to ``"xxxlarge"``.
    boundary_layer : bool
        Keep all 198 outputs. Otherwise the last layer is cut to the rows of the 6 coefficients.

    Returns
    -------
    dict
        ``net.{0,2,..}.weight`` (out, in) and ``.bias`` (out,) as in the file, and the training
        data's ``mean`` (25,) and ``inverse_covariance`` (25, 25).

    Raises
    ------
    ValueError
        Where there is no such size; the message lists the sizes there are.
    """
    folder = find_weights()
    sizes = sorted(path.stem.removeprefix("nn-") for path in folder.glob("nn-*.npz"))
    if size not in sizes:
        raise ValueError(f"model size {size!r} is not published: choose one of {', '.join(sizes)}")
    with np.load(folder / f"nn-{size}.npz", allow_pickle=False) as file:
        params = {name: file[name].astype(np.float64) for name in file.files}
    if not boundary_layer:
        last = _layers(params)[-1]
        for name in (f"net.{last}.weight", f"net.{last}.bias"):
            params[name] = params[name][: len(OUTPUTS)]
    with np.load(folder / "scaled_input_distribution.npz", allow_pickle=False) as file:
        params["mean"] = file["mean_inputs_scaled"].astype(np.float64)
        params["inverse_covariance"] = file["inv_cov_inputs_scaled"]
    return params


def _layers(params: Mapping[str, Array]) -> list[int]:
    return sorted({int(name.split(".")[1]) for name in params if name.startswith("net.")})


class Published(ha.Layer):
    """The network, and its confidence corrected for the distance to the training data."""

    def __init__(self, params: Mapping[str, Array]) -> None:
        self.params, self.numbers = dict(params), _layers(params)
        super().__init__(25, params[f"net.{self.numbers[-1]}.bias"].shape[0])

    def __call__(self, u: Array) -> Array:
        xp = u.__array_namespace__()
        y = u
        for i in self.numbers:
            y = self.params[f"net.{i}.weight"] @ y + self.params[f"net.{i}.bias"]
            if i != self.numbers[-1]:
                y = silu(y)
        # Squared Mahalanobis distance: far from the data confidence falls to zero.
        r = u - self.params["mean"]
        distance = xp.sum((r @ self.params["inverse_covariance"]) * r)
        return xp.concat([xp.stack([y[0] - distance / (2 * 25)]), y[1:]])


def through(layers: Sequence[ha.Layer], u: Array) -> Array:
    """The value of layers one after another."""
    for layer in layers:
        u = layer(u)
    return u


def aerodynamics(x: Array, params: Mapping[str, Array]) -> Array:
    """NeuralFoil's ``get_aero_from_kulfan_parameters`` as one function of x (23,).

    Parameters
    ----------
    x : array (23,)
        The physical inputs, in the order given at the top of this file.
    params : mapping
        From `load_parameters`. It decides which outputs there are.

    Returns
    -------
    array (6,) or (198,)
        `OUTPUTS`; with the boundary layer also, at 32 stations of the upper and then of the lower
        surface, momentum thickness [chord], shape factor, and edge velocity over free stream.
    """
    xp = x.__array_namespace__()
    network = Published(params)
    m = network.out_features
    # The model is made symmetric: also ask for the mirrored airfoil, mirror back, and average.
    sides = MIRROR_INPUTS, MIRROR_OUTPUTS[:m], MIRROR_INPUTS_SIGN, MIRROR_OUTPUTS_SIGN[:m]
    y = through([*ENCODING, ha.Mirror(network, *sides)], x)
    coefficients = through(DECODING, y[: len(OUTPUTS)])
    if m == len(OUTPUTS):
        return coefficients
    upper, lower = _boundary_layer(y[6:102], x[LN_RE]), _boundary_layer(y[102:], x[LN_RE])
    return xp.concat([coefficients, upper, lower])


def _boundary_layer(y: Array, ln_re: Array) -> Array:
    xp = y.__array_namespace__()
    edge_velocity = y[64:]
    theta = (xp.exp(math.log(10.0) * y[:32]) - 0.1) / (xp.abs(edge_velocity) * xp.exp(ln_re))
    return xp.concat([theta, 2.6 * xp.exp(y[32:64]), edge_velocity])


def naca4(digits: str, n: int = 200) -> np.ndarray:
    """Outline (2 n - 1, 2) of a NACA 4-digit airfoil: tail, upper side, nose, lower side, tail.

    Raises
    ------
    ValueError
        Where the name is not four digits.
    """
    if len(digits) != 4 or not digits.isdigit():
        raise ValueError(f"airfoil {digits!r} is not a NACA 4-digit name: give four digits (2412)")
    camber, place, thickness = int(digits[0]) / 100, int(digits[1]) / 10, int(digits[2:]) / 100
    place = place or 0.5  # no camber, so that any place will do
    x = (1 - np.cos(np.linspace(0, math.pi, n))) / 2
    half = 0.2969 * np.sqrt(x) - 0.1260 * x - 0.3516 * x**2 + 0.2843 * x**3 - 0.1015 * x**4
    half *= 5 * thickness
    front = x <= place
    scale = camber / np.where(front, place, 1 - place) ** 2
    line = scale * (np.where(front, 0.0, 1 - 2 * place) + 2 * place * x - x**2)
    slope = np.arctan(2 * scale * (place - x))
    middle = np.stack([x, line], axis=-1)
    across = np.stack([-np.sin(slope), np.cos(slope)], axis=-1) * half[:, None]
    return np.concatenate([(middle + across)[::-1], (middle - across)[1:]])


def fit_kulfan(outline: np.ndarray) -> tuple[np.ndarray, float, float]:
    """Least-squares Kulfan (CST) shape of an airfoil, as AeroSandbox defines and fits it.

    On its chord, a surface is y(x) = sqrt(x) (1 - x) sum_i w_i B_i(x) + c x (1 - x)^8.5 +- t x / 2
    with the Bernstein polynomials B_i of degree 7 (B. Kulfan, J. Aircraft 45, 2008).

    Parameters
    ----------
    outline : array (k, 2)
        Points in the order of `naca4`, which is also that of a Selig .dat file.

    Returns
    -------
    shape : array (18,)
        8 upper weights, 8 lower weights, the leading-edge weight c and the tail's thickness t.
    tilt : float
        Angle [degrees] to add to alpha, which the model counts from nose to tail.
    chord : float
        Distance from nose to tail in the outline's unit.
    """
    points = outline @ [1, 1j]
    tail = (points[0] + points[-1]) / 2
    nose = int(np.argmax(np.abs(points - tail)))
    chord = tail - points[nose]
    points = (points - points[nose]) / chord  # moves, turns and scales at once

    x, y = points.real, points.imag
    upper = np.arange(len(x)) <= nose
    bernstein = [math.comb(7, i) * x**i * (1 - x) ** (7 - i) for i in range(8)]
    surface = np.stack(bernstein, axis=-1) * (np.sqrt(x) * (1 - x))[:, None]
    leading_edge = x * np.maximum(1 - x, 0.0) ** 8.5
    thickness = np.where(upper, x, -x) / 2
    sides = surface * upper[:, None], surface * ~upper[:, None]
    matrix = np.column_stack([*sides, leading_edge, thickness])
    shape = np.linalg.lstsq(matrix, y, rcond=None)[0]
    if shape[-1] < 0:  # surfaces must not cross at the tail
        shape = np.append(np.linalg.lstsq(matrix[:, :-1], y, rcond=None)[0], 0.0)
    return shape, -float(np.angle(chord, deg=True)), float(np.abs(chord))


def sweep_inputs(shape: np.ndarray, alpha: np.ndarray, re: float) -> np.ndarray:
    """Rows of physical inputs (n, 23), one for each angle of attack [degrees].

    Transition is free, and n_crit = 9 is XFoil's value for an average wind tunnel.
    """
    x = np.empty((len(alpha), D))
    x[:, : TE_THICKNESS + 1] = shape
    x[:, ALPHA] = alpha
    x[:, LN_RE:] = [math.log(re), 9.0, 1.0, 1.0]
    return x


def print_table(alpha: np.ndarray, f: Array, df: Array, d2f: Array, rows: int = 11) -> None:
    """Lift and drag with their slopes and curvatures in alpha, at some of the angles."""
    print("  alpha        CL  dCL/dalpha          d2CL/dalpha2       CD  dCD/dalpha  d2CD/dalpha2")
    print("    deg         -     1/deg    1/rad         1/deg2        -       1/deg        1/deg2")
    for i in np.unique(np.linspace(0, len(alpha) - 1, rows).round().astype(int)):
        lift, drag = df[i, ALPHA, CL], df[i, ALPHA, CD]
        print(
            f"{alpha[i]:7.2f} {f[i, CL]:9.4f} {lift:9.5f} {math.degrees(lift):8.4f}"
            f" {d2f[i, ALPHA, ALPHA, CL]:14.3e} {f[i, CD]:8.5f} {drag:11.3e}"
            f" {d2f[i, ALPHA, ALPHA, CD]:13.3e}"
        )


def save_picture(path: Path, title: str, alpha: np.ndarray, results: Sequence[Array]) -> None:
    """Lift and drag with slope and curvature over alpha; circles are finite differences."""
    import matplotlib as mpl

    mpl.use("Agg")
    import matplotlib.pyplot as plt

    f, df, d2f = results
    figure, axes = plt.subplots(3, 2, figsize=(10, 9), sharex=True, layout="constrained")
    quantities = (CL, "Lift", "C_L", "tab:blue"), (CD, "Drag", "C_D", "tab:red")
    for column, (k, name, s, colour) in enumerate(quantities):
        curves = f[:, k], df[:, ALPHA, k], d2f[:, ALPHA, ALPHA, k]
        labels = (
            f"${s}$",
            rf"$\mathrm{{d}}{s}/\mathrm{{d}}\alpha$  [1/deg]",
            rf"$\mathrm{{d}}^2{s}/\mathrm{{d}}\alpha^2$  [1/deg$^2$]",
        )
        for row, (curve, label) in enumerate(zip(curves, labels, strict=True)):
            axis = axes[row, column]
            axis.plot(alpha, curve, color=colour, linewidth=1.8, label="exact")
            axis.set_ylabel(label)
            axis.grid(alpha=0.3)
            if row and len(alpha) > 2:
                # np.gradient is one-sided, so less accurate, at the two ends.
                some = slice(1, -1, max(1, len(alpha) // 24))
                differences = np.gradient(curves[row - 1], alpha)[some]
                axis.plot(alpha[some], differences, "ko", mfc="none", ms=4, label="differences")
        axes[0, column].set_title(name)
        axes[2, column].set_xlabel(r"angle of attack $\alpha$  [deg]")
    thin = math.radians(2 * math.pi)
    axes[1, 0].axhline(thin, color="gray", linestyle="--", label=r"thin airfoil, $2\pi$ / rad")
    axes[1, 0].secondary_yaxis("right", functions=(np.rad2deg, np.deg2rad)).set_ylabel("[1/rad]")
    axes[1, 0].legend(fontsize="small")
    figure.suptitle(title)
    figure.savefig(path, dpi=150)
    plt.close(figure)


def main(arguments: Sequence[str] | None = None) -> None:
    """Command line: sweep one airfoil, check its derivatives, print and plot them."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--airfoil", default="2412", help="NACA 4-digit name (0012, 2412, 4412)")
    parser.add_argument("--model-size", default="xlarge", help="xxsmall .. xxxlarge")
    parser.add_argument("--re", type=float, default=1e6, help="Reynolds number of the chord")
    parser.add_argument(
        "--alpha", nargs=3, type=float, default=(-5, 15, 181), help="from, to [deg], how many"
    )
    folder = Path(__file__).parent / "output"
    parser.add_argument("--out", type=Path, default=folder, help="folder of the picture")
    options = parser.parse_args(arguments)
    if options.re <= 0 or options.alpha[2] < 1:
        parser.error("--re must be positive, and --alpha needs at least 1 angle")
    try:
        params = load_parameters(options.model_size)
        shape, tilt, chord = fit_kulfan(naca4(options.airfoil))
    except (FileNotFoundError, ValueError) as error:
        raise SystemExit(str(error)) from None

    alpha = np.linspace(*options.alpha[:2], int(options.alpha[2]))
    x = sweep_inputs(shape, alpha + tilt, options.re * chord)
    model = ha.Function(aerodynamics, in_shape=(D,), params=params)
    warnings.simplefilter("ignore", ha.KinkWarning)  # of the clipped transition: printed below
    times = [time.perf_counter()]
    for _ in range(2):  # the first call also traces the function and plans its derivatives
        f, df, d2f = model.value_gradient_hessian(x)
        times.append(time.perf_counter())
    first, again = np.diff(times) * 1e3

    title = f"NACA {options.airfoil}, Re = {options.re:,.0f}, NeuralFoil {options.model_size}"
    print(f"{title}: {len(alpha)} angles, exact derivatives through the 25-input encoding\n")
    print_table(alpha, f, df, d2f)
    i = int(np.argmax(f[:, CL] / f[:, CD]))
    print(f"\nbest glide {f[i, CL] / f[i, CD]:.1f} at {alpha[i]:.2f} deg", end=", ")
    print(f"where dCL/dlnRe = {df[i, LN_RE, CL]:.4f}", end=" and ")
    print(f"d2CL/dalpha dlnRe = {d2f[i, ALPHA, LN_RE, CL]:.3e} 1/deg")
    print(f"value {f.shape}, gradient {df.shape}, Hessian {d2f.shape}", end=" ")
    print(f"in {again:.1f} ms ({first:.0f} ms with the planning)\n")
    print(f"kinks, of transition at an edge of the chord:\n{ha.kinks(model, x, tolerance=1e-3)}\n")
    print(ha.check_derivatives(model, x[:: max(1, len(x) // 8)]))
    plan = str(model.plan(n=len(x), want=("value", "gradient", "hessian")))
    # Its costs only: the contraction path of every step is some sixty lines more.
    print("\n".join(line for line in plan.splitlines() if not line.strip().startswith("path")))

    options.out.mkdir(parents=True, exist_ok=True)
    path = options.out / f"neuralfoil_naca{options.airfoil}.png"
    save_picture(path, title, alpha, (f, df, d2f))
    print(f"\npicture: {path}")


if __name__ == "__main__":
    main()
