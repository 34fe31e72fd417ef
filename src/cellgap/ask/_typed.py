"""Typed spans of a sentence: doses, times, effects, q-values, numbers of cells, whether measured or predicted.

Each is a number with its unit or its cue ("score", "FDR", "cells"), wherever in the sentence it stands. What is read
twice, or could be two things, is left out: a number that is not understood is never guessed.
"""

import re
from collections.abc import Callable
from typing import NamedTuple

_NUM = r"\d+(?:[,]\d{3})*(?:\.\d+)?(?:[eE][+-]?\d+|\s?[x\u00d7*]\s?10\^?[-\u2212]?\d+)?"
_WORD_NUMBERS = {
    "half": 0.5, "one": 1.0, "two": 2.0, "three": 3.0, "four": 4.0, "five": 5.0, "six": 6.0, "seven": 7.0, "eight": 8.0,
    "nine": 9.0, "ten": 10.0, "eleven": 11.0, "twelve": 12.0, "twenty-four": 24.0, "forty-eight": 48.0,
    "seventy-two": 72.0,
}  # fmt: skip
_NUM_OR_WORD = rf"(?:{_NUM}|\b(?:{'|'.join(sorted(_WORD_NUMBERS, key=len, reverse=True))})\b)"

# Molar units are spelled out to their symbol; others are kept as written.
_UNITS = {
    "m": "M", "molar": "M", "mol/l": "M",
    "mm": "mM", "millimolar": "mM", "mmol/l": "mM",
    "um": "uM", "μm": "uM", "micromolar": "uM", "umol/l": "uM", "μmol/l": "uM", "micromol/l": "uM", "micro-molar": "uM",
    "nm": "nM", "nanomolar": "nM", "nmol/l": "nM", "nano-molar": "nM",
    "pm": "pM", "picomolar": "pM", "pmol/l": "pM",
    "mg/ml": "mg/ml", "ug/ml": "ug/ml", "μg/ml": "ug/ml", "ng/ml": "ng/ml", "pg/ml": "pg/ml", "mg/kg": "mg/kg",
    "gy": "Gy", "u/ml": "U/ml", "iu/ml": "IU/ml",
}  # fmt: skip
_MOLAR = r"[munpμ]?M(?![\w/])|[munpμ]?mol/[lL](?!\w)|(?:milli|micro|nano|pico)-?[mM]olar(?!\w)|molar(?!\w)"
_UNIT = rf"(?:{_MOLAR}|[munpμ]?g/m[lL](?!\w)|mg/kg(?!\w)|Gy(?!\w)|I?U/m[lL](?!\w))"
_DOSE = re.compile(rf"(?<![\w.+\-])(?P<n>{_NUM_OR_WORD})\s*-?\s*(?P<unit>{_UNIT})")
_DOSE_RANGE = re.compile(
    rf"(?<![\w.])(?:{_NUM})\s*(?:{_UNIT})?\s*(?:-|\u2013|\u2014|to|and up to|through|until)\s*"
    rf"(?:{_NUM})\s*-?\s*(?:{_UNIT})"
)
# Where no unit stands beside the number: "dose 10", "concentration of 10 (uM)" is not read, for the unit is not sure.

_HOURS = {"min": 1 / 60, "h": 1.0, "d": 24.0, "w": 168.0}
_TIME = re.compile(
    rf"(?<![\w.+])(?P<n>{_NUM_OR_WORD})\s*-?\s*"
    r"(?P<unit>min(?:ute)?s?|h(?:(?:ou)?rs?|)|d(?:ays?|)|w(?:ee)?ks?)(?![\w/])",
    re.IGNORECASE,
)
_TIME_CUE = re.compile(r"\b(?:day|hour|t\s*=)\s*(?P<n>\d+(?:\.\d+)?)(?![\w.]*\w)(?!\s*(?:h|d|min))", re.IGNORECASE)

_LINK = r"\s*(?:\([^()0-9]{0,20}\)\s*)?(?:=|:|of|was|is|at|<=|≤|≦|<|~|≈|equal to|value)?\s*(?:of|at|=|:)?\s*"
_Q_NAMES = (
    r"(?:q|FDR|false[- ]discovery[- ]rate|(?:BH|Benjamini[-\u2013]Hochberg)(?:[- ](?:adjusted|corrected))?(?:[- ]p)?"
    r"|p[._ -]?adj(?:usted)?|adj(?:usted|\.)?[- ]?p(?:[._ -]?val(?:ue)?)?|corrected[- ]p"
    r"|FDR[- ](?:adjusted|corrected)[- ]p)"
)
_Q = re.compile(rf"(?<![\w])(?P<name>{_Q_NAMES})(?:[- ]?values?)?(?P<more>\s*[>≥])?{_LINK}(?P<n>{_NUM})", re.IGNORECASE)
_P = re.compile(
    rf"(?<![\w])(?P<name>p)(?:[- ]?values?)?(?P<more>\s*[>≥])?{_LINK}(?P<n>{_NUM})(?!\s*[munpμ]M)", re.IGNORECASE
)
_FDR_PERCENT = re.compile(rf"(?P<n>{_NUM})\s*(?:%|percent)\s*(?:FDR|false[- ]discovery[- ]rate)", re.IGNORECASE)

_CELLS = re.compile(
    r"(?<![\w.+\-])(?:n\s*=\s*)?(?P<n>\d+(?:,\d{3})*)\s+(?P<what>(?:[a-z][\w-]*\s+){0,2}?)(?:cells?|nuclei|profiles)\b",
    re.IGNORECASE,
)
_CELLS_EQ = re.compile(
    r"\b(?:n(?:_cells)?\s*(?:=|:|of|was|is|\s)|N\s*=|"
    r"(?:cells?|number of (?P<what>[a-z-]*\s?)cells|cell count|cell number)\s*(?:=|:|of|was|is))"
    r"\s*(?P<n>\d[\d,]*)(?![\d.]*[.]\d)"
)
_CONTROL = re.compile(r"control|vehicle|untreated|dmso|mock|reference", re.IGNORECASE)

_SIGN = r"(?:[+-]\s?|(?:plus|minus|negative|positive)\s+)"
_CUES = (
    r"(?:z[- ]?scores?|scores?|effects?(?:[- ]sizes?)?|log(?:2|_2|10)?[- ]?(?:fold[- ]?changes?|fc)|lfc|ln ?fc|"
    r"(?:score |mean |standardi[sz]ed )?(?:changes?|shifts?|differences?|increases?|decreases?|reductions?|rises?|"
    r"drops?|falls?|"
    r"gains?|losses|loss)|deltas?|Δ|estimates?|beta|coefficients?|cohen's d|d)"
)
_VERBS = (
    r"(?:rose|risen|rises|rising|fell|fallen|falls|falling|increas(?:ed|es|ing)|decreas(?:ed|es|ing)|chang(?:ed|es|ing)|"
    r"shift(?:ed|s|ing)?|mov(?:ed|es|ing)|went|goes|going|rais(?:ed|es|ing)|lower(?:ed|s|ing)|reduc(?:ed|es|ing)|dropp(?:ed|ing)|drops|"
    r"climb(?:ed|s|ing)|declin(?:ed|es|ing)|induc(?:ed|es|ing)|suppress(?:ed|es|ing)|elevat(?:ed|es|ing)|boost(?:ed|s|ing)|"
    r"up|down|higher|lower|gain(?:ed|s)|lost|loses)"
)
_BETWEEN = (
    r"(?:\s+(?:up|down|by|of|to|at|was|is|were|as|equal|came|reached|stood|a|an|the|value|amounts?|amounted|=|:))*"
    r"\s*[=:(]?\s*"
)
_VALUE = rf"(?P<sign>{_SIGN})?(?P<n>\d+(?:\.\d+)?)(?![\d]*(?:\s*%|-?\s?fold|[\w]))"
_EFFECT_CUED = re.compile(rf"(?<![\w-])(?P<cue>{_CUES})(?![\w]){_BETWEEN}{_VALUE}", re.IGNORECASE)
_MOVES = re.compile(rf"\b{_VERBS}\b", re.IGNORECASE)
_EFFECT_VERB = re.compile(rf"\b(?:by|{_VERBS})\s+{_VALUE}", re.IGNORECASE)
_EFFECT_SIGNED = re.compile(
    rf"(?<![\w.)\d])(?P<sign>{_SIGN})(?P<n>\d+(?:\.\d+)?)(?![\d]*(?:\s*%|-?\s?fold|[\w]))", re.IGNORECASE
)
_EFFECT_UNIT = re.compile(
    rf"(?<![\w.]){_VALUE}\s*(?:(?:control|vehicle)\s+)?"
    r"(?:sd|s\.d\.|sds|standard deviations?|standard units|sigmas?|\u03c3|z units)\b",
    re.IGNORECASE,
)
_SE = re.compile(
    rf"(?:±|\+/-|\b(?:s\.?e\.?m?\.?|standard error|std\.? ?err(?:or)?)\b{_LINK})\s*(?P<n>\d+(?:\.\d+)?)", re.IGNORECASE
)
_INTERVAL = re.compile(
    r"\b(?:\d+\s*%\s*)?(?:CI|confidence interval|interval|HDI)\b"
    r"[\s:=,of(\[]*[+-]?\d+(?:\.\d+)?\s*(?:to|,|\u2013|-|and)\s*[+-]?\d+(?:\.\d+)?[)\]]?",
    re.IGNORECASE,
)

# Not their kin in names: a droplet, an enhancer, a reductase, a suppressor.
_UP = re.compile(
    r"\b(?:rais\w+|increas\w+|elevat\w+|induc(?:ed|es|ing)|boost\w*|rose|rises?|climb\w*|up|higher|gains?|gained|enhanc(?:e|es|ed|ing|ement)|"
    r"activat(?:ed|es)|upregulat\w+|strengthen\w*)\b", re.IGNORECASE,
)  # fmt: skip
_DOWN = re.compile(
    r"\b(?:lower\w*|decreas\w+|reduc(?:e|es|ed|ing|tions?)|suppress(?:es|ed|ing|ion)?|fell|falls?|drop(?:s|ped|ping)?|declin\w+|down|loss|losses|lost|loses|diminish\w+|"
    r"repress(?:es|ed|ing|ion)?|inhibit(?:s|ed)|downregulat\w+|weaken\w*)\b", re.IGNORECASE,
)  # fmt: skip
_NOT = re.compile(r"\b(?:not|rather than|instead of|never|no longer)\s+(?:been\s+)?(?:directly\s+)?\w+", re.IGNORECASE)
_PREDICTED = re.compile(
    r"\b(?:predict\w*|forecast\w*|imput(?:ed|ation)|simulat\w+|in[- ]silico|extrapolat\w+|computed from a model|"
    r"modell?ed|"
    r"model estimates?|inferred)\b", re.IGNORECASE,
)  # fmt: skip
_MEASURED = re.compile(
    r"\b(?:measur\w+|observ(?:ed|ation|ations)|experiment\w*|assayed|empirical\w*|recorded)\b", re.IGNORECASE
)


class Typed(NamedTuple):
    """A typed piece of a text.

    Parameters
    ----------
    kind
        ``"dose"``, ``"time"`` (hours), ``"effect"``, ``"q"``, ``"se"``, ``"n_cells"``, ``"n_control"`` or ``"other"``
        (understood as something that is none of them, such as a range of doses).
    value
        The number; None where it cannot be used (an effect whose sign is in doubt, ``q > 0.05``).
    start, end
        Place in the text.
    unit
        Of a dose.
    """

    kind: str
    value: float | None
    start: int
    end: int
    unit: str = ""


def typed_spans(text: str) -> tuple[Typed, ...]:
    """Return the typed pieces of a sentence in reading order; they do not overlap."""
    text = plain_signs(text)
    moves = _MOVES.search(text) is not None
    found: list[Typed] = []
    # In this order: what is recognised first is not read again as something else.
    for pattern, make in _READERS:
        if pattern is _EFFECT_VERB and not moves:
            continue
        for match in pattern.finditer(text):
            start, end = match.span()
            if all(end <= f.start or start >= f.end for f in found):
                found.append(make(text, match))
    adjusted = any(f.kind == "q" for f in found)
    plain_p = "other" if adjusted else "q"
    return tuple(sorted((f._replace(kind=plain_p) if f.kind == "p" else f for f in found), key=_start))


def told_source(text: str) -> str:
    """Return ``"measured"`` or ``"predicted"`` as a sentence says, ``""`` where it says neither, ``"?"`` where both."""
    text = _NOT.sub(" ", text)
    predicted, measured = _PREDICTED.search(text) is not None, _MEASURED.search(text) is not None
    if predicted and measured:
        return "?"
    return "predicted" if predicted else "measured" if measured else ""


def plain_signs(text: str) -> str:
    """Return text with the typographic minus (and a dash before a digit) as a hyphen; no character moves."""
    text = text.replace("\u2212", "-").replace("µ", "μ")
    return re.sub(r"(?<![\w\d])[\u2013\u2014](?=\d)", "-", text)


def _number(text: str) -> float:
    text = text.lower().strip()
    if text in _WORD_NUMBERS:
        return _WORD_NUMBERS[text]
    text = re.sub(r"\s?[x\u00d7*]\s?10\^?", "e", text.replace(",", "").replace("\u2212", "-"))
    return float(text)


def _start(span: Typed) -> int:
    return span.start


def _other(text: str, match: re.Match[str]) -> Typed:
    return Typed("other", None, *match.span())


def _share(text: str, match: re.Match[str]) -> Typed:
    return Typed("q", None if match["more"] else _number(match["n"]), *match.span())


def _percent(text: str, match: re.Match[str]) -> Typed:
    return Typed("q", _number(match["n"]) / 100, *match.span())


def _p(text: str, match: re.Match[str]) -> Typed:
    return Typed("p", None if match["more"] else _number(match["n"]), *match.span())


def _se(text: str, match: re.Match[str]) -> Typed:
    return Typed("se", float(match["n"]), *match.span())


def _dose(text: str, match: re.Match[str]) -> Typed:
    unit = match["unit"]
    return Typed("dose", _number(match["n"]), *match.span(), "M" if unit == "M" else _UNITS[unit.lower()])


def _time(text: str, match: re.Match[str]) -> Typed:
    unit = match["unit"].lower()
    return Typed("time", _number(match["n"]) * _HOURS["min" if unit.startswith("min") else unit[0]], *match.span())


def _time_cued(text: str, match: re.Match[str]) -> Typed:
    return Typed("time", float(match["n"]) * (24.0 if match.group()[0] in "dD" else 1.0), *match.span())


def _cells(text: str, match: re.Match[str]) -> Typed:
    kind = "n_control" if _CONTROL.search(match["what"] or "") else "n_cells"
    # The words between may name a cell line: "400 K562 cells".
    return Typed(kind, float(match["n"].replace(",", "")), match.start(), match.end("n"))


def _effect(text: str, match: re.Match[str]) -> Typed:
    sign, size = (match["sign"] or "").strip().lower(), float(match["n"])
    if sign:
        return Typed("effect", -size if sign in ("-", "minus", "negative") else size, *match.span())
    # Words give the sign of a bare number: a fall of 1.2 is -1.2. Where they contradict one another, no one knows.
    near = text[max(0, text.rfind(";", 0, match.start())) : match.end()]
    down, up = _DOWN.search(near) is not None, _UP.search(near) is not None
    moved = match.re is not _EFFECT_CUED or _MOVING_CUE.match(match["cue"]) is not None
    value = None if down and (up or not moved) and size else -size if down else size
    return Typed("effect", value, *match.span())


_MOVING_CUE = re.compile(r"increase|decrease|reduction|rise|drop|fall|gain|loss", re.IGNORECASE)
_READERS: tuple[tuple[re.Pattern[str], Callable[[str, re.Match[str]], Typed]], ...] = (
    (_INTERVAL, _other),
    (_FDR_PERCENT, _percent),
    (_Q, _share),
    (_SE, _se),
    (_DOSE_RANGE, _other),
    (_DOSE, _dose),
    (_P, _p),
    (_TIME, _time),
    (_CELLS, _cells),
    (_CELLS_EQ, _cells),
    (_TIME_CUE, _time_cued),
    (_EFFECT_UNIT, _effect),
    (_EFFECT_CUED, _effect),
    (_EFFECT_SIGNED, _effect),
    (_EFFECT_VERB, _effect),
)
