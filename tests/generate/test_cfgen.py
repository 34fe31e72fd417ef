"""The generator on a small atlas: what it draws, what it refuses, and that nothing about it is hidden."""

import dataclasses
import json
import tomllib

import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import pandas as pd
import pytest
import scipy.sparse as sp
import tomli_w
from small_atlas import DONORS, MODEL, QUICK, TYPES, atlas

import cellgap as cg
from cellgap.errors import ConditionError, ConfigError, DataError, StorageError
from cellgap.generate import (
    CFGen,
    Corrector,
    FittedCFGen,
    FlowTraining,
    Guidance,
    LibraryModel,
    Sampler,
    augment,
    calibrate_guidance,
)
from cellgap.generate._calibrate import interval
from cellgap.generate._network import LatentField
from cellgap.generate._train_field import LatentCells, _partners, matching_errors, told_attributes
from cellgap.settings import from_dict, to_dict
from cellgap.study import Role


@pytest.fixture(scope="module")
def split() -> cg.Split:
    return cg.split.in_distribution(atlas(), test=0.2, valid=0.15)


@pytest.fixture(scope="module")
def fitted(split) -> FittedCFGen:
    return MODEL.fit(split, key=jr.key(0))


def profile(adata) -> np.ndarray:
    x = adata.X.toarray() if sp.issparse(adata.X) else np.asarray(adata.X)
    return (x / x.sum(1, keepdims=True)).mean(0)


def real(study: cg.Study, kind: str, donor: str):
    obs = study.obs
    return study.adata[((obs["type"] == kind) & (obs["donor"] == donor)).to_numpy()]


@pytest.mark.parametrize("kind", TYPES)
@pytest.mark.parametrize("donor", DONORS)
def test_cells_have_the_attributes_that_were_asked_for(fitted, split, kind, donor):
    made = fitted.sample(200, key=jr.key(1), type=kind, donor=donor)
    truth = real(split.study, kind, donor)
    others = [real(split.study, k, d) for k in TYPES for d in DONORS if (k, d) != (kind, donor)]
    own = np.abs(profile(made) - profile(truth)).sum()
    assert own < 0.5 * min(np.abs(profile(made) - profile(other)).sum() for other in others)
    assert (made.obs["type"] == kind).all() and (made.obs["donor"] == donor).all() and made.obs["seen"].all()
    expected = np.log(np.asarray(truth.X.sum(1))).mean()
    assert abs(np.log(made.obs["library"]).mean() - expected) < 0.1
    assert abs(np.log(np.asarray(made.X.sum(1))).mean() - expected) < 0.1


def test_what_a_sample_is(fitted):
    made = fitted.sample(70, key=jr.key(1), type="B")
    assert sp.issparse(made.X) and made.X.dtype == np.int32 and made.X.min() >= 0
    assert list(made.var_names) == list(fitted.space.genes) and made.obs_names.is_unique
    assert made.obsm["X_cellgap"].shape == (70, 6)
    assert made.uns["cellgap"]["evaluations"] == 20 and made.uns["cellgap"]["model"] == "CFGen"
    assert set(made.obs["donor"]) == set(DONORS), "what is not asked for is drawn as in the training cells"
    expression = fitted.sample(5, key=jr.key(1), type="B", output="expression")
    assert expression.X.dtype == np.float32
    assert fitted.sample(0, key=jr.key(1)).shape == (0, 40)
    totals = fitted.sample(50, key=jr.key(1), library=5000.0)
    assert abs(np.asarray(totals.X.sum(1)).mean() / 5000 - 1) < 0.02


def test_the_same_key_gives_the_same_bits(fitted, split, tmp_path):
    one, two = (fitted.sample(30, key=jr.key(3)) for _ in range(2))
    assert (one.X != two.X).nnz == 0
    assert (one.X != fitted.sample(30, key=jr.key(4)).X).nnz > 0
    again = MODEL.fit(split, key=jr.key(0))
    fitted.save(tmp_path)
    for other in (again, cg.load(tmp_path)):
        assert isinstance(other, FittedCFGen) and other.gaps() == fitted.gaps()
        assert (other.sample(30, key=jr.key(3)).X != one.X).nnz == 0
    assert cg.load(tmp_path).calibrated == fitted.calibrated


def test_a_stopped_fit_goes_on_bit_for_bit(fitted, split, tmp_path):
    half = dataclasses.replace(QUICK, loop=dataclasses.replace(QUICK.loop, n_steps=300))
    # The schedule is that of all steps: what is stopped is the loop, by its checkpoint.
    MODEL.fit(split, key=jr.key(0), folder=tmp_path)
    rows = [json.loads(line) for line in (tmp_path / "log.jsonl").read_text().splitlines()]
    assert rows[-1]["step"] == 600 and (tmp_path / "checkpoint.eqx").exists()
    again = MODEL.fit(split, key=jr.key(0), folder=tmp_path)
    for a, b in zip(jax.tree.leaves(again.field), jax.tree.leaves(fitted.field), strict=True):
        np.testing.assert_array_equal(a, b)
    with pytest.raises(StorageError, match="another run"):
        dataclasses.replace(MODEL, training=half).fit(split, key=jr.key(0), folder=tmp_path)


def test_held_out_cells_are_not_read(split):
    """Cells of the test may be anything."""
    study = atlas()
    other = cg.Split(study, split.kind, split.seed, split.roles.copy(), (), (), (), split.params)
    study.adata.X[other.cells(Role.SOURCE, Role.REFERENCE)] += 50
    quick = dataclasses.replace(MODEL, training=dataclasses.replace(QUICK, loop=cg.train.Loop(n_steps=20)))
    one, two = (quick.fit(s, key=jr.key(0)).sample(20, key=jr.key(1)) for s in (split, other))
    assert (one.X != two.X).nnz == 0


def test_the_gaps_have_a_scale(fitted):
    sampling, inference = fitted.gaps()
    assert (sampling.name, inference.name) == ("sampling gap", "training-inference gap")
    assert abs(sampling.value) < 0.5 and "training cells with the same attributes" in sampling.scale
    assert 0 < inference.value < 1


def test_cells_keep_their_place_where_nothing_changes(fitted, split):
    cells = split.study.adata[split.cells(Role.SOURCE)]
    same = fitted.translate(cells, key=jr.key(0), type=cells.obs["type"].tolist())
    before, after = same.obsm["X_cellgap_source"], same.obsm["X_cellgap"]
    assert (np.linalg.norm(after - before, axis=1) < 1e-3 * np.linalg.norm(before, axis=1)).all()
    assert same.uns["cellgap"]["evaluations"] == 4 * 20
    noise = same.obsm["X_cellgap_noise"]
    assert abs(noise.mean()) < 0.3 and 0.5 < noise.std() < 1.5
    assert list(same.obs_names) == list(cells.obs_names)
    np.testing.assert_allclose(same.obs["library"], np.asarray(cells.X.sum(1)).ravel())


def test_translation_takes_cells_to_another_donor_and_leaves_their_type(fitted, split):
    cells = real(split.study, "T", "d1")
    there = fitted.translate(cells, key=jr.key(0), donor="d2")
    assert (there.obs["donor"] == "d2").all() and (there.obs["type"] == "T").all()
    gain = {(k, d): np.abs(profile(there) - profile(real(split.study, k, d))).sum() for k in TYPES for d in DONORS}
    assert min(gain, key=gain.get) == ("T", "d2")
    assert set(cells.obs["donor"]) == {"d1"}, "the cells that were given are not changed"


def test_translation_is_guided_as_asked(fitted, split):
    """Weights by name are weights, and "calibrated" is the weight of the first attribute alone."""
    cells = real(split.study, "T", "d1")[:20].copy()

    def moved(model, guidance) -> np.ndarray:
        return np.asarray(model.translate(cells, key=jr.key(0), donor="d2", guidance=guidance).obsm["X_cellgap"])

    plain, strong = moved(fitted, 1.0), moved(fitted, 3.0)
    assert np.abs(strong - plain).max() > 0.1
    np.testing.assert_allclose(moved(fitted, {"type": 3.0, "donor": 3.0}), strong, atol=1e-3)
    only_type = moved(fitted, {"type": 3.0})
    assert np.abs(only_type - plain).max() > 0.1 and np.abs(only_type - strong).max() > 0.1
    chosen = dataclasses.replace(fitted, calibrated=interval(3.0))
    np.testing.assert_allclose(moved(chosen, "calibrated"), only_type, atol=1e-3)


def test_combinations_that_were_never_seen_are_composed_and_flagged():
    study = atlas(without=("T", "d2"))
    fitted = MODEL.fit(study, key=jr.key(0))
    cells = real(atlas(), "T", "d1")[:20].copy()
    moved = fitted.translate(cells, key=jr.key(0), donor="d2")
    assert not moved.obs["seen"].any()
    # Composed on both ways, or the noise between them would not be the same.
    z, labels, totals = fitted.encode(cells), fitted.attributes.labels(cells.obs), fitted.space.totals(cells)
    how: dict = {"sampler": Sampler(solver="rk4", n_steps=20), "guidance": Guidance(combine="compose")}
    back = fitted.move(z, labels, totals, backward=True, **how)
    np.testing.assert_allclose(moved.obsm["X_cellgap_noise"], back.z, atol=1e-4)
    made = fitted.sample(200, key=jr.key(1), type="T", donor="d2")
    assert not made.obs["seen"].any()
    whole = atlas()
    gain = {(k, d): np.abs(profile(made) - profile(real(whole, k, d))).sum() for k in TYPES for d in DONORS}
    assert min(gain, key=gain.get) == ("T", "d2")
    # Three fields, composed: none, and each of two attributes.
    assert made.uns["cellgap"]["evaluations"] == 3 * 20


def test_guidance_by_name_by_cell_and_calibrated(fitted):
    by_name = fitted.sample(40, key=jr.key(1), type="B", donor="d1", guidance={"type": 2.0})
    by_cell = fitted.sample(40, key=jr.key(1), type="B", donor="d1", weights=np.tile([2.0, 1.0], (40, 1)))
    np.testing.assert_array_equal(by_name.obsm["X_cellgap"], by_cell.obsm["X_cellgap"])
    assert by_name.uns["cellgap"]["evaluations"] == 4 * 20
    assert fitted.calibrated is not None
    # What was chosen is for the first attribute alone.
    forced = dataclasses.replace(fitted, calibrated=interval(2.0, (0.2, 0.6)))
    weights = np.tile([2.0, 1.0], (40, 1))
    one = forced.sample(40, key=jr.key(1), type="B", guidance="calibrated")
    two = fitted.sample(40, key=jr.key(1), type="B", guidance=interval(1.0, (0.2, 0.6)), weights=weights)
    np.testing.assert_array_equal(one.obsm["X_cellgap"], two.obsm["X_cellgap"])
    corrected = fitted.sample(
        20, key=jr.key(1), type="B", guidance=2.0, sampler=Sampler(solver="euler", n_steps=10, corrector=Corrector())
    )
    assert np.isfinite(corrected.obsm["X_cellgap"]).all()


def test_calibration_finds_that_a_right_model_needs_no_guidance(fitted, split):
    held = split.study.adata[split.cells(Role.SOURCE, Role.REFERENCE)]
    found = calibrate_guidance(fitted, held, "type", key=jr.key(0), weights=(2.0, 4.0), windows=((0.0, 1.0),))
    assert sum(found.categories.values()) == held.n_obs and set(found.categories) == set(TYPES)
    rows = found.table.set_index("weight")
    assert rows.loc[4.0, "energy"] > rows.loc[1.0, "energy"]
    assert rows.loc[1.0, "difference"] == 0 and found.at(4.0).weight == 4.0
    with pytest.raises(ConfigError, match="was not tried"):
        found.at(7.0)
    with pytest.raises(ConfigError, match="no attribute 'x'"):
        calibrate_guidance(fitted, held, "x", key=jr.key(0))
    with pytest.raises(DataError, match="30 held-out cells"):
        calibrate_guidance(fitted, held[:9], key=jr.key(0))


def test_rare_types_are_topped_up(fitted, split):
    obs = split.study.obs
    few = split.study.adata[~((obs["type"] == "NK").to_numpy() & (np.arange(len(obs)) > 60))]
    more = augment(fitted, few, label="type", per_class=150, key=jr.key(0))
    counts = more.obs.groupby("type", observed=True)["generated"].agg(["size", "sum"])
    assert counts.loc["NK", "size"] == 150 and counts.loc["NK", "sum"] > 100
    assert counts.loc["B", "sum"] == 0 and more.X.dtype == np.int32 and more.obs_names.is_unique
    np.testing.assert_array_equal(more[: few.n_obs].X.toarray(), few.X)
    assert augment(fitted, few, label="type", per_class=1, key=jr.key(0)).shape == few.shape
    with pytest.raises(ConfigError, match="needs an attribute"):
        augment(fitted, few, label="x", per_class=10, key=jr.key(0))
    with pytest.raises(ConfigError, match="per_class"):
        augment(fitted, few, label="type", per_class=0, key=jr.key(0))


@pytest.mark.parametrize(
    ("values", "error", "says"),
    [
        ({"type": "Tt"}, ConditionError, "'Tt' is not among the training cells: .*T"),
        ({"tipe": "T"}, ConditionError, "no attribute 'tipe': did you mean 'type'"),
        ({"type": ["T", "B"]}, ConditionError, "2 values for 5 cells"),
        ({"guidance": {"age": 2.0}}, ConfigError, "names 'age'"),
        ({"guidance": {"type": -2.0}}, ConfigError, "weight"),
        ({"weights": np.full((5, 2), -1.0)}, ConfigError, "smallest -1"),
        ({"guidance": "best"}, ConfigError, '"calibrated", found'),
        ({"guidance": -1.0}, ConfigError, "weight"),
        ({"weights": np.ones((5, 1))}, ConfigError, r"shape \(5, 2\)"),
        ({"output": "raw"}, ConfigError, "output must be"),
    ],
)
def test_a_wrong_question_is_answered_in_a_sentence(fitted, values, error, says):
    with pytest.raises(error, match=says):
        fitted.sample(5, key=jr.key(0), **values)


def test_wrong_cells_and_settings_are_refused(fitted, split):
    with pytest.raises(ConfigError, match="whole number of cells"):
        fitted.sample(-1, key=jr.key(0))
    cells = split.study.adata[:5].copy()
    with pytest.raises(ConfigError, match="needs an attribute to change"):
        fitted.translate(cells, key=jr.key(0))
    with pytest.raises(DataError, match="no cells to translate"):
        fitted.translate(cells[:0], key=jr.key(0), donor="d1")
    with pytest.raises(DataError, match="no cells to augment"):
        augment(fitted, cells[:0], label="type", per_class=5, key=jr.key(0))
    cells.obs["type"] = "new"
    with pytest.raises(ConditionError, match="'new' is not among"):
        fitted.translate(cells, key=jr.key(0), donor="d1")
    with pytest.raises(ConfigError, match="one or more different"):
        CFGen(space=MODEL.space, attributes=())
    with pytest.raises(ConfigError, match="not among the attributes"):
        CFGen(space=MODEL.space, attributes=("type",), library_by="donor")
    with pytest.raises(ConfigError, match="sum to 1"):
        FlowTraining(told=(0.5, 0.5, 0.5))
    with pytest.raises(DataError, match="no column 'age'"):
        dataclasses.replace(MODEL, attributes=("age",), library_by=None).fit(split, key=jr.key(0))
    study = atlas()
    study.adata.obs["cluster"] = pd.Categorical(np.where(np.arange(study.n_obs) == 3, None, "a"))
    with pytest.raises(DataError, match="has no label in 1 of"):
        dataclasses.replace(MODEL, attributes=("cluster",), library_by=None).fit(study, key=jr.key(0))


def test_measurements_that_are_no_counts_are_refused():
    study = atlas()
    other = cg.Study(study.adata, dataclasses.replace(study.design, counts=None))
    model = dataclasses.replace(MODEL, space=cg.space.PCA(dim=4, genes=cg.space.Genes(transform="none")))
    with pytest.raises(DataError, match="does not give any"):
        model.fit(other, key=jr.key(0))


def test_a_category_of_one_cell_has_a_library_of_its_own():
    rng = np.random.default_rng(0)
    library = np.append(rng.lognormal(6.0, 0.3, 500), 4000.0)
    model = LibraryModel.of(library[:, None], np.append(np.zeros(500, int), 1), 3, 0)
    assert np.isfinite(model.mean).all() and (model.sd > 0).all()
    assert abs(model.mean[0, 0] - 6.0) < 0.05 and abs(model.sd[0, 0] - 0.3) < 0.05
    assert 6.0 < model.mean[1, 0] < np.log(4000.0) and abs(model.sd[1, 0] - 0.3) < 0.1
    assert abs(model.mean[2, 0] - np.log(library).mean()) < 1e-4
    drawn = model.draw(np.zeros((4000, 1), int), rng)
    assert abs(np.log(drawn).mean() - 6.0) < 0.05 and drawn.min() >= 1
    assert model.scaled(np.asarray([[1.0], [1e9]])).tolist() == [0.0, 1.0]


def test_totals_scatter_as_those_of_the_training_cells():
    """Two clouds of totals stay two; normal residuals, as published, fill what is between."""
    rng = np.random.default_rng(0)
    logs = np.where(rng.random(800) < 0.5, 5.0, 7.0) + 0.1 * rng.normal(size=800)
    labels = np.zeros(800, int)
    share = {}
    for normal in (False, True):
        model = LibraryModel.of(np.exp(logs)[:, None], labels, 1, 0, normal=normal)
        drawn = np.log(model.draw(np.zeros((4000, 1), int), rng))[:, 0]
        assert abs(drawn.mean() - logs.mean()) < 0.05 and abs(drawn.std() / logs.std() - 1) < 0.05
        share[normal] = ((drawn > 5.5) & (drawn < 6.5)).mean()
    assert share[False] < 0.05 and share[True] > 0.25


def test_attributes_are_told_as_often_as_asked():
    for by, n in (("cell", 4000), ("batch", 7)):
        known = np.asarray(told_attributes(jr.key(0), n, 3, (0.2, 0.5, 0.3), by=by))
        if by == "batch":
            assert (known == known[0]).all()
        else:
            share = np.bincount(known.sum(1), minlength=4) / n
            np.testing.assert_allclose(share, [0.2, 0.5, 0.0, 0.3], atol=0.03)
            one = known[known.sum(1) == 1].mean(0)
            np.testing.assert_allclose(one, 1 / 3, atol=0.04)


def test_an_untold_attribute_changes_nothing():
    field = LatentField(4, (3, 2), width=8, embedding=6, n_blocks=2, depth=False, key=jr.key(0))
    field = jax.tree.map(lambda leaf: leaf + 0.1, field)
    z, t = jr.normal(jr.key(1), (5, 4)), jnp.asarray([0.3])
    known = jnp.asarray([[True, False]] * 5)
    labels = jnp.asarray([[1, 0]] * 5)
    other = labels.at[:, 1].set(1)
    np.testing.assert_array_equal(field(z, t, labels, known), field(z, t, other, known))
    assert np.abs(field(z, t, labels, known) - field(z, t, labels.at[:, 0].set(2), known)).max() > 1e-3


def test_what_combinations_are_told_once_is_what_cells_are_told_one_by_one():
    """Many cells at one time share the layers of their attributes; with a time each they do not."""
    field = LatentField(4, (3, 2), width=8, embedding=6, n_blocks=2, depth=False, key=jr.key(0))
    field = jax.tree.map(lambda leaf: leaf + 0.1, field)
    n = 200
    z, labels = jr.normal(jr.key(1), (n, 4)), jnp.stack([jr.randint(jr.key(2), (n,), 0, 3), jnp.arange(n) % 2], 1)
    known = jr.bernoulli(jr.key(3), 0.5, (n, 2))
    shared, single = (field(z, jnp.full(k, 0.3), labels, known) for k in (1, n))
    np.testing.assert_allclose(shared, single, rtol=1e-5, atol=1e-5)


def test_the_error_is_zero_for_the_velocity_of_the_path():
    """A field that knows where the path ends: u = z_1 - (1 - sigma) eps, with no division near t = 1."""
    z1, noise = jr.normal(jr.key(0), (6, 3)), jr.normal(jr.key(1), (6, 3))
    sigma = 1e-4

    class Known(LatentField):
        def __call__(self, z, t, labels, known, depth=None):
            return z1 - (1 - sigma) * noise

    field = Known(3, (2,), width=4, embedding=4, n_blocks=1, depth=False, key=jr.key(0))
    cells = LatentCells(z1, jnp.zeros((6, 1), int), None)
    errors = matching_errors(field, cells, noise, jnp.linspace(0, 1, 6), jnp.ones((6, 1), bool), sigma)
    np.testing.assert_array_equal(errors, jnp.zeros(6))


def test_coupling_pairs_within_attributes_and_shortens_the_way():
    n = 64
    labels = jr.randint(jr.key(0), (n, 1), 0, 3)
    cells = LatentCells(jr.normal(jr.key(1), (n, 5)), labels, None)
    noise = jr.normal(jr.key(2), (n, 5))
    partner = np.asarray(_partners(noise, cells, jr.key(3)))
    np.testing.assert_array_equal(labels[partner], labels)
    before, after = (float(jnp.mean((cells.z - noise[rows]) ** 2)) for rows in (np.arange(n), partner))
    assert after < 0.8 * before
    coupled = dataclasses.replace(
        MODEL, training=dataclasses.replace(QUICK, coupling="ot", loop=cg.train.Loop(n_steps=4))
    )
    assert coupled.fit(atlas(n=30), key=jr.key(0)).stopped == "finished"


def test_the_published_recipe():
    model = CFGen.reference(("type",), cells=2110)
    assert (model.width, model.embedding, model.n_blocks, model.depth) == (32, 20, 3, False)
    how = model.training
    assert (how.loop.n_steps, how.batch_size, how.learning_rate, how.ema) == (1500 * 33, 64, 1e-4, 0.0)
    assert (how.told, how.told_by, how.sigma) == ((0.2, 0.8, 0.0), "batch", 1e-4)
    assert (model.sampler.solver, model.sampler.tolerance) == ("dopri5", 1e-5)
    for one in (model, MODEL):
        assert from_dict(tomllib.loads(tomli_w.dumps(to_dict(one)))) == one


def test_totals_may_be_told_to_the_flow():
    space = cg.space.Autoencoder(dim=6, hidden=(16,), inputs="log1p", loop=cg.train.Loop(n_steps=40))
    model = dataclasses.replace(MODEL, space=space, training=dataclasses.replace(QUICK, loop=cg.train.Loop(n_steps=40)))
    fitted = model.fit(atlas(n=40), key=jr.key(0))
    assert fitted.field.depth_wave is not None
    assert fitted.sample(10, key=jr.key(0), guidance=Guidance(weight=1.5)).n_obs == 10
