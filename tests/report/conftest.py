"""Report data made of simulated counts: three programs, drugs that move some genes, a model that is nearly right."""

from collections.abc import Callable

import numpy as np
import pandas as pd
import pytest

from cellgap.gap import Gap
from cellgap.report import DoseCurve, PopulationView, ReportData

DRUGS = ("trametinib", "dexamethasone", "vorinostat", "bortezomib")
GENES = ("DUSP6", "SPRY2", "FOS", "EGR1", "CDKN1A", "FKBP5", "TSC22D3", "HSPA1A", "MKI67", "TOP2A", "CCND1", "MYC")
PREDICTORS = {
    "replicate": 1.0,
    "ConditionalMonge": 0.62,
    "ridge": 0.41,
    "nearest treatment": 0.22,
    "nearest dose": 0.3,
    "additive": 0.1,
    "mean effect": 0.0,
    "matched random pairing": -0.35,
    "identity": -0.6,
}
METRICS = (("r2_delta", "genes", 0.4, 0.95), ("mmd", "genes", 0.05, 0.004), ("energy", "genes", 3.0, 0.3))
METRICS += (("sinkhorn", "latent", 5.0, 0.6), ("r2_var", "genes", 0.5, 0.97), ("capture_energy", "latent", 0.2, 0.98))


def _expression(rng: np.random.Generator, cells: int, log_mean: np.ndarray) -> np.ndarray:
    depth = rng.lognormal(0, 0.35, size=(cells, 1))
    program = rng.integers(0, 3, size=cells)
    shift = np.zeros((3, log_mean.size))
    shift[1, 8:10] = 1.2
    shift[2, 10:] = 0.7
    rate = np.exp(log_mean + shift[program]) * depth * rng.gamma(2.0, 0.5, size=(cells, log_mean.size))
    counts = rng.poisson(rate).astype(float)
    return np.log1p(1e4 * counts / (counts.sum(axis=1, keepdims=True) + 200))


def _view(rng: np.random.Generator, condition: str, n_genes: int, cells: int, quality: float) -> PopulationView:
    names = np.array([*GENES, *(f"GENE{i}" for i in range(n_genes))][:n_genes])
    base = rng.normal(0.3, 1.0, size=n_genes)
    effect = np.where(rng.random(n_genes) < 0.2, rng.normal(0, 1.4, size=n_genes), 0.0)
    return PopulationView(
        condition=condition,
        control=_expression(rng, cells, base),
        measured=_expression(rng, cells - cells // 9, base + effect),
        predicted=_expression(rng, cells, base + quality * effect + rng.normal(0, 0.12, size=n_genes)),
        genes=names,
        warnings="dose above every trained dose: this is an extrapolation" if "10000" in condition else "",
    )


def _table(rng: np.random.Generator, conditions: list[str]) -> pd.DataFrame:
    rows = []
    for i, condition in enumerate(conditions):
        hard = rng.normal(0, 0.18)
        for predictor, level in PREDICTORS.items():
            for metric, space, zero, one in METRICS:
                for seed in range(2):
                    anchored = predictor in ("replicate", "mean effect")
                    s = level + (0 if anchored else hard + rng.normal(0, 0.08))
                    unscored = i == len(conditions) - 1 and len(conditions) > 4
                    s = np.nan if unscored else s
                    rows.append((predictor, condition, space, metric, zero + s * (one - zero), s, 500, 470, seed))
    frame = pd.DataFrame(
        rows, columns=["predictor", "condition", "space", "metric", "value", "scaled", "n_pred", "n_true", "seed"]
    )
    frame["note"] = np.where(frame["value"].isna(), "not scored: 31 measured cells, at least 50 needed", "")
    return frame


def _summary(table: pd.DataFrame) -> pd.DataFrame:
    rows = []
    for (predictor, metric, space), group in table.groupby(["predictor", "metric", "space"], sort=False):
        means = group.groupby("condition")[["value", "scaled"]].mean().dropna()
        error = 1.96 * means.std(ddof=0) / np.sqrt(max(len(means), 1))
        low, high = means.mean() - error, means.mean() + error
        rows.append(
            dict(
                predictor=predictor,
                metric=metric,
                space=space,
                mean=means["value"].mean(),
                low=low["value"],
                high=high["value"],
                scaled=means["scaled"].mean(),
                scaled_low=low["scaled"],
                scaled_high=high["scaled"],
                n_conditions=len(means),
            )
        )
    return pd.DataFrame(rows)


def _comparisons(table: pd.DataFrame, model: str) -> pd.DataFrame:
    wide = table.groupby(["metric", "condition", "predictor"])["scaled"].mean().unstack().dropna()
    rows = []
    for metric, group in wide.groupby("metric"):
        for other in PREDICTORS:
            if other not in (model, "replicate"):
                d = group[model] - group[other]
                error = 1.96 * d.std(ddof=0) / np.sqrt(len(d))
                rows.append(
                    (model, other, metric, d.mean(), d.mean() - error, d.mean() + error, (d > 0).mean(), len(d))
                )
    return pd.DataFrame(rows, columns=["a", "b", "metric", "difference", "low", "high", "share", "n_conditions"])


def _curve(rng: np.random.Generator, gene: str, treatment: str) -> DoseCurve:
    doses = np.array([10.0, 100.0, 1000.0, 10000.0])
    truth = 1.2 + 1.5 / (1 + (300 / doses))
    measured = truth + rng.normal(0, 0.05, size=4)
    return DoseCurve(
        treatment=treatment,
        unit="nM",
        gene=gene,
        doses=doses,
        control_mean=1.18,
        measured=measured,
        measured_low=measured - 0.12,
        measured_high=measured + 0.12,
        predicted=truth + rng.normal(0, 0.12, size=4),
        held_out=np.array([False, False, True, False]),
        context="A549",
    )


def _history(rng: np.random.Generator, steps: int) -> pd.DataFrame:
    step = np.arange(1, steps + 1)
    fit = 3.0 * np.exp(-step / (0.15 * steps)) + 0.12 + rng.normal(0, 0.02, size=steps)
    gap = 0.4 * np.exp(-step / (0.3 * steps)) + 0.02 + rng.normal(0, 0.003, size=steps)
    valid = np.where(step % max(steps // 20, 1) == 0, fit + 0.1, np.nan)
    return pd.DataFrame(
        dict(
            step=step, loss=fit + gap, fit=fit, gap=gap, valid_loss=valid, learning_rate=1e-3 * (1 - step / (steps + 1))
        )
    )


@pytest.fixture(scope="session")
def make_data() -> Callable[..., ReportData]:
    """Return a factory of realistic report data."""

    def make(n_conditions: int = 9, n_genes: int = 60, cells: int = 260, **changes) -> ReportData:
        rng = np.random.default_rng(4)
        every = [f"{d}@{dose}nM | {line}" for line in ("A549", "MCF7", "K562") for d in DRUGS for dose in (100, 10000)]
        conditions = (every + [f"compound{i}@100nM | A549" for i in range(n_conditions)])[:n_conditions]
        table = _table(rng, conditions)
        parts = dict(
            title="Unseen treatments in three cell lines",
            subtitle="ConditionalMonge on 24 conditions, 9 of them never shown to the model",
            command="cellgap evaluate run.toml --report report.html",
            model="ConditionalMonge",
            expression="log-normalized expression",
            history=_history(rng, 2000),
            table=table,
            summary=_summary(table),
            comparisons=_comparisons(table, "ConditionalMonge"),
            populations=tuple(
                _view(rng, c, n_genes, cells, q)
                for c, q in zip(conditions, rng.uniform(0.4, 1, n_conditions), strict=True)
            ),
            dose_curves=tuple(_curve(rng, gene, "trametinib") for gene in ("DUSP6", "SPRY2", "FOS")),
            gaps=(
                Gap(
                    "Monge gap",
                    0.0312,
                    "0 = optimal map; mean transport cost 7.31",
                    "The map moves cells further than needed to reach the treated population.",
                    "Raise gap_weight, or train longer.",
                ),
                Gap(
                    "spread gap",
                    0.07,
                    "0 = predicted cells vary as much as the measured ones",
                    "Predicted populations are too narrow or too wide.",
                    "Use the two-batch divergence and larger batches.",
                ),
            ),
            study=pd.DataFrame(
                dict(
                    condition=conditions + ["control | A549"] * 2,
                    cells=rng.integers(60, 900, size=n_conditions + 2),
                    controls=rng.integers(300, 3000, size=n_conditions + 2),
                    role=["test"] * n_conditions + ["source", "reference"],
                )
            ),
            settings={
                "data": {"path": "sciplex.h5ad", "treatment": "drug", "context": ["cell_line"]},
                "model": {
                    "kind": "ConditionalMonge",
                    "n_steps": 2000,
                    "gap_weight": 1.0,
                    "space": {"kind": "PCA", "dim": 50},
                },
                "seed": 0,
            },
            versions={"cellgap": "0.1.0", "jax": "0.10.2", "numpy": "2.4.6", "device": "cpu"},
            notes=("One condition was not scored: it has 31 measured cells and at least 50 are needed.",),
        )
        return ReportData(**(parts | changes))

    return make
