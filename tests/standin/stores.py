"""Where the stand-in's stores are: nowhere, or behind a subclass."""

from tests.standin.database import Object


class SnapshotGoneError(Exception):
    """A snapshot's files are not there."""


class SnapshotDamagedError(Exception):
    """A snapshot's files are not what was written."""


class Stores:
    """Stores without content; the process puts directories and Badger logs behind it."""

    def open_metadata(self, store: Object) -> None:
        """Open a metadata store; ValueError refuses it."""
        if store["type"] == "badger" and not isinstance(store["config"].get("path"), str):
            raise ValueError("badger metadata store requires path as string")

    def open_share(self, share: Object, content: Object, store: str) -> None:
        """Make what a share needs on its local store, and in the metadata store of this name."""

    def used_bytes(self, share: Object, store: str) -> int:
        """What the files of a share hold, whose metadata store has this name."""
        del share, store
        return 0

    def close_share(self, share: Object) -> None:
        """Let go of a share's local store, and remove its snapshots."""

    def begin_snapshot(self, share: Object, snapshot: str) -> None:
        """Make the place of a snapshot; OSError where that cannot be."""

    def write_snapshot(self, share: Object, store: str, snapshot: str) -> tuple[int, int]:
        """Write a snapshot; the number of its blocks, and of the last record in the journal.

        Raises:
            OSError: it cannot be written.
        """
        del share, store, snapshot
        return 0, 0

    def snapshot_sizes(self, share: Object, snapshot: str) -> tuple[int, int]:
        """How many blocks a snapshot has, and bytes its dump; 0 for what is not there."""
        del share, snapshot
        return 0, 0

    def check_snapshot(self, share: Object, snapshot: str) -> None:
        """Look at what a snapshot says of the blocks, before anything is changed.

        Raises:
            SnapshotGoneError: there is nothing.
            SnapshotDamagedError: it cannot be read.
        """

    def empty(self, store: str) -> None:
        """Drop everything in a metadata store."""

    def restore_snapshot(self, share: Object, store: str, snapshot: str) -> None:
        """Fill an empty metadata store; it stays empty where that fails.

        Raises:
            SnapshotGoneError: there is no dump.
            SnapshotDamagedError: the dump is not what was written.
        """

    def remove_snapshot(self, share: Object, snapshot: str) -> None:
        """Remove a snapshot's files, and the content that only it needed."""

    def has_dump(self, share: Object, snapshot: str) -> bool:
        """Whether a snapshot's dump is there."""
        del share, snapshot
        return True
