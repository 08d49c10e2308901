"""PlasmaCloud: a private cloud that proves its own high availability."""

__version__ = "0.1.0"
