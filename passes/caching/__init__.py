"""Passes that cut a program and let later steps read what an earlier one computed."""

from graphopt.passes.caching.insert import InsertCache

__all__ = ["InsertCache"]
