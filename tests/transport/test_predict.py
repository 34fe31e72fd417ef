"""From AnnData to AnnData: what goes in, what comes out, and what is refused."""

import equinox as eqx
import numpy as np
import pandas as pd
import pytest
import scipy.sparse as sp
from anndata import AnnData, read_h5ad
from small import FULL, RAW, OneHot, at, constant, screen, study_of, vehicle

from cellgap.encode import Context, Dose
from cellgap.errors import ConditionError, ConfigError, DataError
from cellgap.space import PCA, Genes
from cellgap.study import Design, Role, Study, split
from cellgap.study._simulate import simulate_screen
from cellgap.transport import FittedGaussian, Gaussian, Identity, MeanShift

COUNTED = Design(treatment="drug", dose="dose_nM", control="vehicle", context=("cell_line",), counts="X")


@pytest.fixture(scope="module")
def fitted() -> FittedGaussian:
    made = split.unseen_dose(screen(), 100, treatments=["anti", "cora"], min_cells=1)
    return Gaussian(space=PCA(dim=2, genes=RAW), encoder=FULL).fit(made)


@pytest.fixture
def controls() -> AnnData:
    """Control cells with a column and a layer of their own."""
    made = split.unseen_dose(screen(), 100, treatments=["anti", "cora"], min_cells=1)
    cells = made.study.adata[made.rows(vehicle(), Role.SOURCE)].copy()
    cells.obs["condition"] = "theirs"
    cells.layers["kept"] = np.asarray(cells.X) * 2
    return cells


def test_what_comes_out(fitted, controls):
    out = fitted.predict(controls, "anti@100 | L1")
    z = fitted.space.encode(controls)
    moved = fitted.transport(z, at("anti", 100))
    np.testing.assert_array_equal(out.obsm["X_cellgap_source"], z)
    np.testing.assert_array_equal(out.obsm["X_cellgap"], moved)
    np.testing.assert_array_equal(out.X, fitted.space.decode(moved))
    assert out.X.dtype == np.float32 and list(out.var_names) == ["g0", "g1", "g2"]
    assert out.obs_names.equals(controls.obs_names)
    assert list(out.obs["drug"]) == ["vehicle"] * out.n_obs and set(out.obs["condition"]) == {"anti@100nM | L1"}
    np.testing.assert_allclose(out.obs["displacement"], np.linalg.norm(moved - z, axis=1), rtol=1e-6)
    told = out.uns["cellgap"]
    assert told["model"] == "Gaussian" and told["condition"] == "anti@100nM | line=L1"
    near = fitted.nearness(at("anti", 100))
    assert told["nearest_training_condition"] == near.nearest and told["distance_to_training"] == near.distance > 0
    assert told["extrapolates"] == [] and "jax" in told["versions"]


def test_the_input_is_not_changed(fitted, controls):
    before = controls.copy()
    fitted.predict(controls, at("beta", 10))
    np.testing.assert_array_equal(controls.X, before.X)
    pd.testing.assert_frame_equal(controls.obs, before.obs)
    assert list(controls.obsm) == [] and list(controls.layers) == ["kept"] and set(controls.uns) == set(before.uns)


def test_what_comes_out_can_be_written_and_read(fitted, controls, tmp_path):
    for condition in (at("anti", 100), at("dara", 1e6)):
        out = fitted.predict(controls, condition)
        out.write_h5ad(tmp_path / "out.h5ad")
        back = read_h5ad(tmp_path / "out.h5ad")
        np.testing.assert_array_equal(back.X, out.X)
        np.testing.assert_array_equal(back.obsm["X_cellgap"], out.obsm["X_cellgap"])
        assert list(back.uns["cellgap"]["extrapolates"]) == out.uns["cellgap"]["extrapolates"]


def test_why_a_prediction_extrapolates_comes_out(fitted, controls):
    told = fitted.predict(controls, at("dara", 1e6)).uns["cellgap"]
    assert "the dose of dara@1000000nM is above the training doses" in told["extrapolates"]
    assert any("dara was not trained on" in reason for reason in told["extrapolates"])
    assert told["distance_to_training"] > 1


def test_genes_are_found_by_name_whatever_their_order_and_storage(fitted, controls):
    expected = fitted.predict(controls, at("anti", 100))
    more = AnnData(
        sp.csr_matrix(np.column_stack([np.ones(controls.n_obs), np.asarray(controls.X)[:, [2, 0, 1]]])),
        obs=controls.obs,
        var=pd.DataFrame(index=["other", "g2", "g0", "g1"]),
    )
    np.testing.assert_allclose(fitted.predict(more, at("anti", 100)).X, expected.X, rtol=1e-5, atol=1e-5)


def test_a_dose_in_another_unit_is_the_same_condition(fitted, controls):
    expected = fitted.predict(controls, at("anti", 100))
    for text in ("anti@0.1uM | L1", "anti@1e-4mM | line=L1", "anti@100 | L1"):
        out = fitted.predict(controls, text)
        np.testing.assert_array_equal(out.X, expected.X)
        assert out.uns["cellgap"]["condition"] == "anti@100nM | line=L1"


def test_control_stays(fitted, controls):
    out = fitted.predict(controls, "control | L1")
    np.testing.assert_array_equal(out.obsm["X_cellgap"], out.obsm["X_cellgap_source"])
    assert (out.obs["displacement"] == 0).all()


def test_a_single_cell(fitted, controls):
    one = fitted.predict(controls[3], at("anti", 100))
    all_of_them = fitted.predict(controls, at("anti", 100))
    np.testing.assert_allclose(one.X, all_of_them.X[3:4], rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (lambda cells: cells[:0], "no control cells to predict from: the table given has 0 rows"),
        (lambda cells: cells[:, ["g0", "g2"]], "1 of the 3 genes .*missing.*g1"),
        (lambda cells: poisoned(cells), "NaN or infinite"),
    ],
)
def test_cells_that_cannot_be_predicted_from(fitted, controls, change, says):
    with pytest.raises(DataError, match=says):
        fitted.predict(change(controls), at("anti", 100))


def poisoned(cells: AnnData) -> AnnData:
    cells = cells.copy()
    cells.X[2, 1] = np.nan
    return cells


def test_a_prediction_that_is_not_finite_is_refused(fitted, controls):
    broken = eqx.tree_at(lambda model: model.path.shift, fitted, fitted.path.shift * np.inf)
    with pytest.raises(DataError, match=r"prediction for 'anti@100nM \| L1' is not finite"):
        broken.predict(controls, at("anti", 100))


def test_conditions_that_cannot_be_predicted(controls):
    made = split.unseen_treatment(screen(), "cora", min_cells=1)
    named = Gaussian(space=RAW, encoder=OneHot() | Dose()).fit(made)
    for condition, says in (
        ("cora@10nM | L1", r"'cora', which was not trained on.*needs a descriptor"),
        ("anti | L1", "needs a dose"),
        ("anti@10nM | organ=liver", "this model knows line"),
        ("", "Expected a condition"),
    ):
        with pytest.raises(ConditionError, match=says):
            named.predict(controls, condition)


def test_values_that_cannot_be_negative_are_clipped_unless_asked_not_to():
    study = constant({("vehicle", 0.0, "L1"): (4.0, 4.0), ("anti", 10.0, "L1"): (1.0, 9.0)})
    made = split.in_distribution(study, min_cells=1)
    low = study_of([("vehicle", 0.0, "L1")] * 2, np.array([[0.0, 1.0], [8.0, 1.0]])).adata
    shift = MeanShift(space=Genes(transform="log1p"), encoder=OneHot(), rule="own").fit(made)
    expected = np.log1p([[0.0, 1.0], [8.0, 1.0]]) + np.log([2 / 5, 10 / 5])
    assert expected.min() < -0.5
    np.testing.assert_allclose(shift.predict(low, "anti@10nM").X, np.maximum(expected, 0), rtol=1e-5)
    np.testing.assert_allclose(shift.predict(low, "anti@10nM", clip=False).X, expected, rtol=1e-5)
    np.testing.assert_allclose(shift.predict(low, "anti@10nM").obsm["X_cellgap"], expected, rtol=1e-5)
    plain = MeanShift(space=RAW, encoder=OneHot(), rule="own").fit(made)
    assert plain.predict(low, "anti@10nM").X.min() == -3.0


def test_the_identity_decodes_what_it_encodes(controls):
    made = split.unseen_dose(screen(), 100, treatments=["anti", "cora"], min_cells=1)
    out = Identity(space=RAW, encoder=FULL).fit(made).predict(controls, at("anti", 10))
    np.testing.assert_array_equal(out.X, controls.X)


@pytest.fixture(scope="module")
def counted() -> tuple[AnnData, FittedGaussian]:
    """A small screen of raw counts and a map between its components."""
    made = simulate_screen(n_drugs=2, doses=(1000.0,), n_combinations=0, n_genes=20, n_cells=60, n_controls=120, seed=3)
    parted = split.in_distribution(made.study(), test=0.3, min_cells=5)
    genes = Genes(n_top=12)
    return made.adata, Gaussian(space=PCA(dim=4, genes=genes), encoder=OneHot() | Context("cell_line")).fit(parted)


def test_raw_counts(counted):
    adata, model = counted
    controls = adata[(adata.obs["drug"] == "vehicle").to_numpy() & (adata.obs["cell_line"] == "line1").to_numpy()]
    condition = f"{adata.obs['drug'].unique()[1]}@1000nM | line1"
    plain, out = model.predict(controls, condition), model.predict(controls, condition, output="counts")
    assert sp.issparse(out.X) and out.X.format == "csr" and out.X.dtype == np.int32 and out.X.data.min() > 0
    assert list(out.var_names) == list(model.space.genes) and out.shape == plain.shape
    np.testing.assert_array_equal(out.obsm["X_cellgap"], plain.obsm["X_cellgap"])
    library = np.asarray(controls[:, list(model.space.genes)].X.sum(1)).ravel()
    drawn = np.stack(
        [np.asarray(model.predict(controls, condition, output="counts", seed=i).X.sum(1)) for i in range(8)]
    )
    error = drawn[..., 0].std(0, ddof=1).mean() / np.sqrt(8 * len(library))
    assert abs((drawn[..., 0].mean(0) - library).mean()) < 4 * error
    told = out.uns["cellgap"]["counts"]
    assert told == {
        "library": "total of each control cell over the genes of the space",
        "dispersion": "matched",
        "seed": 0,
    }
    assert "counts" not in plain.uns["cellgap"]


def test_the_seed_and_the_condition_choose_the_noise(counted):
    adata, model = counted
    controls = adata[(adata.obs["drug"] == "vehicle").to_numpy()][:40]
    drugs = [d for d in adata.obs["drug"].unique() if d != "vehicle"]

    def residual(drug: str, seed: int) -> np.ndarray:
        condition = f"{drug}@1000nM | line1"
        out = model.predict(controls, condition, output="counts", seed=seed)
        library = np.asarray(controls[:, list(model.space.genes)].X.sum(1))
        return (out.X.toarray() - library * model.space.rates(out.obsm["X_cellgap"])).ravel()

    first = residual(drugs[0], 0)
    np.testing.assert_array_equal(first, residual(drugs[0], 0))
    # A few large counts decide one correlation (its standard deviation is 0.23), so the mean of several is asked.
    seeds = range(16)
    for drug, step in ((drugs[0], 1), (drugs[1], 0)):
        pairs = [(residual(drugs[0], s), residual(drug, s + step)) for s in seeds]
        assert abs(np.mean([np.corrcoef(a, b)[0, 1] for a, b in pairs])) < 0.2


def test_counts_that_nothing_moves_are_those_measured(counted):
    adata, _ = counted
    parted = split.in_distribution(Study(adata, COUNTED), test=0.3, min_cells=5)
    model = Identity(space=Genes(), encoder=OneHot() | Context("cell_line")).fit(parted)
    drug = next(d for d in adata.obs["drug"].unique() if d != "vehicle")
    cells = adata[(adata.obs["drug"] == "vehicle").to_numpy()]
    out = model.predict(cells, f"{drug}@1000nM | line1", output="counts")
    assert np.abs((out.X - cells.X).toarray()).max() <= 1 and (out.X != cells.X).nnz < 0.01 * cells.X.nnz


def test_counts_survive_a_file(counted, tmp_path):
    adata, model = counted
    drug = next(d for d in adata.obs["drug"].unique() if d != "vehicle")
    out = model.predict(adata[:30], f"{drug}@1000nM | line1", output="counts", seed=2)
    out.write_h5ad(tmp_path / "out.h5ad")
    back = read_h5ad(tmp_path / "out.h5ad")
    np.testing.assert_array_equal(back.X.toarray(), out.X.toarray())
    assert back.uns["cellgap"]["counts"]["seed"] == 2 and back.X.dtype == np.int32


def test_counts_that_cannot_be_had(fitted, controls):
    with pytest.raises(
        DataError, match=r'Gaussian works in a space that does not give raw counts.*output="expression"'
    ):
        fitted.predict(controls, at("anti", 100), output="counts")
    with pytest.raises(ConfigError, match="output must be one of 'expression', 'counts', found 'raw'"):
        fitted.predict(controls, at("anti", 100), output="raw")
    with pytest.raises(ConfigError, match="seed must be at least 0"):
        fitted.predict(controls, at("anti", 100), seed=-1)
