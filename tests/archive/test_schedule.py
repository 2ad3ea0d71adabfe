"""When a backup is due."""

from datetime import UTC, datetime

import pytest

from agent.archive.schedule import Schedule

NOON = datetime(2026, 11, 24, 12, 30, tzinfo=UTC).timestamp()
HOUR = 3600.0
DAY = 24 * HOUR


def at(day: int, hour: int = 0, minute: int = 0) -> float:
    return datetime(2026, 11, day, hour, minute, tzinfo=UTC).timestamp()


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("hourly", at(24, 13)),
        ("daily", at(25)),
        ("weekly", at(29)),
        ("15 3 * * *", at(25, 3, 15)),
        ("*/20 * * * *", at(24, 12, 40)),
        ("", None),
        ("nonsense", None),
        ("0 0 30 2 *", None),
    ],
)
def test_the_next_turn(text, expected):
    assert Schedule(text).following(NOON) == expected


def test_the_first_turn_is_counted_from_when_there_was_a_schedule():
    assert Schedule("daily").next(NOON, None, None) == at(25)
    assert Schedule("daily").next(NOON, at(1), None) == at(25)


def test_a_turn_that_was_missed_is_due_at_once():
    assert Schedule("hourly").next(NOON, NOON, None) == at(24, 13)
    later = Schedule("hourly").next(NOON - DAY, NOON - 5 * HOUR, None)
    assert later is not None
    assert later < NOON


def test_one_that_failed_is_tried_again_an_hour_later():
    schedule = Schedule("weekly")
    assert schedule.next(NOON - 14 * DAY, None, NOON) == NOON + HOUR
    # Not where one was made since, and never before its turn.
    assert schedule.next(NOON - 14 * DAY, NOON, NOON - DAY) == at(29)
    assert schedule.next(NOON, None, NOON) == at(29)


def test_it_is_overdue_after_two_turns():
    schedule = Schedule("daily")
    assert not schedule.overdue(NOON, None, at(25, 20))
    assert schedule.overdue(NOON, None, at(26, 1))
    assert not schedule.overdue(NOON, at(25, 1), at(26, 1))
    assert not Schedule("").overdue(NOON, None, NOON + 100 * DAY)
