"""Whether the units of a graph are unions of the oracle's classes, and whether what is not offered has a reason."""

from dependency.oracle import Atom, Oracle

from graphopt.dependency.graph import DependencyGraph
from graphopt.dependency.placement import occurrences


def unclosed(graph: DependencyGraph, oracle: Oracle) -> list[str]:
    """Units that are no union of classes, or hold a fixed atom."""
    of = {atom: members for members in oracle.classes for atom in members}
    found = []
    for group in graph.groups:
        for unit in range(group.size):
            atoms = {
                (member.tensor, member.dim, int(flat)) for member in group.members for flat in member.indices()[unit]
            }
            missing = [of[atom] - atoms for atom in atoms if atom in of and not of[atom] <= atoms]
            if missing or atoms & oracle.fixed:
                found.append(f"{group.id}[{unit}]: without {missing}, fixed {atoms & oracle.fixed}")
    return found


def unexplained(graph: DependencyGraph, oracle: Oracle) -> list[Atom]:
    """Atoms of classes that are not offered although no reason is given."""
    offered = {
        (member.tensor, member.dim, int(flat))
        for group in graph.groups
        for member in group.members
        for flat in member.indices().reshape(-1)
    }
    left = [atom for members in oracle.classes if not members <= offered for atom in members]
    return [atom for atom in left if atom not in offered and not _has_reason(graph, *atom)]


def _has_reason(graph: DependencyGraph, name: str, dim: int, flat: int) -> bool:
    """Whether every axis at an index is frozen, no parameter produces it, or its place tells the index apart."""
    around = [leaf for leaf, box in occurrences(graph.dims(name)[dim]) if (box.indices(leaf.size) == flat).any()]
    return all(leaf.frozen is not None or "produced" not in leaf.marks for leaf in around)
