"""How others compute the same: hessQuik, torch.func, JAX and folx, on the same network."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np

import hessarray as ha
from hessarray.bench.autodiff import in_our_axes, programs
from hessarray.bench.libraries import jax_on, library, torch_on
from hessarray.bench.problem import Call, Problem, ours

__all__ = ["NotMeasured", "PEERS", "Peer", "missing"]

Calls = dict[str, Call]
Fn = Callable[..., Any]
_ACTIVATIONS = ("tanh", "antitanh", "sigmoid", "softplus", "relu", "silu")


class NotMeasured(Exception):
    """A peer cannot do this here; the message is the reason in the report."""


@dataclass(frozen=True)
class Peer:
    """Another library.

    Attributes
    ----------
    title : str
        Its name in tables.
    modules : tuple of str
        What must be installed.
    install : str
        The command that installs it.
    wants : tuple of str
        What it computes, as keys of ``cases.WANTS``.
    prepare : callable
        ``prepare(problem, device, threads)``: by variant, the call. Raises `NotMeasured`, and
        `BackendError` where there is no such device.
    """

    title: str
    modules: tuple[str, ...]
    install: str
    wants: tuple[str, ...]
    prepare: Callable[[Problem, str, int], Calls]


def missing(name: str) -> str | None:
    """One sentence where the peer of this name is not installed, else None."""
    peer = PEERS[name]
    for module in peer.modules:
        if importlib.util.find_spec(module) is None:
            return f"{peer.title} is not installed and so not measured: {peer.install}"
    return None


# ---- the network in another library ----------------------------------------------------------


def _layers(network: ha.Network) -> Iterator[Any]:
    for layer in network:
        if isinstance(layer, ha.Network):
            yield from _layers(layer)
        else:
            yield layer


def _activation_name(layer: Any) -> str:
    name: str = getattr(layer.act, "name", "")
    usual = layer.act == ha.activation(name) if name in ha.ACTIVATIONS else False
    if not usual or name not in ("identity", "quadratic", *_ACTIVATIONS):
        raise NotMeasured(f"the peers here have no twin of the activation {name or layer.act!r}")
    return name


def _forward(network: ha.Network, array: Fn, activations: dict[str, Fn]) -> Fn:
    """f of one sample or of a batch, as plain code over arrays of another library."""
    steps: list[tuple[Any, Any, Fn, float | None]] = []
    for layer in _layers(network):
        if not isinstance(layer, (ha.Dense, ha.Residual)):
            raise NotMeasured(f"the peers here have no twin of the layer {type(layer).__name__}")
        act = activations[_activation_name(layer)]
        K = array(np.asarray(layer.K, dtype=np.float64))
        b = 0.0 if layer.b is None else array(np.asarray(layer.b, dtype=np.float64))
        steps.append((K, b, act, layer.h if isinstance(layer, ha.Residual) else None))

    def f(u: Any) -> Any:
        for K, b, act, h in steps:
            z = act(u @ K + b)
            u = z if h is None else u + h * z
        return u

    return f


# ---- JAX and folx ----------------------------------------------------------------------------


def _jax_forward(jax: Any, network: ha.Network) -> Fn:
    jnp, nn = jax.numpy, jax.nn

    def antitanh(z: Any) -> Any:
        return jnp.abs(z) + jnp.log1p(jnp.exp(-2.0 * jnp.abs(z)))

    acts = {"identity": lambda z: z, "quadratic": lambda z: 0.5 * z * z}
    acts |= {k: antitanh if k == "antitanh" else getattr(nn, k) for k in _ACTIVATIONS}
    return _forward(network, jnp.asarray, acts)


def _jitted(jax: Any, problem: Problem, one: Fn, variant: str) -> Calls:
    """A program of one sample, mapped over the batch and compiled."""
    rows = (0, None) if problem.want == "weighted" else 0
    run = jax.jit(one if problem.single else jax.vmap(one, rows))

    def numpy(found: Any) -> tuple[Any, ...]:
        return tuple(map(np.asarray, found))

    def results(found: Any) -> tuple[Any, ...]:
        return in_our_axes(problem.want, numpy(found))

    inputs = [tuple(map(jax.numpy.asarray, a)) for a in problem.inputs]
    calls = {variant: Call(lambda *a: jax.block_until_ready(run(*a)), inputs, results)}
    if problem.single:
        calls[f"{variant}, NumPy in and out"] = Call(
            lambda *a: numpy(run(*a)), problem.inputs, results
        )
    return calls


def _jax(problem: Problem, device: str, threads: int) -> Calls:
    jax = jax_on(device)
    f = _jax_forward(jax, problem.network)
    eye = jax.numpy.eye(problem.network.in_features)
    found: Calls = {}
    m = problem.network.out_features
    for variant, one in programs(jax, jax.numpy, f, problem.want, m, eye).items():
        found |= _jitted(jax, problem, one, variant)
    return found


def _folx(problem: Problem, device: str, threads: int) -> Calls:
    jax = jax_on(device)
    import folx

    laplacian = folx.forward_laplacian(_jax_forward(jax, problem.network))
    return _jitted(jax, problem, lambda u: (laplacian(u).laplacian,), "forward Laplacian")


# ---- torch.func and hessQuik -----------------------------------------------------------------


def _torch(problem: Problem, device: str, threads: int) -> Calls:
    torch = torch_on(device, threads)
    lib = library("torch", device, threads)
    functional = torch.nn.functional

    def antitanh(z: Any) -> Any:
        return torch.abs(z) + torch.log1p(torch.exp(-2.0 * torch.abs(z)))

    acts = {"identity": lambda z: z, "quadratic": lambda z: 0.5 * z * z}
    acts |= {k: antitanh if k == "antitanh" else getattr(functional, k) for k in _ACTIVATIONS}
    f = _forward(problem.network, lib.array, acts)
    eye = lib.array(np.eye(problem.network.in_features))
    rows = (0, None) if problem.want == "weighted" else 0
    inputs = [tuple(map(lib.array, a)) for a in problem.inputs]

    def results(found: Any) -> tuple[Any, ...]:
        return in_our_axes(problem.want, tuple(map(lib.numpy, found)))

    def call(one: Fn) -> Call:
        run = one if problem.single else torch.func.vmap(one, rows)

        def waited(*arguments: Any) -> Any:
            found = run(*arguments)
            lib.wait(found)
            return found

        return Call(waited, inputs, results)

    m = problem.network.out_features
    found = programs(torch.func, torch, f, problem.want, m, eye)
    return {variant: call(one) for variant, one in found.items()}


def _hessquik(problem: Problem, device: str, threads: int) -> Calls:
    torch = torch_on(device, threads)
    lib = library("torch", device, threads)
    _check_hessquik_memory(problem, lib.free())
    twin = _hessquik_network(torch, problem.network).double().to(device)
    second = "do_Hessian" if problem.want == "hessian" else "do_Laplacian"
    derivatives = {"do_gradient": True, second: True}  # its Laplacian needs the gradient

    def call(forward_mode: bool) -> Call:
        def run(x: Any) -> Any:
            with torch.no_grad():
                found = twin(x, forward_mode=forward_mode, **derivatives)
            lib.wait(found)
            return found

        def results(found: Any) -> tuple[Any, ...]:
            wanted = found if problem.want == "hessian" else found[2:]
            return tuple(lib.numpy(a[0] if problem.single else a) for a in wanted)

        inputs = [(lib.array(np.atleast_2d(x)),) for (x,) in problem.inputs]
        return Call(run, inputs, results)

    if problem.want == "laplacian":
        return {"forward": call(True)}
    return {"forward": call(True), "backward": call(False)}


def _hessquik_network(torch: Any, network: ha.Network) -> Any:
    import hessQuik.activations as act
    import hessQuik.layers as lay
    import hessQuik.networks as nets

    kinds = {
        "identity": act.identityActivation,
        "quadratic": act.quadraticActivation,
        "tanh": act.tanhActivation,
        "antitanh": act.antiTanhActivation,
        "sigmoid": act.sigmoidActivation,
    }
    layers = []
    for layer in _layers(network):
        residual = isinstance(layer, ha.Residual)
        name = _activation_name(layer) if residual or isinstance(layer, ha.Dense) else None
        if name not in kinds or layer.b is None:
            raise NotMeasured(f"hessQuik has no twin of the layer {layer!r}")
        if residual:
            twin = lay.resnetLayer(layer.in_features, h=layer.h, act=kinds[name]())
        else:
            twin = lay.singleLayer(layer.in_features, layer.out_features, act=kinds[name]())
        inner = twin.layer if residual else twin
        inner.K.data = torch.tensor(np.asarray(layer.K, dtype=np.float64))
        inner.b.data = torch.tensor(np.asarray(layer.b, dtype=np.float64))
        layers.append(twin)
    return nets.NN(*layers)


def _check_hessquik_memory(problem: Problem, free: int) -> None:
    """Every layer makes blocks (n, in, in, out), three of them at a time."""
    if problem.want != "hessian":
        return
    sizes = (a.in_features**2 * a.out_features for a in _layers(problem.network))
    need = 3 * 8 * problem.n * max(sizes)
    if need > free // 2:
        raise NotMeasured(f"hessQuik would need about {need / 2**30:.0f} GiB for this case")


# ---- the table -------------------------------------------------------------------------------


def _one_thread(problem: Problem, device: str, threads: int) -> Calls:
    return {"": ours(problem, library("numpy", device, threads), threads=1)}


#: Every peer by the name that it has on the command line, and hessarray with one thread.
PEERS: dict[str, Peer] = {
    "hessquik": Peer(
        "hessQuik",
        ("torch", "hessQuik"),
        "pip install hessQuik",
        ("hessian", "laplacian"),
        _hessquik,
    ),
    "torch": Peer(
        "torch.func",
        ("torch",),
        "pip install 'hessarray[torch]'",
        ("hessian", "laplacian", "hvp", "weighted"),
        _torch,
    ),
    "jax": Peer(
        "JAX jit",
        ("jax",),
        "pip install 'hessarray[jax]'",
        ("hessian", "laplacian", "hvp", "weighted"),
        _jax,
    ),
    "folx": Peer("folx", ("jax", "folx"), "pip install folx", ("laplacian",), _folx),
    "one-thread": Peer("one thread", (), "", ("hessian",), _one_thread),
}
