"""``metastack cluster``: what concerns the cluster as a whole.

Owns: which verbs there are; each has a file here. Refuses: rules (:mod:`metastack.commands.cluster`).
"""

from __future__ import annotations

from ..frame import noun
from . import backup as cluster_backup
from . import identity as cluster_identity
from . import maintenance as cluster_maintenance
from . import restore as cluster_restore
from . import shutdown as cluster_shutdown
from . import storage as cluster_storage
from . import upgrade as cluster_upgrade

app = noun("cluster", "The cluster: maintenance, storage, upgrades, backups and restores of etcd.")


@app.callback()
def _cluster() -> None:
    """The cluster: maintenance, storage, upgrades, backups and restores of etcd."""


cluster_backup.mount(app)
cluster_restore.mount(app)
cluster_identity.mount(app)
cluster_upgrade.mount(app)
cluster_maintenance.mount(app)
cluster_shutdown.mount(app)
app.add_typer(cluster_storage.app)
