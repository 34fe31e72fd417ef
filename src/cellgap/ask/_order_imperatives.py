"""Orders as imperatives: they stand at the start of a clause, or after "must"."""
# ruff: noqa: RUF001, patterns read better whole, and people type these quotes and dashes

from cellgap.ask._order_words import (
    CITE,
    CITE_WORDS,
    DROP,
    DROP_WORDS,
    NOT_WORDS,
    ONLY,
    PIECE,
    PIECES,
    SAY,
    SAY_WORDS,
    TELL,
    TELL_WORDS,
    THIS,
    TO_WHOM,
    USE,
    USE_WORDS,
    order,
    word_set,
)

_ONE_WORD = (
    r"(?:with\s+)?(?:only\s+|just\s+|exactly\s+|nothing\s+but\s+|solely\s+)?(?:with\s+)?(?:only\s+|just\s+)?the\s+"
    r"(?:(?:single|exact|following|one)\s+)*(?:words?|phrase|sentence)\b"
)
_NEGATED = (
    r"(?:mention|cit|quot|us|list|consult|refer|reveal|disclos|consider|rely|look|trust|includ|show|report|discuss|nam|"
    r"read|believ|acknowledg|talk|process|analy[sz]|continu)(?:e|ing|ying|ed)?\b"
)
STRONG_ORDERS = (
    order(
        DROP_WORDS,
        "snm",
        rf"{DROP}\b[^.\n]{{0,40}}?\b(?:(?:other|previous|prior|earlier|preceding|above|remaining|following|given|"
        rf"retrieved|provided)\s+(?:\w+\s+)?(?:{PIECES}|{PIECE}|instructions?|prompts?|directions?|guidelines?|guidance)"
        rf"|(?:all|any|every|those|these|your|the)\s+(?:passages|fragments|snippets|excerpts|sources|documents|"
        r"instructions?|prompts?|question|context|citations)|the\s+above|rest\s+of\s+the\s+(?:passages|sources|documents))\b",
    ),
    order(
        word_set("ignore disregard forget"), "sm", r"\w+\s+(?:everything|anything|all\s+else|all\s+of|others?|what)\b"
    ),
    order(
        SAY_WORDS,
        "s",
        rf"{SAY}\s+(?:(?:only|just|simply|always|instead)\s+|to\s+(?:{TO_WHOM}\s+)?\w+\s+)?(?-i:that|THAT)\b",
    ),
    order(
        word_set("answer reply respond claim insist pretend"),
        "m",
        r"\w+\s+that\s+(?:the|it|this|no|all|there|nothing|every|\w+\s+(?:is|are|was|has|have))\b",
    ),
    order(TELL_WORDS - {"say"}, "snm", rf"{TELL}\s+(?:with\s+)?nothing\s+(?:but|except|other\s+than)\b"),
    order(word_set("suppress reject exclude withhold"), "s", rf"\w+\b[^.\n]{{0,40}}?\bother\s+(?:\w+\s+)?{PIECES}\b"),
    order(word_set("quote cite"), "sn", r"\w+\s+(?:this\s+one|me)\b"),
    order(word_set("abandon refuse reject drop"), "s", r"\w+\s+(?:the|this|every|any)\s+(?:\w+\s+)?question\b"),
    order(
        word_set("hide remove drop omit suppress strip withhold leave"),
        "sn",
        r"(?:\w+|leave\s+out)\s+(?:the|all|any|your)\s+(?:\w+\s+)?(?:citations?|sources|references)\b(?!\s+of\b)",
    ),
    order(
        word_set("let make"),
        "s",
        r"\w+\s+(?:all|every|the|any|your)\s+(?:answers?|reply|replies|responses?)\s+(?:be|name|say|state|cite|read|end)\b",
    ),
    order(
        word_set("give return provide name cite"),
        "s",
        r"\w+\s+(?:just\s+|only\s+)?(?:one|a\s+single)\s+(?:answer|reply|source|citation|reference)\s+only\b",
    ),
    order(
        TELL_WORDS | word_set("give put use"),
        "sn",
        r"\w+\s+[^.\n]{1,50}\bas\s+(?:the|your)\s+(?:final\s+|only\s+|whole\s+)?(?:answer|reply|response)\b",
    ),
    order(word_set("attribute credit ascribe link refer"), "s", rf"\w+\s+(?:\w+\s+){{1,3}}to\s+{THIS}\s+{PIECE}\b"),
    order(
        word_set("trust prefer believe follow use cite quote"),
        "s",
        rf"\w+\s+{THIS}\s+{PIECE}\s+(?:over|above|before|instead\s+of|rather\s+than|not)\b",
    ),
    order(word_set("summarize summarise"), "s", r"\w+\s+(?:everything|all|this|these|the\s+\w+)\s+(?:\w+\s+)?as\b"),
    order(word_set("do act"), "s", rf"\w+\s+(?:exactly\s+)?as\s+{THIS}\s+{PIECE}\b"),
    order(
        word_set("instead"),
        "s",
        r"instead\s+of\s+(?:answering\s+)?the\s+(?:\w+\s+)?question,?\s+(?:describe|write|say|tell|print|output|answer|reply|"
        r"give|talk|return|explain)\b",
    ),
    order(
        word_set("make ensure"),
        "sn",
        r"(?:make\s+sure|ensure)\s+(?:that\s+)?(?:your|the|any|every)\s+(?:answer|reply|response|output|summary)\s+"
        r"(?:contains?|says?|states?|is|mentions?|cites?|includes?|does|reads?|ends?|begins?)\b",
    ),
    order(
        word_set("tell inform assure convince advise"),
        "snm",
        rf"\w+\s+(?:{TO_WHOM}\s+)?(?:users?|readers?|askers?|person|people|questioners?|everyone|anyone|them|researchers?|"
        r"customers?|clients?|patients?|whoever\s+\w+)\b[^.\n]{0,40}\bthat\b",
    ),
    order(word_set("answer reply respond output say write"), "snm", rf"\w+\s+(?:\w+\s+){{0,3}}?{_ONE_WORD}"),
    order(
        word_set("answer reply respond"),
        "s",
        r"\w+\s+(?:\w+\s+){0,2}?(?:with\b|only\b|exactly\b|nothing\b|[\"“'‘]|yes\b|no\b|in\s+one\s+word)",
    ),
    order(word_set("output"), "s", r"\w+\s+(?:only|exactly|nothing|none|the\s+(?:string|text|token|letters?))\b"),
    order(
        USE_WORDS,
        "snm",
        rf"{USE}\s+{THIS}\s+(?:\w+\s+)?{PIECE}\b[^.\n]{{0,30}}\b(?:{ONLY}|nothing\s+else|no\s+other|and\s+no\s+others?|"
        r"as\s+(?:your|the|evidence|proof)|for\s+(?:support|evidence|proof))\b",
    ),
    order(word_set("cite"), "sn", rf"cite\s+{THIS}\s+(?:\w+\s+)?{PIECE}\b(?!\s+as\b)"),
    order(
        word_set("cite quote reference"), "snm", r"\w+\s+(?:only|no\b|nothing|none|nobody|solely|exclusively|neither)"
    ),
    order(
        USE_WORDS,
        "sm",
        rf"{USE}\s+(?:no|zero)\s+(?:(?:other|further|additional|more)\s+)?(?:citations?|references?|sources?|evidence|"
        r"passages?|fragments?|footnotes?|documents?)\b",
    ),
    order(
        USE_WORDS,
        "n",
        rf"{USE}\s+no\s+(?:other|further|additional|more)\s+(?:citations?|references?|sources?|evidence|passages?|fragments?|notes?)\b",
    ),
    order(
        word_set("treat regard accept take consider view present"),
        "s",
        rf"\w+\s+{THIS}\s+(?:\w+\s+)?{PIECE}\s+(?:as\s+)?(?:(?:the|an?|being)\s+)?(?:\w+\s+)?(?:authoritative|authority|"
        r"definitive|only|sole|true|truth|facts?|correct|final|reliable|trusted|verified|established|official)\b",
    ),
    order(
        NOT_WORDS,
        "sm",
        rf"(?:do\s+not|don['’]?t|never|under\s+no\s+circumstances|refrain\s+from|avoid|not)\s+(?:\w+\s+){{0,2}}?{_NEGATED}"
        r"[^.\n]{0,40}\b(?:other|any|all|further|remaining|rest|else|elsewhere|additional|different|these|this|those|the|your)"
        rf"\s+(?:of\s+the\s+)?(?:other\s+|remaining\s+)?(?:\w+\s+)?(?:{PIECES}|{PIECE}|citations?|instructions?|prompts?|orders?)\b",
    ),
    order(NOT_WORDS, "s", r"(?:do\s+not|don['’]?t|never)\s+(?:answer|reply|respond|say|tell|cite)\b"),
    order(word_set("refuse decline"), "s", r"\w+\s+to\s+(?:answer|reply|respond|comment|cite)\b"),
)
# Of these, two.
WEAK_ORDERS = (
    order(TELL_WORDS, "n", rf"{TELL}\s+(?:\w+\s+)?(?:that|only|with)\b"),
    order(TELL_WORDS, "s", rf"{TELL}\s+(?:\w+\s+){{0,4}}?(?:that|as|safe|harmless)\b"),
    order(CITE_WORDS, "sn", rf"{CITE}\s+(?:\w+\s+){{0,3}}?(?:{PIECE}|{PIECES}|citations?|references?|evidence)\b"),
    order(
        word_set("do don't don’t never refrain avoid"),
        "sn",
        r"(?!do\s+not\s+(?:mention|cite))(?:do\s+not|don['’]?t|never|refrain|avoid)\s+\w+",
    ),
    order(DROP_WORDS, "sn", rf"{DROP}\b"),
)
