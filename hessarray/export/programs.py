"""The functions that an exported module can have: what each computes, and its plan."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from hessarray.backends.protocol import Costs
from hessarray.errors import OptionError, near_names
from hessarray.plan.plan import Plan, make_plan
from hessarray.plan.want import Want, wanted

if TYPE_CHECKING:
    from hessarray.function import Function

__all__ = ["FUNCTIONS", "Kind", "LIBRARIES", "names_of", "plan_for"]

# What the planner weighs, of each library's backend, which need not be installed here. Exported
# code for NumPy has no operation for J diag(w) J^T, and no planned buffers to compute parts in.
LIBRARIES = {
    "numpy": Costs(call=1.0e-6, flop=2.5e-11, entry=6e-10, row=2.5e-8, matrix=3e-7),
    "cupy": Costs(call=8e-6, flop=3e-14, entry=6e-12, row=1e-12, matrix=1e-9),
    "torch": Costs(call=3e-6, flop=2.5e-11, entry=6e-10, row=1e-9, matrix=3e-7),
}


@dataclass(frozen=True)
class Kind:
    """One function of the module: what it wants, and the argument that it takes besides x."""

    formula: str
    want: Want
    direction: str = ""  # "p" of an input's shape, or "lam" of the output's
    times: tuple[int, ...] = (0,)  # how often the input's shape comes in each result


FUNCTIONS = {
    "value": Kind("f_m", wanted()),
    "gradient": Kind("df_m/dx_a", wanted(value=False, gradient=True), times=(1,)),
    "hessian": Kind("d2f_m/dx_a dx_b", wanted(value=False, second="hessian"), times=(2,)),
    "hessian_diagonal": Kind("d2f_m/dx_a^2", wanted(value=False, second="diagonal"), times=(1,)),
    "laplacian": Kind("sum_a d2f_m/dx_a^2", wanted(value=False, second="laplacian")),
    "hvp": Kind(
        "sum_b d2f_m/dx_a dx_b p_b", wanted(value=False, second="hvp"), direction="p", times=(1,)
    ),
    "weighted_hessian": Kind(
        "sum_m lam_m d2f_m/dx_a dx_b",
        wanted(value=False, second="hessian", right=0, batched_right=True),
        direction="lam",
        times=(2,),
    ),
    "value_gradient_hessian": Kind(
        "value, gradient and Hessian from one pass",
        wanted(gradient=True, second="hessian"),
        times=(0, 1, 2),
    ),
}


def names_of(want: str | Sequence[str]) -> list[str]:
    """The functions asked for, in the order of the table; an unknown name is an OptionError."""
    asked = [want] if isinstance(want, str) else list(want)
    for name in asked:
        if name not in FUNCTIONS:
            hint = near_names(str(name), FUNCTIONS) or f"known are {', '.join(FUNCTIONS)}"
            raise OptionError(f"want={name!r} is no function of an exported module: {hint}")
    if not asked:
        raise OptionError(f"want is empty: name some of {', '.join(FUNCTIONS)}")
    return [name for name in FUNCTIONS if name in asked]


def plan_for(function: Function, name: str, n: int, library: str) -> Plan:
    """The plan of one function of the module, for about n samples."""
    return make_plan(function.graph(), FUNCTIONS[name].want, n, LIBRARIES[library])
