"""The mirror's SQL against a real server."""
