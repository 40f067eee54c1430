"""The pass manager: what a pass is, the text form of pipelines, how they run and what watches them."""

from graphopt.pass_manager.base import Pass, PassContext, PassReport, PassResult
from graphopt.pass_manager.instruments import (
    FuelInstrument,
    Instrument,
    PrintingInstrument,
    TimingInstrument,
    VerifyInstrument,
)
from graphopt.pass_manager.pipeline import Pipeline
from graphopt.pass_manager.result import Report, Result
from graphopt.pass_manager.table import PASS_TABLE, PassTable

__all__ = [
    "PASS_TABLE",
    "FuelInstrument",
    "Instrument",
    "Pass",
    "PassContext",
    "PassReport",
    "PassResult",
    "PassTable",
    "Pipeline",
    "PrintingInstrument",
    "Report",
    "Result",
    "TimingInstrument",
    "VerifyInstrument",
]
