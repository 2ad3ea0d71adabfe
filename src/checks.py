"""Pebble's checks, which outlive a service that the charm stops."""

from ops import pebble


def stop(client: pebble.Client, label: str, name: str) -> None:
    """Have a check made no longer.

    Pebble 1.32.1 takes a check that was being made when it was stopped for a running one: it
    starts it no more, and ends in a panic where it is to stop it once more. Any change of the plan
    puts that right, so there is one before.

    Args:
        client: the container's Pebble.
        label: a layer that there is.
        name: a check of the plan.
    """
    client.add_layer(label, pebble.Layer({}), combine=True)
    client.stop_checks([name])
