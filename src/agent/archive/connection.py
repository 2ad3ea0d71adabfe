"""The way to a bucket: its address, TLS, the model's proxy, and requests that are tried again.

Nothing of the environment is looked at: an image's variables are not the model's.
"""

import base64
import contextlib
import hashlib
import http.client
import random
import ssl
import threading
import time
import weakref
from collections.abc import Generator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple
from urllib.parse import unquote, urlsplit

import certifi

from agent.archive import faults, signing
from agent.archive.errors import ArchiveError
from agent.archive.faults import Fault, Place
from agent.archive.settings import S3

_CONNECT_SECONDS = 5.0
_READ_SECONDS = 30.0
# Where the systems that an image may be made of have the certificates of authorities.
_AUTHORITIES = (
    "/etc/ssl/certs/ca-certificates.crt",
    "/etc/pki/tls/certs/ca-bundle.crt",
    "/etc/ssl/ca-bundle.pem",
    "/etc/ssl/cert.pem",
)
_DEFAULT_REGION = "us-east-1"
_FIRST_PAUSE, _LONGEST_PAUSE = 0.1, 5.0
# Somebody may have put anything into the place of a piece; it is read into memory as a whole.
_LARGEST = 512 * 1024 * 1024
_DEFAULT_PORTS = {"http": 80, "https": 443}
_OK = range(http.client.OK, http.client.MULTIPLE_CHOICES)


class Answer(NamedTuple):
    """What S3 answered."""

    status: int
    headers: http.client.HTTPMessage
    body: bytes


class _Proxy(NamedTuple):
    host: str
    port: int
    headers: Mapping[str, str]


class Connection:
    """Signed requests to one bucket; for any number of threads.

    Args:
        s3: where it is.
        patience: seconds for which a request that fails is tried again.

    Raises:
        ArchiveError: `settings`: its address or its certificates make no sense.
    """

    def __init__(self, s3: S3, patience: float):
        self._bucket = s3.bucket
        self._patience = patience
        self._keys = signing.Keys(s3.access_key, s3.secret_key, s3.region or _DEFAULT_REGION)
        try:
            self._locate(s3)
            self._proxy = _proxy(s3.proxy) if s3.proxy else None
            self._context = _context(s3.ca) if self._scheme == "https" else None
        except (ValueError, ssl.SSLError):
            raise ArchiveError(
                "settings",
                "set endpoint and tls-ca-chain at the provider, or the model's proxy, anew: they "
                "make no sense",
            ) from None
        self._lock = threading.Lock()
        self._idle: list[http.client.HTTPConnection] = []
        weakref.finalize(self, _close, self._idle)
        # Buckets whose objects are locked want a checksum in a header of its own.
        self._wants_md5 = False

    def request(
        self, work: str, key: str, query: Mapping[str, str] | None = None, body: bytes = b""
    ) -> Answer:
        """Make a request.

        Args:
            work: GET, PUT, DELETE, or LIST of the bucket.
            key: of the object, with the prefix; of a list only for words.
            query: parameters.
            body: what is sent.

        Raises:
            ArchiveError: it failed for good, or for too long.
        """
        end = time.monotonic() + self._patience
        pause = _FIRST_PAUSE
        place = Place(work, self._bucket, self._host, key)
        while True:
            answer = self._tried(place, query or {}, body)
            if isinstance(answer, Answer):
                return answer
            if not answer.passes or time.monotonic() + pause >= end:
                raise answer.error
            time.sleep(pause * random.uniform(0.5, 1.0))  # noqa: S311  # no secret
            pause = min(pause * 2, _LONGEST_PAUSE)

    def _tried(self, place: Place, query: Mapping[str, str], body: bytes) -> Answer | Fault:
        try:
            answer = self._once(place, query, body)
            if answer.status in _OK:
                return answer
            if b"Content-MD5" in answer.body and not self._wants_md5:
                self._wants_md5 = True
                answer = self._once(place, query, body)
                if answer.status in _OK:
                    return answer
        except (OSError, http.client.HTTPException, ValueError) as error:
            return faults.broken(place, error)
        return faults.answered(place, *answer)

    def _once(self, place: Place, query: Mapping[str, str], body: bytes) -> Answer:
        path = signing.path_of(self._path if place.work == "LIST" else self._path + place.key)
        method = "GET" if place.work == "LIST" else place.work
        target = (path, signing.query_of(query))
        more: dict[str, str] = {}
        if body and self._wants_md5:
            digest = hashlib.md5(body, usedforsecurity=False).digest()
            more["content_md5"] = base64.b64encode(digest).decode()
        headers = signing.signed(self._keys, method, self._authority, target, body, **more)
        url = "?".join(filter(None, target))
        if self._proxy and not self._context:
            url = f"http://{self._authority}{url}"
            headers |= self._proxy.headers
        with self._connected() as (connection, was_idle):
            try:
                return self._sent(connection, method, url, headers, body)
            except (ConnectionError, http.client.HTTPException):
                if not was_idle:
                    raise
            # It was cut while nobody used it: no fault of the request.
            connection.close()
            self._connect(connection)
            return self._sent(connection, method, url, headers, body)

    @staticmethod
    def _sent(
        connection: http.client.HTTPConnection,
        method: str,
        url: str,
        headers: Mapping[str, str],
        body: bytes,
    ) -> Answer:
        connection.putrequest(method, url, skip_host=True, skip_accept_encoding=True)
        for name, value in headers.items():
            connection.putheader(name, value)
        if body or method == "PUT":
            connection.putheader("Content-Length", str(len(body)))
        connection.endheaders()
        if body:
            connection.send(body)
        with connection.getresponse() as answer:
            if (answer.length or 0) > _LARGEST:
                connection.close()
                raise ArchiveError("damaged", "an object is larger than any that is written here")
            return Answer(answer.status, answer.headers, answer.read())

    @contextmanager
    def _connected(self) -> Generator[tuple[http.client.HTTPConnection, bool]]:
        """A connection, and whether it was used before; kept for the next request."""
        with self._lock:
            connection = self._idle.pop() if self._idle else None
        was_idle = connection is not None
        if connection is None:
            connection = self._new()
            self._connect(connection)
        try:
            yield connection, was_idle
        except BaseException:
            connection.close()
            raise
        if connection.sock is not None:
            with self._lock:
                self._idle.append(connection)

    def _new(self) -> http.client.HTTPConnection:
        host, port = (self._proxy.host, self._proxy.port) if self._proxy else self._address
        if self._context is None:
            return http.client.HTTPConnection(host, port, timeout=_CONNECT_SECONDS)
        made = http.client.HTTPSConnection(
            host, port, timeout=_CONNECT_SECONDS, context=self._context
        )
        if self._proxy:
            made.set_tunnel(*self._address, headers=dict(self._proxy.headers))
        return made

    @staticmethod
    def _connect(connection: http.client.HTTPConnection) -> None:
        connection.connect()
        if connection.sock is not None:
            connection.sock.settimeout(_READ_SECONDS)

    def _locate(self, s3: S3) -> None:
        """Where the bucket is: AWS gives each region a host of its own."""
        region = self._keys.region
        domain = "amazonaws.com.cn" if region.startswith("cn-") else "amazonaws.com"
        parts = urlsplit(s3.endpoint or f"https://s3.{region}.{domain}")
        self._scheme = parts.scheme.lower()
        host = parts.hostname or ""
        default = _DEFAULT_PORTS.get(self._scheme)
        if not host or default is None:
            raise ValueError("no URL of a server")
        port = parts.port or default
        if not s3.path_style:
            host = f"{s3.bucket}.{host}"
        self._host, self._address = host, (host, port)
        shown = f"[{host}]" if ":" in host else host
        self._authority = shown if port == default else f"{shown}:{port}"
        base = parts.path.rstrip("/")
        self._path = f"{base}/{s3.bucket}/" if s3.path_style else f"{base}/"


def _close(idle: list[http.client.HTTPConnection]) -> None:
    for connection in idle:
        connection.close()


def _proxy(url: str) -> _Proxy:
    parts = urlsplit(url)
    headers: dict[str, str] = {}
    if parts.username is not None:
        login = f"{unquote(parts.username)}:{unquote(parts.password or '')}"
        headers["Proxy-Authorization"] = f"Basic {base64.b64encode(login.encode()).decode()}"
    if not parts.hostname:
        raise ValueError("no URL of a proxy")
    return _Proxy(parts.hostname, parts.port or _DEFAULT_PORTS["http"], headers)


def _context(ca: str | None) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.load_default_certs()
    if not any(Path(place).exists() for place in _AUTHORITIES):
        with contextlib.suppress(OSError):
            context.load_verify_locations(certifi.where())
    if ca:
        # A provider may give the certificate of the server itself, or of one in the middle.
        context.verify_flags |= ssl.VERIFY_X509_PARTIAL_CHAIN
        context.load_verify_locations(cadata=ca)
    return context
