"""The estimator on a small screen: what it keeps and drops, resume, storage, mistakes."""

import dataclasses

import jax.random as jr
import numpy as np
import pytest
from small_screen import DESIGN, small_cells, small_study

import cellgap as cg
from cellgap.embed import (
    FittedEmbedding,
    LinearEncoder,
    MLPEncoder,
    Neighbour,
    ResidualEncoder,
    SameCondition,
    Thin,
    knn_probe,
)
from cellgap.errors import ConfigError, DataError, StorageError
from cellgap.settings import from_dict, to_dict
from cellgap.train import Loop

TYPED = SameCondition(by="cell_type", across="donor")
SMALL = cg.ContrastiveEmbedding(
    pairs=TYPED,
    dim=8,
    tau=0.2,
    encoder=MLPEncoder(hidden=(32,)),
    loop=Loop(n_steps=150, chunk=50, valid_every=50),
    batch_size=64,
    warmup=10,
    n_pairs=1000,
    reference_dim=8,
    n_runs=2,
)


@pytest.fixture(scope="module")
def fitted() -> FittedEmbedding:
    return SMALL.fit(small_study(), key=jr.key(0))


def test_keeps_what_pairs_keep(fitted: FittedEmbedding) -> None:
    new = small_cells(300, seed=1)
    h = fitted.encode(new)
    assert h.shape == (300, 8) and h.dtype == np.float32
    assert np.linalg.norm(h, axis=1) == pytest.approx(np.ones(300), abs=1e-5)
    assert knn_probe(h, new.obs["cell_type"].to_numpy(str)).accuracy > 0.95
    assert knn_probe(h, new.obs["donor"].to_numpy(str)).accuracy < 0.45
    assert fitted.sampling.reach["cell_type"] == 0


def test_says_how_far_the_fit_got(fitted: FittedEmbedding) -> None:
    told = fitted.sampling.trained
    assert told is not None and told.floor < told.loss < told.matched + 2 and 0 < told.alignment < 1
    assert told.agreement is not None and 0 < told.agreement <= 1 and 1 <= told.effective_rank <= 8
    last = fitted.history[-1]
    assert {"loss", "alignment", "valid"} <= set(last) and last["loss"] < fitted.history[1]["loss"]
    gaps = {gap.name: gap for gap in fitted.gaps()}
    assert set(gaps) == {"diversity gap", "uniformity gap", "re-run gap"}
    assert gaps["diversity gap"].value == pytest.approx(1 - fitted.sampling.alpha)
    assert all(gap.value >= 0 and gap.remedy and gap.meaning for gap in gaps.values())


def test_saved_and_loaded(fitted: FittedEmbedding, tmp_path) -> None:
    fitted.save(tmp_path)
    again = cg.load(tmp_path)
    cells = small_cells(70, seed=2)
    assert (again.encode(cells) == fitted.encode(cells)).all()
    assert str(again.sampling) == str(fitted.sampling) and again.gaps() == fitted.gaps()


def test_cells_are_encoded_one_by_one(fitted: FittedEmbedding) -> None:
    cells = small_cells(70, seed=3)
    whole = fitted.encode(cells)
    assert fitted.encode(cells, rows=[5, 3]) == pytest.approx(whole[[5, 3]], abs=1e-6)
    turned = cells[:, ::-1].copy()
    assert fitted.encode(turned) == pytest.approx(whole, abs=1e-6)
    assert fitted.encode(cells, rows=[]).shape == (0, 8)
    assert fitted.encode(cells, output="hidden").shape == (70, 32)
    with pytest.raises(ConfigError, match="output is"):
        fitted.encode(cells, output="backbone")  # type: ignore[arg-type]
    with pytest.raises(DataError, match="genes that the space was fitted on are missing"):
        fitted.encode(cells[:, :20].copy())


def test_the_same_key_gives_the_same_bits_also_when_stopped(fitted: FittedEmbedding, tmp_path, monkeypatch) -> None:
    """Stopped by Ctrl-C after the first chunk and started again: as if it had never been stopped."""
    import os
    import signal

    from cellgap.train import _fit

    write, stops = _fit.write_checkpoint, []

    def interrupt(folder, saved, header) -> None:
        write(folder, saved, header)
        if not stops:
            stops.append(1)
            os.kill(os.getpid(), signal.SIGINT)

    monkeypatch.setattr(_fit, "write_checkpoint", interrupt)
    often = dataclasses.replace(SMALL, loop=dataclasses.replace(SMALL.loop, checkpoint_every=50))
    stopped = often.fit(small_study(), key=jr.key(0), folder=tmp_path)
    assert stopped.stopped == "interrupted" and len(stopped.history) < len(fitted.history)
    resumed = often.fit(small_study(), key=jr.key(0), folder=tmp_path)
    assert resumed.stopped == "finished" and resumed.history == fitted.history
    cells = small_cells(50, seed=4)
    assert (resumed.encode(cells) == fitted.encode(cells)).all()
    with pytest.raises(StorageError, match="another run"):
        dataclasses.replace(often, tau=0.3).fit(small_study(), key=jr.key(0), folder=tmp_path)


@pytest.mark.parametrize(
    "changes",
    [
        {"loss": "corrected", "pairs": TYPED | Thin(), "n_support": 4},
        {"loss": "mixed", "n_support": 4, "encoder": LinearEncoder()},
        {"mask": "cell", "encoder": ResidualEncoder(width=16, n_blocks=2), "pairs": Thin(hide=0.2) | Neighbour(5)},
        {"encoder": MLPEncoder(hidden=(16,), norm="batch"), "pairs": Thin(how="halves")},
    ],
    ids=["corrected", "mixed", "masked", "batch norm"],
)
def test_every_loss_and_family_learns(changes: dict) -> None:
    loop = Loop(n_steps=60, chunk=30, valid_every=60)
    fitted = dataclasses.replace(SMALL, n_runs=1, loop=loop, **changes).fit(small_study(300), key=jr.key(1))
    told = fitted.sampling.trained
    assert told is not None and told.agreement is None and np.isfinite(told.loss)
    assert fitted.history[-1]["loss"] < fitted.history[1]["loss"] + 0.02
    assert fitted.encode(small_cells(10)).shape == (10, 8)


def test_support_negatives_of_the_partners_law_are_refused() -> None:
    for pairs in (Thin(), SameCondition(), SameCondition(across="donor"), Neighbour()):
        with pytest.raises(ConfigError, match="draws negatives by the law of the partners"):
            dataclasses.replace(SMALL, pairs=pairs, loss="corrected").fit(small_study(), key=jr.key(0))


def test_insisting_collapses_every_support() -> None:
    """E22 on cells: with partners and negatives of one law the loss is least where an embedding is constant."""
    pairs = SameCondition(by=("cell_type", "drug"))
    loop = Loop(n_steps=300, chunk=150, valid_every=300)
    fitted = dataclasses.replace(
        SMALL, pairs=pairs, loss="corrected", insist=True, n_runs=1, loop=loop, n_support=8
    ).fit(small_study(300), key=jr.key(1))
    assert fitted.history[-1]["alignment"] > 0.97
    losses = [row["loss"] for row in fitted.history if "loss" in row]
    # log(M + 1) - log M is the least.
    assert min(losses) > np.log(9 / 8) - 1e-3 and losses[-1] == pytest.approx(np.log(9 / 8), abs=0.02)


def test_held_out_cells_of_a_split_are_not_read() -> None:
    study = small_study()
    divided = cg.split.leave_one_domain_out(study, "donor", "d3", min_cells=10)
    quick = dataclasses.replace(SMALL, n_runs=1, loop=Loop(n_steps=30, chunk=30, valid_every=30))
    fitted = quick.fit(divided, key=jr.key(0))
    cells = small_cells(480)
    other = cells.copy()
    rows = np.flatnonzero(cells.obs["donor"] == "d3")
    dense = other.X.toarray()
    dense[rows] = np.random.default_rng(0).permutation(dense[rows].ravel()).reshape(dense[rows].shape) + 1
    other.X = dense
    changed = cg.split.leave_one_domain_out(cg.Study(other, DESIGN), "donor", "d3", min_cells=10)
    assert (quick.fit(changed, key=jr.key(0)).encode(cells) == fitted.encode(cells)).all()


def test_cells_without_partner_do_not_judge() -> None:
    """Validation cells of one donor have no partner in another donor: training goes to its end."""
    study = small_study(300)
    obs = study.obs
    divided = cg.split.everything(study)
    assert len(obs) == 300
    few = dataclasses.replace(SMALL, n_runs=1, valid=0.05, loop=Loop(n_steps=30, chunk=30, valid_every=30))
    fitted = few.fit(divided, key=jr.key(0))
    assert "valid" not in fitted.history[-1] and fitted.best_step == 30


@pytest.mark.parametrize(
    ("changes", "error", "words"),
    [
        ({"batch_size": 5000}, ConfigError, "more than the"),
        ({"pairs": SameCondition(by="batch")}, DataError, "no column 'batch'"),
        ({"keep": "batch"}, DataError, "no column 'batch'"),
        ({"genes": cg.space.Genes(n_top=1000)}, ConfigError, "more genes than the study has"),
    ],
)
def test_mistakes_of_a_fit(changes: dict, error: type[Exception], words: str) -> None:
    with pytest.raises(error, match=words):
        dataclasses.replace(SMALL, **changes).fit(small_study(), key=jr.key(0))


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"loss": "mixed", "encoder": MLPEncoder(norm="batch")}, "batch norm would tell apart"),
        ({"loss": "corrected", "mask": "cell"}, "leave mask at"),
        ({"tau": 1e-5}, "below 1e-3"),
        ({"tau": 0.0}, "tau"),
        ({"rho": 1.5}, "rho"),
        ({"dim": 1}, "dim"),
        ({"loss": "triplet"}, "loss"),
    ],
)
def test_settings_are_checked(changes: dict, words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        dataclasses.replace(SMALL, **changes)


def test_settings_round_trip() -> None:
    assert from_dict(to_dict(SMALL)) == SMALL
    chosen = dataclasses.replace(SMALL, genes=cg.space.Genes(n_top=20), encoder=ResidualEncoder())
    assert from_dict(to_dict(chosen)) == chosen
