"""The diagnosis of the pairs in a run file: made, as sentences and tables, and as plain values."""

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from cellgap.cli._run_file import RunFile
from cellgap.cli._say import note

if TYPE_CHECKING:
    from cellgap.embed import SamplingDiagnosis
    from cellgap.study import Split

_LEAST = 5


def diagnosed(run: RunFile, *, quiet: bool) -> "tuple[SamplingDiagnosis, Split]":
    """Return the diagnosis of a run file's pairs, and the split on whose training cells it was made.

    Raises
    ------
    CellgapError
        Anything the user got wrong.
    """
    import jax.random as jr

    from cellgap.embed import diagnose
    from cellgap.settings import from_dict
    from cellgap.study import Design, Study, split

    estimator: Any = from_dict(run.model)
    study = Study.read(run.data, Design.from_dict(run.design), backed=run.backed)
    made = split.by_name(run.split["kind"], study, **{k: v for k, v in run.split.items() if k != "kind"})
    if not quiet:
        note(f"{study!r}")
        note(f"{estimator.n_pairs:,} pairs by {estimator.pairs}")
    found = diagnose(
        made, estimator.pairs, key=jr.split(jr.key(run.seed), 4)[0], genes=estimator.genes, keep=estimator.keep,
        nuisance=estimator.nuisance, factors=estimator.factors, reference_dim=estimator.reference_dim,
        n_pairs=estimator.n_pairs, tau=estimator.tau,
    )  # fmt: skip
    return found, made


def told(found: "SamplingDiagnosis") -> Iterator[str]:
    """Yield what is printed: sentences, the reach of every factor, the spectrum, coverage and graph."""
    yield f"{found.pairs}: {found.n_pairs:,} pairs of {found.n_able:,} cells, in {found.reference}"
    yield ""
    yield from map(str, sorted(found.sentences(), key=lambda s: ("warn", "note", "ok").index(s.level)))
    yield ""
    yield "reach of factors (0 never changed, 1 as often as in random pairs)"
    yield found.frame().round(3).to_string(index=False) if found.factors else "no factor is known"
    yield ""
    frozen = found.n_frozen
    yield f"moved variance of {len(found.rho)} directions (0 frozen, 1 independent), {frozen} frozen"
    yield "       rho  explained by; genes"
    n = len(found.rho)
    shown = list(range(n)) if n <= _LEAST + 2 else [*range(_LEAST), n - 1]
    for place in shown:
        if place == n - 1 and n > _LEAST + 2:
            yield " ..."
        about = f"  {found.directions[place]}" if place < len(found.directions) else ""
        yield f"{place + 1:4d} {found.rho[place]:.3f}{about}"
    yield ""
    near = ", ".join(f"{count:,} partners {share:.2f}" for count, share in found.coverage)
    yield f"coverage: {near}"
    islands = "1 island" if found.components == 1 else f"{found.components:,} islands"
    yield f"pair graph: {islands}, lambda_2 {found.lambda_2:.4f}; kappa tau {found.kappa * found.tau:.3g}"


def as_dict(found: "SamplingDiagnosis") -> dict[str, Any]:
    """Return the diagnosis as plain values that JSON holds."""
    return {
        "pairs": found.pairs,
        "reference": found.reference,
        "n_cells": found.n_cells,
        "n_able": found.n_able,
        "n_pairs": found.n_pairs,
        "warnings": list(found.warnings),
        "sentences": [{"level": s.level, "text": s.text} for s in found.sentences()],
        "factors": found.frame().to_dict("records"),
        "rho": [float(value) for value in found.rho],
        "alpha": found.alpha,
        "n_frozen": found.n_frozen,
        "directions": [
            {"rho": d.rho, "genes": list(d.genes), "factors": {name: float(share) for name, share in d.factors}}
            for d in found.directions
        ],
        "coverage": {str(count): float(share) for count, share in found.coverage},
        "components": found.components,
        "lambda_2": found.lambda_2,
        "alignment": found.alignment,
        "kappa": found.kappa,
        "tau": found.tau,
        "surplus": found.surplus,
    }
