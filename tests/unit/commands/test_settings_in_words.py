"""Every setting says what it may be and what it means."""

from __future__ import annotations

import pytest

from metastack.commands.cluster.settings import SETTINGS, _docstrings, defaults_of, in_words, parse_settings
from metastack.commands.problem import Problem


@pytest.mark.parametrize("key", [field.name for field in SETTINGS])
def test_every_setting_is_explained(key: str) -> None:
    assert len(_docstrings()[key]) > 10
    assert in_words(key)


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("lease_ttl_s=0.001", "a whole number of seconds from 2 to 60, not '0.001'"),
        ("grace_s=x", "a number of seconds from 0 to 60, not 'x'"),
        ("overcommit_cpu=0", "a number from 0.1 to 64, not '0'"),
        ("trash_retention_s=-1", "from 0 to 31536000, not '-1'"),
        ("fencing=none", "address, or client for nodes that share an address (weaker), not 'none'"),
        ("colour=red", "is not a setting"),
    ],
)
def test_errors_are_words(text: str, says: str) -> None:
    with pytest.raises(Problem) as refused:
        parse_settings([text])
    assert says in refused.value.message


def test_defaults() -> None:
    assert defaults_of(["lease_ttl_s", "syslog"]) == {"lease_ttl_s": 5, "syslog": ""}
    with pytest.raises(Problem):
        defaults_of(["nothing"])
