"""Small modules on each of which a dependency-graph pruner gives a wrong, broken or needlessly large cut."""

from zoo import peer_attention, peer_convolutions, peer_gates
from zoo.catalogue import Entry

ENTRIES: tuple[Entry, ...] = (*peer_attention.ENTRIES, *peer_convolutions.ENTRIES, *peer_gates.ENTRIES)
"""Every entry of the three files."""
