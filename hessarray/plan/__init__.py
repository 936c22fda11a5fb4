"""Planning: chain rule, brackets, contraction paths, memory, and the program."""

__all__: list[str] = []
