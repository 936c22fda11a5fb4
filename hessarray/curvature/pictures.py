"""Pictures of curvature: a Hessian's blocks, its spectral density, the loss along eigenvectors.

Each returns a `matplotlib.figure.Figure`, draws into `axes` where these are given, and writes the
file `path` where that is given.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from hessarray._arguments import plain, whole
from hessarray._files import replacing
from hessarray.curvature._operator import Array, missing
from hessarray.curvature.spectrum import SpectralDensity
from hessarray.errors import CurvatureError, OptionError, ShapeError

__all__ = ["loss_along", "plot_blocks", "plot_loss_along", "plot_spectrum"]

PathLike = str | Path


def plot_blocks(
    blocks: Any,
    names: Mapping[str, Any] | None = None,
    *,
    decades: float = 4.0,
    path: PathLike | None = None,
    axes: Any = None,
) -> Any:
    """A Hessian as a heat map, in a logarithmic scale of either sign, with lines between blocks.

    Parameters
    ----------
    blocks : mapping of mappings of array, or array (p, p)
        ``H["P"]["Q"]`` of shape P.shape + Q.shape, or the whole matrix.
    names : mapping, optional
        With a matrix: from each block's name to its size, or to an array of that size, such as
        ``net.parameters()``. With blocks: the order and choice of those to draw.
    decades : float
        The scale is linear below the largest entry by so many powers of ten.
    path, axes : optional
        A file to write; matplotlib axes to draw into.

    Returns
    -------
    matplotlib.figure.Figure

    Raises
    ------
    ShapeError
        Blocks are no square matrix, as those of a model with axes of samples and outputs: choose
        one of each first.
    OptionError, BackendError
        A name is unknown, the scale cannot be, or matplotlib is not installed.

    Examples
    --------
    >>> import numpy as np
    >>> from hessarray.curvature import plot_blocks
    >>> H = np.diag([1.0, 2.0, -0.01])
    >>> plot_blocks(H, {"K": 2, "b": 1}).axes[0].get_xticklabels()[0].get_text()
    'K'
    """
    if isinstance(blocks, Mapping):
        matrix, sizes = _assembled(blocks, names)
    else:
        matrix = np.asarray(plain(blocks), dtype=np.float64)
        if matrix.ndim != 2 or matrix.shape[0] != matrix.shape[1] or not matrix.size:
            raise ShapeError(f"blocks has shape {matrix.shape}, a square (p, p) is expected")
        sizes = {k: v if isinstance(v, int) else int(np.size(v)) for k, v in (names or {}).items()}
        if names is not None and sum(sizes.values()) != len(matrix):
            raise ShapeError(
                f"names add up to {sum(sizes.values())} parameters, the matrix has {len(matrix)}"
            )
    if not 0.0 < decades < np.inf:
        raise OptionError(f"decades={decades!r}: expected a positive number")
    figure, axes = _canvas(axes, (6.4, 5.4))
    from matplotlib.colors import SymLogNorm

    largest = float(np.abs(matrix).max()) or 1.0
    scale = SymLogNorm(largest * 10.0**-decades, vmin=-largest, vmax=largest)
    image = axes.imshow(matrix, cmap="RdBu_r", norm=scale, interpolation="nearest")
    edges = np.cumsum([0, *sizes.values()]) - 0.5
    for edge in edges[1:-1]:
        axes.axhline(edge, color="black", linewidth=0.5)
        axes.axvline(edge, color="black", linewidth=0.5)
    if sizes:
        places = _apart((edges[1:] + edges[:-1]) / 2, len(matrix))
        axes.set_xticks(places, list(sizes), rotation=90)
        axes.set_yticks(places, list(sizes))
        axes.tick_params(length=0.0)
    figure.colorbar(image, ax=axes, label="second derivative")
    return _saved(figure, path)


def plot_spectrum(
    density: SpectralDensity, *, path: PathLike | None = None, axes: Any = None
) -> Any:
    """The density of eigenvalues on a logarithmic axis, and ticks where its nodes lie.

    Parameters
    ----------
    density : SpectralDensity
        What `spectral_density` found.
    path, axes : optional
        A file to write; matplotlib axes to draw into.

    Returns
    -------
    matplotlib.figure.Figure

    Raises
    ------
    BackendError
        matplotlib is not installed.
    """
    figure, axes = _canvas(axes, (6.4, 3.6))
    axes.semilogy(density.grid, density.density)
    top = float(density.density.max())
    # Below the share of one eigenvalue among millions there are only the tails of Gaussians.
    axes.set_ylim(1e-7 * top, 3.0 * top)
    ticks = axes.get_xaxis_transform()
    axes.plot(density.nodes, np.full(len(density.nodes), 0.02), "|k", alpha=0.3, transform=ticks)
    axes.set_xlabel("eigenvalue")
    axes.set_ylabel("density")
    axes.grid(alpha=0.3)
    return _saved(figure, path)


def loss_along(
    loss: Callable[[Array], Any],
    parameters: Any,
    eigenvectors: Any,
    radius: float = 1.0,
    points: int = 20,
) -> tuple[Array, Array]:
    r"""The loss at :math:`\theta + t v`, or at :math:`\theta + s v_1 + t v_2`.

    Parameters
    ----------
    loss : callable
        A number, from a vector of parameters (p,).
    parameters : array (p,)
        :math:`\theta`.
    eigenvectors : array (p,), (p, 1) or (p, 2)
        One or two directions, as `eigenpairs` gives them; scaled to length 1.
    radius : float
        The largest t.
    points : int
        Steps on either side of the parameters.

    Returns
    -------
    steps : array (q,)
        q = 2 ``points`` + 1 values of t, the middle one 0.
    values : array (q,) or (q, q)
        The loss; rows are s and columns t.

    Raises
    ------
    ShapeError, OptionError
        Directions do not fit the parameters, or an option cannot be.
    CurvatureError
        The loss is finite nowhere.

    Examples
    --------
    >>> import numpy as np
    >>> from hessarray.curvature import loss_along
    >>> loss_along(lambda x: x @ x, np.zeros(3), np.eye(3)[:, 0], points=2)
    (array([-1. , -0.5,  0. ,  0.5,  1. ]), array([1.  , 0.25, 0.  , 0.25, 1.  ]))
    """
    at = np.asarray(plain(parameters))
    directions = np.asarray(plain(eigenvectors), dtype=np.float64)
    if directions.ndim == 1:
        directions = directions[:, None]
    if at.ndim != 1 or directions.shape not in ((len(at), 1), (len(at), 2)):
        raise ShapeError(
            f"eigenvectors has shape {np.shape(eigenvectors)} and parameters {at.shape}: "
            "one or two columns, each as long as the parameters, are expected"
        )
    lengths = np.linalg.norm(directions, axis=0)
    if not 0.0 < radius < np.inf:
        raise OptionError(f"radius={radius!r}: expected a positive number")
    if not (np.isfinite(lengths).all() and (lengths > 0.0).all()):
        raise OptionError("eigenvectors holds NaN, infinity or zeros only: they point nowhere")
    directions = directions / lengths
    half = whole("points", points, 1)
    steps = np.arange(-half, half + 1) * (radius / half)
    grid = np.stack(np.meshgrid(*[steps] * len(lengths), indexing="ij"), axis=-1)
    values = np.empty(grid.shape[:-1])
    for i in np.ndindex(values.shape):
        values[i] = _number(loss(at + (directions @ grid[i]).astype(at.dtype, copy=False)))
    if not np.isfinite(values).any():
        raise CurvatureError("the loss is finite nowhere on these lines: pass a smaller radius=")
    return steps, values


def plot_loss_along(
    loss: Callable[[Array], Any],
    parameters: Any,
    eigenvectors: Any,
    eigenvalues: Any = None,
    *,
    radius: float = 1.0,
    points: int = 20,
    path: PathLike | None = None,
    axes: Any = None,
) -> Any:
    r"""The loss along one eigenvector as a line, or over two as contours.

    Parameters
    ----------
    loss, parameters, eigenvectors, radius, points
        As for `loss_along`.
    eigenvalues : float or array (k,), optional
        Along one eigenvector, the parabola :math:`L + t L' + \frac{1}{2} \lambda t^2` is drawn
        beside the loss, its slope L' taken from the two points next to the middle.
    path, axes : optional
        A file to write; matplotlib axes to draw into.

    Returns
    -------
    matplotlib.figure.Figure

    Raises
    ------
    ShapeError, OptionError, CurvatureError
        As for `loss_along`.
    BackendError
        matplotlib is not installed.
    """
    steps, values = loss_along(loss, parameters, eigenvectors, radius, points)
    figure, axes = _canvas(axes, (6.4, 3.6) if values.ndim == 1 else (5.6, 4.6))
    if values.ndim == 1:
        axes.plot(steps, values, label="loss")
        if eigenvalues is not None:
            curvature, i = float(np.ravel(plain(eigenvalues))[0]), len(steps) // 2
            slope = (values[i + 1] - values[i - 1]) / (steps[i + 1] - steps[i - 1])
            model = values[i] + slope * steps + 0.5 * curvature * steps**2
            axes.plot(steps, model, "--", label=f"curvature {curvature:.4g}")
            axes.legend()
        axes.set_xlabel("step along the eigenvector")
        axes.set_ylabel("loss")
        axes.grid(alpha=0.3)
    else:
        shades = axes.contourf(steps, steps, values.T, levels=24)
        axes.contour(steps, steps, values.T, levels=12, colors="black", linewidths=0.4)
        axes.plot(0.0, 0.0, "+w")
        axes.set_xlabel("step along the first eigenvector")
        axes.set_ylabel("along the second")
        axes.set_aspect("equal")
        figure.colorbar(shades, ax=axes, label="loss")
    return _saved(figure, path)


def _assembled(
    blocks: Mapping[str, Any], names: Mapping[str, Any] | None
) -> tuple[Array, dict[str, int]]:
    """The matrix that the blocks make up, and the size of each."""
    chosen = list(blocks if names is None else names)
    sizes = {}
    for k in chosen:
        if k not in blocks or k not in blocks[k]:
            raise OptionError(f"there is no block '{k}': known are {', '.join(map(str, blocks))}")
        shape = tuple(np.shape(blocks[k][k]))
        half = len(shape) // 2
        if shape[:half] != shape[half:]:
            raise ShapeError(
                f"block '{k}' has shape {shape}, that of '{k}' twice is expected: of a model, "
                "choose one sample and one output"
            )
        sizes[k] = int(np.prod(shape[:half]))
    if not sum(sizes.values()):
        raise ShapeError("there are no blocks to draw: pass H['P']['Q'] for each pair of names")
    rows = []
    for k in chosen:
        row = []
        for name in chosen:
            block = np.asarray(plain(blocks[k].get(name, np.zeros((sizes[k], sizes[name])))))
            if block.size != sizes[k] * sizes[name]:
                raise ShapeError(
                    f"block '{k}', '{name}' has shape {block.shape}, "
                    f"{sizes[k]} x {sizes[name]} entries are expected"
                )
            row.append(block.reshape(sizes[k], sizes[name]))
        rows.append(row)
    return np.block(rows).astype(np.float64), sizes


def _apart(middles: Array, length: int) -> Array:
    """Where names of small blocks can stand beside each other, near the blocks' middles."""
    gap = min(0.045 * length, length / len(middles))
    index = gap * np.arange(len(middles))
    pushed = np.maximum.accumulate(middles - index) + index
    placed: Array = np.minimum(pushed, length - 0.5 - gap / 2 - index[::-1])
    return placed


def _number(value: Any) -> float:
    array = np.asarray(plain(value))
    if array.size != 1:
        raise ShapeError(f"the loss has shape {array.shape}, one number is expected")
    return float(array.reshape(()))


def _canvas(axes: Any, size: tuple[float, float]) -> tuple[Any, Any]:
    """The caller's axes, or new ones; pyplot, with its global figures, stays out of it."""
    if axes is not None:
        return axes.figure, axes
    try:
        from matplotlib.figure import Figure
    except ImportError:
        raise missing("matplotlib", "plot") from None
    figure = Figure(figsize=size, layout="constrained")
    return figure, figure.subplots()


def _saved(figure: Any, path: PathLike | None) -> Any:
    if path is not None:
        path = Path(path)
        with replacing(path) as file:
            figure.savefig(file, dpi=150, format=path.suffix.lstrip(".") or "png")
    return figure
