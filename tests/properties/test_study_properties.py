"""What holds for any names, any design, and any study."""

import dataclasses
from collections.abc import Iterable
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from anndata import AnnData
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from cellgap.errors import CellgapError, ConditionError, DesignError, SplitError
from cellgap.study import Condition, Design, Role, Split, Study, Treatment, split

# Names that are hard to write: the symbols of the grammar, quotes, backslashes, spaces, and the word for no treatment.
HOSTILE = st.one_of(
    st.text(alphabet='+|@=,"\\ ab1\n\t', min_size=1, max_size=8),
    st.text(min_size=1, max_size=8),
    st.sampled_from(["control", "a + b", "a@1nM", "a | b=c", '"', '""', "\\", " ", "a,b", "1e5", "\u2003x", "\x1f"]),
)
UNITS = st.sampled_from(["pM", "nM", "uM", "mM", "M", "ng/mL", "ug/mL", "mg/mL", "Gy", "%", "eV", "E"])
DOSES = st.floats(min_value=0, exclude_min=True, allow_infinity=False, allow_nan=False)


@st.composite
def treatments(draw: st.DrawFn) -> Treatment:
    name = draw(HOSTILE)
    dose = draw(st.one_of(st.none(), DOSES))
    unit = draw(st.one_of(st.none(), UNITS)) if dose is not None else None
    return Treatment(name, dose, unit)


@st.composite
def conditions(draw: st.DrawFn) -> Condition:
    members = draw(st.lists(treatments(), max_size=3, unique_by=lambda t: t.name))
    pairs = draw(st.lists(st.tuples(HOSTILE, st.one_of(HOSTILE, st.just(""))), max_size=3, unique_by=lambda p: p[0]))
    return Condition.of(members, pairs)


@settings(deadline=None, max_examples=200)
@given(conditions())
def test_a_condition_reads_back_as_it_is_written(condition: Condition) -> None:
    names = [name for name, _ in condition.context]
    short, keyed = Condition.parse(str(condition), context=names), Condition.parse(repr(condition))
    assert short == keyed == condition and hash(short) == hash(condition)
    assert str(short) == str(condition) and repr(short) == repr(condition)
    assert (str(condition) == "control") == (condition == Condition())
    assert condition.control.is_control and condition.control.context == condition.context


@settings(deadline=None, max_examples=150)
@given(st.text(alphabet='+|@=,"\\ ab1.e-nM', max_size=20))
def test_any_text_is_read_or_refused_in_words(text: str) -> None:
    try:
        condition = Condition.parse(text, context=("x",))
    except ConditionError as error:
        assert str(error)
    else:
        assert Condition.parse(repr(condition)) == condition


@given(st.lists(conditions(), min_size=2, max_size=6))
@settings(deadline=None, max_examples=50)
def test_order_is_total_and_agrees_with_equality(named: list[Condition]) -> None:
    ordered = sorted(named)
    assert ordered == sorted(reversed(named))
    for one in named:
        for other in named:
            assert (one < other) + (one == other) + (one > other) == 1


@given(DOSES, st.sampled_from(["pM", "nM", "uM", "mM", "M"]), st.sampled_from(["pM", "nM", "uM", "mM", "M"]))
@settings(deadline=None, max_examples=100)
def test_units_convert_there_and_back(dose: float, unit: str, to: str) -> None:
    assume(1e-250 < dose < 1e250)
    there = Treatment("a", dose, unit).to_unit(to)
    assert there.to_unit(unit).dose == pytest.approx(dose, rel=1e-15)


NAMES = st.text(alphabet=st.characters(exclude_categories=["Cs"]), min_size=1, max_size=8)


@st.composite
def designs(draw: st.DrawFn) -> Design:
    n = draw(st.integers(1, 3))
    names = draw(st.lists(NAMES, min_size=n + 4, max_size=n + 4, unique=True))
    columns, rest = names[:n], names[n:]
    controls: Any = draw(st.one_of(NAMES, st.tuples(*[NAMES] * n)))
    dose: Any = draw(st.sampled_from([None, "dose_nM", ("dose_uM",) * n, ("",) * n]))
    return Design(
        treatment=columns[0] if n == 1 and draw(st.booleans()) else tuple(columns),
        control=controls,
        dose=dose,
        dose_unit=draw(st.sampled_from([None, "nM", ("mg/mL",) * n])) if dose is not None else None,
        context=tuple(rest[: draw(st.integers(0, 2))]),
        donor=draw(st.sampled_from([None, rest[2]])),
        time=draw(st.sampled_from([None, rest[3]])),
        counts=draw(st.one_of(st.none(), st.just("X"), NAMES)),
        combine=draw(st.one_of(st.none(), st.just("+"), NAMES)),
    )


@settings(deadline=None, max_examples=200)
@given(st.data())
def test_a_design_reads_back_as_it_is_written(data: st.DataObject) -> None:
    try:
        design = data.draw(designs())
    except DesignError as error:  # a context called "dose", say
        assert "cannot be called" in str(error)
        return
    assert Design.from_toml(design.to_toml()) == design
    assert Design.from_dict(design.to_dict()) == design
    assert dataclasses.replace(design) == design


def build(seed: int, n_lines: int, n_drugs: int, n_doses: int, per: int, with_donor: bool) -> Study:
    """A study with every drug alone at every dose, some pairs, in every context, in random order and sizes."""
    draw = np.random.Generator(np.random.PCG64(seed))
    drugs = [f"d{i}" for i in range(n_drugs)]
    doses = [10.0 * 3**i for i in range(n_doses)]
    labels = [("no", 0.0), *((d, x) for d in drugs for x in doses)]
    labels += [(f"{a}+{b}", doses[0]) for a, b in pairwise(drugs)]
    rows = []
    for line in range(n_lines):
        for drug, dose in labels:
            for i in range(per + int(draw.integers(0, 4))):
                rows.append((drug, dose, f"line{line}", f"donor{i % 2}", f"batch{i % 3}"))
    obs = pd.DataFrame(rows, columns=["drug", "dose_uM", "line", "donor", "batch"])
    obs = obs.iloc[draw.permutation(len(obs))]
    obs.index = pd.Index([f"c{i}" for i in range(len(obs))])
    x = draw.normal(size=(len(obs), 2)).astype(np.float32)
    context = ("line",) if n_lines > 1 or draw.integers(2) else ()
    design = Design(
        treatment="drug", control="no", dose="dose_uM", context=context, donor="donor" if with_donor else None
    )
    return Study(AnnData(X=x, obs=obs), design)


STUDIES = st.builds(
    build,
    seed=st.integers(0, 2**31),
    n_lines=st.integers(1, 3),
    n_drugs=st.integers(2, 4),
    n_doses=st.integers(2, 4),
    per=st.integers(12, 16),
    with_donor=st.booleans(),
)


def some(data: st.DataObject, values: Iterable[Any]) -> list[Any]:
    """Some of these values, but not all."""
    values = list(values)
    return data.draw(st.lists(st.sampled_from(values), min_size=1, max_size=len(values) - 1, unique=True))


def arguments(kind: str, study: Study, data: st.DataObject) -> dict[str, Any]:
    """What to hold out, so that it can be: something is left to train on."""
    obs, names = study.obs, list(study.treatments)
    if kind == "in_distribution":
        return {"test": data.draw(st.floats(0.05, 0.95))}
    if kind == "unseen_dose":
        doses = some(data, sorted({d for d in obs["dose_uM"] if d > 0}))
        return {"doses": doses, "treatments": data.draw(st.sampled_from([None, names[:1]]))}
    if kind == "unseen_treatment":
        return {"names": some(data, names)}
    if kind == "unseen_combination":
        return {"combinations": [data.draw(st.sampled_from([c.names for c in study.conditions if len(c.names) == 2]))]}
    if kind == "unseen_conditions":
        return {"conditions": [repr(c) for c in some(data, study.conditions)]}
    if kind == "unseen_context":
        name = data.draw(st.sampled_from(study.context_names))
        return {
            "treatments": data.draw(st.sampled_from([None, names[:1], names])),
            "context": {name: some(data, study.context_values[name])},
        }
    column = data.draw(st.sampled_from(["donor", "batch", *(["line"] if obs["line"].nunique() > 1 else [])]))
    return {"column": column, "held_out": some(data, sorted(obs[column].unique()))}


def must_not_train(kind: str, held: dict[str, Any], obs: pd.DataFrame, study: Study) -> np.ndarray:
    """Mask of the cells that must not be trained on, from the columns of obs alone."""
    members = [set() if drug == "no" else set(drug.split("+")) for drug in obs["drug"]]
    if kind == "unseen_dose":
        names = set(held["treatments"] or study.treatments)
        dosed = obs["dose_uM"].isin(held["doses"]).to_numpy()
        return dosed & np.array([bool(m & names) for m in members])
    if kind == "unseen_treatment":
        return np.array([bool(m & set(held["names"])) for m in members])
    if kind == "unseen_combination":
        return np.array([set(held["combinations"][0]) <= m for m in members])
    if kind == "unseen_conditions":
        held_out = {i for i, c in enumerate(study.all_conditions) if repr(c) in held["conditions"]}
        return np.isin(study.codes, list(held_out))
    if kind == "unseen_context":
        names = set(held["treatments"] or study.treatments)
        ((column, values),) = held["context"].items()
        return obs[column].isin(values).to_numpy() & np.array([bool(m & names) for m in members])
    if kind == "leave_one_domain_out":
        return obs[held["column"]].isin(held["held_out"]).to_numpy()
    return np.zeros(len(obs), bool)


@pytest.mark.parametrize(
    "kind",
    [
        "in_distribution",
        "unseen_dose",
        "unseen_treatment",
        "unseen_combination",
        "unseen_conditions",
        "unseen_context",
        "leave_one_domain_out",
    ],
)
@settings(deadline=None, max_examples=25)
@given(study=STUDIES, seed=st.integers(0, 99), valid=st.floats(0, 0.9), data=st.data())
def test_a_split_never_leaks(
    kind: str, study: Study, seed: int, valid: float, data: st.DataObject, tmp_path_factory: pytest.TempPathFactory
) -> None:
    if kind == "unseen_context":
        assume(any(len(values) > 1 for values in study.context_values.values()))
        assume(all(len(values) > 1 for values in study.context_values.values()))
    held = arguments(kind, study, data)
    made = split.by_name(kind, study, seed=seed, valid=valid, min_cells=1, **held)
    obs, roles = study.obs, made.roles
    is_control = (obs["drug"] == "no").to_numpy()
    forbidden = must_not_train(kind, held, obs, study)
    fitted = np.isin(roles, [Role.TRAIN, Role.VALID])

    # every cell has one role that its kind of cell can have, and none is lost
    assert np.isin(roles, [int(r) for r in Role]).all() and (roles != Role.UNUSED).all()
    assert not np.isin(roles[is_control], [Role.TEST]).any()
    assert not np.isin(roles[~is_control], [Role.SOURCE, Role.REFERENCE]).any()

    # nothing that is held out can be trained on, whether read from obs or from the conditions
    assert not (forbidden & fitted).any()
    assert (roles[forbidden & ~is_control] == Role.TEST).all()
    if kind not in ("in_distribution", "leave_one_domain_out"):
        assert not set(made.test_conditions) & set(made.train_conditions)
        trained = {study.all_conditions[code] for code in np.unique(study.codes[fitted])}
        assert not trained & set(made.test_conditions)
        assert ((roles == Role.TEST) == (forbidden & ~is_control)).all()

    # every scored condition has cells to predict from and others to compare with, of its own context
    for condition in made.scored_conditions:
        control = study.control_of(condition)
        source, reference = made.rows(control, Role.SOURCE), made.rows(control, Role.REFERENCE)
        assert len(source) and len(reference) and not set(source) & set(reference)
        assert len(made.rows(condition, Role.TEST))
    assert made.train_conditions

    # the saved split is the split
    path = Path(tmp_path_factory.mktemp("split")) / "split.json"
    made.save(path)
    back = Split.load(path, study)
    assert (back.roles == roles).all() and back.params == made.params
    assert back.test_conditions == made.test_conditions and back.train_conditions == made.train_conditions

    # one cell of a held-out condition put into training is found
    if forbidden.any():
        leaky = roles.copy()
        leaky[data.draw(st.sampled_from(np.flatnonzero(forbidden & ~is_control).tolist()))] = Role.VALID
        with pytest.raises(SplitError):
            dataclasses.replace(made, roles=leaky).check_leaks()


@settings(deadline=None, max_examples=60)
@given(st.lists(st.tuples(HOSTILE, st.sampled_from([0.0, 1.0, 2.5]), HOSTILE), min_size=1, max_size=6), st.booleans())
def test_hostile_labels_make_a_study_or_an_error_in_words(rows: list[tuple[str, float, str]], plain: bool) -> None:
    rows = rows + [("no", 0.0, line) for *_, line in rows]
    obs = pd.DataFrame(rows, columns=["drug", "dose_nM", "line"], index=[f"c{i}" for i in range(len(rows))])
    design = Design(treatment="drug", control="no", dose="dose_nM", context=("line",), combine="+" if plain else None)
    adata = AnnData(X=np.full((len(obs), 1), 0.5, np.float32), obs=obs)
    try:
        study = Study(adata, design)
    except CellgapError as error:
        assert isinstance(error, DesignError) and str(error)
        return
    assert sum(len(r) for r in study.populations.values()) == study.n_obs
    for condition in study.all_conditions:
        assert study.resolve(str(condition)) == study.resolve(repr(condition)) == condition
        assert study.control_of(condition) in study.populations
