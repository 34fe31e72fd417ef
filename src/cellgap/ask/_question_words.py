"""Words that say what a question wants, whatever its sentence is like."""

import re

from cellgap.ask._lexicon import words_of


def _any(pattern: str) -> re.Pattern[str]:
    return re.compile(pattern, re.IGNORECASE | re.VERBOSE)


_NOUN = r"""(?:drugs?|compounds?|treatments?|perturbations?|molecules?|agents?|inhibitors?|chemicals?|substances?|
    cytokines?|ligands?|knock-?\s?(?:outs?|downs?)|genes?|hits?|stimul(?:i|us)|conditions?|combinations?)"""
_RAISE = r"""(?:rais\w*|increas\w*|induc\w*|activat\w*|up-?regulat\w*|elevat\w*|enhanc\w*|promot\w*|boost\w*
    |stimulat\w*|trigger\w*|higher)"""
_LOWER = r"""(?:lower\w*|reduc\w*|decreas\w*|inhibit(?!ors?\b)\w*|suppress\w*|down-?regulat\w*|diminish\w*|block\w*|
    repress\w*|prevent\w*|attenuat\w*|impair\w*)"""
_CHANGE = r"(?:chang\w*|affect\w*|alter\w*|influenc\w*|modulat\w*|act(?:s|ive)?\b|regulat\w*|shift\w*|driv\w*|caus\w*)"

UP = _any(rf"\b{_RAISE}")
DOWN = _any(rf"\b{_LOWER}")
LISTED = _any(
    rf"""\b(?:which|what|whichever|any|all|list|name|show|find|give(?:\s+me)?)\s+
    (?:(?:of\s+)?(?:the|these|those|all)\s+)?(?!does\b|do\b|did\b|is\b|are\b|happens?\b)(?:[\w-]+\s+){{0,2}}?{_NOUN}\b
    | \b(?:what|which(?:\s+(?:ones?|of\s+(?:them|these|those)))?)\s+(?:can\s+|could\s+|would\s+|may\s+)?
      (?:{_RAISE}|{_LOWER}|{_CHANGE})
    | \bby\s+(?:what|which)\b | \bhow\s+many\s+{_NOUN}\b"""
)
THRESHOLD = _any(
    r"""\b(?:which|what|lowest|smallest|minimum|minimal|least|first|threshold|effective|active|right)\s+(?:[\w-]+\s+){0,2}?
    (?:dos(?:e|es|age)|concentrations?|amount)\b
    | \bhow\s+(?:much|high|low|strong|potent)\b | \bthreshold\b | \bpotency\b
    | \b(?:dos(?:e|es|age)|concentrations?)\s+(?:is|are|does|do)\s+(?:needed|required|necessary|enough|sufficient)\b"""
)
COMPARED = _any(
    r"""\b(?:compar\w*|versus|vs|than|differ\w*|rather|whereas|alternatively|contrast\w*|either|separately|respectively
    |individually|alone)\b"""
)
COMBINED = _any(
    r"\b(?:combin\w*|together|plus|co-?treat\w*|cotreat\w*|simultaneous\w*|jointly|synerg\w*|pair(?:ed)?\s+with)\b"
)
BESIDE = _any(r"\s*(?:\+|/|,|&|-|and|with|plus|\s)+\s*")
EXCEPT = _any(
    r"""\b(?:other\s+than|except(?:\s+(?:for|in))?|excluding|apart\s+from|besides|but\s+not(?:\s+in)?|not\s+in
    |outside(?:\s+of)?|without|rather\s+than)\s+(?:the\s+)?$"""
)
MEASURED = _any(
    r"""\b(?:only|just)\s+(?:the\s+)?measured\b | \bmeasured\s+only\b
    | \bmeasured\s+(?:data|rows?|values?|effects?|results?|evidence)\b | \baccording\s+to\s+(?:the\s+)?measure\w*"""
)
PREDICTED = _any(
    r"""\b(?:only|just)\s+(?:the\s+)?predicted\b | \bpredicted\s+only\b
    | \bpredicted\s+(?:data|rows?|values?|effects?|results?|evidence)\b
    | \baccording\s+to\s+(?:the\s+)?(?:model\w*|predict\w*)"""
)
# What stands before or after a gene's name where it is what is perturbed, not what is read.
TARGET_BEFORE = _any(
    r"""\b(?:by|after|upon|under|following|with|respon\w+\s+to|effects?\s+of|knock(?:ing|ed)?[\s-]?(?:out|down)
    (?:\s+of)?|loss\s+of|deletion\s+of|inhibition\s+of|over-?expressi(?:on|ng)(?:\s+of)?|silencing(?:\s+of)?|losing
    |perturb\w*|deleting|activating|removing|lacking|deplet\w*(?:\s+of)?)\s+(?:the\s+)?(?:gene\s+)?$"""
)
TARGET_WEAK = _any(r"\b(?:does|do|did|can|will|may)\s+(?:the\s+)?(?:gene\s+)?$")
TARGET_AFTER = _any(
    r"""[\s-]*(?:(?:is|are|was|were|being|been)\s+)?(?:knock(?:ed|ing)[\s-]?(?:out|down)|deleted|silenced|overexpressed|lost
    |depleted|knock-?\s?(?:outs?|downs?)|ko\b|kd\b|crispri?\b|deletion|loss|treatment|stimulation|overexpression|
    treated|depletion)"""
)
KNOWN = words_of(
    """
    a about above according activate activated activates active activity add affect affected affects after alone
    also alter altered alters amount an and any anything apart are as at be because been before being below besides
    between block blocks both but by can cause caused causes cell cell-line cells change changed changes compare
    compared comparing comparison compound compounds concentration concentrations condition conditions could crispr
    data dataset day days decrease decreased decreases deleted deletion describe did differ difference different do
    does done dose doses down downregulate drive drives drug drugs due during each effect effective effects either
    elevate enhance enhanced every evidence except exist expect expected experiment exposed exposure expression find
    first following for found from gene genes get give given happen happened happens has have he her high higher
    highest hour hours how i if impact impacts in increase increased increases induce induced induces influence
    influenced inhibit inhibited inhibits into is it its kd knock knocked knocking knockout knockouts know known ko
    least less level levels like line lines list loss lost lot low lower lowered lowers lowest make many may me mean
    measure measured might minimum model more most much must name need needed needs no not observed of off on one
    ones only onto or other our out over overall people perturbation please plus predicted prediction produce
    promote promotes raise raised raises range rather reduce reduced reduces regulate regulates respond response
    result results row rows same say says score scores see seen set several shift should show shown shows signal
    signature silencing since so some start strong stronger strongest strongly study such suppress suppressed table
    take tell tested than that the their them then there these they thing this those threshold through time times to
    together towards treat treated treatment treatments trigger triggers under up upon upregulate us use used using
    value values versus via vs want was we were what whatever when where whereas whether which while who why will
    with within without work works would you your
    """
)
