"""Options that are given and say nothing: a script's empty variable must not be taken for an answer."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

MANY = ("vm", "create", "--image", "i", "--memory", "1GiB", "--dry-run")


@pytest.mark.parametrize(
    ("words", "says"),
    [
        ((*MANY, "--count", "0", "--name-template", "w-{n}"), "--count: 0 is out of range"),
        ((*MANY, "x", "--first", "3"), "--first: needs --count and --name-template"),
        (("whatif", "--lose", ""), "--lose: names no node"),
        (("whatif", "--lose", ","), "--lose: names no node"),
        ((*MANY, "x", "--require-label", "zone=a,"), "'zone=a,' has an empty value among others"),
        (
            (*MANY, "x", "--affinity", "app=db,tier=1@zone", "--anti-affinity", "app=db@zone"),
            "--anti-affinity: 'app=db@zone' keeps it away from all that --affinity 'app=db,tier=1@zone'",
        ),
    ],
    ids=lambda words: " ".join(words) if isinstance(words, tuple) else "",
)
def test_it_is_refused_before_anything_is_asked(words: tuple[str, ...], says: str) -> None:
    env = {key: value for key, value in os.environ.items() if not key.startswith("METASTACK_")}
    done = subprocess.run(
        [sys.executable, "-m", "metastack.cli.main", *words],
        env={**env, "METASTACK_CONFIG": "/nonexistent"},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert (done.returncode, done.stdout) == (2, "")
    assert says in done.stderr
