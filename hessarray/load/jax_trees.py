"""Dense networks from parameter trees: flax's nested dicts, equinox's MLP. Needs neither."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np

from hessarray._arguments import plain
from hessarray.activations import activation
from hessarray.errors import LoadError
from hessarray.layers import Dense
from hessarray.load.limits import Arrays, check_sizes, shown
from hessarray.load.pairs import from_pairs
from hessarray.load.state_dict import filled
from hessarray.networks import Network

__all__ = ["from_equinox", "from_flax"]

_MAX_DEPTH = 20
_MAX_BYTES = 4 << 30


def from_flax(
    params: Mapping[str, Any],
    *,
    act: Any = None,
    final_act: Any = "identity",
    architecture: Network | None = None,
) -> Network:
    """Dense layers from the parameters of a flax module, linen or nnx.

    Parameters
    ----------
    params : mapping
        ``{"Dense_0": {"kernel": (in, out), "bias": (out,)}, ...}``, perhaps under ``"params"``:
        what ``module.init`` returns, or ``nnx.to_pure_dict(nnx.state(module))``. The numbers in
        the names give the order.
    act, final_act : str or callable
        Activations behind every layer but the last, and behind the last; a tree has none.
    architecture : Network, optional
        Layers to fill instead, such as residual ones.

    Raises
    ------
    LoadError
        The tree holds other things than kernels and biases of dense layers, or tells no order.

    Examples
    --------
    >>> import numpy as np, hessarray as ha
    >>> tree = {"Dense_0": {"kernel": np.ones((3, 8)), "bias": np.zeros(8)},
    ...         "Dense_1": {"kernel": np.ones((8, 1)), "bias": np.zeros(1)}}
    >>> ha.from_flax({"params": tree}, act="tanh")
    Network(Dense(3, 8), Dense(8, 1))
    """
    if not isinstance(params, Mapping):
        raise LoadError(
            f"params is a {type(params).__name__}, a nested dict of arrays is expected: of an nnx "
            "module, nnx.to_pure_dict(nnx.state(module))"
        )
    if set(params) == {"params"}:
        params = params["params"]
    arrays: Arrays = dict(_leaves(params, "", 0))
    where: Any = "flax parameters"
    check_sizes(where, {k: (a.dtype.name, a.shape) for k, a in arrays.items()}, _MAX_BYTES)
    if architecture is not None:
        return filled(architecture, arrays, where)
    return from_pairs(arrays, act, final_act, where)


def _leaves(tree: Mapping[Any, Any], prefix: str, depth: int) -> Iterator[tuple[str, Any]]:
    if depth > _MAX_DEPTH:
        raise LoadError(f"flax parameters are nested more than {_MAX_DEPTH} deep")
    for key, value in tree.items():
        name = f"{prefix}{key}"
        value = getattr(value, "value", value)  # of nnx's variables
        if isinstance(value, Mapping):
            yield from _leaves(value, f"{name}/", depth + 1)
        else:
            yield name, _array(value, name)


def _array(value: Any, name: str) -> Any:
    array = np.asarray(plain(value))
    if array.dtype.kind not in "fiu":
        raise LoadError(f"parameter {shown(name)} is a {type(value).__name__}, no array of numbers")
    return array


# ---- equinox -------------------------------------------------------------------------------

# jax.nn's and jax.numpy's functions with their defaults.
_FUNCTIONS: dict[str, tuple[str, dict[str, Any]]] = {
    "gelu": ("gelu", {"approximate": "tanh"}),
    "soft_sign": ("softsign", {}),
    "hard_tanh": ("hardtanh", {}),
    "hard_silu": ("hard_swish", {}),
    "identity": ("identity", {}),
    **{
        k: (k, {})
        for k in """relu relu6 sigmoid softplus silu swish log_sigmoid leaky_relu hard_sigmoid
        hard_swish elu celu selu mish tanh sin cos exp arctan""".split()
    },
}


def from_equinox(mlp: Any, *, act: Any = None, final_act: Any = None) -> Network:
    """The network that an ``equinox.nn.MLP`` computes, with its weights copied to NumPy.

    Parameters
    ----------
    mlp : equinox.nn.MLP
        Whose ``layers`` are ``Linear`` ones.
    act, final_act : str or callable, optional
        Activations, where the MLP has others than those of jax.nn and jax.numpy.

    Raises
    ------
    LoadError
        This is no MLP, or an activation is not known; says which.

    Examples
    --------
    >>> import equinox as eqx, jax, hessarray as ha
    >>> mlp = eqx.nn.MLP(3, 1, 8, 2, activation=jax.nn.softplus, key=jax.random.key(0))
    >>> ha.from_equinox(mlp)
    Network(Dense(3, 8), Dense(8, 8), Dense(8, 1))
    """
    linear = getattr(mlp, "layers", None)
    if not isinstance(linear, (tuple, list)) or not hasattr(mlp, "final_activation"):
        raise LoadError(f"{type(mlp).__name__} is no equinox.nn.MLP")
    layers = []
    for i, m in enumerate(linear):
        last = i == len(linear) - 1
        name = "final_activation" if last else "activation"
        given = final_act if last else act
        function = _activation(mlp, name) if given is None else activation(given)
        layers.append(_dense(m, i, function))
    try:
        return Network(*layers)
    except ValueError as error:  # neighbours of different widths
        raise LoadError(f"{type(mlp).__name__}: {error}") from None


def _activation(mlp: Any, name: str) -> Any:
    function = getattr(mlp, name)
    label, module = getattr(function, "__name__", ""), getattr(function, "__module__", "")
    library = str(module).split(".")[0]
    if name == "final_activation" and library == "equinox" and label == "<lambda>":
        return activation("identity")  # equinox's own default
    if library == "jax" and label in _FUNCTIONS:
        known, parameters = _FUNCTIONS[label]
        return activation(known, **parameters)
    option = "act" if name == "activation" else "final_act"
    raise LoadError(
        f"{type(mlp).__name__}: {name} {shown(label or function)} is none of jax.nn's that are "
        f"known: say which it is, {option}='tanh', or give array API code of one array"
    )


def _dense(m: Any, i: int, act: Any) -> Dense:
    where = f"layer {i} ({type(m).__name__})"
    weight, bias = getattr(m, "weight", None), getattr(m, "bias", None)
    if weight is None or getattr(weight, "ndim", 0) != 2:
        raise LoadError(f"{where} has no weight matrix, a Linear layer is expected")
    K = _array(weight, f"{where}.weight").T
    rows, columns = K.shape
    layer = Dense(rows, columns, act, bias is not None, seed=...)
    layer.K = K
    if bias is not None:
        layer.b = _array(bias, f"{where}.bias").reshape(-1)
        if layer.b.shape != K.shape[1:]:
            raise LoadError(f"{where} has a bias of shape {layer.b.shape}, {K.shape[1:]} fits")
    return layer
