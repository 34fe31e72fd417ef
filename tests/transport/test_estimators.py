"""What every estimator must do: its settings in a file, its fit on disk, its gaps, controls that stay."""

import dataclasses
import tomllib

import numpy as np
import pytest
import tomli_w
from small import FULL, NETWORK, RAW, TABLE, at, screen, vehicle

import cellgap
from cellgap import storage
from cellgap.encode import Dose, OneHot, Table
from cellgap.errors import ConfigError, StorageError
from cellgap.gap import Gap
from cellgap.settings import from_dict, to_dict
from cellgap.space import PCA
from cellgap.study import Role, split
from cellgap.train import Loop
from cellgap.transport import (
    AbstractMap,
    Codes,
    ConditionalMonge,
    Gaussian,
    Identity,
    MeanShift,
    Monge,
    Optimization,
    load,
)

ESTIMATORS = [
    Identity(space=RAW, encoder=FULL),
    Gaussian(space=PCA(dim=2, genes=RAW), encoder=FULL),
    *(MeanShift(space=RAW, encoder=FULL, rule=rule) for rule in ("own", "all", "nearest", "dose", "additive", "ridge")),
]
NAMES = ["Identity", "Gaussian", "own", "all", "nearest", "dose", "additive", "ridge"]


@pytest.fixture(scope="module")
def made() -> split.Split:
    return split.unseen_treatment(screen(), "cora", min_cells=1)


@pytest.mark.parametrize("estimator", ESTIMATORS, ids=NAMES)
def test_fits_on_disk_predict_the_same_bits(estimator, made, tmp_path):
    fitted: AbstractMap = estimator.fit(made, key=None)
    fitted.save(tmp_path, header={"settings": to_dict(estimator)})
    assert sorted(p.name for p in tmp_path.iterdir()) == ["model.json", "model.npz"]
    back = cellgap.load(tmp_path)
    assert type(back) is type(fitted) and back.name == fitted.name and back.gaps() == fitted.gaps()
    assert from_dict(storage.read_document(tmp_path)["header"]["settings"]) == estimator
    cells = made.study.adata[made.rows(vehicle(), Role.TRAIN)]
    condition = at(["anti", "beta"], 100) if fitted.name == "additive" else at("anti", 100)
    one, two = (model.predict(cells, condition) for model in (fitted, back))
    np.testing.assert_array_equal(one.X, two.X)
    assert one.uns["cellgap"] == two.uns["cellgap"]
    assert (np.asarray(one.X) != np.asarray(cells.X)).any() or fitted.name == "identity"


@pytest.mark.parametrize("estimator", ESTIMATORS, ids=NAMES)
def test_controls_stay_bit_for_bit_in_every_context(estimator, made):
    fitted = estimator.fit(made)
    z = np.random.default_rng(0).normal(size=(30, fitted.space.dim)).astype(np.float32)
    for line in ("L1", "L2"):
        np.testing.assert_array_equal(fitted.transport(z, vehicle(line)), z)


@pytest.mark.parametrize("estimator", ESTIMATORS, ids=NAMES)
def test_a_fit_on_codes_is_the_fit_on_the_split(estimator, made):
    codes = Codes.of(made, estimator.space, estimator.encoder)
    z = codes.cells(vehicle(), Role.TRAIN)
    condition = at(["anti", "beta"], 100) if getattr(estimator, "rule", "") == "additive" else at("anti", 10)
    one, two = estimator.fit(made), estimator.fit_codes(codes)
    np.testing.assert_array_equal(one.transport(z, condition), two.transport(z, condition))


TRAINED = [
    ConditionalMonge(space=RAW, encoder=FULL),
    ConditionalMonge(
        space=PCA(dim=2, genes=RAW),
        encoder=Table("drugs.csv") | Dose(scale="linear"),
        start="identity",
        fit_loss="same_batch",
        cost="sqeuclidean",
        epsilon=1.0,
        gap_epsilon=0.01,
        relative=False,
        gap_weight=0.0,
        conditioning="concat",
        **NETWORK,
    ),
    Monge(space=RAW, encoder=OneHot(), condition="anti@10nM | L1", optimization=Optimization(loop=Loop(patience=3))),
]


@pytest.mark.parametrize("estimator", [*ESTIMATORS, *TRAINED], ids=[*NAMES, "default", "published", "Monge"])
def test_settings_survive_a_file_and_are_frozen(estimator):
    text = tomli_w.dumps(to_dict(estimator))
    back = from_dict(tomllib.loads(text))
    assert back == estimator and hash(back) == hash(estimator) and type(back) is type(estimator)
    with pytest.raises(dataclasses.FrozenInstanceError):
        estimator.space = PCA()


@pytest.mark.parametrize(
    ("make", "says"),
    [
        (lambda: ConditionalMonge(space=RAW), "encoder"),
        (lambda: ConditionalMonge(space="PCA", encoder=FULL), "space"),
        (lambda: ConditionalMonge(space=RAW, encoder=FULL, epsilon=0), "epsilon"),
        (lambda: ConditionalMonge(space=RAW, encoder=FULL, gap_weight=-1), "gap_weight"),
        (lambda: ConditionalMonge(space=RAW, encoder=FULL, hidden=(8, 0)), "hidden"),
        (lambda: ConditionalMonge(space=RAW, encoder=FULL, hidden=()), "hidden"),
        (lambda: Monge(space=RAW, encoder=FULL, hidden=()), "hidden"),
        (lambda: ConditionalMonge(space=RAW, encoder=FULL, fit="two_batch"), "no setting 'fit'"),
        (lambda: ConditionalMonge(space=RAW, encoder=FULL, fit_loss="plain"), "two_batch"),
        (lambda: MeanShift(space=RAW, encoder=FULL, rule="median"), "'ridge'"),
        (lambda: Gaussian(space=RAW, encoder=FULL, shrinkage=1), "no setting 'shrinkage'"),
        (lambda: Optimization(batch_size=1), "batch_size"),
        (lambda: Optimization(ema=1.0), "ema"),
        (lambda: Optimization(learning_rate=0.0), "learning_rate"),
    ],
)
def test_wrong_settings_are_refused(make, says):
    with pytest.raises(ConfigError, match=says):
        make()


def test_a_table_in_memory_is_kept_by_the_fit_though_not_by_the_settings(made, tmp_path):
    estimator = MeanShift(space=RAW, encoder=Table(TABLE) | Dose())
    with pytest.raises(ConfigError, match="given in memory"):
        to_dict(estimator)
    fitted = estimator.fit(made)
    fitted.save(tmp_path)
    z = np.zeros((2, 3), np.float32)
    np.testing.assert_array_equal(load(tmp_path).transport(z, at("cora", 10)), fitted.transport(z, at("cora", 10)))


def test_what_is_no_map_is_not_loaded_as_one(tmp_path):
    storage.save(Gap("a", 1.0, "b", "c", "d"), tmp_path)
    with pytest.raises(StorageError, match="holds a saved Gap, not a map"):
        load(tmp_path)
    with pytest.raises(StorageError, match="holds no saved model"):
        load(tmp_path / "none")
