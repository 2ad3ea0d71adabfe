"""The charm's own version; every backup names it."""

VERSION = "0.1.0"
