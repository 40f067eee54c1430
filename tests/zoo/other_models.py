"""Models of other people's code: packages of the registry, and papers written out."""

from zoo import (
    other_detectors,
    other_medical,
    other_restoration,
    other_segmentation,
    other_sequence_papers,
    other_sequences,
    other_vision_papers,
    other_vit_pytorch,
    other_x_transformers,
)
from zoo.catalogue import Entry

PAPERS: tuple[Entry, ...] = (*other_sequence_papers.ENTRIES, *other_vision_papers.ENTRIES)
"""Models written out, which need no package."""

ENTRIES: tuple[Entry, ...] = (
    *PAPERS,
    *other_vit_pytorch.ENTRIES,
    *other_segmentation.ENTRIES,
    *other_medical.ENTRIES,
    *other_restoration.ENTRIES,
    *other_x_transformers.ENTRIES,
    *other_sequences.ENTRIES,
    *other_detectors.ENTRIES,
)
"""Every entry of these files; no package is imported before an entry of it is built."""
