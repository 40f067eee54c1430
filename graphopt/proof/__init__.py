"""The laws, as code."""

from graphopt.proof.check import Check
from graphopt.proof.laws import VerificationReport, verify

__all__ = ["Check", "VerificationReport", "verify"]
