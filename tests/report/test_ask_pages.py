"""The page of a question and the page of a benchmark run: what is on them, odd inputs, and text that stays text."""

import dataclasses
import math
import re

import numpy as np
import pandas as pd
import pytest
from answers_to_show import (
    HOSTILE,
    LINES,
    LONG,
    PASSAGE,
    QUOTE,
    RULE,
    evidence,
    from_line,
    from_passage,
    from_row,
    many,
    several,
)

from cellgap.ask._answer import VERDICTS, Answer, Answers, Citation, Notice, Usage
from cellgap.ask._effect_table import EffectTable
from cellgap.ask.bench._judge import NullControl
from cellgap.ask.bench._predictions import ELSEWHERE, Prediction
from cellgap.ask.bench._records import Record
from cellgap.ask.bench._result import BenchResult, RecordResult
from cellgap.errors import DataError, StorageError
from cellgap.gap import Gap
from cellgap.report._answer_view import MARKS, WORDS, answers_view, usage_words
from cellgap.report._answers_page import write_answers
from cellgap.report._asking import bench_verdict, write_bench_report
from cellgap.study import Condition


def plain(page: str) -> None:
    """The page needs nothing else, runs nothing, and says nothing that only Python says."""
    assert "<script" not in page and "<img" not in page and not re.search(r"\b(None|nan)\b", page)
    assert not re.search(r"https?:|url\((?!#)|@import| src=[^x]", re.sub(r'xmlns[^"]*"[^"]*"', "", page))
    assert "default-src 'none'" in page
    ids = re.findall(r' id="([^"]+)"', page)
    assert len(ids) == len(set(ids))
    for figure in re.findall(r"<figure>.*?</figure>", page, re.DOTALL):
        assert re.search(r"<figcaption>[^<]{20,}\.</figcaption>", figure)


def text_of(page: str) -> str:
    return re.sub(r"\s+", " ", re.sub(r"<[^>]+>", " ", re.sub(r"<style>.*?</style>", "", page, flags=re.DOTALL)))


def test_the_page_of_answers_shows_everything(tmp_path):
    page = write_answers(several(), tmp_path / "new" / "page.html", evidence=evidence).read_text()
    text = text_of(page)
    for wanted in (
        "Does vorinostat induce apoptosis?", "4 answers, each under its own condition", "In K562 cells after 24 h",
        "raises apoptosis score", "lowers G2M score", "no change apoptosis score", "mixed G2M score",
        "not tested apoptosis score", "insufficient G2M score", "Caution: Extrapolation", "Conflict:",
        "Note: 1,148 more", "4 rows of screen, 1 of them changed since, s.csv",
        "38 % of the evidence calls otherwise", "No source", "1 retry among them", "2 replies", "about 4,210 sent",
        "unknown: no price", "The budget of 3 requests is used up", "Ranked by words alone", "vorinostat@10uM",
        "read as: treatment vorinostat", "score 0.8123", "43 to 106 of the passage", "1.34", LONG,
    ):  # fmt: skip
        assert wanted in text, wanted
    plain(page)
    assert page.count("&lt;img src=x") == 4 and page.count('<article class="card"') == 4
    assert f"<mark>{QUOTE}</mark>" in page and page.count('<details class="cite">') == 3
    assert text.count("q &lt;= 0.05") == 1 and text.count("a row counts where") == 1, "the rule is told once"
    assert "row_id" not in text and ">se<" not in page, "what is not known is not shown"
    assert write_answers(several(), tmp_path / "two.html", evidence=evidence).read_text() == page
    with pytest.raises(StorageError, match="is a folder"):
        write_answers(several(), tmp_path)


def test_titles_and_questions_are_text(tmp_path):
    page = write_answers(several(HOSTILE), tmp_path / "a.html", title=f"T {HOSTILE}").read_text()
    plain(page)
    assert "<title>T &lt;/script&gt;&lt;/style&gt;&lt;img" in page


def test_no_answer_says_why(tmp_path):
    none = Answers("Who?", (), Notice("no_evidence", "No passage is about this."))
    text = text_of(write_answers(none, tmp_path / "a.html").read_text())
    assert "Not answered No passage is about this. Language model not asked" in text and "Condition 1" not in text
    assert "No reason is known." in text_of(write_answers(Answers("Who?", ()), tmp_path / "b.html").read_text())


def test_verdicts_differ_by_word_and_by_shape():
    assert set(WORDS) == set(MARKS) == set(VERDICTS)
    assert len(set(WORDS.values())) == len(set(MARKS.values())) == len(VERDICTS)
    (card,) = answers_view(Answers("q", (Answer("c", "t", (), 1.0, verdict={"x": "doubles"}),)))["cards"]
    assert card["chips"] == [{"verdict": "other", "mark": "?", "words": "doubles", "readout": "x"}]


@pytest.mark.parametrize(
    ("usage", "wanted", "absent"),
    [
        (Usage(), [("Language model", "not asked")], "Cost"),
        (Usage(1, cost=None), [("Cost", "unknown: no price is given for this model")], "Waited"),
        (Usage(2, cost=0.01234), [("Cost", "0.0123"), ("Requests", "2")], "retry"),
        (Usage(cache_hits=1, cost=0.0), [("From the cache", "1 reply"), ("Cost", "0")], "about"),
        (Usage(2, 2, 0, 1500, 20, True, 0.5, 2.04), [("Requests", "2, 2 retries among them")], "cache"),
    ],
)
def test_what_a_question_cost(usage, wanted, absent):
    rows = usage_words(usage)
    assert all(row in rows for row in wanted) and absent not in str(rows)


def test_gaps_are_told_once_where_all_are_equal():
    def view(*gaps):
        return answers_view(Answers("q", tuple(Answer("c", "t", (from_row(),), 0.5, gap=gap) for gap in gaps)))

    assert "50 %" in view(0.5, None, 0.5)["matters"] and "does not matter" in view(0.0)["matters"]
    assert view(0.5)["cards"][0]["measures"] == [
        {"name": "Words found in its sources", "share": "0.500", "value": "50 %"}
    ]
    assert view(0.01)["matters"].startswith("The condition matters: 1 %")
    assert view(0.0099)["matters"].startswith("The condition hardly matters: less than 1 % of the evidence")
    apart = view(0.5, 0.2)
    assert apart["matters"] is None and [card["measures"][1]["value"] for card in apart["cards"]] == ["50 %", "20 %"]
    assert view(None)["matters"] is None and view(math.nan)["matters"] is None


def test_what_fixes_all_readings_alike_is_told_once():
    key = Condition("a", cell_line="K562")
    common = {"cell_line": "K562", "rule": "q <= 0.05", "model": ""}
    answers = [Answer("c", "t", (), 1.0, key, common | {"time_h": time}) for time in ("24", "72")]
    view = answers_view(Answers("q", tuple(answers)))
    assert view["shared"] == [("a row counts where", "q <= 0.05")]
    assert [card["facts"][1:] for card in view["cards"]] == [[("time h", "24")], [("time h", "72")]]
    alone = answers_view(Answers("q", tuple(answers[:1])))
    assert alone["shared"] == view["shared"] and ("model", "") not in alone["cards"][0]["facts"]
    other = dataclasses.replace(answers[0], attributes={"rule": "q <= 0.01"})
    text = dataclasses.replace(answers[0], attributes={})
    for told, given, wanted in (
        ("q <= 0.05", answers, []), ("q <= 0.1", answers, view["shared"]), ("", [answers[0], text], view["shared"]),
        ("q <= 0.05", [answers[0], other], []),
    ):  # fmt: skip
        assert answers_view(Answers("q", tuple(given)), told_rule=told)["shared"] == wanted
    differ = answers_view(Answers("q", (answers[0], other)), told_rule="q <= 0.05")["cards"]
    assert [dict(card["facts"])["rule"] for card in differ] == ["q <= 0.05", "q <= 0.01"]


def test_readouts_are_told_once_as_verdicts_or_as_a_fact():
    def facts(verdict):
        answer = Answer("c", "t", (), 1.0, attributes={"readout": "b, a"}, verdict=verdict)
        return answers_view(Answers("q", (answer,)))["cards"][0]["facts"]

    assert facts({"a": "raises", "b": "lowers"}) == [] and facts({"a": "raises"}) == [("readout", "b, a")]


def test_what_warns_is_told_from_what_is_worth_knowing():
    notes = (
        "150 readouts were looked at; the one with the largest effect is told.", "148 more without a call left out.",
        "1,148 more with a call left out.", "1 more without a call left out.",
    )  # fmt: skip
    cautions = (
        "extrapolation: dose", "All of this is predicted, nothing of it was measured.", "something new",
        "3 of 8 rows have fewer than 20 cells, and no call.", "not in the cited evidence: 148 more", "148 morello",
    )  # fmt: skip
    answer = Answer("c", "t", (), 1.0, conflict=True, flags=(*notes, *cautions))
    remarks = answers_view(Answers("q", (answer,)))["cards"][0]["remarks"]
    assert [r["name"] for r in remarks] == ["Conflict"] + ["Caution"] * 6 + ["Note"] * 4, "what warns comes first"
    assert tuple(r["text"] for r in remarks[1:]) == (*cautions, *notes)


def test_many_readouts_are_compared_where_there_is_something_to_compare():
    def glance(*verdicts):
        answers = [Answer("c", "t", (), 1.0, attributes=RULE, verdict=verdict) for verdict in verdicts]
        return answers_view(Answers("q", tuple(answers)))["glance"]

    found = answers_view(many())["glance"]
    assert found["readouts"] == ["gene7", "gene9"]
    assert found["left"] == (
        "Left out here, and told in the answers below: 10 readouts with no change under any condition."
    )
    assert [[cell["verdict"] for cell in row["cells"]] for row in found["rows"]] == [
        ["no_change", "no_change"], ["raises", "mixed"]
    ]  # fmt: skip
    quiet = {f"g{i}": "no_change" for i in range(9)}
    few = glance(dict(list(quiet.items())[:8]), {"g0": "no_change"})
    assert len(few["readouts"]) == 8 and few["left"] == "", "eight fit"
    still = glance(quiet, {"g0": "no_change"})
    assert len(still["readouts"]) == 8 and "1 readout with no change" in still["left"]
    untested = glance(quiet, {"g5": "not_tested"})
    assert untested["readouts"] == ["g5"], "that nothing was tested there is worth a column"
    loud = glance({f"g{i}": "raises" for i in range(20)}, {"g0": "lowers"})
    assert len(loud["readouts"]) == 12 and loud["left"].endswith("below: 8 further readouts with a call.")
    assert loud["rows"][1]["cells"][1] is None


def test_a_quote_is_marked_where_it_stands_and_only_there():
    def parts(citation, find=evidence):
        shown = answers_view(Answers("q", (Answer("c", "t", (citation,), 1.0),)), find)["cards"][0]["citations"][0]
        return shown["parts"], shown["changed"]

    cited = from_passage()
    found, changed = parts(cited)
    assert not changed and [marked for marked, _ in found] == [False, True, False]
    assert "".join(text for _, text in found) == PASSAGE.text
    assert parts(cited, None) == ([(True, QUOTE)], False)
    assert parts(dataclasses.replace(cited, sha256="0" * 64)) == ([(True, QUOTE)], True)
    assert parts(dataclasses.replace(cited, span=(0, 4)))[0] == [(True, QUOTE[:4]), (False, QUOTE[4:])]
    assert parts(dataclasses.replace(cited, span=None)) == ([(False, QUOTE)], False)
    assert parts(dataclasses.replace(cited, span=(9, 2))) == ([(True, QUOTE)], False)
    whole = Citation("x", "t", PASSAGE.text, 1, cited.span)
    assert parts(whole)[0] == found, "a passage quoted whole is marked in itself"


def test_the_values_of_a_row_are_those_that_were_cited():
    frame = pd.DataFrame(
        {"drug": ["a", "a"], "readout": "x", "effect": [1.5, 0.1], "q": [0.01, 0.5], "cell_line": "K562", "n_cells": 40}
    )
    table = EffectTable.of(frame, name="screen")
    values = {str(table.frame["row_id"].iat[i]): table.values(i) for i in range(2)}
    answer = Answer("c", "t", (table.cite(0), table.cite(1)), 1.0)
    alone = dataclasses.replace(answer, citations=answer.citations[:1])

    def shown(one):
        (found,) = answers_view(Answers("q", (one,)), values.get)["cards"][0]["citations"]
        return found

    first, both = shown(alone), shown(answer)
    assert dict(first["cells"])["effect"] == "1.5" and dict(first["cells"])["cell_line"] == "K562"
    assert "dose" not in dict(first["cells"]) and not first["changed"]
    assert both["title"] == "2 rows of screen" and [column["name"] for column in both["columns"]] == ["effect", "q"]
    assert [one["cells"] for one in both["lines"]] == [["1.5", "0.01"], ["0.1", "0.5"]]
    assert {("readout", "x"), ("treatment", "a"), ("cell line", "K562"), ("cells", "40")} <= set(both["equal"])
    values[table.cite(0).source_id]["effect"] = 9.0
    first, both = shown(alone), shown(answer)
    assert first["changed"] and first["cells"] == [] and "1.5" in first["parts"][0][1]
    assert both["title"] == "2 rows of screen, 1 of them changed since"
    changed, kept = both["lines"]
    assert changed["changed"] and changed["cells"] is None and "1.5" in changed["quote"]
    assert not kept["changed"] and kept["cells"] == ["0.1"], "what all rows at hand have in common is told above"


def test_the_rows_of_one_table_are_one_table(tmp_path):
    path = tmp_path / "a.html"
    (card, _) = answers_view(many(), evidence)["cards"]
    (cited,) = card["citations"]
    assert [(column["name"], column["number"]) for column in cited["columns"]] == [
        ("readout", False), ("time", True), ("effect", True), ("cells", True)
    ]  # fmt: skip
    assert cited["equal"] == [
        ("treatment", "vorinostat"), ("dose", "1000 nM"), ("cell line", "A549"), ("q", "4.27e-32"),
        ("source", "measured"),
    ]  # fmt: skip
    assert cited["lines"][1]["cells"] == ["gene1", "48 h", "-0.06123", "101"]
    assert [i for i, one in enumerate(cited["lines"]) if one["cells"] is None] == [3, 4]
    assert [i for i, one in enumerate(cited["lines"]) if one["changed"]] == [4]
    page = write_answers(many(), path, evidence=evidence).read_text()
    plain(page)
    assert page.count('<details class="cite') == 2 and page.count('title="l5, SHA-256 ') == 2
    assert "12 rows of screen, 1 of them changed since, s.csv" in text_of(page)
    assert "This row has changed since it was cited; it said: vorinostat in A549: gene4" in text_of(page)
    page = write_answers(many(), path).read_text()
    assert text_of(page).count("what was cited row") == 2 and page.count('<td class="words" colspan="1">') == 24
    assert "has changed" not in page.partition("</style>")[2]


def test_rows_of_other_tables_and_passages_stand_apart():
    other = dataclasses.replace(from_line(5), source="two.csv")
    read_in_text = [dataclasses.replace(from_passage(), rows=(row,), position=0) for row in ("l1", "l2")]
    cited = (from_line(0), from_passage(), other, from_line(1), *read_in_text, from_row())
    found = answers_view(Answers("q", (Answer("c", "t", cited, 1.0),)), evidence)["cards"][0]["citations"]
    assert [one["kind"] for one in found] == ["rows", "one", "one", "one", "one", "one"]
    assert [one["short"] for one in found[0]["lines"]] == ["l0", "l1"] and found[0]["source"] == "s.csv"
    assert ("From", "two.csv") in found[2]["meta"] and LINES["l5"]["readout"] in dict(found[2]["cells"]).values()


# ---- the benchmark ----

METRICS = ("condition_strict", "answer_strict", "citation_strict", "combined_strict", "outputs", "planted_cited")


def record(i: int, golds: int = 2) -> Record:
    return Record.of({
        "id": f"r{i}", "question": f"Question {i} {HOSTILE if i == 0 else ''}",
        "properties": [
            {"condition": f"gold {i}.{g}", "groundtruth": f"true {i}.{g}", "citations": [{"title": f"{g + 1}. T"}]}
            for g in range(golds)
        ],
        "ctxs": [{"title": "T", "text": f"text {k}"} for k in range(3)],
    })  # fmt: skip


def result(n: int = 8, level: float = 0.5, **changes) -> BenchResult:
    rng = np.random.default_rng(0)
    index = pd.Index([f"r{i}" for i in range(n)], name="record")
    scores = pd.DataFrame({m: np.clip(level + 0.1 * rng.normal(size=n), 0, 1) for m in METRICS}, index=index)
    scores.loc["r0", "combined_strict"] = 0.0
    scores.loc["r1", "planted_cited"] = np.nan
    floor = pd.DataFrame({m: np.full(n, 0.2) for m in METRICS}, index=index)
    said = (
        Prediction(f"said {HOSTILE}", "one", (1, ELSEWHERE + 1)),
        Prediction("", "", ()),
        Prediction("more", "x", (2,)),
    )
    results = [RecordResult("r0", "answered", said, None, (Notice("no_encoder", "words alone"),))]
    results.append(RecordResult("r1", "failed", (), Notice("ReplyError", "No JSON.")))
    results.append(RecordResult("r2", "abstained", (), Notice("no_evidence", "Nothing.")))
    results += [RecordResult(f"r{i}", "answered", said[:1]) for i in range(3, n)]
    given = dict(
        system="extractive", versions={"cellgap": "1"}, protocol="conditions", k_max=3, judge="det-1",
        judge_versions={"judge": "det-1"}, dataset="mini <i>ency</i>", digest="ab", n_records=n, results=tuple(results),
        scores=scores, floor=floor, pairs={"r0": ((1, 0),)}, usage=Usage(9, cost=None),
    )  # fmt: skip
    return BenchResult(**(given | changes))


def test_the_page_of_a_run_shows_scores_beside_chance(tmp_path):
    gap = Gap("ambiguity gap", 0.04, "95 % 0.01 to 0.07", "It matters.", "State cell line, dose, time.")
    other = result(level=0.3, system=f"blind {HOSTILE}", stopped="the budget is used up")
    given = dict(records=[record(i) for i in range(8)], gaps=[gap], settings={"file": "x"}, notes=["To know."])
    path = write_bench_report([result(), other], tmp_path / "new" / "page.html", **given)
    page, text = path.read_text(), text_of(path.read_text())
    for wanted in (
        "It answers better than chance", "8 were asked: 6 answered, 1 abstained, 1 failed",
        "Two random passages score 0.200",
        "ReplyError \N{MULTIPLICATION SIGN} 1", "unknown: no price", "ambiguity gap", "State cell line, dose, time.",
        "The worst questions, side by side", "gold 0.0", "true 0.1", "No such reading", "No answer",
        "cites 1, 1 elsewhere",
        "(no condition)", "(empty)", "the budget is used up", "no_encoder (1 question)", "To know.", "All 8 questions",
        "Floor", "corrected", "Cites planted orders", "&lt;i&gt;ency",
    ):  # fmt: skip
        assert wanted in text, wanted
    plain(page)
    assert page.count("<svg") == 5 and page.count('<article class="case"') == 5
    assert re.findall(r'<article class="case" aria-label="(Question \d)', page)[0] == "Question 0", "the worst first"
    # The gold reading that was paired stands beside what it was paired with.
    case = text[text.index("gold 0.0") : text.index("gold 0.1")]
    assert case == "gold 0.0 true 0.0 cites 1 (no condition) (empty) cites none "
    assert write_bench_report([result(), other], tmp_path / "two.html", **given).read_text() == page
    with pytest.raises(StorageError, match="is a folder"):
        write_bench_report(result(), tmp_path)
    with pytest.raises(DataError, match="at least one result"):
        write_bench_report([], tmp_path / "x.html")


@pytest.mark.parametrize(
    ("level", "changes", "tone", "told"),
    [
        (0.5, {}, "better", "Where those are 0 and a perfect answer is 1"), (0.05, {}, "worse", "Two random passages"),
        (0.22, {}, "unclear", "conditions"), (0.5, {"floor": pd.DataFrame()}, "unknown", "det-1"),
    ],
)  # fmt: skip
def test_the_verdict_reads_the_score_beside_its_floor(level, changes, tone, told, tmp_path):
    one = result(40, level, **changes)
    found = bench_verdict(one)
    assert found.tone == tone and any(told in sentence for sentence in found.sentences)
    plain(write_bench_report(one, tmp_path / "page.html").read_text())


def test_a_judge_is_shown_with_what_it_gives_for_nothing(tmp_path):
    scores = result().scores.assign(
        judged_answer_strict=0.3, judged_answer_matched=0.3, outputs=2.0, outputs_surplus=0.0
    )
    control = NullControl("answer", 0.25, 0.3, 0.3, 30, 30, 30, 2)
    judged = result(judge="llm:x", scores=scores, controls=(control,), judged={"calls": 40, "valid": 38, "failed": 2})
    text = text_of(write_bench_report(judged, tmp_path / "page.html").read_text())
    assert "calls 40, valid 38, failed 2" in text and "0.250 0.300 0.300 30, 30, 30 2" in text
    assert "0.300 to 0.300 corrected undefined" in text, "not 0.3: the judge gives as much for nothing"
    bare = dataclasses.replace(control, empty=None)
    text = text_of(write_bench_report(dataclasses.replace(judged, controls=(bare,)), tmp_path / "b.html").read_text())
    assert "none valid" in text


def test_runs_of_one_system_are_told_apart(tmp_path):
    runs = [result(), result(protocol="rag", k_max=1), result(protocol="given", k_max=None, judge="lex-1")]
    text = text_of(write_bench_report(runs, tmp_path / "page.html").read_text())
    assert "conditions, k \N{LESS-THAN OR EQUAL TO} 3, det-1" in text and "given, any k, lex-1" in text
    assert "Scores of different protocols, judges or records are not comparable" in text
    few = result(scores=result().scores[["answer_strict"]], floor=result().floor[["answer_strict"]])
    text = text_of(write_bench_report(few, tmp_path / "few.html").read_text())
    assert "Answer (word F1)" in text and "Combined" not in text


def test_many_questions_are_cut_and_said_so(tmp_path):
    page = write_bench_report(result(230), tmp_path / "page.html").read_text()
    assert "The 200 lowest of 230 questions" in page and "Not at hand" in page
    plain(page)
