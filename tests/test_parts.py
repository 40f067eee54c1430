"""What a module that is kept whole gives, told from runs on made-up tensors."""

import pytest
import torch
from torch import Tensor, nn
from torch.utils import _pytree as pytree
from traced_models import Experts

from graphopt.errors import CaptureError, GraphoptError
from graphopt.parts import Part, Shell, part_of


class Given(nn.Module):
    """Runs a function."""

    def __init__(self, function) -> None:
        super().__init__()
        self.function = function

    def forward(self, *args):
        return self.function(*args)


def part(module: nn.Module, *args: object) -> Part:
    tensors = tuple([name for name, _ in module.named_parameters()])
    leaves, takes = pytree.tree_flatten((args, {}))
    fixed = {place: leaf for place, leaf in enumerate(leaves) if not isinstance(leaf, Tensor)}
    return Part(Shell("inner", module, "somebody wants it", tensors), takes, fixed)


def test_layouts_are_those_of_a_run() -> None:
    x = torch.randn(6, 8)
    one = part(Given(lambda x: (x.t(), x.long(), None, x.sum())), x)
    assert one.layouts([x], []) == [
        ((8, 6), (1, 8), torch.float32),
        ((6, 8), (8, 1), torch.int64),
        ((), (), torch.float32),
    ]
    assert one.constants == {2: None}
    assert one.returned([x, x, x])[2:] == (None, x)


def test_a_layout_is_run_for_once() -> None:
    calls = []
    one = part(Given(lambda x: (calls.append(x.shape), x + 1)[1]), torch.randn(3))
    for sizes in ((3,), (3,), (5,)):
        one.layouts([torch.randn(sizes)], [])
    assert calls == [(3,), (3,), (5,), (5,)]


def test_layouts_need_no_values() -> None:
    module = Experts()
    empty = [torch.empty_like(parameter, device="meta") for parameter in module.parameters()]
    x, index = torch.empty(6, 8, device="meta"), torch.empty(6, dtype=torch.long, device="meta")
    one = part(module, x, index)
    assert one.layouts([x, index], empty) == [((6, 8), (8, 1), torch.float32)]
    assert one.macs([x, index], empty) == 6 * 8 * 8


def test_random_numbers_are_left_as_they_were() -> None:
    before = torch.get_rng_state()
    part(Given(lambda x: x + torch.randn(3)), torch.zeros(3)).layouts([torch.zeros(3)], [])
    assert torch.equal(torch.get_rng_state(), before)


@pytest.mark.parametrize(
    ("function", "says"),
    [
        (lambda x: x[x > 0], "the sizes of what it returns depend on the data"),
        (lambda x: [row for row in x if float(row.sum()) > 0], "what it returns has another structure"),
        (lambda x: x.add_(1), "writes to a tensor that it is given"),
        (lambda x: x[100], "does not run on made-up tensors .*: IndexError"),
    ],
)
def test_what_depends_on_data_is_refused(function, says: str) -> None:
    x = torch.randn(6, 8)
    with pytest.raises(CaptureError, match=f"inner is kept whole and {says}.*; keep a module around it whole"):
        part(Given(function), x).layouts([x], [])


def test_results_on_real_data_have_to_be_as_large() -> None:
    x = torch.randn(6, 8)
    one = part(Given(lambda x: x[: int((x == 7).sum()) + 1]), x)
    one.require_layouts([x], [], one.results([x], []))
    with pytest.raises(CaptureError, match="depend on the data"):
        one.require_layouts([x], [], one.results([torch.full((6, 8), 7.0)], []))


def test_parts_of_another_process_are_not_there() -> None:
    one = part(Given(torch.relu), torch.randn(3))
    assert part_of(one.serial, "inner") is one
    with pytest.raises(GraphoptError, match=r"inner is kept whole: .* is not in this process; capture the model here"):
        part_of(one.serial + 1, "inner")
