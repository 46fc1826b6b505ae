"""What all pay for stays bounded as the cluster grows, and small clusters see no difference."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from metastack.core.model import ClusterConfig
from metastack.core.rate_limits import (
    LISTED_A_SECOND,
    LONGEST_S,
    SUMS_A_SECOND,
    full_looks_per_list,
    sums_every_s,
)


@pytest.mark.parametrize(
    ("nodes", "every_s"), [(0, 5), (1, 5), (60, 5), (100, 5), (200, 10), (400, 20), (5000, 250)]
)
def test_sums(nodes: int, every_s: float) -> None:
    assert sums_every_s(nodes) == pytest.approx(every_s)


@given(st.integers(0, 20_000))
def test_all_nodes_share_one_announcement_rate(nodes: int) -> None:
    assert nodes / sums_every_s(nodes) <= SUMS_A_SECOND + 1e-9
    assert sums_every_s(nodes) <= sums_every_s(nodes + 1)


@pytest.mark.parametrize(
    ("nodes", "vms", "every_s"),
    [(0, 0, 30), (3, 30, 30), (16, 1_000, 30), (100, 2_000, 30), (200, 4_000, 60), (500, 10_000, 210),
     (1_000, 20_000, 840), (5_000, 100_000, 3_600)],
)  # fmt: skip
def test_lists(nodes: int, vms: int, every_s: float) -> None:
    every = ClusterConfig().full_look_s
    assert every * full_looks_per_list(every, nodes, 4 * vms + 3 * nodes) == pytest.approx(every_s, abs=every)


@given(st.sampled_from([5, 30, 60, 3600]), st.integers(0, 20_000), st.integers(0, 1_000_000))
def test_all_together_list_so_much_a_second_at_most(every_s: int, nodes: int, records: int) -> None:
    """Or each as seldom as is allowed."""
    apart_s = every_s * full_looks_per_list(every_s, nodes, records)
    assert every_s <= apart_s <= LONGEST_S
    assert nodes * records / apart_s <= LISTED_A_SECOND * (1 + 1e-9) or apart_s > LONGEST_S - every_s
    assert full_looks_per_list(every_s, nodes, records) <= full_looks_per_list(every_s, nodes + 1, records + 1)
