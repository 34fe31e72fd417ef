import gzip
import json
import os
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cellgap.ask.bench import Record, load, save
from cellgap.ask.bench._records import REVISIONS, fragment_number, part
from cellgap.ask.bench._text_scores import short_answer_share
from cellgap.errors import ConfigError, DataError

RAW = {
    "id": "q1",
    "question": "Which capital?",
    "properties": [
        {
            "condition": "If A is meant [Fragment 2].",
            "groundtruth": ["Paris [Fragment 1]", "and Lyon"],
            "citations": [{"title": "2. Another title", "text": "edited by hand"}],
            "condition_citations": [{"title": "1. A", "text": "x"}],
            "answer_citations": ["Fragment 3", 2],
            "reason": "a remark",
        },
        {"condition": "If B is meant.", "groundtruth": "Rome", "citations": [], "x_short_answers": ["Rome"]},
    ],
    "ctxs": [
        {"title": "A", "text": "Paris is one.", "score": 0.5},
        {"title": "A", "text": "Lyon is another."},
        {"title": "B", "text": "Rome is the third.", "x_row": 7},
    ],
    "x_injection": [2],
    "unknown": {"kept": [1, None, 2.5]},
}


def written(path: Path, *raw: object) -> Path:
    path.write_text("".join(json.dumps(r) + "\n" for r in raw), encoding="utf-8")
    return path


def test_a_record_of_either_revision_is_read_and_unknown_keys_are_kept():
    record = Record.of(RAW)
    first, second = record.golds
    assert first.fragments == (1, 2, 3)  # the union of three kinds of citations, by number
    assert first.condition == "If A is meant." and first.answer == "Paris and Lyon"
    assert first.extra == {"reason": "a remark"} and second.short_answers == ("Rome",) and second.fragments == ()
    assert record.stored == (0.5, None, None) and record.injected == (3,)
    assert record.passages[2].meta["x_row"] == 7
    assert record.to_dict() == RAW and record.to_dict() is not RAW


@pytest.mark.parametrize("name", ["a.jsonl", "a.jsonl.gz", "a.json", "a.json.gz"])
def test_writing_and_reading_again_is_the_identity(tmp_path, name):
    records = load(written(tmp_path / "in.jsonl", RAW, RAW | {"id": "q2", "question": "Linie\u2028zwei?"}))
    save(records, tmp_path / name)
    again = load(tmp_path / name)
    assert [r.to_dict() for r in again] == [r.to_dict() for r in records]
    assert [(r.golds, [p.id for p in r.passages]) for r in again] == [
        (r.golds, [p.id for p in r.passages]) for r in records
    ]
    first = (tmp_path / name).read_bytes()
    save(again, tmp_path / name)
    assert (tmp_path / name).read_bytes() == first


def test_a_record_made_in_memory_can_be_written(tmp_path):
    read = Record.of(RAW)
    made = Record("q1", read.question, read.golds, read.passages)
    save([made], tmp_path / "made.jsonl")
    (again,) = load(tmp_path / "made.jsonl")
    assert (again.golds, again.stored) == (read.golds, read.stored)


def without(key: str) -> dict:
    return {k: v for k, v in RAW.items() if k != key}


def with_reading(**changed: object) -> dict:
    return RAW | {"properties": [RAW["properties"][1] | changed]}


@pytest.mark.parametrize(
    ("raw", "said"),
    [
        (without("question"), "no key 'question'"),
        (without("ctxs"), "no key 'ctxs'"),
        (RAW | {"id": 3}, "key 'id' is a int"),
        (RAW | {"properties": []}, "at least one reading"),
        (RAW | {"properties": "none"}, "key 'properties' is a str"),
        (RAW | {"ctxs": [{"title": "no text"}]}, r"key 'ctxs\[0\]' is no passage"),
        (RAW | {"ctxs": [{"title": "t", "text": " "}]}, "no text"),
        (RAW | {"ctxs": [{"title": "t", "text": "x", "score": "high"}]}, r"'ctxs\[0\]'.score is a str"),
        (with_reading(groundtruth=7), r"'properties\[0\]'.groundtruth is a int"),
        (with_reading(citations=[{"title": "no number"}]), r"citations\[0\] names no passage"),
        (with_reading(citations=[{"title": "4. A"}]), "cites passage 4: the record has the passages 1 to 3"),
        (with_reading(citations=["0"]), "cites passage 0"),
        ([RAW], "is a list"),
    ],
)
def test_what_is_wrong_is_named_with_file_record_and_key(tmp_path, raw, said):
    path = written(tmp_path / "bad.jsonl", RAW, raw)
    with pytest.raises(DataError, match=said) as caught:
        load(path)
    assert "bad.jsonl, line 2" in str(caught.value)


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"\xff\xfe{",
        b'{"id": ',
        b"[" * 100_000,
        b'[{"id": NaN}]',
        gzip.compress(b"{}", mtime=0)[:-6],
        b"\x1f\x8b???",
    ],
)
def test_damaged_files_are_data_errors(tmp_path, data):
    path = tmp_path / "file.json"
    path.write_bytes(data)
    with pytest.raises(DataError, match=r"file\.json"):
        load(path)


def test_ids_are_unique_and_splits_have_names(tmp_path):
    path = written(tmp_path / "twice.jsonl", RAW, RAW)
    with pytest.raises(DataError, match=r"line 2 has the id 'q1', which .*line 1 has"):
        load(path)
    with pytest.raises(ConfigError, match="'dev', 'test'"):
        load(path, "train")
    with pytest.raises(DataError, match="cannot be read"):
        load(tmp_path / "absent.json")


def test_the_split_rule_is_that_of_the_sha256():
    # The last digits: abc ...15ad, the empty text ...b855, a ...48bb, hello ...9824.
    assert [part(x) for x in ("abc", "", "a", "hello")] == [1, 1, 1, 0]


@pytest.mark.parametrize(
    ("cited", "number"),
    [
        *(("3. Title", 3), ("12. 1949 film", 12), ("Fragment 3", 3), ("[3]", 3), ("[Fragment 3]", 3), ("3", 3), (3, 3)),
        *(("1949 film", None), ("", None), (None, None), (True, None), ("Title 3", None)),
    ],
)
def test_numbers_of_citations(cited, number):
    assert fragment_number(cited) == number


_plain = st.recursive(
    st.none() | st.booleans() | st.integers(-9, 9) | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=2) | st.dictionaries(st.text(max_size=4), inner, max_size=2),
    max_leaves=4,
)
_known = {"id", "question", "properties", "ctxs", "x_injection"}


@settings(max_examples=25, deadline=None)
@given(extra=st.dictionaries(st.text(max_size=6).filter(lambda k: k not in _known), _plain, max_size=3))
def test_any_unknown_key_is_carried(extra):
    raw = RAW | extra
    assert json.loads(json.dumps(Record.of(raw).to_dict())) == json.loads(json.dumps(raw))


@pytest.mark.data
@pytest.mark.parametrize(
    ("name", "pairs", "passages", "planted"), [("ency", 132, 1200, 13), ("perturb", 153, 1039, 13)]
)
def test_the_self_written_sets(data_dir, name, pairs, passages, planted):
    records = load(data_dir / "condambigqa" / f"mini_{name}_dev.jsonl.gz")
    assert (len(records), sum(len(r.golds) for r in records)) == (60, pairs)
    assert sum(len(r.passages) for r in records) == passages and sum(bool(r.injected) for r in records) == planted
    assert {r.dataset for r in records} == {f"mini {name} (development)"}
    for record in records:
        for gold, raw in zip(record.golds, record.raw["properties"], strict=True):
            assert short_answer_share(gold.answer, gold.short_answers) == 1.0
            for citation in raw["citations"]:
                number = int(citation["title"].split(".")[0])
                assert number in gold.fragments and record.raw["ctxs"][number - 1]["text"] == citation["text"]


def public_file() -> Path:
    given = os.environ.get("CELLGAP_CONDAMBIGQA")
    if not given or not Path(given).is_file():
        pytest.skip("set CELLGAP_CONDAMBIGQA to the public file of 200 questions, which is not part of this library")
    return Path(given)


@pytest.mark.data
def test_the_public_file_has_its_counts():
    path = public_file()
    records = load(path)
    assert records[0].dataset in REVISIONS.values()
    counts = [len(r.golds) for r in records]
    assert (len(records), sum(counts)) == (200, 416)
    assert {k: counts.count(k) for k in set(counts)} == {1: 59, 2: 67, 3: 73, 4: 1}
    passages = [(p["title"], p["text"]) for r in records for p in r.raw["ctxs"]]
    assert (len(passages), len(set(passages))) == (4000, 3916)
    assert (len(load(path, "dev")), len(load(path, "test"))) == (102, 98)


@pytest.mark.data
def test_the_public_citations_resolve_by_number():
    records = load(public_file())
    cited = [(r, c) for r in records for p in r.raw["properties"] for c in p["citations"]]
    numbers = [fragment_number(c["title"]) for _, c in cited]
    assert len(cited) == 1179 and all(n and 1 <= n <= 20 for n in numbers)
    titles = [c["title"].split(".", 1)[1].strip() for _, c in cited]
    differ = [t != r.raw["ctxs"][(n or 1) - 1]["title"] for (r, _), n, t in zip(cited, numbers, titles, strict=True)]
    assert sum(differ) == 11
    assert not any("[Fragment" in text for r in records for g in r.golds for text in (g.condition, g.answer))
    lists = [isinstance(p["groundtruth"], list) for r in records for p in r.raw["properties"]]
    assert sum(lists) == 3
