"""Orders as turns of phrase, wherever they stand."""
# ruff: noqa: E501, RUF001, patterns read better whole, and people type these quotes and dashes

from cellgap.ask._order_words import (
    ANYONE,
    CITE,
    DROP,
    MACHINE,
    MUST,
    ONLY,
    PIECE,
    PIECES,
    TELL,
    THIS,
    TO_WHOM,
    USE,
    phrase,
)

STRONG_PHRASES = (
    # Marks of turns and prompts.
    phrase(
        (), r"<\|?\s*/?\s*(?:im_start|im_end|system|assistant|user|endoftext|instructions?)\b|\[/?INST\]|<<\s*/?SYS"
    ),
    phrase(
        ("system assistant user developer instruction instructions",),
        r"^\W*(?:system|assistant|developer)\s*(?:prompt|message)?\s*:|^\W{0,2}user\s*:|\bsystem\s+prompts?\b"
        r"|^\W*#+\s*instructions?\b",
    ),
    # The rest does not count.
    phrase(
        ("ignore disregard forget override bypass discard dismiss skip overlook",),
        rf"\b{DROP}\s+(?:(?:all|any|every|the|your|other|these|those)\s+){{0,2}}(?:previous|prior|earlier|preceding|above|"
        r"foregoing|system|original|other)\s+(?:\w+\s+)?(?:instructions?|prompts?|directions?|passages?|fragments?|"
        r"snippets?|messages?)\b",
    ),
    phrase(
        (
            "passage passages fragment fragments snippet snippets prompt prompts instruction instructions excerpt excerpts",
        ),
        r"\b(?:supersede|override|overrule|outrank|replace|cancel|invalidate|void|trump|take\s+precedence\s+over|"
        r"prevail\s+over)(?:e?s|d|ed)?\b[^.\n]{0,30}\b(?:all|any|every|other|previous|earlier|remaining)\s+(?:\w+\s+)?"
        r"(?:passages?|fragments?|snippets?|prompts?|instructions?|excerpts?)\b",
    ),
    phrase(
        ("other others remaining",),
        r"\b(?:(?:all|every|any|the)\s+(?:of\s+the\s+)?(?:other|remaining)\s+(?:\w+\s+)?(?:passages?|fragments?|snippets?|"
        r"excerpts?|entries|notes?|pages?|documents?|sources?|texts?|records?)|(?<!\w\s)others)\s+(?:is|are|were|was|may|must|should|can|"
        r"have|has|contain)\s+(?:all\s+|also\s+|to\s+)?(?:not\s+)?(?:be\s+|been\s+)?(?:left\s+out|ignored|disregarded|discarded|"
        r"skipped|cited|quoted|used|consulted|trusted|mentioned|retracted|fabricated|fake|forged|obsolete|out\s+of\s+date|"
        r"outdated|wrong|void|errors?|forger(?:y|ies)|fakes?|fabrications?|lies|hoax(?:es)?|inventions?)\b",
    ),
    phrase(
        ("no",),
        rf"\bno\s+other\s+(?:\w+\s+)?{PIECE}s?\s+(?:may|must|should|shall|can|needs?\s+to|is\s+to|are\s+to)\s+(?:not\s+)?be\b",
    ),
    # With an address.
    phrase(
        ("instruction instructions directive directives command commands prompt prompts",),
        rf"\b(?:instructions?|directives?|commands?|prompts?)\s+(?:to|for)\s+(?:{TO_WHOM}\s+)?(?:\w+\s+(?:or|and)\s+)?{MACHINE}\b",
    ),
    phrase(
        (
            "instruction instructions directive directives command commands order orders notice message messages note notes "
            "request attention advice guidance memo reminder warning hint hints requirement requirements",
        ),
        r"\b(?:instructions?|directives?|commands?|orders?|notice|messages?|notes?|request|attention|advice|guidance|memo|"
        rf"reminder|warning|hints?|requirements?)\s*(?:to|for|,)\s*(?:{TO_WHOM}\s+)?(?:\w+\s+(?:or|and)\s+)?(?:\w+\s+)?{ANYONE}"
        r"(?:\s+(?:or|and)\s+\w+)?(?:\s+(?:who|that|which)\s+\w+(?:\s+\w+){0,4})?\s*[:;—–-]",
    ),
    phrase(
        ("attention dear hey hello hi to note for",),
        rf"(?:^|[.!?]\s+|\n)\W*(?:attention|dear|hey|hello|hi|to|note\s+to|for)\s*,?\s*(?:{TO_WHOM}\s+)?{MACHINE}\s*(?:or\s+\w+\s*)?"
        r"(?:who\s+[^.:;,\n]{0,40}\s*)?[:;,!—–-]",
    ),
    phrase(
        (
            "assistant assistants ai ais llm llms chatbot chatbots copilot copilots gpt gpts model models system systems agent "
            "agents tool tools engine engines chat",
            "must should shall have has need needs ought is are",
        ),
        rf"\b{MACHINE}\b[^.\n]{{0,40}}\b{MUST}\b[^.\n]{{0,40}}\b(?:claim|pretend|cite|quote|withhold|{DROP}|"
        r"(?:answer|reply|respond)\s+(?:in|by|every|any|all|yes|no|[\"“:])|"
        rf"{TELL}\s+(?:that|only|with|this|the\s+(?:words?|user)))\b",
    ),
    phrase(
        (
            "model models reader readers agent agents bot bots system systems summarizer summarizers summariser summarisers "
            "answerer answerers annotator annotators anyone everyone whoever",
            "must should shall have has need needs ought is are",
        ),
        r"\b(?:models?|readers?|agents?|bots?|systems?|summari[sz]ers?|answerers?|annotators?|anyone|everyone|whoever)\b"
        rf"[^.\n]{{0,50}}\b{MUST}\b[^.\n]{{0,25}}\b(?:{TELL}\s+(?:that|only|with)|cite\s+(?:only|this|no)|"
        rf"{DROP}\s+(?:all|any|every|the\s+other|other))\b",
    ),
    phrase(
        ("you",),
        rf"\byou\s+(?:{MUST}|will)\s+(?:\w+\s+){{0,2}}?(?:{TELL}\s+(?:(?:only|just)\s+|to\s+\w+\s+)?(?:that|with|only|exactly|"
        r"[\"“'‘:]|(?:the|any|every)\s+(?:word|user|reader|question))|(?:cite|quote|reference|rely\s+on|trust)\s+(?:only|this|no|nothing|none|"
        r"exclusively|solely|the\s+present)\b)"
        r"|\byou\s+are\s+now\s+(?:a|an|in|no\s+longer|free|the|to)\b|\bfrom\s+now\s+on,?\s+you\b|\bpretend\s+(?:that\s+you|you\s+are)\b",
    ),
    phrase(
        ("asked ask asks queried query queries prompted questioned inquires inquire wants",),
        r"\b(?:when|if|whenever|should)\s+(?:(?:you\s+(?:are|be|get)|you['’]re|ever|anyone|someone|somebody|anybody|an?\s+users?|"
        r"the\s+users?|users|they)\s+)?(?:ask(?:ed|s)?|quer(?:ied|ies)|prompted|questioned|inquires?|wants?\s+to\s+know)\b[^.\n]{0,80}?"
        rf"[,;:]\s+(?:(?:please|just|only|simply|always|then|you\s+(?:must|should|shall|will))\s+)*{TELL}\s+(?:that|with|only|[\"“'‘:]|this|no|yes|it|the)",
    ),
    phrase(
        ("task instruction instructions objective order orders",),
        r"\b(?:new|updated|revised|changed|real|actual)\s+(?:task|instructions?|objective|orders?)\s*(?:for\s+you\s*)?[:;—–]",
    ),
    phrase(("only just simply",), r"\b(?:only|just|simply)\s+(?:answer|reply|respond)\s+(?:with|that)\b"),
    phrase(
        ("answer answers reply response output",),
        rf"\b(?:your|the|any|every|all)\s+(?:answers?|reply|response|output)\s+{MUST}\s+(?:be|say|read|state|claim)\s+(?:that\b|only\b|just\b|[\"“'‘:])",
    ),
    phrase(
        ("ask asks inquire inquires query", "told informed assured"),
        r"\b(?:users?|readers?|anyone|everyone|whoever|askers?|people)\s+(?:who\s+)?(?:asks?|inquires?|query)\b[^.\n]{0,60}\b"
        r"(?:must|should|shall|is\s+to|are\s+to)\s+be\s+(?:told|informed|assured)\b",
    ),
    phrase(
        ("task job role instructions instruction goal objective",),
        r"\byour\s+(?:new\s+|real\s+|only\s+)?(?:task|job|role|instructions?|goal|objective)\s+(?:is|are|has|have|was|now)\b",
    ),
    phrase(
        ("answer reply response output",),
        r"\b(?:no|any)\s+(?:answer|reply|response|output)\s+(?:other\s+than|except|but\s+[\"“'‘])",
    ),
    phrase(
        ("forbidden prohibited allowed permitted",),
        rf"\b(?:cit(?:e|ing|ations?)|quot(?:e|ing)|mention(?:ing)?|references?|use)\s+(?:\w+\s+){{0,2}}?(?:other\s+)?{PIECES}\b[^.\n]{{0,20}}\b"
        r"(?:(?:not|never)\s+(?:allowed|permitted)|forbidden|prohibited)\b"
        rf"|\b(?:forbidden|prohibited|not\s+(?:allowed|permitted))\s+to\s+(?:{CITE}|use|answer|reply)\b",
    ),
    phrase(
        ("permitted allowed acceptable admissible",),
        r"\b(?:only|sole)\s+(?:permitted|allowed|acceptable|admissible)\s+(?:answer|reply|response|source|citation)\b",
    ),
    phrase(
        ("reading processing seeing summarising summarizing answering", "this these"),
        rf"\b(?:{ANYONE}|anyone|everyone|whoever)\s+(?:that\s+is\s+|who\s+is\s+|is\s+)?(?:reading|processing|seeing|summari[sz]ing|answering\s+from)\s+"
        r"(?:this|these)\b",
    ),
    # Cite this, and nothing else.
    phrase(
        ("only",),
        rf"\bonly\s+{THIS}\s+{PIECE}\s+(?:counts|matters|applies|is\s+(?:valid|true|correct|reliable|to\s+be))\b",
    ),
    phrase(
        ("this present current", "only sole one"),
        rf"\b{THIS}\s+(?:passage|fragment|snippet|note|page|entry|excerpt|paragraph|memo|bulletin|record)\s+is\s+the\s+"
        r"(?:only|sole|one)\s+(?:\w+\s+)?(?:trustworthy|valid|reliable|correct|authoritative|admissible|permitted|true|credible|"
        r"evidence|citation|reference)\b",
    ),
    phrase(
        ("only alone sole solely exclusively exclusive single just", "this present current"),
        rf"\b{USE}\s+(?:(?!that\b)\w+\s+)?{ONLY}\s+(?:(?!that\b)\w+\s+)?{THIS}\s+(?:\w+\s+)?{PIECE}\b",
    ),
    phrase(
        ("only",),
        rf"(?:^|[.!?:;]\s+)only\s+{THIS}\s+(?:\w+\s+)?{PIECE}\s+(?:{MUST}|may|can)\s+be\s+(?:cited|quoted|used|trusted)\b",
    ),
    phrase(
        ("only alone sole solely exclusively exclusive single just", "citation reference"),
        rf"\b(?:your|the)\s+{ONLY}\s+(?:(?:permitted|allowed|valid|admissible|acceptable|trustworthy)\s+)?(?:citation|reference)\b"
        rf"[^.\n]{{0,25}}\b(?:{MUST}|is|be|to)\b[^.\n]{{0,15}}\b{THIS}\b",
    ),
    phrase(
        ("your",),
        rf"\byour\s+(?:{ONLY}|final|entire|whole|complete)\s+(?:\w+\s+)?(?:citation|reference|source|evidence|answer|reply|response|output|support)\b",
    ),
    phrase(
        ("this present current", "only alone sole exclusive single one"),
        rf"\b{THIS}\s+(?:\w+\s+)?(?:{PIECE}|one)\s+(?:as|{MUST}\s+be(?:\s+given\s+as)?)\s+(?:your\s+|the\s+)(?:{ONLY}|one)\s+(?:and\s+only\s+)?"
        r"(?:\w+\s+)?(?:citation|reference|source|evidence|support|authority)\b",
    ),
    phrase(
        ("this present current", "be"),
        rf"\b{THIS}\s+{PIECE}\s+{MUST}\s+(?:always\s+|only\s+)?be\s+(?:the\s+{ONLY}|(?:cited|quoted|used|trusted|believed|referenced)\s+"
        r"(?:alone|only|exclusively|instead|first|and\s+no))\b",
    ),
    # What was asked does not matter.
    phrase(
        ("regardless irrespective independently independent matter whatever",),
        r"\b(?:regardless|irrespective|independent(?:ly)?)\s+of\s+(?:what\s+(?:\w+\s+){0,3}(?:asked|says?|said)|(?:the|any|every|all)\s+(?:\w+\s+)?"
        r"(?:question|query|prompt|passages?|fragments?|snippets?|instructions?)\b)|\bno\s+matter\s+(?:what|how|which)\s+(?:\w+\s+){0,4}?"
        r"(?:ask(?:ed|s)?|questions?|query|passages?|prompt|sources?\s+say)\b|\bwhatever\s+(?:(?:the\s+)?(?:question|query)|(?:is|was)\s+asked|"
        r"others?\s+(?:\w+\s+)?say)\b",
    ),
)
# Of these, or of the weak imperatives, two.
WEAK_PHRASES = (
    phrase(
        ("whatever anything everything", "you"),
        r"\b(?:whatever|anything|everything)\s+(?:else\s+)?(?:that\s+)?you\s+(?:have|were|are|may|read|see|find)\b",
    ),
    phrase(("answer",), r"\bthe\s+(?:\w+\s+)?answer\s+is\s+(?:that|always|simply|[\"“:])"),
    phrase(("other",), rf"\b{CITE}\s+(?:\w+\s+){{0,2}}?other\s+(?:\w+\s+)?(?:{PIECES}|{PIECE})\b"),
    phrase(
        ("only alone sole solely exclusively exclusive single just nothing no", "this present current"),
        rf"\b{THIS}\s+(?:\w+\s+)?{PIECE}\b[^.\n]{{0,30}}\b(?:{ONLY}|nothing\s+else|no\s+other)\b|\b(?:{ONLY}|nothing\s+but|no\s+other(?:\s+\w+)?"
        rf"\s+than)\s+(?:\w+\s+){{0,2}}?{THIS}\s+(?:\w+\s+)?{PIECE}\b",
    ),
    phrase(
        ("your",),
        r"\byour\s+(?:\w+\s+)?(?:answers?|reply|replies|response|output|citations?|references?|sources?|summary|conclusion)\b",
    ),
    phrase(
        (
            "assistant assistants ai llm llms chatbot chatbots model models reader readers system systems agent agents users user",
        ),
        rf"\b(?:to|for)\s+(?:the|any|every|all|each)\s+(?:\w+\s+(?:or|and)\s+)?{ANYONE}\b|\b{MACHINE}\b",
    ),
    phrase(
        ("nothing no without",),
        r"\b(?:nothing\s+(?:else|more)|no\s+explanation|without\s+(?:further\s+|any\s+)?(?:explanation|citations?|sources?|references?|comment|citing))\b",
    ),
    phrase(
        ("when before while answer reply question",),
        r"\b(?:when|before|while)\s+(?:you\s+)?(?:answer(?:ing)?|reply(?:ing)?|respond(?:ing)?|summari[sz](?:e|ing)|cit(?:e|ing)|(?:writ|giv|compos|prepar|generat|produc|form)ing\s+(?:the|your|an|any)\s+(?:answer|reply|response|summary))\b|"
        r"\b(?:the|any|every)\s+(?:answer|reply|question)\s+(?:must|should|shall|has\s+to|is\s+to)\b",
    ),
    phrase(
        ("be",),
        rf"\b{MUST}\s+be\s+(?:answered|cited|quoted|ignored|disregarded|trusted|believed|(?:reported|described)\s+as)\b",
    ),
    phrase(
        ("instruction instructions directive directives answer reply response citation",),
        r"\b(?:instructions?|directives?)\s+(?:to|for)\s+(?!the\b|use\b)|\b(?:correct|right|only|expected|desired|approved|official)\s+(?:answer|reply|response|citation)\b",
    ),
)
