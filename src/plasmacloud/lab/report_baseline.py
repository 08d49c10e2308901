"""The earlier run that a run is compared with: its report, kept beside the evidence of the later one.

It is copied, so that the page of the later run is still a function of its own directory when the earlier one is gone.
"""

from pathlib import Path

import msgspec

from plasmacloud.lab.evidence import BASELINE, REPORT_JSON, RunInfo, manifest_sha256, verify_manifest
from plasmacloud.lab.judge import Judgement
from plasmacloud.verify.checks import Verdict
from plasmacloud.verify.files import UnreadableEvidence


class Baseline(msgspec.Struct, frozen=True):
    """What is kept of the earlier run. ``manifest_sha256`` says which evidence it was."""

    manifest_sha256: str
    run: RunInfo
    verdict: Verdict
    results: list[Judgement]

    @property
    def described(self) -> str:
        """Which run it was."""
        when = self.run.started[:19].replace("T", " ")
        return f"the run of {when} UTC ({self.verdict.value}, manifest {self.manifest_sha256[:16]}…)"


class _Earlier(msgspec.Struct, frozen=True):
    """What is read of an earlier report."""

    run: RunInfo
    verdict: Verdict
    results: list[Judgement]


def read_baseline(root: Path) -> Baseline:
    """The report of an earlier run. Raises `UnreadableEvidence` when there is none, or its files were altered."""
    altered = verify_manifest(root)
    if altered:
        raise UnreadableEvidence(
            f"{root} is no baseline: {altered[0]}", hint="compare with evidence that is as it was recorded"
        )
    try:
        earlier = msgspec.json.decode((root / REPORT_JSON).read_bytes(), type=_Earlier)
    except (OSError, msgspec.DecodeError) as error:
        raise UnreadableEvidence(f"{root / REPORT_JSON} cannot be read: {error}") from error
    return Baseline(manifest_sha256(root), earlier.run, earlier.verdict, earlier.results)


def keep_baseline(root: Path, baseline: Baseline) -> None:
    """Put it beside the evidence of the later run."""
    (root / BASELINE).write_bytes(msgspec.json.format(msgspec.json.encode(baseline), indent=1) + b"\n")


def kept_baseline(root: Path) -> Baseline | None:
    """The one that was named when the run was made, if any. Raises `UnreadableEvidence`."""
    path = root / BASELINE
    if not path.exists():
        return None
    try:
        return msgspec.json.decode(path.read_bytes(), type=Baseline)
    except (OSError, msgspec.DecodeError) as error:
        raise UnreadableEvidence(f"{path} cannot be read: {error}") from error
