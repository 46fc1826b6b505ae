"""How late a node says it is, and what it says of its machine."""

from __future__ import annotations

from pathlib import Path

from metastack.agent.cache.lag import CALM_S, Lag
from metastack.agent.report.machine import machine
from metastack.agent.settings import load


def test_one_late_event_says_nothing_and_many_do() -> None:
    lag = Lag()
    for n in range(50):
        lag.note(n, 0.001)
    lag.note(50, 3.0)
    assert lag.reported_ms(50) == 0
    lag.note(50.5, 0.2)
    assert lag.reported_ms(51) == 256


def test_steps_rise_at_once_and_fall_slowly() -> None:
    lag = Lag()
    for n in range(20):
        lag.note(n, 0.1)
    assert lag.reported_ms(20) == 128
    for n in range(20, 120):
        lag.note(n, 0.001)
        said = lag.reported_ms(n)
        if n < 79:
            assert said == 128, n
    assert said == 0
    assert CALM_S < 79


def test_a_few_samples_and_old_ones_say_nothing() -> None:
    lag = Lag()
    for n in range(5):
        lag.note(n, 2.0)
    assert lag.reported_ms(5) == 0
    for n in range(5):
        lag.note(5 + n, 2.0)
    assert lag.reported_ms(10) == 2048
    assert lag.reported_ms(200) == 2048
    assert lag.reported_ms(200 + CALM_S) == 0


def test_a_machine_says_what_all_its_processors_have(tmp_path: Path) -> None:
    (tmp_path / "cpuinfo").write_text(
        "processor: 0\nflags\t: fpu avx2 aes vmx\n\nprocessor: 1\nflags\t: aes avx2\n"
    )
    huge = tmp_path / "kernel/mm/hugepages/hugepages-2048kB"
    huge.mkdir(parents=True)
    (huge / "nr_hugepages").write_text("12\n")
    found = machine(tmp_path, tmp_path)
    assert found.cpu_features == ("aes", "avx2")
    assert found.resources == {"hugepages_2m": 12}
    assert found.arch
    assert machine(tmp_path / "none", tmp_path / "none").cpu_features == ()


def test_resources_from_the_file_and_from_text(tmp_path: Path) -> None:
    path = tmp_path / "agent.toml"
    path.write_text('name = "n1"\nendpoints = ["http://127.0.0.1:1"]\nresources = { gpu = 2 }\n'
                    '[storage]\nkind = "file"\ndirectory = "/x"\n')  # fmt: skip
    assert load(path, {}).resources == {"gpu": 2}
    assert load(path, {"METASTACK_AGENT_RESOURCES": "gpu=4, fpga=1"}).resources == {"gpu": 4, "fpga": 1}
