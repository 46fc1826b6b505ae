"""The script language: what happens in a run, one step a line.

Owns: parsing and printing. The same language is what a seed expands to, what a failing seed shrinks to, and
what a scenario's author writes. A script and its seed (for latencies) are all that a run depends on.

    seed 7                          latencies and tie breaks; default 0
    nodes 3                         machines n1, n2, ...
    address shared                  to the storage all machines have one address (as behind NAT) ...
    address shared guests           ... and each machine's guests have a user of their own
    storage file                    the file backend: no remote fence, only QEMU's lock on the image
    until 60                        end of the breaking phase, seconds; then everything is healed
    config lease_ttl_s=3            fields of the cluster's settings
    at 0 want vm1                   an operator's request (want, delete, recreate, off, on, restart, pause, ...)
    at 12.5 power-cut n1 for 20     a fault, and how long it lasts
    at 12.5 on boot freeze @ for 7  when any node is next in that step; @ is that node
    at 30 expect running vm1 n2     an observation that must hold
    # a remark
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace


class ScriptError(ValueError):
    """A line that cannot be understood; says which."""


@dataclass(frozen=True)
class Step:
    """One line."""

    at_s: float
    verb: str
    args: tuple[str, ...] = ()
    for_s: float | None = None
    on: str = ""
    """Wait for a node to be in this protocol step."""

    def __str__(self) -> str:
        words = ["at", f"{self.at_s:g}"]
        if self.on:
            words += ["on", self.on]
        words += [self.verb, *self.args]
        if self.for_s is not None:
            words += ["for", f"{self.for_s:g}"]
        return " ".join(words)


@dataclass(frozen=True)
class Script:
    """A whole run."""

    seed: int = 0
    nodes: int = 3
    until_s: float = 60.0
    config: tuple[tuple[str, str], ...] = ()
    steps: tuple[Step, ...] = field(default=())
    storage: str = "ceph"
    address: str = ""
    """``shared``: the storage cannot tell machines by their address; ``shared guests``: but guests by user."""

    def __str__(self) -> str:
        lines = [f"seed {self.seed}", f"nodes {self.nodes}", f"until {self.until_s:g}"]
        if self.storage != "ceph":
            lines.append(f"storage {self.storage}")
        if self.address:
            lines.append(f"address {self.address}")
        lines += [f"config {name}={value}" for name, value in self.config]
        return "\n".join([*lines, *map(str, sorted(self.steps, key=lambda step: step.at_s))]) + "\n"

    def with_steps(self, steps: list[Step]) -> Script:
        return replace(self, steps=tuple(steps))


def parse(text: str) -> Script:
    """Read a script; raises :class:`ScriptError` with the line's number."""
    script, steps, config = Script(), [], []
    for number, raw in enumerate(text.splitlines(), 1):
        words = raw.split("#")[0].split()
        if not words:
            continue
        try:
            match words:
                case ["seed", value]:
                    script = replace(script, seed=int(value))
                case ["nodes", value]:
                    script = replace(script, nodes=int(value))
                case ["storage", ("ceph" | "file") as value]:
                    script = replace(script, storage=value)
                case ["address", "shared"] | ["address", "shared", "guests"]:
                    script = replace(script, address=" ".join(words[1:]))
                case ["until", value]:
                    script = replace(script, until_s=float(value))
                case ["config", pair] if "=" in pair:
                    name, _, value = pair.partition("=")
                    config.append((name, value))
                case ["at", *_]:
                    steps.append(_step(words))
                case _:
                    raise ScriptError("expected seed, nodes, storage, address, until, config or at")
        except (ValueError, IndexError) as error:
            raise ScriptError(f"line {number}: {raw.strip()!r}: {error}") from None
    return replace(script, steps=tuple(steps), config=tuple(config))


def _step(words: list[str]) -> Step:
    at_s, rest = float(words[1]), words[2:]
    on, for_s = "", None
    if rest[0] == "on" and len(rest) > 2:
        on, rest = rest[1], rest[2:]
    if len(rest) > 2 and rest[-2] == "for":
        for_s, rest = float(rest[-1]), rest[:-2]
    return Step(at_s, rest[0], tuple(rest[1:]), for_s, on)
