import torch

from graphopt.recorded_paths import RecordedPaths, written_in
from graphopt.recording import Call, Ref

aten = torch.ops.aten


def calls() -> tuple[list[Call], torch.Tensor]:
    """1: zeros; 2: a view of it; 3: something else; then the view is written to; 5: read by a sum."""
    given, base, other = torch.zeros(2), torch.zeros(2, 3), torch.zeros(3)
    view = base[0]
    return [
        Call(aten.zeros.default, ([2, 3],), {}, base, Ref(1)),
        Call(aten.select.int, (Ref(1), 0, 0), {}, view, Ref(2)),
        Call(aten.zeros.default, ([3],), {}, other, Ref(3)),
        Call(aten.fill_.Scalar, (Ref(2), 1), {}, view, Ref(4)),
        Call(aten.sum.default, (Ref(1),), {}, torch.zeros(()), Ref(5)),
        Call(aten.mul_.Tensor, (Ref(9), Ref(3)), {}, given, Ref(6)),
    ], given


def test_writes_through_views_lead_to_a_value() -> None:
    recorded, _ = calls()
    paths = RecordedPaths(recorded)
    assert paths.leading_to(recorded[4], 4) == [0, 1, 3]
    assert paths.leading_to(recorded[4], 3) == [0]
    assert paths.leading_to(Call(aten.clone.default, (Ref(3),), {}), 6) == [2]


def test_writes_to_what_was_given_are_seen() -> None:
    recorded, given = calls()
    paths = RecordedPaths(recorded, [(Ref(9), given), (7, 7)])
    assert [paths.writes_to(call, [Ref(9)]) for call in recorded] == [False] * 5 + [True]
    assert list(written_in(recorded[3])) == [Ref(2)]
    assert list(written_in(recorded[4])) == []
