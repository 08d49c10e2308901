"""Which compiled modules are used: those of exactly these sources, all of them, or none."""

import ast
import os
import subprocess
import sys
from importlib.machinery import EXTENSION_SUFFIXES
from pathlib import Path

import pytest

import plasmacloud
import plasmacloud.chainfire.frames  # one of those that can be compiled; here it is not
from plasmacloud.base.compiled import MODULES, PACKAGES, VARIABLE, binary_directory, find_binaries, use_compiled
from plasmacloud.base.errors import ConfigError

REPOSITORY = Path(__file__).parents[2]
SOURCES = Path(plasmacloud.__file__).parent


def a_tree(directory: Path) -> Path:
    """A source tree with what looks like compiled modules of it. Returns its ``plasmacloud``."""
    root = directory / "src" / "plasmacloud"
    for package in PACKAGES:
        (root / package).mkdir(parents=True)
        (root / package / "__init__.py").write_text("")
    (root / "__init__.py").write_text("")
    (root / "base" / "constants.py").write_text("LIMIT = 1\n")
    for name in MODULES:
        file = binary_directory(root) / (name.replace(".", "/") + EXTENSION_SUFFIXES[0])
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(b"")
    return root


def test_what_was_compiled_from_these_sources_is_found(tmp_path: Path) -> None:
    root = a_tree(tmp_path)
    found = find_binaries(root)
    assert found is not None
    assert found.keys() == MODULES.keys()


def test_a_changed_source_makes_the_build_stale(tmp_path: Path) -> None:
    root = a_tree(tmp_path)
    constants = root / "base" / "constants.py"
    constants.write_text("LIMIT = 2\n")  # not compiled itself, but its constants are in what is
    assert find_binaries(root) is None
    assert not use_compiled(None, root)
    constants.write_text("LIMIT = 1\n")
    assert find_binaries(root) is not None


@pytest.mark.parametrize("change", ["new", "gone", "renamed"])
def test_so_does_a_source_that_comes_or_goes(tmp_path: Path, change: str) -> None:
    root = a_tree(tmp_path)
    constants = root / "base" / "constants.py"
    if change == "new":
        (root / "rpc" / "new.py").write_text("")
    elif change == "gone":
        constants.unlink()
    else:
        constants.rename(root / "base" / "limits.py")
    assert find_binaries(root) is None


def test_sources_that_nothing_compiled_imports_do_not_count(tmp_path: Path) -> None:
    root = a_tree(tmp_path)
    (root / "cli").mkdir()
    (root / "cli" / "main.py").write_text("")
    assert find_binaries(root) is not None


def test_a_build_that_lacks_a_module_is_none(tmp_path: Path) -> None:
    root = a_tree(tmp_path)
    found = find_binaries(root)
    assert found is not None
    found["plasmacloud.raft.raft"].unlink()
    assert find_binaries(root) is None


def test_the_variable(tmp_path: Path) -> None:
    assert not use_compiled("0", a_tree(tmp_path))
    with pytest.raises(ConfigError, match="'yes'"):
        use_compiled("yes", tmp_path)


def test_modules_are_never_mixed(tmp_path: Path) -> None:
    """This process has imported sources already."""
    before = list(sys.meta_path)
    root = a_tree(tmp_path)
    assert not use_compiled(None, root)
    with pytest.raises(ConfigError, match="imported already"):
        use_compiled("1", root)
    assert sys.meta_path == before


def test_asking_for_what_was_never_built_says_what_to_do(tmp_path: Path) -> None:
    code = (
        "import sys; from pathlib import Path; from plasmacloud.base.compiled import use_compiled\n"
        "from plasmacloud.base.errors import ConfigError\n"
        "try: use_compiled('1', Path(sys.argv[1]))\n"
        "except ConfigError as error: print(error.hint)\n"
    )
    root = a_tree(tmp_path)
    (root / "base" / "constants.py").write_text("")
    done = subprocess.run(
        [sys.executable, "-c", code, str(root)], capture_output=True, text=True, timeout=60, check=True
    )
    assert done.stdout == "run ./dev compile\n"


def test_no_compiled_module_has_a_class_that_mypyc_would_make_differently() -> None:
    """mypyc drops the keywords of a class statement without a word: ``frozen=True`` of a `msgspec.Struct`."""
    for name in MODULES:
        path = SOURCES.parent / (name.replace(".", "/") + ".py")
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.ClassDef):
                assert not node.keywords, f"{name}.{node.name}"
                assert "Struct" not in [base.attr for base in node.bases if isinstance(base, ast.Attribute)], node.name


def test_every_package_that_compiled_modules_are_of_counts_for_the_hash() -> None:
    assert {name.split(".")[1] for name in MODULES} <= set(PACKAGES)


def test_without_a_compiler_the_command_says_so(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, REPOSITORY / "tools" / "compile_modules.py"],
        env={**os.environ, "CC": "no-such-compiler", "PYTHONPATH": str(SOURCES.parent), VARIABLE: "0"},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 1
    assert "no C compiler: no-such-compiler" in done.stderr
    assert "apt-get install gcc" in done.stderr
