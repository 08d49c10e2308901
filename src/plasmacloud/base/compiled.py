"""Hot modules as machine code, made by mypyc from the very sources that run without it.

The Python sources are the only ones. ``./dev compile`` (`tools/compile_modules.py`) compiles those named in `MODULES`
into a directory whose name ends with a hash of all sources that can have an influence; a process uses that directory
only if the hash of the sources it finds is the same. So a changed source is never run as an old binary, and whoever
compiles nothing notices nothing.

Node processes ask for the compiled modules, before they import any of them (`use_compiled`). Everything else runs the
Python sources: tests and the simulator derive classes from them, which compiled ones would refuse. The environment
variable ``PLASMA_COMPILED`` decides otherwise: 0, never; 1, or not at all.
"""

import hashlib
import importlib.util
import sys
import sysconfig
from collections.abc import Mapping, Sequence
from importlib.abc import MetaPathFinder
from importlib.machinery import EXTENSION_SUFFIXES, ExtensionFileLoader, ModuleSpec
from pathlib import Path
from types import ModuleType

from plasmacloud.base.errors import ConfigError

VARIABLE = "PLASMA_COMPILED"

MODULES: Mapping[str, str] = {
    # name: why it is here
    "plasmacloud.chainfire.admission": "asked for every write",
    "plasmacloud.chainfire.applying": "answers every write",
    "plasmacloud.chainfire.commands": "encodes and decodes every write, on every member",
    "plasmacloud.chainfire.frames": "begins every message between members",
    "plasmacloud.chainfire.gathering": "asked in every turn of the pump",
    "plasmacloud.chainfire.lane": "carries every write",
    "plasmacloud.chainfire.linearizable": "one object for every linearizable read",
    "plasmacloud.chainfire.mvcc.encoding": "encodes every record and every reply",
    "plasmacloud.chainfire.mvcc.key_index": "looked up by every read, changed by every write",
    "plasmacloud.chainfire.mvcc.range_query": "answers ranges",
    "plasmacloud.chainfire.mvcc.records": "holds every record",
    "plasmacloud.chainfire.mvcc.sharded_map": "holds the key index",
    "plasmacloud.chainfire.mvcc.store": "executes every request",
    "plasmacloud.chainfire.mvcc.txn": "executes transactions",
    "plasmacloud.chainfire.proposals": "queues every write",
    "plasmacloud.chainfire.proposing": "makes entries of the writes",
    "plasmacloud.chainfire.reads": "queues every linearizable read",
    "plasmacloud.chainfire.replica": "the pump",
    "plasmacloud.chainfire.services": "the handlers of the requests",
    "plasmacloud.chainfire.state_machine": "executes every write, on every member",
    "plasmacloud.chainfire.validate": "looks at every request",
    "plasmacloud.chainfire.waiting": "imported by the above: the types of who waits",
    "plasmacloud.raft.codec": "every message between members",
    "plasmacloud.raft.core": "every turn of the pump, as all of the consensus core",
    "plasmacloud.raft.election": "a base of `Raft`: a compiled class has compiled bases",
    "plasmacloud.raft.log": "every entry",
    "plasmacloud.raft.progress": "every append and its answer",
    "plasmacloud.raft.quorum": "every commit",
    "plasmacloud.raft.raft": "every turn of the pump",
    "plasmacloud.raft.reads": "every round of reads; a base of `Raft`",
    "plasmacloud.raft.replication": "every append; a base of `Raft`",
    "plasmacloud.raft.tracker": "every commit",
    "plasmacloud.rpc.client_call": "derived from `Stream` and `MessageStream`, which are compiled",
    "plasmacloud.rpc.client_connection": "derived from `Connection`, which is compiled",
    "plasmacloud.rpc.deadlines": "every request with a deadline",
    "plasmacloud.rpc.exchange": "messages of streams",
    "plasmacloud.rpc.grpc_framing": "the prefix of every message",
    "plasmacloud.rpc.h2.connection": "parses every frame",
    "plasmacloud.rpc.h2.flow": "the windows of streams",
    "plasmacloud.rpc.h2.frames": "encodes frames",
    "plasmacloud.rpc.h2.guard": "counts control frames",
    "plasmacloud.rpc.h2.headers": "decodes header blocks that are not cached",
    "plasmacloud.rpc.h2.outbound": "sends every answer",
    "plasmacloud.rpc.h2.stream": "one object for every request",
    "plasmacloud.rpc.peer": "sends every message between members",
    "plasmacloud.rpc.peer_frames": "every message between members",
    "plasmacloud.rpc.peer_link": "frames between members",
    "plasmacloud.rpc.request": "encodes every answer",
    "plasmacloud.rpc.server_connection": "begins every request",
    "plasmacloud.rpc.service": "one object for every request",
    "plasmacloud.rpc.turns": "asked at every read of a socket",
    "plasmacloud.rpc.web_call": "derived from `Stream`, which is compiled",
    "plasmacloud.storage.entry_codec": "every entry, on every member",
    "plasmacloud.storage.record_store": "the types of the store",
    "plasmacloud.storage.wal": "every entry",
    "plasmacloud.storage.wal_flusher": "every write of the log",
    "plasmacloud.storage.wal_index": "every entry",
    "plasmacloud.storage.wal_writer": "every write of the log",
}
"""What is compiled. Not here: modules with `msgspec.Struct` classes (mypyc drops the keywords of a class statement),
and what does not run once per request, per message or per entry."""

PACKAGES = ("base", "chainfire", "client", "raft", "rpc", "storage")
"""Packages that compiled modules import from: types and constants of theirs become part of the machine code."""

_ROOT = Path(__file__).parents[1]


def sources_digest(root: Path = _ROOT) -> str:
    """A hash over the sources that compiled modules are made from. ``root``: the directory of ``plasmacloud``."""
    digest = hashlib.sha256()
    files = [root / "__init__.py"]
    for package in PACKAGES:
        files += sorted((root / package).rglob("*.py")) + sorted((root / package).rglob("*.pyi"))
    for file in files:
        content = file.read_bytes()
        digest.update(f"{file.relative_to(root).as_posix()} {len(content)}\n".encode())
        digest.update(content)
    return digest.hexdigest()[:16]


def build_directory(root: Path = _ROOT) -> Path:
    """Where the compiled modules of all versions of this source tree are."""
    return root.parents[1] / "build" / "compiled"


def binary_directory(root: Path = _ROOT) -> Path:
    """Where the compiled modules of the sources as they are now would be, for this interpreter."""
    return build_directory(root) / f"{sysconfig.get_config_var('SOABI')}-{sources_digest(root)}"


def find_binaries(root: Path = _ROOT) -> dict[str, Path] | None:
    """The file of each compiled module, and of the library that they share; None: not built, or not all of it."""
    directory = binary_directory(root)
    suffix = EXTENSION_SUFFIXES[0]
    files = {
        ".".join(file.relative_to(directory).parts).removesuffix(suffix): file for file in directory.rglob(f"*{suffix}")
    }
    return files if MODULES.keys() <= files.keys() else None


class _Finder(MetaPathFinder):
    """Finds the compiled modules before the path finder finds their sources."""

    def __init__(self, files: Mapping[str, Path]) -> None:
        self._files = files

    def find_spec(
        self, fullname: str, path: Sequence[str] | None = None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        file = self._files.get(fullname)
        if file is None:
            return None
        return importlib.util.spec_from_file_location(fullname, file, loader=ExtensionFileLoader(fullname, str(file)))


def will_compiled_be_used(environment: Mapping[str, str]) -> bool:
    """Whether a node that is started in this environment uses compiled modules."""
    return environment.get(VARIABLE) != "0" and find_binaries() is not None


def use_compiled(wanted: str | None, root: Path = _ROOT) -> bool:
    """From now on import compiled modules where there are any; whether there are. Call before the first is imported.

    ``wanted`` is the value of `VARIABLE`. Raises `ConfigError` when it asks for what there is not, or says nonsense.
    All of them or none: a compiled module takes objects of others apart, and must be sure how they are put together.
    """
    if wanted not in (None, "", "0", "1"):
        raise ConfigError(f"{VARIABLE} is {wanted!r}", hint="0: never use compiled modules; 1: always; unset: if built")
    if wanted == "0":
        return False
    loaded = sorted(MODULES.keys() & sys.modules.keys())
    files = None if loaded else find_binaries(root)
    if files is not None:
        sys.meta_path.insert(0, _Finder(files))
        return True
    if wanted == "1":
        if loaded:
            raise ConfigError(f"{VARIABLE} is 1, but {loaded[0]} has been imported already")
        raise ConfigError(
            f"{VARIABLE} is 1, but there are no compiled modules for these sources", hint="run ./dev compile"
        )
    return False
