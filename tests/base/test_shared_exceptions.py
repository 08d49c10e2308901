"""An exception that is a constant grows with every ``raise``, and keeps the frames of all that it was raised for."""

import importlib
import pkgutil
from collections.abc import Iterator

import plasmacloud


def _modules() -> Iterator[str]:
    for module in pkgutil.walk_packages(plasmacloud.__path__, "plasmacloud."):
        if not module.name.endswith("__main__"):
            yield module.name


def _exceptions(value: object, depth: int = 2) -> Iterator[BaseException]:
    """The exceptions that a constant is, or holds."""
    if isinstance(value, BaseException):
        yield value
    elif depth and isinstance(value, tuple | list | set | frozenset):
        for item in value:
            yield from _exceptions(item, depth - 1)
    elif depth and isinstance(value, dict):
        for item in value.values():
            yield from _exceptions(item, depth - 1)
    elif depth and isinstance(value, type):
        for item in vars(value).values():
            yield from _exceptions(item, depth - 1)


def test_an_exception_that_a_module_holds_is_found() -> None:
    held = KeyError("a")
    for value in (held, [held], {"key": (held,)}, type("Holder", (), {"constant": held})):
        assert list(_exceptions(value)) == [held]


def test_no_module_holds_an_exception_as_a_constant() -> None:
    found = [
        f"{name}.{key}: {exception!r}"
        for name in _modules()
        for key, value in vars(importlib.import_module(name)).items()
        if key != "__builtins__"
        for exception in _exceptions(value)
    ]
    assert found == []
