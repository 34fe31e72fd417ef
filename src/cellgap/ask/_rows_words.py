"""Words of a sentence that states an effect: which stand where a treatment stands, and which where a readout does.

What is typed (doses, times, effects, ...) has been taken out; a word is told by what stands beside it, added up over
all sentences of a question's passages. No names are known in advance but those of common cell lines.
"""

import re
from collections import Counter
from collections.abc import Iterable, Sequence
from operator import itemgetter
from typing import NamedTuple

from cellgap.ask._typed import Typed, plain_signs, typed_spans

LINES = frozenset(
    re.findall(
        r"\S+",
        """
        a549 k562 hepg2 jurkat u2os mcf7 mcf-7 mcf10a mcf-10a hela hek293 hek293t hek-293 hek-293t 293t thp1
        thp-1 rpe1 rpe-1 pc3 pc-3 hct116 hct-116 hl60 hl-60 u937 ht29 ht-29 skbr3 sk-br-3 t47d mda-mb-231
        mdamb231 lncap vcap a375 caco2 caco-2 cho vero nih3t3 nih-3t3 raji ramos kasumi-1 mv4-11 molm13 molm-13
        huh7 huh-7 h1299 h460 panc1 panc-1 sw480 sk-mel-28 u87 u-87 sh-sy5y imr90 imr-90 bj wi-38 huvec pbmc
        pbmcs ipsc ipscs hpsc hesc raw264.7 bt474 a172 ln229 a431 du145 du-145 ovcar3 ovcar-3
        """,
    )
)
_TOKEN = re.compile(r"[^\W_]+(?:[-'\u2019./+][^\W_]+)*[+]?|[^\s\w]")
_SUFFIX = re.compile(r"(?<=.)-(?:treated|exposed|induced|stimulated|dosed)$", re.IGNORECASE)
# The letters of "SKX 220".
_CODE = re.compile(r"[A-Z]{2,5}")
_LINE_SHAPE = re.compile(r"(?=[^\W_]*[A-Z])[A-Z0-9][^\W_]*(?:[-/.][A-Z0-9][^\W_]*)*$")

_FUNCTION = frozenset(
    re.findall(
        r"\S+",
        """
        a about above after again all also although an and any are as at be because been before being below
        between both but by can could did do does during each either every for from had has have here how i if
        in into is it its itself more most much no nor not of on once one only onto or other our out over per
        quite rather same so some still such than that the their them then there these they this those though
        through thus to too two under until up upon us very via was we were what when where whereas whether
        which while who whose will with within without would yet you your again across among around down off
        than versus vs there's
        """,
    )
)
_GENERIC = frozenset(
    re.findall(
        r"\S+",
        """
        cell cells line lines culture cultures well wells sample samples plate plates assay assays screen
        screens experiment experiments data result results row rows record records entry table note effect
        effects score scores scored change changes changed changing shift shifts shifted shifting difference
        differences value values level levels estimate estimates readout readouts measure measured measures
        measuring measurement measurements observed observe observation observations predicted predicts predict
        prediction predictions model models modelled modeled modelling simulated simulation forecast imputed
        inferred silico assayed recorded reported reports report experimental experimentally empirical
        empirically read reads reading gave gives give given showed shows show shown yielded yields yield
        produced produces produce led leads caused causes moved moves moving went came reached stood remained
        stayed rose risen rises rising fell fallen falls falling raised raises raise raising lowered lowers
        lower lowering increased increases increase increasing decreased decreases decrease decreasing reduced
        reduces reduce reducing reduction induced induces induce inducing suppressed suppresses suppress
        suppressing elevated elevates dropped drops drop climbed climbs declined declines decline boosted boosts
        boost upregulated downregulated enhanced enhances diminished gain gains gained loss lost unchanged
        treated treat treats treatment treatments treating exposed exposure exposing incubated incubation dosed
        dosing dose doses concentration concentrations time times timepoint hour hours day days stimulated
        stimulation applied applying addition added adding receiving received administered cultured grown
        perturbed perturbation compound drug agent inhibitor molecule relative compared comparison control
        controls vehicle dmso baseline untreated units unit standard deviation deviations sd mean average median
        fdr adjusted corrected p-value q-value significance significant significantly statistically n q p based
        basis computed calculated estimated total count number single profiled sequenced analysed analyzed
        replicate replicates here found find finding using used use following followed against amounts amounted
        equal log fold log2 around approximately roughly about just however overall again point condition
        conditions setting case same both
        """,
    )
)
_CUES = frozenset(
    re.findall(
        r"\S+",
        """
        score scores level levels response activity signature readout index programme program effect
        """,
    )
)
_TREATING = frozenset(
    re.findall(
        r"\S+",
        """
        treated treatment exposed exposure incubated incubation dosed dosing stimulated stimulation cultured
        addition administration applying adding receiving received given perturbed
        """,
    )
)
_BEFORE_TREATMENT = frozenset(
    re.findall(
        r"\S+",
        """
        with to of by after under upon for using via following from plus
        """,
    )
)
DIRECTIONS = frozenset(
    re.findall(
        r"\S+",
        """
        raised raises raising raise lowered lowers lowering lower increased increases increasing increase
        decreased decreases decreasing reduced reduces reducing reduce induced induces inducing induce
        suppressed suppresses suppressing changed changes changing change shifted shifts shifting moved moves
        moving elevated elevates boosted boosts enhanced enhances upregulated downregulated
        """,
    )
)
_MOVED = frozenset(
    re.findall(
        r"\S+",
        """
        rose rises rising fell falls falling was is were increased increases decreased decreases dropped drops
        climbed climbs declined declines changed changes shifted shifts moved moves went gained lost reached
        stood remained
        """,
    )
)

_ASKED_BY = frozenset(
    re.findall(
        r"\S+",
        """
        by after of with does do did can could will would under upon from following using when
        """,
    )
)
_ASKED_OF = frozenset(
    re.findall(
        r"\S+",
        """
        on is are was were any more less much affect affects impact influence alter alters modulate regulate
        block
        """,
    )
)
_PASSIVE = frozenset(
    re.findall(
        r"\S+",
        """
        changed raised lowered increased decreased reduced induced affected altered suppressed elevated rise
        fall increase decrease change respond responds
        """,
    )
)
_HAPPENS = frozenset(
    re.findall(
        r"\S+",
        """
        happens happened occurs done do does
        """,
    )
)


class Item(NamedTuple):
    """A piece of a sentence in reading order.

    Parameters
    ----------
    kind
        ``"word"``, ``"sign"`` (punctuation), ``"line"`` (a cell line), the kind of a typed span, or ``""`` for nothing.
    text, low
        As written, and in lower case.
    bears
        Whether it is a word that could be part of a name: no grammar, no word of assays in general, no number.
    typed
        The typed span, for its kinds.
    """

    kind: str = ""
    text: str = ""
    low: str = ""
    bears: bool = False
    typed: Typed | None = None


_NOTHING = Item()


def items_of(sentence: str) -> list[Item]:
    """Return the pieces of a sentence: typed spans, words and signs."""
    spans = typed_spans(sentence)
    found = [
        (s.start, Item(s.kind, sentence[s.start : s.end], sentence[s.start : s.end].lower(), typed=s)) for s in spans
    ]
    for match in _TOKEN.finditer(plain_signs(sentence)):
        start, end = match.span()
        if any(end > s.start and start < s.end for s in spans):
            continue
        text = sentence[start:end]
        if not match.group()[0].isalnum():
            found.append((start, Item("sign", text, text)))
            continue
        suffix = _SUFFIX.search(text)
        cut = suffix.start() if suffix is not None else len(text)
        for at, part in ((0, text[:cut]), (cut + 1, text[cut + 1 :])):
            low = part.lower()
            named = low not in _FUNCTION and low not in _GENERIC and any(map(str.isalpha, part))
            if part:
                found.append((start + at, Item("word", part, low, named and (len(part) > 1 or part.isupper()))))
    return _with_numbers(sorted(found, key=itemgetter(0)))


def _with_numbers(found: Sequence[tuple[int, Item]]) -> list[Item]:
    """Return the pieces in order, a code and the number one space behind it as one name: "SKX 220" is not "SKX 202"."""
    made: list[Item] = []
    end = -1
    for start, item in found:
        last = made[-1] if made else _NOTHING
        if start == end + 1 and item.text.isdecimal() and last.bears and _CODE.fullmatch(last.text):
            made[-1] = Item("word", f"{last.text} {item.text}", f"{last.low} {item.text}", True)
        else:
            made.append(item)
        end = start + len(item.text)
    return made


def cell_lines(sentences: Iterable[Sequence[Item]], not_lines: frozenset[str]) -> frozenset[str]:
    """Return the words (lower case) that are names of cell lines: known ones, and those that stand where one stands.

    Parameters
    ----------
    sentences
        Their pieces.
    not_lines
        Words, lower case, that are something else (names in the question that stand where treatments do).
    """
    found: set[str] = set()
    for items in sentences:
        for k, item in enumerate(items):
            if item.kind != "word" or item.low in not_lines:
                continue
            if item.low in LINES:
                found.add(item.low)
            elif _LINE_SHAPE.match(item.text) and item.low not in _FUNCTION and item.low not in _GENERIC:
                before = items[k - 1].low if k else ""
                after = items[k + 1] if k + 1 < len(items) else _NOTHING
                follows = not after.bears
                named = after.low in ("cells", "cell", "line", "cultures")
                capitals = sum(c.isupper() or c.isdigit() for c in item.text) > 1 or before == "in"
                if (named and capitals) or (before == "in" and follows):
                    found.add(item.low)
    return frozenset(found)


def with_lines(items: Sequence[Item], lines: frozenset[str]) -> list[Item]:
    """Return the pieces with the words that name cell lines marked as such."""
    return [Item("line", i.text, i.low) if i.kind == "word" and i.low in lines else i for i in items]


def runs(items: Sequence[Item], apart: frozenset[str] = frozenset()) -> list[tuple[int, int]]:
    """Return first and past-the-last index of every run of words that could be a name; words of `apart` end a run."""
    found: list[tuple[int, int]] = []
    for k, item in enumerate(items):
        # "cell" alone is no name, and part of "cell death".
        opens = item.low == "cell" and k + 1 < len(items) and items[k + 1].bears and items[k + 1].low not in apart
        # "droplet count" is what an image is measured by; "count" alone is no name.
        counted = item.low == "count" and k > 0 and items[k - 1].bears and bool(found) and found[-1][1] == k
        if not (item.bears or opens or counted) or item.low in apart:
            continue
        if item.low in ("response", "responses") and k + 1 < len(items) and items[k + 1].low == "to":
            continue
        if found and found[-1][1] == k:
            found[-1] = (found[-1][0], k + 1)
        else:
            found.append((k, k + 1))
    return found


def treatment_role(items: Sequence[Item], first: int, end: int) -> float:
    """Return how much the words at [first, end) stand as a treatment does: beside a dose, after "treated with", ..."""
    before2, before, after, after2 = _around(items, first, end)
    score = 0.5 * (first == 0)
    if before.kind == "dose" or (before.low == "of" and before2.kind == "dose"):
        score += 2
    if after.kind == "dose" or (after2.kind == "dose" and after.low in ("at", "(", ",", ":", "@", "=", "[", "-", "/")):
        score += 2
    if before.low == "to" and before2.low in ("response", "responses"):
        score += 2
    if before.low in _BEFORE_TREATMENT and before2.kind != "effect":
        score += 1 + (before2.low in _TREATING)
    if after.low == "in" and after2.kind == "line":
        score += 1
    if after.low in _TREATING or before.low in ("compound", "drug", "agent", "inhibitor", "treatment"):
        score += 2
    return score + (after.low in DIRECTIONS and first < 3)


def readout_role(items: Sequence[Item], first: int, end: int) -> float:
    """Return how much the words at [first, end) stand as a readout does: beside the effect, after "raised", ..."""
    before2, before, after, _ = _around(items, first, end)
    score = 0.0
    ahead = next((k for k in range(end, min(end + 4, len(items))) if items[k].kind == "effect"), None)
    if ahead is not None and all(not items[k].bears and items[k].kind in ("word", "sign") for k in range(end, ahead)):
        score += 2
    behind = next((k for k in range(first - 1, max(first - 4, -1), -1) if items[k].kind == "effect"), None)
    if behind is not None and all(items[k].low in ("in", "of", "for", "on", "the") for k in range(behind + 1, first)):
        score += 2 if behind < first - 1 else 1
    if before.low in DIRECTIONS or (before.low == "the" and before2.low in DIRECTIONS):
        score += 1.5
    score += (after.low in _MOVED) + (after.low in _CUES)
    return score + (before.low in ("on", "readout") or (before.low == "in" and after.kind != "line"))


def asked_role(items: Sequence[Item], first: int, end: int) -> float:
    """Return 1 where the words at [first, end) of a question stand as its treatment does, -1 as its readout, else 0.

    To open the question is half a reason for a treatment.
    """
    before2, before, after, _ = _around(items, first, end)
    happens = before.low == "to" and before2.low in _HAPPENS
    if before.low in DIRECTIONS or before.low in _ASKED_OF or after.low in _PASSIVE or happens:
        return -1.0
    doses = after.kind == "dose" or before.kind == "dose"
    treating = before.low in _TREATING or after.low in _TREATING or after.low in ("do", "does", "did", "have", "has")
    sure = doses or treating or before.low in _ASKED_BY or after.low in DIRECTIONS
    return 1.0 if sure else 0.5 if first == 0 else 0.0


def asked_roles(items: Sequence[Item], spans: Sequence[tuple[int, int]]) -> dict[tuple[int, int], float]:
    """Return ``asked_role`` of the names in a question; one that says nothing of itself is what the others are not.

    A question with one name asks for that treatment, unless it says otherwise.
    """
    found = {span: asked_role(items, *span) for span in spans}
    if len(found) == 1:
        return {span: role if role < 0 else 1.0 for span, role in found.items()}
    if -1.0 in found.values() and 1.0 not in found.values():
        return {span: role if role < 0 else 1.0 for span, role in found.items()}
    if 1.0 in found.values() and -1.0 not in found.values():
        return {span: role or -1.0 for span, role in found.items()}
    return found


def neighbours(items: Sequence[Item], k: int) -> tuple[str, str]:
    """Return what stands before and behind a piece: the kind of what is typed, the word itself of grammar."""
    _, before, after, _ = _around(items, k, k + 1)
    left, right = ("name" if i.bears else i.low if i.kind in ("word", "sign") else i.kind for i in (before, after))
    return left, right


def common_first(phrases: Iterable[str]) -> dict[str, str]:
    """Return the most frequent spelling (ties: the first) of phrases that differ in capitals alone."""
    counts: Counter[str] = Counter(phrases)
    found: dict[str, str] = {}
    for phrase, _ in counts.most_common():
        found.setdefault(phrase.lower(), phrase)
    return found


def _around(items: Sequence[Item], first: int, end: int) -> tuple[Item, Item, Item, Item]:
    """Return the two pieces before `first` and the two from `end` on."""
    padded = (_NOTHING, _NOTHING, *items, _NOTHING, _NOTHING)
    return padded[first], padded[first + 1], padded[end + 2], padded[end + 3]
