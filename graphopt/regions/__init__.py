"""Regions of a program: residual branches, blocks, stacks, long skips and candidates for cuts."""

from graphopt.regions.costing import RegionCost
from graphopt.regions.find import find_regions
from graphopt.regions.flow import depends_on, dying, input_classes
from graphopt.regions.region import Block, Branch, CutCandidate, Skip, Stack
from graphopt.regions.regions import Regions
from graphopt.regions.sample import SampleFlow

__all__ = [
    "Block",
    "Branch",
    "CutCandidate",
    "RegionCost",
    "Regions",
    "SampleFlow",
    "Skip",
    "Stack",
    "depends_on",
    "dying",
    "find_regions",
    "input_classes",
]
