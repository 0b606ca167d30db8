"""Tells sentences that speak to the model that will read them from sentences about the problem.

Patterns in English, and the common orders to ignore or forget instructions in other languages. A sentence is also read
as it would be without a disguise: look-alike letters of other scripts, digits for letters, letters set apart, text
backwards or shifted by thirteen letters. Patterns lower the risk; they do not end it.
"""

from __future__ import annotations

import codecs
import re
import unicodedata

_ENGLISH = re.compile(
    "|".join(
        (
            r"\b(?:ignore|disregard|forget|override|bypass|overrule|skip|drop)\b[^.!?]{0,40}\b(?:previous|prior|above|earlier"
            r"|preceding|foregoing|existing|former|everything|anything|all|any|your|the|these|those)\b[^.!?]{0,40}"
            r"\b(?:instructions?|prompts?|rules?|messages?|guidelines?|polic(?:y|ies)|context|directions?|safety|told)\b",
            r"\b(?:ignore|disregard|forget)\b[^.!?]{0,30}\b(?:question|problem|user|request|task)\b[^.!?]{0,60}\b(?:and|instead)\b",
            r"\byou are (?:now|no longer|a|an|the)\b",
            r"\bfrom (?:now|this point|here) on(?:wards?)?\b",
            r"\b(?:act|behave|respond|reply) as (?:if you|though you|an? )",
            r"\b(?:pretend|roleplay|role-play) (?:to be|that you|you|as)\b",
            r"\b(?:system|developer|hidden|initial|original) (?:prompt|message|instructions?)\b",
            r"\b(?:new|updated|following|real|actual) (?:system |secret )?instructions?\b",
            r"(?<!\[)\b(?:reveal|disclose|leak|exfiltrate|print|output|repeat|show|send|forward|upload|email|post)\b[^.!?]{0,60}"
            r"(?:(?<!\[)\b(?:prompts?|instructions?|passwords?|credentials?|secrets?|api[ _-]?keys?|conversation"
            r"|environment variables?)\b|\[link\]|\[email\]|\[secret\])",
            r"\b(?:do not|don't|never) (?:tell|inform|mention|reveal|warn|alert)\b[^.!?]{0,40}"
            r"\b(?:user|anyone|human|this|them)\b",
            r"\b(?:jailbreak|developer mode|dan mode|god mode|do anything now)\b",
            r"\b(?:call|invoke|execute|run) (?:the |a |this )?(?:tool|function|command|shell|script|plugin)\b",
            r"\buse (?:the |a |this )?(?:tool|command|shell|script|plugin)\b",
            r"\b(?:language model|ai assistant|ai model|chatbot|chatgpt)\b",
            r"\balways (?:answer|respond|reply|say|output|choose|pick|end|start|begin|recommend"
            r"|append|include|mention)\b",
            r"\b(?:answer|respond|reply) (?:only |always |every \w+ )?with\s+[\"'“‘]",
            r"\banswer (?:is|should be|must be|will be) always\b",
            r"\b(?:every|each|all) (?:of your )?(?:answers?|repl(?:y|ies)|responses?|outputs?)"
            r" (?:must|should|ha(?:s|ve) to|shall|will)\b",
            r"\bin (?:every|each|all) (?:of your )?(?:answers?|repl(?:y|ies)|responses?|outputs?)\b",
            r"\bregardless of (?:the |what )?(?:question|request|user|input|prompt)\b",
            r"\b(?:tell|inform|advise|instruct|convince|urge|persuade|warn) (?:the |every |all |any )?"
            r"(?:users?|readers?|customers?|clients?)\b",
            r"\b(?:visit|click|open|download|subscribe to|sign up|buy)\b[^.!?]{0,40}"
            r"(?:\[link\]|\b(?:web ?site|link|url|web ?page|attachment)\b)",
        )
    ),
    re.I,
)

_PAYLOAD = re.compile(
    r"\b(?i:say|state|print|output|append|mention|conclude|finish|end|begin|start|open|close|reply|respond|answer|write"
    r"|add|insert|include)\b[^.!?]{0,40}\b(?i:with|by|words?|phrase|sentence|string|saying|line"
    r"|token|marker|code ?word)\b"
    r"[^.!?]{0,20}?"
    r"(?:(?<![\w])[\"“‘'«](?!(?i:yes|no|true|false|none|unknown|[a-j]|the answer is[^\"”’'»]*)[\"”’'»,.])"
    r"[^\"”’'»]{2,80}[\"”’'»]"
    r"|\b(?!TRUE\b|FALSE\b|NONE\b|JSON\b|HTML\b|ASCII\b)[A-Z][A-Z0-9_-]{4,}\b)"
)
"""Asks for a text of its own choice in the answer; the usual words of an answer's form are let through."""

_ELSEWHERE = re.compile(
    r"(?:ignorier|missacht|vergiss|vergess|ignor[ae]|ignorez|oublie|olvid[ae]|dimentica|esquec|negeer|vergeet|zignoruj|zapomnij"
    r"|игнорир|проигнор|забуд|ігнору|gormezden|yoksay|unut|忽略|無視|无视|忘记|忘掉|忘れ|무시|잊어|تجاهل|अनदेखा|भूल)"
    r".{0,60}"
    r"(?:anweisung|instruktion|instru[ck]|consigne|istruzion|polece|инструкц|указани|правил|інструкц|talimat|指示|指令|命令|说明"
    r"|提示|규칙|지시|명령|تعليمات|निर्देश|regeln|regles|reglas|regole|regras)"
    r"|(?:anweisung|instru[ck]|istruzion|инструкц|указани|talimat|指示|指令|命令|지시|명령|निर्देश).{0,40}"
    r"(?:ignorier|missacht|vergess|gormezden|yoksay|unut|игнорир|无视|無視|忽略|忘れ|무시|잊어|अनदेखा|भूल)"
    r"|\bdu bist (?:jetzt|nun|ab sofort)\b|\btu es (?:maintenant|desormais)\b|\bahora eres\b|\bsei ora\b|\bты теперь\b"
    r"|你现在是|あなたは(?:今|これから)|넌 이제|당신은 이제",
    re.I | re.S,
)

_LOOK_ALIKE = str.maketrans(
    "аеорсухіјѕһԁɡӏԛԝьвнкмтАВЕКМНОРСТХІЈЅУαβεικνορτυχωɑıΑΒΕΖΗΙΚΜΝΟΡΤΥΧ",
    "aeopcyxijshdglqwbbhkmtABEKMHOPCTXIJSYabeiknoptuxwaiABEZHIKMNOPTYX",
)
_LEET = str.maketrans("013457@$", "oieastas")
_SPACED = re.compile(r"\b(?:[^\W\d_][ .\-_*]{1,2}){3,}[^\W\d_]\b")


_WORD = re.compile(r"[a-z]+")
_ENGLISH_SIGNS = frozenset(
    re.findall(
        r"\w+",
        """
        ignore disregard forget override bypass overrule skip drop you from act behave respond reply pretend
        roleplay role prompt prompts message instruction instructions password passwords credential credentials
        secret secrets api conversation environment link email tell inform mention reveal warn alert jailbreak
        developer dan god anything tool function command shell script plugin language ai chatbot chatgpt always
        answer answers reply replies response responses output outputs regardless advise instruct convince urge
        persuade visit click open download subscribe sign buy
        """,
    )
)
_PAYLOAD_SIGNS = frozenset(
    re.findall(
        r"\w+",
        """
        say state print output append mention conclude finish end begin start open close reply respond answer
        write add insert include
        """,
    )
)
_BY_WORDS = ((_ENGLISH, _ENGLISH_SIGNS), (_PAYLOAD, _PAYLOAD_SIGNS))
"""A pattern can only be found where one of its words is; looking for these first is several times as fast."""
_FOREIGN_STEMS = (
    "ignor", "missacht", "verg", "oublie", "olvid", "dimentica", "esquec", "neg", "zignor", "zapomni", "gormez",
    "yoksay", "unut", "anweis", "instru", "consign", "istruz", "polece", "talimat", "du", "tu", "ahora", "sei",
)  # fmt: skip


def addresses_model(text: str) -> bool:
    """Whether a text speaks to the model that will read it, instead of about the problem."""
    return any(_speaks(read) for read in _readings(text))


def _speaks(text: str) -> bool:
    words = set(_WORD.findall(text.casefold()))
    if any(pattern.search(text) is not None for pattern, signs in _BY_WORDS if not words.isdisjoint(signs)):
        return True
    foreign = not text.isascii() or any(word.startswith(_FOREIGN_STEMS) for word in words)
    return foreign and _ELSEWHERE.search(text) is not None


def _readings(text: str) -> list[str]:
    """The text, and what it says without each disguise that it may wear."""
    bare = "".join(c for c in unicodedata.normalize("NFD", text) if unicodedata.category(c) != "Mn")
    latin = bare.translate(_LOOK_ALIKE)
    joined = _SPACED.sub(lambda run: re.sub(r"[ .\-_*]", "", run.group()), latin)
    spelled = re.sub(r"[^\W_]*[013457@$][^\W_]*", _unleet, latin)
    return list(dict.fromkeys((text, bare, latin, joined, _respaced(latin), spelled, latin[::-1], _shifted(latin))))


def _unleet(word: re.Match[str]) -> str:
    """Digits for letters; a number, or a word with a number behind it, stays what it is."""
    text = word.group()
    return text if re.fullmatch(r"[\d@$]+|[^\W\d_]+\d+", text) else text.translate(_LEET)


def _respaced(text: str) -> str:
    """Letters set apart, with words told apart by wider gaps: `i g n o r e   a l l`."""
    return re.sub(r"(?<=\b\w)[ .\-_*](?=\w\b)", "", text)


def _shifted(text: str) -> str:
    return codecs.encode(text, "rot13")
