from collections.abc import Sequence
from typing import Any, TypeAlias

ELEMENTWISE: int
GENERALISED: int
MASKED_COPY: int
MOST_HELPERS: int  # beside the thread that calls
VECTOR: int  # bytes of a vector; with the compiled kernels only, like all below erfc

erf: Any  # ufuncs
erfc: Any
gram: Any
gram_plus: Any
grams: Any
add_rows: Any
multiply_rows: Any
multiply_add: Any
multiply_add_rows: Any
product: Any
product_plus: Any
product_sum: Any
product_scaled: Any
product_scaled_plus: Any
row_dots: Any
row_dots_plus: Any
row_dots_scaled: Any
row_dots_scaled_plus: Any

class Program:
    def __init__(
        self, operations: Sequence[Any], bases: int, groups: tuple[int, ...] = (), /
    ) -> None: ...
    def run(self, helpers: int, /, *arrays: tuple[Any, ...]) -> None: ...

Run: TypeAlias = tuple[Program, int, tuple[int, ...], tuple[int, ...], tuple[Any, ...]]

class Call:
    def __init__(
        self,
        job: tuple[int, int, tuple[Run, ...]],
        memory: tuple[Any],
        inputs: tuple[Any, ...],
        constants: tuple[Any, ...],
        results: dict[str, Any],
        /,
    ) -> None: ...
    def __call__(self, *inputs: Any) -> dict[str, Any] | None: ...

def address(array: Any, /) -> int: ...
def empty(shapes: tuple[tuple[int, ...], ...], dtype: Any, /) -> tuple[Any, ...]: ...
def perform(
    helpers: int, room: int, runs: tuple[Run, ...], /, *arrays: tuple[Any, ...]
) -> None: ...
