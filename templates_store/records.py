"""Reads and checks single records of the template store."""

from __future__ import annotations

import msgspec
import numpy as np

from templates_store.create import TemplateRejected, template_id
from templates_store.database import TemplateDatabase
from templates_store.sanitize import sanitize
from templates_store.template import Template, Worth

_TEMPLATE = msgspec.msgpack.Decoder(Template)
_WORTH = msgspec.msgpack.Decoder(Worth)


def decode_record(file: TemplateDatabase, record: bytes) -> Template:
    """The template of a record. Raises TemplateStoreError if it is not what was written."""
    try:
        template = _TEMPLATE.decode(record)
    except msgspec.DecodeError as error:
        raise file.damaged(str(error)) from error
    if template.id != template_id(template.query, template.text):
        raise file.damaged(f"the content of template {template.id} does not match its id")
    return template


def decode_worth(file: TemplateDatabase, record: bytes) -> Worth:
    """The worth in a record. Raises TemplateStoreError if it is not what was written."""
    try:
        return _WORTH.decode(record)
    except msgspec.DecodeError as error:
        raise file.damaged(str(error)) from error


def check_record(template: Template) -> Template:
    """The same template. Raises TemplateRejected if it is not what a template must be."""
    if template.id != template_id(template.query, template.text):
        raise TemplateRejected(f"template {template.id!r}: the id is not the digest of its query and text")
    if not template.text or template.text != sanitize(template.text):
        raise TemplateRejected(f"template {template.id}: the text is empty or not sanitized; use create_template()")
    if not template.query.strip():
        raise TemplateRejected(f"template {template.id}: the query is empty")
    if not template.vector or len(template.vector) % 4:
        raise TemplateRejected(f"template {template.id}: the vector is not float32 ({len(template.vector)} bytes)")
    norm = float(np.linalg.norm(np.frombuffer(template.vector, dtype="<f4")))
    if not abs(norm - 1.0) < 1e-2:
        raise TemplateRejected(f"template {template.id}: the vector must have unit norm, it has {norm:.4g}")
    return template
