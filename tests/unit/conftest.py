"""What the unit tests share."""

from pathlib import Path

CHARM_ROOT = Path(__file__).parents[2]
