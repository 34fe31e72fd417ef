import gzip
import json

import pytest

from cellgap.ask._passage import Passage
from cellgap.ask.bench import Gold, Record, run, stored
from cellgap.errors import ConfigError, DataError, StorageError

PASSAGES = (
    Passage("Twin", "alpha text"),
    Passage("Twin", "beta text"),
    Passage("Own", "gamma text"),
    Passage("1984", "delta text"),
)


def records(n: int = 4) -> tuple[Record, ...]:
    golds = (Gold("case one", "value one", (1, 3)), Gold("case two", "value two", (2,)))
    return tuple(Record(f"r{i}", f"Question {i}?", golds, PASSAGES) for i in range(n))


def lex(system, asked=None, **kwargs):
    return run(asked or records(), system, judge="lex-1", **kwargs)


def written(path, items):
    text = "".join(json.dumps(item) + "\n" for item in items)
    if path.suffixes[0] == ".json":
        text = json.dumps(items, indent=1)
    path.write_bytes(gzip.compress(text.encode()) if path.suffix == ".gz" else text.encode())
    return path


def perfect(i: int, key: str = "answers", text: str = "answer"):
    said = [
        {"condition": "case one", text: "value one", "citations": [1, "Fragment 3"]},
        {"condition": "case two", text: "value two", "citations": [{"title": "2. Twin", "text": "edited"}]},
    ]
    return {"id": f"r{i}", key: said}


@pytest.mark.parametrize("name", ["a.jsonl", "a.json", "a.jsonl.gz", "a.json.gz"])
def test_outputs_of_others_are_scored_whatever_the_layout(tmp_path, name):
    items = [perfect(2), perfect(0, "properties", "groundtruth"), perfect(3), perfect(1)]
    result = lex(stored(written(tmp_path / name, items)))
    assert result.value("combined_strict") == pytest.approx(1.0, abs=1e-5) and result.answered == 4
    assert result.system == f"stored:{name}" and len(result.versions["answers"]) == 16
    assert [r.id for r in result.results] == ["r0", "r1", "r2", "r3"]


def test_a_record_without_a_reply_failed_and_counts_as_zero(tmp_path):
    items = [perfect(0), {"id": "r1", "answers": []}]
    result = lex(stored(written(tmp_path / "a.jsonl", items)), folder=tmp_path / "run")
    assert (result.attempted, result.answered, result.abstained, result.failed) == (4, 1, 1, 2)
    assert result.failures == {"no reply": 2} and "failed 2, no reply x 2" in str(result)
    assert result.value("combined_strict") == pytest.approx(0.25, abs=1e-5)
    # Other stored answers are another run.
    with pytest.raises(StorageError, match="holds another run"):
        lex(stored(written(tmp_path / "a.jsonl", [perfect(0), perfect(1)])), folder=tmp_path / "run")


@pytest.mark.parametrize(
    ("cited", "fragments"),
    [
        ([3, "Fragment 1", "[2]"], (1, 2, 3)),
        (["2. Another title", {"title": "3. Own", "text": "edited"}], (2, 3)),  # the number is the key
        ([{"title": "Twin", "text": "Beta  text"}, {"text": "alpha text"}, "own", "1984"], (1, 2, 3, 4)),
        ([{"title": "Twin"}, 9, "Nowhere", 1], (1, 1_000_000, 1_000_001, 1_000_002)),  # none of the record's
    ],
)
def test_what_a_citation_means(tmp_path, cited, fragments):
    item = {"id": "r0", "answers": [{"answer": ["two", "parts"], "answer_citations": cited}]}
    (one,) = lex(stored(written(tmp_path / "a.jsonl", [item])), records(1)).results
    (prediction,) = one.predictions
    assert (prediction.condition, prediction.answer, prediction.fragments) == ("", "two parts", fragments)


def test_protocol_and_most_answers_are_those_of_the_run(tmp_path):
    path = written(tmp_path / "a.jsonl", [perfect(i) for i in range(4)])
    one = lex(stored(path, protocol="rag", k_max=1, name="theirs"), protocol="rag", k_max=1)
    assert (
        (one.scores["outputs"] == 1).all() and one.system == "theirs" and one.results[0].predictions[0].condition == ""
    )
    with pytest.raises(ConfigError, match="was made for 'conditions'"):
        lex(stored(path), protocol="rag")
    with pytest.raises(ConfigError, match="protocol is one of"):
        stored(path, protocol="free")


def test_unknown_records_are_named(tmp_path):
    path = written(tmp_path / "a.jsonl", [perfect(i) for i in range(4)])
    asked = []
    with pytest.raises(DataError, match=r"a\.jsonl, line 3 .* 2 unknown ids \('r2', 'r3'\)"):
        lex(stored(path), records(2), progress=lambda done, total: asked.append(done))
    assert asked == []
    # Those of the other half of a file are known, and not asked for.
    assert lex(stored(path, records=records(4)), records(2)).attempted == 2
    with pytest.raises(DataError, match="'r3'"):
        stored(path, records=records(3))


GOOD = '{"id": "r0", "answers": []}\n'


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (GOOD + "{", r"a\.jsonl, line 2 is not JSON"),
        (GOOD + "3", r"line 2 is no stored reply"),
        (GOOD + '{"id": 3, "answers": []}', "line 2 is no stored reply"),
        (GOOD + GOOD, r"line 2 has the id 'r0', which .*line 1 \(id 'r0'\) has already"),
        (GOOD + '{"id": "r1"}', "line 2 .*neither of the keys 'answers' and 'properties'"),
        ('{"id": "r1", "answers": [], "properties": []}', "both of the keys"),
        ('{"id": "r1", "answers": null}', "key 'answers', is a NoneType: expected a list"),
        ('{"id": "r1", "answers": ["x"]}', r"key 'answers\[0\]' is a str"),
        ('{"id": "r1", "answers": [{"condition": "x"}]}', "neither of the keys 'answer' and 'groundtruth'"),
        ('{"id": "r1", "answers": [{"answer": 3}]}', "no text"),
        ('{"id": "r1", "answers": [{"answer": "x", "citations": 3}]}', "citations is a int: expected a list"),
        ('{"id": "r1", "answers": [{"answer": "x", "citations": [1, null]}]}', r"citations\[1\] is no citation"),
        ('{"id": "r1", "answers": [{"answer": "x", "citations": [true]}]}', r"citations\[0\] is no citation"),
        ('[{"id": "r1", "answers": []}, {}]', "record 2 is no stored reply"),
        ("", "holds no answer"),
    ],
)
def test_what_is_wrong_is_told_with_its_place(tmp_path, text, said):
    (tmp_path / "a.jsonl").write_text(text, encoding="utf-8")
    with pytest.raises(DataError, match=said):
        stored(tmp_path / "a.jsonl")
    with pytest.raises(DataError, match="cannot be read"):
        stored(tmp_path / "none.jsonl")
