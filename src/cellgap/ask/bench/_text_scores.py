"""How much two texts say the same, by their words alone."""

import re
import string
from collections import Counter
from collections.abc import Iterable, Sequence

from cellgap.errors import ConfigError

_ARTICLES = frozenset(("a", "an", "the"))
# Curly quotes and primes, hyphens and dashes, the minus sign.
_STRIPPED = dict.fromkeys(
    map(
        ord,
        string.punctuation
        + "\u2018\u2019\u201a\u201b\u201c\u201d\u201e\u201f\u2032\u2033\u2010\u2011\u2012\u2013\u2014\u2015\u2212",
    )
)
_STOP = frozenset(
    re.findall(
        r"\w+",
        """a about above after again against all also am an and any are as at be because been before being below between
    both but by can could did do does doing done down during each either else ever few for from further had has have
    having he her here hers herself him himself his how however i if in into is it its itself just may me might more
    most much must my myself neither no nor not now of off often on once one only or other our ours ourselves out over
    own rather same shall she should since so some such than that the their theirs them themselves then there these
    they this those though through thus to too under until up upon us very was we well were what when where whether
    which while who whom whose why will with within without would yet you your yours yourself yourselves""",
    )
)


def tokens(text: str) -> list[str]:
    """Return the words of a text: lower case, without ASCII punctuation, curly quotes, dashes and articles."""
    return [word for word in text.lower().translate(_STRIPPED).split() if word not in _ARTICLES]


def content_tokens(text: str) -> list[str]:
    """Return the words of a text that are no stop words."""
    return [word for word in tokens(text) if word not in _STOP]


def token_f1(a: str, b: str) -> float:
    """Return the F1 of the words (as multisets) of two texts; two empty texts score 1, one empty text 0."""
    return _overlap_f1(tokens(a), tokens(b))


def content_f1(a: str, b: str) -> float:
    """Return ``token_f1`` without stop words."""
    return _overlap_f1(content_tokens(a), content_tokens(b))


def rouge_l(a: str, b: str) -> float:
    """Return the F1 of the longest common subsequence of words (ROUGE-L, Lin 2004); empty texts as in ``token_f1``."""
    first, second = tokens(a), tokens(b)
    if not first or not second:
        return float(first == second)
    row = [0] * (len(second) + 1)
    for word in first:
        diagonal = 0
        for j, other in enumerate(second, 1):
            diagonal, row[j] = row[j], diagonal + 1 if word == other else max(row[j], row[j - 1])
    return 2 * row[-1] / (len(first) + len(second))


def set_scores(got: Iterable[int], gold: Iterable[int]) -> tuple[float, float, float]:
    """Return precision, recall and F1 of a set of passage numbers; 1 where both sets are empty, 0 where one is."""
    p, g = set(got), set(gold)
    if not p or not g:
        both = float(p == g)
        return both, both, both
    hits = len(p & g)
    return hits / len(p), hits / len(g), 2 * hits / (len(p) + len(g))


def short_answer_share(answer: str, short_answers: Sequence[str]) -> float:
    """Return the share of strings that an answer contains, whatever their case, as whole words.

    Whole words, because an answer that says "0.1 uM" does not say "1 uM".

    Raises
    ------
    ConfigError
        There is no string.
    """
    if not short_answers:
        raise ConfigError("The share of short answers needs at least one, found none.")
    text = " ".join(answer.lower().split())
    found = 0
    for short in short_answers:
        wanted = re.escape(" ".join(short.lower().split()))
        found += re.search(rf"(?<![\w])(?<!\d[.,]){wanted}(?!\w)(?![.,]\d)", text) is not None
    return found / len(short_answers)


def lexical_support(answer: str, evidence: Iterable[str]) -> float:
    """Return the share of the content words of an answer that occur in texts; 0 where it has none."""
    wanted = content_tokens(answer)
    known = {word for text in evidence for word in tokens(text)}
    return sum(word in known for word in wanted) / len(wanted) if wanted else 0.0


def _overlap_f1(a: list[str], b: list[str]) -> float:
    if not a or not b:
        return float(a == b)
    return 2 * (Counter(a) & Counter(b)).total() / (len(a) + len(b))
