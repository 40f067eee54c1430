"""Passes that leave out whole branches and blocks."""
