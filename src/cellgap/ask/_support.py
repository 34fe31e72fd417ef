"""How much of a text is in its evidence: content words, and numbers with their units, which have to be there."""

import re
import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass
from decimal import Decimal, InvalidOperation

_STOP_WORDS = """
    a about above after again all also although am among an and any are as at be because been before being below
    between both but by can could did do does doing during each either for from further had has have having he her here
    hers him his how however i if in into is it its itself just may me might more most must my nor of off on once only
    or other our out over own per rather same shall she should so some such than that the their theirs them then there
    these they this those through thus to too under until up upon us very was we were what when where whether which
    while who whom whose why will with within would you your
"""
_STOP = frozenset(_STOP_WORDS.split())
_NEGATIONS = frozenset(("no", "not", "never", "none", "neither", "nor", "without", "cannot"))
_UNITS = {
    "hours": "h", "hour": "h", "hrs": "h", "hr": "h", "h": "h", "days": "d", "day": "d", "d": "d",
    "minutes": "min", "minute": "min", "mins": "min", "min": "min", "seconds": "s", "second": "s", "sec": "s",
    "nanomolar": "nm", "micromolar": "um", "millimolar": "mm", "picomolar": "pm", "percent": "%", "%": "%",
}  # fmt: skip
_UNITS |= {
    f"{prefix}{unit}": f"{prefix}{unit}" for prefix in ("p", "n", "u", "m", "") for unit in ("m", "g", "l", "mol")
}
_UNITS |= {
    "kg": "kg",
    "km": "km",
    "cm": "cm",
    "kda": "kda",
    "mg/kg": "mg/kg",
    "mg/ml": "mg/ml",
    "ug/ml": "ug/ml",
    "ng/ml": "ng/ml",
}
_PIECE = re.compile(
    r"""
    (?P<number>(?<![\w.])[+-]?(?:\d{1,3}(?:,\d{3})+(?!\d)|\d+)(?:\.\d+)?(?:e[+-]?\d+)?)
        (?:\s?(?P<unit>%|[a-z]{1,11}(?:/[a-z]{1,3})?)(?!\w|[-'.]\w))?
    | (?P<word>[^\W_]+(?:[-'.][^\W_]+)*)
    """,
    re.VERBOSE,
)
_RANGE = re.compile("(?<=\\d)\\s*[-\u2013\u2014]\\s*(?=\\d)")
_MINUS = str.maketrans({"\u2212": "-", "\u2013": "-", "\u2014": "-", "\u2019": "'", "µ": "u", "μ": "u"})
_SUPERSCRIPT = re.compile(r"(?<![\d.])10(?=[⁻⁺⁰¹²³⁴⁵⁶⁷⁸⁹])")
_POWER = re.compile(r"(?:(?<=\d)\s*[x\u00d7\u00b7*]\s*|(?<![\d.]))10\s*(?:\^|\*\*)\s*([+-]?\d{1,2})(?!\d|\.\d)")

Quantity = tuple[str, str]


@dataclass(frozen=True)
class Contents:
    """What a text says, apart from its form.

    Parameters
    ----------
    words
        Lower-case words without stop words; names such as ``hdac1`` and ``il-6`` whole.
    numbers
        Numbers in one spelling (``1e-3`` is ``0.001``), each with its unit, empty where there is none.
    negated
        Whether it holds a negation.
    """

    words: frozenset[str]
    numbers: frozenset[Quantity]
    negated: bool


def contents(text: str) -> Contents:
    """Return the content words and the quantities of a text."""
    text = _SUPERSCRIPT.sub("10^", _RANGE.sub(" ; ", text))
    text = unicodedata.normalize("NFKC", text).translate(_MINUS).lower()
    text = _POWER.sub(_exponent, text)
    words: set[str] = set()
    numbers: set[Quantity] = set()
    negated = False
    for piece in _PIECE.finditer(text):
        value = _spelled(piece["number"]) if piece["number"] else None
        if value is not None:
            unit = _UNITS.get(piece["unit"] or "")
            numbers.add((value, unit or ""))
            if piece["unit"] and unit is None:
                words |= {piece["unit"]} - _STOP
                negated |= piece["unit"] in _NEGATIONS
        elif piece["word"]:
            word = piece["word"].removesuffix("'s")
            negated |= word in _NEGATIONS or word.endswith("n't")
            if word not in _STOP:
                words.add(word)
    return Contents(frozenset(words), frozenset(numbers), negated)


def supported(text: str, evidence: Sequence[str]) -> tuple[float, tuple[str, ...]]:
    """Return the share of the content of a text that its evidence holds, and the quantities that it does not.

    Parameters
    ----------
    text
        An answer.
    evidence
        Texts that it cites, taken together.

    Returns
    -------
    share, missing
        Words and numbers count alike, each once; a text without any has the share 1. A number with a unit has to occur
        with that unit, one without has to occur at all.
    """
    said, shown = contents(text), contents("\n;\n".join(evidence))
    bare = {value for value, _ in shown.numbers}
    missing = sorted(q for q in said.numbers if q not in shown.numbers and (q[1] or q[0] not in bare))
    total = len(said.words) + len(said.numbers)
    found = len(said.words & shown.words) + len(said.numbers) - len(missing)
    return (found / total if total else 1.0), tuple(f"{value} {unit}".strip() for value, unit in missing)


def _exponent(match: re.Match[str]) -> str:
    """Return a power of ten as a computer writes it; after a factor it is the exponent of that."""
    return f"{'' if match[0][0] != '1' else '1'}e{match[1]}"


def _spelled(number: str) -> str | None:
    """Return a number in one spelling; None where it is none that a computer holds."""
    try:
        value = Decimal(number.replace(",", ""))
    except InvalidOperation:
        return None
    if abs(value.adjusted()) > 400:
        return number
    text = format(value.normalize(), "f")
    return "0" if text in ("-0", "0") else text
