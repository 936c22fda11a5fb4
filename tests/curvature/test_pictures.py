"""Pictures: what the artists hold, the files, and who has no matplotlib."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from matplotlib.colors import SymLogNorm
from matplotlib.figure import Figure

from hessarray.curvature import (
    eigenpairs,
    loss_along,
    plot_blocks,
    plot_loss_along,
    plot_spectrum,
    spectral_density,
)
from hessarray.errors import BackendError, CurvatureError, OptionError, ShapeError

RNG = np.random.default_rng(0)
SHAPES = {"K": (2, 3), "b": (3,), "mu": ()}
SIZE = 10


def matrix() -> np.ndarray:
    S = RNG.standard_normal((SIZE, SIZE))
    return np.asarray(S + S.T)


def blocks_of(H: np.ndarray) -> dict[str, dict[str, np.ndarray]]:
    """H["P"]["Q"] of shape P.shape + Q.shape, cut out of the matrix."""
    edges = np.cumsum([0, *(int(np.prod(s)) for s in SHAPES.values())])
    places = {k: slice(*e) for k, *e in zip(SHAPES, edges[:-1], edges[1:], strict=True)}
    return {
        p: {q: H[places[p], places[q]].reshape(SHAPES[p] + SHAPES[q]) for q in SHAPES}
        for p in SHAPES
    }


def is_png(path: Path) -> bool:
    return path.read_bytes()[:8] == b"\x89PNG\r\n\x1a\n"


# -------------------------------------------------------------------------------------- blocks


def test_blocks_are_the_matrix(tmp_path: Path) -> None:
    H = matrix()
    H[0, 9] = H[9, 0] = -1e-7
    from_blocks = plot_blocks(blocks_of(H), path=tmp_path / "H.png")
    from_matrix = plot_blocks(H, {k: np.zeros(s) for k, s in SHAPES.items()})
    for figure in (from_blocks, from_matrix):
        axes = figure.axes[0]
        image = axes.images[0]
        np.testing.assert_array_equal(np.asarray(image.get_array()), H)
        assert isinstance(image.norm, SymLogNorm)
        largest = np.abs(H).max()
        assert (image.norm.vmin, image.norm.vmax) == (-largest, largest)
        assert image.norm.linthresh == pytest.approx(1e-4 * largest)
        edges = [5.5, 8.5]  # across, then down, for each
        assert [line.get_ydata()[0] for line in axes.lines[::2]] == edges
        assert [line.get_xdata()[0] for line in axes.lines[1::2]] == edges
        assert [t.get_text() for t in axes.get_yticklabels()] == list(SHAPES)
        np.testing.assert_array_equal(axes.get_xticks(), [2.5, 7.0, 9.0])
    assert is_png(tmp_path / "H.png")


def test_some_blocks_in_another_order() -> None:
    H = matrix()
    figure = plot_blocks(blocks_of(H), dict.fromkeys(["b", "K"]))
    order = [6, 7, 8, 0, 1, 2, 3, 4, 5]
    shown = np.asarray(figure.axes[0].images[0].get_array())
    np.testing.assert_array_equal(shown, H[np.ix_(order, order)])


def test_a_diagonal_of_blocks_and_a_plain_matrix() -> None:
    blocks = blocks_of(matrix())
    only = {k: {k: blocks[k][k]} for k in blocks}
    shown = np.asarray(plot_blocks(only).axes[0].images[0].get_array())
    assert not shown[:6, 6:].any()
    assert not plot_blocks(np.zeros((3, 3))).axes[0].lines


def test_names_of_small_blocks_stand_apart() -> None:
    names = {"K": 60, "b": 1, "w": 1, "L": 36, "mu": 1, "A": 1}
    ticks = plot_blocks(np.eye(100), names).axes[0].get_xticks()
    assert np.diff(ticks).min() >= 4.4
    assert ticks[0] == 29.5
    assert ticks[-1] <= 99.5
    assert plot_blocks(np.eye(100), dict.fromkeys(map(str, range(100)), 1)).axes


def test_axes_of_the_caller() -> None:
    figure = Figure()
    left, right = figure.subplots(1, 2)
    assert plot_blocks(matrix(), axes=left) is figure
    plot_spectrum(spectral_density(matrix()), axes=right)
    assert left.images
    assert right.lines


# ------------------------------------------------------------------------------------ spectrum


@pytest.mark.parametrize("suffix", ["png", "svg", "pdf"])
def test_a_spectrum(suffix: str, tmp_path: Path) -> None:
    found = spectral_density(matrix(), samples=3, steps=5)
    path = tmp_path / f"density.{suffix}"
    line, ticks = plot_spectrum(found, path=path).axes[0].lines
    np.testing.assert_array_equal(line.get_xdata(), found.grid)
    np.testing.assert_array_equal(line.get_ydata(), found.density)
    np.testing.assert_array_equal(ticks.get_xdata(), found.nodes)
    assert path.stat().st_size > 1000
    assert [p.name for p in tmp_path.iterdir()] == [path.name]


# ---------------------------------------------------------------------------------------- loss


H = np.diag([4.0, 2.0, 1.0])
AT = np.array([0.5, 0.0, 0.0])


def bowl(theta: np.ndarray) -> Any:
    return 0.5 * theta @ H @ theta


def test_the_loss_along_one_eigenvector(tmp_path: Path) -> None:
    pairs = eigenpairs(H, 1)
    path = tmp_path / "loss.png"
    figure = plot_loss_along(bowl, AT, pairs.vectors, pairs.values, radius=2.0, points=5, path=path)
    loss, model = figure.axes[0].lines
    steps = np.linspace(-2, 2, 11)
    np.testing.assert_allclose(loss.get_xdata(), steps, atol=1e-15)
    along = AT[0] + steps * pairs.vectors[0, 0]
    np.testing.assert_allclose(loss.get_ydata(), 2 * along**2, atol=1e-14)
    # The loss is quadratic, so that its model is the loss.
    np.testing.assert_allclose(model.get_ydata(), loss.get_ydata(), atol=1e-12)
    assert is_png(path)


def test_the_loss_along_two(tmp_path: Path) -> None:
    V = 7.0 * np.eye(3)[:, :2]  # of any length
    steps, values = loss_along(bowl, AT, V, radius=1.0, points=3)
    s, t = np.meshgrid(steps, steps, indexing="ij")
    np.testing.assert_allclose(values, 2 * (0.5 + s) ** 2 + t**2, atol=1e-14)
    figure = plot_loss_along(bowl, AT, V, points=3, path=tmp_path / "contours.png")
    axes = figure.axes[0]
    low, high = axes.collections[0].get_clim()
    assert low <= values.min() < values.max() <= high + 1e-9
    assert axes.get_xlabel().endswith("first eigenvector")
    assert is_png(tmp_path / "contours.png")


def test_the_first_eigenvector_is_drawn_across() -> None:
    """Contours take rows as y: the steep direction must lie along x."""
    figure = plot_loss_along(lambda x: x[0], np.zeros(2), np.eye(2), points=2)
    lines = figure.axes[0].collections[-1].get_paths()
    for path in (p for p in lines if len(p.vertices)):
        assert np.ptp(path.vertices[:, 0]) < 1e-12  # contours of x[0] are upright


def test_parameters_keep_their_dtype() -> None:
    seen = set()

    def loss(theta: np.ndarray) -> float:
        seen.add(theta.dtype.name)
        return 1.0

    loss_along(loss, np.zeros(3, np.float32), np.eye(3)[:, 0], points=1)
    assert seen == {"float32"}


# ----------------------------------------------------------------------------------- bad input


@pytest.mark.parametrize(
    ("call", "error", "says"),
    [
        (lambda: plot_blocks(np.ones((2, 3))), ShapeError, r"blocks has shape \(2, 3\), a square"),
        (lambda: plot_blocks(np.eye(3), {"K": 2}), ShapeError, "names add up to 2 parameters"),
        (lambda: plot_blocks(np.eye(3), decades=0), OptionError, "decades=0"),
        (lambda: plot_blocks({}), ShapeError, "there are no blocks"),
        (lambda: plot_blocks({"K": {"K": np.eye(2)}}, {"L": 2}), OptionError, "no block 'L'"),
        (
            lambda: plot_blocks({"K": {"K": np.ones((5, 1, 2, 2))}}),
            ShapeError,
            "choose one sample and one output",
        ),
        (
            lambda: plot_blocks({"a": {"a": np.eye(2), "b": np.eye(2)}, "b": {"b": np.eye(3)}}),
            ShapeError,
            r"block 'a', 'b' has shape \(2, 2\), 2 x 3 entries",
        ),
        (lambda: loss_along(bowl, AT, np.eye(3)), ShapeError, "one or two columns"),
        (lambda: loss_along(bowl, AT, np.ones(2)), ShapeError, r"shape \(2,\) and parameters"),
        (lambda: loss_along(bowl, AT, np.zeros(3)), OptionError, "point nowhere"),
        (lambda: loss_along(bowl, AT, AT, radius=-1.0), OptionError, "radius=-1.0"),
        (lambda: loss_along(bowl, AT, AT, points=0), OptionError, "points=0"),
        (lambda: loss_along(lambda x: x, AT, AT), ShapeError, r"the loss has shape \(3,\)"),
        (lambda: loss_along(lambda x: np.nan, AT, AT), CurvatureError, "finite nowhere"),
    ],
)
def test_bad_input(call: Any, error: Any, says: str) -> None:
    with pytest.raises(error, match=says):
        call()


def test_without_matplotlib(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    with pytest.raises(BackendError, match=r"needs matplotlib: pip install 'hessarray\[plot\]'"):
        plot_blocks(np.eye(2))
