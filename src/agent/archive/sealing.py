"""How a piece is kept: compressed where it pays, encrypted where it is wanted, named by content.

An object begins with the format's name, its version and its flags. The name of a piece is the
SHA-256 of its plain bytes, or their HMAC where it is encrypted: a plain digest would tell who has
the same bytes what is in there. What comes back is checked against its name.
"""

import hashlib
import hmac
import os

import zstandard
from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from agent.archive.errors import ArchiveError
from agent.archive.settings import ArchiveSettings

_FORMAT = b"DFSP\x01"
_COMPRESSED, _ENCRYPTED = 1, 2
_HEAD = len(_FORMAT) + 1
_NONCE_SIZE = 12
_LEVEL = 1
_SAMPLE = 64 * 1024
_PAYS = 0.9
# Of what a piece or a table may become: what claims more is damaged, or made to harm.
_LARGEST = 1024**3


class Sealer:
    """Seals and unseals pieces; for any number of threads.

    Args:
        key: 32 bytes.
        encrypt: whether what is sealed is encrypted; what is unsealed says it itself.
    """

    def __init__(self, key: bytes, *, encrypt: bool):
        self.encrypt = encrypt
        self.key_id = key_id(key)
        self._cipher = AESGCM(_derived(key, "data"))
        self._naming = _derived(key, "names")
        self._manifests = _derived(key, "manifests")

    def name(self, plain: bytes) -> str:
        """The name of a piece, 64 hexadecimal digits."""
        return self._name(plain, self.encrypt)

    def seal(self, name: str, plain: bytes) -> bytes:
        """The object of a piece."""
        flags, body = 0, plain
        if _pays(plain):
            body = zstandard.ZstdCompressor(level=_LEVEL).compress(plain)
            flags |= _COMPRESSED
        if self.encrypt:
            nonce = os.urandom(_NONCE_SIZE)
            flags |= _ENCRYPTED
            sealed = self._cipher.encrypt(nonce, body, name.encode())
            return b"".join((_FORMAT, bytes((flags,)), nonce, sealed))
        return b"".join((_FORMAT, bytes((flags,)), body))

    def unseal(self, name: str, sealed: bytes | memoryview) -> bytes:
        """The plain bytes of a piece.

        Raises:
            ArchiveError: `damaged`: it is not what the name says, or not for this key.
        """
        # A slice of a view is no copy: to copy a piece takes as long as to decrypt it.
        view = memoryview(sealed)
        if len(view) < _HEAD or bytes(view[: len(_FORMAT)]) != _FORMAT:
            raise ArchiveError("damaged", f"piece {name[:12]} is of another format")
        flags, stored = view[_HEAD - 1], view[_HEAD:]
        try:
            body: bytes | memoryview = stored
            if flags & _ENCRYPTED:
                nonce, secret = stored[:_NONCE_SIZE], stored[_NONCE_SIZE:]
                body = self._cipher.decrypt(nonce, secret, name.encode())
            if flags & _COMPRESSED:
                body = zstandard.ZstdDecompressor().decompress(body, max_output_size=_LARGEST)
        except (InvalidTag, ValueError, zstandard.ZstdError):
            raise _damaged(name) from None
        if not hmac.compare_digest(self._name(body, bool(flags & _ENCRYPTED)), name):
            raise _damaged(name)
        return bytes(body)

    def mac(self, text: bytes) -> str:
        """The seal of a manifest: only who has the key can make one."""
        return hmac.new(self._manifests, text, hashlib.sha256).hexdigest()

    def _name(self, plain: bytes | memoryview, encrypted: bool) -> str:
        if encrypted:
            return hmac.new(self._naming, plain, hashlib.sha256).hexdigest()
        return hashlib.sha256(plain).hexdigest()


def sealer_for(settings: ArchiveSettings, wanted: str, *, encrypt: bool = False) -> Sealer:
    """The sealer with the key whose id is `wanted`.

    Raises:
        ArchiveError: `key`: none of the keys at hand is the one.
    """
    for key in (settings.key, settings.foreign_key):
        if key and key_id(key) == wanted:
            return Sealer(key, encrypt=encrypt)
    raise ArchiveError(
        "key",
        "give as recovery-key a Juju secret with what its application had as backup-key: the "
        "backup was made with another key",
    )


def key_id(key: bytes) -> str:
    """Tells keys apart without telling them."""
    return _derived(key, "id").hex()[:16]


def _derived(key: bytes, purpose: str) -> bytes:
    return hmac.new(key, f"dittofs-backup:{purpose}".encode(), hashlib.sha256).digest()


def _pays(plain: bytes) -> bool:
    """Whether a sample from the middle gets smaller."""
    middle = len(plain) // 2
    sample = plain[max(middle - _SAMPLE // 2, 0) : middle + _SAMPLE // 2]
    compressed = zstandard.ZstdCompressor(level=_LEVEL).compress(sample)
    return len(compressed) < _PAYS * len(sample)


def _damaged(name: str) -> ArchiveError:
    return ArchiveError("damaged", f"piece {name[:12]} is not what it was when it was written")
