"""hessQuik's timing tests of its networks."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch import nn

import hessarray.hessquik.activations as act
import hessarray.hessquik.layers as lay
import hessarray.hessquik.networks as net
from hessarray.timing import time_trials

__all__ = [
    "setup_fully_connected",
    "setup_icnn",
    "setup_network",
    "setup_resnet",
    "timing_test",
]


def setup_resnet(in_features: int, out_features: int, width: int = 16, depth: int = 4) -> net.NN:
    """Single layer, residual network (h = 0.5, tanh), single layer."""
    return net.NN(
        lay.singleLayer(in_features, width, act=act.antiTanhActivation()),
        net.resnetNN(width, depth, h=0.5, act=act.tanhActivation()),
        lay.singleLayer(width, out_features, act=act.identityActivation()),
    )


def setup_fully_connected(
    in_features: int, out_features: int, width: int = 16, depth: int = 4
) -> net.NN:
    """Single tanh layers, ``depth`` of them hidden."""
    widths = [in_features, *[width] * depth, out_features]
    return net.fullyConnectedNN(widths, act=act.tanhActivation())


def setup_icnn(in_features: int, out_features: int, width: int = 16, depth: int = 4) -> net.NN:
    """Input-convex network with one output.

    Raises
    ------
    ValueError
        More than one output is asked for.
    """
    if out_features != 1:
        raise ValueError(f"an input-convex network has one output, not {out_features}")
    return net.NN(
        net.ICNN(in_features, [None, *[width] * depth], act=act.tanhActivation()),
        lay.quadraticICNNLayer(in_features, width, rank=2),
    )


_NETWORKS = {
    "resnet": setup_resnet,
    "fully_connected": setup_fully_connected,
    "icnn": setup_icnn,
}
_WRAPPERS: dict[str, Callable[[Any], nn.Module]] = {
    "hessQuik": lambda f: f,
    "PytorchAD": net.NNPytorchAD,
    "PytorchHessian": net.NNPytorchHessian,
}


def setup_network(
    in_features: int,
    out_features: int,
    width: int = 16,
    depth: int = 4,
    network_type: str = "resnet",
    network_wrapper: str = "hessQuik",
    device: Any = "cpu",
) -> nn.Module:
    """One of the networks by name, wrapped, on the device.

    Raises
    ------
    ValueError
        No network or wrapper has this name.
    """
    for kind, name, known in (
        ("network_type", network_type, _NETWORKS),
        ("network_wrapper", network_wrapper, _WRAPPERS),
    ):
        if name not in known:
            raise ValueError(f"{kind}={name!r}: use {', '.join(known)}")
    f = _NETWORKS[network_type](int(in_features), int(out_features), width, depth)
    return _WRAPPERS[network_wrapper](f.to(device))


def timing_test(
    in_feature_range: Any,
    out_feature_range: Any,
    nex: int = 10,
    num_trials: int = 10,
    width: int = 16,
    depth: int = 4,
    network_wrapper: str = "hessQuik",
    network_type: str = "resnet",
    device: Any = "cpu",
    clear_memory: bool = True,
) -> dict[str, Any]:
    """Time value, gradient and Hessian, as ``hessarray.timing.timing_test`` does, on torch modules.

    Parameters
    ----------
    in_feature_range, out_feature_range : torch.Tensor or sequence of int
        Numbers of inputs and outputs.
    nex, num_trials, width, depth, network_type, clear_memory
        As in ``hessarray.timing.timing_test``.
    network_wrapper : str
        'hessQuik' (the modules of this package), 'PytorchAD' or 'PytorchHessian'.
    device : str or torch.device
        Where the network and the samples are.

    Returns
    -------
    dict
        As of ``hessarray.timing.timing_test``, with torch tensors.
    """
    trials = torch.zeros(len(in_feature_range), len(out_feature_range), num_trials)
    for j, m in enumerate(out_feature_range):
        for i, d in enumerate(in_feature_range):
            f = setup_network(d, m, width, depth, network_type, network_wrapper, device)
            x = torch.randn(nex, int(d), device=device)
            call = partial(f, x, do_gradient=True, do_Hessian=True)
            trials[i, j] = torch.as_tensor(time_trials(call, num_trials, clear_memory=clear_memory))
            if clear_memory and torch.cuda.is_available():
                torch.cuda.empty_cache()
    return {
        "timing_trials": trials,
        "timing_trials_mean": trials.mean(dim=2),
        "timing_trials_std": trials.std(dim=2, correction=1 if num_trials > 1 else 0),
        "in_feature_range": in_feature_range,
        "out_feature_range": out_feature_range,
        "nex": nex,
        "num_trials": num_trials,
    }
