"""Kinds: how the value of an option is checked, read from text and written, by its annotation."""
