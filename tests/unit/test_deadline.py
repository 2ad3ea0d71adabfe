"""How long an event waits in all, and an action before it."""

from ops import testing

from deadline import ACTION, EVENT, HOOK


def test_all_that_is_waited_for_has_one_end(monkeypatch):
    now = [5.0]
    monkeypatch.setattr("time.monotonic", lambda: now[0])
    EVENT.begin(8.0)
    assert (EVENT.left(3.0), EVENT.left(60.0)) == (3.0, 8.0)
    now[0] += 6.0
    assert EVENT.left(3.0) == 2.0
    now[0] += 60.0
    assert 0 < EVENT.left(3.0) < 0.5


def test_an_event_waits_no_longer_than_it_may_for_a_server_that_does_not_answer(deployed):
    deployed.border.stop()
    deployed.border.down = True
    began = deployed.border.now[0]
    deployed.configure(log_level="debug")
    assert deployed.status == testing.WaitingStatus("the server does not answer yet")
    assert 0 < deployed.border.now[0] - began <= HOOK + 1


def test_what_an_action_asks_for_is_waited_for_as_long_as_all_that_juju_run_waits():
    assert ACTION + HOOK < 60 - 10
