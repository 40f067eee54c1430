"""What the nodes of a program cost on each kind of device."""

from __future__ import annotations

import json
import os
import tempfile
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch

from graphopt.errors import PlanError
from graphopt.partition.devices import DEFAULT_KIND
from graphopt.program import Program
from graphopt.wiring import fingerprint


@dataclass(frozen=True)
class CostModel:
    """Seconds of every operator of a program on its example inputs.

    Attributes:
        seconds: kind of device -> name of node -> seconds; nodes that are not named take none.
        fingerprint: of the program's tensors and wiring.
        torch: version of torch.
        origin: how it was made, by kind: ``measured`` or ``roofline`` and on what.
    """

    seconds: Mapping[str, Mapping[str, float]]
    fingerprint: str
    torch: str
    origin: Mapping[str, str]

    def of(self, node: str, kind: str = DEFAULT_KIND) -> float:
        """Return the seconds of a node on a kind of device."""
        return self.seconds[kind].get(node, 0.0)

    def total(self, kind: str = DEFAULT_KIND) -> float:
        """Return the seconds of the whole program on a kind of device."""
        return sum(self.seconds[kind].values())

    def joined(self, other: CostModel) -> CostModel:
        """Return a model that also knows the kinds of another one of the same program.

        Raises:
            PlanError: it is of another program, or knows a kind that this one knows.
        """
        if other.fingerprint != self.fingerprint:
            raise PlanError("found costs of two programs, wanted those of one; measure both kinds on the same program")
        both = sorted(self.seconds.keys() & other.seconds.keys())
        if both:
            raise PlanError(f"found two sets of costs for {both}, wanted one a kind; name the kinds differently")
        return CostModel(
            {**self.seconds, **other.seconds}, self.fingerprint, self.torch, {**self.origin, **other.origin}
        )

    def require_program(self, program: Program) -> None:
        """Refuse another program than the one that was measured.

        Raises:
            PlanError: it is another one, or its nodes have other names.
        """
        found = fingerprint(program.graph_module)
        if found != self.fingerprint:
            raise PlanError(
                f"found costs of a program {self.fingerprint[:12]}, wanted those of {program.source.class_name} "
                f"{found[:12]}; measure this program, or pass the costs that belong to it"
            )
        names = {node.name for node in program.nodes()}
        strange = sorted({name for table in self.seconds.values() for name in table} - names)
        if strange:
            raise PlanError(f"found costs of {strange[0]!r}, which the program does not have; measure it again")

    def save(self, path: str | Path) -> None:
        """Write the JSON file, whole or not at all."""
        target = Path(path)
        descriptor, temporary = tempfile.mkstemp(dir=target.parent, prefix=f".{target.name}.")
        try:
            with os.fdopen(descriptor, "w") as file:
                json.dump(asdict(self), file, indent=1, sort_keys=True)
                file.flush()
                os.fsync(file.fileno())
            Path(temporary).replace(target)
        except BaseException:
            Path(temporary).unlink(missing_ok=True)
            raise


def load_costs(path: str | Path, program: Program) -> CostModel:
    """Read costs that were saved for a program.

    Raises:
        PlanError: there is no such file, it is damaged, or it is of another program or version of torch.
    """
    try:
        data: Any = json.loads(Path(path).read_text())
        tables = {
            str(kind): {str(name): float(s) for name, s in table.items()} for kind, table in data["seconds"].items()
        }
        origin = {str(kind): str(text) for kind, text in data["origin"].items()}
        model = CostModel(tables, str(data["fingerprint"]), str(data["torch"]), origin)
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise PlanError(f"cannot read costs from {str(path)!r}: {type(error).__name__} at {error}") from error
    model.require_program(program)
    if model.torch != torch.__version__:
        raise PlanError(
            f"found costs of torch {model.torch} in {str(path)!r}, wanted those of {torch.__version__}; measure again"
        )
    return model
