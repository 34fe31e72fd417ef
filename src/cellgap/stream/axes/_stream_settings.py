"""Settings of one-pass principal components."""

import re
from typing import Annotated, Literal

from pydantic import Field, model_validator

from cellgap.errors import ConfigError
from cellgap.settings import settings
from cellgap.stream.axes._blocks import ALIGN, BlockSettings
from cellgap.stream.axes._engine import Solver

_UNITS = {"": 1, "B": 1, "KB": 10**3, "MB": 10**6, "GB": 10**9, "KIB": 2**10, "MIB": 2**20, "GIB": 2**30}
AFFORDABLE = 2e13
"""Rows times genes squared up to which the Gram matrix is computed: some minutes of a processor."""
UNKNOWN = 4096
"""Genes up to which it is computed where the number of rows is not known."""

Count = Annotated[int, Field(ge=1)]


@settings
class StreamSettings:
    """What `StreamingPCA` is told; see there."""

    k: Count = 50
    solver: Literal["auto", "gram", "blocks", "fd", "incremental"] = "auto"
    oversample: Annotated[int, Field(ge=0)] | None = None
    heavy_rows: Annotated[int, Field(ge=0)] = 256
    heavy_share: Annotated[float, Field(gt=0, le=1)] = 0.1
    first_block: Count | None = None
    growth: Annotated[float, Field(gt=1, le=16)] = 2.0
    rank: Count | None = None
    center: bool = True
    scale: bool = False
    order: Literal["check", "as_given"] = "check"
    on_order: Literal["warn", "raise", "ignore"] = "warn"
    memory: str = "1GiB"
    device: Literal["auto", "cpu"] = "auto"
    seed: Annotated[int, Field(ge=0)] = 0

    @model_validator(mode="after")
    def _fits(self) -> "StreamSettings":
        if self.first_rows < 2 * self.columns:
            raise ConfigError(
                f"first_block={self.first_block} is too short for k={self.k} axes: it needs {2 * self.columns} rows."
            )
        if self.rank is not None and self.rank < self.k:
            raise ConfigError(f"rank={self.rank} must be at least k={self.k}.")
        if self.solver in ("fd", "incremental") and self.scale:
            raise ConfigError(f'solver="{self.solver}" cannot divide genes by their spread: use "gram" or "blocks".')
        if self.solver == "incremental" and not self.center:
            raise ConfigError('solver="incremental" always subtracts the mean: use "gram" or "blocks".')
        if self.memory_bytes < 1:
            raise ConfigError(f"memory must be more than nothing, found {self.memory!r}.")
        return self

    @property
    def columns(self) -> int:
        """Directions along which a block is summed up (r)."""
        return self.k + (max(10, self.k) if self.oversample is None else self.oversample)

    @property
    def first_rows(self) -> int:
        """Rows of the first block."""
        if self.first_block is not None:
            return self.first_block
        return max(512, ALIGN * -(-2 * self.columns // ALIGN))

    @property
    def memory_bytes(self) -> int:
        """Memory that the Gram matrix may take."""
        match = re.fullmatch(r"\s*([0-9.]+)\s*([A-Za-z]*)\s*", self.memory)
        if match is None or match[2].upper() not in _UNITS:
            raise ConfigError(f'memory is a size such as "1GiB" or "500 MB", found {self.memory!r}.')
        return int(float(match[1]) * _UNITS[match[2].upper()])

    def blocks(self) -> BlockSettings:
        """Return the numbers of the block scheme."""
        rank = 2 * self.columns if self.rank is None else self.rank
        return BlockSettings(
            self.k, self.columns, rank, self.heavy_rows, self.heavy_share, self.first_rows, self.growth,
            self.center, self.scale,
        )  # fmt: skip

    def choose(self, genes: int, rows: int | None) -> Solver:
        """Return the engine: from shapes and the stated order, never from values."""
        if self.solver != "auto":
            return self.solver
        fits = 8 * genes**2 <= self.memory_bytes
        if self.order == "as_given":
            if not fits and self.scale:
                raise ConfigError(
                    f"scale=True for {genes} genes in any order needs their Gram matrix, which is more than "
                    f"memory={self.memory!r}: give more, or read in random order."
                )
            return "gram" if fits else "fd"
        affordable = genes <= UNKNOWN if rows is None else float(rows) * genes**2 <= AFFORDABLE
        return "gram" if fits and affordable else "blocks"
