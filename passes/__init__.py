"""Passes: one file a pass, in rooms that never import each other."""
