"""torch's part in reading a module: it is called with samples, and exported with one."""

from __future__ import annotations

import operator
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from hessarray.errors import LoadError
from hessarray.load.limits import shown
from hessarray.load.torch_operators import OPERATORS

__all__ = [
    "called",
    "check_mode",
    "check_samples",
    "exported",
    "floating",
    "name_of",
    "named_tensors",
    "nearby",
    "quiet",
]


@contextmanager
def quiet(torch: Any) -> Iterator[None]:
    """No fused transformer kernels, which export cannot take apart; no deprecations of torch's."""
    fast = torch.backends.mha.get_fastpath_enabled()
    torch.backends.mha.set_fastpath_enabled(False)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        torch.backends.mha.set_fastpath_enabled(fast)


def floating(torch: Any, module: Any, examples: tuple[Any, ...], place: str) -> tuple[Any, ...]:
    """The examples as tensors in the module's dtype and on its device."""
    tensors = [*module.parameters(), *module.buffers()]
    like = next((t for t in tensors if t.is_floating_point()), torch.zeros(()))
    if any(t.is_meta for t in tensors):
        raise LoadError(f"{place}: weights on the device 'meta' have no values")
    if str(like.dtype) not in ("torch.float32", "torch.float64"):
        dtype = str(like.dtype).removeprefix("torch.")
        raise LoadError(f"{place}: weights of dtype {dtype}, float32 or float64 is expected")
    found = []
    for example in examples:
        try:
            x = torch.as_tensor(example).detach()
        except (TypeError, ValueError, RuntimeError):
            raise LoadError(
                f"{place}: the example {shown(example)} is no array: pass a batch (n, ...) of each "
                "input"
            ) from None
        if not x.is_floating_point():
            raise LoadError(
                f"{place}: the example has dtype {str(x.dtype).removeprefix('torch.')}, floating "
                "numbers are expected: whole numbers have no derivative"
            )
        if x.ndim < 1 or not x.numel():
            raise LoadError(
                f"{place}: the example has shape {tuple(x.shape)}, a batch of one or more samples "
                "(n, ...) is expected"
            )
        found.append(x.to(dtype=like.dtype, device=like.device))
    return tuple(found)


def check_mode(torch: Any, module: Any, place: str) -> None:
    """Refuse a module that is random or mixes samples only because it is in training mode."""
    nn = torch.nn.modules
    random = (nn.dropout._DropoutNd, nn.batchnorm._BatchNorm, nn.RReLU)
    for name, m in module.named_modules():
        if m.training and isinstance(m, random):
            raise LoadError(
                f"{place}{'.' * bool(name)}{name}: {type(m).__name__} is in training mode, where "
                "it mixes samples or is random: call module.eval() first"
            )


def check_samples(
    torch: Any, module: Any, examples: tuple[Any, ...], place: str
) -> tuple[int, ...]:
    """One sample's shape of the output; a sample's result must not depend on the others.

    A sample of NaN spoils what it takes part in, whatever the weights; what is chosen by
    comparisons, which NaN passes through, shows where samples are evaluated alone.
    """
    batch = nearby(torch, examples, 3)
    try:
        with torch.no_grad():
            together = called(torch, module, batch, place)
            alone = [
                called(torch, module, tuple(x[i : i + 1] for x in batch), place) for i in range(3)
            ]
            spoilt = tuple(x.clone() for x in batch)
            for x in spoilt:
                x[1] = torch.nan
            beside = called(torch, module, spoilt, place)
    except LoadError:
        raise
    except Exception as error:  # the module's own code may raise anything
        shapes = " and ".join(str(tuple(x.shape)) for x in batch)
        raise LoadError(f"{place} fails on inputs of shape {shapes}: {shown(error)}") from None
    if together.shape[:1] != (3,):
        raise LoadError(
            f"{place} returns shape {tuple(together.shape)} for 3 samples, which must be on the "
            "first axis"
        )
    tolerance = 1e-3 if together.dtype == torch.float32 else 1e-9
    scale = torch.nan_to_num(together).abs().max() if together.numel() else 0.0
    for i in (0, 1, 2):
        same = alone[i].numel() == together[i].numel() and torch.allclose(
            alone[i].reshape(together[i].shape),
            together[i],
            tolerance,
            tolerance * float(scale),
            equal_nan=True,
        )
        apart = i == 1 or torch.allclose(
            beside[i], together[i], tolerance, tolerance * float(scale), equal_nan=True
        )
        if not same or not apart:
            raise LoadError(
                f"{place} mixes samples, or is random: the result for one changes with the others "
                "in the batch, so that it is no function of one sample"
            )
    return tuple(together.shape[1:])


def nearby(torch: Any, examples: tuple[Any, ...], count: int) -> tuple[Any, ...]:
    """Different samples near the first of the example, so that they stay in its domain."""
    generator = torch.Generator().manual_seed(0)
    found = []
    for x in examples:
        noise = torch.rand((count, *x.shape[1:]), generator=generator, dtype=x.dtype).to(x.device)
        found.append(x[:1] * (1.0 + 0.1 * noise) + 0.01 * noise)
    return tuple(found)


def called(torch: Any, module: Any, examples: tuple[Any, ...], place: str) -> Any:
    """What the module returns; several tensors flattened and joined along the features."""
    tensors = list(named_tensors(torch, module(*examples), place).values())
    if len(tensors) == 1:
        return tensors[0]
    n = len(examples[0])
    for t in tensors:
        if t.shape[:1] != (n,):
            raise LoadError(
                f"{place} returns shape {tuple(t.shape)} for {n} samples, which must be on the "
                "first axis"
            )
    return torch.cat([t.reshape(n, -1) for t in tensors], 1)


def named_tensors(torch: Any, output: Any, place: str) -> dict[str, Any]:
    """The tensors that a module returns: of a dict by its keys, else numbered."""
    if isinstance(output, Mapping):
        pairs = [(str(k), v) for k, v in output.items()]
    elif isinstance(output, (tuple, list)):
        fields = getattr(output, "_fields", [f"output{i}" for i in range(len(output))])
        pairs = list(zip(fields, output, strict=True))
    else:
        pairs = [("output", output)]
    found = {k: v for k, v in pairs if v is not None}
    odd = next((v for v in found.values() if not isinstance(v, torch.Tensor)), None)
    if not found or odd is not None:
        what = "nothing" if odd is None else f"{type(odd).__name__} among its results"
        raise LoadError(
            f"{place} returns {what}: one tensor, or a tuple or dict of tensors, is expected"
        )
    whole = next((k for k, v in found.items() if not v.is_floating_point()), None)
    if whole is not None:
        dtype = str(found[whole].dtype).removeprefix("torch.")
        raise LoadError(
            f"{place} returns '{whole}' of dtype {dtype}, which has no derivative: return the "
            "other results only"
        )
    return found


def exported(torch: Any, module: Any, examples: tuple[Any, ...], place: str) -> Any:
    """The program that torch.export makes of the module, in operators that are known."""
    if not hasattr(torch.export, "default_decompositions"):
        raise LoadError(
            f"{place}: tracing needs torch 2.6 or newer, this is {torch.__version__}: pip install "
            "'torch>=2.6', or export the module to ONNX"
        )
    try:
        program = torch.export.export(module, nearby(torch, examples, 1))
        if all(map(_known, program.graph.nodes)):
            return program  # what follows takes torch a second, whatever the model
        table = torch.export.default_decompositions()
        table.update(_more_decompositions(torch))
        for target in list(table):
            if name_of(target) in OPERATORS:
                table.pop(target)
        return program.run_decompositions(table)
    except Exception as error:
        raise LoadError(f"{place} cannot be traced by torch.export: {shown(error)}") from None


def _more_decompositions(torch: Any) -> dict[Any, Any]:
    """Of interpolation, which torch keeps whole for devices that have kernels for it."""
    from torch._decomp import get_decompositions

    aten = torch.ops.aten
    kept = (aten.upsample_nearest2d, aten.upsample_bilinear2d, aten.upsample_bicubic2d)
    return dict(get_decompositions([packet.vec for packet in kept]))


def _known(node: Any) -> bool:
    """Whether the table has the operator as it is; one that writes into its argument it has not."""
    if node.op != "call_function" or node.target is operator.getitem:
        return True
    schema = getattr(node.target, "_schema", None)
    return schema is not None and not schema.is_mutable and name_of(node.target) in OPERATORS


def name_of(target: Any) -> str:
    """Row of the table: with the overload where the table has it."""
    packet, _, overload = target.name().removeprefix("aten::").partition(".")
    full = f"{packet}.{overload}"
    return full if full in OPERATORS else str(packet)
