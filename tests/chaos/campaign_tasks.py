"""The campaign's task of the general queue, as a user would write it: one row, and a result that goes with it or not at all."""

from __future__ import annotations

import time
from typing import Any

import protheon_dask as protheon


@protheon.task
def note(payload: dict[str, Any], context: Any) -> dict[str, Any]:
    """Write one row of campaign.notes, slowly enough to be hit before it and after it; fail as often as the payload says."""
    time.sleep(payload["wait_s"])
    if context.attempt_no <= payload["fails"]:
        raise RuntimeError(f"note {payload['no']} is not to succeed yet")
    context.connection.execute("INSERT INTO campaign.notes (no, text) VALUES (%s, %s)", (payload["no"], payload["text"][::-1]))
    context.progress()
    time.sleep(payload["wait_s"])
    return {"no": payload["no"], "letters": len(payload["text"])}
