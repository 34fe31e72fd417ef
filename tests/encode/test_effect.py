"""Effect embeddings: what they read, where they place what was not measured, and what they say about it."""

import numpy as np
import pandas as pd
import pytest
from anndata import AnnData

from cellgap import storage
from cellgap.encode import Context, Dose, Effect, FittedEncoder, Table
from cellgap.errors import ConditionError, ConfigError
from cellgap.settings import from_dict, to_dict
from cellgap.space import PCA, Genes
from cellgap.study import Condition, Design, Role, Split, Study, Treatment, split

GENES = 5
DOSES = (10.0, 1000.0)
DRUGS = ("a1", "a2", "a3", "b1", "b2", "b3")
SPACE = Genes(transform="none")


def _direction(name: str) -> np.ndarray:
    """Two mechanisms; drugs of one differ in strength."""
    out = np.zeros(GENES)
    out[0 if name[0] == "a" else 1] = 1.0 + 0.5 * int(name[1])
    return out


def _table() -> pd.DataFrame:
    return pd.DataFrame([_direction(n)[:2] for n in (*DRUGS, "a4")], index=[*DRUGS, "a4"], columns=["first", "second"])


def _study(
    drugs: tuple[str, ...] = DRUGS,
    lines: tuple[str, ...] = ("A549", "K562"),
    *,
    combination: bool = False,
    n: int = 40,
    doses: tuple[float, ...] = DOSES,
) -> Study:
    rows, x = [], []
    for k, line in enumerate(lines):
        rng = np.random.default_rng(k)
        offset = 10.0 * k

        def add(name: str, dose: float, mean: np.ndarray, rng=rng, line=line, offset=offset) -> None:
            rows.extend([(name, dose, line)] * n)
            x.append(20.0 + offset + mean + rng.normal(size=(n, GENES)))

        add("vehicle", 0.0, np.zeros(GENES))
        add("vehicle", 0.0, np.zeros(GENES))
        if combination:
            add("a1+b1", 10.0, _direction("a1") + _direction("b1"))
        for name in DRUGS:
            for dose in doses:
                mean, noise = (
                    _direction(name) * np.log10(dose),
                    np.random.default_rng([k, DRUGS.index(name), int(dose)]),
                )
                if name in drugs:
                    add(name, dose, mean, rng=noise)
    obs = pd.DataFrame(rows, columns=["drug", "dose_nM", "cell_line"], index=[f"c{i}" for i in range(len(rows))])
    adata = AnnData(np.concatenate(x).astype(np.float32), obs=obs, uns={"treatment_descriptors": _table()})
    return Study(adata, Design(treatment="drug", control="vehicle", dose="dose_nM", context=("cell_line",)))


def _effect(**options) -> Effect:
    return Effect(**({"dim": 3, "space": SPACE, "structure": Table()} | options))


def _held(study: Study, *names: str) -> Split:
    return split.unseen_treatment(study, list(names), min_cells=1, valid=0.0)


def _points(fitted: FittedEncoder, *names: str, doses: tuple[float, ...] = DOSES) -> np.ndarray:
    return np.stack(
        [fitted.encode(Condition(n, dose=d, unit="nM", cell_line="A549")).entities[0] for n in names for d in doses]
    )


def _distances(x: np.ndarray) -> np.ndarray:
    return np.linalg.norm(x[:, None] - x[None], axis=-1)


def _true(*names: str, doses: tuple[float, ...] = DOSES) -> np.ndarray:
    return np.stack([_direction(n) * np.log10(d) for n in names for d in doses])


@pytest.mark.parametrize("distance", ["gaussian", "sliced", "sinkhorn"])
def test_points_are_apart_as_populations_are(distance):
    fitted = _effect(distance=distance, n_cells=20).fit(split.in_distribution(_study(), min_cells=1))
    found, true = _distances(_points(fitted, *DRUGS)), _distances(_true(*DRUGS))
    assert np.corrcoef(found.ravel(), true.ravel())[0, 1] > 0.99
    assert not fitted.saw_held_out and fitted.columns == ("effect 1", "effect 2", "effect 3")
    np.testing.assert_allclose(np.sqrt((_points(fitted, *DRUGS)[:, 0] ** 2).mean()), 1, rtol=1e-5)


def test_strict_places_unseen_treatments_by_structure():
    fitted = _effect().fit(_held(_study(), "a2"))
    points = np.concatenate([_points(fitted, *DRUGS)])
    found, true = _distances(points), _distances(_true(*DRUGS))
    held = slice(2, 4)
    assert np.corrcoef(found[held].ravel(), true[held].ravel())[0, 1] > 0.95
    reasons = fitted.extrapolation(Condition("a2", dose=10, unit="nM", cell_line="A549"))
    assert "a2@10nM is placed by structure alone" in reasons[0] and "% of the squared distances" in reasons[0]
    assert any("a2 was not trained on" in reason for reason in reasons[1:])
    assert fitted.extrapolation(Condition("a1", dose=10, unit="nM", cell_line="A549")) == ()


@pytest.mark.parametrize("distance", ["gaussian", "sliced", "sinkhorn", "published"])
def test_strict_never_reads_held_out_cells(distance):
    fits = []
    for spoil in (False, True):
        division = _held(_study(), "a2", "b3")
        if spoil:
            division.study.adata.X[division.roles != Role.TRAIN] = np.nan
        fits.append(_effect(distance=distance, n_cells=15).fit(division))
    for a, b in zip(*(_leaves(fitted) for fitted in fits), strict=True):
        np.testing.assert_array_equal(a, b)
    np.testing.assert_array_equal(_points(fits[0], *DRUGS), _points(fits[1], *DRUGS))
    assert not fits[0].saw_held_out and fits[0].notes == fits[1].notes


def _leaves(fitted: FittedEncoder) -> list[np.ndarray]:
    block = fitted.blocks[0]
    return [block.known.coordinates, block.coefficients]


def test_the_other_mode_reads_held_out_cells_and_says_so():
    division = _held(_study(), "a2")
    strict, seen = _effect().fit(division), _effect(mode="seen_held_out").fit(division)
    assert seen.saw_held_out and not strict.saw_held_out
    np.testing.assert_array_equal(_points(seen, "a1", "b1"), _points(strict, "a1", "b1"))
    found, true = _distances(_points(seen, *DRUGS)), _distances(_true(*DRUGS))
    assert np.corrcoef(found[2:4].ravel(), true[2:4].ravel())[0, 1] > 0.99
    (reason,) = seen.extrapolation(Condition("a2", dose=10, unit="nM", cell_line="K562"))
    assert "placed by held-out cells: this is no prediction" in reason
    assert any("held-out cells were seen" in note and "a2@1000nM" in note for note in seen.notes)
    # A dose between two held-out ones stands on them as well.
    assert "held-out cells" in seen.extrapolation(Condition("a2", dose=50, unit="nM", cell_line="K562"))[0]
    division.study.adata.X[division.cells(Role.TEST)] = 7.0
    moved = _effect(mode="seen_held_out").fit(division)
    assert np.abs(_points(moved, "a2") - _points(seen, "a2")).max() > 0.1


def test_without_held_out_treatments_nothing_held_out_is_seen():
    division = split.in_distribution(_study(), min_cells=1)
    before = _effect(mode="seen_held_out").fit(division)
    assert not before.saw_held_out
    division.study.adata.X[division.cells(Role.TEST)] = np.nan
    np.testing.assert_array_equal(_leaves(_effect(mode="seen_held_out").fit(division))[0], _leaves(before)[0])


@pytest.mark.parametrize("distance", ["gaussian", "sliced", "sinkhorn"])
def test_a_further_condition_moves_no_other(distance):
    options = {"distance": distance, "mode": "seen_held_out", "n_cells": 15}
    few = _effect(**options).fit(_held(_study(drugs=tuple(n for n in DRUGS if n != "b3")), "a2"))
    many = _effect(**options).fit(_held(_study(), "a2", "b3"))
    np.testing.assert_allclose(_points(few, *DRUGS[:-1]), _points(many, *DRUGS[:-1]), rtol=1e-5, atol=1e-5)


def test_order_of_cells_and_columns_does_not_matter():
    study = _study()
    shuffled = np.random.default_rng(0).permutation(study.n_obs)
    other = Study(study.adata[shuffled, ::-1].copy(), study.design)
    # All cells are trained on, so that both fits see the same.
    fits = [_effect(structure=None).fit(_all_trained(s)) for s in (study, other)]
    np.testing.assert_allclose(_points(fits[0], *DRUGS), _points(fits[1], *DRUGS), atol=1e-4)


def _all_trained(study: Study) -> Split:
    roles = np.full(study.n_obs, int(Role.TRAIN), np.int8)
    return Split(study, "in_distribution", 0, roles, (), (), tuple(study.conditions), {})


def test_a_cell_line_of_its_own_is_no_effect():
    # b3 was measured in another line than the others; lines differ by 10 in every gene, drugs by at most 8.
    study = _study()
    line, drug = study.obs["cell_line"].to_numpy(), study.obs["drug"].to_numpy()
    keep = ~((drug == "b3") & (line == "A549")) & ~((drug != "b3") & (drug != "vehicle") & (line == "K562"))
    apart = _effect(structure=None).fit(_all_trained(Study(study.adata[keep].copy(), study.design)))
    found, true = _distances(_points(apart, *DRUGS)), _distances(_true(*DRUGS))
    assert np.corrcoef(found.ravel(), true.ravel())[0, 1] > 0.98
    assert any("20 pairs share no context" in note for note in apart.notes)


def test_doses_between_measured_ones_are_interpolated_in_their_logarithm():
    fitted = _effect().fit(_held(_study(), "a2"))
    low, middle, high = _points(fitted, "b1", doses=(10, 100, 1000))
    np.testing.assert_allclose(middle, 0.5 * (low + high), atol=1e-6)
    above = Condition("b1", dose=1e5, unit="nM", cell_line="A549")
    np.testing.assert_array_equal(fitted.encode(above).entities[0], high)
    (reason,) = fitted.extrapolation(above)
    assert "b1@100000nM is above those measured: its effect is that of b1@1000nM" in reason
    assert "below" in fitted.extrapolation(Condition("b1", dose=1, unit="nM", cell_line="A549"))[0]
    assert fitted.extrapolation(Condition("b1", dose=100, unit="nM", cell_line="A549")) == ()
    microgram = Condition("b1", dose=1, unit="uM", cell_line="A549")
    np.testing.assert_array_equal(fitted.encode(microgram).entities[0], high)


def test_held_out_doses_are_interpolated_or_seen():
    study = _study(doses=(10.0, 100.0, 1000.0))
    division = split.unseen_dose(study, [100.0], treatments=["b1"], min_cells=1)
    strict = _effect(structure=None).fit(division)
    low, middle, high = _points(strict, "b1", doses=(10, 100, 1000))
    np.testing.assert_allclose(middle, 0.5 * (low + high), atol=1e-6)
    seen = _effect(structure=None, mode="seen_held_out").fit(division)
    assert seen.saw_held_out and np.abs(_points(seen, "b1", doses=(100,)) - middle).max() > 1e-3


def test_members_of_combinations_are_points_of_singles():
    study = _study(combination=True)
    fitted = (_effect() | Dose() | Context("cell_line")).fit(split.in_distribution(study, min_cells=1))
    both = Condition.of([Treatment("a1", 10, "nM"), Treatment("b1", 10, "nM")], [("cell_line", "A549")])
    expected = [fitted.encode(both.with_treatments([t])).entities[0] for t in both.treatments]
    np.testing.assert_array_equal(fitted.encode(both).entities, np.stack(expected))


def test_published_embedding_is_between_zero_and_one():
    division = _held(_study(lines=("A549",)), "a2")
    seen = _effect(distance="published", mode="seen_held_out", n_cells=20).fit(division)
    points = _points(seen, *DRUGS)
    assert points.min() == 0 and points.max() == 1 and seen.saw_held_out
    found, true = _distances(points), _distances(_true(*DRUGS))
    assert np.corrcoef(found.ravel(), true.ravel())[0, 1] > 0.9
    strict = _effect(distance="published", n_cells=20).fit(division)
    # Where all are placed at once, a held-out condition moves the others.
    assert np.abs(_points(strict, "b1") - _points(seen, "b1")).max() > 1e-3


def test_treatments_without_dose():
    study = _study(doses=(100.0,))
    obs = study.obs.drop(columns="dose_nM")
    adata = AnnData(study.adata.X, obs=obs, uns=dict(study.adata.uns))
    plain = Study(adata, Design(treatment="drug", control="vehicle", context=("cell_line",)))
    fitted = _effect().fit(_held(plain, "a2"))
    points = np.stack([fitted.encode(Condition(n, cell_line="A549")).entities[0] for n in DRUGS])
    found, true = _distances(points), _distances(_true(*DRUGS, doses=(100.0,)))
    assert np.corrcoef(found[1], true[1])[0, 1] > 0.95
    with pytest.raises(ConditionError, match="'a1' was measured without: leave it out"):
        fitted.encode(Condition("a1", dose=10, unit="nM", cell_line="A549"))


@pytest.mark.parametrize("options", [{}, {"mode": "seen_held_out"}, {"structure": None, "mode": "seen_held_out"}])
def test_saved_encoders_load(options, tmp_path):
    study = _study()
    fitted = (_effect(**options) | Dose()).fit(_held(study, "a2"))
    storage.save(fitted, tmp_path)
    back = storage.load(tmp_path)
    assert back.notes == fitted.notes and back.saw_held_out == fitted.saw_held_out
    for condition in study.all_conditions:
        np.testing.assert_array_equal(back.vector(condition), fitted.vector(condition))
        assert back.extrapolation(condition) == fitted.extrapolation(condition)


def test_new_molecules_are_placed_by_structure():
    pytest.importorskip("rdkit")
    from cellgap.encode import Fingerprint

    smiles = dict(zip(DRUGS, ("CCO", "CCCO", "CCCCO", "c1ccccc1", "Cc1ccccc1", "CCc1ccccc1"), strict=True))
    fitted = _effect(structure=Fingerprint(smiles)).fit(_held(_study(), "a2"))
    wider = fitted.with_structures({"hexanol": "CCCCCCO"})
    assert wider.vector(Condition("hexanol", dose=10, unit="nM")).shape == fitted.vector(Condition("a2", dose=10)).shape
    np.testing.assert_array_equal(_points(wider, *DRUGS), _points(fitted, *DRUGS))
    with pytest.raises(ConfigError, match="does not read molecules"):
        _effect().fit(_held(_study(), "a2")).with_structures({"hexanol": "CCCCCCO"})


@pytest.mark.parametrize(
    "encoder",
    [Effect(), Effect(structure=Table("a.csv"), space=PCA(dim=4), distance="sliced"), Effect(mode="seen_held_out")],
)
def test_settings_round_trip_as_plain_values(encoder):
    assert from_dict(to_dict(encoder)) == encoder
    assert hash(from_dict(to_dict(encoder))) == hash(encoder)


@pytest.mark.parametrize(
    ("make", "says"),
    [
        (lambda: Effect(mode="seen"), "'strict' or 'seen_held_out'"),
        (lambda: Effect(distance="energy"), "'gaussian', 'sliced', 'sinkhorn' or 'published'"),
        (lambda: Effect(dim=0), "dim"),
        (lambda: _effect(structure=None).fit(_held(_study(), "a2")), "cannot place the treatment 'a2'"),
        (lambda: _effect(structure=Context("cell_line")).fit(_held(_study(), "a2")), "leave contexts out"),
        (lambda: _effect(min_cells=1000).fit(_held(_study(), "a2")), "at least 3 treatments or doses"),
        (lambda: _effect(structure=None).fit(_held(_study(combination=True, drugs=DRUGS[1:]), "a2")), "'a1'"),
    ],
)
def test_wrong_settings_are_refused(make, says):
    with pytest.raises(ConfigError, match=says):
        make()


@pytest.mark.parametrize(
    ("condition", "says"),
    [
        (Condition("a11", dose=10, unit="nM"), "no cells: did you mean 'a1'"),
        (Condition("a1"), "needs a dose of 'a1': measured were a1@10nM, a1@1000nM"),
        (Condition("a1", dose=10, unit="ng/mL"), "Cannot convert"),
    ],
)
def test_conditions_that_cannot_be_encoded(condition, says):
    fitted = _effect(structure=None).fit(split.in_distribution(_study(), min_cells=1))
    assert not fitted.can_encode(condition)
    with pytest.raises(ConditionError, match=says):
        fitted.encode(condition)


def test_populations_without_difference_have_no_embedding():
    study = _study(lines=("A549",))
    study.adata.X[:] = np.tile(study.adata.X[:40], (study.n_obs // 40, 1))
    with pytest.raises(ConfigError, match="no difference"):
        _effect(structure=None).fit(_all_trained(study))


def test_small_populations_are_told():
    study = _study(n=12)
    keep = np.ones(study.n_obs, bool)
    keep[study.rows("b2@10nM | A549")[:9]] = False
    fitted = _effect(structure=None).fit(_all_trained(Study(study.adata[keep].copy(), study.design)))
    assert any("fewer than 10 cells" in note and "b2@10nM | A549" in note for note in fitted.notes)
