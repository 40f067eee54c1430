"""Scorer: an importance made ready for one program."""

from torch import Tensor

from graphopt.dependency.graph import Group
from graphopt.errors import PreconditionError, SpecError
from graphopt.program import Program
from graphopt.scores.evidence import NO_GRADIENTS, Evidence
from graphopt.scores.gradients import Calibrated, Gradients, StopRule, collect_gradients
from graphopt.scores.importance import IMPORTANCES, Importance
from graphopt.scores.parameters import normalisation_weights, scored_parameters


class Scorer:
    """Scores the groups of one program by one importance.

    Args:
        program: The program; its weights are read, never written.
        importance: A name of `IMPORTANCES`.
        gradients: What `collect_gradients` gave; needed where the importance reads gradients.
        seed: Seed of random scores.

    Raises:
        SpecError: There is no such importance.
        PreconditionError: The importance reads gradients and there are none.
    """

    def __init__(self, program: Program, importance: str, *, gradients: Gradients | None = None, seed: int = 0) -> None:
        self._importance = importance_named(importance)
        if self._importance.gradients and gradients is None:
            raise PreconditionError(
                f"importance {importance} needs gradients and found none; use Scorer.prepare with calibration and loss"
            )
        self._evidence = Evidence(
            scored_parameters(program),
            NO_GRADIENTS if gradients is None else gradients,
            norms=normalisation_weights(program),
            seed=seed,
        )

    @classmethod
    def prepare(
        cls, program: Program, context: Calibrated, importance: str, *, stop: StopRule | None = None
    ) -> "Scorer":
        """Return a scorer, with gradients collected first where the importance reads them.

        Args:
            program: The program.
            context: Seed, and where gradients are needed calibration batches and loss.
            importance: A name of `IMPORTANCES`.
            stop: Rule that ends the collection of gradients early.

        Raises:
            SpecError: There is no such importance.
            PreconditionError: Gradients are needed and cannot be collected; see `collect_gradients`.
        """
        gradients = cls.gradients_for(program, context, importance, stop=stop)
        return cls(program, importance, gradients=gradients, seed=context.seed)

    @staticmethod
    def gradients_for(
        program: Program, context: Calibrated, importance: str, *, stop: StopRule | None = None
    ) -> Gradients | None:
        """Return the gradients that an importance reads, None where it reads none; see `prepare`."""
        needs = importance_named(importance)
        if not needs.gradients:
            return None
        return collect_gradients(program, context, squares=needs.squares, stop=stop)

    @property
    def notes(self) -> tuple[str, ...]:
        """Remarks so far, such as groups that were scored in another way."""
        return tuple(dict.fromkeys(self._evidence.notes))

    def scorable(self, group: Group) -> bool:
        """Return whether a group takes anything that is scored; one that lies on buffers alone does not."""
        return bool(self._evidence.members(group))

    def score(self, group: Group) -> Tensor:
        """Return the importance of each unit, float64 on the CPU, shape ``(group.size,)``; higher is kept longer.

        Raises:
            PreconditionError: The group is not scorable, or a weight or gradient of it is not finite.
        """
        if not self.scorable(group):
            raise PreconditionError(
                f"group {group.id} lies on no floating-point parameter, so nothing ranks its units; leave it whole"
            )
        return self._importance.function(group, self._evidence)


def importance_named(name: str) -> Importance:
    """Return an entry of `IMPORTANCES`.

    Raises:
        SpecError: There is none of that name.
    """
    if name not in IMPORTANCES:
        raise SpecError(f"found importance {name!r}; wanted one of {', '.join(IMPORTANCES)}", option="importance")
    return IMPORTANCES[name]
