"""Widths that hardware likes."""
