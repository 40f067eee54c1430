"""The user's own class comes back, equal to the program."""

import functools
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from restoring.models import Attention, Configured, Convolutions, Literal, Model, Recurrent, seeded
from torch import Tensor, nn

import graphopt
from graphopt.errors import ModuleRestoreError
from graphopt.pass_manager.result import Result

HALF = "prune-channels{ratio=0.5,importance=random}"


def attention() -> Model:
    return Model([Attention(32, 4), Attention(32, 4)])


def configured() -> Model:
    config = SimpleNamespace(width=32, heads=4, head_dim=8)
    return Model([Configured(config), Configured(config)])


def tokens() -> tuple[Tensor, ...]:
    return (torch.randn(3, 6, 12, generator=torch.Generator().manual_seed(1)),)


def images() -> tuple[Tensor, ...]:
    return (torch.randn(2, 3, 8, 8, generator=torch.Generator().manual_seed(1)),)


def words() -> tuple[Tensor, ...]:
    return (torch.randint(0, 11, (2, 7), generator=torch.Generator().manual_seed(1)),)


def pruned(model: nn.Module, args: tuple[Tensor, ...], passes: str = HALF) -> Result:
    return graphopt.optimize(model, args, passes=passes, context=graphopt.PassContext(seed=0, verify=False))


@pytest.mark.parametrize(
    ("make", "args"),
    [(attention, tokens), (configured, tokens), (Convolutions, images), (Recurrent, words)],
)
def test_the_class_comes_back_smaller_and_equal(make: Any, args: Any) -> None:
    model = seeded(make)
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    result = pruned(model, args())
    restored = result.module(model)
    assert type(restored) is type(model)
    sizes = {name: tuple(tensor.shape) for name, tensor in result.program.graph_module.named_parameters()}
    assert {name: tuple(tensor.shape) for name, tensor in restored.named_parameters()} == sizes
    assert sum(one.numel() for one in restored.parameters()) < sum(one.numel() for one in model.parameters())
    for rows in (1, 4):
        inputs = [torch.cat([one] * rows) for one in args()]
        with torch.no_grad():
            torch.testing.assert_close(restored(*inputs), result.program(*inputs), rtol=1e-4, atol=1e-5)
    assert all(torch.equal(before[name], tensor) for name, tensor in model.state_dict().items())


def test_attributes_are_repaired() -> None:
    model = seeded(attention)
    restored = pruned(model, tokens()).module(model)
    mixers = [block.mixer for block in restored.blocks]
    assert [(one.num_heads, one.head_dim) for one in mixers] == [(2, 8), (2, 8)]
    assert [tuple(one.norm1.normalized_shape) for one in restored.blocks] == [(16,), (16,)]
    assert (restored.embed.in_features, restored.embed.out_features) == (12, 16)
    assert (model.blocks[0].mixer.num_heads, model.blocks[0].mixer.head_dim) == (4, 8)


def test_layers_that_share_an_object_get_their_own_where_they_differ() -> None:
    model = seeded(configured)
    spec = 'prune-channels{ratio=0,importance=random,ratios=["blocks.0.mixer.*=0.5"]}'
    restored = pruned(model, tokens(), spec).module(model)
    first, second = (block.mixer.config for block in restored.blocks)
    assert (first.heads, first.head_dim) == (2, 8)
    assert (second.heads, second.head_dim) == (4, 8)
    assert model.blocks[0].mixer.config.heads == 4


def test_groups_and_lists_of_sizes_are_repaired() -> None:
    model = seeded(Convolutions)
    restored = pruned(model, images()).module(model)
    assert (restored.depthwise.groups, restored.depthwise.in_channels) == (8, 8)
    assert restored.parts == [4, 4]
    assert model.parts == [8, 8]
    assert restored.shift.shape == (8, 1, 1)
    assert "shift" not in restored.state_dict()


def test_a_scale_that_follows_the_head_size_is_undone_in_the_queries() -> None:
    model = seeded(attention)
    result = pruned(model, tokens(), "prune-channels{ratio=0.5,importance=random,axes=[qk_dim,vo_dim]}")
    restored = result.module(model)
    mixer, kept = restored.blocks[0].mixer, result.program.parameters["blocks.0.mixer.qkv.weight"]
    assert (mixer.num_heads, mixer.head_dim, kept.shape[0]) == (4, 4, 3 * 16)
    torch.testing.assert_close(mixer.qkv.weight[:16], kept[:16] * (4 / 8) ** 0.5)
    assert torch.equal(mixer.qkv.weight[16:], kept[16:])


def test_nothing_is_shared_with_the_model_or_the_program() -> None:
    model = seeded(attention)
    result = pruned(model, tokens())
    restored = result.module(model)
    taken = {one.untyped_storage().data_ptr() for one in (*model.parameters(), *result.program.parameters.values())}
    assert not taken & {one.untyped_storage().data_ptr() for one in restored.parameters()}


def test_flags_and_hooks_stay_as_they_are() -> None:
    model = seeded(attention)
    model.head.weight.requires_grad_(False)
    model.train()
    model.blocks[0].eval()
    model.embed.register_forward_hook(lambda module, args, result: result + 0)
    restored = pruned(model, tokens()).module(model)
    assert [one.training for one in restored.modules()] == [one.training for one in model.modules()]
    assert not restored.head.weight.requires_grad
    assert restored.embed.weight.requires_grad
    assert len(restored.embed._forward_hooks) == 1
    assert len(restored.head._forward_hooks) == 0


def test_it_trains() -> None:
    model = seeded(attention)
    restored = pruned(model, tokens()).module(model).train()
    restored(*tokens()).square().sum().backward()
    assert all(one.grad is not None for one in restored.parameters())


def test_several_passes_and_none() -> None:
    model = seeded(attention)
    for passes in (f"remove-dead,{HALF}", "remove-dead", f"prune-channels{{ratio=0.25,importance=random}},{HALF}"):
        result = pruned(model, tokens(), passes)
        with torch.no_grad():
            torch.testing.assert_close(result.module(model)(*tokens()), result.program(*tokens()), rtol=1e-4, atol=1e-5)


def test_a_number_in_the_code_is_named_with_module_and_line() -> None:
    model = seeded(lambda: Model([Literal(32, 4)]))
    result = pruned(model, tokens())
    with pytest.raises(ModuleRestoreError) as raised:
        result.module(model)
    text = str(raised.value)
    assert "blocks.0.mixer" in text
    assert "models.py:" in text
    assert "the code passes 4, a number that no attribute holds, wanted 2" in text
    assert "result.module() without a model returns the graph form" in text


def test_another_model_is_refused() -> None:
    model = seeded(attention)
    result = pruned(model, tokens())
    with pytest.raises(ModuleRestoreError, match=r"embed.weight is \[16, 12\] and that of the captured one \[32, 12\]"):
        result.module(Model([Attention(16, 4)], 16))
    with pytest.raises(ModuleRestoreError, match="meta device"):
        result.module(seeded(attention).to("meta"))


class Unused(nn.Module):
    """Its last norm is applied, and what it gives is not returned."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.last = nn.Linear(12, 32), nn.Linear(32, 5)
        self.norm = nn.LayerNorm(32)

    def forward(self, x: Tensor) -> Tensor:
        x = self.first(x).relu()
        self.norm(x)
        return self.last(x)


def test_a_layer_that_nothing_reads_still_runs() -> None:
    model = seeded(Unused)
    restored = pruned(model, tokens()).module(model)
    assert (tuple(restored.norm.normalized_shape), restored.norm.weight.shape) == ((16,), (16,))


@functools.cache
def split_sizes(heads: int, width: int) -> tuple[int, int]:
    return heads, width // heads


class Cached(Attention):
    """What it views by comes out of a cache, as einops keeps it."""

    def forward(self, x: Tensor) -> Tensor:
        b, n, _ = x.shape
        qkv = self.qkv(x).view(b, n, 3, *split_sizes(self.num_heads, self.num_heads * self.head_dim))
        q, k, v = qkv.permute(2, 0, 3, 1, 4)
        return self.proj(nn.functional.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2))


class Looked(Attention):
    """It looks a number of its own up in a table of plain ones."""

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x) * {4: 1.0, 2: 1.0}[self.num_heads]


@pytest.mark.parametrize("kind", [Cached, Looked])
def test_caches_and_tables_do_not_hide_where_numbers_come_from(kind: type[Attention]) -> None:
    model = seeded(lambda: Model([kind(32, 4)]))
    restored = pruned(model, tokens()).module(model)
    assert restored.blocks[0].mixer.num_heads == 2
    assert type(split_sizes(4, 32)[1]) is int


class Remembering(Attention):
    """It keeps the bias of its scores from one call to the next."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__(width, heads)
        self.slopes, self.made = nn.Parameter(torch.ones(heads)), dict[int, Tensor]()

    def forward(self, x: Tensor) -> Tensor:
        b, n, _ = x.shape
        if n not in self.made:
            self.made[n] = (self.slopes[:, None, None] * torch.arange(n)).detach()
        q, k, v = self.qkv(x).view(b, n, 3, self.num_heads, self.head_dim).permute(2, 0, 3, 1, 4)
        y = (q @ k.mT + self.made[n]).softmax(-1) @ v
        return self.proj(y.transpose(1, 2).flatten(2))


def test_what_a_module_keeps_of_earlier_calls_is_forgotten() -> None:
    model = seeded(lambda: Model([Remembering(32, 4)]))
    result = pruned(model, tokens())
    with torch.no_grad():
        model(*tokens())
    restored = result.module(model)
    assert restored.blocks[0].mixer.slopes.shape == (2,)
    assert [tuple(one.shape) for one in restored.blocks[0].mixer.made.values()] == [(2, 1, 6)]
    assert [tuple(one.shape) for one in model.blocks[0].mixer.made.values()] == [(4, 1, 6)]


class Tied(nn.Module):
    """A head that reads the table of the tokens."""

    def __init__(self) -> None:
        super().__init__()
        self.table, self.inner, self.outer = nn.Embedding(20, 16), nn.Linear(16, 32), nn.Linear(32, 16)
        self.head = nn.Linear(16, 20, bias=False)
        self.head.weight = self.table.weight

    def forward(self, tokens: Tensor) -> Tensor:
        x = self.table(tokens)
        out: Tensor = self.head(x + self.outer(torch.relu(self.inner(x))))
        return out


def test_a_trained_result_with_tied_weights_comes_back() -> None:
    model, tokens = seeded(Tied), torch.randint(0, 20, (2, 5))
    result = graphopt.optimize(model, (tokens,), passes=HALF)
    module = result.module()
    module(tokens).sum().backward()
    torch.optim.SGD(module.parameters(), lr=0.1).step()
    own = result.module(model)
    assert own.head.weight is own.table.weight
    torch.testing.assert_close(own(tokens), module(tokens))
