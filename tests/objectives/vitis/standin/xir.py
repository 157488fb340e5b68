"""Stands in for XIR: it is there, and that is all that is asked of it here."""


class Graph:
    pass
