"""Capture: an `nn.Module` becomes a Program, and a rewritten graph becomes one again."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import fx, nn

from graphopt.aliasing import written_attributes
from graphopt.assembly import Attribute, assemble, attach, named_attributes
from graphopt.canonical import canonicalise, eliminate_dead_code
from graphopt.capture_failure import Attempt, require_module, summary
from graphopt.copying import copy_graph
from graphopt.errors import CaptureError
from graphopt.example_inputs import ExampleInputs, bind, is_weightless, without_weights
from graphopt.numbering import renumber
from graphopt.preparation import collection_paused
from graphopt.program import Lineage, Program, Source, clone_tensor
from graphopt.quick_trace import quick_capture
from graphopt.real_trace import decided_by_weights, real_capture
from graphopt.torch_export import Export, export_at_example, export_with_batch, refuse_transforms, user_tensors
from graphopt.values import STALE, is_symbolic, placeholder_value, refresh_values
from graphopt.whole_parts import asked_for, kept_whole, notes_on, require_suitable, widened
from graphopt.wiring import fingerprint, walk

OTHER_CODE = "the model's code goes another way at another batch"
"""Why the batch of a model with modules that are kept whole is not symbolic, where it is not."""


def capture(
    model: nn.Module,
    args: tuple[Any, ...] = (),
    kwargs: Mapping[str, Any] | None = None,
    *,
    specialise: bool = True,
    opaque: Sequence[str] = (),
) -> Program:
    """Capture a model as a graph of ATen operators in inference form.

    The batch axis, dimension 0 of every tensor input that shares the commonest size there, becomes symbolic; an
    example of batch 1 is repeated once first, since one is never symbolic. Where the model does not allow that, the
    program keeps the example's batch and `Program.notes` says why. The model itself is left as it was: weights,
    gradients, flags and hooks. A model on the meta device is captured without weights.

    Some code asks what is in a tensor: how long a mask is, whether all of it is ones. A graph holds one answer. Where
    torch.export does not know how to keep it open and the answer follows from the inputs, the program takes the
    example's, says so in its notes, and asks again at every call: inputs that decide otherwise raise an error. That is
    the default, since most such questions are about padding that a user's inputs always have or never have.

    Where the weights decide how the code goes on, as in loops over the experts that tokens were sent to, the module
    that does so is kept whole: it is one operator of the graph, which runs the user's own code over the program's
    tensors. Nothing of it is rewritten, nor of what it reads and gives; the notes name it.

    Args:
        model: Called as `model(*args, **kwargs)`.
        args: Example positional inputs, nested as the model takes them. Numbers, flags, strings and None are baked
            into the graph as they are here.
        kwargs: Example keyword inputs.
        specialise: Whether the example may answer what the code asks about data. It takes the model three runs on
            real tensors, of the example and of the example repeated. Without it no module is kept whole unasked.
        opaque: Modules to keep whole, by dotted names as `named_modules` gives them, or patterns such as
            ``"layers.*.experts"``.

    Returns:
        A Program whose Parameters are its own, over the storage of the model's.

    Raises:
        CaptureError: The model is none, the inputs do not fit its signature, its forward raises, or it cannot be
            written as a graph.
    """
    require_module(model)
    model, inputs = without_weights(model, bind(model, args, {} if kwargs is None else kwargs))
    asked = asked_for(model, opaque)
    if asked and not is_weightless(model):
        require_suitable(model, inputs, asked)
    with collection_paused():
        with Attempt() as attempt:
            return _with_parts(model, inputs, asked, specialise=specialise)
        unasked = _unasked(model, inputs, asked) if specialise and not is_weightless(model) else {}
        with Attempt():
            if unasked:
                return _with_parts(model, inputs, unasked, specialise=specialise)
    raise attempt.failed()


def _with_parts(model: nn.Module, inputs: ExampleInputs, parts: Mapping[str, str], *, specialise: bool) -> Program:
    """Capture a model with some modules kept whole."""
    with kept_whole(model, parts):
        program = _quickly(model, inputs) or _exported(model, inputs, specialise=specialise, whole=bool(parts))
    return replace(program, notes=(*program.notes, *notes_on(parts))) if parts else program


def _unasked(model: nn.Module, inputs: ExampleInputs, asked: Mapping[str, str]) -> dict[str, str]:
    """Return the modules to be kept whole besides those that somebody asked for; none where that does not help."""
    with Attempt():
        with kept_whole(model, asked):
            found = decided_by_weights(model, inputs)
        return widened(model, inputs, {**found, **asked}) if found else {}
    return {}


def _quickly(model: nn.Module, inputs: ExampleInputs) -> Program | None:
    """Capture a model by two runs on stand-ins, None where that does not go."""
    quick = quick_capture(model, inputs)
    if quick is None:
        return None
    traced, name = quick.traced, type(model).__name__
    parts = (traced.graph, traced.tensors, traced.bodies, quick.inputs, name)
    return adopt_graph(*parts, dynamic_batch=quick.dynamic_batch, notes=quick.notes)


def _exported(model: nn.Module, inputs: ExampleInputs, *, specialise: bool, whole: bool) -> Program:
    """Capture a model by torch.export, or by running it for real where that alone keeps the batch free, or goes.

    Sizes with symbols do not pass through a module that is kept whole.
    """
    exported = OTHER_CODE if whole else export_with_batch(model, inputs)
    if isinstance(exported, str):
        program = _specialised(model, *inputs.with_batch()) if specialise else None
        return program or _at_example(model, inputs, exported, specialise=specialise)
    with Attempt() as attempt:
        return _adopt_export(model, exported)
    program = _specialised(model, *inputs.with_batch()) if specialise else None
    if program is None:
        raise attempt.failed()
    return program


def _at_example(model: nn.Module, inputs: ExampleInputs, why: str, *, specialise: bool) -> Program:
    """Capture a model at the batch of its example; sizes that the data decide are the example's where that goes."""
    with Attempt() as attempt:
        exported = export_at_example(model, inputs, why)
        if not specialise or not exported.has_open_sizes():
            return _adopt_export(model, exported)
    program = _specialised(model, inputs, (), f"static batch: {why}") if specialise else None
    if program is not None:
        return program
    if attempt.failure is not None:
        raise attempt.failure
    return _adopt_export(model, exported)


def _adopt_export(model: nn.Module, exported: Export) -> Program:
    stateful = exported.program.module(check_guards=False)
    refuse_transforms(model, stateful)
    return adopt(
        stateful,
        user_tensors(model, exported.program),
        exported.inputs,
        type(model).__name__,
        dynamic_batch=exported.dynamic_batch,
        notes=exported.notes,
    )


def _specialised(model: nn.Module, inputs: ExampleInputs, batched: Sequence[int], *notes: str) -> Program | None:
    """Capture a model by runs on real tensors, None where that does not go."""
    real = real_capture(model, inputs, batched)
    if real is None:
        return None
    traced, name = real.traced, type(model).__name__
    program = adopt_graph(
        traced.graph, traced.tensors, traced.bodies, real.inputs, name, dynamic_batch=real.dynamic_batch, notes=notes
    )
    if real.assumptions is None:
        return program
    names = [node.name for node in program.graph_module.graph.find_nodes(op="placeholder")]
    assumptions = replace(real.assumptions, names=tuple(names[place] for place in real.assumptions.places))
    return replace(program, assumptions=assumptions, notes=(*notes, *assumptions.notes()))


def adopt(
    traced: fx.GraphModule,
    tensors: Mapping[str, Attribute],
    inputs: ExampleInputs,
    class_name: str,
    *,
    dynamic_batch: bool,
    notes: tuple[str, ...] = (),
) -> Program:
    """Make a Program of a graph of ATen operators: canonical form, names of its own, tensors over the user's storage.

    Args:
        traced: The graph; every node carries its `meta["val"]`. It is taken over.
        tensors: The user's tensors that it reads, by dotted name.
        inputs: Example inputs that fit its placeholders.
        class_name: Class of the user's model.
        dynamic_batch: Whether a size of the inputs is symbolic.
        notes: Remarks for the user.
    """
    return adopt_graph(
        traced.graph, tensors, _bodies(traced), inputs, class_name, dynamic_batch=dynamic_batch, notes=notes
    )


def adopt_graph(
    graph: fx.Graph,
    tensors: Mapping[str, Attribute],
    bodies: Mapping[str, Attribute],
    inputs: ExampleInputs,
    class_name: str,
    *,
    dynamic_batch: bool,
    notes: tuple[str, ...] = (),
) -> Program:
    """Make a Program of a bare graph and the bodies of its higher-order operators; else like `adopt`."""
    memo: dict[int, torch.Tensor] = {}
    dense = _dense(graph, tensors)
    own = {name: replace(one, value=_same_storage(one.value, memo)) for name, one in dense.items()}
    graph_module = assemble(graph, own | dict(bodies), class_name)
    for node in walk(graph_module):
        for key in STALE:
            node.meta.pop(key, None)
    canonicalise(graph_module)
    renumber(graph_module)
    _clone_written(graph_module)
    return Program(
        graph_module,
        inputs.args,
        inputs.kwargs,
        Source(class_name, fingerprint(graph_module)),
        dynamic_batch,
        notes,
        borrowed=frozenset(_storage(attribute.value) for attribute in own.values()),
    )


def recapture(
    graph_module: fx.GraphModule,
    args: tuple[Any, ...],
    kwargs: Mapping[str, Any],
    like: Program,
    *,
    source: Source | None = None,
    lineage: Lineage | None = None,
    notes: Iterable[str] | None = None,
) -> Program:
    """Make a Program of a rewritten graph: fresh values on every node, canonical form, nothing unread left over.

    Names of nodes and tensors stay. Sizes that are symbolic in `like` stay symbolic; so do those of new placeholders
    whose `meta["val"]` says so, or whose example has as many rows as the batch. Of tied names, those that no node
    reads follow the one that is read. A tensor that `like` read and this graph does not is dropped.

    Args:
        graph_module: The rewritten graph with its tensors; left as it is.
        args: Example positional inputs of the rewritten graph.
        kwargs: Its example keyword inputs.
        like: The program it was rewritten from.
        source: What the result descends from; that of `like` by default.
        lineage: What was kept of it.
        notes: Remarks; those of `like` by default.

    Raises:
        CaptureError: The inputs do not fit the placeholders, or the graph does not run on them.
    """
    inputs = ExampleInputs(tuple(args), dict(kwargs))
    result = _pruned_copy(graph_module, like)
    _seed_placeholders(result, inputs, like)
    with Attempt() as attempt, collection_paused():
        refresh_values(result)
    if attempt.failure is not None:
        raise CaptureError(
            f"the rewritten graph does not run on its example inputs: {summary(attempt.failed())}; check the sizes "
            "that the rewrite wrote into the graph"
        ) from attempt.failure
    canonicalise(result)
    dynamic = like.dynamic_batch and _has_symbolic_input(result)
    kept_notes = like.notes if notes is None else tuple(notes)
    return replace(
        like,
        graph_module=result,
        args=inputs.args,
        kwargs=inputs.kwargs,
        source=like.source if source is None else source,
        dynamic_batch=dynamic,
        notes=kept_notes,
        lineage=lineage,
        borrowed=like.borrowed | {_storage(tensor) for tensor in like.parameters.values()},
    )


def _dense(graph: fx.Graph, tensors: Mapping[str, Attribute]) -> dict[str, Attribute]:
    """Leave out sparse tensors that no operator reads, in place; refuse those that one does: they have no storage."""
    sparse = {
        name
        for name, one in tensors.items()
        if isinstance(one.value, torch.Tensor) and one.value.layout != torch.strided
    }
    for node in list(graph.nodes) if sparse else ():
        if node.op != "get_attr" or node.target not in sparse:
            continue
        if node.users:
            raise CaptureError(
                f"{node.target} is a sparse tensor that {next(iter(node.users)).target} reads, wanted a dense one; "
                "call to_dense() on it before capture"
            )
        graph.erase_node(node)
    return {name: one for name, one in tensors.items() if name not in sparse}


def _same_storage(tensor: torch.Tensor | nn.Module, memo: dict[int, torch.Tensor]) -> torch.Tensor | nn.Module:
    """Return a new Parameter or tensor over a tensor's storage; a module is returned as it is."""
    if isinstance(tensor, nn.Module):
        return tensor
    if id(tensor) not in memo:
        view = tensor.detach()
        is_parameter = isinstance(tensor, nn.Parameter)
        memo[id(tensor)] = nn.Parameter(view, requires_grad=tensor.requires_grad) if is_parameter else view
    return memo[id(tensor)]


def _storage(value: torch.Tensor | nn.Module) -> int:
    return value.untyped_storage()._cdata if isinstance(value, torch.Tensor) else 0


def _bodies(graph_module: fx.GraphModule) -> dict[str, Attribute]:
    return {name: found for name, found in named_attributes(graph_module).items() if isinstance(found.value, nn.Module)}


def _clone_written(graph_module: fx.GraphModule) -> None:
    """Give the graph its own copy of every tensor that it writes to when it runs, so that the user's stays."""
    touched = written_attributes(graph_module)
    memo: dict[int, torch.Tensor] = {}
    for name, attribute in named_attributes(graph_module).items():
        if name in touched and isinstance(attribute.value, torch.Tensor):
            attach(graph_module, name, replace(attribute, value=clone_tensor(attribute.value, memo)))


def _pruned_copy(graph_module: fx.GraphModule, like: Program) -> fx.GraphModule:
    """Copy a rewritten graph without what no output needs; tensors are shared, bodies are not."""
    copied = copy_graph(graph_module).assemble()
    eliminate_dead_code(copied)
    return assemble(copied.graph, _kept_attributes(copied, like), type(like.graph_module).__name__)


def _kept_attributes(graph_module: fx.GraphModule, like: Program) -> dict[str, Attribute]:
    """Return what a rewritten graph keeps: persistence as before, ties as before, nothing that lost its reader."""
    before = named_attributes(like.graph_module)
    read_before, read_now = _read_names(like.graph_module), _read_names(graph_module)
    found = named_attributes(graph_module)
    kept = {}
    for name, attribute in found.items():
        persistent = before[name].persistent if name in before else attribute.persistent
        kept[name] = replace(attribute, persistent=persistent)
    for names in _ties(before):
        readers = [name for name in names if name in read_now and name in kept]
        for name in names:
            if readers and name not in readers:
                kept[name] = kept[readers[0]]
            if not readers and not read_before.isdisjoint(names):
                kept.pop(name, None)
    return kept


def _ties(attributes: Mapping[str, Attribute]) -> list[list[str]]:
    """Return the names of every tensor; more than one where it is tied."""
    groups: dict[int, list[str]] = {}
    for name, attribute in attributes.items():
        if isinstance(attribute.value, torch.Tensor):
            groups.setdefault(id(attribute.value), []).append(name)
    return list(groups.values())


def _read_names(graph_module: fx.GraphModule) -> set[str]:
    return {str(node.target) for node in graph_module.graph.nodes if node.op == "get_attr"}


def _seed_placeholders(graph_module: fx.GraphModule, inputs: ExampleInputs, like: Program) -> None:
    placeholders = graph_module.graph.find_nodes(op="placeholder")
    leaves = inputs.leaves()
    if len(leaves) != len(placeholders):
        raise CaptureError(
            f"the rewritten graph has {len(placeholders)} placeholders and was given {len(leaves)} example inputs; "
            "pass args and kwargs with one leaf for each placeholder"
        )
    known = [node.meta.get("val") for node in like.graph_module.graph.find_nodes(op="placeholder")]
    for node, leaf in zip(placeholders, leaves, strict=True):
        node.meta["val"] = placeholder_value(leaf, node.meta.get("val"), known)


def _has_symbolic_input(graph_module: fx.GraphModule) -> bool:
    values = (node.meta["val"] for node in graph_module.graph.find_nodes(op="placeholder"))
    return any(isinstance(value, torch.Tensor) and any(map(is_symbolic, value.shape)) for value in values)
