"""A real S3 server for tests, and a proxy that gets between it and a client.

The server is moto's, as a process of its own. It checks signatures: only the keys that it was
started with may do anything.
"""

import contextlib
import datetime as dt
import functools
import http.client
import ipaddress
import json
import logging
import os
import random
import secrets
import signal
import socket
import ssl
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, Self, cast
from xml.sax.saxutils import escape

import boto3
from botocore.config import Config
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from tests.databases import ROOT
from tests.mysql import certificates
from tests.ports import HOST, free_port

REGION = "us-east-1"
# Hosts of S3 that are not Amazon's: a bucket is in the path, or in front of one of these.
OTHER_S3 = ("minio.test", "rgw.test", "storage.googleapis.com")
_START_TIMEOUT = 30.0
_BUFFER = 2**20
# Objects up to this size stay in memory; larger ones keep a file open each.
_IN_MEMORY = 2**26


class S3Error(RuntimeError):
    """The server did not start; the text has the end of its log."""


class S3Server:
    """An S3 server on 127.0.0.1; a context manager that starts and ends it.

    All objects are in its memory: when it is killed they are gone, and `start` begins with
    nothing. A server that is away for a while is had by `pause` and `resume`.

    Args:
        directory: a folder for its log.
        page: how many keys a list has at most.

    Attributes:
        access_key: with `secret_key` the keys that may do everything; others get a 403.
    """

    def __init__(self, directory: Path, *, page: int = 1000):
        self.directory = directory
        self.port = free_port()
        self.page = page
        self.access_key = f"AKIA{secrets.token_hex(8).upper()}"
        self.secret_key = secrets.token_urlsafe(30)
        self._process: subprocess.Popen[bytes] | None = None

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    @property
    def url(self) -> str:
        """Where it is."""
        return f"http://{HOST}:{self.port}"

    @property
    def log(self) -> str:
        """What it printed."""
        return (self.directory / "s3.log").read_text(errors="replace")

    def start(self) -> None:
        """Start it without any bucket, on the port that it had, and wait until it answers."""
        self.directory.mkdir(parents=True, exist_ok=True)
        with (self.directory / "s3.log").open("ab") as log:
            self._process = subprocess.Popen(
                [sys.executable, "-m", "tests.s3", str(self.port)],
                env=self._environment(),
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
            )
        deadline = time.monotonic() + _START_TIMEOUT
        while not self._answers():
            if self._process.poll() is not None or time.monotonic() > deadline:
                self.kill()
                raise S3Error(self.log[-3000:])
            time.sleep(0.05)

    def kill(self) -> None:
        """End it at once, and all that is in it."""
        if self._process:
            self._process.kill()
            self._process.wait()
            self._process = None

    def close(self) -> None:
        """End it, and the client that the methods here use."""
        self.kill()
        if "_client" in self.__dict__:
            self._client.close()

    def pause(self) -> None:
        """Let it answer nothing until `resume`; connections are taken and wait."""
        self._signal(signal.SIGSTOP)

    def resume(self) -> None:
        """Undo `pause`."""
        self._signal(signal.SIGCONT)

    def settings(self, bucket: str, prefix: str = "", **more: Any) -> dict[str, Any]:
        """What a client is told of a bucket: the part `s3` of the agent's configuration.

        `more` replaces parts, such as `endpoint=proxy.url` and `ca=proxy.ca`.
        """
        return {
            "endpoint": self.url,
            "region": REGION,
            "bucket": bucket,
            "prefix": prefix,
            "path_style": True,
            "access_key": self.access_key,
            "secret_key": self.secret_key,
            "ca": None,
            **more,
        }

    def make_bucket(self, name: str) -> str:
        """Make a bucket and give its name: 3 to 63 small letters, digits and hyphens."""
        self._client.create_bucket(Bucket=name)
        return name

    def remove_bucket(self, name: str) -> None:
        """Remove a bucket with all that is in it."""
        self.delete(name, *self.keys(name))
        self._client.delete_bucket(Bucket=name)

    def sizes(self, bucket: str, prefix: str = "") -> dict[str, int]:
        """Key to bytes of all objects, in the order of the keys."""
        pages = self._client.get_paginator("list_objects_v2").paginate(
            Bucket=bucket, Prefix=prefix
        )
        found = [each for page in pages for each in page.get("Contents", [])]
        return {each["Key"]: each["Size"] for each in found}

    def keys(self, bucket: str, prefix: str = "") -> list[str]:
        """The keys of all objects."""
        return list(self.sizes(bucket, prefix))

    def get(self, bucket: str, key: str) -> bytes:
        """An object's content."""
        with contextlib.closing(self._client.get_object(Bucket=bucket, Key=key)["Body"]) as body:
            return body.read()

    def put(self, bucket: str, key: str, data: bytes) -> None:
        """Write an object."""
        self._client.put_object(Bucket=bucket, Key=key, Body=data)

    def delete(self, bucket: str, *keys: str) -> None:
        """Remove objects; one that is not there is no error."""
        # XML has no word for control characters.
        for key in (key for key in keys if not key.isprintable()):
            self._client.delete_object(Bucket=bucket, Key=key)
        keys = tuple(key for key in keys if key.isprintable())
        for first in range(0, len(keys), 1000):
            objects = [{"Key": key} for key in keys[first : first + 1000]]
            self._client.delete_objects(Bucket=bucket, Delete={"Objects": objects})

    def damage(self, bucket: str, key: str) -> None:
        """Change one bit in the middle of an object."""
        data = bytearray(self.get(bucket, key))
        data[len(data) // 2] ^= 1
        self.put(bucket, key, bytes(data))

    @functools.cached_property
    def _client(self) -> Any:
        return boto3.client(
            "s3",
            endpoint_url=self.url,
            region_name=REGION,
            aws_access_key_id=self.access_key,
            aws_secret_access_key=self.secret_key,
            config=Config(s3={"addressing_style": "path"}, retries={"total_max_attempts": 1}),
        )

    def _signal(self, number: int) -> None:
        assert self._process
        self._process.send_signal(number)

    def _answers(self) -> bool:
        connection = http.client.HTTPConnection(HOST, self.port, timeout=5)
        with contextlib.closing(connection):
            try:
                connection.request("GET", "/moto-api/config")
                connection.getresponse().read()
            except OSError:
                return False
        return True

    def _environment(self) -> dict[str, str]:
        kept = {name: value for name, value in os.environ.items() if name[:4] != "AWS_"}
        return kept | {
            "PYTHONPATH": f"{ROOT}/src:{ROOT}",
            "PYTHONWARNINGS": "ignore",
            "INITIAL_NO_AUTH_ACTION_COUNT": "0",
            "MOTO_S3_DEFAULT_KEY_BUFFER_SIZE": str(_IN_MEMORY),
            "MOTO_S3_DEFAULT_MAX_KEYS": str(self.page),
            "MOTO_DISABLE_GLOBAL_CORS": "1",
            # For all others the first part of a host's name is a bucket.
            "MOTO_S3_CUSTOM_ENDPOINTS": ",".join(f"https://{host}:9000" for host in OTHER_S3),
            "TEST_S3_KEYS": json.dumps([self.access_key, self.secret_key]),
        }


class Authority(certificates.Authority):
    """Signs certificates for a server on this machine."""

    def context(self, folder: Path, *names: str) -> ssl.SSLContext:
        """What a server on this machine speaks TLS with; `folder` gets its files.

        Its certificate is for localhost, 127.0.0.1 and `names`, such as `*.example.com`.
        """
        folder.mkdir(parents=True, exist_ok=True)
        key = ec.generate_private_key(ec.SECP256R1())
        files = {
            "certificate": self._for_host(key, names).public_bytes(serialization.Encoding.PEM),
            "key": key.private_bytes(
                serialization.Encoding.PEM,
                serialization.PrivateFormat.PKCS8,
                serialization.NoEncryption(),
            ),
        }
        for name, data in files.items():
            (folder / name).write_bytes(data)
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(folder / "certificate", folder / "key")
        return context

    def _for_host(self, key: ec.EllipticCurvePrivateKey, more: Iterable[str]) -> x509.Certificate:
        names = [x509.DNSName("localhost"), x509.IPAddress(ipaddress.ip_address(HOST))]
        names += [x509.DNSName(name) for name in more]
        now = dt.datetime.now(dt.UTC)
        return (
            x509.CertificateBuilder()
            .subject_name(x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "localhost")]))
            .issuer_name(self._name)
            .public_key(key.public_key())
            .serial_number(x509.random_serial_number())
            .not_valid_before(now - dt.timedelta(days=1))
            .not_valid_after(now + dt.timedelta(days=1))
            .add_extension(x509.SubjectAlternativeName(names), critical=False)
            .sign(self._key, hashes.SHA256())
        )


@dataclass
class Request:
    """A request that came to the proxy.

    Attributes:
        path: as it was sent, with bucket, key and query.
        sent: bytes of the body that went to the server.
        received: bytes of the body of the answer that went to the client.
        status: of the answer, None where there was none.
        fault: what was done to it, "" for nothing.
    """

    method: str
    path: str
    sent: int = 0
    received: int = 0
    status: int | None = None
    fault: str = ""


# The status that S3 answers with each of its codes.
ERRORS = {
    "AccessDenied": 403,
    "AuthorizationHeaderMalformed": 400,
    "BadDigest": 400,
    "EntityTooLarge": 400,
    "ExpiredToken": 400,
    "InternalError": 500,
    "InvalidAccessKeyId": 403,
    "InvalidBucketName": 400,
    "InvalidObjectState": 403,
    "MethodNotAllowed": 405,
    "NoSuchBucket": 404,
    "NotImplemented": 501,
    "OperationAborted": 409,
    "PermanentRedirect": 301,
    "QuotaExceeded": 403,
    "RequestTimeTooSkewed": 403,
    "RequestTimeout": 400,
    "ServiceUnavailable": 503,
    "SignatureDoesNotMatch": 403,
    "SlowDown": 503,
    "TooManyRequests": 429,
    "UserSuspended": 403,
    "XMinioStorageFull": 507,
}
CUT, LOSE, DAMAGE, SHORTEN = "cut", "lose-answer", "damage", "shorten"
Match = Callable[[str, str], bool]


def _any(method: str, path: str) -> bool:
    del method, path
    return True


@dataclass
class _Fault:
    name: str
    left: int | None
    rate: float
    match: Match


class _Cut(Exception):  # noqa: N818  # a fault to make, not an error
    """The connection to the client ends here."""


class FaultyProxy:
    """Stands between S3 clients and the server on 127.0.0.1, and does what S3 can do to them.

    A context manager that ends it. Without faults it passes everything on.

    Args:
        target: the port of the server.
        authority: signs the certificate that it speaks TLS with; None: it speaks plain HTTP.
        folder: for the files of the certificate.

    Attributes:
        requests: all that came, in the order of their coming.
        on_request: is called for each before it is passed on, with its number (from 1), method
            and path; what it raises cuts the connection.
        delay: seconds that each request waits.
        limit: bytes of bodies in a second, of all connections together; None: as fast as it goes.
    """

    def __init__(
        self, target: int, *, authority: Authority | None = None, folder: Path | None = None
    ):
        self.target = target
        self.requests: list[Request] = []
        self.on_request: Callable[[int, str, str], None] = lambda _number, _method, _path: None
        self.delay = 0.0
        self.limit: int | None = None
        self.ca = authority.pem if authority else None
        self._lock = threading.Lock()
        self._faults: list[_Fault] = []
        self._connections: set[socket.socket] = set()
        self._refusing = False
        self._free_at = 0.0
        self._server = _Listener((HOST, 0), self)
        if authority:
            assert folder, "the certificate's files need a folder"
            self._server.context = authority.context(folder)
        self.port: int = self._server.server_address[1]
        self._thread = threading.Thread(
            target=self._server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True
        )
        self._thread.start()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    @property
    def url(self) -> str:
        """Where clients reach it."""
        return f"http{'s' if self.ca else ''}://{HOST}:{self.port}"

    @property
    def faults(self) -> Counter[str]:
        """How many requests each fault was done to."""
        return Counter(each.fault for each in self.requests if each.fault)

    def answer(
        self, code: str, count: int | None = None, *, rate: float = 1.0, match: Match = _any
    ) -> None:
        """Answer requests with one of S3's errors, see `ERRORS`, instead of passing them on.

        Args:
            code: the error.
            count: for so many requests; None: until `heal`.
            rate: which share of the requests.
            match: says by method and path whether it is for a request.
        """
        assert code in ERRORS
        self._add(code, count, rate, match)

    def cut(self, count: int | None = None, *, rate: float = 1.0, match: Match = _any) -> None:
        """Cut the connection in the middle of a body: the request's, or the answer's.

        The server gets nothing whole of a request that is cut.
        """
        self._add(CUT, count, rate, match)

    def lose_answer(
        self, count: int | None = None, *, rate: float = 1.0, match: Match = _any
    ) -> None:
        """Pass requests on, and cut the connection instead of passing on the answer."""
        self._add(LOSE, count, rate, match)

    def damage(self, count: int | None = None, *, rate: float = 1.0, match: Match = _any) -> None:
        """Change a bit in the middle of the answer's body."""
        self._add(DAMAGE, count, rate, match)

    def shorten(self, count: int | None = None, *, rate: float = 1.0, match: Match = _any) -> None:
        """Answer with half of the body, as if that were all."""
        self._add(SHORTEN, count, rate, match)

    def refuse(self) -> None:
        """Take no connections, and cut those that are there, as a server that is away."""
        self._refusing = True
        self.cut_connections()

    def cut_connections(self) -> None:
        """Cut all connections that are there now."""
        with self._lock:
            present, self._connections = self._connections, set()
        for each in present:
            _shut(each)

    def heal(self) -> None:
        """End all faults."""
        with self._lock:
            self._faults = []
        self._refusing = False
        self.delay, self.limit = 0.0, None

    def close(self) -> None:
        """End it."""
        self._server.shutdown()
        self._server.server_close()
        self.cut_connections()
        self._thread.join(10)

    def enter(self, connection: socket.socket) -> bool:
        """Take a connection, or say that none is taken now."""
        if self._refusing:
            return False
        with self._lock:
            self._connections.add(connection)
        return True

    def leave(self, connection: socket.socket) -> None:
        """A connection has ended."""
        with self._lock:
            self._connections.discard(connection)

    def begin(self, request: Request) -> None:
        """Record a request, and say in it which fault it is to get."""
        with self._lock:
            self.requests.append(request)
            number = len(self.requests)
            request.fault = self._take(request.method, request.path)
        self.on_request(number, request.method, request.path)
        time.sleep(self.delay)

    def pace(self, count: int) -> None:
        """Wait until so many bytes may go on."""
        if self.limit:
            with self._lock:
                self._free_at = max(self._free_at, time.monotonic()) + count / self.limit
                wait = self._free_at - time.monotonic()
            time.sleep(wait)

    def _add(self, name: str, count: int | None, rate: float, match: Match) -> None:
        with self._lock:
            self._faults.append(_Fault(name, count, rate, match))

    def _take(self, method: str, path: str) -> str:
        for fault in self._faults:
            if fault.left == 0 or not fault.match(method, path):
                continue
            if random.random() >= fault.rate:  # noqa: S311  # chance, not a secret
                continue
            if fault.left is not None:
                fault.left -= 1
            return fault.name
        return ""


class _Listener(ThreadingHTTPServer):
    """Hands connections to the proxy, by TLS where there is a certificate."""

    daemon_threads = True
    block_on_close = False
    request_queue_size = 128
    context: ssl.SSLContext | None = None

    def __init__(self, address: tuple[str, int], proxy: FaultyProxy):
        self.proxy = proxy
        super().__init__(address, _Handler)

    def finish_request(self, request: Any, client_address: Any) -> None:
        """Serve one connection; it is in a thread of its own already."""
        if self.context:
            request.settimeout(30)
            request = self.context.wrap_socket(request, server_side=True)
            request.settimeout(None)
        with contextlib.closing(request):
            if self.proxy.enter(request):
                super().finish_request(request, client_address)
            self.proxy.leave(request)

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Say nothing: connections end in all ways here."""


class _Handler(BaseHTTPRequestHandler):
    """Passes the requests of one connection on, over one to the server."""

    protocol_version = "HTTP/1.1"
    rbufsize = _BUFFER
    disable_nagle_algorithm = True

    def setup(self) -> None:
        """Make the connection to the server, and a buffer for bodies."""
        super().setup()
        self.proxy = cast("_Listener", self.server).proxy
        self.onward = http.client.HTTPConnection(HOST, self.proxy.target, timeout=120)
        self.buffer = memoryview(bytearray(_BUFFER))

    def finish(self) -> None:
        """Let go of both connections."""
        self.onward.close()
        super().finish()

    def _pass_on(self) -> None:
        request = Request(self.command, self.path)
        length = int(self.headers.get("Content-Length") or 0)
        try:
            self.proxy.begin(request)
            if request.fault in ERRORS:
                self._skip(length)
                self._say(request)
                return
            self._send(request, length)
            self._answer(request)
        except (_Cut, OSError, http.client.HTTPException):
            # The server's end too: it is not to wait for the rest of a request.
            self.onward.close()
            self.close_connection = True
            _shut(self.connection)

    do_GET = do_PUT = do_POST = do_DELETE = do_HEAD = _pass_on  # noqa: N815  # http.server's names

    def _send(self, request: Request, length: int) -> None:
        cut = request.fault == CUT and request.method not in {"GET", "HEAD"}
        if cut and not length:
            raise _Cut
        self.onward.putrequest(
            request.method, request.path, skip_host=True, skip_accept_encoding=True
        )
        for name, value in self.headers.items():
            # The client was told to go on already.
            if name.lower() not in {"expect", "connection"}:
                self.onward.putheader(name, value)
        self.onward.endheaders()
        for part in self._parts(self.rfile, length // 2 if cut else length):
            request.sent += len(part)
            self.onward.send(part)
        if cut:
            raise _Cut

    def _answer(self, request: Request) -> None:
        with self.onward.getresponse() as answer:
            if request.fault == LOSE:
                raise _Cut
            size, parts = self._body(request, answer)
            if request.fault == CUT and not size:
                raise _Cut
            request.status = answer.status
            self.send_response_only(answer.status, answer.reason)
            for name, value in answer.getheaders():
                if name.lower() not in {"connection", "transfer-encoding", "content-length"}:
                    self.send_header(name, value)
            if request.method == "HEAD":
                self.send_header("Content-Length", answer.headers.get("Content-Length", "0"))
            elif answer.status != http.HTTPStatus.NO_CONTENT:
                self.send_header("Content-Length", str(size))
            self.end_headers()
            for part in parts:
                request.received += len(part)
                self.wfile.write(part)
            if request.fault == CUT:
                raise _Cut

    def _body(
        self, request: Request, answer: http.client.HTTPResponse
    ) -> tuple[int, Iterable[memoryview | bytes]]:
        """The size that is said of the answer's body, and its parts."""
        size = answer.length
        if size is not None and request.fault not in {DAMAGE, SHORTEN}:
            return size, self._parts(answer, size // 2 if request.fault == CUT else size)
        data = bytearray(answer.read())
        if request.fault == DAMAGE and data:
            data[len(data) // 2] ^= 1
        if request.fault == SHORTEN:
            del data[len(data) // 2 :]
        size = len(data)
        return size, [bytes(data[: size // 2] if request.fault == CUT else data)]

    def _parts(self, source: Any, length: int) -> Iterator[memoryview]:
        while length:
            count = source.readinto(self.buffer[: min(length, _BUFFER)])
            if not count:
                raise _Cut
            length -= count
            self.proxy.pace(count)
            yield self.buffer[:count]

    def _skip(self, length: int) -> None:
        for _ in self._parts(self.rfile, length):
            pass

    def _say(self, request: Request) -> None:
        request.status = ERRORS[request.fault]
        text = (
            f"<?xml version='1.0' encoding='UTF-8'?>\n<Error><Code>{request.fault}</Code>"
            f"<Message>The proxy says {request.fault}</Message>"
            f"<Resource>{escape(request.path)}</Resource><RequestId>1</RequestId></Error>"
        ).encode()
        self.send_response_only(request.status)
        self.send_header("Content-Type", "application/xml")
        self.send_header("Content-Length", str(len(text)))
        self.end_headers()
        if request.method != "HEAD":
            self.wfile.write(text)

    def log_message(self, format: str, *args: Any) -> None:  # noqa: A002  # http.server's name
        """Say nothing: `requests` has it all."""


def _shut(end: socket.socket) -> None:
    with contextlib.suppress(OSError):
        end.shutdown(socket.SHUT_RDWR)


def _serve(port: int) -> None:
    """Be the server."""
    # Only this process needs them, and they take long to import.
    from moto.core.models import DEFAULT_ACCOUNT_ID  # noqa: PLC0415
    from moto.iam.models import iam_backends  # noqa: PLC0415
    from moto.moto_server.werkzeug_app import (  # noqa: PLC0415
        DomainDispatcherApplication,
        MotoRequestHandler,
        create_backend_app,
    )
    from werkzeug.serving import run_simple  # noqa: PLC0415

    backend = iam_backends[DEFAULT_ACCOUNT_ID]["aws"]
    backend.create_user(REGION, "tests")
    everything = {"Effect": "Allow", "Action": "s3:*", "Resource": "*"}
    policy = json.dumps({"Version": "2012-10-17", "Statement": [everything]})
    backend.put_user_policy("tests", "all", policy)
    key = backend.create_access_key("tests")
    key.access_key_id, key.secret_access_key = json.loads(os.environ["TEST_S3_KEYS"])
    logging.getLogger("werkzeug").setLevel(logging.ERROR)
    application = DomainDispatcherApplication(create_backend_app)

    def with_spaces(environ: dict[str, Any], start_response: Any) -> Any:
        # A space in a query may be a plus; S3 knows that, and moto's check of signatures does not.
        for name in ("QUERY_STRING", "REQUEST_URI", "RAW_URI"):
            path, mark, query = environ.get(name, "").rpartition("?")
            environ[name] = path + mark + query.replace("+", "%20")
        return application(environ, start_response)

    run_simple(HOST, port, with_spaces, threaded=True, request_handler=MotoRequestHandler)


if __name__ == "__main__":
    _serve(int(sys.argv[1]))
