"""Predictors that are not cellgap models, and small sets of metrics."""

from dataclasses import dataclass
from typing import Any

from cellgap.errors import ConditionError

MEANS = ("r2_mean", "r2_delta", "drug_signature", "sign_accuracy", "top_overlap", "discrimination")
CHEAP = (*MEANS, "energy", "mmd_u", "variance_ratio", "capture_energy")


@dataclass
class Dummy:
    """A predictor from a function of codes and condition; no answer for the conditions in `silent`."""

    name: str
    space: Any
    move: Any
    silent: tuple[str, ...] = ()

    def transport(self, z, condition):
        if str(condition) in self.silent:
            raise ConditionError("it never learnt this one")
        return self.move(z, condition)
