"""The grey box behind `pyomo_model`; imported with Pyomo only."""

from __future__ import annotations

from typing import Any

import numpy as np
from pyomo.contrib.pynumero.interfaces.external_grey_box import ExternalGreyBoxModel
from scipy.sparse import coo_matrix

from hessarray.function import Function
from hessarray.solve._arguments import vector
from hessarray.solve._shared import Shared

__all__ = ["GreyBox"]


class GreyBox(ExternalGreyBoxModel):  # type: ignore[misc]  # Pyomo is untyped
    """Outputs f (m,) of inputs x (d,), as pynumero sets and asks for them."""

    def __init__(self, function: Function, inputs: list[str], outputs: list[str]) -> None:
        self._shared = Shared(function)
        self._inputs, self._outputs = inputs, outputs
        d, m = len(inputs), len(outputs)
        self._x, self._multipliers = np.zeros(d), np.zeros(m)
        # Every entry, zeros too: pynumero expects the same pattern at every point.
        self._full = np.indices((m, d)).reshape(2, -1)
        self._lower = np.tril_indices(d)

    def input_names(self) -> list[str]:
        return self._inputs

    def output_names(self) -> list[str]:
        return self._outputs

    def set_input_values(self, input_values: Any) -> None:
        self._x = vector("input_values", input_values, len(self._inputs)).copy()

    def set_output_constraint_multipliers(self, output_con_multiplier_values: Any) -> None:
        m = len(self._outputs)
        why = "one for each output"
        self._multipliers = vector("multipliers", output_con_multiplier_values, m, why).copy()

    def evaluate_outputs(self) -> Any:
        """f, (m,)."""
        return self._shared.value(self._x)

    def evaluate_jacobian_outputs(self) -> Any:
        """df_m/dx_a, (m, d)."""
        entries = self._shared.jacobian(self._x).reshape(-1)
        return coo_matrix((entries, tuple(self._full)), shape=(self._shared.m, self._shared.d))

    def evaluate_hessian_outputs(self) -> Any:
        """The lower half of sum_m multiplier_m d2f_m/dx_a dx_b, (d, d)."""
        d = self._shared.d
        hessian = self._shared.weighted_hessian(self._x, self._multipliers)
        return coo_matrix((hessian[self._lower], self._lower), shape=(d, d))
