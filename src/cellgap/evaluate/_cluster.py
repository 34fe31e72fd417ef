"""Conditions scored by the workers of a Dask cluster: a worker that dies loses nothing."""

import logging
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from threadpoolctl import threadpool_limits

from cellgap.errors import ConfigError, MissingExtraError
from cellgap.evaluate._plan import Plan
from cellgap.evaluate._run import Run, Scored

if TYPE_CHECKING:
    from distributed import Client


@contextmanager
def local_workers(n: int) -> Iterator["Client"]:
    """Yield a Dask client of `n` worker processes on this machine, which end with the block.

    Raises
    ------
    ConfigError
        `n` is below 1.
    MissingExtraError
        Dask is not installed.
    """
    if n < 1:
        raise ConfigError(f"workers must be at least 1, found {n}.")
    try:
        from distributed import Client, LocalCluster
    except ImportError as error:
        raise _missing() from error
    # No page to watch it, and no notice of workers that were slow to start or stop.
    options: dict[str, Any] = {"dashboard_address": None, "silence_logs": logging.ERROR}
    with (
        LocalCluster(n_workers=n, threads_per_worker=1, processes=True, **options) as cluster,
        Client(cluster) as client,
    ):
        yield client


def scored_by_workers(client: "Client", run: Run, plans: Sequence[Plan]) -> Iterator[Scored]:
    """Yield what the workers found on every condition, in the order of the plans.

    The run travels once to every worker that scores. It is part of the task graph rather than scattered: where all
    copies were on workers that died, it is sent again, and what was lost with them is computed again.

    Raises
    ------
    ConfigError
        `client` is not a Dask client.
    MissingExtraError
        Dask is not installed.
    """
    try:
        from dask import config
        from distributed import Client
    except ImportError as error:
        raise _missing() from error
    if not isinstance(client, Client):
        raise ConfigError(f"client must be a distributed.Client, found {type(client).__name__}.")
    # A run is sent on purpose, however large it is.
    with config.set({"distributed.admin.large-graph-warning-threshold": "1 TB"}):
        there = client.submit(_arrived, run, pure=False)
        futures = [client.submit(_score, there, plan, pure=False) for plan in plans]
    try:
        for future in futures:
            yield future.result()
    finally:
        client.cancel([there, *futures])


def _arrived(run: Run) -> Run:
    return run


def _score(run: Run, plan: Plan) -> Scored:
    """Score one condition in a worker, one predictor after the other: workers are what is parallel."""
    with threadpool_limits(1, user_api="blas"), ThreadPoolExecutor(1) as pool:
        return run.score(plan, pool)


def _missing() -> MissingExtraError:
    return MissingExtraError('spreading an evaluation over workers needs Dask: pip install "cellgap[scale]".')
