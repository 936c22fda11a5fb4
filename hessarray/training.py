"""Training to values, gradients and Hessians (Hermite interpolation) with a torch optimiser."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

__all__ = ["evaluate_loss", "print_headers", "train_one_epoch"]

Weights = Sequence[float]


def _terms(
    net: Any, x: Any, y: Any, do_gradient: bool, do_Hessian: bool, weights: Weights
) -> tuple[Any, ...]:
    """The weighted loss, then its terms; y (n, 1 + d + d^2) holds value, gradient, Hessian."""
    evaluate = getattr(net, "derivatives", net)
    f, df, d2f = evaluate(x, do_gradient=do_gradient, do_Hessian=do_Hessian)
    n, d = x.shape
    parts = [(weights[0], f, y[:, :1])]
    if do_gradient:
        parts.append((weights[1], df, y[:, 1 : d + 1]))
    if do_Hessian:
        parts.append((weights[2], d2f, y[:, d + 1 :]))
    terms = [(0.5 / n) * (a - b.reshape(a.shape)).square().sum() for _, a, b in parts]
    total = sum(w * term for (w, _, _), term in zip(parts, terms, strict=True))
    return (total, *terms)


def train_one_epoch(
    net: Any,
    x: Any,
    y: Any,
    optimizer: Any,
    batch_size: int = 5,
    do_gradient: bool = False,
    do_Hessian: bool = False,
    loss_weights: Weights = (1.0, 1.0, 1.0),
) -> tuple[float, ...]:
    r"""One epoch of mini-batches on the mean squared loss.

        L = (w0 |f(x) - y0|^2 + w1 |df(x) - y1|^2 + w2 |d2f(x) - y2|^2) / 2n

    Parameters
    ----------
    net : Network or torch.nn.Module
        A network pinned to torch (``net.to("torch")``), or a module that is called with
        ``do_gradient`` and ``do_Hessian`` and gives (f, df, d2f). One output.
    x : torch.Tensor (n, d)
        Samples; a new random order each epoch, an incomplete last batch is left out.
    y : torch.Tensor (n, 1 + d + d^2)
        Targets: value, gradient, Hessian, side by side; only those in use need be there.
    optimizer : torch.optim.Optimizer
        Over the parameters of net.
    batch_size : int
        Samples of a step.
    do_gradient, do_Hessian : bool
        Which terms the loss has besides the value's.
    loss_weights : sequence of float
        w0, w1, w2.

    Returns
    -------
    tuple of float
        Mean over the epoch of the loss and of each of its terms.
    """
    import torch

    if hasattr(net, "train"):
        net.train()
    n = x.shape[0]
    order = torch.randperm(n)
    running: list[float] = []
    for start in range(0, n - batch_size + 1, batch_size):
        batch = order[start : start + batch_size]
        optimizer.zero_grad()
        found = _terms(net, x[batch], y[batch], do_gradient, do_Hessian, loss_weights)
        found[0].backward()
        optimizer.step()
        sizes = [batch_size * term.item() for term in found]
        running = [a + b for a, b in zip(running or [0.0] * len(sizes), sizes, strict=True)]
    return tuple(total / n for total in running)


def evaluate_loss(
    net: Any,
    x: Any,
    y: Any,
    do_gradient: bool = False,
    do_Hessian: bool = False,
    loss_weights: Weights = (1.0, 1.0, 1.0),
) -> tuple[float, ...]:
    """The loss of ``train_one_epoch`` and its terms over all samples, without training.

    Parameters
    ----------
    net, x, y, do_gradient, do_Hessian, loss_weights
        As in ``train_one_epoch``.

    Returns
    -------
    tuple of float
        The loss and each of its terms.
    """
    import torch

    if hasattr(net, "eval"):
        net.eval()
    with torch.no_grad():
        found = _terms(net, x, y, do_gradient, do_Hessian, loss_weights)
    return tuple(term.item() for term in found)


def print_headers(
    do_gradient: bool = True,
    do_Hessian: bool = False,
    verbose: bool = False,
    loss_weights: Weights = (1.0, 1.0, 1.0),
) -> tuple[tuple[Any, ...], tuple[str, ...], str]:
    """The head of a table of losses, and the format of its rows.

    A row is ``(epoch, seconds, '|', *running, '|', *training, '|', *validation)``, the losses as
    ``train_one_epoch`` and ``evaluate_loss`` return them.

    Parameters
    ----------
    do_gradient, do_Hessian, loss_weights
        As in ``train_one_epoch``.
    verbose : bool
        Print the three lines of the head.

    Returns
    -------
    tuple
        The first line's cells, the last line's cells, and the format of a row.

    Examples
    --------
    >>> head, names, row = print_headers(do_gradient=False)
    >>> names[:5]
    ('epoch', 'time', '|', 'loss', 'loss_f')
    """
    losses = ("loss", "loss_f", *["loss_df"] * do_gradient, *["loss_d2f"] * do_Hessian)
    shown = [w for w, use in zip(loss_weights, (True, do_gradient, do_Hessian), strict=True) if use]
    blank = ("",) * (len(losses) - 1)
    groups = [cell for name in ("running", "train", "valid") for cell in ("|", name, *blank)]
    weights = [cell for name in ("weights", "", "") for cell in ("|", name, *shown)]
    headers, names = ("", "", *groups), ("epoch", "time", *("|", *losses) * 3)
    wide = "{:<15s}" * 2
    if verbose:
        text = wide + ("{:<2s}" + "{:<15s}" * len(losses)) * 3
        numbers = wide + ("{:<2s}{:<15s}" + "{:<15.2e}" * len(shown)) * 3
        print(text.format(*headers))
        print(numbers.format("", "", *weights))
        print(text.format(*names))
    return headers, names, "{:<15d}{:<15.4f}" + ("{:<2s}" + "{:<15.4e}" * len(losses)) * 3
