"""The exact answer: the Gram matrix of all genes, where it fits."""

import dataclasses
from dataclasses import dataclass
from functools import cache
from typing import Any, final

import numpy as np
import scipy.linalg as sl
from scipy.linalg import blas

from cellgap.storage import storable
from cellgap.stream.axes._engine import AbstractEngine, Found, Solver
from cellgap.stream.axes._low_rank import signed
from cellgap.stream.axes._moments import Moments
from cellgap.stream.axes._rows import Csr, between, centered

_CHUNK_BYTES = 2**25
_dsyrk: Any = getattr(blas, "dsyrk")  # noqa: B009, made at import, unknown to type hints


@final
@storable
@dataclass(frozen=True, eq=False)
class Gram(AbstractEngine):
    """The sum of ``(a - o)(a - o)'`` over all rows, o being the origin of the moments, in float64.

    Parameters
    ----------
    moments
        Of all rows.
    centered_, scale
        Whether the mean is subtracted, and whether genes are divided by their standard deviation.
    gram
        The sum, (genes, genes): an array whose upper triangle counts, or on an accelerator the whole of it.
    """

    moments: Moments
    centered_: bool
    scale: bool
    gram: Any

    @classmethod
    def start(cls, moments: Moments, *, center: bool, scale: bool, device: str = "auto") -> "Gram":
        """Return the summary of no rows; "auto" takes the accelerator where JAX has one."""
        width = len(moments.origin)
        return cls(moments, center, scale, _placed(np.zeros((width, width), order="F"), device))

    def kept(self) -> "Gram":
        """Return the same with its matrix as an array of its own in the memory of the host, to be stored."""
        return dataclasses.replace(self, gram=np.array(self.gram, order="F"))

    def placed(self, device: str) -> "Gram":
        """Return the same with its matrix where it is computed."""
        return dataclasses.replace(self, gram=_placed(np.array(self.gram, order="F"), device))

    @property
    def solver(self) -> Solver:  # type: ignore[override]
        """Name of the engine."""
        return "gram"

    @property
    def center(self) -> bool:  # type: ignore[override]
        """Whether the mean is subtracted."""
        return self.centered_

    @property
    def factor(self) -> np.ndarray | None:  # type: ignore[override]
        """One over the scale of each gene."""
        return 1.0 / self.moments.sd if self.scale else None

    @property
    def next_end(self) -> None:
        """Batches may end anywhere."""
        return None

    def absorb(self, rows: Csr) -> "Gram":
        """Return the summary with these rows; the matrix is updated in place, the old summary is no longer valid."""
        gram, origin = self.gram, self.moments.origin
        step = max(1, _CHUNK_BYTES // (8 * rows.shape[1]))
        for start in range(0, rows.shape[0], step):
            block = centered(between(rows, start, start + step), origin)
            # One triangle: half the work of the full product.
            gram = (
                _dsyrk(1.0, block.T, beta=1.0, c=gram, overwrite_c=1)
                if isinstance(gram, np.ndarray)
                else _plus(gram, block)
            )
        return dataclasses.replace(self, gram=gram, moments=self.moments + self.moments.of(rows))

    def __add__(self, other: "Gram") -> "Gram":
        return dataclasses.replace(self, gram=self.gram + other.gram, moments=self.moments + other.moments)

    def axes(self, k: int) -> Found:
        """Return the first `k` axes: exact up to rounding."""
        values, vectors = _top(self, k + 1)
        further = float(values[k]) if len(values) > k else float("nan")
        return Found(signed(vectors[:, :k].T), values[:k], further, 1.0)


def _top(engine: Gram, most: int) -> tuple[np.ndarray, np.ndarray]:
    """Return the largest eigenvalues and their vectors as columns, where the matrix is."""
    if isinstance(engine.gram, np.ndarray):
        return _top_of(np, engine, most)
    import jax
    import jax.numpy as jnp

    with jax.enable_x64(True):
        values, vectors = _top_of(jnp, engine, most)
        return np.asarray(values), np.asarray(vectors)


def _top_of(xp: Any, engine: Gram, most: int) -> tuple[Any, Any]:
    m, matrix = engine.moments, engine.gram
    origin, total = xp.asarray(m.origin), xp.asarray(m.total)
    # About the origin: S = G - n (mean - o)(mean - o)'; about 0 the cross terms are added back.
    if engine.centered_:
        off = total / max(1, m.n)
        matrix = matrix - m.n * xp.outer(off, off)
    else:
        cross = xp.outer(total, origin)
        matrix = matrix + (cross + cross.T + m.n * xp.outer(origin, origin))
    if engine.scale:
        factor = xp.asarray(1.0 / m.sd)
        matrix = matrix * xp.outer(factor, factor)
    d = len(m.origin)
    first = max(0, d - most)
    if xp is np:
        # The upper triangle is all there is.
        values, vectors = sl.eigh(matrix, lower=False, subset_by_index=(first, d - 1), overwrite_a=True)
    else:
        values, vectors = xp.linalg.eigh(matrix)
        values, vectors = values[first:], vectors[:, first:]
    return xp.maximum(values[::-1], 0.0), vectors[:, ::-1]


def _placed(gram: np.ndarray, device: str) -> Any:
    """Return a matrix on the accelerator, in float64, or as it is where there is none or the host is asked for."""
    import jax

    if device == "cpu" or jax.default_backend() == "cpu":
        return gram
    with jax.enable_x64(True):
        return jax.device_put(gram)


def _plus(gram: Any, block: np.ndarray) -> Any:
    import jax

    with jax.enable_x64(True):
        return _product()(gram, jax.device_put(block))


@cache
def _product() -> Any:
    import jax
    import jax.numpy as jnp

    def product(gram: Any, block: Any) -> Any:
        return gram + jnp.matmul(block.T, block, precision="highest")

    return jax.jit(product, donate_argnums=0)
