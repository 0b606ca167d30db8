"""Makes text safe to keep in a template and to put into somebody else's prompt. Deterministic and idempotent.

Two jobs. `scrub` replaces secrets and personal data by inert placeholders. `sanitize` does that too and takes out what
could act as an instruction: role markers, chat-template tokens, tags, links, invisible characters and whole sentences
that address the model instead of the problem. A filter of patterns lowers the risk; it does not end it, which is why a
template is also shown on the user's side, between delimiters, as reference material (fusionfactory.md 3.3).
"""

from __future__ import annotations

import ipaddress
import re
import unicodedata
from base64 import urlsafe_b64decode
from collections.abc import Callable, Iterator

from templates_store.instructions import addresses_model

TAG_WORD = "reference_plans"
"""Name of the delimiters around the block of templates. It can never occur in a sanitized text."""

MAX_CHARS = 4000
"""A template longer than this is cut before anything else is done: it is a handful of sentences, not a document."""


def _luhn(digits: str) -> bool:
    total = 0
    for place, char in enumerate(reversed(digits)):
        value = int(char) * (1 + place % 2)
        total += value - 9 if value > 9 else value
    return total % 10 == 0


def _card(match: re.Match[str]) -> str:
    digits = re.sub(r"\D", "", match.group())
    return "[card]" if 13 <= len(digits) <= 19 and _luhn(digits) else match.group()


def _ipv6(match: re.Match[str]) -> str:
    """Times (`12:30:15`) and scopes (`a::b`) look like short addresses; a real one has a group of three digits."""
    text = match.group()
    try:
        ipaddress.IPv6Address(text)
    except ValueError:
        return text
    return "[ip]" if any(len(group) > 2 for group in text.split(":")) else text


def _dense(match: re.Match[str]) -> str:
    """A long unbroken run that mixes letters and digits is taken for a credential; words and numbers are not."""
    run = match.group()
    digits = sum(char.isdigit() for char in run)
    return "[secret]" if digits >= 4 and len(run) - digits >= 4 else run


def _encoded(match: re.Match[str]) -> str:
    """A run that is text in base64 or in hexadecimal digits hides what it says; chance makes no such run."""
    run = match.group()
    try:
        hidden = bytes.fromhex(run) if re.fullmatch(r"(?:[0-9a-fA-F]{2})+", run) else _decoded(run)
    except ValueError:
        return run
    readable = sum(32 <= byte < 127 or byte in (9, 10, 13) for byte in hidden)
    return "[encoded]" if len(hidden) >= _HIDDEN_BYTES and readable == len(hidden) else run


def _decoded(run: str) -> bytes:
    bare = run.rstrip("=").replace("+", "-").replace("/", "_")
    return urlsafe_b64decode(bare[: len(bare) - (len(bare) % 4 == 1)] + "=" * (-len(bare) % 4))


_HIDDEN_BYTES = 11

_Replacement = str | Callable[[re.Match[str]], str]

_PRIVATE: tuple[tuple[re.Pattern[str], _Replacement], ...] = (
    (re.compile(r"-----BEGIN [A-Z ]*PRIVATE KEY-----.*?(?:-----END [A-Z ]*PRIVATE KEY-----|$)", re.S), "[secret]"),
    (re.compile(r"\beyJ[\w-]{5,}\.[\w-]{5,}\.[\w-]*"), "[secret]"),
    (re.compile(r"\b(?:sk|pk|rk)[-_][A-Za-z0-9_-]{12,}"), "[secret]"),
    (re.compile(r"\b(?:AKIA|ASIA)[A-Z0-9]{12,}"), "[secret]"),
    (re.compile(r"\b(?:gh[pousr]_|github_pat_|glpat-|hf_|xox[abprs]-|AIza)[A-Za-z0-9_-]{10,}"), "[secret]"),
    (re.compile(r"\bbearer\s+[A-Za-z0-9._~+/=-]{8,}", re.I), "[secret]"),
    (
        re.compile(
            r"\b(?:password|passwd|pwd|passphrase|secret|api[ _-]?key|access[ _-]?key|auth[ _-]?token)"
            r"(?:\s*[:=]\s*|\s+is\s+)(?!\[secret\])[^\s,;]+",
            re.I,
        ),
        "[secret]",
    ),
    (re.compile(r"\b[a-z][a-z0-9+.-]{0,20}://[^\s/@:]{0,100}:[^\s/@]{1,200}@\S+", re.I), "[secret]"),
    (re.compile(r"[\w.+%-]{1,64}@[\w-]{1,63}(?:\.[\w-]{1,63})+"), "[email]"),
    (re.compile(r"(?<![\w.])(?:(?:25[0-5]|2[0-4]\d|1?\d?\d)\.){3}(?:25[0-5]|2[0-4]\d|1?\d?\d)(?![\w.]*\d)"), "[ip]"),
    (re.compile(r"(?<![\w:])[0-9a-f]{0,4}(?::[0-9a-f]{0,4}){2,7}(?![\w:])", re.I), _ipv6),
    (re.compile(r"(?<![\w.])\d(?:[ -]?\d){12,18}(?![\w]|\.\d)"), _card),
    (re.compile(r"\b[A-Z]{2}\d{2}(?: ?[A-Z0-9]{4}){3,7}(?: ?[A-Z0-9]{1,3})?\b"), "[iban]"),
    (re.compile(r"(?<![\w-])\d{3}-\d{2}-\d{4}(?![\w-])"), "[id]"),
    (re.compile(r"(?<!\w)\+\d{1,3}[ .-]?(?:\(\d{1,4}\)[ .-]?)?\d{1,4}(?:[ .-]?\d{2,4}){2,4}(?!\w)"), "[phone]"),
    (re.compile(r"(?<!\w)(?:\(\d{3}\) ?|\d{3}[ .-])\d{3}[.-]\d{4}(?!\w)"), "[phone]"),
    (re.compile(r"(?<![A-Za-z0-9_+/=-])[A-Za-z0-9_+/-]{15,}={0,2}(?![A-Za-z0-9_+/=-])"), _encoded),
    (re.compile(r"[A-Za-z0-9_+/=-]{24,}"), _dense),
)

_MARKUP: tuple[tuple[re.Pattern[str], str], ...] = (
    (re.compile(r"<\|[^|<>]{0,40}\|>"), " "),
    (re.compile(r"\[/?INST\]|<</?SYS>>|</?s>", re.I), " "),
    (re.compile(r"</?[a-z][\w:-]*(?:\s+[\w:-]+\s*=[^<>]{0,200})?\s*/?>|<!--|-->|<\?|\?>", re.I), " "),
    (re.compile(r"!?\[([^\[\]]{0,200})\]\([^()\s]{0,500}\)"), r" \1 "),
    (re.compile(r"\b(?:[a-z][a-z0-9+.-]{1,20}://|www\.|data:[a-z]+/)(?:\S*[^\s.,;:!?)])?", re.I), "[link]"),
    (
        re.compile(
            r"(?<![\w@.])(?:[\w-]{2,}\.)+(?:com|net|org|io|ai|dev|app|xyz|info|biz|ru|cn|test|example|invalid)(?![\w-]|\.\w)(?:/\S*)?",
            re.I,
        ),
        "[link]",
    ),
    (
        re.compile(
            r"(?:^|(?<=\s))(?:System|SYSTEM|Assistant|ASSISTANT|User|USER|Human|HUMAN|Developer|DEVELOPER) ?:\s"
        ),
        " ",
    ),
    (re.compile(r"`{3,}\w*|~{3,}|#{2,}|={4,}|-{4,}|\*{2,}"), " "),
    (re.compile(TAG_WORD.replace("_", r"[\W_]{0,3}"), re.I), "plans"),
)

_ROLE = re.compile(
    r"^\W*(?:system|assistant|user|developer|human|tool|instructions?|response)\s*(?:prompt)?\s*:\s*", re.I
)

_SENTENCE = re.compile(r"(?<=[.!?;])\s+")


def scrub(text: str) -> str:
    """The text with secrets and personal data replaced by placeholders such as `[secret]` and `[email]`."""
    return _settle(text, _scrub_once)


def sanitize(text: str) -> str:
    """The text as a template may hold it: one line, scrubbed, without instructions, markup, links or delimiters.

    Returns the empty string if nothing is left. `sanitize(sanitize(x)) == sanitize(x)` for every string.
    """
    return _settle(text, _sanitize_once)


def sentences(text: str) -> list[str]:
    """The sentences of a one-line text, split after `.`, `!`, `?` and `;`."""
    return [sentence for sentence in _SENTENCE.split(text.strip()) if sentence]


def _plain(text: str) -> str:
    """Compatibility forms folded (full-width letters, ligatures), invisible and control characters gone, one line."""
    folded = unicodedata.normalize("NFKC", text)
    return " ".join("".join(_visible(folded)).split())


def _visible(text: str) -> Iterator[str]:
    for char in text:
        if char.isspace():
            yield " "
        elif unicodedata.category(char)[0] != "C":
            yield char


def _scrub_once(text: str) -> str:
    for pattern, replacement in _PRIVATE:
        text = pattern.sub(replacement, text)
    return text


def _sanitize_once(text: str) -> str:
    text = _scrub_once(_plain(text)[:MAX_CHARS])
    for pattern, replacement in _MARKUP:
        text = pattern.sub(replacement, text)
    whole = sentences(_plain(text))
    joined = _joined(whole)
    if not addresses_model(joined):
        return joined
    joined = _joined([sentence for sentence in whole if not addresses_model(sentence)])
    # An instruction may be spread over what was split into sentences; then nothing of the text can be trusted.
    return "" if addresses_model(joined) else joined


def _joined(whole: list[str]) -> str:
    bare = (_ROLE.sub("", sentence) for sentence in whole)
    return " ".join(sentence for sentence in bare if sentence)


def _settle(text: str, step: Callable[[str], str]) -> str:
    """Apply `step` until nothing changes: taking one thing out can bring two halves of another together.

    A text that has not settled after many rounds was made to resist; nothing of it is kept.
    """
    for _ in range(32):
        following = step(text)
        if following == text:
            return text
        text = following
    return ""
