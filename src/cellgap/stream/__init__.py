"""One pass over more cells than fit in memory (`axes`), or than may be disclosed (`release`).

Axes, means and heavy rows of the first are not private, and the second refuses them. Each is imported when it is used.
"""

import importlib
from typing import TYPE_CHECKING, Any

_WHERE = {
    **dict.fromkeys(("Atlas", "OnePassPCA", "StreamWarning", "StreamingPCA"), "axes"),
    **dict.fromkeys(
        (
            "DonorBounds",
            "PrivacyBudget",
            "Release",
            "RunningStatistic",
            "audit",
            "donor_counts",
            "donor_histograms",
            "donor_means",
            "private_report",
            "verify",
        ),
        "release",
    ),
}

__all__ = [
    "Atlas",
    "DonorBounds",
    "OnePassPCA",
    "PrivacyBudget",
    "Release",
    "RunningStatistic",
    "StreamWarning",
    "StreamingPCA",
    "audit",
    "axes",
    "donor_counts",
    "donor_histograms",
    "donor_means",
    "private_report",
    "release",
    "verify",
]


def __getattr__(name: str) -> Any:
    if name in ("axes", "release"):
        return importlib.import_module(f"cellgap.stream.{name}")
    if name not in _WHERE:
        raise AttributeError(f"module 'cellgap.stream' has no attribute {name!r}")
    value = getattr(importlib.import_module(f"cellgap.stream.{_WHERE[name]}"), name)
    globals()[name] = value
    return value


if TYPE_CHECKING:
    from cellgap.stream import axes, release
    from cellgap.stream.axes import Atlas, OnePassPCA, StreamingPCA, StreamWarning
    from cellgap.stream.release import (
        DonorBounds,
        PrivacyBudget,
        Release,
        RunningStatistic,
        audit,
        donor_counts,
        donor_histograms,
        donor_means,
        private_report,
        verify,
    )
