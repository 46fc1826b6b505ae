"""The certificate of this context: how long it is still good for."""

from __future__ import annotations

from collections.abc import Iterator

from .facts import Facts, Finding, warning


def check(facts: Facts) -> Iterator[Finding]:
    found = facts.certificate
    if facts.certificate_why:
        yield warning("certificate", f"it cannot be checked: {facts.certificate_why}")
    elif found is not None and found.state != "valid":
        days = found.left_s // 86_400
        meaning = f"{found.user}: expired" if found.left_s < 0 else f"{found.user}: expires in {days} d"
        yield warning("certificate", meaning, "on the management host: metastack pki renew FILE")
