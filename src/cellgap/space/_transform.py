"""From measured values to gene space: normalization and a function of each value, sparse where the values are."""

from typing import Any, Literal

import numpy as np
import scipy.sparse as sp

from cellgap.errors import DataError

Transform = Literal["lognorm", "log1p", "arcsinh", "none"]


def transform(
    values: Any, kind: Transform, *, columns: np.ndarray | None = None, target_sum: float = 1e4, cofactor: float = 5.0
) -> Any:
    """Return values after the transform: CSR where they are CSR, else an array; float32.

    ``lognorm``: ``log(1 + target_sum * counts / total)``, the total over all genes of `values`; ``log1p``:
    ``log(1 + x)``; ``arcsinh``: ``arcsinh(x / cofactor)``; ``none``: ``x``. All leave 0 at 0.

    Parameters
    ----------
    values
        (cells, genes), as measured.
    kind
        Which transform.
    columns
        Genes to return, after the total is taken; None returns all.
    target_sum
        Sum of each cell after normalization.
    cofactor
        Scale of ``arcsinh``.

    Raises
    ------
    DataError
        Values are not finite, are no counts (``lognorm``), are negative (``log1p``), or a cell has no counts.
    """
    sparse = sp.issparse(values)
    out: Any = values.astype(np.float32) if sparse else np.array(values, np.float32)
    data: np.ndarray = out.data if sparse else out
    refuse_not_finite(data)
    if kind == "lognorm":
        refuse_no_counts(data)
        # Totals in float64: float32 loses whole counts above 2**24.
        total = np.asarray(values.sum(axis=1, dtype=np.float64)).ravel()
        if (total <= 0).any():
            raise DataError(
                f"{int((total <= 0).sum())} of {len(total)} cells have no counts, so that they cannot be normalized: "
                "remove them first."
            )
        factor = (target_sum / total).astype(np.float32)
        if sparse:
            out.data *= np.repeat(factor, np.diff(out.indptr))
        else:
            out *= factor[:, None]
    elif kind == "log1p" and data.size and data.min() < 0:
        raise DataError(
            f'transform="log1p" needs values of at least 0, found {data.min():g}: use "arcsinh", or "none".'
        )
    if columns is not None:
        out = out[:, columns]
    return _apply(out, kind, cofactor)


def refuse_not_finite(data: np.ndarray) -> None:
    """Raise ``DataError`` where a value is NaN or infinite."""
    if not np.isfinite(data).all():
        raise DataError("The values hold NaN or infinite numbers: remove these cells or genes first.")


_OTHERWISE = 'point Design(counts=...) at the counts, or use transform="log1p", "arcsinh" or "none".'


def refuse_no_counts(
    data: np.ndarray, what: str = 'transform="lognorm" needs raw counts', advice: str = _OTHERWISE
) -> None:
    """Raise ``DataError`` where a value is negative or not whole; the sentence is ``what, found ...: advice``."""
    if data.size and ((data < 0).any() or (data != np.floor(data)).any()):
        bad = data[(data < 0) | (data != np.floor(data))].flat[0]
        raise DataError(f"{what}, found the value {bad:g}: {advice}")


def _apply(out: Any, kind: Transform, cofactor: float) -> Any:
    data: np.ndarray = out.data if sp.issparse(out) else out
    if kind in ("lognorm", "log1p"):
        np.log1p(data, out=data)
    elif kind == "arcsinh":
        np.arcsinh(data / np.float32(cofactor), out=data)
    return out
