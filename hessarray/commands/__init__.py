"""Commands of the command line, one module each; what begins with an underscore they share."""

__all__: list[str] = []
