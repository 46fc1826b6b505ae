"""The commands of docs/guide/logs.md that make the two configurations, run as they stand there."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from pathlib import Path

import pytest

TOP = Path(__file__).parents[3]
RSYSLOGD = shutil.which("rsyslogd", path="/usr/sbin:/usr/bin:/sbin:/bin")
PAGE = (TOP / "docs/guide/logs.md").read_text()

pytestmark = pytest.mark.skipif(
    RSYSLOGD is None, reason="rsyslogd is not installed (apt: rsyslog rsyslog-relp)"
)


@pytest.mark.parametrize("name", ["log-server.conf", "log-forwarder.conf"])
def test_the_guides_command_makes_a_valid_configuration(tmp_path: Path, name: str) -> None:
    (command,) = re.findall(rf"^sed (?:(?!^sed ).)*?>/etc/metastack/{name}$", PAGE, re.M | re.S)
    (table,) = re.findall(r"^```json\n(.*?)^```", PAGE, re.M | re.S)
    assert json.loads(table)["table"][0]["value"] == "n1"
    (tmp_path / "log-hosts.json").write_text(table)
    command = command.replace("/etc/metastack", str(tmp_path)).replace("/var/", f"{tmp_path}/var-")
    subprocess.run(["sh", "-ec", command], cwd=TOP, check=True)
    made = tmp_path / name
    assert not re.search(r"@[A-Z_]+@", made.read_text())
    # rsyslog does not listen on an empty address, and says so only when it runs.
    assert not re.search(r'ddress=""|Ip=""', made.read_text())
    for folder in re.findall(r'workDirectory="([^"]+)"', made.read_text()):
        Path(folder).mkdir(parents=True)
    for file in re.findall(r'tls\.(?:caCert|myCert|myPrivKey)="([^"]+)"', made.read_text()):
        Path(file).parent.mkdir(exist_ok=True)
        Path(file).touch()
    assert RSYSLOGD is not None
    checked = subprocess.run([RSYSLOGD, "-N1", "-f", str(made)], capture_output=True, text=True, check=False)
    assert checked.returncode == 0, checked.stderr
    assert "error" not in checked.stderr
