"""Which text of a conversation is encoded. One rule for the gateway, the routers and the templates.

The last user message says what is wanted now. A follow-up ("commit it", "and the tests?") says it only together with
the turns before, so a follow-up is prefixed with the user turns it goes back to: all of them up to the last one that
stands for itself.

The rule is no part of an encoder's hash: a vector is that of the text that was encoded, whichever rule chose it, and
both are logged.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

SHORT_CHARS = 48
"""A last user message shorter than this inherits the turns before it, whatever it says."""
STANDS_ALONE_CHARS = 200
"""A message of this length stands for itself, whatever words it holds."""
MAX_CHARS = 4000
"""Longer texts keep their head and their tail: the task is named at one of the two."""
INHERITED_TURNS = 12
"""At most this many user turns are looked back at."""
FEW_WORDS, FEW_BYTES = 2, 16
"""A message of so few words, and no longer than this in UTF-8, says nothing by itself."""

_GOES_ON = re.compile(
    # What a follow-up begins with: assent, refusal, more of the same, a change to what is there.
    r"^\W*(?:yes|yeah|yep|no|nope|ok|okay|sure|thanks|thank you|great|good|perfect|now|then|next|and|but|or|so|"
    r"also|again|continue|go on|go ahead|carry on|proceed|keep going|instead|rather|shorter|longer|more|less|"
    r"what about|how about|same|undo|redo|retry|try again|"
    r"ja|nein|doch|gut|genau|weiter|mach weiter|und|aber|auch|nochmal|noch einmal|jetzt|danke|"
    r"oui|non|d'accord|et|mais|encore|continuez?|vas-y|maintenant|merci|aussi|"
    r"s[ií]|no|vale|y|pero|otra vez|contin[uú]a|sigue|ahora|gracias|tambi[eé]n|"
    r"sim|n[aã]o|e|mas|de novo|agora|obrigad[oa]|tamb[eé]m|va bene|ancora|adesso|grazie|"
    r"evet|hay[ıi]r|tamam|devam|tekrar|"
    r"да|нет|хорошо|ладно|теперь|ещ[её]|снова|продолжай|дальше|а|и|но|спасибо)\b"
    r"|^\W*(?:继续|再|好的|好|是的|对|不|然后|现在|还有|谢谢|はい|いいえ|続けて|もう一度|では|じゃあ|次|"
    r"네|아니|계속|다시|그럼|이제|نعم|لا|أكمل|استمر|مرة أخرى|والآن|हाँ|हां|नहीं|जारी|फिर|अब)",
    re.IGNORECASE,
)
_POINTS_BACK = re.compile(
    # Words that stand for something said before. "that" and its like also join clauses, so they count only where a
    # clause ends or a verb took them as its object.
    r"\b(?:it|its|them|those|these|this|the same|the above|the previous|the latter|the (?:first|second|last) "
    r"one|das(?: da)?|dies(?:e[rsmn]?)?|daran|davon|damit|dazu|cela|ça|celui-ci|eso|esto|ese|aquello|isso|isto|"
    r"questo|quello|bunu|şunu|onu|это|этого|его|их)\b"
    r"|\bthat\b(?=\s*(?:$|[.,;:!?]|in|to|with|as|for|and|again|instead|please|now|one|too|code|file|function|answer))"
    r"|[这那它該这個]|それ|これ|あれ|그것|이것|그거|이거|هذا|هذه|ذلك|इसे|उसे|यह|वह",
    re.IGNORECASE,
)


def content_text(content: Any) -> str:
    """The text of a message's content: a string, or the text parts of a list of parts; anything else is empty."""
    if isinstance(content, str):
        return content
    if isinstance(content, list):
        parts = (part.get("text") for part in content if isinstance(part, dict) and part.get("type") == "text")
        return "\n".join(text for text in parts if isinstance(text, str))
    return ""


def user_turns(messages: Sequence[Any]) -> list[str]:
    """The texts of the user's messages that hold any, oldest first."""
    turns = [content_text(m.get("content")) for m in messages if isinstance(m, dict) and m.get("role") == "user"]
    return [turn for turn in turns if turn.strip()]


def is_anaphoric(text: str) -> bool:
    """Whether a message points back at what was said before it: "it", "again", "yes", or hardly a word at all."""
    if len(text) >= STANDS_ALONE_CHARS:
        return False
    if len(text.split()) <= FEW_WORDS and len(text.strip().encode("utf-8", "replace")) <= FEW_BYTES:
        return True
    # Further on in a message such a word mostly points at the message's own beginning.
    return _GOES_ON.search(text) is not None or _POINTS_BACK.search(text[:SHORT_CHARS]) is not None


def query_text(messages: Sequence[Any]) -> str:
    """The text to encode for an OpenAI `messages` list; empty if no user message holds text."""
    turns = user_turns(messages)
    if not turns:
        return ""
    first = len(turns) - 1
    least = max(0, first - INHERITED_TURNS)
    while first > least and (len(turns[first]) < SHORT_CHARS or is_anaphoric(turns[first])):
        first -= 1
    return clip(turns[first] if first == len(turns) - 1 else "\n".join(turns[first:]))


def follows_up(messages: Sequence[Any]) -> bool:
    """Whether the last user message is an anaphoric follow-up of an earlier turn."""
    turns = user_turns(messages)
    return len(turns) > 1 and is_anaphoric(turns[-1])


def clip(text: str) -> str:
    """At most `MAX_CHARS` characters: all of a short text, the two ends of a long one."""
    if len(text) <= MAX_CHARS:
        return text
    half = MAX_CHARS // 2
    return text[:half] + "\n" + text[-half:]
