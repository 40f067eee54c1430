"""Scores: how much each unit of a coupling group matters, from weights and from gradients on calibration data."""

from graphopt.scores.calibration import Batch, call_batch
from graphopt.scores.evidence import Evidence
from graphopt.scores.gradients import Gradients, StopRule, below_share_of_highest, collect_gradients
from graphopt.scores.importance import IMPORTANCES, Importance
from graphopt.scores.label_free import disturbed_self_loss
from graphopt.scores.scorer import Scorer

__all__ = [
    "IMPORTANCES",
    "Batch",
    "Evidence",
    "Gradients",
    "Importance",
    "Scorer",
    "StopRule",
    "below_share_of_highest",
    "call_batch",
    "collect_gradients",
    "disturbed_self_loss",
]
