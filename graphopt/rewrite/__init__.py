"""Rewriting a program: slicing the axes that a plan removes."""
