"""Run files can name every encoder, nested ones and their files included."""

from pathlib import Path

import pytest

from cellgap import encode
from cellgap.cli import _settings
from cellgap.errors import ConfigError

SPACE = {"kind": "PCA", "dim": 5}


def _read(encoder: object, base: Path) -> encode.AbstractEncoder:
    return _settings.estimator_of({"kind": "Gaussian", "space": SPACE, "encoder": encoder}, base).encoder


def test_molecules_and_effects(tmp_path: Path) -> None:
    for name in ("drugs.csv", "list.smi"):
        (tmp_path / name).write_text("name,smiles\n")
    structure = [{"kind": "Fingerprint", "source": "drugs.csv", "n_components": 4}, {"kind": "Dose"}]
    effect = {"kind": "Effect", "mode": "seen_held_out", "structure": structure, "space": SPACE}
    table = {"kind": "Descriptors2D", "source": "obs:smiles", "reference": "list.smi"}
    found = _read([effect, table, {"kind": "ContextTable", "column": "cell_line", "source": "drugs.csv"}], tmp_path)
    path = str(tmp_path / "drugs.csv")
    assert found.parts == (
        encode.Effect(
            mode="seen_held_out",
            structure=encode.Fingerprint(path, n_components=4) | encode.Dose(),
            space=found.parts[0].space,
        ),
        encode.Descriptors2D("obs:smiles", reference=str(tmp_path / "list.smi")),
        encode.ContextTable("cell_line", path),
    )
    assert found.parts[0].space.dim == 5


def test_words_are_not_paths(tmp_path: Path) -> None:
    for source in ("uns:smiles", "obs:smiles"):
        assert _read({"kind": "Fingerprint", "source": source}, tmp_path).source == source
    for reference in ("table", "training"):
        encoder = {"kind": "Descriptors2D", "source": "uns:smiles", "reference": reference}
        assert _read(encoder, tmp_path).reference == reference
    assert _read({"kind": "Table", "source": "varm:scgpt"}, tmp_path).source == "varm:scgpt"


@pytest.mark.parametrize(
    ("encoder", "says"),
    [
        ({"kind": "Fingerprint", "source": "absent.csv"}, "absent.csv' does not exist"),
        (
            {"kind": "Effect", "structure": {"kind": "Fingerprnt"}},
            "structure has the unknown kind 'Fingerprnt'.*Fingerp",
        ),
        ({"kind": "Effect", "mode": "seen"}, "'strict' or 'seen_held_out'"),
        ({"kind": "Effect", "space": [SPACE]}, "space must be a table, found a list"),
        ({"kind": "ContextTable"}, "needs 'column'"),
    ],
)
def test_mistakes_are_named(encoder: dict, says: str, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=says):
        _read(encoder, tmp_path)
