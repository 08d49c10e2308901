"""Compiles the hot modules (`plasmacloud.base.compiled`) with mypyc. Run: ``./dev compile``.

Everything is made in a directory beside the final one, tried out there, and renamed: there is a whole build or none.
Builds of other versions of the sources are removed. Needs a C compiler and the headers of the interpreter.
"""

import argparse
import fcntl
import os
import shlex
import shutil
import subprocess
import sys
import sysconfig
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from plasmacloud.base.compiled import MODULES, VARIABLE, binary_directory, build_directory, find_binaries
from plasmacloud.base.errors import PlasmaError

SOURCES = Path(__file__).parents[1] / "src"
_DEADLINE_S = 1200.0
_SHOWN_LINES = 40


class CompileError(PlasmaError):
    """There is no build, and none was changed."""


def missing_tool() -> CompileError | None:
    """What this machine lacks for compiling; None: nothing."""
    compiler = shlex.split(os.environ.get("CC") or sysconfig.get_config_var("CC") or "cc")[0]
    if shutil.which(compiler) is None:
        return CompileError(
            f"no C compiler: {compiler} is not on the PATH",
            hint="install one (Debian: apt-get install gcc), or name it: CC=clang ./dev compile",
        )
    header = Path(sysconfig.get_path("include")) / "Python.h"
    if not header.is_file():
        return CompileError(
            f"the headers of this Python are not installed: {header} is not there",
            hint="on Debian: apt-get install python3-dev",
        )
    try:
        import mypyc  # noqa: F401
    except ImportError:
        return CompileError("mypyc is not installed", hint="it comes with mypy: pip install -r requirements.lock")
    return None


def compile_modules(jobs: int) -> Path:
    """Compile, try out, and put in place; returns where. Raises `CompileError`."""
    if (lacking := missing_tool()) is not None:
        raise lacking
    build_directory().mkdir(parents=True, exist_ok=True)
    with (build_directory() / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)  # released when the file is closed
        return _compile_alone(jobs)


def _compile_alone(jobs: int) -> Path:
    final = binary_directory()
    if find_binaries() is not None:
        return final
    with tempfile.TemporaryDirectory(prefix="unfinished-", dir=build_directory()) as scratch:
        made = Path(scratch) / "made"
        _run([sys.executable, __file__, "--make", str(made), "--jobs", str(jobs)], cwd=Path(scratch), what="compiling")
        if binary_directory() != final:
            raise CompileError("the sources changed while they were compiled", hint="run ./dev compile again")
        shutil.rmtree(final, ignore_errors=True)
        made.rename(final)
    try:
        _run(
            [sys.executable, __file__, "--try"],
            cwd=SOURCES,
            what="importing what was compiled",
            environment={VARIABLE: "1"},
        )
    except CompileError:
        shutil.rmtree(final)
        raise
    for other in build_directory().iterdir():
        if other != final and other.name.startswith(str(sysconfig.get_config_var("SOABI"))):
            shutil.rmtree(other)
    return final


def _run(argv: list[str], *, cwd: Path, what: str, environment: dict[str, str] | None = None) -> None:
    paths = os.pathsep.join(filter(None, (str(SOURCES), os.environ.get("PYTHONPATH"))))
    done = subprocess.run(
        argv,
        cwd=cwd,
        env={**os.environ, "PYTHONPATH": paths, **(environment or {})},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        errors="replace",
        timeout=_DEADLINE_S,
        check=False,
    )
    if done.returncode:
        shown = "\n".join(done.stdout.splitlines()[-_SHOWN_LINES:])
        raise CompileError(f"{what} failed with status {done.returncode}", hint=shown)


def make(directory: Path, jobs: int) -> None:
    """In a process of its own, whose working directory takes what is left over: mypyc ends it when it finds errors."""
    from mypyc.build import mypycify
    from setuptools import setup  # type: ignore[import-untyped]
    from setuptools.command.build_ext import build_ext  # type: ignore[import-untyped]

    class ParallelBuild(build_ext):  # type: ignore[misc]
        """Compiles the files of an extension side by side: all of ours are of one."""

        def build_extensions(self) -> None:
            compile_some = self.compiler.compile

            def compile_all(sources: list[str], **options: Any) -> list[str]:
                with ThreadPoolExecutor(jobs) as pool:
                    each = pool.map(lambda source: compile_some([source], **options), sources)
                    return [made for some in each for made in some]

            self.compiler.compile = compile_all
            super().build_extensions()

    os.environ["MYPYPATH"] = str(SOURCES)
    paths = [str(SOURCES / name.replace(".", "/")) + ".py" for name in MODULES]
    version = f"{sys.version_info.major}.{sys.version_info.minor}"
    options = ["--config-file=", "--python-version", version, "--ignore-missing-imports", "--cache-dir", "types"]
    # Not strict: that is for ./dev check, and mypyc needs no more than the types.
    extensions = mypycify(
        [*options, *paths], opt_level="2", debug_level="0", multi_file=True, target_dir=str(Path("c").absolute())
    )
    setup(
        name="plasmacloud-compiled",
        packages=[],
        ext_modules=extensions,
        cmdclass={"build_ext": ParallelBuild},
        script_args=["--quiet", "build_ext", "--build-lib", str(directory), "--build-temp", "objects"],
    )


def try_out() -> None:
    """Import everything, as a node does."""
    import importlib

    from plasmacloud.base.compiled import use_compiled

    use_compiled("1")
    for name in (*MODULES, "plasmacloud.chainfire.server"):
        module = importlib.import_module(name)
        if name in MODULES and (module.__file__ or "").endswith(".py"):
            raise CompileError(f"{name} was imported from its source")


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(prog="./dev compile", description="Compile the hot modules; see docs/compiled.md.")
    parser.add_argument("--jobs", type=int, default=os.cpu_count() or 1, help="compilers at a time")
    parser.add_argument("--make", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--try", dest="trying", action="store_true", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.make is not None:
        make(arguments.make, arguments.jobs)
    elif arguments.trying:
        try_out()
    else:
        started = time.monotonic()
        try:
            directory = compile_modules(arguments.jobs)
        except CompileError as error:
            sys.exit(f"dev: {error}\n{error.hint or ''}")
        print(f"{len(MODULES)} modules in {directory} ({time.monotonic() - started:.0f} s)")


if __name__ == "__main__":
    main()
