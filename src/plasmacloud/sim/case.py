"""A run that can be repeated elsewhere and later: its options and its faults, written down.

A seed is enough as long as what is drawn from it stays the same. A failure that shall be kept for ever, or that was
made smaller, is kept as a case.
"""

from pathlib import Path

import msgspec

from plasmacloud.base.errors import ConfigError
from plasmacloud.sim.options import Options, draw_options
from plasmacloud.sim.schedule import Fault, draw_schedule


class Case(msgspec.Struct, frozen=True):
    """``about``: what it showed, for people."""

    options: Options
    faults: tuple[Fault, ...]
    about: str = ""

    def encode(self) -> bytes:
        """As JSON, for a file."""
        return msgspec.json.format(msgspec.json.encode(self)) + b"\n"


def case_of_seed(seed: int) -> Case:
    """What a seed stands for today."""
    options = draw_options(seed)
    return Case(options, tuple(draw_schedule(options)))


def read_case(path: Path) -> Case:
    """A case from its file. Raises `ConfigError`."""
    try:
        return msgspec.json.decode(path.read_bytes(), type=Case)
    except OSError as error:
        raise ConfigError(f"cannot read {path}: {error.strerror}") from error
    except msgspec.MsgspecError as error:
        raise ConfigError(f"{path} is no case of the simulator: {error}") from error
