"""What is wrong with a run file is said before the data are read."""

from pathlib import Path

import pytest

from cellgap.cli._run_file import read_run_file
from cellgap.cli._run_folder import claim
from cellgap.errors import CellgapError, ConfigError, DesignError
from cellgap.settings import from_dict

WRONG = [
    (("[split]", "[splits]"), "no section 'splits': did you mean 'split'"),
    (('path = "screen.h5ad"', 'paht = "screen.h5ad"'), r"\[data\] has no key 'paht': did you mean 'path'"),
    (('path = "screen.h5ad"', 'path = "absent.h5ad"'), r"\[data\] path: there is no file .*absent.h5ad"),
    (('path = "screen.h5ad"', "path = 3"), r"\[data\] path must be a text, found 3"),
    (('path = "design.toml"', 'path = "absent.toml"'), "Cannot read the design .*absent.toml"),
    (('path = "design.toml"', 'path = "design.toml"\ncounts = "X"'), "both a path and 'counts'"),
    (('path = "design.toml"', 'treatmnt = "drug"'), "Design has no field 'treatmnt'|treatment"),
    (('"unseen_treatment"', '"unseen_drug"'), "Unknown kind of split 'unseen_drug': did you mean 'unseen_"),
    (('names = ["C1"]', 'name = ["C1"]'), "no parameter 'name': did you mean 'names'"),
    (('names = ["C1"]', ""), "needs 'names'"),
    (('"ConditionalMonge"', '"ConditionalMongue"'), "unknown kind 'ConditionalMongue': did you mean 'ConditionalM"),
    (('kind = "PCA", dim = 5', 'kind = "PCA", dims = 5'), "space .PCA. has no setting 'dims': did you mean 'dim'"),
    (('kind = "PCA", dim = 5', 'kind = "PCA", dim = 0'), r"PCA\(dim=...\) is wrong: .*greater than or equal to 1"),
    (('kind = "PCA", dim = 5', "dim = 5"), "space has no kind: expected one of PCA, Genes"),
    (('space = { kind = "PCA", dim = 5 }', ""), "needs 'space': a table of kind PCA, Genes"),
    (("n_steps = 60", "n_stpes = 60"), "loop .Loop. has no setting 'n_stpes': did you mean 'n_steps'"),
    (("n_steps = 60", 'n_steps = "many"'), r"Loop\(n_steps=...\) is wrong.*'many'"),
    (('source = "drugs.csv"', 'source = "absent.csv"'), "file .*absent.csv' does not exist"),
    (("seed = 3", "seed = -3"), "seed must be a whole number of 0 or more, found -3"),
    (("seed = 3", "seed = = 3"), r"not valid TOML: .*line 24"),
]


@pytest.mark.parametrize(("change", "says"), WRONG, ids=[change[1] or "left out" for change, _ in WRONG])
def test_refuses(change: tuple[str, str], says: str, screen: Path, tmp_path: Path) -> None:
    for name in ("design.toml", "drugs.csv", "screen.h5ad"):
        (tmp_path / name).symlink_to(screen / name)
    path = tmp_path / "run.toml"
    text = (screen / "run.toml").read_text()
    assert change[0] in text
    path.write_text(text.replace(*change))
    with pytest.raises(CellgapError, match=says) as error:
        read_run_file(path)
    assert "run.toml" in str(error.value) and "\n" not in str(error.value)
    assert isinstance(error.value, ConfigError | DesignError)


def test_values_can_be_set_from_outside(screen: Path, tmp_path: Path) -> None:
    changes = ("model.optimization.loop.n_steps=7", "run.seed=5", "model.start=identity", "model.cost=sqeuclidean")
    run = read_run_file(screen / "run.toml", changes, tmp_path / "there")
    model = from_dict(run.model)
    assert model.optimization.loop.n_steps == 7 and model.start == "identity" and model.cost == "sqeuclidean"
    assert run.seed == run.split["seed"] == 5 and run.folder == tmp_path / "there"
    with pytest.raises(ConfigError, match=r"--set expects section\.key=value"):
        read_run_file(screen / "run.toml", ("n_steps",))
    with pytest.raises(ConfigError, match="did you mean 'n_steps'"):
        read_run_file(screen / "run.toml", ("model.optimization.loop.nsteps=7",))


def test_paths_are_those_of_the_run_file(screen: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    run = read_run_file(screen / "run.toml")
    assert run.data == (screen / "screen.h5ad").resolve() and run.folder == (screen / "run").resolve()
    table = from_dict(run.model).encoder.parts[0]
    assert Path(table.source) == (screen / "drugs.csv").resolve()


def test_what_is_kept_gives_the_same_run(screen: Path, tmp_path: Path) -> None:
    run = read_run_file(screen / "run.toml", folder=tmp_path / "run")
    claim(run)
    kept = read_run_file(tmp_path / "run" / "run.toml", folder=tmp_path / "run")
    assert kept.to_dict() == run.to_dict()
    claim(kept)


def test_a_folder_keeps_one_run(screen: Path, tmp_path: Path) -> None:
    claim(read_run_file(screen / "run.toml", folder=tmp_path / "run"))
    # what never began to train may be corrected
    claim(read_run_file(screen / "run.toml", ('split.names=["D7"]',), tmp_path / "run"))
    claim(read_run_file(screen / "run.toml", folder=tmp_path / "run"))
    (tmp_path / "run" / "checkpoint.eqx").write_text("")
    for change, says in (("model.gap_weight=2.0", "model.gap_weight = 1.0 instead of 2.0"), ("run.seed=4", "seed = 3")):
        with pytest.raises(ConfigError, match="holds another run") as error:
            claim(read_run_file(screen / "run.toml", (change,), tmp_path / "run"))
        assert says in str(error.value)
    (tmp_path / "file").write_text("")
    with pytest.raises(ConfigError, match="is a file"):
        claim(read_run_file(screen / "run.toml", folder=tmp_path / "file"))
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "model.json").write_text("{}")
    with pytest.raises(ConfigError, match="not fitted by a run file"):
        claim(read_run_file(screen / "run.toml", folder=tmp_path / "model"))
