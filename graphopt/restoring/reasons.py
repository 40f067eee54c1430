"""Why a class cannot say what a program does."""

from __future__ import annotations

from collections.abc import Sequence

from graphopt.capture_failure import summary
from graphopt.errors import VerificationError
from graphopt.restoring.constants import Moved
from graphopt.restoring.recording import Call
from graphopt.restoring.solving import Demand
from graphopt.restoring.tracked import places_in, sizes_in

ALIKE = (
    "prune-channels{uniform_per_layer=true} keeps sizes equal that are equal, so that code may take one for the other"
)
INSTEAD = "result.module() without a model returns the graph form, which runs"


def reason(
    class_name: str,
    failure: Exception,
    unmet: Sequence[Demand],
    left: Sequence[Moved],
    culprit: Call | None = None,
) -> str:
    """Tell module, source line and what could not be said there.

    Args:
        class_name: class of the user's model.
        failure: what the smaller model raised, or how far it is from the program.
        unmet: numbers that are not what they have to be.
        left: constants that nothing undoes.
        culprit: the call that first gives something else than the program has there.
    """
    causes = [_unmet(one) for one in unmet if one.call is not None][:2] + [_moved(one) for one in left][:2]
    if culprit is not None:
        causes.append(f"{_where(culprit)}: {culprit.name} gives something else than in the program")
    is_far = isinstance(failure, VerificationError)
    moved = str(failure).partition(";")[0].removeprefix("unchanged: ")
    found = f"it computes something else ({moved})" if is_far else f"it raises {summary(failure)}"
    taken = any(not any(places_in(one.expression)) and any(sizes_in(one.expression)) for one in unmet)
    advice = [ALIKE, INSTEAD] if taken else [INSTEAD]
    return f"{class_name} cannot say what the program does: {'; '.join([*causes, found, *advice])}"


def _unmet(demand: Demand) -> str:
    place = _where(demand.call)
    if any(places_in(demand.expression)):
        return f"{place}: {demand.expression} is {demand.before} and would have to be {demand.after}"
    if any(sizes_in(demand.expression)):
        return f"{place}: the code passes {demand.expression} of another tensor, wanted {demand.after}"
    return f"{place}: the code passes {demand.before}, a number that no attribute holds, wanted {demand.after}"


def _moved(moved: Moved) -> str:
    return (
        f"{_where(moved.match.call)}: the code derives {moved.after:.6g} from a size, wanted {moved.before:.6g}, and "
        "no parameter before it can make up for that"
    )


def _where(call: object) -> str:
    module, line, spot = (getattr(call, name, "") for name in ("module", "line", "spot"))
    place = spot if line in ("", spot) else f"{line}, through {spot}"
    return f"{module or 'the model itself'} ({place})"
