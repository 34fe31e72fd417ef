"""What the diagnosis says of samplers whose law is known: on the sphere, and on cells."""

import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.neighbors import NearestNeighbors
from small_screen import DESIGN, small_cells, small_study

import cellgap as cg
from cellgap.embed import Neighbour, Restart, SameCondition, SamplingDiagnosis, Thin, diagnose, moved_variance
from cellgap.embed._sampling import Direction, Factor, Trained
from cellgap.embed.sphere import Frozen, VonMisesFisher, mean_cosine, uniform
from cellgap.errors import ConfigError, DataError

KAPPA = 1 / 0.3
N = 20_000


@pytest.fixture(scope="module")
def sphere() -> jax.Array:
    return uniform(jr.key(0), N, 3)


def test_full_support_moves_all_directions_alike(sphere: jax.Array) -> None:
    """E14: every eigenvalue is 1 - A_3(kappa) = .2975."""
    partner = VonMisesFisher(KAPPA).partner(jr.key(1), sphere)
    spectrum = moved_variance(np.asarray(sphere), np.asarray(partner))
    assert spectrum.rho == pytest.approx(np.full(3, 1 - float(mean_cosine(3, KAPPA))), abs=0.01)
    assert float(1 - mean_cosine(3, KAPPA)) == pytest.approx(0.297451, abs=1e-6)
    assert spectrum.anisotropy > 0.9


def test_frozen_direction_is_found(sphere: jax.Array) -> None:
    """E15, and the rest of the spectrum of section 2.4 of the source for the intrinsic sampler: .166, .170."""
    partner = Frozen(KAPPA, concentration="intrinsic").partner(jr.key(1), sphere)
    spectrum = moved_variance(np.asarray(sphere), np.asarray(partner))
    assert spectrum.rho[0] < 1e-12
    assert spectrum.rho[1:] == pytest.approx([0.168, 0.168], abs=0.006)
    assert np.abs(spectrum.directions[:, 0] / np.linalg.norm(spectrum.directions[:, 0]))[0] == pytest.approx(
        1, abs=1e-3
    )


def test_jitter_thaws_it(sphere: jax.Array) -> None:
    """Frozen with jitter 0.3: .073, .168, .173; with 0.05: .002, .166, .171."""
    for jitter, least in ((0.3, 0.073), (0.05, 0.002)):
        sampler = Frozen(KAPPA, concentration="intrinsic", jitter=jitter)
        spectrum = moved_variance(np.asarray(sphere), np.asarray(sampler.partner(jr.key(1), sphere)))
        assert spectrum.rho[0] == pytest.approx(least, abs=0.006)
        assert spectrum.rho[1:] == pytest.approx([0.168, 0.172], abs=0.008)


def test_neighbours_are_isotropic_and_weak() -> None:
    """Ten nearest of a pool of 4,000: .0027 to .0029."""
    pool = np.asarray(uniform(jr.key(0), 4000, 3), float)
    near = NearestNeighbors(n_neighbors=10).fit(pool).kneighbors(return_distance=False)
    chosen = near[np.arange(4000), np.random.default_rng(0).integers(0, 10, 4000)]
    spectrum = moved_variance(pool, pool[chosen])
    assert spectrum.rho == pytest.approx(np.full(3, 0.0028), abs=3e-4)
    assert spectrum.anisotropy > 0.85


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 10_000), st.integers(2, 6))
def test_spectrum_does_not_change_under_linear_maps(seed: int, d: int) -> None:
    rng = np.random.default_rng(seed)
    x, y = rng.normal(size=(2, 200, d))
    matrix = rng.normal(size=(d, d)) + 2 * np.eye(d)
    if np.linalg.cond(matrix) > 100:
        return
    there, here = moved_variance(x @ matrix + 3.0, y @ matrix + 3.0), moved_variance(x, y)
    assert there.rho == pytest.approx(here.rho, rel=1e-6)
    assert here.rho == pytest.approx(np.sort(here.rho)) and (here.rho >= 0).all()


def test_constant_coordinates_are_left_out() -> None:
    x = np.random.default_rng(0).normal(size=(100, 3))
    x[:, 2] = 1.0
    assert moved_variance(x, x).rho == pytest.approx([0, 0], abs=1e-12)
    with pytest.raises(DataError, match="do not vary"):
        moved_variance(np.ones((5, 2)), np.ones((5, 2)))
    with pytest.raises(DataError, match="one shape"):
        moved_variance(np.ones((5, 2)), np.ones((4, 2)))
    with pytest.raises(DataError, match="not finite"):
        moved_variance(np.full((5, 2), np.nan), np.ones((5, 2)))


@pytest.fixture(scope="module")
def found() -> dict[str, SamplingDiagnosis]:
    study = small_study()
    samplers = {
        "thin": Thin(),
        "same": SameCondition(across="donor"),
        "typed": SameCondition(across="donor", within="cell_type"),
        "any": Restart(),
        "near": Neighbour(8),
        "mixed": SameCondition(across="donor") | Thin(),
        "floor": SameCondition(across="donor", within="cell_type") | Restart(0.1),
    }
    return {
        name: diagnose(
            study, pairs, key=jr.key(0), keep=["cell_type"], nuisance=["donor"], factors=["score"], n_pairs=2048,
            reference_dim=10,
        )
        for name, pairs in samplers.items()
    }  # fmt: skip


def test_reach(found: dict[str, SamplingDiagnosis]) -> None:
    thin = found["thin"].reach
    assert thin["treatment"] == thin["donor"] == thin["cell_type"] == thin["score"] == 0
    assert thin["depth"] > 0.1
    same = found["same"].reach
    assert same["treatment"] == 0 and same["donor"] == pytest.approx(1.5, abs=0.05)
    assert same["cell_type"] == pytest.approx(1, abs=0.1) and same["score"] == pytest.approx(1, abs=0.15)
    typed = found["typed"].reach
    assert typed["cell_type"] == 0 and typed["treatment"] == 0 and typed["donor"] > 1.3
    assert all(value == pytest.approx(1, abs=0.12) for value in found["any"].reach.values())
    mixed = found["mixed"].reach
    assert mixed["donor"] == pytest.approx(same["donor"] / 2, abs=0.08)
    assert found["floor"].reach["cell_type"] == pytest.approx(0.1 / 1.1, abs=0.03)


def test_spectrum_of_cells(found: dict[str, SamplingDiagnosis]) -> None:
    assert found["any"].rho == pytest.approx(np.ones(10), abs=0.15) and found["any"].alpha > 0.8
    same = found["same"]
    assert same.directions[0].factors[0][0] == "treatment" and same.directions[0].factors[0][1] > 0.7
    assert set(same.directions[0].genes) <= {f"g{i}" for i in range(45, 55)}
    typed = found["typed"].directions
    assert {d.factors[0][0] for d in typed[:3]} == {"treatment", "cell_type"}
    assert found["thin"].alpha < 0.5


def test_graph(found: dict[str, SamplingDiagnosis]) -> None:
    n = {name: d.components for name, d in found.items()}
    assert n["thin"] == found["thin"].n_cells and n["same"] == 2 and n["typed"] == 6 and n["any"] == n["floor"] == 1
    assert found["any"].lambda_2 < 0.5 < found["floor"].lambda_2 < found["near"].lambda_2 + 1e-9 or n["near"] > 1


def test_coverage(found: dict[str, SamplingDiagnosis]) -> None:
    for diagnosis in found.values():
        shares = [share for _, share in diagnosis.coverage]
        assert shares == sorted(shares) and 0 <= shares[0] <= 1
    last = {name: dict(d.coverage)[5000] for name, d in found.items()}
    assert last["any"] > 0.99 and 0.6 > last["same"] > 1.5 * last["typed"] and last["typed"] > last["near"]


def test_sentences(found: dict[str, SamplingDiagnosis]) -> None:
    warnings = {name: " ".join(d.warnings) for name, d in found.items()}
    assert "donor is listed as nuisance but pairs never change it" in warnings["thin"]
    assert "cell_type is listed to keep but pairs change it" in warnings["same"]
    assert "2 islands" in warnings["same"] and "islands" not in warnings["any"]
    assert "listed" not in warnings["typed"]
    text = str(found["typed"])
    assert "SameCondition(across='donor', within='cell_type')" in text and "Pairs never change" in text
    assert not any("diversity violated" in str(d) or "geometry lost" in str(d) for d in found.values())
    assert "moves all 10 directions" in str(found["any"])
    assert found["same"].frame()["verdict"].tolist().count("frozen") == 1


def plain(**changes: object) -> SamplingDiagnosis:
    values: dict[str, object] = {
        "pairs": "p", "reference": "r", "n_cells": 100, "n_able": 100, "n_pairs": 1000, "rho": np.asarray([0.5, 1.0]),
        "directions": (Direction(0.5, ("g1",), (("donor", 0.8),)), Direction(1.0, ("g2",), ())),
        "factors": (Factor("donor", 0.6, ""),), "coverage": ((50, 0.1),), "components": 1, "lambda_2": 0.1,
        "alignment": 0.5, "kappa": 1.0, "tau": 0.1, "surplus": 0.5,
    }  # fmt: skip
    return SamplingDiagnosis(**(values | changes))  # type: ignore[arg-type]


def trained(**changes: float | None) -> Trained:
    values: dict[str, float | None] = {
        "loss": -5.0, "floor": -8.0, "matched": -4.0, "alignment": 0.5, "uniformity_gap": 0.1, "effective_rank": 3.0,
        "agreement": 0.99,
    }  # fmt: skip
    return Trained(**(values | changes))  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("changes", "level", "words"),
    [
        ({"rho": np.asarray([0.6, 1.0])}, "ok", "by comparable amounts"),
        ({"rho": np.asarray([0.2, 1.0])}, "note", "moves 5.0x less"),
        ({"rho": np.asarray([0.03, 1.0])}, "warn", "moves 33x less"),
        ({"rho": np.asarray([0.01, 1.0])}, "warn", "1 of 2 directions never move"),
        ({"components": 3}, "warn", "3 islands"),
        ({"n_pairs": 90}, "note", "Too few pairs for a spectrum (relative error about 0.15)"),
        ({"n_able": 90}, "note", "10 of 100 cells have no partner"),
        ({"factors": (Factor("donor", 0.01, "nuisance"),)}, "warn", "it will stay in the embedding"),
        ({"factors": (Factor("type", 0.6, "keep"),)}, "warn", "it will be compressed"),
        ({"trained": trained(loss=-7.9)}, "warn", "the varied part has been dropped"),
        ({"trained": trained(uniformity_gap=0.5)}, "note", "not spread out"),
        ({"trained": trained(agreement=0.5)}, "warn", "Two runs disagree (R2 0.50)"),
    ],
)
def test_every_rule_has_its_sentence(changes: dict[str, object], level: str, words: str) -> None:
    found = [s for s in plain(**changes).sentences() if words in s.text]
    assert [s.level for s in found] == [level]
    assert not any(words in s.text for s in plain(trained=trained()).sentences() if words != "by comparable amounts")


def test_mistakes_come_before_any_work() -> None:
    study = small_study(200)
    with pytest.raises(DataError, match="no column 'batch'"):
        diagnose(study, Thin(), key=jr.key(0), keep=["batch"])
    with pytest.raises(ConfigError, match="both to keep and as nuisance"):
        diagnose(study, Thin(), key=jr.key(0), keep=["donor"], nuisance=["donor"])
    atlas = cg.Study(small_cells(200), cg.Design(context=("cell_type",), donor="donor", counts="X"))
    with pytest.raises(DataError, match="names no treatment"):
        diagnose(atlas, Thin(), key=jr.key(0), keep=["treatment"])
    values = small_cells(200)
    values.X = np.log1p(values.X.toarray())
    measured = cg.Study(values, cg.Design(treatment="drug", control="none", donor="donor"))
    with pytest.raises(DataError, match="have no depth"):
        diagnose(measured, SameCondition(), key=jr.key(0), nuisance=["depth"])
    with pytest.raises(DataError, match="holds no counts"):
        diagnose(measured, Thin(), key=jr.key(0))
    assert DESIGN.counts == "X"


def test_other_measurements_have_a_diagnosis_too() -> None:
    values = small_cells(200)
    values.X = np.log1p(values.X.toarray())
    study = cg.Study(values, cg.Design(treatment="drug", control="none", donor="donor"))
    found = diagnose(study, SameCondition(), key=jr.key(0), n_pairs=1000, reference_dim=5)
    assert found.reach["treatment"] == 0 and "depth" not in found.reach and len(found.rho) == 5
    again = diagnose(study, SameCondition(), key=jr.key(0), n_pairs=1000, reference_dim=5)
    assert (again.rho == found.rho).all() and again.reach == found.reach
    assert jnp.isfinite(found.kappa)
