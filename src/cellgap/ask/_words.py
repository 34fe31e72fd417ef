"""Words of a text as the lexical search counts them: names of the field stay whole."""

import re
import unicodedata

_HYPHENS = dict.fromkeys(map(ord, "\u2010\u2011\u2212"), "-") | {ord("\u2019"): "'"}
# NFKC turns the micro sign into the Greek letter, which people who have no such key type as a u: 10 uM.
_GREEK = str.maketrans(
    dict(α="alpha", β="beta", γ="gamma", δ="delta", ε="epsilon", ζ="zeta", η="eta", θ="theta", ι="iota", κ="kappa")
    | dict(λ="lambda", μ="u", ν="nu", ξ="xi", ο="omicron", π="pi", ρ="rho", ς="sigma", σ="sigma", τ="tau")
    | dict(υ="upsilon", φ="phi", χ="chi", ψ="psi", ω="omega")
)
_WORD = re.compile(r"\w+(?:(?:-|'|(?<=\d)[.,](?=\d))\w+)*")
_DOSE = re.compile(r"(?<![\w.,-])(\d+(?:\.\d+)?(?:e-?\d+)?)\s+([pnum]m|[num]g|[um]l)(?!\w)")
_THOUSANDS = re.compile(r"(?<![\d.,])(\d{1,3}(?:,\d{3})+)(?![\d,])")


def words(text: str) -> list[str]:
    """Return the words of a text, in order, for a search by words.

    Lower case without accents. Words with inner hyphens and digits stay whole (``il-6``, ``hdac1``), Greek letters
    become their names and the micro sign a u, and a dose is one word however it is spaced: ``10 µM`` and ``10uM`` are
    both ``10um``. Nothing is stemmed and no word is left out; how often a word occurs weighs it.
    """
    plain = text
    if not text.isascii():
        plain = unicodedata.normalize("NFKC", text).translate(_HYPHENS)
    plain = plain.casefold()
    if not plain.isascii():
        plain = plain.translate(_GREEK)
        plain = "".join(c for c in unicodedata.normalize("NFD", plain) if unicodedata.category(c) != "Mn")
    if "," in plain:
        plain = _THOUSANDS.sub(_without_commas, plain)
    plain = _DOSE.sub(r"\1\2", plain)
    return [word[:-2] if word.endswith("'s") else word for word in _WORD.findall(plain)]


def _without_commas(match: re.Match[str]) -> str:
    return match[1].replace(",", "")
