"""One process of models whose tokens are split over processes: `context_script.py CASE,CASE TIMEOUT OUT`."""

from __future__ import annotations

import os
import sys
import time
from pathlib import Path
from typing import Any

import diffusers
import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from graphopt.errors import GraphoptError
from graphopt.runtime.distributed.context import context_parallel

LIBRARY = torch.library.Library("torchvision", "FRAGMENT")
for operator in ("nms", "qnms"):
    if not torch.cuda.is_available():  # as conftest does: diffusers imports torchvision when a model is first asked for
        LIBRARY.define(f"{operator}(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")

RANK = int(os.environ.get("RANK", "0"))


def flux() -> tuple[nn.Module, dict[str, Any]]:
    """Two streams of tokens: 16 of an image, 6 of a text."""
    torch.manual_seed(0)
    model = diffusers.FluxTransformer2DModel(
        in_channels=16,
        num_layers=1,
        num_single_layers=1,
        attention_head_dim=16,
        num_attention_heads=4,
        joint_attention_dim=32,
        pooled_projection_dim=32,
        axes_dims_rope=(4, 6, 6),
    )
    places = torch.stack([torch.zeros(16), torch.arange(16) // 4, torch.arange(16) % 4], dim=1)
    inputs = {
        "hidden_states": torch.randn(2, 16, 16),
        "encoder_hidden_states": torch.randn(2, 6, 32),
        "pooled_projections": torch.randn(2, 32),
        "timestep": torch.rand(2),
        "img_ids": places,
        "txt_ids": torch.zeros(6, 3),
    }
    return model.eval(), inputs


def wan() -> tuple[nn.Module, dict[str, Any]]:
    """Tokens of a video: 2 frames of 4x4."""
    torch.manual_seed(0)
    model = diffusers.WanTransformer3DModel(
        num_attention_heads=4,
        attention_head_dim=16,
        in_channels=4,
        out_channels=4,
        text_dim=32,
        freq_dim=16,
        ffn_dim=96,
        num_layers=2,
        rope_max_seq_len=16,
    )
    inputs = {
        "hidden_states": torch.randn(1, 4, 2, 8, 8),
        "timestep": torch.tensor([7]),
        "encoder_hidden_states": torch.randn(1, 6, 32),
    }
    return model.eval(), inputs


class Recorder(nn.Module):
    """A model that notes how diffusers would be called."""

    _parallel_config: Any = None

    def __init__(self) -> None:
        super().__init__()
        self._cp_plan: dict[str, Any] = {}

    def enable_parallelism(self, *, config: Any) -> None:
        """Note the configuration."""
        self.found = config


def run(model: nn.Module, inputs: dict[str, Any]) -> Tensor:
    with torch.no_grad():
        found: Tensor = model(**inputs, return_dict=False)[0]
    return found


def shared(case: str, timeout: float) -> dict[str, Tensor]:
    """Output of one process, of several, and of one again; and how many tokens a layer gave in each."""
    model, inputs = wan() if case == "wan" else flux()
    seen: list[int] = []

    def note(module: nn.Module, args: Any, output: Tensor) -> None:
        seen.append(output.shape[1])

    feed_forward = next(one for name, one in model.named_modules() if name.endswith((".ff", ".ffn")))
    feed_forward.register_forward_hook(note)
    before = run(model, inputs)
    with context_parallel(model, ulysses=2, timeout=timeout):
        split = run(model, inputs)
    return {"before": before, "split": split, "after": run(model, inputs), "tokens": torch.tensor(seen)}


def recorded(timeout: float) -> dict[str, Tensor]:
    """How `enable_parallelism` is called where there are accelerators."""
    torch.accelerator.device_count = lambda: 2
    model = Recorder()
    with context_parallel(model, ring=2, timeout=timeout):
        mesh = model.found.mesh
        total = torch.tensor([float(RANK + 1)])
        torch.distributed.all_reduce(total, group=mesh.get_group("ring"))
        sizes = [model.found.ring_degree, model.found.ulysses_degree, mesh.size(0), mesh.size(1)]
    ended = not torch.distributed.is_initialized()
    return {"sizes": torch.tensor(sizes), "total": total, "ended": torch.tensor(ended)}


def faulty(case: str, timeout: float) -> None:
    """A run in which rank 1 does something else than rank 0, or the tokens are not to be halved."""
    model, inputs = flux()
    if case == "weights" and RANK == 1:
        model = type(model).from_config(model.config)
    with context_parallel(model, ulysses=2, timeout=timeout):
        if case == "raise" and RANK == 1:
            raise ValueError("out of paint")
        if case == "sleep" and RANK == 1:
            time.sleep(60)
        if case == "odd":
            inputs["hidden_states"], inputs["img_ids"] = inputs["hidden_states"][:, :15], inputs["img_ids"][:15]
        run(model, inputs)


def attempt(case: str, timeout: float, out: Path) -> int:
    """Run one case and leave what came of it; tell whether it failed."""
    if case not in ("flux", "wan", "recorded"):
        try:
            faulty(case, timeout)
        except GraphoptError as error:
            (out / f"{case}{RANK}.txt").write_text(f"{type(error).__name__}: {error}", encoding="utf-8")
            return 1
        return 0
    found = recorded(timeout) if case == "recorded" else shared(case, timeout)
    save_file({name: one.contiguous() for name, one in found.items()}, out / f"{case}{RANK}.safetensors")
    return 0


if __name__ == "__main__":
    torch.set_num_threads(1)
    cases = sys.argv[1].split(",")
    failed = sum(attempt(one, float(sys.argv[2]), Path(sys.argv[3])) for one in cases)
    sys.exit(failed if len(cases) == 1 else 0)
