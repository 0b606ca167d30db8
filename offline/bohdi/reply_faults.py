"""What disqualifies a reply before anybody judges it: it refuses, it goes round in circles, it is in another script."""

from __future__ import annotations

import re
import unicodedata
from collections import Counter
from typing import Final

_OPENING_CHARS: Final = 160
_REFUSAL_CHARS: Final = 600
"""A longer text that begins like a refusal goes on to answer."""
_REFUSAL: Final = re.compile(
    r"\bi(?:\s+am|['’]m)?\s+(?:sorry|afraid)\b.{0,60}\b(?:can(?:['’]t|not| not)|unable|won't|not able|must)"
    r"|\b(?:i|we)\s+(?:can(?:['’]t|not| not)|won['’]t|will not|am unable to|am not able to|must decline)"
    r"\s+(?:to\s+)?(?:help|assist|answer|provide|comply|fulfil|do that|discuss|engage|create|write|continue|support)"
    r"|\bi\s+(?:must|have to)\s+(?:respectfully\s+)?(?:decline|refuse)\b|\bas an ai(?: language)? model\b.{0,40}\bcan"
    r"|\bagainst my (?:guidelines|programming|policy)|\bviolates? (?:my|our|the) (?:content |usage )?polic"
    r"|我(?:无法|不能|不可以)(?:提供|回答|协助|帮助|满足)|很抱歉[，,]?.{0,10}(?:无法|不能)|对不起[，,]?.{0,10}(?:无法|不能)"
    r"|申し訳(?:ありません|ございません).{0,30}(?:できません|お答え)|죄송(?:합니다|하지만).{0,30}(?:없습니다|어렵습니다)"
    r"|\bя не могу (?:помочь|ответить|предоставить|выполнить)|\bизвините,? но я не могу"
    r"|\blo siento,? (?:pero )?no puedo|\bno puedo (?:ayudar|responder|proporcionar)"
    r"|\bje (?:suis désolée?|regrette).{0,20}ne (?:peux|puis)"
    r"|\bes tut mir leid.{0,40}(?:kann|nicht)|\bich kann (?:ihnen |dir )?dabei (?:leider )?nicht helfen",
    re.I | re.S,
)
_LEAST_LOOP_CHARS: Final = 80
_LEAST_TURNS: Final = 4
_SCRIPT_SHARE: Final = 0.8
_ONE_SCRIPT: Final = {"HIRAGANA": "CJK", "KATAKANA": "CJK", "KATAKANA-HIRAGANA": "CJK", "FULLWIDTH": "LATIN"}


def without_thinking(text: str) -> str:
    """The reply without the thinking that some models put in front of it."""
    return re.sub(r"^.*</think(?:ing)?>", "", text, flags=re.S).strip()


def refuses(text: str) -> bool:
    """Whether the text declines to do what was asked."""
    text = text.strip()
    return len(text) <= _REFUSAL_CHARS and _REFUSAL.search(text[:_OPENING_CHARS]) is not None


def loops(text: str) -> bool:
    """Whether at least half of the text, up to its end, is one piece four times or more.

    Linear in the length: the border table of the reversed text gives the period of every ending.
    """
    backwards = text.rstrip()[::-1]
    least = max(_LEAST_LOOP_CHARS, len(backwards) // 2)
    if len(backwards) < least:
        return False
    borders = [0] * len(backwards)
    matched = 0
    for place in range(1, len(backwards)):
        while matched and backwards[place] != backwards[matched]:
            matched = borders[matched - 1]
        matched += backwards[place] == backwards[matched]
        borders[place] = matched
        length = place + 1
        if length >= least and length >= _LEAST_TURNS * (length - matched):
            return True
    return False


def script_of(text: str) -> str | None:
    """The script of four fifths of the letters (LATIN, CYRILLIC, CJK, ...); None if there is none such."""
    found: Counter[str] = Counter()
    for char in text:
        if char.isalpha():
            word = unicodedata.name(char, "UNNAMED").split()[0]
            found[_ONE_SCRIPT.get(word, word)] += 1
    if not found:
        return None
    script, count = found.most_common(1)[0]
    return script if count >= _SCRIPT_SHARE * found.total() else None
