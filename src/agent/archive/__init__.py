"""Backups: from the volumes into a bucket and back, beside a server that serves."""
