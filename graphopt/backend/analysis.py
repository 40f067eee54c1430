"""Whether a graph of torch.compile is rewritten, and why not."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from typing import Any

from graphopt.backend.arrival import Arrival, Kind
from graphopt.backend.options import BackendOptions
from graphopt.backend.refusals import refused_arguments
from graphopt.backend.rewriting import Rewriting, rewrite
from graphopt.backend.zeros import may_hold_dead
from graphopt.errors import CaptureError
from graphopt.passes.cleanup.remove_dead import RemoveDead

LOG = logging.getLogger("graphopt.backend")


def analyse(arrival: Arrival, args: Sequence[Any], options: BackendOptions) -> Rewriting | None:
    """Return what the passes make of a graph; None where it stays as it is, which is logged with the reason.

    Args:
        arrival: The graph.
        args: One argument for each placeholder.
        options: Options of the backend.

    Raises:
        GraphoptError: An option that asks for more than exact rewrites cannot be met.
    """
    explicit = options.explicit
    reason = refused_arguments(arrival, args) or (None if explicit else _idle(arrival, args, options))
    try:
        if reason is None:
            return rewrite(arrival, args, options)
    except CaptureError as error:
        reason = str(error)
    except Exception as error:
        # A faster graph was offered, not asked for: whatever goes wrong with it, the one that arrived is right.
        if explicit:
            raise
        LOG.warning("%s runs as it is: %s: %s", arrival, type(error).__name__, error)
        LOG.debug("where that came from", exc_info=True)
        return None
    if explicit:
        raise CaptureError(
            f"option {explicit[0]} cannot be met for {arrival}: {reason}; compile with fullgraph=True, so that the "
            "model is one graph, or leave the option out"
        )
    LOG.debug("%s runs as it is: %s", arrival, reason)
    return None


def _idle(arrival: Arrival, args: Sequence[Any], options: BackendOptions) -> str | None:
    """Return why the passes would find nothing, None where they might."""
    if not all(isinstance(one, RemoveDead) for one in options.exact_passes()):
        return None
    zeros = may_hold_dead(arrival, arrival.pick(args, Kind.STATIC))
    return None if zeros else "no slice of its parameters is zero"
