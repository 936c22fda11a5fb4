"""Measurements of hessarray side by side with its peers: what `hessarray bench` runs and writes.

`cases` says what is measured, `peers` how others compute the same, `measure` times two in turn,
`run` puts these together into `rows`, and `report` and `plot` show them.
"""

__all__: list[str] = []
