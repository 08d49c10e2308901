"""Lets these tests use the stores and executors of the directory above."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent.parent))
