"""The systems the lab can put under test. A new one is one small file and one line here."""

from plasmacloud.base.errors import ConfigError
from plasmacloud.lab.targets.base import Target
from plasmacloud.lab.targets.canary import Canary, StaleCanary
from plasmacloud.lab.targets.chainfire import ChainFire
from plasmacloud.lab.targets.etcd import Etcd, EtcdTuned

_ALL: tuple[Target, ...] = (ChainFire(), Etcd(), EtcdTuned(), Canary(), StaleCanary())
TARGETS: dict[str, Target] = {target.name: target for target in _ALL}


def find_target(name: str) -> Target:
    """The target with that name. Raises `ConfigError` naming those that exist."""
    try:
        return TARGETS[name]
    except KeyError:
        raise ConfigError(f"there is no target {name!r}", hint=f"targets are {', '.join(TARGETS)}") from None
