"""Way to the small architectures under tests/zoo, and what their libraries need on a CPU build of torch."""

import os
import sys
from pathlib import Path

os.environ["HF_HUB_OFFLINE"] = "1"

import torch

sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))


def torchvision_operators() -> torch.library.Library | None:
    """Declare the operators of torchvision's compiled half, without which it does not import on a CPU build of torch.

    They are there as long as the result is.
    """
    if torch.cuda.is_available():
        return None
    library = torch.library.Library("torchvision", "FRAGMENT")
    library.define("nms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
    library.define("qnms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
    return library


TORCHVISION_OPERATORS = torchvision_operators()
