"""How others compute the same: hessQuik, torch.func, JAX and folx, on the same network."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

import hessarray as ha
from hessarray.bench.autodiff import LOSSES, in_our_axes, loss_programs, programs
from hessarray.bench.cases import PIECE
from hessarray.bench.host import cores
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
    """Another library, or hessarray on NumPy in another way.

    Attributes
    ----------
    title : str
        Its name in tables.
    modules : tuple of str
        What must be installed.
    install : str
        The command that installs it; empty for hessarray itself.
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


def _forward(network: ha.Network, activations: dict[str, Fn]) -> Fn:
    """f(u, weights) of one sample or of a batch, as plain code over arrays of another library."""
    steps: list[tuple[Fn, float | None]] = []
    for layer in _layers(network):
        if not isinstance(layer, (ha.Dense, ha.Residual)):
            raise NotMeasured(f"the peers here have no twin of the layer {type(layer).__name__}")
        act = activations[_activation_name(layer)]
        steps.append((act, layer.h if isinstance(layer, ha.Residual) else None))

    def f(u: Any, weights: Sequence[tuple[Any, Any]]) -> Any:
        for (K, b), (act, h) in zip(weights, steps, strict=True):
            z = act(u @ K + b)
            u = z if h is None else u + h * z
        return u

    return f


def _weights(network: ha.Network, array: Fn) -> list[tuple[Any, Any]]:
    return [
        (
            array(np.asarray(layer.K, dtype=np.float64)),
            0.0 if layer.b is None else array(np.asarray(layer.b, dtype=np.float64)),
        )
        for layer in _layers(network)
    ]


def _loss(f: Fn, network: ha.Network) -> Fn:
    """The mean squared error as a function of one flat vector of parameters, x and t."""
    shapes = [(tuple(layer.K.shape), layer.b is not None) for layer in _layers(network)]

    def loss(theta: Any, x: Any, t: Any) -> Any:
        weights, start = [], 0
        for (rows, columns), biased in shapes:
            K = theta[start : start + rows * columns].reshape(rows, columns)
            start += rows * columns
            b = theta[start : start + columns] if biased else 0.0
            start += columns if biased else 0
            weights.append((K, b))
        return ((f(x, weights) - t) ** 2).mean()

    return loss


# ---- JAX and folx ----------------------------------------------------------------------------


def _jax_forward(jax: Any, network: ha.Network) -> Fn:
    """f(u, weights)."""
    jnp, nn = jax.numpy, jax.nn

    def antitanh(z: Any) -> Any:
        return jnp.abs(z) + jnp.log1p(jnp.exp(-2.0 * jnp.abs(z)))

    acts = {"identity": lambda z: z, "quadratic": lambda z: 0.5 * z * z}
    acts |= {k: antitanh if k == "antitanh" else getattr(nn, k) for k in _ACTIVATIONS}
    return _forward(network, acts)


def _jitted(jax: Any, problem: Problem, one: Fn, variant: str) -> Calls:
    """A program of one sample, mapped over the batch, or one of a loss; compiled."""
    rows = (0, None) if problem.want == "weighted" else 0
    mapped = not problem.single and problem.want not in LOSSES
    run = jax.jit(jax.vmap(one, rows) if mapped else one)

    def numpy(found: Any) -> tuple[Any, ...]:
        return tuple(map(np.asarray, found))

    def results(found: Any) -> tuple[Any, ...]:
        return in_our_axes(problem.want, numpy(found))

    inputs = [tuple(map(jax.numpy.asarray, a)) for a in _arguments(problem)]
    calls = {variant: Call(lambda *a: jax.block_until_ready(run(*a)), inputs, results)}
    if problem.single:
        calls[f"{variant}, NumPy in and out"] = Call(
            lambda *a: numpy(run(*a)), _arguments(problem), results
        )
    return calls


def _jax(problem: Problem, device: str, threads: int) -> Calls:
    jax = jax_on(device)
    f = _jax_forward(jax, problem.network)
    found: Calls = {}
    for variant, one in _programs(jax, jax.numpy, f, problem, jax.numpy.asarray).items():
        found |= _jitted(jax, problem, one, variant)
    return found


def _programs(ad: Any, xp: Any, f: Fn, problem: Problem, array: Fn) -> dict[str, Fn]:
    """By order of differentiation, the program for one sample, or for a loss of all samples."""
    net = problem.network
    if problem.want in LOSSES:
        return loss_programs(ad, _loss(f, net), problem.want)
    weights, eye = _weights(net, array), array(np.eye(net.in_features))
    return programs(ad, xp, lambda u: f(u, weights), problem.want, net.out_features, eye)


def _arguments(problem: Problem) -> list[tuple[Any, ...]]:
    """Of the peers' programs; those of a loss take the parameters first."""
    if problem.want not in LOSSES:
        return problem.inputs
    return [(problem.network.parameter_vector(), *a) for a in problem.inputs]


def _folx(problem: Problem, device: str, threads: int) -> Calls:
    jax = jax_on(device)
    import folx

    f, weights = _jax_forward(jax, problem.network), _weights(problem.network, jax.numpy.asarray)
    laplacian = folx.forward_laplacian(lambda u: f(u, weights))
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
    f = _forward(problem.network, acts)
    rows = (0, None) if problem.want == "weighted" else 0
    mapped = not problem.single and problem.want not in LOSSES
    inputs = [tuple(map(lib.array, a)) for a in _arguments(problem)]

    def results(found: Any) -> tuple[Any, ...]:
        return in_our_axes(problem.want, tuple(map(lib.numpy, found)))

    def call(one: Fn) -> Call:
        run = torch.func.vmap(one, rows) if mapped else one

        def waited(*arguments: Any) -> Any:
            found = run(*arguments)
            lib.wait(found)
            return found

        return Call(waited, inputs, results)

    found = _programs(torch.func, torch, f, problem, lib.array)
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


def _in_pieces(problem: Problem, device: str, threads: int) -> Calls:
    options = {} if threads == cores() else {"threads": threads}
    whole = ours(problem, library("numpy", device, threads), **options)

    def run(x: Any) -> list[Any]:
        return [whole.run(x[k : k + PIECE]) for k in range(0, problem.n, PIECE)]

    def results(found: list[Any]) -> tuple[Any, ...]:
        return tuple(map(np.concatenate, zip(*map(whole.results, found), strict=True)))

    return {"": Call(run, whole.inputs, results)}


#: Every peer by the name that it has on the command line, and hessarray in other ways.
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
        ("hessian", "laplacian", "hvp", "weighted", *LOSSES),
        _torch,
    ),
    "jax": Peer(
        "JAX jit",
        ("jax",),
        "pip install 'hessarray[jax]'",
        ("hessian", "laplacian", "hvp", "weighted", *LOSSES),
        _jax,
    ),
    "folx": Peer("folx", ("jax", "folx"), "pip install folx", ("laplacian",), _folx),
    "one-thread": Peer("one thread", (), "", ("hessian",), _one_thread),
    "pieces": Peer(f"in calls of {PIECE:,}", (), "", ("hessian",), _in_pieces),
}
