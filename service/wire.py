"""The request as it came: top-level fields as raw JSON, so that what is not ours to read passes through byte for byte.

Only the fields that routing needs are decoded. A field is replaced or removed by editing the mapping; if nothing was
edited the upstream gets the very bytes that the client sent.
"""

from __future__ import annotations

from typing import Any, TypeVar, cast

import msgspec

from encoders.half_surrogates import repaired
from service.errors import ApiError, invalid

NOT_DECODABLE = (msgspec.DecodeError, UnicodeDecodeError, RecursionError)
"""What decoding raises for bytes that are no JSON, or that hold a number or a text which Python cannot."""
NULL = msgspec.Raw(b"null")
T = TypeVar("T")
_FIELDS = msgspec.json.Decoder(dict[str, msgspec.Raw])
_ANY = msgspec.json.Decoder()

ROUTING_FIELDS = ("routing", "plugins", "max_cost")
"""Body fields that are addressed to this service and never reach an upstream."""


def decode_fields(raw: bytes) -> dict[str, msgspec.Raw]:
    """The fields of a JSON object as raw JSON, half a surrogate pair read as U+FFFD. Raises one of `NOT_DECODABLE`."""
    try:
        return _FIELDS.decode(raw)
    except msgspec.ValidationError:
        raise
    except msgspec.DecodeError:
        readable = repaired(raw)
        if readable == raw:
            raise
        return _FIELDS.decode(readable)


class Body:
    """The top-level fields of a JSON object, each as the bytes that came."""

    __slots__ = ("_decoded", "_edited", "_raw", "fields")

    def __init__(self, raw: bytes) -> None:
        try:
            self.fields = decode_fields(raw)
        except NOT_DECODABLE as error:
            kind = "not valid JSON" if not isinstance(error, msgspec.ValidationError) else "not a JSON object"
            raise ApiError(
                400,
                "invalid_request_error",
                "invalid_json",
                f"The request body is {kind}: {error}. Send a JSON object.",
            ) from None
        self._raw = raw
        self._edited = False
        self._decoded: dict[str, Any] = {}

    def __contains__(self, name: str) -> bool:
        return name in self.fields

    def get(self, name: str) -> Any:
        """The decoded value of a field, None if it is absent or null."""
        raw = self.fields.get(name)
        if raw is None:
            return None
        if name in self._decoded:
            return self._decoded[name]
        try:
            value = _ANY.decode(raw)
        except NOT_DECODABLE as error:
            raise invalid(f"The field {name!r} is not valid JSON: {error}", name, "invalid_json") from None
        self._decoded[name] = value
        return value

    def peek(self, name: str) -> Any:
        """As `get`, for fields that are not ours to judge: None also if the value cannot be decoded."""
        try:
            return self.get(name)
        except ApiError:
            return None

    def size(self, name: str) -> int:
        """How many bytes a field's value has, 0 if it is absent."""
        raw = self.fields.get(name)
        return 0 if raw is None else memoryview(raw).nbytes

    def string(self, name: str, *, required: bool = False) -> str | None:
        value = self.get(name)
        if value is None and not required:
            return None
        if not isinstance(value, str) or not value:
            came = "nothing" if value is None else type_name(value)
            raise invalid(
                f"{name!r} must be a non-empty string, got {came}.",
                name,
                "missing_required_parameter" if value is None else "invalid_type",
            )
        return value

    def boolean(self, name: str) -> bool | None:
        value = self.get(name)
        if value is not None and not isinstance(value, bool):
            raise invalid(f"{name!r} must be true or false, got {type_name(value)}.", name, "invalid_type")
        return value

    def integer(self, name: str, *, least: int, most: int | None = None) -> int | None:
        value = self.get(name)
        if value is None:
            return None
        if isinstance(value, bool) or not isinstance(value, int):
            raise invalid(f"{name!r} must be an integer, got {type_name(value)}.", name, "invalid_type")
        if value < least or (most is not None and value > most):
            bounds = f"at least {least}" if most is None else f"between {least} and {most}"
            raise invalid(f"{name!r} must be {bounds}, got {value}.", name)
        return value

    def mapping(self, name: str) -> dict[str, Any] | None:
        value = self.get(name)
        if value is not None and not isinstance(value, dict):
            raise invalid(f"{name!r} must be an object, got {type_name(value)}.", name, "invalid_type")
        return cast("dict[str, Any] | None", value)

    def array(self, name: str, *, required: bool = False) -> list[Any] | None:
        value = self.get(name)
        if value is None and not required:
            return None
        if not isinstance(value, list):
            came = "nothing" if value is None else type_name(value)
            raise invalid(
                f"{name!r} must be an array, got {came}.",
                name,
                "missing_required_parameter" if value is None else "invalid_type",
            )
        return value

    def edited(self, changes: dict[str, Any], *, without: tuple[str, ...] = ROUTING_FIELDS) -> bytes:
        """The body with some fields replaced and some removed; all others keep their bytes.

        A value in `changes` is encoded as JSON unless it is a `msgspec.Raw` already.
        """
        drop = [name for name in without if name in self.fields]
        if not drop and not changes:
            return self._raw
        fields: dict[str, Any] = dict(self.fields)
        for name in drop:
            del fields[name]
        fields.update(changes)
        return msgspec.json.encode(fields)


def type_name(value: object) -> str:
    """The JSON name of a decoded value's type."""
    if value is None:
        return "null"
    if isinstance(value, bool):
        return "a boolean"
    if isinstance(value, int | float):
        return "a number"
    return {"str": "a string", "list": "an array", "dict": "an object"}.get(type(value).__name__, type(value).__name__)


class UsageDetails(msgspec.Struct):
    cached_tokens: int | None = None
    reasoning_tokens: int | None = None


class UsageFields(msgspec.Struct):
    prompt_tokens: int | None = None
    completion_tokens: int | None = None
    prompt_tokens_details: UsageDetails | None = None
    completion_tokens_details: UsageDetails | None = None


class AnswerFields(msgspec.Struct):
    """What is read of an answer or of an event of a stream; everything else passes by unparsed."""

    id: Any = None
    usage: UsageFields | None = None
    error: Any = None


FOUR_FIELDS = frozenset({"message", "type", "param", "code"})
"""What clients expect of an error object."""


class ErrorFields(msgspec.Struct):
    """An upstream's error in any of the usual shapes. `shaped`: it came as an OpenAI error object."""

    message: str | None = None
    code: str | int | None = None
    shaped: bool = False


_ANSWER = msgspec.json.Decoder(AnswerFields, strict=False)
_USAGE = msgspec.json.Decoder(UsageFields, strict=False)


def read_answer(data: bytes) -> AnswerFields | None:
    """The fields of an answer, or None if `data` is not a JSON object. A field of an unknown shape is left out."""
    try:
        return _ANSWER.decode(data)
    except NOT_DECODABLE:
        pass
    try:
        fields = decode_fields(data)
    except NOT_DECODABLE:
        return None
    error = fields.get("error", NULL)
    said = None if error == NULL else _decoded(_ANY, error) or bytes(error).decode("utf-8", "replace")
    return AnswerFields(
        id=_decoded(_ANY, fields.get("id", NULL)), usage=_decoded(_USAGE, fields.get("usage", NULL)), error=said
    )


def _decoded(decoder: msgspec.json.Decoder[T], raw: msgspec.Raw) -> T | None:
    try:
        return decoder.decode(raw)
    except NOT_DECODABLE:
        return None


def read_error(data: bytes) -> ErrorFields:
    """The error inside a body: `{"error": {...}}`, `{"error": "text"}`, `{"message": ...}` or any text."""
    try:
        value = _ANY.decode(data)
    except NOT_DECODABLE:
        return ErrorFields(message=data.decode("utf-8", "replace").strip()[:300] or None)
    inner = value.get("error", value) if isinstance(value, dict) else value
    if isinstance(inner, dict):
        message, code = inner.get("message", inner.get("detail")), inner.get("code")
        if isinstance(message, dict | list):
            message = msgspec.json.encode(message)[:300].decode("utf-8", "replace")
        shaped = (
            isinstance(value, dict) and "error" in value and isinstance(message, str) and inner.keys() >= FOUR_FIELDS
        )
        return ErrorFields(
            message=message if isinstance(message, str) else None,
            code=code if isinstance(code, str | int) and not isinstance(code, bool) else None,
            shaped=shaped,
        )
    return ErrorFields(message=str(inner)[:300] if inner else None)
