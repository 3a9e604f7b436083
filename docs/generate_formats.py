#!/usr/bin/env python3
"""Write the JSON Schemas of the file formats into ``formats.md``, between its markers."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

from langchain_swarmlet_metrics import content, events, metadata, snapshot

PAGE = Path(__file__).with_name("formats.md")
SCHEMAS = {
    "metrics.jsonl": events.json_schema,
    "metadata.json": metadata.json_schema,
    "inflight.json": snapshot.json_schema,
    "thread.jsonl": content.json_schema,
}
_WIDTH = 110


def generate(page: str) -> str:
    """Return the page with the schemas as they are now.

    Raises:
        LookupError: the page does not have each marker exactly once.
    """
    for name, schema in SCHEMAS.items():
        begin = f"<!-- generated: {name} -->\n"
        block = f"{begin}```json\n{pretty(schema())}\n```\n<!-- end -->"
        page, count = re.subn(f"{re.escape(begin)}.*?<!-- end -->", lambda _, text=block: text, page, flags=re.DOTALL)
        if count != 1:
            msg = f"{PAGE.name} has {count} places marked for {name}; there must be one"
            raise LookupError(msg)
    return page


def pretty(value: Any, indent: str = "") -> str:
    """Return JSON in which whatever fits on a line is on one."""
    flat = json.dumps(value)
    if len(indent) + len(flat) <= _WIDTH or not isinstance(value, dict | list):
        return flat
    inner = f"{indent}  "
    if isinstance(value, dict):
        items = [f"{json.dumps(key)}: {pretty(item, inner)}" for key, item in value.items()]
        opening, closing = "{", "}"
    else:
        items = [pretty(item, inner) for item in value]
        opening, closing = "[", "]"
    return f"{opening}\n{inner}" + f",\n{inner}".join(items) + f"\n{indent}{closing}"


if __name__ == "__main__":
    PAGE.write_text(generate(PAGE.read_text(encoding="utf-8")), encoding="utf-8")
