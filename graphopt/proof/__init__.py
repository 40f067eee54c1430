"""The laws, as code."""

from graphopt.proof.laws import Check, VerificationReport, verify

__all__ = ["Check", "VerificationReport", "verify"]
