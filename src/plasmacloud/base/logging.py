"""Structured logs: an event in words, and its facts as keys.

A server logs to stderr, one event a line, as ``text`` for people or ``json`` for machines. Times are wall-clock UTC
with microseconds: they are evidence, nothing decides on them.
"""

import sys
from collections.abc import MutableMapping
from typing import Any, TextIO

from plasmacloud.base.errors import ConfigError

LEVELS = {"debug": 10, "info": 20, "warning": 30, "error": 40}
FORMATS = ("text", "json")
_NOTHING = 50  # a level that none of our lines has


def configure_logging(level: str = "info", format: str = "text", stream: TextIO | None = None) -> None:
    """Set up this process's logs. Raises `ConfigError` for an unknown level or format."""
    if level not in LEVELS:
        raise ConfigError(f"unknown log level {level!r}", hint=f"use one of {', '.join(LEVELS)}")
    if format not in FORMATS:
        raise ConfigError(f"unknown log format {format!r}", hint=f"use one of {', '.join(FORMATS)}")
    import structlog

    renderer: Any = structlog.processors.JSONRenderer() if format == "json" else _render_text
    structlog.configure(
        processors=[
            structlog.processors.add_log_level,
            structlog.processors.TimeStamper(fmt="iso", utc=True, key="time"),
            structlog.processors.format_exc_info,
            renderer,
        ],
        wrapper_class=structlog.make_filtering_bound_logger(LEVELS[level]),
        logger_factory=structlog.PrintLoggerFactory(stream or sys.stderr),
        cache_logger_on_first_use=False,
    )


def silence_logging() -> None:
    """From now on this process says nothing: what runs in it is simulated."""
    import structlog

    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(_NOTHING), processors=[])


class Logger:
    """Writes events of one component. Loads the logging library with the first one: most commands log nothing."""

    def __init__(self, component: str) -> None:
        self._component = component
        self._bound: Any = None

    def _target(self) -> Any:
        if self._bound is None:
            import structlog

            self._bound = structlog.get_logger(component=self._component)
        return self._bound

    def debug(self, event: str, **facts: object) -> None:
        """For whoever looks for a defect."""
        self._target().debug(event, **facts)

    def info(self, event: str, **facts: object) -> None:
        """What an operator wants to read afterwards."""
        self._target().info(event, **facts)

    def warning(self, event: str, **facts: object) -> None:
        """Something is not as it should be, and the process copes."""
        self._target().warning(event, **facts)

    def error(self, event: str, **facts: object) -> None:
        """Something failed for good. ``exc_info`` adds a traceback."""
        self._target().error(event, **facts)


def get_logger(component: str) -> Logger:
    """A logger whose lines name their component."""
    return Logger(component)


def _render_text(_logger: Any, _method: str, event: MutableMapping[str, Any]) -> str:
    time = event.pop("time", "")
    level = str(event.pop("level", "")).upper()
    component = event.pop("component", "-")
    message = event.pop("event", "")
    trace = event.pop("exception", None)
    facts = "".join(f" {key}={_text_value(value)}" for key, value in event.items())
    line = f"{time} {level:<7} {component}: {message}{facts}"
    return f"{line}\n{trace}" if trace else line


def _text_value(value: object) -> str:
    text = str(value)
    if not text or any(c in text for c in " \"'=\n\t"):
        return '"' + text.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n") + '"'
    return text
