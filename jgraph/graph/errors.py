"""The error that every malformed graph raises."""


class GraphError(ValueError):
    """A graph, or an argument of a graph function, is malformed.

    The message names the argument, the offending value and what to do about it.
    """
