"""Pipelines of diffusers whose denoiser runs on two devices."""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import diffusers
import pytest
import torch
from torch import Tensor, nn

import graphopt
from graphopt.calling import Calling
from graphopt.errors import GraphoptError
from graphopt.pass_manager import Pipeline, Result
from graphopt.runtime.distributed.board import Meeting, host_board
from graphopt.runtime.distributed.distributing import Distributed, distribute, serve

STEPS = 5


def unet() -> nn.Module:
    torch.manual_seed(0)
    return diffusers.UNet2DModel(
        sample_size=8,
        in_channels=2,
        out_channels=2,
        block_out_channels=(8, 16),
        norm_num_groups=4,
        layers_per_block=1,
        down_block_types=("DownBlock2D", "DownBlock2D"),
        up_block_types=("UpBlock2D", "UpBlock2D"),
    ).eval()


def pipeline() -> Any:
    pipe = diffusers.DDIMPipeline(unet(), diffusers.DDIMScheduler(clip_sample=False))
    pipe.set_progress_bar_config(disable=True)
    return pipe


@pytest.fixture(scope="module")
def results() -> dict[str, Result]:
    torch.manual_seed(0)
    program = graphopt.capture(unet(), (torch.randn(2, 2, 8, 8), torch.tensor(7)))
    texts = ("partition{devices=2}", "partition{devices=2,mode=async}")
    return {text.split("=")[-1].strip("2}") or "pipeline": with_calling(Pipeline(text).run(program)) for text in texts}


def with_calling(result: Result) -> Result:
    assert result.plan is not None
    assert result.plan.partition is not None
    program = result.program
    calling = Calling.of(program.graph_module, program.args, program.kwargs).to_dict()
    partition = replace(result.plan.partition, options={**result.plan.partition.options, "calling": calling})
    return replace(result, plan=replace(result.plan, partition=partition))


def on_devices(
    source: Any, act: Callable[[Distributed, Any], Any], timeout: float = 10.0, make: Callable[[], Any] | None = None
) -> Any:
    """Run a pipeline in one thread for each device; return what driving gave."""
    board = host_board()
    found: dict[str, Any] = {}

    def process(rank: int) -> None:
        meeting = Meeting(rank, 2, port=board.port, hosted=True, timeout_seconds=timeout)
        pipe = (make or pipeline)()
        try:
            with distribute(pipe, source, meeting=meeting) as run:
                if run.drives:
                    found["driven"] = act(run, pipe)
                else:
                    found["weights"] = [one for one in pipe.unet.parameters() if not one.is_meta]
        except Exception as error:
            found.setdefault("errors", {})[rank] = error

    threads = [threading.Thread(target=process, args=(rank,), daemon=True) for rank in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(20)
    if "errors" in found:
        assert len(found["errors"]) == 2
        raise found["errors"][0]
    assert found["weights"] == []
    return found["driven"]


def images(pipe: Any, seed: int = 3, steps: int = STEPS, batch: int = 2) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    made = pipe(batch_size=batch, num_inference_steps=steps, generator=generator, output_type="np").images
    return torch.from_numpy(made)


def test_a_pipeline_on_two_devices_makes_the_same_images(results: dict[str, Result]) -> None:
    def act(run: Distributed, pipe: Any) -> list[Tensor]:
        assert run.drives
        assert isinstance(pipe.unet, diffusers.UNet2DModel)
        assert pipe.unet.config.sample_size == 8
        assert pipe.device.type == "cpu"
        assert pipe.unet.dtype == torch.float32
        assert all(one.is_meta for one in pipe.unet.parameters())
        return [images(pipe, seed) for seed in (3, 4)]

    found = on_devices(results["pipeline"], act)
    for seed, image in zip((3, 4), found, strict=True):
        assert torch.equal(image, images(pipeline(), seed))


def test_late_steps_differ_and_start_anew_with_each_image(results: dict[str, Result]) -> None:
    def act(run: Distributed, pipe: Any) -> tuple[list[Tensor], list[str]]:
        first = images(pipe)
        phases = [decision.program for decision in pipe.unet.decisions]
        return [first, images(pipe, 4), images(pipe)], phases

    found, phases = on_devices(results["async"], act)
    assert phases == ["sync", *["steady"] * (STEPS - 1)]
    assert torch.equal(found[0], found[2])
    assert not torch.equal(found[0], images(pipeline()))


def test_a_saved_folder_needs_no_model_on_the_other_device(results: dict[str, Result], tmp_path: Any) -> None:
    results["pipeline"].save(tmp_path / "out")
    board = host_board()
    served: list[Exception] = []

    def other() -> None:
        try:
            meeting = Meeting(1, 2, port=board.port, hosted=True, timeout_seconds=10)
            serve(tmp_path / "out", meeting=meeting)
        except Exception as error:
            served.append(error)

    thread = threading.Thread(target=other, daemon=True)
    thread.start()
    pipe = pipeline()
    meeting = Meeting(0, 2, port=board.port, hosted=True, timeout_seconds=10)
    with distribute(pipe, tmp_path / "out", meeting=meeting):
        found = images(pipe)
    thread.join(20)
    assert served == []
    assert torch.equal(found, images(pipeline()))


def test_two_calls_a_step_are_refused_where_nothing_says_why(results: dict[str, Result]) -> None:
    def act(run: Distributed, pipe: Any) -> None:
        pipe.scheduler.set_timesteps(4)
        x = torch.zeros(2, 2, 8, 8)
        for number, t in enumerate(pipe.scheduler.timesteps):
            for _ in range(1 + (number == 2)):
                pipe.unet(x, t)

    with pytest.raises(GraphoptError, match="another call of the model at step 2"):
        on_devices(results["async"], act)


def test_guidance_in_two_calls_keeps_two_histories(results: dict[str, Result]) -> None:
    def looped(model: Any, scheduler: Any, *, both: bool) -> list[Tensor]:
        scheduler.set_timesteps(4)
        found = []
        generator = torch.Generator().manual_seed(0)
        for t in scheduler.timesteps:
            inputs = torch.randn(2, 2, 2, 8, 8, generator=generator)
            outputs = [model(x, t).sample for x in (inputs if both else inputs[:1])]
            found.append(outputs[0])
        return found

    def act(run: Distributed, pipe: Any) -> tuple[list[Tensor], list[Tensor]]:
        return (looped(pipe.unet, pipe.scheduler, both=True), looped(pipe.unet, pipe.scheduler, both=False))

    both, one = on_devices(results["async"], act)
    assert all(map(torch.equal, both, one))


def test_another_model_is_refused_by_all(results: dict[str, Result]) -> None:
    def other() -> Any:
        pipe = pipeline()
        pipe.unet.conv_in.weight.data = torch.zeros(8, 2, 1, 1)
        return pipe

    with pytest.raises(GraphoptError, match=r"conv_in.weight \[8, 2, 1, 1\]"):
        on_devices(results["pipeline"], lambda run, pipe: None, make=other)
