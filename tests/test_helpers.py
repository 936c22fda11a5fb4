"""Threads that help a running program: chunks, parts of operations; and the memory of results."""

from __future__ import annotations

import os
import subprocess
import sys
import textwrap
import threading
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from threads import run_all

import hessarray as ha
from hessarray.backends import numpy_backend, numpy_loops, numpy_parts
from hessarray.backends.numpy_parts import Operation, cut

loops = numpy_loops._loops
pytestmark = pytest.mark.skipif(loops is None, reason="built without a C compiler")
needs_products = pytest.mark.skipif(
    not hasattr(loops, "product"), reason="no packed products on this processor"
)


def add(bases: tuple[int, ...] = (0, 1, 0), entries: int = 4, **changes: Any) -> Operation:
    """np.add of so many float64 entries."""
    fields = {"offsets": (0, 0, 0), "shape": (entries,), "strides": ((8,), (8,), (8,))}
    return Operation(loops.ELEMENTWISE, np.add, "ddd", bases, **fields | changes)


def normal(*shape: int, dtype: str = "float64") -> np.ndarray:
    return np.random.default_rng(7).normal(size=shape).astype(dtype)


@pytest.fixture
def eager(monkeypatch: pytest.MonkeyPatch) -> None:
    """Everything is worth a helper, and every operation is cut that can be."""
    monkeypatch.setattr(numpy_backend, "_WORTH_HELP", 1)
    monkeypatch.setattr(numpy_backend, "_WORTH_PARTS", 1)
    monkeypatch.setattr(numpy_backend, "cores", lambda: 3)
    monkeypatch.setattr(numpy_parts, "_LEAST", 1e-12)


# ---- chunks ------------------------------------------------------------------------------------


@pytest.mark.parametrize("helpers", [0, 1, 3])
def test_chunks_of_several_programs(helpers: int) -> None:
    a, b, work = np.arange(14.0), np.ones(4), np.zeros(8 * (helpers + 1))
    whole = loops.Program([add((1, 2, 0)), add((0, 2, 1))], 3)
    rest = loops.Program([add((1, 2, 1), 2)], 3)
    runs = (
        (whole, 3, (0, 0, 0), (0, 32, 0), ()),
        (rest, 1, (0, 96, 0), (0, 16, 0), ()),
    )
    loops.perform(helpers, 64, runs, (work,), (a, b))
    np.testing.assert_array_equal(a[:12], np.arange(12.0) + 2.0)
    np.testing.assert_array_equal(a[12:], np.arange(12.0, 14.0) + 1.0)


def test_no_runs() -> None:
    assert loops.perform(2, 0, ()) is None


@pytest.mark.parametrize(
    "arguments",
    [
        (),
        (0, 0),
        (-1, 0, ()),
        (0, -1, ()),
        ("a", 0, ()),
        (0, 0, []),
        (0, 0, (None,)),
        (0, 0, (("p", 1, (0, 0), (0, 0), ()),)),
        (0, 0, ((0, 1, (0, 0), (0, 0), ()),)),
        (0, 0, ((2**40, (0, 0), (0, 0), ()),)),
        (0, 0, ((1, (0,), (0, 0), ()),)),
        (0, 0, ((1, (0, 0), (0,), ()),)),
        (0, 0, ((1, (0, "a"), (0, 0), ()),)),
        (0, 0, ((1, (-8, 0), (0, 0), ()),)),
        (0, 0, ((1, (0, 0), (-8, 0), ()),)),
        (0, 0, ((1, (8, 0), (0, 0), ()),)),
        (0, 0, ((2, (0, 0), (0, 8), ()),)),
        (0, 0, ((2**30, (0, 0), (0, 2**60), ()),)),
        (1, 8, ((1, (0, 0), (0, 0), ()),)),
        (1, 2**62, ((1, (0, 0), (0, 0), ()),)),
        (0, 0, ((1, (0, 0), (0, 0), (np.zeros(4),)),)),
        (0, 0, ((1, (0, 0), (0, 0), None),)),
    ],
)
def test_chunks_that_do_not_fit_are_refused(arguments: tuple[Any, ...]) -> None:
    program = loops.Program([add()], 2)
    if len(arguments) > 2:
        runs = [(program, *r) if isinstance(r, tuple) and r[0] != "p" else r for r in arguments[2]]
        arguments = (*arguments[:2], tuple(runs) if isinstance(arguments[2], tuple) else runs)
    a, b = np.zeros(4), np.zeros(4)
    with pytest.raises((ValueError, TypeError, OverflowError)):
        loops.perform(*arguments, (a, b))
    assert not a.any()


@pytest.mark.usefixtures("eager")
@pytest.mark.parametrize("n", [2, 3, 7, 10, 64, 333])
@pytest.mark.parametrize("want", ["value_gradient_hessian", "laplacian"])
def test_helpers_change_no_bit(n: int, want: str) -> None:
    net = ha.Network(
        ha.Dense(5, 16, act="tanh"), ha.resnet(16, 3, h=0.5, act="softplus"), ha.Dense(16, 2)
    )
    x = normal(n, 5)
    alone = getattr(net, want)(x, threads=1)
    for threads in (2, 3, 40):
        for _ in range(4):  # call by call, recorded, repeated
            found = getattr(net, want)(x, threads=threads)
            for a, b in zip(_listed(found), _listed(alone), strict=True):
                np.testing.assert_allclose(a, b, rtol=1e-13, atol=1e-13)


@pytest.mark.usefixtures("eager")
def test_callers_at_the_same_time() -> None:
    """One has the helpers, the others do without; nobody sees another's numbers."""
    net = ha.fully_connected([4, 24, 24, 1], act="tanh", seed=0)
    xs = [normal(n, 4) for n in (1, 2, 9)]
    expected = [net.hessian(x, threads=1) for x in xs]
    wrong, start = [], threading.Barrier(6)

    def work(k: int) -> None:
        start.wait()
        for i in range(200):
            j = (i + k) % 3
            if not np.allclose(net.hessian(xs[j]), expected[j], rtol=1e-12, atol=1e-13):
                wrong.append((k, i))

    run_all(work, 6)
    assert not wrong


@pytest.mark.skipif(not hasattr(__import__("os"), "fork"), reason="no fork here")
def test_a_fork_has_helpers_of_its_own() -> None:
    code = """
    import os, numpy as np, hessarray as ha
    from hessarray.backends import numpy_backend
    numpy_backend._WORTH_HELP = 1
    net = ha.fully_connected([4, 24, 24, 1], act="tanh", seed=0)
    x = np.ones((9, 4))
    before = [net.hessian(x, threads=2) for _ in range(5)][-1]
    child = os.fork()
    for _ in range(50):
        assert np.array_equal(net.hessian(x, threads=2), before)
    tasks = "/proc/self/task"
    if os.path.isdir(tasks):
        names = [open(f"{tasks}/{t}/comm").read().strip() for t in os.listdir(tasks)]
        assert "hessarray" in names, names
    if child == 0:
        os._exit(0)
    assert os.waitpid(child, 0)[1] == 0
    """
    subprocess.run([sys.executable, "-c", textwrap.dedent(code)], check=True, timeout=120)


@pytest.mark.skipif(not hasattr(os, "fork"), reason="forks are for POSIX")
def test_a_fork_gets_the_threads_of_blas_back() -> None:
    """At the fork a thread that is not in the child, or this one, holds BLAS to one thread."""
    code = """
    import os, threading
    import numpy as np
    from threadpoolctl import threadpool_info, threadpool_limits
    from hessarray.backends.numpy_threads import one_blas_thread

    def threads():
        return [m["num_threads"] for m in threadpool_info() if m["user_api"] == "blas"]

    def fork():
        child = os.fork()
        if child == 0:
            for _ in range(2):
                with one_blas_thread:
                    assert set(threads()) == {1}, threads()
            os._exit(threads() != before)
        assert os.waitpid(child, 0)[1] == 0

    threadpool_limits(2, user_api="blas")
    before = threads()
    held, go_on = threading.Event(), threading.Event()

    def hold():
        with one_blas_thread:
            held.set()
            go_on.wait(60)

    other = threading.Thread(target=hold)
    other.start()
    held.wait(60)
    fork()
    go_on.set()
    other.join()
    with one_blas_thread:
        fork()
    assert threads() == before
    """
    subprocess.run([sys.executable, "-c", textwrap.dedent(code)], check=True, timeout=120)


# ---- parts -------------------------------------------------------------------------------------


def test_groups_of_a_program() -> None:
    a, b = np.arange(64.0), np.ones(64)
    parts = [add(offsets=(64 * k, 64 * k, 64 * k), entries=8) for k in range(8)]
    program = loops.Program(parts, 2, (3, 1, 4))
    for helpers in (0, 1, 5):
        for _ in range(200):
            program.run(helpers, (a,), (b,))
    np.testing.assert_array_equal(a, np.arange(64.0) + 600.0)


@pytest.mark.parametrize("groups", [(0,), (-1,), (2, 2), (4,), ("a",), (2**40,), [1]])
def test_groups_that_do_not_fit_are_refused(groups: Any) -> None:
    with pytest.raises((ValueError, TypeError, OverflowError)):
        loops.Program([add(), add(), add()], 2, groups)


@needs_products
def test_trouble_in_a_helper_is_raised() -> None:
    """The kernel refuses a matrix that is not packed; whoever finds it out."""
    a = np.zeros(4096)
    wrong = Operation(
        loops.GENERALISED, loops.product, "ddd", (0, 0, 0), (0, 0, 16384), (), ((), (), ()),
        (2, 3, 5, 4), (24, 8, 8, 32, 8),
    )  # fmt: skip
    program = loops.Program([wrong] * 4, 1, (4,))
    for _ in range(300):
        with pytest.raises(ValueError, match="packed"):
            program.run(2, (a,))
    assert not a.any()


ACTS = ["tanh", "softplus", "gelu", "relu"]


@pytest.mark.usefixtures("eager")
@given(
    widths=st.lists(st.integers(1, 70), min_size=2, max_size=4),
    n=st.sampled_from([1, 1, 1, 2, 5]),
    outputs=st.sampled_from([1, 3]),
    act=st.sampled_from(ACTS),
    dtype=st.sampled_from(["float64", "float32"]),
    want=st.sampled_from(["value_gradient_hessian", "hvp", "laplacian"]),
)
def test_parts_change_no_bit(
    widths: list[int], n: int, outputs: int, act: str, dtype: str, want: str
) -> None:
    net = ha.fully_connected([*widths, outputs], act=act, seed=1)
    x = [normal(n, widths[0], dtype=dtype)] * (2 if want == "hvp" else 1)
    whole = [np.array(a) for a in _listed(getattr(net, want)(*x, threads=1))]
    for _ in range(3):
        shared = _listed(getattr(net, want)(*x))
        for a, b in zip(shared, whole, strict=True):
            if n == 1:
                np.testing.assert_array_equal(a, b)
            else:  # chunks of other lengths: the BLAS library has orders of its own
                close = {"rtol": 2e-5, "atol": 1e-5} if dtype == "float32" else {"rtol": 1e-12}
                np.testing.assert_allclose(a, b, **{"atol": 1e-13} | close)


def _listed(found: Any) -> list[Any]:
    return list(found) if isinstance(found, tuple) else [found]


def test_what_is_cut() -> None:
    """Every kind of operation, and how."""
    whole = add(entries=60_000)
    parts, groups = cut([whole, add(entries=10)], 4)
    assert groups == (4, 1)
    assert [p.shape for p in parts] == [(15_000,)] * 4 + [(10,)]
    assert [p.offsets[0] for p in parts] == [0, 120_000, 240_000, 360_000, 0]
    # Sums over the axis, and results that overlap an operand elsewhere, stay whole.
    total = add(entries=60_000, strides=((0,), (8,), (0,)))
    shifted = add((0, 1, 0), 60_000, offsets=(8, 0, 0))
    columns = add(shape=(4, 20_000), strides=((0, 8), (160_000, 8), (0, 8)))
    parts, groups = cut([total, shifted, columns], 4)
    assert groups == (1, 1, 4)
    assert parts[0] is total
    assert parts[1] is shifted
    assert [p.shape for p in parts[2:]] == [(4, 5000)] * 4


@needs_products
def test_products_are_cut_by_rows_or_columns() -> None:
    def product(m: int, k: int, p: int) -> Operation:
        wide = -(-p // 8) * 8
        return Operation(
            loops.GENERALISED, loops.product, "ddd", (0, 1, 2), (0, 0, 0), (), ((), (), ()),
            (m, k, k * wide, p), (8 * k, 8, 8, 8 * p, 8),
        )  # fmt: skip

    if loops.VECTOR != 64:
        pytest.skip("vectors of another length: other panels")
    rows, groups = cut([product(160, 32, 32)], 2)
    assert groups == (2,)
    assert [o.core for o in rows] == [(80, 32, 1024, 32)] * 2
    assert rows[1].offsets == (80 * 32 * 8, 0, 80 * 32 * 8)
    columns, groups = cut([product(5, 512, 500)], 2)
    assert groups == (2,)
    assert [o.core for o in columns] == [(5, 512, 512 * 240, 240), (5, 512, 512 * 264, 260)]
    assert columns[1].offsets == (0, 512 * 240 * 8, 240 * 8)


# ---- the memory of results -----------------------------------------------------------------------


def address(a: np.ndarray) -> int:
    return int(a.__array_interface__["data"][0])


LARGE = 3 << 17  # float64 entries: 3 MiB


def test_results_are_ordinary_arrays() -> None:
    found = loops.empty(((2, 3), (), (0, 4), (LARGE,)), np.dtype("float32"))
    assert [a.shape for a in found] == [(2, 3), (), (0, 4), (LARGE,)]
    for a in found:
        assert type(a) is np.ndarray
        assert a.dtype == np.float32
        assert a.flags.owndata
        assert a.flags.writeable
        assert a.flags.c_contiguous
    with pytest.raises((ValueError, MemoryError)):
        loops.empty(((2**62,),), np.dtype("float64"))
    with pytest.raises((ValueError, MemoryError)):
        loops.empty(((2**44,),), np.dtype("float64"))
    for wrong in ((), ((3,), "d"), ([(3,)], np.dtype("d")), (("a",), np.dtype("d"))):
        with pytest.raises((TypeError, ValueError)):
            loops.empty(*wrong)


def test_memory_of_large_results_is_used_again() -> None:
    (a,) = loops.empty(((LARGE,),), np.dtype("float64"))
    a[:] = 1.0
    place, view = address(a), a[5:9]
    del a
    (b,) = loops.empty(((LARGE,),), np.dtype("float64"))
    b[:] = 2.0
    assert address(b) != place  # a view holds it
    assert view.tolist() == [1.0] * 4
    del view
    (c,) = loops.empty(((LARGE,),), np.dtype("float64"))
    c[:] = 3.0
    if sys.platform == "linux":
        assert address(c) == place
        assert place % 64 == 0
    assert b[0] == 2.0
    assert b[-1] == 2.0


def test_large_results_may_change_their_size_and_die_in_any_thread() -> None:
    (a,) = loops.empty(((LARGE,),), np.dtype("float64"))
    a[:] = np.arange(LARGE)
    a.resize(2 * LARGE, refcheck=False)
    np.testing.assert_array_equal(a[:LARGE], np.arange(LARGE))
    a.resize(100, refcheck=False)
    np.testing.assert_array_equal(a, np.arange(100))
    held = [loops.empty(((LARGE + 400_000 * k,),), np.dtype("float64"))[0] for k in range(12)]
    for a in held:
        a[:] = 1.0
    thread = threading.Thread(target=held.clear)
    thread.start()
    thread.join()
    del a
    for k in range(12):
        (a,) = loops.empty(((LARGE + 400_000 * k,),), np.dtype("float64"))
        a[:] = 2.0


def test_a_result_keeps_its_numbers_while_others_are_made() -> None:
    net = ha.fully_connected([40, 16, 1], act="tanh", seed=0)
    xs = [normal(200, 40) + k for k in range(4)]
    kept = [net.hessian(x) for x in xs]
    again = [net.hessian(x) for x in xs for _ in range(3)][::3]
    for a, b in zip(kept, again, strict=True):
        np.testing.assert_array_equal(a, b)


# ---- prepared evaluations ------------------------------------------------------------------------


def prepared(**changes: Any) -> Any:
    """A call that adds a constant of ones to its input, twice by way of the work buffer."""
    program = loops.Program([add((1, 2, 0)), add((0, 2, 3))], 5)
    run = (program, 1, (0,) * 5, (0,) * 5, (np.zeros(1),))
    given = {
        "job": (0, 0, (run,)), "memory": (np.zeros(32, np.uint8),), "inputs": (np.zeros((2, 2)),),
        "constants": (np.ones(4),), "results": {"sum": np.zeros((4, 1))},
    }  # fmt: skip
    return loops.Call(*(given | changes).values())


def test_a_prepared_call() -> None:
    call, x = prepared(), np.arange(4.0).reshape(2, 2)
    first, second = call(x), call(x + 1.0)
    assert list(first) == ["sum"]
    np.testing.assert_array_equal(first["sum"], [[2.0], [3.0], [4.0], [5.0]])
    np.testing.assert_array_equal(second["sum"], first["sum"] + 1.0)
    references = sys.getrefcount(second["sum"])
    assert references == 2  # the mapping's, and the call's of this line
    before = sys.getrefcount(x), sys.getrefcount(None)
    for _ in range(1000):
        call(x)
        call(x.T)
    assert sys.getrefcount(x) == before[0]
    assert abs(sys.getrefcount(None) - before[1]) < 100


class Subclass(np.ndarray):
    pass


@pytest.mark.parametrize(
    "arrays",
    [
        (),
        (np.zeros((2, 2)), np.zeros((2, 2))),
        (None,),
        ([[0.0, 0.0], [0.0, 0.0]],),
        (np.zeros(4),),
        (np.zeros((2, 3)),),
        (np.zeros((1, 2, 2)),),
        (np.zeros((2, 2), np.float32),),
        (np.zeros((2, 2), ">f8"),),
        (np.zeros((2, 2)).T.copy("F"),),
        (np.zeros((4, 2))[::2],),
        (np.zeros((2, 2)).view(Subclass),),
        (np.ma.zeros((2, 2)),),
    ],
)
def test_a_prepared_call_is_for_arrays_like_its_own(arrays: tuple[Any, ...]) -> None:
    assert prepared()(*arrays) is None


def test_a_prepared_call_takes_no_options() -> None:
    assert prepared()(np.zeros((2, 2)), out=None) is None


@pytest.mark.parametrize(
    "changes",
    [
        {"job": (0, 0)},
        {"job": (-1, 0, ())},
        {"job": (0, -1, ())},
        {"job": (0, 0, (None,))},
        {"memory": ()},
        {"memory": (np.zeros(31, np.uint8),)},
        {"memory": (None,)},
        {"inputs": ()},
        {"inputs": (None,)},
        {"inputs": (np.zeros(3),)},
        {"inputs": (np.zeros((2, 2), np.float32),)},
        {"inputs": (np.zeros((2, 4))[:, ::2],)},
        {"constants": (np.ones(3),)},
        {"constants": None},
        {"results": {}},
        {"results": (np.zeros(4),)},
        {"results": {"sum": None}},
        {"results": {"sum": np.zeros(3)}},
        {"results": {"sum": np.zeros(8)[::2]}},
    ],
)
def test_prepared_calls_that_do_not_fit_are_refused(changes: dict[str, Any]) -> None:
    with pytest.raises((ValueError, TypeError)):
        prepared(**changes)


@pytest.mark.usefixtures("eager")
@pytest.mark.parametrize("n", [1, 6])
def test_prepared_evaluations_see_what_changes(n: int) -> None:
    """Other shapes, dtypes, layouts, parameters and wants in turn, on the way of repeated calls."""
    net = ha.fully_connected([3, 8, 2], act="silu", seed=0)
    x, p = normal(n, 3), normal(n, 3) + 1.0
    for k in range(4):
        for y in (x, x + k, x[:1], x[0], x.astype("float32"), np.asfortranarray(x), x[::-1]):
            close = {"rtol": 1e-4, "atol": 1e-5} if y.dtype == np.float32 else {"rtol": 1e-12}
            for want in ("value", "gradient", "hessian", "laplacian"):
                found, expected = getattr(net, want)(y), getattr(net, want)(y, threads=1)
                assert found.shape == expected.shape
                assert found.dtype == y.dtype
                np.testing.assert_allclose(found, expected, **{"atol": 1e-13} | close)
        for direction in (p, p[0]):
            found, expected = net.hvp(x, direction), net.hvp(x, direction, threads=1)
            np.testing.assert_allclose(found, expected, rtol=1e-12, atol=1e-13)
        before = net.value(x)
        if k == 1:
            net.load_parameters({name: a * 1.5 for name, a in net.parameters().items()})
            assert not np.allclose(net.value(x), before)
            assert np.array_equal(net.value(x), net.value(x, threads=1))
    assert net._last


def test_prepared_evaluations_in_threads() -> None:
    """Only one thread at a time has the work buffer of a prepared call."""
    net = ha.fully_connected([4, 16, 16, 1], act="tanh", seed=0)
    xs = normal(4, 1, 4)
    expected = [net.hessian(x) for x in xs for _ in range(3)][::3]
    wrong, start = [], threading.Barrier(4)

    def work(k: int) -> None:
        start.wait()
        for _ in range(3000):
            if not np.array_equal(net.hessian(xs[k]), expected[k]):
                wrong.append(k)

    run_all(work, 4)
    assert not wrong
