"""What can go wrong with a backup, as one exception with a kind."""


class ArchiveError(Exception):
    """An operation cannot go on; the text is for people and has no secrets.

    Attributes:
        kind: credentials, bucket, away, space, damaged, key, missing, newer, refused, api, busy,
            settings or cancelled.
    """

    def __init__(self, kind: str, text: str):
        super().__init__(text)
        self.kind = kind
