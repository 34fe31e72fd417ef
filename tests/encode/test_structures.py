"""Molecules as numbers: RDKit's own values, where SMILES come from, and what is said about bad ones."""

import sys

import numpy as np
import pandas as pd
import pytest
from anndata import AnnData

from cellgap import storage
from cellgap.encode import Descriptors2D, Dose, Fingerprint, FittedEncoder, OneHot
from cellgap.encode._structures import molecules, read_structures
from cellgap.errors import ConditionError, ConfigError, DataError, MissingExtraError
from cellgap.settings import from_dict, to_dict
from cellgap.study import Condition, Design, Split, Study, Treatment, split

pytest.importorskip("rdkit")

SMILES = {
    "aspirin": "CC(=O)Oc1ccccc1C(=O)O",
    "caffeine": "Cn1c(=O)c2c(ncn2C)n(C)c1=O",
    "ibuprofen": "CC(C)Cc1ccc(cc1)C(C)C(=O)O",
    "paracetamol": "CC(=O)Nc1ccc(O)cc1",
}
SPARE = {"salicylate": "OC(=O)c1ccccc1O", "cisplatin": "N.N.Cl[Pt]Cl"}


def _study(*, table: object = None, combination: bool = False) -> Study:
    rows = [("vehicle", 0.0)] * 12 + [(name, dose) for name in SMILES for dose in (10.0, 1000.0) for _ in range(4)]
    rows += [("aspirin+caffeine", 10.0)] * 4 * combination
    obs = pd.DataFrame(rows, columns=["drug", "dose_nM"], index=[f"c{i}" for i in range(len(rows))])
    obs["smiles"] = [SMILES.get(name, np.nan) for name in obs["drug"]]
    uns = {"smiles": {**SMILES, **SPARE} if table is None else table}
    return Study(
        AnnData(np.ones((len(obs), 2), np.float32), obs=obs, uns=uns),
        Design(treatment="drug", control="vehicle", dose="dose_nM"),
    )


def _split(study: Study | None = None, *held: str) -> Split:
    return split.unseen_treatment(study or _study(), list(held or ["paracetamol"]), min_cells=1)


def _direct(smiles: str, *, radius: int = 2, n_bits: int = 1024, counts: bool = False) -> np.ndarray:
    from rdkit import Chem
    from rdkit.Chem import rdFingerprintGenerator as generators

    generator = generators.GetMorganGenerator(radius=radius, fpSize=n_bits)
    call = generator.GetCountFingerprint if counts else generator.GetFingerprint
    return np.array(list(call(Chem.MolFromSmiles(smiles))), float)


@pytest.mark.parametrize("setting", [{}, {"radius": 3, "n_bits": 512}, {"counts": True}])
def test_fingerprints_are_those_of_rdkit(setting):
    (block,) = Fingerprint(**setting).fit(_split()).blocks
    kept = [int(name.removeprefix("bit ")) for name in block.columns]
    direct = {name: _direct(text, **setting) for name, text in {**SMILES, **SPARE}.items()}
    for name, bits in direct.items():
        np.testing.assert_array_equal(block.treatment(Treatment(name)), bits[kept])
    trained = np.stack([direct[name] for name in ("aspirin", "caffeine", "ibuprofen")])
    np.testing.assert_array_equal(kept, np.flatnonzero(trained.std(0) > 0))


@pytest.mark.parametrize("counts", [False, True])
def test_tanimoto_similarity_is_that_of_rdkit(counts):
    from rdkit import Chem, DataStructs
    from rdkit.Chem import rdFingerprintGenerator as generators

    generator = generators.GetMorganGenerator(radius=2, fpSize=1024)
    call = generator.GetCountFingerprint if counts else generator.GetFingerprint
    new, *old = (call(Chem.MolFromSmiles(SMILES[n])) for n in ("paracetamol", "aspirin", "caffeine", "ibuprofen"))
    expected = [DataStructs.TanimotoSimilarity(new, other) for other in old]
    fitted = Fingerprint(counts=counts).fit(_split())
    nearest, similarity = fitted.blocks[0].nearest("paracetamol")
    assert nearest == ("aspirin", "caffeine", "ibuprofen")[int(np.argmax(expected))]
    assert similarity == pytest.approx(max(expected), rel=1e-12)
    (reason,) = fitted.extrapolation(Condition("paracetamol", dose=10))
    assert f"{nearest} (Tanimoto similarity {similarity:.2f})" in reason
    assert fitted.extrapolation(Condition("aspirin", dose=10)) == ()


def test_components_keep_distances_and_are_few():
    encoder = Fingerprint(n_components=50)
    (block,) = encoder.fit(_split()).blocks
    (bits,) = Fingerprint().fit(_split()).blocks
    names = list(block.names)
    assert len(block.columns) == len(names) - 1
    low = np.stack([block.treatment(Treatment(n)) for n in names]).astype(float)
    high = np.stack([bits.treatment(Treatment(n)) for n in names]).astype(float)
    distances = [np.linalg.norm(x[:, None] - x[None], axis=-1) for x in (low, high)]
    ratio = distances[1][0, 1] / distances[0][0, 1]
    np.testing.assert_allclose(distances[0] * ratio, distances[1], rtol=1e-4, atol=1e-4)
    np.testing.assert_allclose(low[:, 0].std(), 1, rtol=1e-5)
    np.testing.assert_allclose(low.mean(0), 0, atol=1e-5)
    assert len(Fingerprint(n_components=2).fit(_split()).columns) == 2


def test_descriptors_of_known_molecules():
    (block,) = Descriptors2D().fit(_split()).blocks
    raw = dict(zip(block.kept, (block.treatment(Treatment("aspirin")) * block.sd + block.mean).T, strict=True))
    # C9H8O4: the molecular weight by hand, hydrogen bond donors and acceptors, Crippen logP and Ertl TPSA as published.
    assert raw["MolWt"] == pytest.approx(9 * 12.011 + 8 * 1.008 + 4 * 15.999, rel=1e-4)
    assert raw["MolLogP"] == pytest.approx(1.3101, abs=1e-3)
    assert raw["TPSA"] == pytest.approx(63.60, abs=1e-2)
    assert raw["HeavyAtomCount"] == pytest.approx(13, rel=1e-5)


def test_the_published_descriptors_are_two_hundred():
    (block,) = Descriptors2D().fit(_split()).blocks
    assert len(block.kept) + len(block.dropped) == 200
    (every,) = Descriptors2D(descriptors="all").fit(_split()).blocks
    assert {"Phi", "AvgIpc"} <= set(every.kept) | set(every.dropped)
    assert not {"Phi", "AvgIpc", "BCUT2D_MWHI"} & (set(block.kept) | set(block.dropped))


@pytest.mark.parametrize(
    ("reference", "rows"),
    [
        ("table", [*SMILES, *SPARE]),
        ("training", ["aspirin", "caffeine", "ibuprofen"]),
        (tuple(SMILES.values()), list(SMILES)),
    ],
)
def test_columns_are_standardized_over_the_reference(reference, rows):
    (block,) = Descriptors2D(reference=reference).fit(_split()).blocks
    values = np.stack([block.treatment(Treatment(n)) for n in rows]).astype(float)
    np.testing.assert_allclose(values.mean(0), 0, atol=1e-5)
    np.testing.assert_allclose(values.std(0), 1, atol=1e-5)
    assert (block.sd > 0.01).all()


def test_columns_without_spread_are_dropped():
    everything = Descriptors2D(min_sd=0).fit(_split()).blocks[0].kept
    some = Descriptors2D(min_sd=0.5).fit(_split()).blocks[0]
    assert set(some.kept) < set(everything) and (some.sd > 0.5).all()
    trained = np.stack([some.treatment(Treatment(n)) for n in some.trained])
    assert (trained.std(0) > 0).all()


def test_reference_from_a_file(tmp_path):
    (tmp_path / "list.smi").write_text("\n".join(f"{text} {name}" for name, text in SMILES.items()) + "\n")
    pd.DataFrame({"id": list(SMILES), "SMILES": list(SMILES.values())}).to_csv(tmp_path / "list.csv", index=False)
    expected = Descriptors2D(reference=tuple(SMILES.values())).fit(_split()).blocks[0]
    for name in ("list.smi", "list.csv"):
        block = Descriptors2D(reference=tmp_path / name).fit(_split()).blocks[0]
        np.testing.assert_array_equal(block.values, expected.values)


def test_values_that_are_not_finite_become_zero_and_are_told():
    # RDKit has no partial charges for platinum.
    fitted = Descriptors2D().fit(_split())
    (block,) = fitted.blocks
    told = {descriptor for name, descriptor in block.replaced if name == "cisplatin"}
    assert "MaxPartialCharge" in told and {name for name, _ in block.replaced} == {"cisplatin"}
    kept = [name for name in told if name in block.kept]
    raw = dict(zip(block.kept, block.treatment(Treatment("cisplatin")) * block.sd + block.mean, strict=True))
    assert kept and all(raw[name] == pytest.approx(0, abs=1e-6) for name in kept)
    assert any("cisplatin are not finite and were set to 0" in note for note in fitted.notes)
    assert not Descriptors2D().fit(_split(_study(table=SMILES))).notes


def test_same_molecules_are_told():
    table = {**SMILES, "acetylsalicylic acid": "O=C(C)Oc1ccccc1C(O)=O"}
    for encoder in (Fingerprint(table), Descriptors2D(table)):
        (note,) = encoder.fit(_split()).notes
        assert "aspirin, acetylsalicylic acid are the same molecule" in note and "trained on: aspirin" in note


@pytest.mark.parametrize("encoder", [Fingerprint(), Fingerprint(n_components=2, counts=True), Descriptors2D()])
def test_new_molecules_join_without_moving_others(encoder):
    before = encoder.fit(_split(_study(table={n: s for n, s in {**SMILES, **SPARE}.items() if n != "salicylate"})))
    after = (before).with_structures({"salicylate": SPARE["salicylate"]})
    for name in SMILES:
        condition = Condition(name, dose=10)
        np.testing.assert_array_equal(before.vector(condition), after.vector(condition))
    assert not before.can_encode(Condition("salicylate"))
    assert "salicylate was not trained on" in after.extrapolation(Condition("salicylate"))[0]
    # A new name for a known molecule gets the numbers of that molecule.
    again = before.with_structures({"Aspirin 2": SMILES["aspirin"]})
    np.testing.assert_allclose(
        again.vector(Condition("Aspirin 2")), before.vector(Condition("aspirin")), rtol=1e-6, atol=1e-6
    )
    with pytest.raises(ConditionError, match="has a structure of 'aspirin' already"):
        before.with_structures({"aspirin": "CCO"})
    with pytest.raises(DataError, match=r"'bad'.*'C1CC'"):
        before.with_structures({"bad": "C1CC"})
    with pytest.raises(ConditionError, match="'none' is empty"):
        before.with_structures({"none": ""})


def test_encoders_without_molecules_take_no_new_ones():
    with pytest.raises(ConfigError, match=r"needs a Fingerprint\(\) or Descriptors2D\(\)"):
        OneHot().fit(_split()).with_structures({"x": "CCO"})


@pytest.mark.parametrize("encoder", [Fingerprint(), Fingerprint(n_components=3), Descriptors2D()])
def test_saved_encoders_load_without_rdkit(encoder, tmp_path, monkeypatch):
    study = _study(combination=True)
    fitted = (encoder | Dose()).fit(_split(study))
    storage.save(fitted, tmp_path)
    for name in [n for n in sys.modules if n.partition(".")[0] == "rdkit"]:
        monkeypatch.setitem(sys.modules, name, None)
    monkeypatch.setitem(sys.modules, "rdkit", None)
    back = storage.load(tmp_path)
    assert (back.columns, back.notes) == (fitted.columns, fitted.notes)
    for condition in study.all_conditions:
        np.testing.assert_array_equal(back.vector(condition), fitted.vector(condition))
        assert back.extrapolation(condition) == fitted.extrapolation(condition)
    with pytest.raises(MissingExtraError, match=r'pip install "cellgap\[chem\]"'):
        back.with_structures({"x": "CCO"})
    with pytest.raises(MissingExtraError, match=r"cellgap\[chem\]"):
        encoder.fit(_split(study))


def _vectors(fitted: FittedEncoder) -> np.ndarray:
    return np.stack([fitted.vector(Condition(name, dose=10)) for name in SMILES])


def test_sources_give_the_same_numbers(tmp_path):
    frame = pd.DataFrame({"label": list(SMILES), "SMILES": list(SMILES.values()), "target": "?"})
    frame.to_csv(tmp_path / "drugs.csv", index=False)
    frame[["target", "SMILES", "label"]].to_csv(tmp_path / "drugs.tsv", sep="\t", index=False)
    expected = _vectors(Fingerprint(SMILES).fit(_split()))
    indexed = frame.set_index("label")
    for encoder in (
        Fingerprint(tmp_path / "drugs.csv"),
        Fingerprint(str(tmp_path / "drugs.tsv"), name_column="label"),
        Fingerprint("obs:smiles"),
        Fingerprint(indexed),
        Fingerprint(indexed["SMILES"]),
    ):
        np.testing.assert_array_equal(_vectors(encoder.fit(_split())), expected)
    study = _study(table=indexed)
    np.testing.assert_array_equal(_vectors(Fingerprint().fit(_split(study))), expected)


@pytest.mark.data
def test_a_real_table_with_an_empty_row(data_dir):
    path = str(data_dir / "drugs.tsv")
    structures = read_structures(path, _study(), "name_in_data", "smiles")
    names, _ = molecules(structures)
    assert "palbociclib" in names and set(structures.names) - set(names) == {"akt-inhibitor"}
    with pytest.raises(ConditionError, match="no SMILES of the treatment 'aspirin'"):
        Descriptors2D(path, name_column="name_in_data").fit(_split())


def test_names_in_a_file_are_text(tmp_path):
    (tmp_path / "drugs.csv").write_text("name,smiles\nNA,CCO\n007,CCN\n")
    assert read_structures(str(tmp_path / "drugs.csv"), _study(), None, "smiles").names == ("NA", "007")


@pytest.mark.parametrize("kind", [Fingerprint, Descriptors2D])
@pytest.mark.parametrize(
    ("table", "error", "says"),
    [
        (
            {**SMILES, "ibuprofen": "CC(C)(C)(C)C"},
            DataError,
            r"Row 3 \(treatment 'ibuprofen'\).*'CC\(C\)\(C\)\(C\)C'.*valence",
        ),
        ({**SMILES, "aspirin": "not a molecule"}, DataError, r"Row 1 \(treatment 'aspirin'\).*cannot be parsed"),
        ({**SMILES, "caffeine": ""}, ConditionError, "'caffeine': row 2 of the table has an empty one"),
        (
            {k: v for k, v in SMILES.items() if k != "ibuprofen"} | {"ibuprofene": "C"},
            ConditionError,
            "mean 'ibuprofene'",
        ),
        (dict.fromkeys(SMILES, ""), DataError, "has no SMILES"),
        (3.5, DataError, "is a float: expected a mapping"),
        (pd.DataFrame({"structure": ["C"]}), DataError, "no column 'smiles': its columns are \"structure\""),
    ],
)
def test_bad_tables_are_refused(kind, table, error, says):
    with pytest.raises(error, match=says):
        kind().fit(_split(_study(table=table)))


@pytest.mark.parametrize(
    ("make", "error", "says"),
    [
        (lambda: Fingerprint("drugs.xlsx"), ConfigError, ".csv, .tsv or .txt"),
        (lambda: Fingerprint(n_bits=0), ConfigError, "n_bits"),
        (lambda: Fingerprint(radius=-1), ConfigError, "radius"),
        (lambda: Fingerprint(n_components=0), ConfigError, "n_components"),
        (lambda: Descriptors2D(descriptors="some"), ConfigError, "'published' or 'all'"),
        (lambda: Fingerprint(pd.Series(["C", "N"], index=["a", "a"])), DataError, "'a' twice, in rows 1 and 2"),
        (lambda: Fingerprint("uns:smile").fit(_split()), DataError, "did you mean 'smiles'"),
        (lambda: Fingerprint("obs:smile").fit(_split()), DataError, "did you mean 'smiles'"),
        (lambda: Fingerprint("none.csv").fit(_split()), DataError, "cannot be read"),
        (lambda: Descriptors2D(reference="none.smi").fit(_split()), DataError, "cannot be read"),
        (lambda: Descriptors2D(reference=("C", "?")).fit(_split()), DataError, r"Row 2 \(reference molecule"),
        (lambda: Fingerprint(dict.fromkeys(SMILES, "CCO")).fit(_split()), ConfigError, "no bit that differs"),
        (lambda: Descriptors2D(dict.fromkeys(SMILES, "CCO")).fit(_split()), ConfigError, "no descriptor that differs"),
    ],
)
def test_wrong_settings_are_refused(make, error, says):
    with pytest.raises(error, match=says):
        make()


def test_two_smiles_of_one_treatment_in_obs():
    study = _study()
    study.adata.obs["smiles"] = ["CCO" if i == 12 else text for i, text in enumerate(study.adata.obs["smiles"])]
    with pytest.raises(DataError, match="gives 'aspirin' two SMILES"):
        Fingerprint("obs:smiles").fit(_split(study))


@pytest.mark.parametrize(
    "encoder",
    [Fingerprint("a.csv", radius=3, n_components=4), Descriptors2D(reference=("C", "CC")), Descriptors2D("obs:smiles")],
)
def test_settings_round_trip_as_plain_values(encoder):
    assert from_dict(to_dict(encoder)) == encoder
    assert hash(from_dict(to_dict(encoder))) == hash(encoder)
