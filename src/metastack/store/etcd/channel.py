"""Endpoints, their channels, and which member is asked next.

Owns: one gRPC channel per endpoint, rotation between them, and the deadlines of a call.
Refuses: gRPC's own load balancing and retries, which know neither etcd's errors nor what may run twice.
Rule: a request waits for the connection apart from its answer. Whatever fails before the connection stands
was certainly not applied; whatever fails after it may have been, unless the error itself says otherwise.
"""

from __future__ import annotations

import asyncio
import contextlib
import random
import re
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import grpc
import grpc.aio
from aetcd import rpc
from msgspec import Struct

from metastack.ports import Denied, Refused, Unavailable, UnknownOutcome
from metastack.settings import StoreSettings

from .errors import Judgement, Verdict, judge

if TYPE_CHECKING:
    from ssl import SSLContext

    from .wire import Wire

ATTEMPT_S: Final = 1.5
"""How long one member may take before the next is asked."""
TOTAL_S: Final = 5.0
PAUSE_S: Final = (0.05, 0.5)
"""Shortest and longest pause after every endpoint was tried in vain."""
METADATA: Final = (("hasleader", "true"),)
"""A member cut off from its peers then answers "no leader" instead of waiting for one."""

OPTIONS: Final = (
    ("grpc.max_receive_message_length", -1),
    ("grpc.max_send_message_length", -1),
    # etcd ends a connection that is pinged more often than every 5 s.
    ("grpc.keepalive_time_ms", 6000),
    ("grpc.keepalive_timeout_ms", 3000),
    # Without it a stopped server is noticed after 70 s: keepalive_timeout_ms has no effect in grpcio 1.85.
    ("grpc.http2.ping_timeout_ms", 3000),
    ("grpc.http2.max_pings_without_data", 0),
    ("grpc.initial_reconnect_backoff_ms", 100),
    ("grpc.min_reconnect_backoff_ms", 1000),
    ("grpc.max_reconnect_backoff_ms", 1000),
    # Stores of one process share no connections: one's broken member is not the other's.
    ("grpc.use_local_subchannel_pool", 1),
    # A proxy of the environment is for the web, not for the cluster's own traffic.
    ("grpc.enable_http_proxy", 0),
)

_WEB: Final = re.compile(r"((?P<scheme>https?)://)?(?P<target>([\w.-]+|\[[0-9a-fA-F:.]+\]):[0-9]{1,5})")
_HANDSHAKE: Final = re.compile("TSI_DATA_CORRUPTED|ALERT_(BAD_CERTIFICATE|CERTIFICATE|UNKNOWN_CA)")
"""What is left of the server's TLS alert, by TLS 1.3 and 1.2: it refused us, and nobody says why."""
_CLOSED: Final = ("Socket closed", "Connection reset by peer")
_DECIDED: Final = (grpc.ChannelConnectivity.READY, grpc.ChannelConnectivity.TRANSIENT_FAILURE)


class NotSent(Exception):
    """No connection to this endpoint came about in time: nothing was sent."""


class Answer(Struct, frozen=True):
    """A response, and the loop time just before the request that it answers was sent."""

    response: Any
    sent_s: float


class Link:
    """One endpoint: its channel and stubs, made when first used."""

    def __init__(self, endpoint: str, settings: StoreSettings) -> None:
        self.endpoint = endpoint
        self._settings = settings
        self._channel: Any = None
        self._target, self._secure = target_of(endpoint, tls=bool(settings.ca or settings.cert))
        self._wires: list[Wire] = []
        self._shown: tuple[tuple[int, int], ...] = ()
        """Which files the channel's certificates were read from."""
        self._replaced: Any = None
        """The channel with the certificates of before."""
        self.kv: Any = None
        self.lease: Any = None
        self.watch: Any = None
        self.maintenance: Any = None
        self.auth: Any = None

    async def ready(self, timeout_s: float) -> None:
        """Return when the connection stands or is known to be broken; raises NotSent when time is up.

        A request over a broken one fails at once, unsent, and its error says why (refused, TLS, DNS).
        """
        try:
            if self._channel is None:
                self._open()
            elif self._secure and self._channel.get_state() != grpc.ChannelConnectivity.READY:
                await self._reopen_renewed()
            channel = self._channel
            async with asyncio.timeout(timeout_s):
                while (state := channel.get_state(try_to_connect=True)) not in _DECIDED:
                    await channel.wait_for_state_change(state)
        except TimeoutError:
            raise NotSent(f"no connection within {timeout_s:.2g} s") from None
        except grpc.aio.UsageError as error:
            raise NotSent(str(error)) from None

    async def wire(self, path: str, timeout_s: float) -> Wire:
        """A stream on a connection of its own; raises TimeoutError, OSError, ValueError."""
        from .wire import Wire  # who watches nothing, as most commands, does without h2

        tls = _tls(self._settings) if self._secure else None
        async with asyncio.timeout(timeout_s):
            wire = await Wire.open(self._target, path, METADATA, tls)
        self._wires = [wire, *(other for other in self._wires if not other.why)]
        return wire

    async def close(self) -> None:
        for wire in self._wires:
            wire.end("the store was closed")
        for channel in (self._channel, self._replaced):
            if channel is not None:
                await channel.close()
        self._channel = self._replaced = None

    async def _reopen_renewed(self) -> None:
        """Show the certificate that is on disk now: a channel shows for ever what it was made with."""
        if _versions(self._settings) == self._shown:
            return
        old = self._channel
        try:
            self._open()
        except (Denied, Refused) as error:
            say("warning", "etcd_certificate_unreadable", endpoint=self.endpoint, why=str(error))
            return
        say("info", "etcd_certificate_reloaded", endpoint=self.endpoint)
        # What was sent over the old one ends by itself, by its deadline; the one before has nothing left.
        if self._replaced is not None:
            await self._replaced.close()
        self._replaced = old

    def _open(self) -> None:
        if self._secure:
            # Before they are read: a file that is replaced meanwhile counts as changed later.
            self._shown = _versions(self._settings)
            credentials = grpc.ssl_channel_credentials(
                _pem(self._settings.ca), _pem(self._settings.key), _pem(self._settings.cert)
            )
            # On a unix socket gRPC would look for the file's path in the certificate.
            named = [("grpc.ssl_target_name_override", "localhost")] if self._target.startswith("unix:") else []
            self._channel = grpc.aio.secure_channel(self._target, credentials, options=[*OPTIONS, *named])
        else:
            self._channel = grpc.aio.insecure_channel(self._target, options=OPTIONS)
        self.kv = rpc.KVStub(self._channel)
        self.lease = rpc.LeaseStub(self._channel)
        self.watch = rpc.WatchStub(self._channel)
        self.maintenance = rpc.MaintenanceStub(self._channel)
        self.auth = rpc.AuthStub(self._channel)


def broken_off(why: str) -> grpc.aio.AioRpcError:
    """The error of a stream that ended without one of its own."""
    return grpc.aio.AioRpcError(grpc.StatusCode.UNKNOWN, grpc.aio.Metadata(), grpc.aio.Metadata(), why)


Send = Callable[[Link, float], Awaitable[Any]]
"""Sends one request over a link whose connection stands, with a deadline in seconds."""


class Channels:
    """Every endpoint of one store, and the one in use."""

    def __init__(self, settings: StoreSettings, total_timeout_s: float) -> None:
        if not settings.endpoints:
            raise Refused("no etcd endpoints are configured")
        self._settings = settings
        self.links = [Link(endpoint, settings) for endpoint in settings.endpoints]
        self.total_timeout_s = total_timeout_s
        # Spreads many processes over the members.
        self._current = random.randrange(len(self.links))
        self._closed = False

    @property
    def current(self) -> Link:
        return self.links[self._current]

    def leave(self, link: Link, why: str) -> None:
        """Ask another endpoint from now on, if ``link`` is the one in use."""
        if link is self.current and len(self.links) > 1:
            self._current = (self._current + 1) % len(self.links)
            say("debug", "etcd_endpoint_changed", left=link.endpoint, to=self.current.endpoint, why=why)

    async def ask(
        self,
        what: str,
        send: Send,
        *,
        twice: bool,
        attempt_s: float = ATTEMPT_S,
        total_s: float | None = None,
    ) -> Answer:
        """Send one request, to one member after the other, until it is answered or time is up.

        ``twice``: it may run twice (reads, renewals); otherwise it is sent again only when it certainly was
        not applied. Raises the families of the ports; Unavailable names every endpoint that was tried.
        """
        self.refuse_if_closed(what)
        loop = asyncio.get_running_loop()
        total_s = self.total_timeout_s if total_s is None else total_s
        deadline_s = loop.time() + total_s
        tried: dict[str, str] = {}
        failures = 0
        while (left_s := deadline_s - loop.time()) > 0.001:
            link = self.current
            timeout_s = min(attempt_s, left_s)
            try:
                await link.ready(timeout_s)
                sent_s = loop.time()
                timeout_s = min(attempt_s, max(deadline_s - sent_s, 0.001))
                return Answer(await send(link, timeout_s), sent_s)
            except NotSent as error:
                tried[link.endpoint] = str(error)
            except asyncio.CancelledError:
                # close() cancels the requests of others, who were not cancelled themselves.
                task = asyncio.current_task()
                if self._closed and task is not None and not task.cancelling():
                    raise (Unavailable if twice else UnknownOutcome)(f"{what}: the store was closed") from None
                raise
            except grpc.aio.AioRpcError as error:
                text = text_of(error)
                judgement = judge(error.code(), text)
                tried[link.endpoint] = text
                if judgement.verdict is Verdict.FINAL:
                    raise judgement.error(f"{what}: {self.denied(judgement, text)} ({link.endpoint})") from None
                if judgement.verdict is Verdict.UNSURE and not twice:
                    self.leave(link, text)
                    raise UnknownOutcome(f"{what}: {text} ({link.endpoint})") from None
            self.leave(link, tried[link.endpoint])
            failures += 1
            if failures % len(self.links) == 0:
                await asyncio.sleep(min(jitter_s(failures // len(self.links)), deadline_s - loop.time()))
        seen = "; ".join(f"{endpoint}: {self._reason(endpoint, why)}" for endpoint, why in tried.items())
        raise Unavailable(f"{what}: etcd is unreachable after {total_s:g} s ({seen})")

    def denied(self, judgement: Judgement, text: str) -> str:
        """An error's text; of a missing right with the user who lacks it."""
        if judgement.error is not Denied or not self._settings.cert:
            return text
        from metastack.pki.own import own_user

        return f"{own_user(self._settings.cert)} may not: {text}"

    def _reason(self, endpoint: str, text: str) -> str:
        """An error's text for people; of a refused handshake what is wrong with our own certificate."""
        refused, settings = _HANDSHAKE.search(text), self._settings
        closed = settings.cert and not endpoint.startswith("http:") and any(said in text for said in _CLOSED)
        if not refused and not closed:
            return brief(text)
        from metastack.pki.own import own_flaw  # 40 ms, which are of use here alone

        if not settings.cert:
            return "it demands a client certificate, and none is configured"
        flaw = own_flaw(settings.ca, settings.cert, settings.key)
        if flaw is not None:
            return f"this client's certificate: {flaw}"
        # With a revocation list etcd drops the connection after the handshake, also when it stops.
        return brief(text) if refused else "it closed the connection: is the certificate revoked?"

    @contextlib.asynccontextmanager
    async def refusals_named(self, what: str, link: Link) -> AsyncIterator[None]:
        """Turn a gRPC error of a single request to a single member into the families of the ports."""
        try:
            yield
        except grpc.aio.AioRpcError as error:
            text = text_of(error)
            judgement = judge(error.code(), text)
            raise judgement.error(f"{what}: {self.denied(judgement, text)} ({link.endpoint})") from None
        except NotSent as error:
            raise Unavailable(f"{what}: {error} ({link.endpoint})") from None

    def refuse_if_closed(self, what: str) -> None:
        """Raise Unavailable after :meth:`close`."""
        if self._closed:
            raise Unavailable(f"{what}: the store is closed")

    async def close(self) -> None:
        self._closed = True
        for link in self.links:
            await link.close()


def text_of(error: grpc.aio.AioRpcError) -> str:
    """What an error says."""
    return str(error.details() or error.code().name)


def brief(text: str) -> str:
    """An error's text for people: gRPC puts the reason of a failed connection last."""
    reason = re.sub("^[A-Z_]+: ", "", text.rpartition("last error: ")[2])
    if _HANDSHAKE.search(reason):
        reason = "it refuses this client's certificate: revoked, or of another CA"
    if "CERTIFICATE_VERIFY_FAILED" in reason:
        reason = (
            f"its certificate is not trusted: {reason.rpartition('VERIFY_FAILED: ')[2].removesuffix(': OK')}"
        )
    return reason


_quiet = False


def be_quiet() -> None:
    """Log nothing in this process: a command line tells of trouble in its one error message."""
    global _quiet
    _quiet = True


def say(level: str, event: str, **fields: object) -> None:
    """Log an event; structlog is loaded with the first one, because it doubles the CLI's start-up."""
    if _quiet:
        return
    import structlog

    getattr(structlog.get_logger(), level)(event, **fields)


def jitter_s(round_: int) -> float:
    """Pause before round 2, 3, …: doubling up to a bound, drawn from its upper half."""
    shortest_s, longest_s = PAUSE_S
    return min(shortest_s * 2.0 ** min(round_, 10), longest_s) * random.uniform(0.5, 1.0)


def target_of(endpoint: str, tls: bool = False) -> tuple[str, bool]:
    """gRPC's name for an endpoint of the settings, and whether it is TLS; raises Refused.

    ``tls``: certificates are set, so an endpoint that names no scheme is https; otherwise it is http.
    """
    if web := _WEB.fullmatch(endpoint):
        return web["target"], (web["scheme"] or ("https" if tls else "http")) == "https"
    if endpoint.startswith("unix:/"):
        return endpoint, False
    if endpoint.startswith("unixs:/"):
        return endpoint.replace("unixs:", "unix:", 1), True
    raise Refused(
        f"etcd endpoint {endpoint!r}: expected http://host:port, https://host:port, host:port, "
        "unix:/path or unixs:/path"
    )


def _tls(settings: StoreSettings) -> SSLContext:
    """The same certificates as gRPC's; raises OSError, of which errors of TLS are."""
    import ssl  # of no use to a command line without TLS

    context = ssl.create_default_context(cafile=settings.ca or None)
    if settings.cert:
        context.load_cert_chain(settings.cert, settings.key or None)
    context.set_alpn_protocols(["h2"])
    return context


def _versions(settings: StoreSettings) -> tuple[tuple[int, int], ...]:
    """Which files are at the paths of the certificates now: a renewal replaces each."""
    found = []
    for path in filter(None, (settings.ca, settings.cert, settings.key)):
        try:
            stat = Path(path).stat()
            found.append((stat.st_ino, stat.st_mtime_ns))
        except OSError:
            found.append((0, 0))
    return tuple(found)


def _pem(path: str) -> bytes | None:
    """A PEM file's bytes, None for no path; raises Denied or Refused naming the file."""
    if not path:
        return None
    try:
        return Path(path).read_bytes()
    except PermissionError:
        raise Denied(f"{path}: this user may not read it") from None
    except OSError as error:
        raise Refused(f"{path}: {error.strerror}") from None
