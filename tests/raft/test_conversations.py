"""The scripts in scripts/*.txt: several replicas, and what they say to each other."""

from pathlib import Path

import pytest
from raft_script import Conversation, check_or_rewrite, parse

SCRIPTS = sorted((Path(__file__).parent / "scripts").glob("*.txt"))


@pytest.mark.parametrize("path", SCRIPTS, ids=lambda path: path.stem)
def test_conversation(path: Path) -> None:
    check_or_rewrite(path, parse(path), Conversation().run)


def test_there_are_scripts() -> None:
    assert len(SCRIPTS) >= 6
