"""Small numbers in an ONNX model that its optimiser takes for none: the term that keeps a division from zero."""

import math
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import onnx_ir as ir

_NEUTRAL = {"Add": 0.0, "Sub": 0.0, "Mul": 1.0, "Div": 1.0}
_FARTHEST = 1e-4
"""How near a number must be; the optimiser's own tolerances are smaller."""

_CASTS = ("Cast", "CastLike", "Identity")


def keep_small_numbers(model: "ir.Model") -> None:
    """Give numbers that are nearly neutral, such as 1e-15 in a sum, a dimension of one element.

    onnxscript takes out sums with a scalar within 1e-8 of zero and products with one within 1e-5 of one; it looks at
    scalars alone. Numbers beside a scalar stay as they are, since the result would gain a dimension.

    Args:
        model: Changed in place, before it is optimised.
    """
    import onnx_ir

    for node in list(model.graph.all_nodes()):
        neutral = _NEUTRAL.get(node.op_type)
        if neutral is None:
            continue
        for place, other in ((0, node.inputs[1]), (1, node.inputs[0])):
            number = _number(node.inputs[place])
            if number is None or not _is_near(number, neutral) or other is None or not other.shape:
                continue
            tensor = onnx_ir.tensor([number], dtype=other.dtype)
            constant = onnx_ir.node("Constant", [], attributes={"value": tensor})
            assert node.graph is not None
            node.graph.insert_before(node, constant)
            node.replace_input_with(place, constant.outputs[0])


def _is_near(number: float, neutral: float) -> bool:
    return number != neutral and math.isclose(number, neutral, abs_tol=_FARTHEST)


def _number(value: "ir.Value | None") -> float | None:
    """The number that a value holds, if it is a scalar of a constant; casts of one are looked through."""
    producer = None if value is None else value.producer()
    while producer is not None and producer.op_type in _CASTS and producer.inputs[0] is not None:
        producer = producer.inputs[0].producer()
    if producer is None or producer.op_type != "Constant":
        return None
    held = producer.attributes.get("value_float") or producer.attributes.get("value")
    if held is None:
        return None
    if held.name == "value_float":
        return float(held.as_float())
    array = held.as_tensor().numpy()
    return float(array.item()) if array.ndim == 0 else None
