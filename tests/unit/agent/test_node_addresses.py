"""Which address a node publishes."""

from __future__ import annotations

from pathlib import Path

import pytest

from metastack.agent.report import addresses as module
from metastack.agent.report.addresses import whereabouts
from metastack.agent.settings import SettingsError, load

ROUTES = {"10.0.0.5": "10.0.0.1", "fd00::5": "fd00::1", "127.0.0.1": "127.0.0.1", "192.0.2.1": "10.9.9.9"}
"""Target to source, as the kernel would say."""


@pytest.fixture(autouse=True)
def routes(monkeypatch: pytest.MonkeyPatch) -> dict[str, str]:
    known = dict(ROUTES)
    monkeypatch.setattr(module, "_source", lambda target, port: known.get(target, ""))
    return known


@pytest.mark.parametrize(
    ("endpoints", "address", "listen", "published", "at"),
    [
        (("http://10.0.0.5:2379",), "", "", "10.0.0.1:7410", "10.0.0.1"),
        (("10.0.0.5:2379",), "", "", "10.0.0.1:7410", "10.0.0.1"),
        (("https://[fd00::5]:2379",), "", "", "[fd00::1]:7410", "fd00::1"),
        (("http://10.0.0.5:2379",), "", "0.0.0.0:99", "10.0.0.1:99", "0.0.0.0"),
        (("http://10.0.0.5:2379",), "10.0.0.8", "[::]:99", "10.0.0.8:99", "::"),
        (("http://10.0.0.5:2379",), "10.0.0.8", "", "10.0.0.8:7410", "10.0.0.8"),
        (("http://10.0.0.5:2379",), "", "[fd00::1]:99", "[fd00::1]:99", "fd00::1"),
        (("http://127.0.0.1:2379", "http://10.0.0.5:2379"), "", "", "10.0.0.1:7410", "10.0.0.1"),
        (("http://127.0.0.1:2379",), "", "", "10.9.9.9:7410", "10.9.9.9"),
        (("unix:/run/etcd.sock",), "", "", "10.9.9.9:7410", "10.9.9.9"),
    ],
)
async def test_it_routes_to_etcd(
    endpoints: tuple[str, ...], address: str, listen: str, published: str, at: str
) -> None:
    where = await whereabouts(endpoints, address, listen)
    assert (where.console, where.listen[0]) == (published, at)


async def test_loopback_where_there_is_nothing_else(routes: dict[str, str]) -> None:
    del routes["192.0.2.1"]
    assert (await whereabouts(("http://127.0.0.1:2379",), "", "")).console == "127.0.0.1:7410"


@pytest.mark.parametrize("endpoint", [f"http://{'x' * 70}.example:2379", "http://127.0.0.1:99999", "what?"])
async def test_an_endpoint_that_is_none_ends_nothing(endpoint: str) -> None:
    assert (await whereabouts((endpoint,), "", "")).address == "10.9.9.9"


@pytest.mark.parametrize("listen", ["host:99", "1.2.3.4", "1.2.3.4:99999"])
def test_a_wrong_setting_is_named(tmp_path: Path, listen: str) -> None:
    file = tmp_path / "agent.toml"
    file.write_text(f'endpoints = ["http://10.0.0.5:2379"]\nname = "n1"\nconsole_listen = "{listen}"\n')
    with pytest.raises(SettingsError, match="console_listen"):
        load(file, {})
