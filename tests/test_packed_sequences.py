"""Recurrent layers over packed sequences: lengths are data; batches whose longest is as long go through one graph."""

import pytest
import torch
from torch import nn
from torch.nn.utils.rnn import pack_padded_sequence, pad_packed_sequence

import graphopt
from graphopt.errors import GraphoptError
from graphopt.layouts import packed_layouts

TOKENS = torch.tensor([[3, 1, 4, 1, 5, 9, 2], [6, 5, 3, 5, 8, 0, 0], [9, 7, 9, 3, 0, 0, 0]])
LENGTHS = torch.tensor([7, 5, 4])


class Reader(nn.Module):
    """Embeds, reads both ways, and classifies what is left at the ends, or the sum over the steps."""

    def __init__(self, cell: type[nn.RNNBase], *, ends: bool) -> None:
        super().__init__()
        self.embed = nn.Embedding(12, 8)
        self.read = cell(8, 6, num_layers=2, batch_first=True, bidirectional=True)
        self.head = nn.Linear(24 if ends else 12, 3)
        self.ends = ends

    def forward(self, tokens: torch.Tensor, lengths: torch.Tensor) -> torch.Tensor:
        packed = pack_padded_sequence(self.embed(tokens), lengths, batch_first=True, enforce_sorted=False)
        steps, last = self.read(packed)
        if self.ends:
            last = last[0] if isinstance(last, tuple) else last
            return self.head(last.transpose(0, 1).flatten(1))
        return self.head(pad_packed_sequence(steps, batch_first=True)[0].sum(1))


@pytest.fixture(autouse=True)
def seeded() -> None:
    torch.manual_seed(0)


@pytest.mark.parametrize("ends", [False, True])
@pytest.mark.parametrize("cell", [nn.LSTM, nn.GRU])
def test_other_lengths_and_batches_go_through_the_same_graph(cell: type[nn.RNNBase], ends: bool) -> None:
    model = Reader(cell, ends=ends).eval()
    program = graphopt.capture(model, (TOKENS, LENGTHS))
    assert program.dynamic_batch
    for lengths in ([7, 5, 4], [1, 7, 2], [7, 7]):
        tokens = TOKENS[: len(lengths)].flip(0)
        assert torch.equal(program(tokens, torch.tensor(lengths)), model(tokens, torch.tensor(lengths)))
    with pytest.raises(GraphoptError, match="7"):
        program(TOKENS, torch.tensor([6, 5, 4]))


def test_padding_behind_the_longest_sequence_is_cut_off() -> None:
    class Widest(Reader):
        def forward(self, tokens: torch.Tensor, lengths: torch.Tensor) -> torch.Tensor:
            packed = pack_padded_sequence(self.embed(tokens), lengths, batch_first=True, enforce_sorted=False)
            steps = pad_packed_sequence(self.read(packed)[0], batch_first=True)[0]
            return self.head(steps + torch.arange(5.0)[:, None])

    model, lengths = Widest(nn.LSTM, ends=False).eval(), torch.tensor([5, 4, 2])
    program = graphopt.capture(model, (TOKENS, lengths))
    padded = next(node for node in program.nodes() if "_pad_packed_sequence" in str(node.target))
    assert tuple(padded.meta["val"][0].shape)[1:] == (5, 12)
    assert torch.equal(program(TOKENS, lengths.flip(0)), model(TOKENS, lengths.flip(0)))


def test_the_longest_sequence_is_asked_for_also_where_the_state_is_given() -> None:
    class Given(Reader):
        def forward(self, tokens: torch.Tensor, lengths: torch.Tensor) -> torch.Tensor:
            packed = pack_padded_sequence(self.embed(tokens), lengths, batch_first=True, enforce_sorted=False)
            steps, _ = self.read(packed, tokens.new_zeros(4, tokens.shape[0], 6, dtype=torch.float32))
            return pad_packed_sequence(steps, batch_first=True)[0]

    model = Given(nn.GRU, ends=False).eval()
    program = graphopt.capture(model, (TOKENS, LENGTHS))
    assert torch.equal(program(TOKENS, LENGTHS.flip(0)), model(TOKENS, LENGTHS.flip(0)))
    with pytest.raises(GraphoptError, match="7"):
        program(TOKENS, LENGTHS - 1)


@pytest.mark.parametrize("cell", [nn.LSTM, nn.GRU, nn.RNN])
def test_hidden_states_are_pruned_and_the_users_class_comes_back(cell: type[nn.RNNBase]) -> None:
    model = Reader(cell, ends=True).eval()
    program = graphopt.capture(model, (TOKENS, LENGTHS))
    assert graphopt.DependencyGraph(program).analysis.failures == {}
    result = graphopt.Pipeline("prune-channels{ratio=0.5,scope=uniform}").run(program)
    errors = {check.law: check.error for check in graphopt.verify(program, result).checks}
    assert errors["mask equals slice"] < 1e-5
    own = result.module(model)
    assert (own.embed.embedding_dim, own.read.hidden_size, own.head.in_features) == (4, 3, 12)
    lengths = torch.tensor([2, 6, 7])
    assert torch.allclose(own(TOKENS, lengths), result.program(TOKENS, lengths), atol=1e-6)


@pytest.mark.parametrize("batch_first", [False, True])
@pytest.mark.parametrize("name", ["lstm", "gru", "rnn_tanh"])
def test_layouts_are_those_of_sequences_of_one_length(name: str, batch_first: bool) -> None:
    aten = torch.ops.aten
    padded, lengths = torch.randn(3, 5, 4).transpose(0, int(not batch_first)).contiguous(), torch.tensor([5, 5, 5])
    given = (padded, lengths, batch_first)
    packed = aten._pack_padded_sequence.default(*given)
    state = torch.randn(2, 3, 6)
    rows = {"lstm": 24, "gru": 18, "rnn_tanh": 6}[name]
    weights = [torch.randn(rows, 4), torch.randn(rows, 6)] * 2
    run = (*packed, [state, state] if name == "lstm" else state, weights, False, 1, 0.0, False, True)
    results = getattr(aten, name).data(*run)
    pad = (results[0], packed[1], batch_first, 0.0, 5)
    calls = [
        (aten._pack_padded_sequence.default, given, packed),
        (getattr(aten, name).data, run, results),
        (aten._pad_packed_sequence.default, pad, aten._pad_packed_sequence.default(*pad)),
    ]
    for operator, args, wanted in calls:
        found = packed_layouts(operator, args)
        assert found is not None
        assert [(*layout, device) for layout, device in found] == [
            (tuple(one.shape), one.stride(), one.dtype, one.device) for one in wanted
        ]
    assert packed_layouts(aten.relu.default, (padded,)) is None
