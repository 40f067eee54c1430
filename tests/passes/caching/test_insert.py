"""insert-cache and the presets that are compositions of it: options, text, reports and inputs that are ignored."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache

import pytest
import torch
from caching.tiny import Skips, Stack, control_of, images, skips, skips_program, stack, stack_program, tokens

import graphopt
from graphopt.cost import cost
from graphopt.cuts import Cut
from graphopt.errors import PreconditionError, SpecError
from graphopt.passes.caching.insert import InsertCache, predictor_order
from graphopt.program import Program
from graphopt.runtime.session import CacheSession
from graphopt.schedule import Every, Listed, Threshold

SPECS = [
    "insert-cache{cuts=[add_1:add_3],schedule=uniform:3}",
    "insert-cache{cuts=[add_1:add_3,linear_13],schedule=[0,2,5],steps=8,warm_up=2,last_full,predictor=taylor:2}",
    "insert-cache{cuts=[block.1],kind=residual,schedule=power:15:1.4,interval=5,steps=50,allow_dead=[text]}",
    "insert-cache{cuts=[branch.*],table=[000,101],sample=sample}",
    'insert-cache{cuts=["blocks.1"],threshold=0.1,probe=linear_1:add_1,max_consecutive=2,max_cached=9}',
    "deepcache{interval=5,branch=1,last_full,allow_dead=[text]}",
    "deepcache{schedule=quadratic:15:1.4,interval=5,steps=50}",
    "deepcache{schedule=[0,5,10]}",
    "first-block{threshold=0.2,front=2,warm_up=3,max_consecutive=4}",
    "dbcache{threshold=0.1,front=4,back=2}",
    "l2c{table=[000,111]}",
    "dip-go{ratio=0.25,sample=sample}",
    "taylorseer{interval=4,order=2,warm_up=2,until=18,layers=all}",
    "mag-cache{ratios=[1.0,0.5],threshold=0.1,max_skip=2,retention=0.1,steps=20}",
    "pab{self_attention=3,cross_attention=5,window=[50.0,900.0],timestep=timestep}",
    "hoist-invariants{timestep=timestep,per_step=[control]}",
    "auto{speedup=1.5,intervals=[2,4],predictors=[0],candidates=3,repeats=2}",
    "auto{error=0.02}",
]


@cache
def program() -> Program:
    return stack_program()


def result_of(spec: str) -> graphopt.Result:
    return graphopt.Pipeline(spec).run(program())


@pytest.mark.parametrize("spec", SPECS)
def test_text_makes_the_pass_again(spec: str) -> None:
    pipeline = graphopt.Pipeline(spec)
    assert graphopt.Pipeline(str(pipeline)).passes == pipeline.passes
    assert str(graphopt.Pipeline(str(pipeline))) == str(pipeline)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ("cuts=[add_1]", "found no schedule, wanted exactly one of schedule, table or threshold"),
        ("cuts=[add_1],schedule=uniform:2,table=[0,1]", "found schedule and table, wanted exactly one"),
        ("cuts=[],schedule=uniform:2", "option cuts: found (), wanted at least one value or region"),
        ("cuts=[a:b:c],schedule=uniform:2", "found the cut 'a:b:c'"),
        ("cuts=[add_1],schedule=sometimes", "found the schedule 'sometimes'"),
        ("cuts=[add_1],schedule=[4,9],steps=8", "found the full step 9, wanted numbers from 0 to 7"),
        ("cuts=[add_1],table=[]", "wanted rows of as many digits 0 or 1"),
        ("cuts=[add_1],table=[0,01]", "wanted rows of as many digits 0 or 1"),
        ("cuts=[add_1],table=[0,2]", "wanted rows of as many digits 0 or 1"),
        ("cuts=[add_1],table=[00,11]", "found rows of 2 digits for 1 cuts, wanted one a cut"),
        ("cuts=[add_1],threshold=0.1", "option probe: found None, wanted one with a threshold"),
        ("cuts=[add_1],schedule=uniform:2,probe=add_1:add_3", "option probe"),
        ("cuts=[add_1],threshold=0.0,probe=add_1:add_3", "option threshold: found 0.0, wanted a distance above 0"),
        ("cuts=[add_1],schedule=uniform:2,warm_up=-1", "option warm_up"),
        ("cuts=[add_1],schedule=uniform:2,predictor=spline", "found the predictor 'spline', wanted reuse, linear"),
        ("cuts=[add_1],schedule=uniform:2,predictor=taylor:9", "found the predictor 'taylor:9'"),
        ("cuts=[add_1],schedule=uniform:2,max_consecutive=2", "max_consecutive says nothing with schedule="),
        ("cuts=[add_1],table=[0,1],warm_up=2", "warm_up says nothing with table="),
        ("cuts=[add_1],table=[0,1],predictor=linear", "predictor says nothing with table="),
        (
            "cuts=[add_1:add_3],threshold=0.1,probe=linear_1:add_1,predictor=linear",
            "predictor says nothing with threshold=",
        ),
        ("cuts=[add_1:add_3],threshold=0.1,probe=linear_1:add_1,max_cached=-1", "option max_cached"),
        ("cuts=[nowhere],schedule=uniform:2", "found no region that fits 'nowhere'; nearest are"),
        ("cuts=[linear_99],schedule=uniform:2", "found no value 'linear_99'; values of such names are linear"),
        ("cuts=[add_1],schedule=uniform:2,kind=sum", "sum"),
    ],
)
def test_wrong_options_say_what_is_wanted(options: str, message: str) -> None:
    with pytest.raises(SpecError) as caught:
        result_of(f"insert-cache{{{options}}}")
    assert message in str(caught.value)


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ("deepcache{interval=0}", "option interval: found 0"),
        ("deepcache{branch=-1}", "option branch: found -1"),
        ("deepcache{schedule=quadratic:15:1.4}", "with steps=None"),
        ("deepcache{schedule=quadratic:15:1.4,steps=0}", "found steps=0"),
        ("first-block{threshold=0}", "option threshold"),
        ("first-block{max_consecutive=-1}", "option max_consecutive: found -1"),
        ("dbcache{front=0}", "at least one block"),
        ("taylorseer{warm_up=0}", "at least one step to predict from"),
        ("taylorseer{layers=some}", "attention or all"),
        ("mag-cache{ratios=[]}", "at least one ratio"),
        ("mag-cache{retention=2.0}", "a share in [0, 1]"),
        ("pab{window=[800.0,100.0]}", "two timesteps, the lower first"),
        ("l2c{table=[01,2]}", "rows of digits 0 and 1"),
        ("dip-go{ratio=1.5}", "a share in [0, 1]"),
        ("auto{speedup=2.0,error=0.1}", "exactly one of speedup and error"),
        ("auto{speedup=1.0}", "a ratio above 1"),
    ],
)
def test_wrong_options_of_presets(spec: str, message: str) -> None:
    with pytest.raises(SpecError) as caught:
        graphopt.Pipeline(spec)
    assert message in str(caught.value)


@pytest.mark.parametrize(
    ("options", "cuts", "policy"),
    [
        ("cuts=[add_3],schedule=uniform:4,warm_up=2,allow_dead=[*]", [Cut("add_3")], Every(4, 2)),
        ("cuts=[add_1:add_3],schedule=[0,2]", [Cut("add_3", "add_1")], Listed(("full", "cached", "full"), "cached")),
        ("cuts=[branch.1],schedule=uniform:2", [Cut("linear_9")], Every(2)),
        ("cuts=[branch.1],kind=residual,schedule=uniform:2", [Cut("add_3", "add_1")], Every(2)),
        (
            "cuts=[block.*],kind=residual,table=[000,010]",
            [Cut("add_1", "linear_1"), Cut("add_3", "add_1"), Cut("add_5", "add_3")],
            Listed(("full", "cached")),
        ),
        ("cuts=[cut.1],schedule=uniform:2", [Cut("add_3", "linear_1")], Every(2)),
    ],
)
def test_texts_name_values_residuals_and_regions(options: str, cuts: list[Cut], policy: object) -> None:
    schedule = result_of(f"insert-cache{{{options}}}").schedule
    assert schedule is not None
    assert [slot.cut for slot in schedule.slots.values()] == cuts
    assert schedule.policy == policy


def test_a_threshold_with_a_probe_of_ones_own() -> None:
    result = result_of("insert-cache{cuts=[add_1:add_5],threshold=0.3,probe=linear_1:add_1,max_cached=4}")
    assert result.schedule is not None
    assert result.schedule.policy == Threshold(0.3, 0, None, 4)
    preset = result_of("first-block{threshold=0.3,max_cached=4}").schedule
    assert preset == result.schedule


@pytest.mark.parametrize(("text", "order"), [("reuse", 0), ("linear", 1), ("taylor:1", 1), ("taylor:4", 4)])
def test_predictors(text: str, order: int) -> None:
    assert predictor_order(text) == order


def test_the_report_counts_the_cached_step() -> None:
    result = result_of("insert-cache{cuts=[add_1:add_3],schedule=uniform:3,predictor=linear}")
    report = result.report.passes[0]
    cached, whole = cost(result.programs["cached"]), cost(result.program)
    assert (report.before["macs"], report.after["macs"]) == (whole.macs, cached.macs)
    assert (report.before["parameters"], report.after["parameters"]) == (4452, cached.parameters)
    assert (report.before["cache_bytes"], report.after["cache_bytes"]) == (0, 2 * 640)
    operators = sum(node.op == "call_function" for node in result.programs["cached"].nodes())
    assert f"cached: {operators} operators, {cached.parameters:,} parameters, {cached.macs:,} MACs" in report.notes
    session = CacheSession(result)
    for step in (0, 1, 2, 3):
        session(*tokens(step))
    assert session.cache_bytes == report.after["cache_bytes"]


def test_a_probe_counts_as_part_of_the_cached_step() -> None:
    result = result_of("first-block{threshold=0.1}")
    after = result.report.passes[0].after
    parts = [cost(result.programs[name]) for name in ("probe", "tail-cached")]
    assert after["macs"] == sum(part.macs for part in parts)
    assert after["parameters"] == sum(part.parameters for part in parts)


@pytest.mark.parametrize("spec", ["insert-cache{cuts=[linear_1:add_5],schedule=uniform:2}"])
def test_an_input_that_is_ignored_is_an_error(spec: str) -> None:
    with pytest.raises(
        PreconditionError, match=r"insert-cache: the input timestep is not read in cached steps"
    ) as caught:
        result_of(spec)
    assert "allow_dead=[timestep,text]" in str(caught.value)
    allowed = result_of(spec.replace("}", ",allow_dead=[t*]}"))
    assert cost(allowed.programs["cached"]).parameters == 16 * 5 + 4 * 17


def controlled(model: Stack | Skips) -> Program:
    inputs = tokens() if isinstance(model, Stack) else images()
    return graphopt.capture(model, inputs, {"control": control_of(inputs)})


@pytest.mark.parametrize(
    ("spec", "model"),
    [
        ("deepcache{interval=2}", skips),
        ("first-block{threshold=0.1}", stack),
        ("mag-cache{ratios=[1.0,1.0,1.0]}", stack),
        ("dip-go{table=[000,001]}", stack),
    ],
)
def test_presets_ignore_text_and_timestep_but_no_residual_of_a_control(
    spec: str, model: Callable[[], Stack | Skips]
) -> None:
    made = model()
    plain = graphopt.capture(made, tokens() if isinstance(made, Stack) else images())
    assert graphopt.Pipeline(spec).run(plain).schedule is not None
    with pytest.raises(PreconditionError, match=r"the input control is not read in (tail-)?cached steps"):
        graphopt.Pipeline(spec).run(controlled(made))
    accepted = graphopt.Pipeline(f"{spec[:-1]},allow_dead=[control]}}").run(controlled(made))
    assert accepted.schedule is not None


def test_a_timestep_that_is_added_like_a_residual_is_no_control() -> None:
    """A model over points, whose hidden values have the shape of its time embedding."""

    class Points(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.time, self.entry, self.head = torch.nn.Linear(1, 8), torch.nn.Linear(2, 8), torch.nn.Linear(8, 2)
            self.layers = torch.nn.ModuleList(torch.nn.Linear(8, 8) for _ in range(3))

        def forward(self, sample: torch.Tensor, timestep: torch.Tensor) -> torch.Tensor:
            hidden, time = self.entry(sample), self.time(timestep[:, None])
            for layer in self.layers:
                hidden = hidden + torch.tanh(layer(hidden + time))
            return self.head(hidden)

    points = graphopt.capture(Points().eval(), (torch.randn(4, 2), torch.rand(4)))
    assert graphopt.Pipeline("mag-cache{ratios=[1.0,1.0,1.0]}").run(points).schedule is not None


def test_presets_say_what_fits_other_models() -> None:
    with pytest.raises(
        PreconditionError, match=r"Stack has 0 long skips.*first-block or taylorseer cache transformers"
    ):
        result_of("deepcache{interval=2}")
    with pytest.raises(PreconditionError, match="has 1 long skips, so there is no branch 1; choose a smaller one"):
        graphopt.Pipeline("deepcache{branch=1}").run(skips_program())
    with pytest.raises(PreconditionError, match="the first 3 and the last 0 are always computed, so none is left"):
        result_of("first-block{front=3}")
    with pytest.raises(PreconditionError, match="Stack has none of what layers=attention predicts"):
        result_of("taylorseer")
    with pytest.raises(PreconditionError, match="has no attention of a kind that is reused"):
        result_of("pab")


def test_a_program_has_one_schedule() -> None:
    with pytest.raises(PreconditionError) as caught:
        result_of("first-block{threshold=0.1},insert-cache{cuts=[add_1:add_3],schedule=uniform:3}")
    assert "insert-cache made a schedule of its own, and first-block{threshold=0.1} before it" in str(caught.value)
    with pytest.raises(PreconditionError, match="put prune-channels before that pass"):
        result_of("first-block{threshold=0.1},prune-channels{ratio=0.5}")


def test_a_pass_made_in_python_is_the_same() -> None:
    made = InsertCache(cuts=("add_1:add_3",), schedule="uniform:3")
    assert graphopt.Pipeline(made).run(program()).schedule == result_of(SPECS[0]).schedule
