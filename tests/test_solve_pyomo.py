"""Pyomo's grey box: what pynumero gets of it, and IPOPT's optimum through pynumero."""

from __future__ import annotations

import importlib.util
import sys
from typing import Any

import numpy as np
import pytest

import hessarray as ha
from hessarray.errors import BackendError, OptionError, SampleIndexError, ShapeError

if importlib.util.find_spec("pyomo") is None:
    pytest.skip("pyomo is not installed: pip install 'hessarray[pyomo]'", allow_module_level=True)

import pyomo.environ as pyo
from pyomo.contrib.pynumero.asl import AmplInterface
from pyomo.contrib.pynumero.interfaces.external_grey_box import (
    ExternalGreyBoxBlock,
    ExternalGreyBoxModel,
)
from pyomo.contrib.pynumero.interfaces.pyomo_grey_box_nlp import _ExternalGreyBoxAsNLP

needs_cyipopt = pytest.mark.skipif(
    importlib.util.find_spec("cyipopt") is None,
    reason="cyipopt is not installed: pip install 'hessarray[ipopt]'",
)
needs_asl = pytest.mark.skipif(
    not AmplInterface.available(),
    reason="pynumero's ASL library is missing: conda install pynumero_libraries",
)
RNG = np.random.default_rng(0)


def block_of(model: Any) -> Any:
    """A Pyomo model whose only part is the grey box."""
    whole = pyo.ConcreteModel()
    whole.net = ExternalGreyBoxBlock()
    whole.net.set_external_model(model)
    return whole


@pytest.mark.parametrize("m", [2, 60])  # Hessians together with the value, and by themselves
def test_outputs_jacobian_and_hessian_are_those_of_the_network(m: int) -> None:
    net = ha.fully_connected([5, 8, m], act="tanh", seed=0)
    model = ha.pyomo_model(net)
    assert isinstance(model, ExternalGreyBoxModel)
    assert model.input_names() == [f"x{i}" for i in range(5)]
    assert model.output_names() == [f"f{i}" for i in range(m)]
    assert (model.n_inputs(), model.n_outputs(), model.n_equality_constraints()) == (5, m, 0)
    for _ in range(2):
        x, lam = RNG.normal(size=5), RNG.normal(size=m)
        model.set_input_values(x)
        model.set_output_constraint_multipliers(lam)
        np.testing.assert_allclose(model.evaluate_outputs(), net.value(x), rtol=1e-13)
        jacobian = model.evaluate_jacobian_outputs()
        np.testing.assert_allclose(jacobian.toarray(), net.gradient(x).T, rtol=1e-12)
        hessian = model.evaluate_hessian_outputs()
        expected = np.tril(net.weighted_hessian(x, lam))
        np.testing.assert_allclose(hessian.toarray(), expected, rtol=1e-10, atol=1e-13)
        assert (jacobian.nnz, hessian.nnz) == (5 * m, 15)


def test_values_are_kept_where_pynumero_changes_its_arrays() -> None:
    net = ha.fully_connected([3, 8, 2], act="tanh", seed=0)
    model, x = ha.pyomo_model(net), np.ones(3)
    model.set_input_values(x)
    x[:] = 0
    np.testing.assert_allclose(model.evaluate_outputs(), net.value(np.ones(3)), rtol=1e-14)


def test_names_come_from_the_caller_or_the_network() -> None:
    net = ha.fully_connected([2, 8, 3], act="tanh", seed=0)
    net.output_names = ("a", "b", "c")
    assert ha.pyomo_model(net, ["c", "a"]).output_names() == ["c", "a"]
    whole = block_of(ha.pyomo_model(net, 1, input_names=["T", "p"], names=["rate"]))
    assert list(whole.net.inputs) == ["T", "p"]
    assert list(whole.net.outputs) == ["rate"]


class _FirstOutput(_ExternalGreyBoxAsNLP):
    """min of the first output, all else being bounds: needs nothing of the ASL library."""

    def evaluate_objective(self) -> float:
        return float(self.get_primals()[self._ex_model.n_inputs()])

    def evaluate_grad_objective(self, out: Any = None) -> Any:
        gradient = np.eye(self.n_primals())[self._ex_model.n_inputs()]
        if out is None:
            return gradient
        out[:] = gradient
        return out

    def get_obj_scaling(self) -> None:
        return None

    def get_primals_scaling(self) -> None:
        return None


def bowl(net: ha.Network) -> ha.Function:
    def outputs(x: Any) -> Any:
        xp = x.__array_namespace__()
        f = xp.sum(np.arange(1.0, 6.0) * (1 - x) ** 2)
        return xp.stack([f + net(x)[0], x @ x])

    return ha.Function(outputs, in_shape=(5,))


@needs_cyipopt
def test_ipopt_through_pynumero_finds_the_optimum_in_fewer_iterations() -> None:
    from pyomo.contrib.pynumero.algorithms.solvers.cyipopt_solver import CyIpoptSolver
    from pyomo.contrib.pynumero.interfaces.cyipopt_interface import CyIpoptNLP

    fn = bowl(ha.fully_connected([5, 12, 1], act="tanh", seed=0))
    found, counts = [], []
    for options in ({}, {"hessian_approximation": "limited-memory"}):
        whole = block_of(ha.pyomo_model(fn))
        whole.net.outputs["f1"].setub(3.0)
        for v in whole.net.inputs.values():
            v.set_value(0.5)
        seen: list[int] = []

        def count(_nlp: Any, _mode: int, iteration: int, *_: Any, seen: Any = seen) -> bool:
            seen.append(iteration)
            return True

        nlp = CyIpoptNLP(_FirstOutput(whole.net), intermediate_callback=count)
        settings = {"print_level": 0, "sb": "yes", "tol": 1e-8, "max_iter": 300, **options}
        x, info = CyIpoptSolver(nlp, options=settings).solve()
        assert info["status"] == 0
        found.append(x[:5])
        counts.append(seen[-1])
    np.testing.assert_allclose(found[0], found[1], atol=1e-5)
    assert counts[0] < counts[1]
    direct = ha.ipopt_problem(fn, 0, constraints=1, cu=3.0)
    x, _ = direct.solve(np.full(5, 0.5), print_level=0, sb="yes", tol=1e-9)
    np.testing.assert_allclose(found[0], x, atol=1e-7)


@needs_cyipopt
@needs_asl
def test_pyomos_own_solver_finds_the_optimum() -> None:
    net = ha.fully_connected([5, 12, 1], act="tanh", seed=0)
    whole = block_of(ha.pyomo_model(net, names=["y"]))
    x = [whole.net.inputs[f"x{i}"] for i in range(5)]
    for v in x:
        v.set_value(0.5)
    distance = sum((i + 1) * (1 - v) ** 2 for i, v in enumerate(x))
    whole.objective = pyo.Objective(expr=distance + whole.net.outputs["y"])
    whole.ball = pyo.Constraint(expr=sum(v**2 for v in x) <= 3)
    solver = pyo.SolverFactory("cyipopt")
    solver.config.options.update({"print_level": 0, "sb": "yes", "tol": 1e-9})
    result = solver.solve(whole)
    assert result.solver.termination_condition == pyo.TerminationCondition.optimal
    direct = ha.ipopt_problem(bowl(net), 0, constraints=1, cu=3.0)
    expected, _ = direct.solve(np.full(5, 0.5), print_level=0, sb="yes", tol=1e-9)
    np.testing.assert_allclose([pyo.value(v) for v in x], expected, atol=1e-6)


def test_bad_input_is_one_sentence(monkeypatch: pytest.MonkeyPatch) -> None:
    net = ha.fully_connected([3, 4, 2], act="tanh", seed=0)
    with pytest.raises(SampleIndexError, match="output 2 is out of range"):
        ha.pyomo_model(net, 2)
    with pytest.raises(ShapeError, match="input_names has 1 names, 3 are expected"):
        ha.pyomo_model(net, input_names=["a"])
    with pytest.raises(OptionError, match="names holds 'a' twice"):
        ha.pyomo_model(net, names=["a", "a"])
    with pytest.raises(ShapeError, match=r"input_values has shape \(2,\), \(3,\) is expected"):
        ha.pyomo_model(net).set_input_values([1, 2])
    two = ha.Function(lambda x, y: x @ y, in_shape=[(3,), (3,)])
    with pytest.raises(ShapeError, match="2 inputs"):
        ha.pyomo_model(two)
    monkeypatch.delitem(sys.modules, "hessarray.solve._pyomo_grey_box", raising=False)
    monkeypatch.setitem(sys.modules, "pyomo.contrib.pynumero.interfaces.external_grey_box", None)
    with pytest.raises(BackendError, match=r"pip install 'hessarray\[pyomo\]'"):
        ha.pyomo_model(net)
