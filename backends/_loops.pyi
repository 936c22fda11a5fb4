from typing import Any

ELEMENTWISE: int
GENERALISED: int
MASKED_COPY: int

erf: Any  # ufuncs
erfc: Any
gram: Any

class Program:
    def __init__(self, operations: list[Any], bases: int, /) -> None: ...
    def run(self, *groups: tuple[Any, ...]) -> None: ...
