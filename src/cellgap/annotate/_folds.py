"""Which cells judge: source domains left out in turn, and held-out cells of the domains that are trained on."""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Int

from cellgap.annotate._choose_tau import stratified_folds
from cellgap.errors import DataError

_LEAST_INSIDE = 20


@dataclass(frozen=True)
class Division:
    """One division of the training cells, as places among them.

    Parameters
    ----------
    name
        What is left out.
    train
        Cells that are trained on.
    inside
        Held-out cells of the same domains; may be empty.
    outside
        Cells of the domains that are left out; held-out cells where there is one domain.
    """

    name: str
    train: Int[np.ndarray, " train"]
    inside: Int[np.ndarray, " inside"]
    outside: Int[np.ndarray, " outside"]


def folds_of(
    y: Int[np.ndarray, " cells"],
    domain: Int[np.ndarray, " cells"],
    names: tuple[str, ...],
    *,
    n_folds: int,
    inside: float,
    seed: int,
) -> list[Division]:
    """Return the folds: every domain is left out once, together with others where there are more than `n_folds`.

    Parameters
    ----------
    y
        Classes.
    domain
        Domains, counted from 0.
    names
        Of the domains.
    n_folds
        Most folds; the number of folds of cells, stratified by class, where there is one domain.
    inside
        Share of the cells of the other domains that is set aside.
    seed
        Of the random choices.

    Raises
    ------
    DataError
        Classes and domains are confounded: no domain that is left out has a class that others have too.
    """
    rng = np.random.default_rng(seed)
    if len(names) == 1:
        import jax.random as jr

        part = stratified_folds(y, n_folds, jr.key(seed))
        titles = [f"fold {i + 1}" for i in range(n_folds)]
    else:
        group = _grouped(np.bincount(domain, minlength=len(names)), n_folds)
        part = group[domain]
        titles = [" + ".join(names[d] for d in np.flatnonzero(group == g)) for g in range(group.max() + 1)]
    folds = []
    for i, title in enumerate(titles):
        out, rest = np.flatnonzero(part == i), np.flatnonzero(part != i)
        held = rng.permutation(rest)[: round(inside * len(rest))] if len(names) > 1 else rest[:0]
        if len(held) < _LEAST_INSIDE:
            held = held[:0]
        folds.append(Division(title, np.setdiff1d(rest, held), np.sort(held), out))
    if not any(np.isin(y[f.outside], y[f.train]).any() for f in folds):
        raise DataError(
            f"Classes and domains are confounded: where domains are left out in turn ({', '.join(titles[:3])}"
            f"{', ...' if len(titles) > 3 else ''}), no class that they have is left in the others; name domains that "
            "share classes, or none."
        )
    return folds


def _grouped(sizes: Int[np.ndarray, " domains"], n_folds: int) -> Int[np.ndarray, " domains"]:
    """Return a group for every domain, groups of about equal size: the largest first, to the emptiest group."""
    n = min(n_folds, len(sizes))
    load, group = np.zeros(n), np.zeros(len(sizes), int)
    for d in np.argsort(-sizes, kind="stable"):
        group[d] = int(np.argmin(load))
        load[group[d]] += sizes[d]
    return group
