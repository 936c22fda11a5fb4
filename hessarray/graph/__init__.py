"""Tracing: the traced array, its namespace, and the nodes of the graph."""

__all__: list[str] = []
