"""The quickstart after the packages: a VM that survives the loss of its node, shown step by step.

Owns: the story and its proof. Refuses: knowing how anything is done; it types the commands that a person
would (:mod:`metastack.cli`), and believes only what the guest itself says on its serial console.
Rule: it may be run again at any time and ends in the same state; every wait has a deadline.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import re
import selectors
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

from metastack.contexts import ContextError
from metastack.core.model import Phase, VmId
from metastack.ports import Broken, NotFound, Refused, Unavailable

from . import guest, proc
from .cluster import Cluster
from .etcd import EtcdFailed
from .layout import cache

VM = "hello"
MADE_BY = ("made-by", "quickstart")
"""Label of the VM that is the quickstart's own: only that one is ever deleted."""
IMAGE = "guest"
COMMAND_TIMEOUT_S = 180.0
GUEST_TIMEOUT_S = 120.0
TAKEOVER_TIMEOUT_S = 120.0


_CLI = (sys.executable, "-m", "metastack.cli.main")
_QUESTION = b"\necho GUEST READY boot=$(cat /data/boots) asked\n"
_READY = re.compile(r"GUEST READY boot=\d+[^\r\n]*[\r\n]")


class Failed(Exception):
    """A step did not do what it should; the message says what was seen."""


T = TypeVar("T")


class Story:
    """The steps, each printed with its time."""

    def __init__(self, name: str) -> None:
        self.cluster = Cluster(name)
        self.was_there = self.cluster.layout.state_file.exists()
        """The cluster is older than this run: it may hold what others made."""
        self.begun = time.monotonic()

    def step(self, text: str, work: Callable[[], T]) -> T:
        """Do one step and print how long it took."""
        began = time.monotonic()
        print(f"[{began - self.begun:6.1f} s] {text} …", flush=True)
        answer = work()
        print(f"           done in {time.monotonic() - began:.1f} s", flush=True)
        return answer

    def say(self, text: str) -> None:
        print(f"           {text}", flush=True)

    # --- what a person would type

    def metastack(self, *argv: str, show: bool = True) -> str:
        """Run the CLI; its standard output. Raises Failed with what it said."""
        if show:
            self.say(f"$ metastack {' '.join(argv)}")
        try:
            done = subprocess.run(
                [*_CLI, *argv],
                stdin=subprocess.DEVNULL,
                capture_output=True,
                text=True,
                timeout=COMMAND_TIMEOUT_S,
                env=self._environment(),
                check=False,
            )
        except subprocess.TimeoutExpired:
            raise Failed(f"metastack {' '.join(argv)}: no end within {COMMAND_TIMEOUT_S:g} s") from None
        if done.returncode:
            raise CommandFailed(argv, done.returncode, done.stderr.strip())
        return done.stdout

    def show(self, noun: str, name: str) -> dict[str, Any] | None:
        """An object as JSON; None when it does not exist."""
        try:
            found: dict[str, Any] = json.loads(self.metastack(noun, "show", name, "-o", "json", show=False))
        except CommandFailed as error:
            if error.status == 3:
                return None
            raise
        return found

    def _environment(self) -> dict[str, str]:
        return {**os.environ, "METASTACK_CONTEXT": self.cluster.layout.name}

    # --- the steps

    def import_image(self, file: Path) -> str:
        """The image, unless exactly this file is there already; its name.

        An image of that name from an older checkout stays: disks may depend on it.
        """
        digest = sha256(file)
        for name in (IMAGE, f"{IMAGE}-{digest[:8]}"):
            found = self.show("image", name)
            if found is None:
                self.metastack("image", "import", name, str(file))
                return name
            if found["state"] == "ready" and found["sha256"] == digest:
                self.say(f"image {name} is there already")
                return name
        raise Failed(
            f"images {IMAGE} and {IMAGE}-{digest[:8]} are neither usable nor absent: metastack image list"
        )

    def create(self, image: str) -> str:
        """The VM, created again; the node that runs it."""
        size = ("--memory", "128MiB", "--disk", "1GiB")
        self.metastack("vm", "create", VM, "--image", image, *size, "--label", "=".join(MADE_BY))
        found = self.show("vm", VM)
        if not found or not found["node"]:
            raise Failed(f"{VM} runs nowhere: {found}")
        self.say(f"{VM} runs on {found['node']}")
        return str(found["node"])

    def hear(self, boot: int) -> None:
        """Wait until the guest says on its serial console that this is boot number ``boot``."""
        text = Console(self._environment()).listen(boot)
        self.say(f"the guest says: {text}")
        if f"boot={boot} " not in text + " ":
            raise Failed(f"expected boot={boot}")

    def wait_elsewhere(self, node: str) -> str:
        """Wait until the VM runs on another node."""
        records, vm = self.cluster.records, VmId("default", VM)
        seen = ("", "")

        def moved() -> bool:
            nonlocal seen
            seen = records.placed(vm)
            return seen[1] == Phase.RUNNING and seen[0] != node

        def found() -> str:
            return f"{VM} is {seen[1] or 'unseen'} on {seen[0]}: {(self.show('vm', VM) or {}).get('message')}"

        proc.wait_for(moved, TAKEOVER_TIMEOUT_S, found, every_s=0.1)
        self.say(f"{VM} runs on {seen[0]}")
        return seen[0]

    def run(self, storage: str | None) -> None:
        """The whole story; returns only when all of it was seen."""
        self.step(
            "a three-node cluster on this machine", lambda: self.cluster.up(storage=storage, say=self.say)
        )
        file = self.step("a small guest image", lambda: guest.image(cache()))
        if found := self.show("vm", VM):
            if found["labels"].get(MADE_BY[0]) != MADE_BY[1]:
                raise Failed(
                    f"there is a VM {VM} that the quickstart did not make (no label {'='.join(MADE_BY)}): "
                    f"it stays. Delete it (metastack vm delete {VM}), or use another cluster (--name NAME)"
                )
            self.step(
                f"VM {VM} is left from an earlier run: it goes first",
                lambda: self.metastack("vm", "delete", VM, "--yes"),
            )
        image = self.step("import the image", lambda: self.import_image(file))
        node = self.step(f"create VM {VM}", lambda: self.create(image))
        self.step("the guest boots from its disk", lambda: self.hear(1))
        began = time.monotonic()
        self.step(f"cut the power of {node}, which runs it", lambda: self.cluster.kill_node(node))
        self.step("another node takes over", lambda: self.wait_elsewhere(node))
        self.say(f"{time.monotonic() - began:.1f} s from the power cut to running again")
        self.step("the guest boots from the same disk", lambda: self.hear(2))
        self.step(f"switch {node} on again", lambda: self._back(node))

    def leave(self) -> None:
        """Take the cluster down; one that was there before stays when it holds VMs of others. Raises Failed."""
        name = self.cluster.layout.name
        if self.was_there and (others := sorted(self._vms() - self._vms("--label", "=".join(MADE_BY)))):
            raise Failed(
                f"cluster {name} was there before, with VMs that the quickstart did not make: "
                f"{', '.join(others[:3])}{' …' if len(others) > 3 else ''}. It stays; "
                f"'metastack dev down --name {name} --yes' removes all of it"
            )
        self.step("take everything down", lambda: self.cluster.down(self.say))

    def _vms(self, *options: str) -> set[str]:
        rows = json.loads(self.metastack("vm", "list", *options, "-o", "json", show=False))
        return {f"{row['project']}/{row['name']}" for row in rows}

    def _back(self, node: str) -> None:
        self.cluster.start_node(node)
        self.cluster.wait_ready()


class CommandFailed(Failed):
    """A CLI command failed."""

    def __init__(self, argv: Sequence[str], status: int, said: str) -> None:
        super().__init__(f"metastack {' '.join(argv)}: exit {status}: {said}")
        self.status = status


class Console:
    """``metastack vm console``, read by a program."""

    def __init__(self, environment: Mapping[str, str]) -> None:
        self.environment = dict(environment)

    def listen(self, boot: int) -> str:
        """The guest's line that says which boot this is.

        It says so once a boot, maybe before we listen: from time to time its shell is asked, too.
        """
        deadline = time.monotonic() + GUEST_TIMEOUT_S
        heard = ""
        while time.monotonic() < deadline:
            with subprocess.Popen(
                [*_CLI, "vm", "console", VM],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                env=self.environment,
            ) as console:
                try:
                    heard, line = self._read(console, heard, deadline)
                finally:
                    console.kill()
                if line:
                    return line
                assert console.stderr is not None
                heard += console.stderr.read().decode(errors="replace")
            time.sleep(0.2)  # it was refused, or broke off: the VM may just be starting
        raise Failed(
            f"boot {boot}: the guest said nothing within {GUEST_TIMEOUT_S:g} s; heard: {heard[-2000:]!r}"
        )

    def _read(self, console: subprocess.Popen[bytes], heard: str, deadline: float) -> tuple[str, str]:
        assert console.stdin is not None
        assert console.stdout is not None
        with selectors.DefaultSelector() as selector:
            selector.register(console.stdout, selectors.EVENT_READ)
            ask = time.monotonic() + 6
            while (moment := time.monotonic()) < deadline:
                if moment > ask:
                    ask = moment + 3
                    try:
                        console.stdin.write(_QUESTION)
                        console.stdin.flush()
                    except BrokenPipeError:
                        return heard, ""
                if not selector.select(0.2):
                    continue
                data = os.read(console.stdout.fileno(), 65536)
                if not data:
                    return heard, ""
                heard += data.decode(errors="replace")
                if found := _READY.search(heard):
                    return heard, found.group(0).strip()
        return heard, ""


def sha256(file: Path) -> str:
    with file.open("rb") as source:
        return hashlib.file_digest(source, "sha256").hexdigest()


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the story; exit status 0 only if all of it was seen."""
    parser = argparse.ArgumentParser(prog="deploy/quickstart", description=__doc__.splitlines()[0])
    parser.add_argument("--exit", action="store_true", help="take everything down at the end")
    parser.add_argument("--storage", choices=("ceph", "file"), help="default: ceph as root with namespaces")
    parser.add_argument("--name", default="dev", help="the cluster's name")
    options = parser.parse_args(arguments)
    status = 1
    try:
        story = Story(options.name)
    except Refused as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    try:
        story.run(options.storage)
        status = 0
    except (Failed, Unavailable, Refused, Broken, EtcdFailed, ContextError) as error:
        print(f"error: {error}", file=sys.stderr)
    finally:
        if options.exit:
            try:
                story.leave()
            except NotFound:
                pass
            except (Failed, Unavailable, Refused, OSError) as error:
                print(f"error: {error}", file=sys.stderr)
                status = 1
    if status:
        print("the quickstart failed", file=sys.stderr)
        return status
    print(f"[{time.monotonic() - story.begun:6.1f} s] all of it was seen")
    if not options.exit:
        folder = Path(sys.executable).parent
        root = f'sudo "{folder}/metastack"' if "SUDO_UID" in os.environ else "metastack"
        print(f'Next: export PATH="{folder}:$PATH"     (then `metastack` is found; README: "Ten minutes")')
        print("      metastack vm list")
        print(f"      {root} vm console {VM}     (Ctrl-] leaves)")
        print(f"      {root} dev down --name {options.name}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
