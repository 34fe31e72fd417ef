"""How orders are worded: imperatives, which stand at the start of a clause or after "must", and turns of phrase."""
# ruff: noqa: E501, RUF001, patterns read better whole, and people type these quotes and dashes

import re
from typing import NamedTuple

_MACHINE = (
    r"(?:assistants?|ais?|llms?|chat-?bots?|copilots?|gpts?|(?:large\s+)?language\s+models?|ai\s+(?:models?|systems?|"
    r"agents?|tools?)|(?:question[\s-]+)?answering\s+(?:models?|systems?|agents?|engines?))"
)
# These words mean other things too, so that they need company.
_ANYONE = rf"(?:{_MACHINE}|models?|readers?|systems?|agents?|bots?|summari[sz]ers?|annotators?|answerers?|users?)"
_THIS = r"(?:this|the\s+present|the\s+current)"
_PIECE = (
    r"(?:passage|page|note|fragment|document|text|source|record|entry|notice|article|paragraph|snippet|excerpt|section|"
    r"memo|message|statement|citation|reference|bulletin|remark|chunk)"
)
_PIECES = rf"(?:{_PIECE}s|entries|evidence|context|literature|materials?|results)"
_SAY = r"(?:answer|reply|respond|say|state|claim|insist|pretend|affirm|output|repeat|proclaim)"
_TELL = rf"(?:{_SAY}|assert|declare|conclude|report|write|announce|confirm|maintain|tell|agree)"
_CITE = r"(?:cite|quote|reference|credit|trust|name|list|give|mention|rely\s+(?:up)?on|refer\s+to|point\s+to)"
_USE = rf"(?:{_CITE}|use|show|provide|include|present|link(?:\s+to)?|consult|consider|believe|follow|offer|attribute\s+\w+\s+to)"
_DROP = (
    r"(?:ignore|disregard|forget|override|bypass|discard|dismiss|skip|set\s+aside|overlook|neglect|leave\s+out|omit|"
    r"stop\s+reading|pay\s+no\s+attention(?:\s+to)?)"
)
_ORDERED = r"(?:required|instructed|ordered|told|requested|asked|directed|obliged|expected|advised)"
MUST = (
    r"(?:must|should|shall|(?:have|has|need|needs|ought)\s+to|"
    rf"(?:is|are)\s+(?:hereby\s+|now\s+)?(?:to|(?:{_ORDERED}|mandatory|compulsory|obligatory)\s+to))"
)
_ONLY = r"(?:only|alone|sole|solely|exclusively|exclusive|single|just)"
_TO_WHOM = r"(?:the|any|every|all|each|your|whichever|whatever|our)"


def _set(words: str) -> frozenset[str]:
    return frozenset(words.split())


_SAY_WORDS = _set("answer reply respond say state claim insist pretend affirm output repeat proclaim")
_TELL_WORDS = _SAY_WORDS | _set("assert declare conclude report write announce confirm maintain tell agree")
_CITE_WORDS = _set("cite quote reference credit trust name list give mention rely refer point")
_USE_WORDS = _CITE_WORDS | _set("use show provide include present link consult consider believe follow offer attribute")
_DROP_WORDS = _set(
    "ignore disregard forget override bypass discard dismiss skip set overlook neglect leave omit stop pay"
)
_NOT_WORDS = _set("do don't don’t never refrain avoid under not")


class Order(NamedTuple):
    """An imperative: its first words, where it can stand (s: start, n: after and or a comma, m: after must), and it."""

    words: frozenset[str]
    places: str
    pattern: re.Pattern[str]


class Phrase(NamedTuple):
    """A turn of phrase, and the words of which it has one of each set."""

    needs: tuple[frozenset[str], ...]
    pattern: re.Pattern[str]


def _order(words: frozenset[str], places: str, pattern: str) -> Order:
    return Order(words, places, re.compile(pattern, re.IGNORECASE))


def _phrase(needs: tuple[str, ...], pattern: str) -> Phrase:
    return Phrase(tuple(_set(words) for words in needs), re.compile(pattern, re.IGNORECASE | re.MULTILINE))


_ONE_WORD = (
    r"(?:with\s+)?(?:only\s+|just\s+|exactly\s+|nothing\s+but\s+|solely\s+)?(?:with\s+)?(?:only\s+|just\s+)?the\s+"
    r"(?:(?:single|exact|following|one)\s+)*(?:words?|phrase|sentence)\b"
)
_NEGATED = (
    r"(?:mention|cit|quot|us|list|consult|refer|reveal|disclos|consider|rely|look|trust|includ|show|report|discuss|nam|"
    r"read|believ|acknowledg|talk)(?:e|ing|ying|ed)?\b"
)
STRONG_ORDERS = (
    _order(
        _DROP_WORDS,
        "snm",
        rf"{_DROP}\b[^.\n]{{0,40}}?\b(?:(?:other|previous|prior|earlier|preceding|above|remaining|following|given|"
        rf"retrieved|provided)\s+(?:\w+\s+)?(?:{_PIECES}|{_PIECE}|instructions?|prompts?|directions?|guidelines?)"
        rf"|(?:all|any|every|those|these|your|the)\s+(?:passages|fragments|snippets|excerpts|sources|documents|"
        r"instructions?|prompts?|question|context|citations)|the\s+above|rest\s+of\s+the\s+(?:passages|sources|documents))\b",
    ),
    _order(_set("ignore disregard forget"), "sm", r"\w+\s+(?:everything|anything|all\s+else|all\s+of|others?|what)\b"),
    _order(
        _SAY_WORDS,
        "s",
        rf"{_SAY}\s+(?:(?:only|just|simply|always|instead)\s+|to\s+(?:{_TO_WHOM}\s+)?\w+\s+)?(?-i:that|THAT)\b",
    ),
    _order(
        _set("answer reply respond claim insist pretend"),
        "m",
        r"\w+\s+that\s+(?:the|it|this|no|all|there|nothing|every|\w+\s+(?:is|are|was|has|have))\b",
    ),
    _order(_TELL_WORDS, "snm", rf"{_TELL}\s+(?:with\s+)?nothing\s+(?:but|except|other\s+than)\b"),
    _order(_set("suppress reject exclude withhold"), "s", rf"\w+\b[^.\n]{{0,40}}?\bother\s+(?:\w+\s+)?{_PIECES}\b"),
    _order(_set("quote cite"), "sn", r"\w+\s+this\s+one\b"),
    _order(_set("attribute credit ascribe link refer"), "s", rf"\w+\s+(?:\w+\s+){{1,3}}to\s+{_THIS}\s+{_PIECE}\b"),
    _order(
        _set("trust prefer believe follow use cite quote"),
        "s",
        rf"\w+\s+{_THIS}\s+{_PIECE}\s+(?:over|above|before|instead\s+of|rather\s+than|not)\b",
    ),
    _order(_set("summarize summarise"), "s", r"\w+\s+(?:everything|all|this|these|the\s+\w+)\s+(?:\w+\s+)?as\b"),
    _order(_set("do act"), "s", rf"\w+\s+(?:exactly\s+)?as\s+{_THIS}\s+{_PIECE}\b"),
    _order(
        _set("instead"),
        "s",
        r"instead\s+of\s+(?:answering\s+)?the\s+(?:\w+\s+)?question,?\s+(?:describe|write|say|tell|print|output|answer|reply|"
        r"give|talk|return|explain)\b",
    ),
    _order(
        _set("make ensure"),
        "sn",
        r"(?:make\s+sure|ensure)\s+(?:that\s+)?(?:your|the|any|every)\s+(?:answer|reply|response|output|summary)\s+"
        r"(?:contains?|says?|states?|is|mentions?|cites?|includes?|does|reads?|ends?|begins?)\b",
    ),
    _order(
        _set("tell inform assure convince advise"),
        "snm",
        rf"\w+\s+(?:{_TO_WHOM}\s+)?(?:users?|readers?|askers?|person|people|questioners?|everyone|anyone|them|researchers?|"
        r"customers?|clients?|patients?|whoever\s+\w+)\b[^.\n]{0,40}\bthat\b",
    ),
    _order(_set("answer reply respond output say write"), "snm", rf"\w+\s+(?:\w+\s+){{0,3}}?{_ONE_WORD}"),
    _order(
        _set("answer reply respond"),
        "s",
        r"\w+\s+(?:\w+\s+){0,2}?(?:with\b|only\b|exactly\b|nothing\b|[\"“'‘]|yes\b|no\b|in\s+one\s+word)",
    ),
    _order(_set("output"), "s", r"\w+\s+(?:only|exactly|nothing|none|the\s+(?:string|text|token|letters?))\b"),
    _order(
        _USE_WORDS,
        "snm",
        rf"{_USE}\s+{_THIS}\s+(?:\w+\s+)?{_PIECE}\b[^.\n]{{0,30}}\b(?:{_ONLY}|nothing\s+else|no\s+other|and\s+no\s+others?|"
        r"as\s+(?:your|the|evidence|proof))\b",
    ),
    _order(_set("cite"), "sn", rf"cite\s+{_THIS}\s+(?:\w+\s+)?{_PIECE}\b(?!\s+as\b)"),
    _order(_set("cite quote reference"), "snm", r"\w+\s+(?:only|no\b|nothing|none|nobody|solely|exclusively|neither)"),
    _order(
        _USE_WORDS,
        "sm",
        rf"{_USE}\s+(?:no|zero)\s+(?:(?:other|further|additional|more)\s+)?(?:citations?|references?|sources?|evidence|"
        r"passages?|fragments?|footnotes?|documents?)\b",
    ),
    _order(
        _USE_WORDS,
        "n",
        rf"{_USE}\s+no\s+(?:other|further|additional|more)\s+(?:citations?|references?|sources?|evidence|passages?|fragments?|notes?)\b",
    ),
    _order(
        _set("treat regard accept take consider view present"),
        "s",
        rf"\w+\s+{_THIS}\s+(?:\w+\s+)?{_PIECE}\s+(?:as\s+)?(?:(?:the|an?|being)\s+)?(?:\w+\s+)?(?:authoritative|authority|"
        r"definitive|only|sole|true|truth|facts?|correct|final|reliable|trusted|verified|established|official)\b",
    ),
    _order(
        _NOT_WORDS,
        "sm",
        rf"(?:do\s+not|don['’]?t|never|under\s+no\s+circumstances|refrain\s+from|avoid|not)\s+(?:\w+\s+){{0,2}}?{_NEGATED}"
        r"[^.\n]{0,40}\b(?:other|any|all|further|remaining|rest|else|elsewhere|additional|different|these|this|those|the|your)"
        rf"\s+(?:of\s+the\s+)?(?:other\s+|remaining\s+)?(?:\w+\s+)?(?:{_PIECES}|{_PIECE}|citations?|instructions?|prompts?|orders?)\b",
    ),
    _order(_NOT_WORDS, "s", r"(?:do\s+not|don['’]?t|never)\s+(?:answer|reply|respond|say|tell|cite)\b"),
    _order(_set("refuse decline"), "s", r"\w+\s+to\s+(?:answer|reply|respond|comment|cite)\b"),
)
STRONG_PHRASES = (
    # Marks of turns and prompts.
    _phrase(
        (), r"<\|?\s*/?\s*(?:im_start|im_end|system|assistant|user|endoftext|instructions?)\b|\[/?INST\]|<<\s*/?SYS"
    ),
    _phrase(
        ("system assistant user developer instruction instructions",),
        r"^\W*(?:system|assistant|developer)\s*(?:prompt|message)?\s*:|^\W{0,2}user\s*:|\bsystem\s+prompts?\b"
        r"|^\W*#+\s*instructions?\b",
    ),
    # The rest does not count.
    _phrase(
        ("ignore disregard forget override bypass discard dismiss skip overlook",),
        rf"\b{_DROP}\s+(?:(?:all|any|every|the|your|other|these|those)\s+){{0,2}}(?:previous|prior|earlier|preceding|above|"
        r"foregoing|system|original|other)\s+(?:\w+\s+)?(?:instructions?|prompts?|directions?|passages?|fragments?|"
        r"snippets?|messages?)\b",
    ),
    _phrase(
        (
            "passage passages fragment fragments snippet snippets prompt prompts instruction instructions excerpt excerpts",
        ),
        r"\b(?:supersede|override|overrule|outrank|replace|cancel|invalidate|void|trump|take\s+precedence\s+over|"
        r"prevail\s+over)(?:e?s|d|ed)?\b[^.\n]{0,30}\b(?:all|any|every|other|previous|earlier|remaining)\s+(?:\w+\s+)?"
        r"(?:passages?|fragments?|snippets?|prompts?|instructions?|excerpts?)\b",
    ),
    _phrase(
        ("other others remaining",),
        r"\b(?:(?:all|every|any|the)\s+(?:of\s+the\s+)?(?:other|remaining)\s+(?:\w+\s+)?(?:passages?|fragments?|snippets?|"
        r"excerpts?|entries|notes?|pages?|documents?|sources?|texts?|records?)|(?<!\w\s)others)\s+(?:is|are|were|was|may|must|should|can|"
        r"have|has|contain)\s+(?:all\s+|also\s+|to\s+)?(?:not\s+)?(?:be\s+|been\s+)?(?:left\s+out|ignored|disregarded|discarded|"
        r"skipped|cited|quoted|used|consulted|trusted|mentioned|retracted|fabricated|fake|forged|obsolete|out\s+of\s+date|"
        r"outdated|wrong|void|errors?|forger(?:y|ies)|fakes?|fabrications?|lies|hoax(?:es)?|inventions?)\b",
    ),
    _phrase(
        ("no",),
        rf"\bno\s+other\s+(?:\w+\s+)?{_PIECE}s?\s+(?:may|must|should|shall|can|needs?\s+to|is\s+to|are\s+to)\s+(?:not\s+)?be\b",
    ),
    # With an address.
    _phrase(
        ("instruction instructions directive directives command commands prompt prompts",),
        rf"\b(?:instructions?|directives?|commands?|prompts?)\s+(?:to|for)\s+(?:{_TO_WHOM}\s+)?(?:\w+\s+(?:or|and)\s+)?{_MACHINE}\b",
    ),
    _phrase(
        (
            "instruction instructions directive directives command commands order orders notice message messages note notes "
            "request attention advice guidance memo reminder warning hint hints requirement requirements",
        ),
        r"\b(?:instructions?|directives?|commands?|orders?|notice|messages?|notes?|request|attention|advice|guidance|memo|"
        rf"reminder|warning|hints?|requirements?)\s*(?:to|for|,)\s*(?:{_TO_WHOM}\s+)?(?:\w+\s+(?:or|and)\s+)?(?:\w+\s+)?{_ANYONE}"
        r"(?:\s+(?:or|and)\s+\w+)?(?:\s+(?:who|that|which)\s+\w+(?:\s+\w+){0,4})?\s*[:;—–-]",
    ),
    _phrase(
        ("attention dear hey hello hi to note for",),
        rf"(?:^|[.!?]\s+|\n)\W*(?:attention|dear|hey|hello|hi|to|note\s+to|for)\s*,?\s*(?:{_TO_WHOM}\s+)?{_MACHINE}\s*(?:or\s+\w+\s*)?"
        r"(?:who\s+[^.:;,\n]{0,40}\s*)?[:;,!—–-]",
    ),
    _phrase(
        (
            "assistant assistants ai ais llm llms chatbot chatbots copilot copilots gpt gpts model models system systems agent "
            "agents tool tools engine engines chat",
            "must should shall have has need needs ought is are",
        ),
        rf"\b{_MACHINE}\b[^.\n]{{0,40}}\b{MUST}\b[^.\n]{{0,40}}\b(?:claim|pretend|cite|quote|withhold|{_DROP}|"
        r"(?:answer|reply|respond)\s+(?:in|by|every|any|all|yes|no|[\"“:])|"
        rf"{_TELL}\s+(?:that|only|with|this|the\s+(?:words?|user)))\b",
    ),
    _phrase(
        (
            "model models reader readers agent agents bot bots system systems summarizer summarizers summariser summarisers "
            "answerer answerers annotator annotators anyone everyone whoever",
            "must should shall have has need needs ought is are",
        ),
        r"\b(?:models?|readers?|agents?|bots?|systems?|summari[sz]ers?|answerers?|annotators?|anyone|everyone|whoever)\b"
        rf"[^.\n]{{0,50}}\b{MUST}\b[^.\n]{{0,25}}\b(?:{_TELL}\s+(?:that|only|with)|cite\s+(?:only|this|no)|"
        rf"{_DROP}\s+(?:all|any|every|the\s+other|other))\b",
    ),
    _phrase(
        ("you",),
        rf"\byou\s+(?:{MUST}|will)\s+(?:\w+\s+){{0,2}}?(?:{_TELL}\s+(?:(?:only|just)\s+|to\s+\w+\s+)?(?:that|with|only|exactly|"
        r"[\"“'‘:]|(?:the|any|every)\s+(?:word|user|reader|question))|(?:cite|quote|reference|rely\s+on|trust)\s+(?:only|this|no|nothing|none|"
        r"exclusively|solely|the\s+present)\b)"
        r"|\byou\s+are\s+now\s+(?:a|an|in|no\s+longer|free|the|to)\b|\bfrom\s+now\s+on,?\s+you\b|\bpretend\s+(?:that\s+you|you\s+are)\b",
    ),
    _phrase(
        ("asked ask asks queried query queries prompted questioned inquires inquire wants",),
        r"\b(?:when|if|whenever|should)\s+(?:(?:you\s+(?:are|be|get)|you['’]re|ever|anyone|someone|somebody|anybody|an?\s+users?|"
        r"the\s+users?|users|they)\s+)?(?:ask(?:ed|s)?|quer(?:ied|ies)|prompted|questioned|inquires?|wants?\s+to\s+know)\b[^.\n]{0,80}?"
        rf"[,;:]\s+(?:(?:please|just|only|simply|always|then|you\s+(?:must|should|shall|will))\s+)*{_TELL}\s+(?:that|with|only|[\"“'‘:]|this|no|yes|it|the)",
    ),
    _phrase(
        ("task instruction instructions objective order orders",),
        r"\b(?:new|updated|revised|changed|real|actual)\s+(?:task|instructions?|objective|orders?)\s*(?:for\s+you\s*)?[:;—–]",
    ),
    _phrase(("only just simply",), r"\b(?:only|just|simply)\s+(?:answer|reply|respond)\s+(?:with|that)\b"),
    _phrase(
        ("answer answers reply response output",),
        rf"\b(?:your|the|any|every|all)\s+(?:answers?|reply|response|output)\s+{MUST}\s+(?:be|say|read|state|claim)\s+(?:that\b|only\b|just\b|[\"“'‘:])",
    ),
    _phrase(
        ("ask asks inquire inquires query", "told informed assured"),
        r"\b(?:users?|readers?|anyone|everyone|whoever|askers?|people)\s+(?:who\s+)?(?:asks?|inquires?|query)\b[^.\n]{0,60}\b"
        r"(?:must|should|shall|is\s+to|are\s+to)\s+be\s+(?:told|informed|assured)\b",
    ),
    _phrase(
        ("task job role instructions instruction goal objective",),
        r"\byour\s+(?:new\s+|real\s+|only\s+)?(?:task|job|role|instructions?|goal|objective)\s+(?:is|are|has|have|was|now)\b",
    ),
    _phrase(
        ("answer reply response output",),
        r"\b(?:no|any)\s+(?:answer|reply|response|output)\s+(?:other\s+than|except|but\s+[\"“'‘])",
    ),
    # Cite this, and nothing else.
    _phrase(
        ("only",),
        rf"\bonly\s+{_THIS}\s+{_PIECE}\s+(?:counts|matters|applies|is\s+(?:valid|true|correct|reliable|to\s+be))\b",
    ),
    _phrase(
        ("this present current", "only sole one"),
        rf"\b{_THIS}\s+(?:passage|fragment|snippet|note|page|entry|excerpt|paragraph|memo|bulletin|record)\s+is\s+the\s+"
        r"(?:only|sole|one)\s+(?:\w+\s+)?(?:trustworthy|valid|reliable|correct|authoritative|admissible|permitted|true|credible|"
        r"evidence|citation|reference)\b",
    ),
    _phrase(
        ("only alone sole solely exclusively exclusive single just", "this present current"),
        rf"\b{_USE}\s+(?:(?!that\b)\w+\s+)?{_ONLY}\s+(?:(?!that\b)\w+\s+)?{_THIS}\s+(?:\w+\s+)?{_PIECE}\b",
    ),
    _phrase(
        ("only",),
        rf"(?:^|[.!?:;]\s+)only\s+{_THIS}\s+(?:\w+\s+)?{_PIECE}\s+(?:{MUST}|may|can)\s+be\s+(?:cited|quoted|used|trusted)\b",
    ),
    _phrase(
        ("only alone sole solely exclusively exclusive single just", "citation reference"),
        rf"\b(?:your|the)\s+{_ONLY}\s+(?:(?:permitted|allowed|valid|admissible|acceptable|trustworthy)\s+)?(?:citation|reference)\b"
        rf"[^.\n]{{0,25}}\b(?:{MUST}|is|be|to)\b[^.\n]{{0,15}}\b{_THIS}\b",
    ),
    _phrase(
        ("your",),
        rf"\byour\s+(?:{_ONLY}|final|entire|whole|complete)\s+(?:\w+\s+)?(?:citation|reference|source|evidence|answer|reply|response|output|support)\b",
    ),
    _phrase(
        ("this present current", "only alone sole exclusive single one"),
        rf"\b{_THIS}\s+(?:\w+\s+)?(?:{_PIECE}|one)\s+(?:as|{MUST}\s+be(?:\s+given\s+as)?)\s+(?:your\s+|the\s+)(?:{_ONLY}|one)\s+(?:and\s+only\s+)?"
        r"(?:\w+\s+)?(?:citation|reference|source|evidence|support|authority)\b",
    ),
    _phrase(
        ("this present current", "be"),
        rf"\b{_THIS}\s+{_PIECE}\s+{MUST}\s+(?:always\s+|only\s+)?be\s+(?:the\s+{_ONLY}|(?:cited|quoted|used|trusted|believed|referenced)\s+"
        r"(?:alone|only|exclusively|instead|first|and\s+no))\b",
    ),
    # What was asked does not matter.
    _phrase(
        ("regardless irrespective independently independent matter whatever",),
        r"\b(?:regardless|irrespective|independent(?:ly)?)\s+of\s+(?:what\s+(?:\w+\s+){0,3}(?:asked|says?|said)|(?:the|any|every|all)\s+(?:\w+\s+)?"
        r"(?:question|query|prompt|passages?|fragments?|snippets?|instructions?)\b)|\bno\s+matter\s+(?:what|how|which)\s+(?:\w+\s+){0,4}?"
        r"(?:ask(?:ed|s)?|questions?|query|passages?|prompt|sources?\s+say)\b|\bwhatever\s+(?:(?:the\s+)?(?:question|query)|(?:is|was)\s+asked|"
        r"others?\s+(?:\w+\s+)?say)\b",
    ),
)
# Of these, two.
WEAK_ORDERS = (
    _order(_TELL_WORDS, "n", rf"{_TELL}\s+(?:\w+\s+)?(?:that|only|with)\b"),
    _order(_TELL_WORDS, "s", rf"{_TELL}\s+(?:\w+\s+){{0,4}}?(?:that|as|safe|harmless)\b"),
    _order(_CITE_WORDS, "sn", rf"{_CITE}\s+(?:\w+\s+){{0,3}}?(?:{_PIECE}|{_PIECES}|citations?|references?|evidence)\b"),
    _order(
        _set("do don't don’t never refrain avoid"),
        "sn",
        r"(?!do\s+not\s+(?:mention|cite))(?:do\s+not|don['’]?t|never|refrain|avoid)\s+\w+",
    ),
    _order(_DROP_WORDS, "sn", rf"{_DROP}\b"),
)
WEAK_PHRASES = (
    _phrase(
        ("whatever anything everything", "you"),
        r"\b(?:whatever|anything|everything)\s+(?:else\s+)?(?:that\s+)?you\s+(?:have|were|are|may|read|see|find)\b",
    ),
    _phrase(("answer",), r"\bthe\s+(?:\w+\s+)?answer\s+is\s+(?:that|always|simply|[\"“:])"),
    _phrase(("other",), rf"\b{_CITE}\s+(?:\w+\s+){{0,2}}?other\s+(?:\w+\s+)?(?:{_PIECES}|{_PIECE})\b"),
    _phrase(
        ("only alone sole solely exclusively exclusive single just nothing no", "this present current"),
        rf"\b{_THIS}\s+(?:\w+\s+)?{_PIECE}\b[^.\n]{{0,30}}\b(?:{_ONLY}|nothing\s+else|no\s+other)\b|\b(?:{_ONLY}|nothing\s+but|no\s+other(?:\s+\w+)?"
        rf"\s+than)\s+(?:\w+\s+){{0,2}}?{_THIS}\s+(?:\w+\s+)?{_PIECE}\b",
    ),
    _phrase(
        ("your",),
        r"\byour\s+(?:\w+\s+)?(?:answers?|reply|replies|response|output|citations?|references?|sources?|summary|conclusion)\b",
    ),
    _phrase(
        (
            "assistant assistants ai llm llms chatbot chatbots model models reader readers system systems agent agents users user",
        ),
        rf"\b(?:to|for)\s+(?:the|any|every|all|each)\s+(?:\w+\s+(?:or|and)\s+)?{_ANYONE}\b|\b{_MACHINE}\b",
    ),
    _phrase(
        ("nothing no without",),
        r"\b(?:nothing\s+(?:else|more)|no\s+explanation|without\s+(?:further\s+|any\s+)?(?:explanation|citations?|sources?|references?|comment|citing))\b",
    ),
    _phrase(
        ("when before while answer reply question",),
        r"\b(?:when|before|while)\s+(?:you\s+)?(?:answer(?:ing)?|reply(?:ing)?|respond(?:ing)?|summari[sz](?:e|ing)|cit(?:e|ing)|(?:writ|giv|compos|prepar|generat|produc|form)ing\s+(?:the|your|an|any)\s+(?:answer|reply|response|summary))\b|"
        r"\b(?:the|any|every)\s+(?:answer|reply|question)\s+(?:must|should|shall|has\s+to|is\s+to)\b",
    ),
    _phrase(
        ("be",),
        rf"\b{MUST}\s+be\s+(?:answered|cited|quoted|ignored|disregarded|trusted|believed|(?:reported|described)\s+as)\b",
    ),
    _phrase(
        ("instruction instructions directive directives answer reply response citation",),
        r"\b(?:instructions?|directives?)\s+(?:to|for)\s+(?!the\b|use\b)|\b(?:correct|right|only|expected|desired|approved|official)\s+(?:answer|reply|response|citation)\b",
    ),
)
