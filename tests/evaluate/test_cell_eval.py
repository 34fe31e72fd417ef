"""The field's suite: our call gives the numbers of the package's own command line, and cannot be gamed by controls."""

import math
import subprocess
import sys
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import anndata
import numpy as np
import pandas as pd
import pytest
import scipy.sparse as sp
from dummies import Dummy

import cellgap as cg
from cellgap.errors import ConfigError, DataError, MissingExtraError, SplitError
from cellgap.evaluate import SuiteResult, count_panels, export_counts, vcc2026
from cellgap.evaluate._cell_eval import MEMBERS, NAMES, Scorer, competition_score
from cellgap.evaluate._count_panels import folder_names
from cellgap.evaluate._suite import scaled
from cellgap.study import Design, Study

pytest.importorskip("cell_eval2")
HELD = ("A1", "B2", "C3")


@pytest.fixture(scope="module")
def screen():
    return cg.simulate(
        n_drugs=9, doses=(1000.0,), n_combinations=0, cell_lines=("l1",), n_genes=80, n_cells=50, n_controls=200
    )


@pytest.fixture(scope="module")
def split(screen):
    return cg.split.unseen_treatment(screen.study(), HELD)


@pytest.fixture(scope="module")
def fitted(screen, split):
    return cg.Gaussian(space=cg.space.PCA(dim=6), encoder=cg.encode.Table(screen.descriptors)).fit(split)


@pytest.fixture(scope="module")
def panel(fitted, split):
    (panel,) = count_panels(fitted, split)
    return panel


@pytest.fixture(scope="module")
def result(fitted, split):
    return vcc2026(fitted, split, n_replicates=1, progress=False)


def values(result: SuiteResult, predictor: str) -> dict[str, float]:
    rows = result.table[result.table["predictor"] == predictor]
    return dict(zip(rows["member"], rows["value"], strict=True))


def test_the_members_are_those_the_package_scores():
    from cell_eval2.competition import competition_members

    assert set(competition_members()) == set(NAMES)


def test_same_numbers_as_the_command_line_of_the_package(fitted, split, result, tmp_path):
    (folder,) = export_counts(fitted, split, tmp_path)
    command = [sys.executable, "-c", "from cell_eval2.cli import main; main()", "run"]
    command += ["-ap", folder / "predicted.h5ad", "-ar", folder / "measured.h5ad", "-o", tmp_path / "out"]
    command += ["--preset", "vcc2026", "--pert-col", "perturbation", "--control", "control", "--no-target-genes"]
    command += ["--set", "de.backend=scanpy"]
    done = subprocess.run(list(map(str, command)), capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    theirs = pd.read_csv(tmp_path / "out" / "agg_results.csv").set_index("statistic").loc["mean"]
    ours = values(result, "Gaussian")
    assert {name: theirs[name] for name in NAMES} == pytest.approx(ours, rel=1e-12, abs=1e-15)


def test_the_measured_cells_themselves_are_a_perfect_prediction(panel):
    with Scorer(panel.measured) as scorer:
        found = [scorer.score(panel.measured)[name].value for name in NAMES]
    assert found[0] == found[2] == found[3] == found[4] == 1.0
    assert found[1] < 0.05 and found[5] == 0.0


def test_bottom_and_ends_of_the_scale(result):
    assert 0.2 < values(result, "identity")["pds_cosine"] < 0.8  # chance, of three treatments
    assert values(result, "identity")["expr_mse_unbiased_capped_norm"] > 0.8
    table = result.table.set_index(["predictor", "member"])["scaled"]
    for member in NAMES:
        assert table["mean effect", member] == 0.0
        assert table["replicate", member] == 1.0
    assert result.score("mean effect") == 0.0 and result.score("replicate") == pytest.approx(1.0)
    assert result.score("Gaussian") > 0.3 > result.score("identity")


def test_the_replicate_is_the_anchor_of_the_package(panel, result):
    from cell_eval2.anchor import compute_replicate_anchor

    with Scorer(panel.measured) as scorer:
        _, anchor = compute_replicate_anchor(panel.measured, config=scorer.config, base_seed=0, n_splits=1)
    theirs = dict(zip(anchor["metric"], anchor["replicate"], strict=True))
    assert values(result, "replicate") == pytest.approx({name: theirs[name] for name in NAMES}, rel=1e-12)


def test_the_score_of_the_package_is_shown_beside_ours(panel, result):
    """On its own scale the package's generic baseline is 0, a replicate is 1, and a value between is between."""
    with Scorer(panel.measured) as scorer:
        generic = scorer.generic(seed=0)
    replicate = values(result, "replicate")
    for name in NAMES:
        ends = generic[name].value, replicate[name]
        if math.isfinite(competition_score(name, ends[1], *ends)):
            assert competition_score(name, ends[0], *ends) == pytest.approx(0.0, abs=1e-12)
            assert competition_score(name, ends[1], *ends) == pytest.approx(1.0)
            assert competition_score(name, float(np.mean(ends)), *ends) == pytest.approx(0.5)
    assert math.isnan(competition_score("pds_cosine", 0.5, 0.9, 0.8))


@dataclass
class Cheat:
    """A model that leaves treated cells alone and would predict absurd controls."""

    name: str
    space: Any

    def transport(self, z: np.ndarray, condition: Any) -> np.ndarray:
        return z - 1e3 if condition.is_control else z


def test_predicted_controls_cannot_enter_a_score(fitted, panel):
    honest = panel.predicted(Dummy("identity", fitted.space, lambda z, c: z))
    cheat = panel.predicted(Cheat("cheat", fitted.space))
    assert (honest.X != cheat.X).nnz == 0
    control = (panel.measured.obs["perturbation"] == "control").to_numpy()
    assert (honest.X[control] != panel.measured.X[control]).nnz == 0
    assert list(honest.obs["perturbation"]) == list(panel.measured.obs["perturbation"])


def test_what_the_files_hold(fitted, split, panel, tmp_path):
    (folder,) = export_counts(fitted, split, tmp_path)
    predicted, measured = (anndata.read_h5ad(folder / f"{name}.h5ad") for name in ("predicted", "measured"))
    assert folder.name == "l1" and list(measured.var_names) == list(split.study.genes)
    for cells in (predicted, measured):
        assert set(cells.obs["perturbation"]) == {"control", *(f"{name}@1000nM" for name in HELD)}
        assert (cells.X.data >= 1).all() and (cells.X.data == np.round(cells.X.data)).all()
    for condition in split.scored_conditions:
        mine = (measured.obs["perturbation"] == str(condition.treatments[0])).to_numpy()
        totals = np.sort(np.asarray(split.study.values(split.rows(condition)).sum(1)).ravel())
        np.testing.assert_array_equal(np.sort(np.asarray(measured.X[mine].sum(1)).ravel()), totals)
    assert not np.isin(split.rows("control | l1", cg.study.Role.SOURCE), panel.pool, invert=True).any()


def test_the_same_seed_gives_the_same_cells_and_another_does_not(fitted, split, panel):
    (again,), (other,) = (count_panels(fitted, split, seed=seed) for seed in (0, 1))
    assert (again.predicted(fitted).X != panel.predicted(fitted).X).nnz == 0
    assert (other.predicted(fitted).X != panel.predicted(fitted).X).nnz > 0


def test_more_measured_cells_than_controls_draws_controls_evenly(fitted, split):
    (panel,) = count_panels(fitted, split, max_cells=20)
    assert len(panel.pool) == 20 and all(len(set(drawn)) == 20 for drawn in panel.draws)
    few = replace(split, roles=np.where(np.cumsum(split.roles == 4) > 7, split.roles * (split.roles != 4), split.roles))
    (panel,) = count_panels(fitted, few, max_cells=20)
    assert len(panel.pool) == 7 and panel.predicted(fitted).n_obs == panel.measured.n_obs
    assert all(np.ptp(np.bincount(drawn, minlength=7)) <= 1 for drawn in panel.draws)


def test_one_perturbation_has_no_discrimination(screen, fitted):
    one = cg.split.unseen_treatment(screen.study(), ["B2"])
    model = cg.MeanShift(space=cg.space.PCA(dim=6), encoder=cg.encode.OneHot(), rule="all").fit(one)
    found = vcc2026({"own": model}, one, baselines={"mean effect": model}, n_replicates=1, progress=False)
    row = found.table[(found.table["predictor"] == "own") & (found.table["member"] == "pds_cosine")].iloc[0]
    assert math.isnan(row["value"]) and row["note"] == "needs 2 perturbations in a context, found 1"
    assert math.isnan(found.score("own", "pds_cosine"))
    rest = found.table[(found.table["predictor"] == "own") & (found.table["member"] != "pds_cosine")]
    assert np.isfinite(rest["value"]).sum() >= 3 and found.table["competition"].isna().all()
    assert "PDS: needs 2 perturbations" in str(found)


def test_a_predictor_without_an_answer_says_why(fitted, split):
    silent = Dummy("silent", fitted.space, lambda z, c: z, silent=(str(split.scored_conditions[1]),))
    base = {"mean effect": Dummy("m", fitted.space, lambda z, c: z)}
    found = vcc2026({"silent": silent}, split, baselines=base, n_replicates=1, progress=False)
    rows = found.table[found.table["predictor"] == "silent"]
    assert rows["value"].isna().all() and set(rows["note"]) == {"it never learnt this one"}
    assert "it never learnt this one (silent; 1 of 1 contexts)" in " ".join(str(found).split())


def test_pooling_over_contexts_adds_totals_and_weights():
    rows = []
    for predictor, totals in {"m": (3.0, -1.0), "mean effect": (4.0, 4.0), "replicate": (0.0, 0.5)}.items():
        for context, total, weight in zip("ab", totals, (4.0, 1.0), strict=True):
            for member in MEMBERS:
                row = {"predictor": predictor, "context": context, "member": member.name, "value": total / weight}
                rows.append(row | {"total": total, "weight": weight, "scaled": 0.0, "competition": float("nan")})
    rows[0] |= {"value": float("nan"), "total": float("nan")}
    kinds = {"replicate": "anchor", "m": "model", "mean effect": "baseline"}
    found = SuiteResult(pd.DataFrame(rows), kinds, {}).summary().set_index(["predictor", "member"])
    error = found.loc[("m", "expr_mse_unbiased_capped_norm")]
    assert error["value"] == pytest.approx(2 / 5) and error["n_contexts"] == 2
    assert error["scaled"] == pytest.approx((2 / 5 - 8 / 5) / (0.5 / 5 - 8 / 5))
    # Where one of the three has no value, the scale is that of the other contexts.
    discrimination = found.loc[("m", "pds_cosine")]
    assert discrimination["value"] == -1.0 and math.isnan(discrimination["scaled"])  # replicate 0.5, mean effect 4
    assert found.loc[("m", "mean"), "scaled"] == pytest.approx(found.loc["m"]["scaled"].drop("mean").mean())


def test_no_scale_where_the_replicate_is_not_better_than_the_mean_effect():
    assert scaled("pds_cosine", 0.9, 0.5, 1.0) == pytest.approx(0.8)
    assert scaled("de_wilcoxon_lfc_nmae", 0.5, 1.0, 0.5) == 1.0
    assert math.isnan(scaled("pds_cosine", 0.9, 0.5, 0.5)) and math.isnan(scaled("pds_cosine", 0.9, 0.5, 0.4))
    assert math.isnan(scaled("de_wilcoxon_lfc_nmae", 0.9, 0.5, 0.6)) and math.isnan(
        scaled("pds_cosine", 1, 0, math.nan)
    )


def test_target_genes_are_left_out(fitted, split, panel):
    found = vcc2026(
        fitted,
        split,
        n_replicates=1,
        target_genes={"A1": "gene3"},
        baselines={"mean effect": fitted},
        progress=False,
    )
    with Scorer(panel.measured, {"A1@1000nM": "gene3"}) as scorer:
        mine = scorer.score(panel.predicted(fitted))
        assert scorer.config.target_gene_map == {"*": None, "A1@1000nM": "gene3"}
    assert values(found, "Gaussian (fitted)" if "Gaussian (fitted)" in found.kinds else "Gaussian") == pytest.approx(
        {name: score.value for name, score in mine.items()}
    )
    with pytest.raises(ConfigError, match="No held-out treatment has its target gene"):
        vcc2026(fitted, split, target_genes=True, progress=False)


def test_mistakes_are_found_before_any_work(screen, split, fitted, monkeypatch):
    adata, encoder = screen.adata, cg.encode.OneHot()
    plain = Study(adata, Design(treatment="drug", control="vehicle", dose="dose_nM", context=("cell_line",)))
    uncounted = cg.split.unseen_treatment(plain, HELD)
    space = cg.space.PCA(dim=4, genes=cg.space.Genes(transform="log1p"))
    logs = cg.MeanShift(space=space, encoder=encoder, rule="all").fit(uncounted)
    with pytest.raises(DataError, match=r"scores raw counts, and the design names none: set Design\(counts="):
        vcc2026(logs, uncounted)
    logs = cg.MeanShift(space=space, encoder=encoder, rule="all").fit(split)
    with pytest.raises(ConfigError, match="the space of 'mean effect' gives none"):
        vcc2026(logs, split)
    for name, value in (("max_cells", 1), ("max_cells", 2.5), ("n_replicates", 0)):
        with pytest.raises(ConfigError, match=f"{name} must be a whole number"):
            vcc2026(fitted, split, **{name: value})
    with pytest.raises(ConfigError, match="must have one called 'mean effect'"):
        vcc2026(fitted, split, baselines={})
    with pytest.raises(SplitError, match="which this split holds out"):
        vcc2026(cg.MeanShift(space=cg.space.PCA(dim=4), encoder=encoder, rule="all").fit(_without(screen)), split)
    monkeypatch.setitem(sys.modules, "cell_eval2", None)
    with pytest.raises(MissingExtraError, match=r'pip install "cellgap\[eval\]"'):
        vcc2026(fitted, split)


def _without(screen):
    """Return a split that trains on what the other holds out."""
    return cg.split.unseen_treatment(screen.study(), ["A2"])


def test_what_the_scorer_refuses_is_one_sentence(panel):
    cells = panel.measured.copy()
    cells.X = cells.X * 0.5
    with (
        Scorer(panel.measured) as scorer,
        pytest.raises(DataError, match=r"cell-eval2 refuses these counts: .*fraction"),
    ):
        scorer.score(cells)


def test_table_and_print(result, tmp_path: Path):
    assert list(result.table.columns) == [
        *("predictor", "context", "member", "value", "scaled", "competition", "total", "weight"),
        *("n_perturbations", "n_pred", "n_true", "seed", "note"),
    ]
    finite = result.table[np.isfinite(result.table["value"])]
    np.testing.assert_allclose(finite["total"] / finite["weight"], finite["value"], rtol=1e-9)
    text = str(result)
    assert "Gaussian" in text and "PDS ↑" in text and "dose interpolation" not in text
    assert max(map(len, text.splitlines())) <= 120
    result.to_csv(tmp_path / "suite.csv")
    assert len(pd.read_csv(tmp_path / "suite.csv")) == len(result.table)
    assert repr(result) == "SuiteResult of Gaussian in 1 contexts"
    with pytest.raises(ConfigError, match="no member 'pds': choose from pds_cosine"):
        result.score("Gaussian", "pds")


def test_folders_have_plain_and_different_names():
    assert folder_names(["A549", "T cells, 1", "T/cells, 1", "..", "µ"]) == (
        *("A549", "T_cells_1", "T_cells_1~2", "context"),
        "context~2",
    )


def test_a_panel_without_an_effect_has_no_ratio_but_its_parts() -> None:
    """Treated and control cells of one law: the unbiased effect is below 0, which the package refuses as a whole."""
    rng = np.random.default_rng(0)
    labels = pd.DataFrame({"perturbation": ["a"] * 30 + ["control"] * 30}, index=[f"c{i}" for i in range(60)])
    genes = pd.DataFrame(index=[f"g{i}" for i in range(50)])
    treated, other, control = rng.poisson(2.0, size=(3, 30, 50)).astype(np.int32)
    measured, predicted = (
        anndata.AnnData(sp.csr_matrix(np.concatenate([cells, control])), obs=labels, var=genes)
        for cells in (treated, other)
    )
    with Scorer(measured) as scorer:
        found = scorer.score(predicted)["expr_mse_unbiased_capped_norm"]
    assert np.isnan(found.value) and np.isfinite(found.total) and found.n == 1
    assert found.weight <= 0
