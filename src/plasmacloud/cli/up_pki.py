"""The certificates of a `plasma up` cluster: an authority beside its data, one for each node, and one for clients.

All of it is for one machine and one user: the authority's key lies where the nodes' keys do.
"""

from datetime import UTC, datetime
from pathlib import Path

from plasmacloud.base.pki import AUTHORITY, init_authority, issue, read_certificate
from plasmacloud.base.tls import TlsFiles
from plasmacloud.cli.up_plan import HOST, Plan

DIRECTORY = "pki"
CLIENT = "client"
_RENEW_DAYS = 30.0


def certificates(data_dir: Path) -> Path:
    """Where they are."""
    return data_dir / DIRECTORY


def prepare(plan: Plan, data_dir: Path) -> TlsFiles:
    """Make what is missing, renew what expires soon; returns the files for a client. Raises `ConfigError`."""
    directory = certificates(data_dir)
    if not (directory / f"{AUTHORITY}.crt").exists():
        init_authority(directory, name="plasma up")
    for node in plan.nodes:
        if _due(directory / f"{node.name}.crt"):
            issue(directory, node.name, [HOST, "localhost"], replace=True)
    if _due(directory / f"{CLIENT}.crt"):
        issue(directory, CLIENT, client_only=True, replace=True)
    return TlsFiles.of(directory, CLIENT)


def _due(certificate: Path) -> bool:
    return not certificate.exists() or read_certificate(certificate).days_left(datetime.now(UTC)) < _RENEW_DAYS
