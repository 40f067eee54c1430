"""The dependency graph: which indices of which parameters go together."""
