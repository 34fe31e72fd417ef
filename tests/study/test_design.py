import dataclasses
from pathlib import Path
from typing import Any

import pytest

from cellgap.errors import DesignError
from cellgap.study import Design


@pytest.mark.parametrize(
    ("fields", "says"),
    [
        ({"treatment": "drug", "control": "v", "dose": "dose"}, "A dose without a unit"),
        ({"treatment": "drug", "control": "v", "dose": "d", "dose_unit": "nm"}, "write nM"),
        ({"treatment": "drug", "control": "v", "dose_unit": "nM"}, "without a dose column"),
        ({"treatment": "drug", "control": "v", "colour": "red"}, "no field 'colour'"),
        ({"treatment": "drug"}, "control"),
        ({"treatment": "", "control": "v"}, "must name a column"),
        ({"treatment": (), "control": "v"}, "without a treatment"),
        ({"treatment": "drug"}, "comes without its control"),
        ({"treatment": "drug", "control": "v", "context": ("drug",)}, "'drug' twice"),
        ({"treatment": "drug", "control": "v", "context": ("a",), "donor": "a"}, "'a' twice"),
        ({"treatment": "drug", "control": "v", "context": ("dose",)}, "cannot be called 'dose'"),
        ({"treatment": ("a", "b"), "control": ("x", "y", "z")}, "3 values for 2 treatment columns"),
        ({"treatment": "drug", "control": None}, "control"),
        ({"treatment": "drug", "control": "v", "counts": 3}, "counts"),
    ],
)
def test_refuses(fields: dict[str, Any], says: str) -> None:
    with pytest.raises(DesignError, match=says):
        Design(**fields)


@pytest.mark.parametrize(
    ("column", "unit"),
    [("dose_nM", "nM"), ("dose_uM", "uM"), ("dose (µM)", "uM"), ("d_ug_per_mL", "ug/mL"), ("dose ng/mL", "ng/mL")],
)
def test_takes_the_unit_from_the_column(column: str, unit: str) -> None:
    assert Design(treatment="drug", control="v", dose=column).slots[0].unit == unit


def test_slots_share_or_have_their_own() -> None:
    design = Design(
        treatment=("a", "b"), control=("0", "none"), dose=("a_nM", ""), context=("line",), donor="d", time="t"
    )
    assert [tuple(slot) for slot in design.slots] == [("a", "0", "a_nM", "nM"), ("b", "none", None, None)]
    assert design.context_names == ("line", "d")
    assert design.columns == ("a", "b", "a_nM", "line", "d", "t")
    both = Design(treatment=("a", "b"), control="none", dose="dose", dose_unit="uM")
    assert [slot.control for slot in both.slots] == ["none", "none"]
    assert [slot.unit for slot in both.slots] == ["uM", "uM"]


def test_control_may_be_given_as_a_number_or_a_boolean() -> None:
    assert Design(treatment=("a", "b"), control=(0, False)).control == ("0", "False")  # type: ignore[arg-type]


def test_round_trips_through_a_file(tmp_path: Path) -> None:
    design = Design(treatment=("a", "b"), control="x", dose="dose_nM", context=("l",), counts="counts", combine=None)
    design.write(tmp_path / "design.toml")
    assert Design.read(tmp_path / "design.toml") == design
    assert Design.from_toml(design.to_toml()).combine is None
    assert dataclasses.replace(design, counts="X").counts == "X"
    assert len({design, Design.from_dict(design.to_dict())}) == 1


def test_bad_files_are_named(tmp_path: Path) -> None:
    with pytest.raises(DesignError, match=r"Cannot read the design .*absent.toml"):
        Design.read(tmp_path / "absent.toml")
    (tmp_path / "bad.toml").write_text("treatment = ")
    with pytest.raises(DesignError, match=r"bad.toml: The design is not valid TOML"):
        Design.read(tmp_path / "bad.toml")
    (tmp_path / "typo.toml").write_text('treatment = "drug"\ncontrl = "v"\n')
    with pytest.raises(DesignError, match="control"):
        Design.read(tmp_path / "typo.toml")
