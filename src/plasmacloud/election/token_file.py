"""A bearer token is read from a file: never from a flag, where every user of the machine sees it."""

from pathlib import Path

from plasmacloud.base.errors import ConfigError

MIN_TOKEN_CHARS = 16


def read_token(path: Path) -> str:
    """The token in a file: its first line. Raises `ConfigError` when there is none, or one that can be guessed."""
    try:
        token = path.read_text().strip()
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "it is not text"
        raise ConfigError(f"cannot read the token in {path}: {reason}") from None
    if len(token) < MIN_TOKEN_CHARS or not token.isascii() or any(c.isspace() or not c.isprintable() for c in token):
        raise ConfigError(
            f"{path} does not hold a token: one line of at least {MIN_TOKEN_CHARS} printable characters",
            hint="make one with: openssl rand -hex 32",
        )
    return token
