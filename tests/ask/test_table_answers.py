"""The structured route: exact answers from effect tables, and what must never be said."""

import gzip
import itertools
import json
import math
import re

import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cellgap.ask._calls import CallRule
from cellgap.ask._drug_notes import DrugNotes
from cellgap.ask._effect_table import EffectTable
from cellgap.ask._table_answers import answer_from_tables
from cellgap.errors import ConfigError, DataError
from cellgap.study import Condition

VERDICT = {"up": "raises", "down": "lowers", "none": "no_change"}
CALLS = {"up": (1.66, 0.011), "down": (-2.1, 0.0004), "none": (0.4, 0.62), "unsure": (1.4, 0.19)}


def rows(calls="none up up", *, doses=(0.1, 1.0, 10.0), **more):
    """Return the rows of one ladder."""
    base = {"drug": "velcatinib", "cell_line": "A549", "time_h": 24, "readout": "apoptosis", "n_cells": 100}
    return [
        base | {"dose_uM": dose, "effect": CALLS[call][0], "q": CALLS[call][1], "source": "measured"} | more
        for dose, call in zip(doses, calls.split(), strict=True)
    ]


def table(*parts, **options):
    return EffectTable.of(pd.DataFrame(list(itertools.chain(*parts))), **options)


def ask(question, *tables, **options):
    found = answer_from_tables(question, tables, **options)
    assert found is not None
    return found


def only(question, *tables, **options):
    (answer,) = ask(question, *tables, **options)
    return answer


def numbers(text):
    """Return the numbers of a text that are no part of a name."""
    return re.findall(r"(?<![\w.+-])[+-]?\d+(?:\.\d+)?(?:e-?\d+)?(?![\w.]*\w)", text)


def held(table_, answer):
    """Return the printed forms of the values of the cited rows, at any precision."""
    at = [table_.frame["row_id"].tolist().index(c.source_id) for c in answer.citations]
    found = set()
    for i in at:
        row = table_.values(i)
        for name in ("dose", "time_h", "effect", "q", "n_cells"):
            if row[name] is not None:
                found.add(float(row[name]))
    return found


def equals_a_value(number, values):
    digits = len(number.partition(".")[2]) if "e" not in number else 12
    return any(
        round(v, digits) == float(number) or math.isclose(float(f"{v:.3g}"), float(number), rel_tol=1e-12)
        for v in values
    )


@pytest.fixture(scope="session")
def mini(data_dir):
    with gzip.open(data_dir / "condambigqa" / "mini_perturb_dev.jsonl.gz", "rt") as file:
        return [json.loads(line) for line in file]


@pytest.mark.data
def test_mini_perturb_is_answered_exactly(mini):
    n_keys = n_short = 0
    for record in mini:
        effects = EffectTable.of(pd.DataFrame(record["x_table"]))
        answers = ask(record["question"], effects)
        assert len(answers) == len(record["properties"])
        ids = effects.frame["row_id"].tolist()
        by_key = {(a.key, a.attributes["time"]): a for a in answers}
        for gold in record["properties"]:
            key = gold["x_key"]
            found = by_key[Condition(key["drug"], cell_line=key["cell_line"]), f"{key['time_h']} h"]
            cited = sorted(int(effects.origin[ids.index(c.source_id)]) for c in found.citations)
            assert cited == sorted(gold["x_rows"])
            assert found.condition == gold["condition"] and not found.conflict
            for readout, calls in gold["x_calls"].items():
                (call,) = set(calls.values()) - {"none"} or {"none"}
                assert found.verdict[readout] == VERDICT[call]
                first = gold["x_first_active_uM"][readout]
                if first is not None:
                    assert f"{found.verdict[readout]} {readout} from {first:g} uM (" in found.text
            assert all(short.lower() in found.text.lower() for short in gold["x_short_answers"])
            assert all(equals_a_value(n, held(effects, found)) for n in numbers(found.text)), found.text
            n_keys, n_short = n_keys + 1, n_short + len(gold["x_short_answers"])
    assert (n_keys, n_short) == (153, 315)


def test_the_sentence():
    answer = only("Does velcatinib induce apoptosis?", table(rows()))
    assert answer.condition == "A549 cells treated for 24 h."
    assert answer.text == (
        "In A549 at 24 h, velcatinib raises apoptosis from 1 uM (score +1.66, q = 0.011, 100 cells, measured), "
        "lower doses have no clear effect."
    )
    assert answer.key == Condition("velcatinib", cell_line="A549") and answer.verdict == {"apoptosis": "raises"}
    assert answer.gap == pytest.approx(1 / 3) and answer.support == 1.0 and not answer.flags
    assert len(answer.citations) == 3


@pytest.mark.parametrize(
    ("calls", "verdict", "said"),
    [
        ("up up up", "raises", "raises apoptosis from 0.1 uM (score +1.66"),
        ("down down down", "lowers", "lowers apoptosis from 0.1 uM (score -2.10, q = 0.0004"),
        (
            "none none none",
            "no_change",
            "does not change apoptosis at any tested dose (0.1 to 10 uM; 100 cells, measured)",
        ),
        (
            "none up none",
            "raises",
            "raises apoptosis at 1 uM (score +1.66, q = 0.011, 100 cells, measured), with no clear",
        ),
        (
            "up up none",
            "raises",
            "from 0.1 to 1 uM (score +1.66, q = 0.011, 100 cells, measured), with no clear effect at 10",
        ),
        ("up none down", "mixed", "has mixed effects on apoptosis: raises it at 0.1 uM"),
        ("unsure unsure unsure", "no_change", "does not change apoptosis"),
    ],
)
def test_ladders(calls, verdict, said):
    answer = only("What happens to apoptosis after velcatinib?", table(rows(calls)))
    assert answer.verdict == {"apoptosis": verdict} and said in answer.text


def test_a_large_effect_with_a_large_q_is_no_call():
    answer = only("Does velcatinib raise apoptosis?", table(rows("unsure unsure unsure")))
    assert answer.verdict == {"apoptosis": "no_change"}
    rule = CallRule(max_q=0.2)
    assert only("Does velcatinib raise apoptosis?", table(rows("unsure none none")), rule=rule).verdict == {
        "apoptosis": "raises"
    }


def test_few_cells_give_no_verdict():
    answer = only("Does velcatinib raise apoptosis?", table(rows("up up up", n_cells=12)))
    assert answer.verdict == {"apoptosis": "insufficient"} and "too few cells" in answer.text
    assert any("fewer than 20 cells" in flag for flag in answer.flags) and answer.gap is None
    unknown = only("Does velcatinib raise apoptosis?", table(rows("up up up", n_cells=None)))
    assert unknown.verdict == {"apoptosis": "raises"} and "cells," not in unknown.text


@pytest.mark.parametrize(("factor", "unit"), [(1e3, "nM"), (1e-6, "M"), (1e6, "pM")])
def test_another_unit_changes_no_call(factor, unit):
    plain = [
        {k: v for k, v in r.items() if k != "dose_uM"} | {"dose": r["dose_uM"] * factor, "unit": unit} for r in rows()
    ]
    for question in ("Does velcatinib raise apoptosis?", "Does velcatinib raise apoptosis at 1 uM?"):
        first, second = only(question, table(rows())), only(question, table(plain))
        assert first.verdict == second.verdict and first.gap == second.gap
        assert [c.source_id for c in first.citations] == [c.source_id for c in second.citations]
        assert f"1000 {unit}" in second.text or unit != "nM"


@settings(max_examples=8, deadline=None)
@given(st.randoms(use_true_random=False), st.sampled_from(["Does velcatinib act?", "Which drugs raise apoptosis?"]))
def test_the_order_of_rows_changes_nothing(random, question):
    given_rows = rows("none up up") + rows("down down none", cell_line="K562") + rows(drug="cindinostat")
    given_rows += rows("up none none", source="predicted", readout="G1 arrest") + rows("down up up", dataset="d2")
    shuffled = list(given_rows)
    random.shuffle(shuffled)
    assert ask(question, table(given_rows)).to_dict() == ask(question, table(shuffled)).to_dict()


def test_a_repeated_row_changes_nothing_and_is_told():
    once, twice = ask("velcatinib?", table(rows())), ask("velcatinib?", table(rows(), rows()))
    assert once.answers == twice.answers and once.degraded == ()
    assert [n.code for n in twice.degraded] == ["duplicate_rows"]
    both = ask("velcatinib?", table(rows()), table(rows()))
    assert both.answers == once.answers


@pytest.mark.parametrize(
    ("question", "kept", "nearest"),
    [
        ("Does velcatinib raise apoptosis in K562?", {"cell_line": "K562"}, "A549"),
        ("Does velcatinib raise apoptosis at 24 h?", {"time_h": 24}, "6 h"),
        ("Does velcatinib raise apoptosis in A549 at 10 uM at 24 h?", {"dose_uM": 10.0, "time_h": 24}, "1 uM"),
    ],
)
def test_deleted_rows_are_not_tested_and_never_no_effect(question, kept, nearest):
    everything = rows() + rows(cell_line="K562") + rows("up up up", time_h=6)
    there = [r for r in everything if not all(r[k] == v for k, v in kept.items())]
    answer = only(question, table(there))
    assert set(answer.verdict.values()) == {"not_tested"} and "was not tested" in answer.text
    assert nearest in answer.text and "raises apoptosis" in answer.text and answer.citations
    assert all(equals_a_value(n, held(table(there), answer)) for n in numbers(answer.text)), answer.text


def test_an_untested_readout_is_said_beside_the_tested_one():
    answer = only(
        "Does velcatinib change apoptosis or G1 arrest in A549?",
        table(rows(), rows(cell_line="K562", readout="G1 arrest")),
    )
    assert answer.verdict == {"apoptosis": "raises", "G1 arrest": "not_tested"}
    assert "velcatinib was not tested on G1 arrest" in answer.text


def test_cells_that_no_table_has_are_not_tested():
    answer = only("Does velcatinib raise apoptosis in MDA-MB-231?", table(rows()))
    assert answer.verdict == {"apoptosis": "not_tested"} and answer.condition == "MDA-MB-231 cells."
    one, other = ask("Does velcatinib raise apoptosis in A549 and in HeLa?", table(rows()))
    assert (one.verdict, other.verdict) == ({"apoptosis": "raises"}, {"apoptosis": "not_tested"})


@pytest.mark.parametrize("name", ["dataset", "source"])
def test_opposite_directions_are_a_conflict(name):
    values = ("measured", "predicted") if name == "source" else ("d1", "d2")
    answer = only(
        "Does velcatinib raise apoptosis?",
        table(rows(**{name: values[0]}), rows("none down down", **{name: values[1]})),
    )
    assert answer.conflict and answer.verdict == {"apoptosis": "mixed"} and len(answer.citations) == 6
    label = "{} rows" if name == "source" else "data set {}"
    first, second = answer.text.index(label.format(values[0])), answer.text.index(label.format(values[1]))
    assert first < second and "raises apoptosis" in answer.text and "lowers apoptosis" in answer.text
    assert any("disagrees" in flag for flag in answer.flags)


def test_measured_goes_before_predicted_where_they_disagree_on_a_change():
    answer = only(
        "Does velcatinib raise apoptosis?", table(rows("none none none"), rows("up up up", source="predicted"))
    )
    assert answer.verdict == {"apoptosis": "no_change"} and not answer.conflict and answer.flags
    agreeing = only("Does velcatinib raise apoptosis?", table(rows(), rows(source="predicted")))
    assert not agreeing.flags and agreeing.text.count("apoptosis") == 1


def test_rows_of_one_key_that_go_up_and_down_are_a_conflict():
    found = ask("Does velcatinib raise apoptosis?", table(rows("up", doses=(1.0,)), rows("down", doses=(1.0,))))
    assert found[0].conflict and found[0].verdict == {"apoptosis": "mixed"} and len(found[0].citations) == 2
    assert [n.code for n in found.degraded] == ["key_not_unique"]


def test_predictions_say_so():
    answer = only("velcatinib?", table(rows(source="predicted", extrapolates="A549 was not seen with velcatinib")))
    assert "predicted" in answer.text
    assert "extrapolation: A549 was not seen with velcatinib" in answer.flags
    assert any("nothing of it was measured" in flag for flag in answer.flags)


def test_open_questions_name_at_most_ten_readouts_strongest_first():
    parts = [rows("up", doses=(1.0,), readout=f"program {chr(97 + i)}", effect=1.5 + i / 10) for i in range(13)]
    parts.append(rows("none", doses=(1.0,), readout="program z"))
    answer = only("What does velcatinib do?", table(*parts))
    assert list(answer.verdict)[:2] == ["program m", "program l"] and len(answer.verdict) == 10
    assert "3 more with a call left out." in answer.flags and "1 more without a call left out." in answer.flags
    assert len(answer.citations) == 10


def test_most_answers_and_what_is_omitted():
    effects = table(rows("up up up"), rows(cell_line="K562"), rows("down down down", cell_line="U2OS"))
    found = ask("velcatinib?", effects, k_max=2)
    assert [a.attributes["cell_line"] for a in found] == ["U2OS", "A549"]
    assert found.trace["omitted"] == ["velcatinib in K562 at 24 h"] and found.trace["rows"] == 9
    with pytest.raises(ConfigError, match="k_max"):
        answer_from_tables("velcatinib?", [effects], k_max=0)


def test_comparison_threshold_and_list():
    effects = table(
        rows(), rows("none none none", drug="cindinostat"), rows("down down down", drug="cindinostat", time_h=6)
    )
    second, first = ask("Compare velcatinib with cindinostat on apoptosis", effects)
    if first.attributes["time"] != "24 h":
        first, second = second, first
    assert first.verdict == {"velcatinib: apoptosis": "raises", "cindinostat: apoptosis": "no_change"}
    assert first.text.index("velcatinib") < first.text.index("cindinostat") and len(first.citations) == 6
    assert second.verdict["velcatinib: apoptosis"] == "not_tested" and "velcatinib was not tested" in second.text
    threshold = only("From which dose does velcatinib raise apoptosis?", effects)
    assert threshold.text.startswith("In A549 at 24 h, from 1 uM, velcatinib raises apoptosis (score +1.66")
    raised = ask("Which drugs raise apoptosis?", effects)
    assert list(raised[0].verdict.items()) == [("velcatinib: apoptosis", "raises")]
    assert raised[1].text == "In A549 at 6 h, no tested treatment raises apoptosis."


def test_near_namesakes_are_not_mixed_in():
    effects = table(
        rows("up up up"), rows("down down down", drug="velcaotinib"), rows("down down down", drug="velcatinibs")
    )
    answer = only("Is apoptosis changed by velcatinib?", effects)
    assert answer.verdict == {"apoptosis": "raises"} and answer.attributes["treatment"] == "velcatinib"


def test_without_doses_times_or_context():
    knock = [{"gene_ko": "TP53", "gene": "CDKN1A", "log2fc": -2.31, "padj": 1e-5}]
    answer = only("What does TP53 do?", table(knock))
    assert answer.condition == "All cells measured."
    assert answer.text == "TP53 knock-out lowers CDKN1A (log fold change -2.31, q = 1e-5, measured)."
    of_set = only("What does TP53 do?", table([knock[0] | {"dataset": "screen 2"}]))
    assert of_set.condition == "Cells of data set screen 2."
    timed = only("TP53?", table([knock[0] | {"time_h": 6, "donor": "d1"}]))
    assert timed.condition == "Cells of donor d1 treated for 6 h." and timed.text.startswith("In donor d1 at 6 h, TP53")


def test_a_dose_in_the_question_is_in_the_condition():
    answer = only("Does velcatinib raise apoptosis at 1000 nM?", table(rows()))
    assert answer.condition == "A549 cells treated with 1 uM for 24 h."
    assert "raises apoptosis at 1 uM (score +1.66" in answer.text and len(answer.citations) == 1
    assert answer.key == Condition("velcatinib", dose=1, unit="uM", cell_line="A549")


def test_no_treatment_and_no_list_is_for_another_route():
    assert answer_from_tables("Does foozumab raise apoptosis?", [table(rows())]) is None
    assert answer_from_tables("Does velcatinib raise apoptosis?", []) is None


def test_an_own_citation_takes_the_place_of_the_rows():
    from cellgap.ask._answer import Citation

    passage = Citation("p1", "A passage", "velcatinib raises apoptosis")
    answer = only("velcatinib?", table(rows()), cite=lambda effects, row: passage)
    assert answer.citations == (passage,)


def test_drug_notes_add_words_and_synonyms(tmp_path):
    path = tmp_path / "drugs.csv"
    path.write_text("name,synonyms,targets,mechanism\nVelcatinib,VT-101|velca,HDAC1,HDAC1 inhibitor\nother,,,\n")
    found = ask("Does VT-101 raise apoptosis?", table(rows()), notes=DrugNotes.read(path))
    assert "velcatinib (HDAC1 inhibitor) raises apoptosis" in found[0].text
    assert found[0].citations[-1].title == "Velcatinib annotation" and "HDAC1" in found[0].citations[-1].quote
    assert found.trace["read_as"] == ["'VT-101' is read as 'velcatinib'."]
    path.write_text("name\nx\nx\n")
    with pytest.raises(DataError, match="line 3"):
        DrugNotes.read(path)


@settings(max_examples=25, deadline=None)
@given(
    st.lists(
        st.tuples(
            st.sampled_from(["A549", "K562"]),
            st.sampled_from([6.0, 24.0, None]),
            st.sampled_from([0.1, 0.25, 1.0, 10.0, None]),
            st.sampled_from(["apoptosis", "proliferation"]),
            st.floats(-3, 3).map(lambda x: round(x, 3)),
            st.floats(0, 1),
            st.one_of(st.none(), st.integers(5, 900)),
            st.sampled_from(["measured", "predicted"]),
            st.sampled_from(["", "one", "two"]),
        ),
        min_size=1,
        max_size=12,
    ),
    st.sampled_from(["What does velcatinib do?", "Does velcatinib raise apoptosis in A549 at 24 h at 1 uM?"]),
)
def test_every_number_is_one_of_a_cited_row(cells, question):
    names = ("cell_line", "time_h", "dose_uM", "readout", "effect", "q", "n_cells", "source", "dataset")
    effects = EffectTable.of(pd.DataFrame([{"drug": "velcatinib"} | dict(zip(names, c, strict=True)) for c in cells]))
    found = ask(question, effects)
    assert len(found) >= 1
    for answer in found:
        assert answer.citations and set(answer.verdict.values()) <= {
            *("raises", "lowers", "no_change", "mixed", "not_tested", "insufficient")
        }
        values = held(effects, answer)
        assert all(equals_a_value(n, values) for n in numbers(answer.text)), (answer.text, values)
        assert answer.gap is None or 0.0 <= answer.gap < 1.0
    keys = [(a.condition, a.attributes.get("time")) for a in found]
    assert len(set(keys)) == len(keys)
