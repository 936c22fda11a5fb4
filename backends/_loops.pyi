from typing import Any

ELEMENTWISE: int
GENERALISED: int
MASKED_COPY: int
VECTOR: int  # bytes of a vector; with the compiled kernels only, like all below erfc

erf: Any  # ufuncs
erfc: Any
gram: Any
gram_plus: Any
add_rows: Any
multiply_rows: Any
multiply_add: Any
multiply_add_rows: Any
product: Any
product_plus: Any
product_sum: Any
product_scaled: Any
product_scaled_plus: Any
tanh_sech2: Any

class Program:
    def __init__(self, operations: list[Any], bases: int, /) -> None: ...
    def run(self, *groups: tuple[Any, ...]) -> None: ...
    def repeat(self, times: int, advance: tuple[int, ...], /, *groups: tuple[Any, ...]) -> None: ...
