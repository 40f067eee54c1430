"""The command line: `graphopt inspect | optimize | export | bench | demo`, each a twin of a Python function."""

from graphopt.cli.app import main

__all__ = ["main"]
