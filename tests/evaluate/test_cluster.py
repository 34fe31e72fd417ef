"""Evaluations spread over worker processes: the same table, whatever happens to a worker."""

import os
import pickle
import signal
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from dummies import CHEAP

from cellgap.encode import Dose, Table
from cellgap.errors import ConfigError, DataError, MissingExtraError
from cellgap.evaluate import evaluate, local_workers
from cellgap.space import PCA, Genes
from cellgap.study import Split, Study
from cellgap.study import split as splits
from cellgap.transport import Gaussian


@pytest.fixture(scope="module")
def on_disk(latent, tmp_path_factory) -> Split:
    """The study on disk, with its split."""
    study = latent.study()
    path = tmp_path_factory.mktemp("cluster") / "study.h5ad"
    study.adata.write_h5ad(path)
    return splits.unseen_treatment(Study.read(path, study.design, backed=True), ["A"], seed=0)


@dataclass
class Deadly:
    """Leaves cells as they are, and kills the first worker process that asks about a condition."""

    space: Any
    condition: str
    killed: Path
    parent: int
    name: str = "deadly"

    def transport(self, z, condition):
        if str(condition) == self.condition and os.getpid() != self.parent and not self.killed.exists():
            self.killed.write_text(str(os.getpid()))
            os.kill(os.getpid(), signal.SIGKILL)
        return z


@pytest.mark.slow
def test_a_killed_worker_loses_nothing_and_the_table_is_the_serial_one(latent, on_disk, tmp_path):
    encoder = Table(latent.descriptors) | Dose()
    fitted = Gaussian(space=PCA(dim=5, genes=Genes(transform="none")), encoder=encoder).fit(on_disk)
    victim = str(on_disk.test_conditions[1])
    models = {"map": fitted, "deadly": Deadly(fitted.space, victim, tmp_path / "killed", os.getpid())}
    options = {"metrics": CHEAP, "n_draws": 2, "progress": False}
    serial = evaluate(models, on_disk, **options)
    assert not (tmp_path / "killed").exists()
    with local_workers(2) as client:
        spread = evaluate(models, on_disk, **options, client=client)
        workers = set(client.run(os.getpid).values())
    assert int((tmp_path / "killed").read_text()) not in workers  # it was killed, and replaced
    assert len(serial.table) > 300 and set(serial.table["predictor"]) >= {"map", "deadly", "mean effect", "replicate"}
    pd.testing.assert_frame_equal(spread.table, serial.table, check_exact=True)
    pd.testing.assert_frame_equal(spread.conditions, serial.conditions, check_exact=True)
    assert spread.kinds == serial.kinds and spread.settings == serial.settings


def test_a_study_travels_as_it_is_and_one_on_disk_as_its_path(latent, on_disk, tmp_path):
    study = latent.study()
    for original, largest in ((study, None), (on_disk.study, 0.5 * study.adata.X.nbytes)):
        sent = pickle.dumps(original)
        assert largest is None or len(sent) < largest
        back = pickle.loads(sent)
        assert back.fingerprint == original.fingerprint
        assert dict(back.populations).keys() == dict(original.populations).keys()
        rows = np.asarray([5, 2, 900])
        np.testing.assert_array_equal(back.values(rows), study.values(rows))
        np.testing.assert_array_equal(back.rows(study.conditions[1]), study.rows(study.conditions[1]))
    path = tmp_path / "gone.h5ad"
    study.adata.write_h5ad(path)
    sent = pickle.dumps(Study.read(path, study.design, backed=True))
    path.unlink()
    with pytest.raises(DataError, match="There is no file"):
        pickle.loads(sent)


def test_no_client_no_dask_no_workers(oracle, split, mean_effect, monkeypatch):
    options: dict[str, Any] = {"metrics": ("r2_mean",), "progress": False, "baselines": {"mean effect": mean_effect}}
    with pytest.raises(ConfigError, match=r"client must be a distributed.Client, found str"):
        evaluate(oracle, split, client="tcp://127.0.0.1:8786", **options)
    with pytest.raises(ConfigError, match="workers must be at least 1, found 0"), local_workers(0):
        pass
    monkeypatch.setitem(sys.modules, "distributed", None)
    with pytest.raises(MissingExtraError, match=r"cellgap\[scale\]"):
        evaluate(oracle, split, client="any", **options)
    with pytest.raises(MissingExtraError, match=r"cellgap\[scale\]"), local_workers(1):
        pass
