"""The same evaluation by hessarray and by its peers, and ratios taken in turn in one run."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence

import numpy as np

import hessarray as ha


def mlp(d: int, width: int, depth: int, m: int, act: str = "tanh") -> ha.Network:
    """Hidden layers of one width, the last layer linear."""
    layers = [ha.Dense(d, width, act=act)]
    layers += [ha.Dense(width, width, act=act) for _ in range(depth - 1)]
    return ha.Network(*layers, ha.Dense(width, m), seed=0)


def hessarray_call(net: ha.Network, x: np.ndarray) -> Callable[[], object]:
    return lambda: net.value_gradient_hessian(x)


def jax_calls(net: ha.Network, x: np.ndarray) -> dict[str, Callable[[], object]]:
    """jit of vmap of value, jacrev and Hessian, by both orders of differentiation."""
    import jax
    import jax.numpy as jnp

    jax.config.update("jax_enable_x64", True)
    p = {k: jnp.asarray(v) for k, v in net.parameters().items()}
    last = len(net) - 1

    def f(u):
        for i in range(last):
            u = jnp.tanh(u @ p[f"{i}.K"] + p[f"{i}.b"])
        return u @ p[f"{last}.K"] + p[f"{last}.b"]

    def call(hessian):
        run = jax.jit(jax.vmap(lambda u: (f(u), jax.jacrev(f)(u), hessian(u))))
        return lambda: jax.block_until_ready(run(x))

    return {
        "jax forward-over-reverse": call(jax.jacfwd(jax.jacrev(f))),
        "jax reverse-over-reverse": call(jax.jacrev(jax.jacrev(f))),
    }


def torch_func_call(net: ha.Network, x: np.ndarray) -> Callable[[], object]:
    import torch

    p = {k: torch.tensor(np.asarray(v)) for k, v in net.parameters().items()}
    last = len(net) - 1

    def f(u):
        for i in range(last):
            u = torch.tanh(u @ p[f"{i}.K"] + p[f"{i}.b"])
        return u @ p[f"{last}.K"] + p[f"{last}.b"]

    both = torch.func.vmap(
        lambda u: (f(u), torch.func.jacrev(f)(u), torch.func.hessian(f)(u)), in_dims=0
    )
    points = torch.tensor(x)
    return lambda: both(points)


def hessquik_call(net: ha.Network, x: np.ndarray) -> Callable[[], object]:
    import hessQuik.activations as act
    import hessQuik.layers as lay
    import hessQuik.networks as nets
    import torch

    layers = []
    for i, layer in enumerate(net):
        last = i == len(net) - 1
        kind = act.identityActivation() if last else act.tanhActivation()
        twin = lay.singleLayer(layer.in_features, layer.out_features, act=kind).double()
        twin.K.data = torch.tensor(np.asarray(layer.K))
        twin.b.data = torch.tensor(np.asarray(layer.b))
        layers.append(twin)
    network = nets.NN(*layers)
    points = torch.tensor(x)

    def call():
        with torch.no_grad():
            return network(points, do_gradient=True, do_Hessian=True)

    return call


def in_turn(calls: Sequence[Callable[[], object]], rounds: int) -> np.ndarray:
    """Seconds, (rounds, calls): each round runs every call once, so that noise hits all alike."""
    for call in calls:
        call()
    seconds = np.empty((rounds, len(calls)))
    for r in range(rounds):
        for i, call in enumerate(calls):
            start = time.perf_counter()
            call()
            seconds[r, i] = time.perf_counter() - start
    return seconds


def ratios(seconds: np.ndarray) -> np.ndarray:
    """Median over rounds of each call's time over the first call's in the same round."""
    return np.median(seconds / seconds[:, :1], axis=0)
