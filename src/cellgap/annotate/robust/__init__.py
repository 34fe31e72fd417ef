"""Attacks on classifiers, trainings that withstand them, and the losses whose bounds hold under attack."""

from cellgap.annotate.robust._apgd import apgd
from cellgap.annotate.robust._ascent import Attacked
from cellgap.annotate.robust._ball import Ball
from cellgap.annotate.robust._count_attack import CountAttack, CountsAttacked, log_cp10k
from cellgap.annotate.robust._criteria import margin
from cellgap.annotate.robust._interface import AbstractRobust
from cellgap.annotate.robust._panel import MaskingCheck, Panel, other_class_distance, panel
from cellgap.annotate.robust._pgd import pgd, targeted_pgd
from cellgap.annotate.robust._smooth_loss import (
    adversarial_rho_margin,
    adversarial_zero_one,
    certified_nu,
    rho_margin,
    smooth_adversarial,
    smooth_adversarial_loss,
)
from cellgap.annotate.robust._square import square
from cellgap.annotate.robust._train_robust import (
    RobustObjective,
    refuse_constant,
    refuse_running_averages,
    train_robust,
)
from cellgap.annotate.robust._training import TRADES, PGDTraining, SmoothAdversarial

__all__ = [
    "TRADES",
    "AbstractRobust",
    "Attacked",
    "Ball",
    "CountAttack",
    "CountsAttacked",
    "MaskingCheck",
    "PGDTraining",
    "Panel",
    "RobustObjective",
    "SmoothAdversarial",
    "adversarial_rho_margin",
    "adversarial_zero_one",
    "apgd",
    "certified_nu",
    "log_cp10k",
    "margin",
    "other_class_distance",
    "panel",
    "pgd",
    "refuse_constant",
    "refuse_running_averages",
    "rho_margin",
    "smooth_adversarial",
    "smooth_adversarial_loss",
    "square",
    "targeted_pgd",
    "train_robust",
]
