"""The cases of `hessarray bench` one by one, for pytest-benchmark's statistics and comparisons.

Nothing here asserts a time. Ratios taken in turn are the command's.
"""

from __future__ import annotations

import pytest

from hessarray.bench.cases import cases
from hessarray.bench.host import cores
from hessarray.bench.libraries import library
from hessarray.bench.measure import alone, difference
from hessarray.bench.peers import PEERS, NotMeasured, missing
from hessarray.bench.problem import ours, problem
from hessarray.bench.run import AGREE

# What the peers warn about is theirs.
pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning")

CASES = {f"{case.group} {case.name} n={case.n}": case for case in cases()}
PAIRS = [
    (name, peer)
    for name, case in CASES.items()
    for peer in PEERS
    if PEERS[peer].install and case.peers is None and case.want in PEERS[peer].wants
]


@pytest.mark.parametrize("name", CASES)
def test_hessarray(benchmark, name):
    call = ours(problem(CASES[name]), library("numpy", "cpu", cores()))
    benchmark.group = name
    call.run(*call.inputs[0])
    benchmark(call.run, *call.inputs[0])


@pytest.mark.parametrize(("name", "peer"), PAIRS)
def test_peer(benchmark, name, peer):
    """The fastest of a peer's ways."""
    if (reason := missing(peer)) is not None:
        pytest.skip(reason)
    made = problem(CASES[name])
    mine = ours(made, library("numpy", "cpu", cores()))
    try:
        calls = PEERS[peer].prepare(made, "cpu", cores())
    except NotMeasured as why:
        pytest.skip(str(why))
    assert max(difference(mine, call) for call in calls.values()) < AGREE
    best = min(calls.values(), key=lambda call: alone(call, 0.0).min())
    benchmark.group = name
    benchmark.pedantic(best.run, best.inputs[0], rounds=5)
