"""The scheduler's composition root: settings in, the store joined to the logic, signals out."""

from __future__ import annotations

import asyncio
import signal
from datetime import UTC, datetime

import structlog
import uvloop

from ..core.state.keys import Keys
from ..settings import StoreSettings
from ..store.etcd.channel import be_quiet
from ..store.etcd.store import EtcdStore
from ..telemetry import logs
from ..telemetry.syslog import Syslog
from .scheduler import Scheduler

log = structlog.get_logger()

APP = "metastack-scheduler"
_SETTINGS_S = 5.0


async def serve(settings: StoreSettings, name: str, ttl_s: int) -> None:
    """Run one scheduler until SIGTERM or SIGINT."""
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)
    be_quiet()
    syslog = Syslog(host=name, app=APP)
    logs.forward_to(syslog.offer)
    store = EtcdStore(settings)
    scheduler = Scheduler(store=store, keys=Keys(settings.root), name=name, stamp=_now, ttl_s=ttl_s)
    log.info("scheduler_started", scheduler=name, endpoints=list(settings.endpoints))

    async def follow_settings() -> None:
        while True:
            syslog.set_target(scheduler.advice.picture.world.config.syslog)
            await asyncio.sleep(_SETTINGS_S)

    try:
        async with asyncio.TaskGroup() as group:
            helpers = [group.create_task(syslog.run()), group.create_task(follow_settings())]
            await scheduler.run(stop)
            for helper in helpers:
                helper.cancel()
    finally:
        await syslog.close(2.0)
        await store.close()
    log.info("scheduler_stopped", scheduler=name)


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="milliseconds")[:-6] + "Z"


def run(settings: StoreSettings, name: str, ttl_s: int, log_format: str, log_level: str) -> int:
    """Entry: uvloop, logs, exit code."""
    logs.configure("json" if log_format == "json" else "console" if log_format == "console" else "auto",
                   log_level, name, APP)  # fmt: skip
    try:
        with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
            runner.run(serve(settings, name, ttl_s))
    except BaseException as error:
        found = error
        while isinstance(found, BaseExceptionGroup):
            found = found.exceptions[0]
        log.exception("scheduler_crashed", scheduler=name, error=f"{type(found).__name__}: {found}")
        return 1
    return 0
