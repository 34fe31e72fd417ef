"""One pass over more cells than fit in memory (`axes`), or than may be disclosed (`release`).

Axes, means and heavy rows of the first are not private, and the second refuses them.
"""

from cellgap.stream.axes import Atlas, OnePassPCA, StreamingPCA, StreamWarning

__all__ = ["Atlas", "OnePassPCA", "StreamWarning", "StreamingPCA"]
