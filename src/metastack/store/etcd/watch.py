"""One watch: a stream of its own, resumed for ever.

Owns: creating the stream, noticing that it is dead, resuming after the last delivered revision.
Refuses: a queue. The reader pulls from the stream, and HTTP/2 flow control holds etcd back behind it.
Rule: the revision to resume from moves only with what was delivered whole: never with half of a fragmented
response, and never with the header of one, which can be ahead of the events in it.
"""

from __future__ import annotations

import asyncio
import contextlib
from typing import TYPE_CHECKING, Any, Final

import grpc.aio
from aetcd import rpc

from metastack.core.transaction import Batch, KeyEvent
from metastack.ports import Compacted, Denied

from .channel import ATTEMPT_S, METADATA, Channels, Link, NotSent, brief, broken_off, jitter_s, say, text_of
from .errors import Verdict, judge
from .messages import events_of

if TYPE_CHECKING:
    from .wire import Wire

PATH: Final = "/etcdserverpb.Watch/Watch"
WIRE_S: Final = 1.0
"""How long a connection to a member may take that gRPC has one to."""
QUIET_S: Final = 2.0
"""After this long without a word the member is asked for one."""
SILENT_S: Final = 2.5
"""And this long after the question it counts as dead: before gRPC's keepalive would say so (6 to 9 s)."""
TOGETHER: Final = 48
"""Events of which no more are added to a batch: a millisecond's work, after which the loop has its turn."""
STEADY_S: Final = 5.0
"""A stream that lived this long is no sign of trouble: the next pause is short again."""


class WatchState:
    """State of one watch between and across streams."""

    def __init__(
        self,
        channels: Channels,
        key: bytes,
        range_end: bytes,
        after_revision: int,
        without: tuple[bytes, ...] = (),
    ) -> None:
        self._channels = channels
        self._without = without
        self._key = key
        self._range_end = range_end
        self._last = after_revision
        self._link: Link | None = None
        self._call: Any = None
        self._timer: asyncio.TimerHandle | None = None
        self._asking: asyncio.Task[None] | None = None
        """The member is asked for a word; at most one at a time."""
        self._reading_since_s: float | None = None
        """None: whoever pulls is busy with what came before."""
        self._why = ""
        """Why the stream was given up while it was being read."""
        self._parts = list[KeyEvent]()
        """Of a response that comes in fragments, what has come."""
        self._cluster_id = 0
        self._opened_s = 0.0
        self._failures = 0
        self._wired = False
        """The last stream was not gRPC's, and nobody knows that it works."""
        self._streams = 0
        """How many there were: the first one follows a list, which told the truth."""

    async def next(self) -> Batch:
        """The next batch, over as many streams as it takes; raises Compacted and Denied."""
        while True:
            self._channels.refuse_if_closed(f"watch {self._key.decode()}")
            try:
                if self._call is None:
                    await self._open()
                batch = await self._receive()
            except NotSent as error:
                await self._break(str(error))
            except grpc.aio.AioRpcError as error:
                text = text_of(error)
                judgement = judge(error.code(), text)
                if judgement.verdict is Verdict.FINAL and judgement.error in (Denied, Compacted):
                    self.close()
                    said = self._channels.denied(judgement, text)
                    raise judgement.error(f"watch {self._key.decode()}: {said}") from None
                await self._break(text)
            else:
                if batch is not None:
                    return batch

    def close(self) -> None:
        """End the stream, whatever it is doing."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        if self._asking is not None:
            self._asking.cancel()
            self._asking = None
        if self._call is not None:
            self._call.cancel()
            self._call = None

    async def _open(self) -> None:
        """A new stream from the revision after the last delivered one, on the member in use."""
        link = self._link = self._channels.current
        await link.ready(ATTEMPT_S)
        self._opened_s = asyncio.get_running_loop().time()
        self._parts.clear()
        self._wired = not self._wired
        self._call = await self._wire(link) if self._wired else link.watch.Watch(metadata=METADATA)
        create = rpc.WatchCreateRequest(
            key=self._key,
            range_end=self._range_end,
            start_revision=self._last + 1,
            progress_notify=True,
            fragment=True,
        )
        await self._write(rpc.WatchRequest(create_request=create))
        try:
            async with asyncio.timeout(ATTEMPT_S):
                response = await self._read()
        except TimeoutError:
            raise broken_off(f"no watch within {ATTEMPT_S:g} s") from None
        self._refuse_cancelled(response)
        if not response.created:
            raise broken_off("the first answer is not the watch's creation")
        self._wired = False
        # Safety: revisions of two clusters cannot be compared. A cluster restored from a backup has a new id.
        if self._cluster_id not in (0, response.header.cluster_id):
            raise Compacted(f"watch {self._key.decode()}: {link.endpoint} is another cluster than before")
        self._cluster_id = response.header.cluster_id
        behind = self._streams and response.header.revision < self._last
        # Safety: the same id does not make it the same cluster: one restored with the same members and token
        # keeps it. Or this member lags behind, as after a restart; then it delivers what is to come.
        if behind and await self._agreed_revision(link) < self._last:
            raise Compacted(f"watch {self._key.decode()}: {link.endpoint} is behind what was delivered")
        self._streams += 1
        self._look_after(QUIET_S)
        if self._failures:
            say("info", "watch_resumed", prefix=self._key.decode(), endpoint=link.endpoint, after=self._last)

    async def _agreed_revision(self, link: Link) -> int:
        """What the members agree on: a linearizable read, which one that lags answers when it has caught up."""
        asked = rpc.RangeRequest(key=self._key, count_only=True)
        response = await link.kv.Range(asked, metadata=METADATA, timeout=ATTEMPT_S)
        return int(response.header.revision)

    @staticmethod
    async def _wire(link: Link) -> Wire:
        """The cheap stream. Where it does not come about the next one is gRPC's, which knows why or works."""
        try:
            return await link.wire(PATH, WIRE_S)
        except (OSError, ValueError) as error:  # TimeoutError is one of the first
            raise broken_off(f"no connection for a watch: {error or 'no answer'}") from None

    async def _receive(self) -> Batch | None:
        """What the stream says next, and whatever else has come; None when that only proves that it lives.

        Where it breaks in between, what was read here is not delivered, and comes again.
        """
        last, end, taken = self._last, 0, 0
        events, parts = list[KeyEvent](), self._parts
        while True:
            response = await self._read()
            self._refuse_cancelled(response)
            if came := response.events:
                parts += events_of(came, self._without)
                end = came[-1].kv.mod_revision
                taken += len(came)
            if response.fragment:
                if last > self._last and not self._more():
                    break  # what is whole does not wait for the rest of this one
                continue
            # Safety: an answer to our own question (watch id -1) may overtake events before etcd 3.4.25 and
            # 3.5.8, so it moves nothing. One that etcd sends by itself comes in the watch's own order.
            if not end and response.watch_id != -1:
                end = response.header.revision
            if end > last:
                # Safety: a resumed stream starts after the last one delivered; the filter says so twice.
                events += [event for event in parts if event.revision > last]
                last = end
            end = 0
            parts.clear()
            if taken >= TOGETHER or not self._more():
                break
        if last == self._last:
            return None
        if taken:
            self._failures = 0
        self._last = last
        return Batch(last, tuple(events), self._cluster_id)

    def _more(self) -> bool:
        """More has come already. Taken together, messages cost a reader that is behind a third less each."""
        return bool(getattr(self._call, "there", False))

    def _refuse_cancelled(self, response: Any) -> None:
        if not response.canceled:
            return
        if response.compact_revision:
            self.close()
            raise Compacted(
                f"watch {self._key.decode()}: revision {self._last + 1} is gone, "
                f"the oldest is {response.compact_revision}"
            )
        # Its text is judged like that of an error: a denied watch ends, any other is made again.
        raise broken_off(f"cancelled: {response.cancel_reason or 'no reason given'}")

    async def _read(self) -> Any:
        """The next response. Awaited as it is: a task and a timer for each would cost more than the message."""
        self._reading_since_s, self._why = asyncio.get_running_loop().time(), ""
        try:
            response = await self._call.read()
        except asyncio.CancelledError:
            task = asyncio.current_task()
            if task is not None and task.cancelling():
                raise
            # The call was cancelled and not this task: by the look-out below, or with the channel.
            raise broken_off(self._why or "the channel was closed") from None
        finally:
            self._reading_since_s = None
        if not isinstance(response, rpc.WatchResponse):
            raise broken_off(self._why or getattr(self._call, "why", "") or "the stream ended")
        return response

    def _look_after(self, delay_s: float, asked_in_s: float = 0.0) -> None:
        loop = asyncio.get_running_loop()
        self._timer = loop.call_later(delay_s, self._look_out, asked_in_s)

    def _look_out(self, asked_in_s: float) -> None:
        """One timer a stream: ask after a quiet while, give the stream up when that brings nothing.

        ``asked_in_s``: in the read that began then the member was asked; no message came if it goes on still.
        """
        since_s, now_s = self._reading_since_s, asyncio.get_running_loop().time()
        if since_s is None:
            self._look_after(QUIET_S)  # nobody waits for a word
        elif since_s == asked_in_s:
            self._give_up(f"silent for {QUIET_S + SILENT_S:g} s")
        elif (left_s := since_s + QUIET_S - now_s) > 0.001:
            self._look_after(left_s)
        else:
            self._asking = asyncio.ensure_future(self._ask())
            self._look_after(SILENT_S, since_s)

    async def _ask(self) -> None:
        """Have the member say something."""
        try:
            await self._write(rpc.WatchRequest(progress_request=rpc.WatchProgressRequest()))
        except grpc.aio.AioRpcError as error:
            self._give_up(text_of(error))

    def _give_up(self, why: str) -> None:
        if self._call is not None:
            self._why = why
            self._call.cancel()

    async def _write(self, request: Any) -> None:
        try:
            async with asyncio.timeout(ATTEMPT_S):
                await self._call.write(request)
        except TimeoutError:
            raise broken_off("the stream takes no requests") from None
        except asyncio.InvalidStateError as error:
            raise broken_off(str(error)) from None

    async def _break(self, why: str) -> None:
        """After a stream ended: another member, after a pause that grows while nothing works."""
        link = self._link
        assert link is not None
        self.close()
        lived_s = asyncio.get_running_loop().time() - self._opened_s
        self._failures = 1 if lived_s > STEADY_S else self._failures + 1
        if self._failures == 1:
            say("warning", "watch_broken", prefix=self._key.decode(), endpoint=link.endpoint, why=brief(why))
        self._channels.leave(link, why)
        if self._failures > 1:
            with contextlib.suppress(TimeoutError):
                await asyncio.sleep(jitter_s(self._failures))
