"""How long do value, gradient and Hessian take? The timing tests of hessQuik, on any library."""

from __future__ import annotations

import gc
import importlib
import time
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import numpy as np

from hessarray.baselines import AutodiffNetwork, HessianNetwork
from hessarray.layers import Dense, InputConvexQuadratic
from hessarray.networks import Network, fully_connected, icnn, resnet

__all__ = [
    "setup_fully_connected",
    "setup_icnn",
    "setup_network",
    "setup_resnet",
    "time_trials",
    "timing_test",
]

_NAMESPACES = {
    "numpy": "array_api_compat.numpy",
    "torch": "array_api_compat.torch",
    "cupy": "array_api_compat.cupy",
    "jax": "jax.numpy",
    "array_api_strict": "array_api_strict",
}
_WRAPPERS = {"PytorchAD": AutodiffNetwork, "PytorchHessian": HessianNetwork}


def setup_resnet(in_features: int, out_features: int, width: int = 16, depth: int = 4) -> Network:
    """Dense, ``depth`` residual layers (h = 0.5, tanh), dense."""
    return Network(
        Dense(in_features, width, act="antitanh"),
        resnet(width, depth, h=0.5, act="tanh"),
        Dense(width, out_features),
    )


def setup_fully_connected(
    in_features: int, out_features: int, width: int = 16, depth: int = 4
) -> Network:
    """Dense tanh layers, ``depth`` of them hidden."""
    return fully_connected([in_features, *[width] * depth, out_features], act="tanh")


def setup_icnn(in_features: int, out_features: int, width: int = 16, depth: int = 4) -> Network:
    """``depth`` input-convex layers and a quadratic one of rank 2; one output.

    Raises
    ------
    ValueError
        More than one output is asked for.
    """
    if out_features != 1:
        raise ValueError(f"an input-convex network has one output, not {out_features}")
    return Network(
        icnn(in_features, [width] * depth, act="tanh"),
        InputConvexQuadratic(in_features, width, rank=2),
    )


_NETWORKS = {
    "resnet": setup_resnet,
    "fully_connected": setup_fully_connected,
    "icnn": setup_icnn,
}


def setup_network(
    in_features: int,
    out_features: int,
    width: int = 16,
    depth: int = 4,
    network_type: str = "resnet",
) -> Network:
    """One of the networks by name.

    Raises
    ------
    ValueError
        No network has this name.
    """
    if network_type not in _NETWORKS:
        raise ValueError(f"network_type={network_type!r}: use {', '.join(_NETWORKS)}")
    return _NETWORKS[network_type](in_features, out_features, width, depth)


def _wait(results: Any) -> None:
    """Return when the results are there: a device runs behind the program that feeds it."""
    for a in results:
        if a is None:
            continue
        if hasattr(a, "block_until_ready"):
            a.block_until_ready()
        elif 0 not in a.shape:
            # Copying one entry to the host waits for all that the device was given before.
            last = a[(-1,) * a.ndim]
            float(last.detach() if hasattr(last, "detach") else last)


def time_trials(
    call: Callable[[], Any], num_trials: int = 10, *, clear_memory: bool = True
) -> np.ndarray[Any, Any]:
    """Seconds of each of ``num_trials`` calls, after one that is not counted.

    Parameters
    ----------
    call : callable
        Without arguments; returns arrays, which are waited for.
    num_trials : int
        How many.
    clear_memory : bool
        Collect garbage afterwards.

    Returns
    -------
    numpy.ndarray (num_trials,)
    """
    seconds = np.zeros(num_trials + 1)
    for i in range(num_trials + 1):
        start = time.perf_counter()
        _wait(call())
        seconds[i] = time.perf_counter() - start
    if clear_memory:
        gc.collect()
    return seconds[1:]


def timing_test(
    in_feature_range: Sequence[int],
    out_feature_range: Sequence[int],
    nex: int = 10,
    num_trials: int = 10,
    width: int = 16,
    depth: int = 4,
    network_wrapper: str = "hessarray",
    network_type: str = "resnet",
    device: Any = None,
    clear_memory: bool = True,
    *,
    backend: str = "numpy",
    dtype: str = "float32",
    seed: int = 0,
) -> dict[str, Any]:
    """Time value, gradient and Hessian over ranges of inputs and outputs.

    Parameters
    ----------
    in_feature_range, out_feature_range : sequence of int
        Numbers of inputs and outputs.
    nex : int
        Samples.
    num_trials : int
        Calls of each network that are timed.
    width, depth : int
        Of the network.
    network_wrapper : str
        'hessarray', or automatic differentiation of the same network: 'PytorchAD',
        'PytorchHessian' (torch; the latter for one output).
    network_type : str
        'resnet', 'fully_connected' or 'icnn'.
    device : optional
        Where the samples are, as the array library names it.
    clear_memory : bool
        Collect garbage after each network.
    backend : str
        'numpy', 'torch', 'jax', 'cupy'.
    dtype : str
        'float32' or 'float64'.
    seed : int
        Of the samples.

    Returns
    -------
    dict
        ``timing_trials`` (inputs, outputs, trials) in seconds, ``timing_trials_mean`` and
        ``timing_trials_std`` (inputs, outputs), ``in_feature_range``, ``out_feature_range``,
        ``nex``, ``num_trials``.

    Raises
    ------
    ValueError
        The wrapper, network or backend is unknown, or the wrapper needs torch.

    Examples
    --------
    >>> found = timing_test([2, 3], [1], num_trials=2)
    >>> found["timing_trials"].shape
    (2, 1, 2)
    """
    xp = _namespace(backend)
    if network_wrapper != "hessarray" and network_wrapper not in _WRAPPERS:
        known = ", ".join(["hessarray", *_WRAPPERS])
        raise ValueError(f"network_wrapper={network_wrapper!r}: use {known}")
    if network_wrapper in _WRAPPERS and backend != "torch":
        raise ValueError(f"network_wrapper={network_wrapper!r} needs backend='torch'")
    ins, outs = np.asarray(in_feature_range), np.asarray(out_feature_range)
    trials = np.zeros((len(ins), len(outs), num_trials))
    rng = np.random.default_rng(seed)
    for i, d in enumerate(ins.tolist()):
        x = xp.asarray(rng.standard_normal((nex, d)).astype(dtype), device=device)
        for j, m in enumerate(outs.tolist()):
            net: Any = setup_network(d, m, width, depth, network_type)
            if network_wrapper in _WRAPPERS:
                net = _WRAPPERS[network_wrapper](net)
            call = partial(net, x, do_gradient=True, do_Hessian=True)
            trials[i, j] = time_trials(call, num_trials, clear_memory=clear_memory)
    return {
        "timing_trials": trials,
        "timing_trials_mean": trials.mean(axis=2),
        "timing_trials_std": trials.std(axis=2, ddof=1 if num_trials > 1 else 0),
        "in_feature_range": ins,
        "out_feature_range": outs,
        "nex": nex,
        "num_trials": num_trials,
    }


def _namespace(backend: str) -> Any:
    if backend not in _NAMESPACES:
        raise ValueError(f"backend={backend!r}: use {', '.join(_NAMESPACES)}")
    return importlib.import_module(_NAMESPACES[backend])
