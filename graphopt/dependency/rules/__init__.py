"""Coupling rules, one file per operator family."""
