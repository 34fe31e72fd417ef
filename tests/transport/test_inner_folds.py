"""What is new about test conditions, and training conditions that are left out in the same manner."""

import numpy as np
import pytest
from small import DRUGS, LINES, at, screen, study_of

from cellgap.study import Split, split
from cellgap.transport._inner_folds import inner_folds, novelty_of

STUDY = screen(n=8)


def left_out(made: Split) -> list[set[str]]:
    return [{str(made.train_conditions[i]) for i in fold} for fold in inner_folds(made)]


def test_treatments_are_left_out_at_every_dose_alone_and_combined():
    made = split.unseen_treatment(STUDY, "cora", min_cells=1)
    assert novelty_of(made) == "treatment"
    anti, beta = left_out(made)
    both = {str(at(["anti", "beta"], 100, line)) for line in LINES}
    assert anti & beta == both
    assert anti - both == {str(at("anti", dose, line)) for dose in (10, 100, 1000) for line in LINES}


def test_many_treatments_are_dealt_onto_eight_folds_and_each_is_left_out_once():
    names = [f"drug{i:02d}" for i in range(20)]
    labels = [("vehicle", 0.0, "L1")] * 8 + [(name, 10.0, "L1") for name in names for _ in range(4)]
    made = split.unseen_treatment(study_of(labels, np.zeros((len(labels), 2))), names[-1], min_cells=1)
    folds = inner_folds(made)
    assert len(folds) == 8 and sorted(np.concatenate(folds)) == list(range(19))


@pytest.mark.parametrize(("dose", "sides"), [(100, {100.0}), (10, {10.0, 100.0}), (1000, {100.0, 1000.0})])
def test_doses_are_left_out_on_the_side_where_the_test_doses_are(dose, sides):
    """Three doses: without the middle one nothing lies between; without an end one, the next is the end."""
    made = split.unseen_dose(STUDY, dose, min_cells=1)
    assert novelty_of(made) == "dose"
    found = {c.treatments[0].dose for fold in inner_folds(made) for c in [made.train_conditions[i] for i in fold]}
    assert found == ({min(sides - {float(dose)})} if dose != 100 else set())


def test_a_dose_of_one_treatment_is_mimicked_by_a_dose_of_each_other_in_folds_of_its_own():
    made = split.unseen_dose(STUDY, 100, treatments="cora", min_cells=1)
    folds = left_out(made)
    assert folds == [{str(at(name, 100, line)) for line in LINES} for name in ("anti", "beta")]


def test_combinations_are_left_out_where_their_members_are_measured_alone():
    rows = [("vehicle", 0.0, "L1")] * 12
    for name in (*DRUGS, "anti+beta", "beta+cora", "anti+cora"):
        rows += [(name, 10.0, "L1")] * 6
    study = study_of(rows, np.zeros((len(rows), 2)))
    made = split.unseen_combination(study, [("anti", "cora")], min_cells=1)
    assert novelty_of(made) == "combination"
    assert left_out(made) == [{str(at(pair, 10))} for pair in (("anti", "beta"), ("beta", "cora"))]
    everything = split.unseen_combination(study, [("anti", "cora"), ("anti", "beta"), ("beta", "cora")], min_cells=1)
    assert inner_folds(everything) == []


def test_contexts_are_left_out_for_treatments_that_are_elsewhere_too():
    made = split.unseen_context(STUDY, ["cora"], {"line": "L2"}, min_cells=1)
    assert novelty_of(made) == "context"
    shared = [c for c in STUDY.conditions if "cora" not in c.names]
    assert left_out(made) == [{str(c) for c in shared if dict(c.context)["line"] == line} for line in LINES]
    domain = split.leave_one_domain_out(STUDY, "line", "L2", min_cells=1)
    assert novelty_of(domain) == "context" and inner_folds(domain) == []


def test_conditions_by_name_are_what_most_of_them_are():
    cases = {"treatment": [at("cora", d, line) for d in (10, 100, 1000) for line in LINES], "context": [at("cora", 10)]}
    cases["combination"] = [at(["anti", "beta"], 100, line) for line in LINES]
    cases["dose"] = [at("anti", 10, line) for line in LINES]
    for kind, held in cases.items():
        assert novelty_of(split.unseen_conditions(STUDY, held, min_cells=1)) == kind
    assert novelty_of(split.in_distribution(STUDY, min_cells=1)) == "nothing"
    assert inner_folds(split.in_distribution(STUDY, min_cells=1)) == []
