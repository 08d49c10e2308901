"""At most one leader per term, and what is excused for systems whose reported term lags."""

from verify_handmade import MS, status

from plasmacloud.verify.leadership import check_leadership, elections_between


def test_one_leader_per_term() -> None:
    result = check_leadership(
        [status("n1", 1, leader=1, term=2), status("n2", 1, leader=1, term=2), status("n2", 9, leader=2, term=3)]
    )
    assert result.findings == []
    assert result.leaders == {2: [1], 3: [2]}


def test_two_leaders_in_one_term() -> None:
    (finding,) = check_leadership([status("n1", 1, leader=1, term=2), status("n2", 1, leader=2, term=2)]).findings
    assert "term 2 has 2 leaders" in finding


def test_knowing_no_leader_and_not_answering_are_no_claims() -> None:
    result = check_leadership([status("n1", 1, leader=1), status("n2", 1), status("n3", 1, error="refused", leader=7)])
    assert result.findings == []
    assert result.samples == 2


def test_a_term_that_goes_back_within_one_life() -> None:
    (finding,) = check_leadership([status("n1", 1, leader=1, term=5), status("n1", 2, leader=1, term=4)]).findings
    assert "went back from term 5 to 4" in finding
    later_life = [status("n1", 1, leader=1, term=5), status("n1", 2, leader=0, term=4, incarnation=2)]
    assert check_leadership(later_life).findings == []


LAGGING = [
    status("n1", 0, leader=1, term=1),
    status("n1", 1, leader=1, term=2),
    status("n2", 1, leader=1, term=1),
    status("n2", 2, leader=1, term=2),
    status("n2", 50, leader=2, term=2),  # follows the new leader, has not applied its first entry
    status("n2", 55, leader=2, term=3),
]


def test_a_lagging_term_is_excused_for_a_moment_only_where_it_is_known_to_lag() -> None:
    assert len(check_leadership(LAGGING).findings) == 1
    excused = check_leadership(LAGGING, term_lags=True)
    assert excused.findings == []
    assert excused.excused == 3  # the two first answers, and the one at 50 ms


def test_a_second_leader_that_stays_in_the_term_is_not_excused() -> None:
    idle = [*LAGGING[:5], status("n2", 2000, leader=2, term=2)]
    assert check_leadership(idle, term_lags=True).findings == []  # it has applied nothing since
    stays = [*LAGGING[:5], status("n2", 2000, leader=2, term=2, revision=1)]
    (finding,) = check_leadership(stays, term_lags=True).findings
    assert "term 2 has 2 leaders" in finding


def test_elections_between() -> None:
    seen = elections_between([status("n1", 1, leader=1, term=2), status("n1", 5, leader=0, term=2)], 0, 3 * MS)
    assert seen == {(2, 1)}
