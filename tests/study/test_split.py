import dataclasses
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from anndata import AnnData

from cellgap.errors import CellgapError, ConditionError, SplitError, StorageError
from cellgap.study import Condition, Design, Role, Split, Study, split

FITTED = (Role.TRAIN, Role.VALID)


def drugs_of(study: Study, rows: np.ndarray) -> set[str]:
    return set(study.obs["drug"].iloc[rows])


def test_in_distribution(study: Study) -> None:
    made = split.in_distribution(study, test=0.25, valid=0.2, min_cells=15)
    assert made.test_conditions == made.train_conditions == made.scored_conditions == study.conditions
    for condition in study.conditions:
        sizes = [len(made.rows(condition, role)) for role in (Role.TEST, Role.VALID, Role.TRAIN)]
        assert sizes == [15, 9, 36]
    for control in study.controls:
        sizes = [len(made.rows(control, role)) for role in (Role.SOURCE, Role.REFERENCE, Role.VALID, Role.TRAIN)]
        assert sizes == [30, 30, 12, 48]


def test_unseen_treatment(study: Study) -> None:
    made = split.unseen_treatment(study, ["nutlin"], seed=3)
    assert drugs_of(study, made.cells(*FITTED)) == {"vehicle", "trametinib", "dexamethasone"}
    assert drugs_of(study, made.cells(Role.TEST)) == {"nutlin", "trametinib+nutlin"}
    assert all("nutlin" in c.names for c in made.test_conditions) and len(made.test_conditions) == 8
    assert made.cells(Role.UNUSED).size == 0 and made.seed == 3
    assert set(made.train_conditions) | set(made.test_conditions) == set(study.conditions)


def test_unseen_dose_reports_interpolation_apart(study: Study) -> None:
    made = split.unseen_dose(study, [100, "1uM"], treatments=["nutlin", "dexamethasone"])
    fitted = study.obs.iloc[made.cells(*FITTED)]
    assert set(fitted["dose_nM"][fitted["drug"].isin(["nutlin", "dexamethasone"])]) == {10.0}
    assert set(fitted["dose_nM"][fitted["drug"] == "trametinib"]) == {10.0, 100.0, 1000.0}
    assert made.params["doses"] == [100.0, 1000.0]
    assert made.params["interpolation"] == [], "both lie above the only dose left"
    middle = split.unseen_dose(study, 100, treatments="nutlin")
    assert middle.params["interpolation"] == [
        "nutlin@100nM | cell_line=A549", "nutlin@100nM | cell_line=K562",
    ]  # fmt: skip
    assert middle.params["extrapolation"] == [
        "nutlin@100nM + trametinib@100nM | cell_line=A549", "nutlin@100nM + trametinib@100nM | cell_line=K562",
    ]  # fmt: skip
    low = split.unseen_dose(study, 10, treatments="nutlin")
    assert low.params["interpolation"] == [] and len(low.params["extrapolation"]) == 2


def test_unseen_combination(study: Study) -> None:
    made = split.unseen_combination(study, [("trametinib", "nutlin")])
    assert drugs_of(study, made.cells(Role.TEST)) == {"trametinib+nutlin"}
    assert {c.names for c in made.train_conditions} == {("nutlin",), ("trametinib",), ("dexamethasone",)}


def test_larger_combinations_are_left_unused(adata: AnnData, design: Design) -> None:
    labels = adata.obs["drug"].copy()
    triple = (labels == "dexamethasone") & (adata.obs["dose_nM"] == 100)
    adata.obs["drug"] = labels.where(~triple, "trametinib+nutlin+dexamethasone")
    study = Study(adata, design)
    made = split.unseen_combination(study, [("nutlin", "trametinib")])
    assert drugs_of(study, made.cells(Role.UNUSED)) == {"trametinib+nutlin+dexamethasone"}
    assert len(made.params["unused"]) == 2
    assert made.cells(Role.UNUSED).size == 120


def test_unseen_conditions_holds_out_these_and_no_others(study: Study) -> None:
    made = split.unseen_conditions(study, ["nutlin@10 | A549", "trametinib@1uM | K562"])
    assert [str(c) for c in made.test_conditions] == ["nutlin@10nM | A549", "trametinib@1000nM | K562"]
    assert set(made.train_conditions) == set(study.conditions) - set(made.test_conditions)
    assert drugs_of(study, made.cells(Role.TEST)) == {"nutlin", "trametinib"} and made.cells(Role.TEST).size == 120


def test_unseen_context_keeps_half_of_the_controls(study: Study) -> None:
    made = split.unseen_context(study, ["nutlin"], {"cell_line": "K562"})
    test = study.obs.iloc[made.cells(Role.TEST)]
    assert set(test["cell_line"]) == {"K562"} and set(test["drug"]) == {"nutlin", "trametinib+nutlin"}
    fitted = study.obs.iloc[made.cells(*FITTED)]
    assert not ((fitted["cell_line"] == "K562") & fitted["drug"].str.contains("nutlin")).any()
    assert ((fitted["cell_line"] == "K562") & (fitted["drug"] == "trametinib")).any()
    k562, a549 = Condition(cell_line="K562"), Condition(cell_line="A549")
    sizes = {role: (len(made.rows(a549, role)), len(made.rows(k562, role))) for role in Role}
    assert sizes == {
        Role.UNUSED: (0, 0), Role.TRAIN: (108, 54), Role.VALID: (12, 6), Role.TEST: (0, 0),
        Role.SOURCE: (0, 30), Role.REFERENCE: (0, 30),
    }  # fmt: skip
    every = split.unseen_context(study, None, {"cell_line": ["K562"]})
    assert set(study.obs["cell_line"].iloc[every.cells(Role.TEST)]) == {"K562"} and len(every.test_conditions) == 10


def test_leave_one_domain_out_by_context(study: Study) -> None:
    made = split.leave_one_domain_out(study, "cell_line", "K562")
    fitted, test = study.obs.iloc[made.cells(*FITTED)], study.obs.iloc[made.cells(Role.TEST)]
    assert set(fitted["cell_line"]) == {"A549"} and set(test["cell_line"]) == {"K562"}
    k562 = Condition(cell_line="K562")
    assert len(made.rows(k562, Role.SOURCE)) == len(made.rows(k562, Role.REFERENCE)) == 60
    assert made.rows(k562, *FITTED).size == 0
    assert not set(made.test_conditions) & set(made.train_conditions)


def test_leave_one_domain_out_by_another_column(study: Study) -> None:
    made = split.leave_one_domain_out(study, "plate", "p1", min_cells=1)
    plate = study.obs["plate"].to_numpy()
    assert set(plate[made.cells(*FITTED)]) == {"p0", "p2"}
    assert set(plate[made.cells(Role.TEST, Role.SOURCE, Role.REFERENCE)]) == {"p1"}
    assert made.test_conditions == made.train_conditions == study.conditions


@pytest.mark.parametrize("kind", ["int64", "float64", "category"])
def test_a_domain_may_be_a_number(kind: str, study: Study) -> None:
    study.obs["batch"] = study.obs["plate"].str[1:].astype("int64").astype(kind)  # type: ignore[call-overload]
    texts = split.leave_one_domain_out(study, "batch", "1", min_cells=1)
    numbers = split.leave_one_domain_out(study, "batch", 1, min_cells=1)
    assert (texts.roles == numbers.roles).all() and (texts.roles == Role.TEST).any()


def test_unseen_conditions_are_exactly_these(study: Study) -> None:
    made = split.unseen_conditions(study, ["nutlin@10 | A549", Condition("nutlin", dose=10, cell_line="K562")])
    assert [str(c) for c in made.test_conditions] == ["nutlin@10nM | A549", "nutlin@10nM | K562"]
    assert set(made.train_conditions) == set(study.conditions) - set(made.test_conditions)
    leaky = dataclasses.replace(made, params=made.params | {"conditions": ["nutlin@100nM | cell_line=A549"]})
    with pytest.raises(SplitError, match="is held out by name: a leak"):
        leaky.check_leaks()


def test_validation_conditions_are_held_out_whole(study: Study) -> None:
    whole = ["dexamethasone@10 | A549", Condition("dexamethasone", dose=10, cell_line="K562")]
    made = split.unseen_treatment(study, "nutlin", valid_conditions=whole)
    assert [str(c) for c in made.valid_conditions] == ["dexamethasone@10nM | A549", "dexamethasone@10nM | K562"]
    for condition in made.valid_conditions:
        assert (made.roles[made.rows(condition)] == Role.VALID).all() and condition not in made.train_conditions
    one = split.unseen_treatment(study, "nutlin", valid_conditions="dexamethasone@10 | A549")
    assert len(one.valid_conditions) == 1


KINDS: list[tuple[str, dict[str, Any]]] = [
    ("in_distribution", {"min_cells": 1}),
    ("unseen_dose", {"doses": [100]}),
    ("unseen_treatment", {"names": ["nutlin"]}),
    ("unseen_combination", {"combinations": [["nutlin", "trametinib"]]}),
    ("unseen_conditions", {"conditions": ["nutlin@10 | A549", "dexamethasone@100nM | K562"]}),
    ("unseen_conditions", {"conditions": ["nutlin@10 | A549", "trametinib@1uM | K562"]}),
    ("unseen_context", {"treatments": ["nutlin"], "context": {"cell_line": "A549"}}),
    ("leave_one_domain_out", {"column": "plate", "held_out": "p2", "min_cells": 1}),
]


@pytest.mark.parametrize(("kind", "params"), KINDS)
def test_the_seed_decides(kind: str, params: dict[str, Any], study: Study) -> None:
    one, same, other = (split.by_name(kind, study, seed=seed, **params) for seed in (0, 0, 1))
    assert (one.roles == same.roles).all() and one.params == same.params
    assert (one.roles != other.roles).any()
    assert one.test_conditions == other.test_conditions
    assert not one.roles.flags.writeable


@pytest.mark.parametrize(("kind", "params"), KINDS)
def test_saved_is_loaded(kind: str, params: dict[str, Any], study: Study, tmp_path: Path) -> None:
    made = split.by_name(kind, study, seed=2, **params)
    made.save(tmp_path / "split.json")
    back = Split.load(tmp_path / "split.json", study)
    assert (back.roles == made.roles).all() and back.roles.dtype == made.roles.dtype
    for field in ("kind", "seed", "params", "test_conditions", "valid_conditions", "train_conditions"):
        assert getattr(back, field) == getattr(made, field)
    assert str(back) == str(made)


def test_the_stream_is_the_same_on_every_platform(study: Study) -> None:
    """PCG64 and permutation are stable across platforms and NumPy versions; a change here breaks saved runs."""
    made = split.unseen_treatment(study, "nutlin", seed=0)
    assert made.cells(Role.SOURCE)[:6].tolist() == GOLDEN_SOURCE
    assert made.cells(Role.VALID)[:6].tolist() == GOLDEN_VALID


GOLDEN_SOURCE = [20, 33, 40, 66, 107, 112]
GOLDEN_VALID = [4, 7, 31, 41, 73, 108]

BAD: list[Any] = [
    ("unseen_treatment", {"names": ["nutlyn"]}, ConditionError, "Unknown treatment 'nutlyn': did you mean 'nutlin'"),
    ("unseen_treatment", {"names": []}, SplitError, "Nothing to hold out"),
    ("unseen_treatment", {"names": ["nutlin", "trametinib", "dexamethasone"]}, SplitError, "nothing is left to train"),
    ("unseen_treatment", {"names": ["nutlin"], "min_cells": 100}, SplitError, "largest has 60 test cells.*lower min_c"),
    ("unseen_treatment", {"names": ["nutlin"], "min_cells": 0}, SplitError, "min_cells is a whole number of 1"),
    ("unseen_treatment", {"names": ["nutlin"], "valid": 1.0}, SplitError, "valid is a fraction .* found 1.0"),
    ("unseen_treatment", {"names": ["nutlin"], "valid": "0.1"}, SplitError, "valid is a fraction"),
    ("unseen_treatment", {"names": ["nutlin"], "seed": -1}, SplitError, "seed is a whole number"),
    ("unseen_treatment", {"names": ["nutlin"], "seed": 1.5}, SplitError, "seed is a whole number"),
    ("unseen_treatment", {}, SplitError, "missing a required argument: 'names'"),
    ("unseen_treatment", {"names": "nutlin", "colour": 1}, SplitError, "unexpected keyword argument 'colour'"),
    ("unseen_drug", {}, SplitError, "Unknown kind of split 'unseen_drug'"),
    ("in_distribution", {"test": 0}, SplitError, "test is a fraction of the cells, above 0"),
    ("in_distribution", {"test": float("nan")}, SplitError, "test is a fraction of the cells, above 0"),
    ("unseen_dose", {"doses": 50}, SplitError, "No cell was measured at the dose 50: measured are"),
    ("unseen_dose", {"doses": "10ng/mL"}, ConditionError, "Cannot convert"),
    ("unseen_dose", {"doses": -1}, ConditionError, "above 0"),
    ("unseen_dose", {"doses": [10, 100, 1000]}, SplitError, "Every dose of 'dexamethasone'"),
    ("unseen_combination", {"combinations": [["nutlin", "dexamethasone"]]}, SplitError, 'are "nutlin . tramet'),
    ("unseen_combination", {"combinations": [["nutlin"]]}, SplitError, "at least two"),
    ("unseen_combination", {"combinations": ["nutlin+trametinib"]}, SplitError, "list of names each"),
    ("unseen_combination", {"combinations": []}, SplitError, "Nothing to hold out"),
    ("unseen_conditions", {"conditions": []}, SplitError, "Nothing to hold out"),
    ("unseen_conditions", {"conditions": ["control | A549"]}, SplitError, "only treated conditions"),
    ("unseen_conditions", {"conditions": ["nutlin@50 | A549"]}, ConditionError, "No cell was measured under"),
    ("unseen_conditions", {"conditions": "nutlyn@10 | A549"}, ConditionError, "did you mean 'nutlin'"),
    ("unseen_conditions", {"conditions": []}, SplitError, "Nothing to hold out"),
    ("unseen_conditions", {"conditions": "control | A549"}, SplitError, "is a control"),
    ("unseen_conditions", {"conditions": ["nutlin@33 | A549"]}, ConditionError, "measured under .nutlin@33"),
    ("unseen_context", {"treatments": None, "context": {"line": "A549"}}, ConditionError, "did you mean 'cell_line'"),
    ("unseen_context", {"treatments": None, "context": {"cell_line": "A459"}}, ConditionError, "did you mean 'A549'"),
    ("unseen_context", {"treatments": None, "context": {}}, SplitError, "needs a context"),
    ("unseen_context", {"treatments": None, "context": {"cell_line": ["A549", "K562"]}}, SplitError, "nothing is left"),
    ("leave_one_domain_out", {"column": "plates", "held_out": "p1"}, SplitError, "did you mean 'plate'"),
    ("leave_one_domain_out", {"column": "plate", "held_out": "p9"}, SplitError, "no value 'p9'"),
    ("leave_one_domain_out", {"column": "plate", "held_out": []}, SplitError, "Nothing to hold out"),
    ("leave_one_domain_out", {"column": "plate", "held_out": ["p0", "p1", "p2"]}, SplitError, "nothing is left"),
    ("unseen_treatment", {"names": "nutlin", "valid_conditions": ["nutlin@10 | A549"]}, SplitError, "is held out for"),
    ("unseen_treatment", {"names": "nutlin", "valid_conditions": ["control | A549"]}, SplitError, "cannot validate"),
    ("unseen_treatment", {"names": "nutlin", "valid_conditions": ["aspirin | A549"]}, ConditionError, "Unknown treat"),
]  # fmt: skip


@pytest.mark.parametrize(("kind", "params", "error", "says"), BAD)
def test_refuses(kind: str, params: dict[str, Any], error: type[CellgapError], says: str, study: Study) -> None:
    with pytest.raises(error, match=says):
        split.by_name(kind, study, **params)


def test_members_must_be_seen_alone(adata: AnnData, design: Design) -> None:
    study = Study(adata[adata.obs["drug"] != "nutlin"].copy(), design)
    with pytest.raises(SplitError, match="'nutlin' of the combination nutlin \\+ trametinib is not trained on alone"):
        split.unseen_combination(study, [("nutlin", "trametinib")])


def test_a_treatment_must_be_seen_in_another_context(adata: AnnData, design: Design) -> None:
    nutlin = adata.obs["drug"].str.contains("nutlin")
    study = Study(adata[~(nutlin & (adata.obs["cell_line"] == "K562"))].copy(), design)
    with pytest.raises(SplitError, match="'nutlin' is not trained on in any other context"):
        split.unseen_context(study, "nutlin", {"cell_line": "A549"})
    with pytest.raises(SplitError, match='No cell treated with "nutlin" is in'):
        split.unseen_context(study, "nutlin", {"cell_line": "K562"})


def test_a_study_of_controls_cannot_be_split(adata: AnnData, design: Design) -> None:
    study = Study(adata[adata.obs["drug"] == "vehicle"].copy(), design)
    for make in (lambda: split.in_distribution(study), lambda: split.leave_one_domain_out(study, "plate", "p1")):
        with pytest.raises(SplitError, match="holds out no treated cell"):
            make()


def test_small_conditions_are_listed_and_not_scored(make: Callable[..., AnnData], design: Design) -> None:
    adata = make()
    few = (adata.obs["drug"] == "nutlin") & (adata.obs["dose_nM"] == 10) & (adata.obs["cell_line"] == "A549")
    keep = ~few.to_numpy() | (np.cumsum(few.to_numpy()) <= 4)
    study = Study(adata[keep].copy(), design)
    made = split.unseen_treatment(study, "nutlin")
    assert made.params["unscored"] == {"nutlin@10nM | cell_line=A549": "4 test cells, fewer than 50"}
    assert len(made.scored_conditions) == len(made.test_conditions) - 1
    assert "not scored: nutlin@10nM | cell_line=A549 (4 test cells" in str(made)


def test_one_control_is_not_enough_to_score(make: Callable[..., AnnData], design: Design) -> None:
    adata = make()
    controls = ((adata.obs["drug"] == "vehicle") & (adata.obs["cell_line"] == "K562")).to_numpy()
    study = Study(adata[~controls | (np.cumsum(controls) <= 1)].copy(), design)
    made = split.unseen_treatment(study, "nutlin")
    reasons = set(made.params["unscored"].values())
    assert len(made.params["unscored"]) == 4 and reasons == {"fewer than two controls to predict from and compare with"}


def test_the_only_cell_of_a_condition_is_trained_on(make: Callable[..., AnnData], design: Design) -> None:
    adata = make()
    pair = (adata.obs["drug"] == "trametinib+nutlin").to_numpy()
    study = Study(adata[~pair | (np.cumsum(pair) <= 1)].copy(), design)
    made = split.in_distribution(study, min_cells=1)
    (condition,) = (c for c in study.conditions if len(c.names) == 2)
    assert condition in made.train_conditions and condition not in made.test_conditions


def test_tampering_is_found(study: Study) -> None:
    made = split.unseen_treatment(study, "nutlin", valid_conditions=["trametinib@10 | A549"])

    def changed(rows: np.ndarray, role: int, **fields: Any) -> Split:
        roles = made.roles.copy()
        roles[rows] = role
        return dataclasses.replace(made, roles=roles, **fields)

    nutlin, trametinib = study.rows("nutlin@10 | A549"), study.rows("trametinib@10 | A549")
    control = study.rows("control | A549")
    for leaky, says in [
        (changed(nutlin[:1], Role.TRAIN), "training conditions"),
        (changed(nutlin[:1], Role.VALID), "'nutlin@10nM | A549' has cells to train on"),
        (changed(nutlin, Role.VALID, test_conditions=made.test_conditions[1:]), "'nutlin' is held out"),
        (changed(trametinib[:1], Role.TRAIN), "training conditions"),
        (changed(control[:1], Role.TEST), "'control | A549' have the role TEST"),
        (changed(nutlin[:1], Role.SOURCE), "have the role SOURCE"),
        (changed(nutlin[:1], 9), "one of 6 roles"),
        (dataclasses.replace(made, roles=made.roles[:-1].copy()), "one of 6 roles"),
        (dataclasses.replace(made, params={**made.params, "names": ["dexamethasone"]}), "'dexamethasone' is held out"),
        (
            changed(trametinib[:1], Role.TRAIN, train_conditions=tuple(sorted(
                {*made.train_conditions, Condition("trametinib", dose=10, unit="nM", cell_line="A549")}))),
            "'trametinib@10nM | A549' has cells to train on",
        ),
    ]:  # fmt: skip
        with pytest.raises(SplitError, match=says.replace("|", r"\|")):
            leaky.check_leaks()
    made.check_leaks()


def test_a_domain_in_training_is_found(study: Study) -> None:
    made = split.leave_one_domain_out(study, "plate", "p1", min_cells=1)
    roles = made.roles.copy()
    roles[made.cells(Role.SOURCE)[:2]] = Role.TRAIN
    with pytest.raises(SplitError, match="2 cells of the held-out plate are trained on"):
        dataclasses.replace(made, roles=roles).check_leaks()


def test_a_split_of_another_study_is_refused(study: Study, make: Callable[..., AnnData], tmp_path: Path) -> None:
    split.unseen_treatment(study, "nutlin").save(tmp_path / "split.json")
    shuffled, smaller = Study(make(seed=1), study.design), Study(study.adata[:1400].copy(), study.design)
    for other in (shuffled, smaller):
        with pytest.raises(SplitError, match="belongs to another study"):
            Split.load(tmp_path / "split.json", other)


def test_damaged_files_are_named(study: Study, tmp_path: Path) -> None:
    path = tmp_path / "split.json"
    with pytest.raises(StorageError, match="Cannot read the split"):
        Split.load(path, study)
    path.write_text("{")
    with pytest.raises(StorageError, match="is not JSON"):
        Split.load(path, study)
    path.write_text("[1]")
    with pytest.raises(StorageError, match="expected a JSON object, found list"):
        Split.load(path, study)
    path.write_text("{}")
    with pytest.raises(StorageError, match="is not a split: expected the format"):
        Split.load(path, study)
    split.unseen_treatment(study, "nutlin").save(path)
    good = json.loads(path.read_text())
    for change, error, says in [
        ({"indices": good["indices"] | {"TRAIN": [0, 99999]}}, StorageError, "damaged"),
        ({"indices": good["indices"] | {"TRIAN": [0]}}, StorageError, "damaged"),
        ({"indices": good["indices"] | {"TEST": [*good["indices"]["TEST"], good["indices"]["TRAIN"][0]]}}, SplitError,
         "two roles"),
        ({"indices": good["indices"] | {"TRAIN": [-1]}}, StorageError, "damaged"),
        ({"indices": good["indices"] | {"TRAIN": []}}, SplitError, "training conditions"),
        ({"kind": None, "params": []}, StorageError, "damaged"),
        ({"test_conditions": ["nutlin@10nM"]}, SplitError, "test conditions"),
        ({"fingerprint": "0"}, SplitError, "another study"),
        ({"seed": None}, StorageError, "damaged"),
    ]:  # fmt: skip
        path.write_text(json.dumps(good | change))
        with pytest.raises(error, match=says):
            Split.load(path, study)
    path.write_text(json.dumps({k: v for k, v in good.items() if k != "indices"}))
    with pytest.raises(StorageError, match="damaged"):
        Split.load(path, study)


def test_prints(study: Study) -> None:
    text = str(split.unseen_treatment(study, "nutlin"))
    assert "unseen_treatment, seed 0" in text and "reference" in text and "nutlin@10nM | A549" in text
    assert "unseen_treatment" in repr(split.unseen_treatment(study, "nutlin"))


def test_works_without_context_and_with_one(adata: AnnData) -> None:
    for context in ((), ("cell_line",)):
        one_line = adata[adata.obs["cell_line"] == "A549"].copy()
        study = Study(one_line, Design(treatment="drug", dose="dose_nM", control="vehicle", context=context))
        for kind, params in KINDS:
            if kind not in ("unseen_context", "unseen_conditions"):  # these name two cell lines
                split.by_name(kind, study, **params).check_leaks()
    with pytest.raises(ConditionError, match="Unknown context name 'cell_line'"):
        split.unseen_context(
            Study(adata, Design(treatment="drug", dose="dose_nM", control="vehicle")), None, {"cell_line": "A549"}
        )
