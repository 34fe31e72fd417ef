"""Judging the outputs of a run pair by pair, with the null control; every judgement is kept as it comes."""

import hashlib
import json
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float

from cellgap.ask.bench._det1 import RecordScores
from cellgap.ask.bench._journal import Journal
from cellgap.ask.bench._judge import CONTROLS, Judge, Judgement, NullControl
from cellgap.ask.bench._pairing import WEIGHTS, greedy
from cellgap.ask.bench._predictions import Prediction
from cellgap.ask.bench._records import Record
from cellgap.ask.bench._text_scores import set_scores

Item = tuple[Record, Sequence[Prediction]]
Pairs = tuple[tuple[int, int], ...]


@dataclass(frozen=True, eq=False)
class JudgeScores:
    """What a judge gave the outputs of one question; NaN where it failed.

    Parameters
    ----------
    condition, answer
        Every output against every gold; `condition` is None where it is not judged.
    surplus_condition, surplus_answer
        Outputs beyond the gold list against an empty reference, where that was asked for.
    """

    condition: Float[np.ndarray, "outputs golds"] | None
    answer: Float[np.ndarray, "outputs golds"]
    surplus_condition: tuple[float, ...] = ()
    surplus_answer: tuple[float, ...] = ()


@dataclass(frozen=True)
class Judged:
    """Judged scores by record, the null controls, and how many judgements there were.

    Parameters
    ----------
    values
        By record: ``judged_<kind>_strict`` and ``judged_<kind>_matched``; NaN where every judgement of it failed.
    pairs
        By record.
    scores
        By record, where all outputs were judged against all golds; else empty.
    """

    values: tuple[dict[str, float], ...]
    pairs: tuple[Pairs, ...]
    controls: tuple[NullControl, ...]
    counts: dict[str, int]
    scores: tuple[JudgeScores, ...] = ()


class Panel:
    """Asks a judge, and remembers what it said.

    Parameters
    ----------
    journal
        Of this judge; a pair that is in it is not asked again.
    """

    def __init__(self, judge: Judge, journal: Journal) -> None:
        self.judge = judge
        self.journal = journal

    def ask(self, key: str, kind: str, record: Record, got: str, expected: str) -> Judgement:
        """Return the judgement of a pair, from the journal where it is there."""
        # With a digest of what is judged: a record that was asked again has other texts in the same place.
        texts = json.dumps([record.question, got, expected]).encode()
        key = f"{key}|{hashlib.sha256(texts).hexdigest()[:16]}"
        if key not in self.journal.lines:
            passages = [(p.title, p.text) for p in record.passages]
            said = self.judge.judge(kind, record.question, got, expected, passages)
            self.journal.append({"id": key} | vars(said))
        line = {name: value for name, value in self.journal.lines[key].items() if name != "id"}
        return Judgement(**line)

    def run(
        self,
        items: Sequence[Item],
        base: Sequence[RecordScores],
        kinds: Sequence[str],
        pairing: str,
        surplus: bool = False,
    ) -> Judged:
        """Return the judged scores of records.

        Parameters
        ----------
        base
            Scores of the deterministic judge, whose pairs are judged unless `pairing` is ``"judge"``: then every
            output is judged against every gold, and paired in the order of outputs as the benchmark's paper does.
        surplus
            Whether outputs beyond the gold list are judged against an empty reference too.
        """
        values, paired, said, matrices = [], [], [], []
        extra: list[Judgement] = []
        for (record, got), scores in zip(items, base, strict=True):
            n, m = len(got), len(record.golds)
            cells = [(i, j) for i in range(n) for j in range(m)] if pairing == "judge" else scores.pairs
            grids = {kind: {cell: self._pair(kind, record, got, cell) for cell in cells} for kind in kinds}
            said += [judgement for grid in grids.values() for judgement in grid.values()]
            pairs = _paired(grids, record, got) if pairing == "judge" else scores.pairs
            paired.append(pairs)
            found: dict[str, float] = {}
            for kind, grid in grids.items():
                valid = [s for cell in pairs if (s := grid[cell].score) is not None]
                mean = float(np.mean(valid)) if valid else (float("nan") if pairs else 0.0)
                # A failed judgement is taken for the mean of the valid ones of its question, never for zero.
                found[f"judged_{kind}_strict"] = mean * len(pairs) / max(n, m)
                found[f"judged_{kind}_matched"] = mean
            values.append(found)
            beyond = {kind: self._beyond(kind, record, got) if surplus else [] for kind in kinds}
            extra += [judgement for some in beyond.values() for judgement in some]
            if pairing == "judge":
                matrices.append(_matrices(grids, beyond, n, m))
        controls = tuple(self._control(kind, items) for kind in kinds)
        said += extra
        failures = Counter(f"failed ({j.failure})" for j in said if j.score is None)
        counts = {
            "calls": len(said),
            **({"of them against nothing": len(extra)} if surplus else {}),
            "valid": sum(j.score is not None for j in said),
            "with token probabilities": sum(j.probabilities for j in said),
            "control_calls": sum(c.n_empty + c.n_shuffled + c.n_self + c.failed for c in controls),
        } | dict(sorted(failures.items()))
        return Judged(tuple(values), tuple(paired), controls, counts, tuple(matrices))

    def _pair(self, kind: str, record: Record, got: Sequence[Prediction], cell: tuple[int, int]) -> Judgement:
        i, j = cell
        return self.ask(f"{record.id}|{kind}|{i}|{j}", kind, record, _of(got[i], kind), _of(record.golds[j], kind))

    def _beyond(self, kind: str, record: Record, got: Sequence[Prediction]) -> list[Judgement]:
        places = range(len(record.golds), len(got))
        return [self.ask(f"{record.id}|{kind}|{i}|nothing", kind, record, _of(got[i], kind), "") for i in places]

    def _control(self, kind: str, items: Sequence[Item]) -> NullControl:
        """Return what the judge gives for nothing: outputs (then golds) against no and against foreign references."""
        n = len(items)
        golds = [(r, f"gold {j}", _of(g, kind)) for r, _ in items for j, g in enumerate(r.golds)]
        texts = [(r, f"output {i}", _of(p, kind)) for r, got in items for i, p in enumerate(got)]
        texts = _spread(texts, CONTROLS) + _spread(golds, max(0, CONTROLS - len(texts)))
        place = {record.id: k for k, (record, _) in enumerate(items)}
        empty = [(r, what, text, "empty", "") for r, what, text in texts]
        shuffled = []
        for shift in range(1, n):
            # From half way on: neighbours in a file may be about the same.
            step = (n // 2 + shift - 1) % (n - 1) + 1
            for r, what, text in texts:
                other = items[(place[r.id] + step) % n][0]
                shuffled.append((r, what, text, f"shuffled {other.id}", _of(other.golds[0], kind)))
            if len(shuffled) >= CONTROLS:
                break
        own = [(r, what, text, "self", text) for r, what, text in _spread(golds, CONTROLS)]
        failed = 0
        means: list[float | None] = []
        counts: list[int] = []
        for control in (empty, shuffled[: max(CONTROLS, len(texts))], own):
            said = [
                self.ask(f"null|{r.id}|{kind}|{what}|{name}", kind, r, text, expected)
                for r, what, text, name, expected in control
            ]
            valid = [j.score for j in said if j.score is not None]
            failed += len(said) - len(valid)
            means.append(float(np.mean(valid)) if valid else None)
            counts.append(len(valid))
        return NullControl(kind, means[0], means[1], means[2], counts[0], counts[1], counts[2], failed)


def _matrices(
    grids: Mapping[str, Mapping[tuple[int, int], Judgement]], beyond: Mapping[str, Sequence[Judgement]], n: int, m: int
) -> JudgeScores:
    full = {}
    for kind, grid in grids.items():
        full[kind] = np.array([[_score(grid[i, j]) for j in range(m)] for i in range(n)], float).reshape(n, m)
    extra = {kind: tuple(map(_score, some)) for kind, some in beyond.items()}
    return JudgeScores(full.get("condition"), full["answer"], extra.get("condition", ()), extra["answer"])


def _score(judgement: Judgement) -> float:
    return float("nan") if judgement.score is None else judgement.score


def _paired(grids: dict[str, dict[tuple[int, int], Judgement]], record: Record, got: Sequence[Prediction]) -> Pairs:
    worth = np.zeros((len(got), len(record.golds)))
    for i, j in np.ndindex(*worth.shape):
        worth[i, j] = WEIGHTS["citation"] * set_scores(got[i].fragments, record.golds[j].fragments)[2]
        worth[i, j] += sum(WEIGHTS[kind] * (grid[i, j].score or 0.0) for kind, grid in grids.items())
    return greedy(worth)


def _of(one: object, kind: str) -> str:
    return str(getattr(one, kind))


def _spread(things: list[tuple[Record, str, str]], most: int) -> list[tuple[Record, str, str]]:
    """Return at most so many, evenly spaced."""
    if len(things) <= most:
        return things
    return [things[k * len(things) // most] for k in range(most)]
