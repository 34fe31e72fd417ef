"""What a pair sampler can and cannot identify, looked at before anything is trained."""

from collections.abc import Sequence

import jax.random as jr
import numpy as np
from jaxtyping import PRNGKeyArray

from cellgap.embed._coverage import coverage_curve
from cellgap.embed._pair_graph import pair_graph
from cellgap.embed._pair_sample import PairSample, sample_pairs
from cellgap.embed._prepare import Prepared, prepare
from cellgap.embed._reach import explained, factors_of, reach_of
from cellgap.embed._sampling import Direction, Factor, SamplingDiagnosis
from cellgap.embed._spectrum import Spectrum, moved_variance
from cellgap.embed.pairs import AbstractPairs
from cellgap.embed.sphere import concentration
from cellgap.errors import ConfigError, DataError
from cellgap.space import Genes
from cellgap.study import Role, Split, Study, split

_TOP = 5


def diagnose(
    study: Study | Split,
    pairs: AbstractPairs,
    *,
    key: PRNGKeyArray,
    genes: Genes | None = None,
    keep: Sequence[str] = (),
    nuisance: Sequence[str] = (),
    factors: Sequence[str] = (),
    reference_dim: int = 30,
    n_pairs: int = 20_000,
    tau: float = 0.1,
) -> SamplingDiagnosis:
    """Return which directions and factors a sampler of pairs moves, and which it freezes.

    Parameters
    ----------
    study
        A study, or a split, whose training cells are looked at.
    pairs
        The sampler.
    key
        Random key of the sampled pairs.
    genes
        Which genes, and their transform; None: all, "lognorm" for counts and as they are otherwise.
    keep, nuisance
        Factors (columns of ``obs``, "treatment", "depth") that the embedding should hold, or lose.
    factors
        Further columns to look at; those of the design always are.
    reference_dim
        Principal components of the reference space.
    n_pairs
        Pairs to sample.
    tau
        Temperature of the loss that the pairs are meant for.

    Raises
    ------
    DataError, ConfigError
        A column is missing, or the measurements do not suit the pairs.
    SplitError
        The split leaks or has no training cells.
    """
    divided = split.everything(study) if isinstance(study, Study) else study
    divided.check_leaks()
    check_factors(divided.study, keep, nuisance, factors)
    prepared = prepare(divided, pairs, genes or default_genes(divided.study), reference_dim, divided.cells(Role.TRAIN))
    return diagnosed(
        prepared, pairs, divided.study, keep=keep, nuisance=nuisance, factors=factors, n_pairs=n_pairs, tau=tau,
        key=key,
    )  # fmt: skip


def diagnosed(
    prepared: Prepared,
    sampler: AbstractPairs,
    study: Study,
    *,
    keep: Sequence[str],
    nuisance: Sequence[str],
    factors: Sequence[str],
    n_pairs: int,
    tau: float,
    key: PRNGKeyArray,
) -> SamplingDiagnosis:
    """Return the diagnosis of prepared pairs; see `diagnose`."""
    pairs, cells, reference = prepared.pairs, prepared.cells, prepared.reference
    anchors = prepared.anchors
    key_rows, key_pairs, key_graph, key_coverage = jr.split(key, 4)
    rng = np.random.default_rng(np.asarray(jr.key_data(key_rows)).ravel().astype(np.uint64))
    if n_pairs <= len(anchors):
        rows = rng.choice(anchors, n_pairs, replace=False)
    else:
        rows = np.resize(rng.permutation(anchors), n_pairs)
    sample = sample_pairs(pairs, cells, reference, rows, key_pairs)
    spectrum = moved_variance(sample.x, sample.y)
    names = tuple(
        dict.fromkeys((*study.context_names, *_columns(study, (*sampler.columns, *factors, *keep, *nuisance))))
    )
    known = factors_of(prepared.table.obs, names, prepared.table.treatment)
    reach = reach_of(sample, known, counts=study.is_counts)
    role = {name: "keep" for name in keep} | {name: "nuisance" for name in nuisance}
    white = np.asarray(reference.spread, float)
    alignment = float(np.mean(np.sum(_unit(sample.x / white) * _unit(sample.y / white), axis=1)))
    count, second = pair_graph(pairs, anchors, key_graph)
    coverage = coverage_curve(pairs, cells, reference, anchors, key_coverage)
    return SamplingDiagnosis(
        pairs=str(sampler),
        reference=reference.name,
        n_cells=prepared.n_train,
        n_able=len(anchors),
        n_pairs=len(sample),
        rho=spectrum.rho,
        directions=_directions(spectrum, np.asarray(reference.axes, float), prepared.genes.genes, sample, known),
        factors=tuple(Factor(name, value, role.get(name, "")) for name, value in reach.items()),
        coverage=tuple(coverage.items()),
        components=count,
        lambda_2=second,
        alignment=alignment,
        kappa=float(concentration(max(len(white), 2), float(np.clip(alignment, 0.0, 1 - 1e-9)))),
        tau=tau,
        surplus=float(pairs.surplus()[anchors].mean()),
    )


def default_genes(study: Study) -> Genes:
    """Return all genes: log-normalized counts, other measurements scaled as they are."""
    return Genes() if study.is_counts else Genes(transform="none", scale=True)


def check_factors(study: Study, keep: Sequence[str], nuisance: Sequence[str], factors: Sequence[str]) -> None:
    """Refuse names that are no factor, before any long work.

    Raises
    ------
    DataError
        A column is missing.
    ConfigError
        A factor is to be kept and lost.
    """
    both = sorted(set(keep) & set(nuisance))
    if both:
        raise ConfigError(f"{both[0]!r} is listed both to keep and as nuisance.")
    for name in (*keep, *nuisance):
        if name == "treatment" and study.design.treatment == ():
            raise DataError("The design names no treatment, so that it can neither be kept nor lost.")
        if name == "depth" and not study.is_counts:
            raise DataError("Cells that are no counts have no depth to keep or to lose.")
    missing = [name for name in _columns(study, (*keep, *nuisance, *factors)) if name not in study.obs.columns]
    if missing:
        raise DataError(f"obs has no column {missing[0]!r}: it has {', '.join(map(str, study.obs.columns))}.")


def _columns(study: Study, names: Sequence[str]) -> tuple[str, ...]:
    """Return the names that are columns: not the factors that every study has."""
    return tuple(name for name in names if name not in ("treatment", "depth") or name in study.obs.columns)


def _directions(
    spectrum: Spectrum, axes: np.ndarray, genes: Sequence[str], sample: PairSample, known: dict[str, np.ndarray]
) -> tuple[Direction, ...]:
    """Return directions in words: their genes, and what explains them."""
    found = []
    for j, rho in enumerate(spectrum.rho):
        pattern = axes @ spectrum.patterns[:, j]
        top = np.argsort(-np.abs(pattern))[:_TOP]
        coordinate = sample.x @ spectrum.directions[:, j]
        shares = sorted(
            ((name, explained(coordinate, v[sample.rows])) for name, v in known.items()), key=lambda s: -s[1]
        )
        found.append(Direction(float(rho), tuple(str(genes[i]) for i in top), tuple(shares)))
    return tuple(found)


def _unit(x: np.ndarray) -> np.ndarray:
    return x / np.maximum(np.linalg.norm(x, axis=1, keepdims=True), 1e-12)
