"""Weak places that a review with questions, names and passages of its own found."""

import pytest

from cellgap.ask._extract import extract
from cellgap.ask._passage import Passage
from cellgap.ask._rows_in_text import rows_in_text
from cellgap.ask._typed import typed_spans


def told(form, drugs, readout):
    places = [(drug, dose) for drug in drugs for dose in (0.1, 1, 10)]
    return [
        Passage(f"row {k}", form.format(d=drug, r=readout, dose=f"{dose:g} uM", e=1.1 + k / 10))
        for k, (drug, dose) in enumerate(places)
    ]


def effects_of(text):
    return [s.value for s in typed_spans(text) if s.kind == "effect"]


@pytest.mark.parametrize("name", ["lipid droplet", "enhancer", "reductase", "suppressor", "repressor"])
@pytest.mark.parametrize(("verb", "sign"), [("raised", 1), ("lowered", -1), ("shifted", 1)])
def test_a_name_that_begins_like_a_verb_gives_no_sign(name, verb, sign):
    assert effects_of(f"Zelorvane {verb} {name} activity by 1.25 in K562.") == [sign * 1.25]


@pytest.mark.parametrize(("word", "sign"), [("dropped", -1), ("was reduced", -1), ("was elevated", 1)])
def test_the_verbs_themselves_still_do(word, sign):
    assert effects_of(f"Autophagy {word} by 1.25 in K562.") == [sign * 1.25]


def test_drugs_that_differ_in_the_number_behind_their_code_stay_apart():
    form = "After 24 h with {dose} {d}, K562 cells had a {r} score of +{e:.2f} (q = 0.002, 300 cells, measured)."
    read = rows_in_text("Does QVX 220 affect autophagy?", told(form, ["QVX 220", "QVX 202"], "autophagy"))
    assert read is not None
    assert read.table.frame.groupby("treatment").size().to_dict() == {"QVX 202": 3, "QVX 220": 3}
    assert read.asked == ("QVX 220",)


def test_a_count_belongs_to_the_name_of_its_readout():
    form = "{d} in K562 at {dose} for 24 h: {r} score +{e:.2f}, q = 0.002, 300 cells, measured."
    read = rows_in_text("Does zelorvane affect foci count?", told(form, ["zelorvane", "zelorvine"], "foci count"))
    assert read is not None and set(read.table.frame["readout"]) == {"foci count"}


def test_a_readout_may_open_the_question():
    form = "K562 | {d} | {dose} | 24 h | {r} | effect +{e:.2f} | q 0.002 | 300 cells | measured"
    passages = told(form, ["ZL-7734", "ZL-7743"], "mTORC1 activity")
    read = rows_in_text("mTORC1 activity and ZL-7734: what is known?", passages)
    assert read is not None and read.asked == ("ZL-7734",)


FOUNDED = [
    Passage("Ostrel (town, Varn)", "The town Ostrel in Varn was founded in 1311 by Ada Kemp."),
    Passage("Ostrel (abbey, Lund)", "Established in 1475, this abbey is among the oldest of its order in Lund."),
    Passage("Ostrel Bay", "Ostrel Bay was founded as a resort in 1899."),
    Passage("Varn", "Varn is known for pears; its towns were founded by traders."),
]


def test_every_page_of_the_name_asked_for_is_a_reading():
    answers = extract("When was Ostrel founded?", FOUNDED, None)
    said = [a.text for a in answers]
    assert any("1311" in text for text in said) and any("1475" in text for text in said)


def test_a_sentence_of_another_passage_that_has_no_date_is_not_added_to_one_that_has():
    more = Passage("Ostrel (town, Varn)", "The town Ostrel was founded, old maps say, under another spelling.")
    first = next(a for a in extract("When was Ostrel founded?", [*FOUNDED, more], None) if "1311" in a.text)
    assert [c.position for c in first.citations] == [1]
