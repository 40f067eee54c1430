"""Demonstrations on models that train, or are at hand, within a minute: prune, prove, recover, export and compare."""
