"""Whole models in parts: equal to rounding, most of the work divided, and refusals."""

from __future__ import annotations

from collections.abc import Iterable

import pytest
import torch
from rewrite.sharding.programs import captured, error, run
from torch import Tensor, nn
from zoo.catalogue import entries

import graphopt
from graphopt.errors import PlanError, PreconditionError
from graphopt.program import Program
from graphopt.rewrite.placing.emulator import Emulator
from graphopt.rewrite.sharding.axes import Axis, read_axes
from graphopt.rewrite.sharding.question import DualScope
from graphopt.rewrite.sharding.sharded import shard

ROUNDING = 2e-6


class Encoder(nn.Module):
    """Tokens with a class token, rotary positions and pooling: ``(batch, tokens, 16)`` to ``(batch, 32)``."""

    def __init__(self, *, causal: bool) -> None:
        super().__init__()
        self.causal = causal
        self.token = nn.Parameter(torch.randn(1, 1, 16))
        self.norms = nn.ModuleList(nn.LayerNorm(16) for _ in range(4))
        self.qkv = nn.ModuleList(nn.Linear(16, 48) for _ in range(2))
        self.out = nn.ModuleList(nn.Linear(16, 16) for _ in range(2))
        self.mlp = nn.ModuleList(nn.Sequential(nn.Linear(16, 32), nn.GELU(), nn.Linear(32, 16)) for _ in range(2))

    def forward(self, x: Tensor) -> Tensor:
        """Class token and mean of the others."""
        x = torch.cat([self.token.expand(x.shape[0], -1, -1), x], 1)
        for layer in range(2):
            x = x + self._attend(self.norms[2 * layer](x), layer)
            x = x + self.mlp[layer](self.norms[2 * layer + 1](x))
        return torch.cat([x[:, 0], x[:, 1:].mean(1)], -1)

    def _attend(self, x: Tensor, layer: int) -> Tensor:
        q, k, v = self.qkv[layer](x).reshape(x.shape[0], x.shape[1], 3, 2, 8).permute(2, 0, 3, 1, 4)
        q, k = _turned(q), _turned(k)
        mixed = nn.functional.scaled_dot_product_attention(q, k, v, is_causal=self.causal)
        out: Tensor = self.out[layer](mixed.transpose(1, 2).flatten(2))
        return out


def _turned(x: Tensor) -> Tensor:
    """Rotary positions."""
    angles = torch.outer(torch.arange(x.shape[-2]), torch.tensor([1.0, 0.5, 0.2, 0.1]))
    first, second = x.chunk(2, -1)
    return torch.cat([first * angles.cos() - second * angles.sin(), first * angles.sin() + second * angles.cos()], -1)


def _encoder(*, causal: bool = False) -> Program:
    torch.manual_seed(0)
    return graphopt.capture(Encoder(causal=causal).eval(), (torch.randn(2, 13, 16),))


def _zoo(library: str, name: str) -> Program:
    (entry,) = (entry for entry in entries(library) if entry.name == name)
    model, args, kwargs = entry.build()
    return graphopt.capture(model, args, kwargs)


@pytest.mark.parametrize("causal", [False, True])
@pytest.mark.parametrize("parts", [2, 3])
def test_an_encoder_with_a_class_token(parts: int, causal: bool) -> None:
    program = _encoder(causal=causal)
    sharded = shard(program, parts)
    assert sharded.axis == "x:1"
    assert sharded.share == 1.0
    assert [reason for _, reason in sharded.gathered] == ["it is summed over"]
    assert error(run(sharded.placed.program), run(program)) < ROUNDING
    sites = {(site.device, site.copy) for site in sharded.placed.sites.values()}
    assert sites == {(part, part) for part in range(parts)} | {
        (0, part) for part in range(parts)
    }  # inputs are cut at 0


def test_other_batches_run() -> None:
    program = _encoder()
    placed = shard(program, 2).placed.program
    other = torch.randn(5, 13, 16)
    assert error(run(placed, other), run(program, other)) < ROUNDING


def test_the_sampler_gets_the_result() -> None:
    placed = shard(_encoder(), 3, sampler=2).placed
    (result,) = placed.program.graph_module.graph.output_node().all_input_nodes
    assert placed.sampler == 2
    assert placed.sites[result.name].device == 2


TRANSFORMERS = [
    ("diffusers", "dit", 0.9),
    ("diffusers", "flux", 0.95),
    pytest.param("diffusers", "sd3", 0.9, marks=pytest.mark.slow),
    pytest.param("diffusers", "pixart", 0.95, marks=pytest.mark.slow),
    pytest.param("timm", "beit_base_patch16_224", 0.99, marks=pytest.mark.slow),
    pytest.param("timm", "eva02_base_patch16_clip_224", 0.95, marks=pytest.mark.slow),
    pytest.param("transformers", "bert", 0.9, marks=pytest.mark.slow),
    pytest.param("transformers", "llama", 0.9, marks=pytest.mark.slow),
]


@pytest.mark.parametrize(("library", "name", "least"), TRANSFORMERS)
def test_transformers_divide_most_of_their_work(library: str, name: str, least: float) -> None:
    program = _zoo(library, name)
    sharded = shard(program, 2)
    assert sharded.share > least
    assert error(run(sharded.placed.program), run(program)) < ROUNDING


@pytest.mark.slow
@pytest.mark.parametrize("name", ["unet_2d", "unet_2d_condition", "unet_3d", "unet_motion", "autoencoder_kl", "wan"])
@pytest.mark.parametrize("parts", [2, 3])
def test_convolutional_models_divide_most_of_their_work(name: str, parts: int) -> None:
    program = _zoo("diffusers", name)
    sharded = shard(program, parts)
    assert sharded.share > 0.9
    assert error(run(sharded.placed.program), run(program)) < 1e-5


def test_displaced_parts_settle_on_the_result() -> None:
    program = _zoo("diffusers", "dit")
    sharded = shard(program, 2, displaced=True, extrapolate=0.5)
    assert {delay.extrapolate for delay in sharded.placed.delays} == {0.5}
    assert all(sharded.placed.sites[delay.name].device == delay.device for delay in sharded.placed.delays)
    emulator = Emulator({"sync": sharded.placed, "steady": sharded.placed})
    wanted = run(program)
    errors = [error(emulator.run(phase, program.args, program.kwargs), wanted) for phase in ("sync", "steady")]
    assert max(errors) < ROUNDING


class Video(nn.Module):
    """Clips ``(batch, 8, frames, rows, columns)``: spatial and temporal convolution, norm over frames, attention."""

    def __init__(self) -> None:
        super().__init__()
        self.spatial = nn.Conv3d(8, 8, (1, 3, 3), padding=(0, 1, 1))
        self.temporal = nn.Conv3d(8, 8, (3, 1, 1), padding=(1, 0, 0))
        self.norm = nn.GroupNorm(2, 8)
        self.qkv = nn.Linear(8, 24)

    def forward(self, x: Tensor) -> Tensor:
        """The same shape."""
        x = x + self.temporal(nn.functional.silu(self.norm(self.spatial(x))))
        batch, channels, frames, rows, columns = x.shape
        sites = x.permute(0, 3, 4, 2, 1).reshape(-1, frames, channels)
        q, k, v = self.qkv(sites).unflatten(-1, (3, 2, 4)).permute(2, 0, 3, 1, 4)
        mixed = nn.functional.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2)
        return x + mixed.reshape(batch, rows, columns, frames, channels).permute(0, 4, 3, 1, 2)


def _video() -> Program:
    torch.manual_seed(0)
    return graphopt.capture(Video().eval(), (torch.randn(2, 8, 9, 4, 4),))


@pytest.mark.parametrize("scope", [None, DualScope(9, 0)])
def test_clips_are_exact_where_they_see_everything(scope: DualScope | None) -> None:
    program = _video()
    sharded = shard(program, 3, axis="x:2", scope=scope)
    assert sharded.share == 1.0
    assert sharded.gathered == ()
    assert error(run(sharded.placed.program), run(program)) < ROUNDING


def test_a_scope_reads_less_and_changes_the_result() -> None:
    program = _video()
    whole, scoped = (shard(program, 3, axis="x:2", scope=scope).placed for scope in (None, DualScope(1, 3)))

    def keys(nodes: Iterable[torch.fx.Node]) -> list[int]:
        target = torch.ops.aten.scaled_dot_product_attention.default
        return [node.args[1].meta["val"].shape[-2] for node in nodes if node.target is target]

    assert keys(whole.program.graph_module.graph.nodes) == [9, 9, 9]
    assert keys(scoped.program.graph_module.graph.nodes) == [5, 6, 6]  # 0 to 3 and 6; 0 and 2 to 6; 0, 3 and 5 to 8
    assert error(run(scoped.program), run(program)) > 1e-3


def test_too_few_parts_and_unknown_axes_are_refused() -> None:
    program = _encoder()
    with pytest.raises(PreconditionError, match="found 1 parts, wanted two"):
        shard(program, 1)
    with pytest.raises(PreconditionError, match="its inputs are x"):
        shard(program, 2, axis="y:1")
    with pytest.raises(PreconditionError, match="dimension of fixed size; found 3"):
        shard(program, 2, axis="x:3")
    with pytest.raises(PreconditionError, match="dimension of fixed size; found 0"):
        shard(program, 2, axis="x:0")
    with pytest.raises(PreconditionError, match="cannot be cut into 20 parts"):
        shard(program, 20, axis="x:1")
    with pytest.raises(PreconditionError, match="a colon and a dimension"):
        shard(program, 2, axis="x")
    with pytest.raises(PlanError, match="has no device"):
        shard(program, 2, devices={})


def test_programs_without_an_axis_are_refused_with_the_reason() -> None:
    program = captured(lambda x, weight: nn.functional.linear(x, weight), (3, 8), weight=(4, 8))
    with pytest.raises(PreconditionError, match="operands_0:1: linear: it is summed over"):
        shard(program, 2)
    with pytest.raises(PreconditionError, match="no work is divided along operands_0:1"):
        shard(program, 2, axis="operands_0:1")
    flat = captured(lambda x: x * 2, (3,))
    with pytest.raises(PreconditionError, match="nothing to split"):
        shard(flat, 2)


@pytest.mark.parametrize("text", ["x:1", "x:2/8", "a:1,b:2/4"])
def test_axes_read_back(text: str) -> None:
    assert ",".join(map(str, read_axes(text))) == text


def test_windows_told_by_a_view_choose_where_parts_end() -> None:
    def windows(x: Tensor, weight: Tensor) -> Tensor:
        tokens = x.reshape(2, 3, 4, 8)  # twelve tokens in three windows of four
        return nn.functional.linear(tokens.softmax(2), weight)

    program = captured(windows, (2, 12, 8), weight=(8, 8))
    sharded = shard(program, 3)
    assert read_axes(sharded.axis)[0] in {Axis("operands_0", 1), Axis("operands_0", 1, 4)}
    assert sharded.share == 1.0
    uneven = shard(program, 2)
    assert sharded.gathered == ()
    assert uneven.axis == "operands_0:1/4"
    assert error(run(uneven.placed.program), run(program)) < 1e-12
