"""Which key of a checkpoint is which tensor of the model that a plan was made for."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass
from difflib import get_close_matches

from graphopt.errors import PlanError
from graphopt.exporters.checkpoint import some
from graphopt.exporters.tensor_stream import Entry
from graphopt.plan import Plan


@dataclass(frozen=True)
class Naming:
    """How the names of a plan and the keys of a checkpoint differ.

    Attributes:
        prefix: What the keys have in front of the model's names, such as ``model.``.
        wrapped: What the names in the plan have in front of the keys, where the model was captured inside another one.
    """

    prefix: str = ""
    wrapped: str = ""

    def key(self, name: str) -> str | None:
        """Return the key of a tensor of the plan's model, None for a tensor of what was around it."""
        return self.prefix + name.removeprefix(self.wrapped) if name.startswith(self.wrapped) else None


def match_names(
    plan: Plan, entries: Mapping[str, Entry], naming: Naming, *, allow_unknown: bool = False
) -> dict[str, str]:
    """Return the plan's name of each key of a checkpoint, unknown keys left out.

    A tensor may be absent where the model makes it itself, or where a name that it is tied to is there.

    Args:
        plan: Names and shapes of the original model.
        entries: Type and shape by key.
        naming: How names and keys differ.
        allow_unknown: Accept keys that the plan does not know.

    Raises:
        PlanError: A tensor is missing, a key is unknown, or a shape differs; the message says what would fit.
    """
    keys = {name: key for name in plan.source.tensors if (key := naming.key(name)) is not None}
    names = {key: name for name, key in keys.items() if key in entries}
    unknown = [key for key in entries if key not in names]
    missing = list(_missing(plan, set(names.values())))
    if missing or (unknown and not allow_unknown):
        raise PlanError(_mismatch(plan, missing, unknown, keys))
    for key, name in names.items():
        if entries[key].shape != plan.source.tensors[name]:
            raise PlanError(
                f"{key} is {list(entries[key].shape)} in the checkpoint, but the plan was made for "
                f"{list(plan.source.tensors[name])}; apply it to a checkpoint of the original model"
            )
    return names


def _missing(plan: Plan, found: Collection[str]) -> Iterator[str]:
    together: dict[str, set[str]] = {}
    for name in plan.source.tensors:
        together.setdefault(plan.tied.get(name, name), set()).add(name)
    excused = set(plan.source.unsaved)
    for names in together.values():
        if names.isdisjoint(found) and not names <= excused:
            yield min(names)


def _mismatch(plan: Plan, missing: list[str], unknown: list[str], keys: Mapping[str, str]) -> str:
    parts = [f"the checkpoint does not fit the plan, which was made for a {plan.source.class_name}"]
    if unknown:
        parts.append(f"found {len(unknown)} keys that it does not know: {some(unknown)}")
    if missing:
        wanted = [keys.get(name, name) for name in missing]
        parts.append(f"wanted {len(missing)} more: {some(wanted)}{_closest(wanted[0], unknown)}")
    return "; ".join([*parts, _advice(plan, unknown, missing)])


def _closest(key: str, unknown: list[str]) -> str:
    close = get_close_matches(key, unknown, n=1, cutoff=0.6)
    return f" (the closest to the first is {close[0]})" if close else ""


def _advice(plan: Plan, unknown: list[str], missing: list[str]) -> str:
    """Say which prefix would bring names and keys together, or what to do with what is not the plan's."""
    found = Counter(_prefixes(unknown, plan.source.tensors, "prefix"))
    found.update(_prefixes(missing, set(unknown), "wrapped"))
    if found:
        (option, prefix), count = found.most_common(1)[0]
        return f"{option}={prefix!r} would match {count} of them"
    if missing:
        return "apply it to a checkpoint of that model, or make the plan again for this one"
    return "unknown='copy' takes them over as they are, unknown='drop' leaves them out"


def _prefixes(long: Iterable[str], short: Collection[str], option: str) -> Iterator[tuple[str, str]]:
    for name in long:
        parts = name.split(".")
        for start in range(1, len(parts)):
            if ".".join(parts[start:]) in short:
                yield option, ".".join(parts[:start]) + "."
                break
