"""Questions that can be put to a new model: the messages as they were sent, and the right answer where it is known.

From a file of answers a question is its text and its `reference`. From the log it is the conversation of the newest
request with that text, with what a user demonstrated or an answer that was scored right as its reference.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean
from typing import Any

import msgspec

from encoders.query_text import clip, content_text
from offline.answers import rows_from_file
from offline.outcomes import content_id, said_values
from traffic.log import TrafficLog
from traffic.records import Feedback, Interaction
from traffic.sse import answer_text

RIGHT = 0.99
"""From this mean score on, a logged answer serves as a reference."""

CHAT = "/chat/completions"
"""How the endpoint of a chat request ends in the log."""

Messages = list[dict[str, Any]]


@dataclass(frozen=True, slots=True)
class Question:
    """One query. `kind` is how the source scored it; None for the agreement with a logged answer."""

    query_id: str
    messages: Messages
    reference: str | None = None
    kind: str | None = None


def questions_from_file(path: Path) -> dict[str, Question]:
    """The questions of a file by the query ids that `outcomes_from_file` gives them.

    Raises
    ------
    AnswersUnreadable: the file cannot be read.
    """
    found: dict[str, Question] = {}
    for row in rows_from_file(path):
        text = str(row.get("query", ""))
        query_id = content_id(clip(text))
        if query_id not in found or (found[query_id].reference is None and row.get("reference") is not None):
            reference, kind = row.get("reference"), row.get("score_kind")
            found[query_id] = Question(
                query_id,
                [{"role": "user", "content": text}],
                None if reference is None else str(reference),
                None if kind is None else str(kind),
            )
    return found


def questions_from_log(log: TrafficLog, since: float = 0.0) -> dict[str, Question]:
    """The questions of a log whose content may be used, by the query ids that `outcomes_from_log` gives them."""
    scores = said_values(log.read_scores(since), log.read_feedback(since))
    shown = _demonstrations(log.read_feedback(since))
    found: dict[str, Question] = {}
    for interaction in log.read_interactions(since):
        messages = _messages(interaction)
        if messages is None or interaction.query_text is None:
            continue
        query_id = content_id(interaction.query_text)
        reference = shown.get(interaction.id) or _right_answer(interaction, scores.get(interaction.id, []))
        earlier = found.get(query_id)
        if reference is None and earlier is not None:
            reference = earlier.reference
        found[query_id] = Question(query_id, messages, reference)
    return found


def _demonstrations(feedback: Iterable[Feedback]) -> dict[str, str]:
    found = {}
    for statement in feedback:
        if statement.demonstration is not None:
            text = content_text(msgspec.json.decode(statement.demonstration, type=dict[str, Any]).get("content"))
            if text:
                found[statement.interaction_id] = text
    return found


def _messages(interaction: Interaction) -> Messages | None:
    """The conversation of a stored chat request; None where it is not a plain one that any model can be asked."""
    if not interaction.stored or interaction.request is None or not interaction.endpoint.endswith(CHAT):
        return None
    try:
        body = msgspec.json.decode(interaction.request, type=dict[str, Any])
    except msgspec.DecodeError:
        return None
    messages = body.get("messages")
    if not isinstance(messages, list) or body.get("tools") or not all(isinstance(m, dict) for m in messages):
        return None
    return messages


def _right_answer(interaction: Interaction, scores: list[float]) -> str | None:
    if not scores or fmean(scores) < RIGHT or interaction.response is None or interaction.outcome != "ok":
        return None
    return answer_text(interaction.response, interaction.stream) or None
