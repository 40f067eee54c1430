"""What the libraries of the zoo need before they are imported on a CPU build of torch."""

import torch


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
