"""Does this etcd enforce rights, and everywhere? Asked by writes that must be refused and change nothing.

Owns: the requests, and reading their answers. Refuses: judging what follows (doctor).
Rule: every request deletes a key that never exists, so it changes nothing where etcd lets it pass. etcd before
3.4.42, 3.5.28 and 3.6.9 looks into no transaction within a transaction (GHSA-rfx7-8w68-q57q).
"""

from __future__ import annotations

from typing import Any, Final

from aetcd import rpc
from msgspec import Struct

from metastack.ports import Denied, NotFound, Refused

from .channel import METADATA, Channels, Link

_NOBODY: Final = "metastack-asks-whether-rights-are-on"
"""A user that never exists."""


class RightsProof(Struct, frozen=True, kw_only=True):
    """What etcd lets pass of writes that no role allows."""

    on: bool
    """False: it enforces no rights at all, and nothing else was asked."""
    root: bool = False
    """The asker has every right, so nothing else could be asked."""
    passed: tuple[str, ...] = ()
    """Of ``plain``, ``failure``, ``nested``, ``nested failure``: the places where the write passed."""


async def enabled(channels: Channels) -> bool:
    """True if etcd enforces rights. Anybody may ask.

    etcd 3.4 has no request for it, and later ones answer theirs to root alone; but every one says that
    there is nothing to prove to somebody who tries.
    """

    async def send(link: Link, timeout_s: float) -> Any:
        enter = rpc.AuthenticateRequest(name=_NOBODY)
        return await link.auth.Authenticate(enter, timeout=timeout_s, metadata=METADATA)

    try:
        await channels.ask("whether rights are on", send, twice=True)
    except Denied:
        return True
    except Refused as error:
        if "authentication is not enabled" in str(error):
            return False
        raise
    return True


async def prove(channels: Channels, user: str, forbidden: str, readable: str) -> RightsProof:
    """Try what must be refused. ``forbidden``: a key that no role writes; ``readable``: one that all read."""
    if not await enabled(channels):
        return RightsProof(on=False)
    if await _is_root(channels, user):
        return RightsProof(on=True, root=True)
    # Never true: a version is not negative.
    false = rpc.Compare(result=rpc.Compare.EQUAL, target=rpc.Compare.VERSION, key=readable.encode(), version=-1)
    write = rpc.RequestOp(request_delete_range=rpc.DeleteRangeRequest(key=forbidden.encode()))

    def inner(request: Any) -> Any:
        return rpc.TxnRequest(success=[rpc.RequestOp(request_txn=request)])

    plain = rpc.TxnRequest(success=[write])
    failure = rpc.TxnRequest(compare=[false], failure=[write])
    tried = {"plain": plain, "failure": failure, "nested": inner(plain), "nested failure": inner(failure)}
    passed = [place for place, request in tried.items() if await _passes(channels, request)]
    return RightsProof(on=True, passed=tuple(passed))


async def _passes(channels: Channels, request: Any) -> bool:
    async def send(link: Link, timeout_s: float) -> Any:
        return await link.kv.Txn(request, timeout=timeout_s, metadata=METADATA)

    try:
        await channels.ask("a write that must be refused", send, twice=True)
    except Denied:
        return False
    return True


async def _is_root(channels: Channels, user: str) -> bool:
    """A user may ask for its own roles."""

    async def send(link: Link, timeout_s: float) -> Any:
        asked = rpc.AuthUserGetRequest(name=user)
        return await link.auth.UserGet(asked, timeout=timeout_s, metadata=METADATA)

    try:
        return "root" in (await channels.ask(f"user {user}", send, twice=True)).response.roles
    except (Denied, NotFound):
        return False
