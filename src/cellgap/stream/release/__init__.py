"""Statistics released again and again while cells come in, so that no donor can be told from the releases.

Continual release in the model of Jain, Raskhodnikova, Sivakumar & Smith, The Price of Differential Privacy under
Continual Observation (ICML 2023, arXiv 2112.00828).
"""

from cellgap.stream.release._anchor import AbstractAnchor, Mark
from cellgap.stream.release._bounds import DonorBounds
from cellgap.stream.release._budget import PrivacyBudget
from cellgap.stream.release._donors import donor_counts, donor_histograms, donor_means
from cellgap.stream.release._privacy_audit import Audit, audit
from cellgap.stream.release._private_report import private_report
from cellgap.stream.release._randomness import SeededRandomness, SystemRandomness
from cellgap.stream.release._release import Release
from cellgap.stream.release._statistic import RunningStatistic
from cellgap.stream.release._verify import Verified, verify

__all__ = [
    "AbstractAnchor",
    "Audit",
    "DonorBounds",
    "Mark",
    "PrivacyBudget",
    "Release",
    "RunningStatistic",
    "SeededRandomness",
    "SystemRandomness",
    "Verified",
    "audit",
    "donor_counts",
    "donor_histograms",
    "donor_means",
    "private_report",
    "verify",
]
