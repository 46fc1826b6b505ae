"""``cluster restore FILE``: a member's new data folder from a backup, by the restore of etcd's own release.

Owns: the command line of `etcdctl snapshot restore` (3.4) or `etcdutl snapshot restore` (3.5 and later), and
running it. Refuses: stopping or starting etcd, an existing data folder, and raising the generation
(:mod:`.restore`).
Rule: the folder has its name only when the tool is done with it, so etcd never starts on half of it.
"""

from __future__ import annotations

import os
import pwd
import re
import shlex
import shutil
import socket
import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Final
from urllib.parse import urlsplit

from msgspec import Struct

from ..problem import Code, Problem, conflict, usage
from . import backup_file

RESTORE_S: Final = 1800.0
"""Longest time that etcd's tool may take, seconds."""
ASK_S: Final = 10.0
SIZES: Final = (1, 3, 5, 7)
OWNER: Final = "etcd"
"""The user that Debian's etcd runs as."""
_NAME: Final = re.compile(r"[A-Za-z0-9._-]+")


class Tool(Struct, frozen=True):
    """A program that restores snapshots."""

    program: str
    version: str

    @property
    def release(self) -> tuple[int, ...]:
        return release_of(self.version)


class MemberRestore(Struct, kw_only=True):
    """A member that is restored: what is about to be done, or was done."""

    done: bool = False
    name: str
    data_dir: str
    token: str
    """Of the new cluster; the same on every member."""
    command: list[str]
    """As it was run; it made a folder that then got the name of ``data_dir``."""
    tool_version: str
    file: str
    at: str | None = None
    """When the backup was made; null: it has no manifest."""
    revision: int | None = None
    owner: str | None = None
    """User that the folder was given to."""
    next: list[str]
    """What to do then, in this order."""


def check_options(file: Path | None, of_a_member: Sequence[str], reason: str) -> None:
    """Raise Problem when options of both steps are mixed."""
    if file is None and any(of_a_member):
        raise usage(
            "restore",
            "--initial-cluster, --name, --data-dir and --token need a FILE",
            "`metastack cluster restore FILE` restores this host's member",
        )
    if file is not None and reason:
        raise usage("restore", "--reason is for the step without FILE", "give it once etcd runs again")


def members_of(text: str) -> dict[str, list[str]]:
    """``e1=https://10.0.0.1:2380,e2=…`` as peer URLs by name; raises Problem."""
    found: dict[str, list[str]] = {}
    for part in text.split(","):
        name, _, url = part.strip().partition("=")
        if not _NAME.fullmatch(name) or not _is_peer(url):
            raise usage(
                "initial-cluster",
                f"{part.strip()!r} is not a member",
                "such as e1=https://10.0.0.1:2380,e2=https://10.0.0.2:2380,e3=https://10.0.0.3:2380",
            )
        found.setdefault(name, []).append(url)
    if len(found) not in SIZES:
        raise usage("initial-cluster", f"names {len(found)} members", "etcd has 1, 3 or 5 members")
    return found


def _is_peer(url: str) -> bool:
    try:
        parts = urlsplit(url)
        return parts.scheme in ("http", "https") and bool(parts.hostname and parts.port) and not parts.path
    except ValueError:
        return False


def plan_member(
    file: Path, initial_cluster: str, name: str, data_dir: Path | None, token: str, tool: Tool | None = None
) -> MemberRestore:
    """What restoring this member takes; raises Problem for whatever stands in the way. Writes nothing."""
    members = members_of(initial_cluster)
    if not name and len(members) > 1:
        raise usage("name", "which of the members is this host's?", f"--name, one of {', '.join(members)}")
    name = name or next(iter(members))
    if name not in members:
        raise usage("name", f"{name!r} is not in --initial-cluster", f"one of {', '.join(members)}")
    if data_dir is None:
        raise usage("data-dir", "is needed", "etcd's own --data-dir, such as --data-dir /var/lib/etcd/default")
    data_dir = data_dir.absolute()
    backup = backup_file.verified(file)
    manifest = backup.manifest
    if data_dir.is_symlink() or data_dir.exists():
        raise conflict(
            f"folder {data_dir}",
            "exists already: a restore never writes over etcd's data",
            f"stop etcd on every member, then `{shlex.join(['mv', str(data_dir), f'{data_dir}.lost'])}`",
        )
    backup_file.check_folder(data_dir.parent)
    if answering := [url for url in members[name] if _answers(url)]:
        raise conflict(
            f"etcd {name}",
            f"still answers at {answering[0]}: with it there would be two clusters over one storage",
            "stop etcd on every member: `systemctl stop etcd`",
        )
    tool = tool or find_tool()
    if manifest is not None and tool.release < release_of(manifest.etcd):
        raise Problem(
            Code.FAILED,
            f"file {file}",
            f"was made by etcd {manifest.etcd}, and {tool.program} here is {tool.version}",
            f"install etcd {manifest.etcd} on this host",
        )
    # No cluster had this word, least of all the one that was saved; and it is the same on every host.
    token = token or f"restored-{backup.sha256[:16]}"
    command = [
        *(tool.program, "snapshot", "restore", str(file.absolute()), "--data-dir", str(_aside(data_dir))),
        *("--name", name, "--initial-cluster", initial_cluster, "--initial-cluster-token", token),
        *("--initial-advertise-peer-urls", ",".join(members[name])),
    ]
    return MemberRestore(
        name=name,
        data_dir=str(data_dir),
        token=token,
        command=command,
        tool_version=tool.version,
        file=str(file.absolute()),
        at=manifest.at if manifest is not None else None,
        revision=manifest.revision if manifest is not None else None,
        next=_next(file, initial_cluster, [one for one in members if one != name], data_dir, token),
    )


def restore_member(plan: MemberRestore) -> MemberRestore:
    """Do it; raises Problem, and then there is no data folder."""
    data_dir = Path(plan.data_dir)
    aside = _aside(data_dir)
    shutil.rmtree(
        aside, ignore_errors=True
    )  # of a run that was killed; only this command makes one of that name
    try:
        done = _run(plan.command, RESTORE_S)
        if done.returncode:
            lines = (done.stdout + done.stderr).strip().splitlines() or [f"exit status {done.returncode}"]
            raise Problem(
                Code.FAILED, f"etcd {plan.name}", f"the restore failed: {lines[-1]}", "etcd has no data"
            )
        plan.owner = _give(aside)
        _sync(aside)
        os.rename(aside, data_dir)
        _sync(data_dir.parent)
    except OSError as error:
        raise Problem(Code.FAILED, f"folder {data_dir}", f"cannot be made: {error.strerror}") from None
    finally:
        shutil.rmtree(aside, ignore_errors=True)
    plan.done = True
    return plan


def find_tool() -> Tool:
    """The program that restores here: etcdutl where there is one, else the etcdctl of 3.4 or 3.5."""
    for program in ("etcdutl", "etcdctl"):
        if shutil.which(program) is None:
            continue
        said = _run([program, "version"], ASK_S)
        found = re.search(r"(?m)^\w+ version: ([0-9]\S*)", said.stdout)
        if found is None:
            raise Problem(Code.FAILED, program, "does not tell its version", f"run `{program} version`")
        tool = Tool(program, found[1])
        if program == "etcdctl" and tool.release >= (3, 6):
            break
        return tool
    raise Problem(
        Code.FAILED,
        "etcdutl",
        "is not installed here: from etcd 3.6 on it restores, before that etcdctl can",
        "`apt-get install etcd-client`, of the same version as this host's etcd-server",
    )


def release_of(version: str) -> tuple[int, ...]:
    """``3.5.16`` as (3, 5)."""
    return tuple(int(part) for part in re.findall(r"[0-9]+", version)[:2])


def _aside(data_dir: Path) -> Path:
    return data_dir.with_name(f".{data_dir.name}.restoring")


def _run(command: Sequence[str], timeout_s: float) -> subprocess.CompletedProcess[str]:
    # etcd's tools read every option from ETCD_* and ETCDCTL_* too.
    env: Mapping[str, str] = {"PATH": os.environ.get("PATH", os.defpath), "ETCDCTL_API": "3"}
    try:
        return subprocess.run(
            command,
            env=env,
            capture_output=True,
            text=True,
            timeout=timeout_s,
            check=False,
            stdin=subprocess.DEVNULL,
        )
    except subprocess.TimeoutExpired:
        raise Problem(Code.TIMEOUT, command[0], f"did not end within {timeout_s:g} s") from None
    except OSError as error:
        raise Problem(Code.FAILED, command[0], f"cannot be started: {error.strerror}") from None


def _answers(url: str) -> bool:
    parts = urlsplit(url)
    try:
        with socket.create_connection((parts.hostname or "", parts.port or 0), timeout=1.0):
            return True
    except OSError:
        return False


def _give(folder: Path) -> str | None:
    """Let the user of Debian's etcd own it; None: there is no such user, or this is not root."""
    if os.geteuid() != 0:
        return None
    try:
        user = pwd.getpwnam(OWNER)
    except KeyError:
        return None
    for path in (folder, *folder.rglob("*")):
        os.chown(path, user.pw_uid, user.pw_gid, follow_symlinks=False)
    return OWNER


def _sync(folder: Path) -> None:
    """The tool syncs what it writes; the names in a folder are ours."""
    handle = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def _next(file: Path, cluster: str, others: Sequence[str], data_dir: Path, token: str) -> list[str]:
    def on(host: str) -> str:
        command = ["metastack", "cluster", "restore", file.name, "--name", host, "--initial-cluster", cluster]
        return f"on {host}'s host: {shlex.join([*command, '--data-dir', str(data_dir), '--token', token])}"

    return [
        *map(on, others),
        "on every member, once all have their data: systemctl start etcd",
        "start all agents; `metastack status` names each that rejects this etcd",
        "metastack cluster restore --dry-run",
        'metastack cluster restore --reason "which backup, and why"',
    ]
