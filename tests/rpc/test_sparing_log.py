"""Lines that strangers can cause do not fill a disk."""

import pytest

from plasmacloud.rpc.sparing_log import BURST, PERIOD_S, SparingLog


def test_a_flood_of_lines_is_cut_and_counted(capsys: pytest.CaptureFixture[str]) -> None:
    now = [5.0]
    log = SparingLog(lambda: now[0])
    for number in range(10 * BURST):
        log.info("refused", peer=f"host:{number}")
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == BURST
    assert not any("lines_left_out" in line for line in lines)
    now[0] += PERIOD_S
    for number in range(2):
        log.info("refused", peer=f"host:{number}")
    first, second = capsys.readouterr().out.splitlines()
    assert f"lines_left_out={9 * BURST}" in first
    assert "lines_left_out" not in second
