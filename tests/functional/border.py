"""The border of a container that is only a folder: where its paths and ports are on this machine.

The charm runs as it is. What it says to Pebble and to the server goes through here: `/config` is
then a folder of this run, and port 8080 a free one. What comes back is in the container's words.
"""

import functools
import io
import re
from collections.abc import Callable, Mapping
from pathlib import Path, PurePath
from typing import Any

import httpx
from ops import pebble

from tests import bed, folders

PORTS = (bed.API, bed.NFS, bed.SMB, bed.METRICS, bed.MIRROR, bed.BACKUP)
_PLACES = ("/config", "/data/metadata", "/data/content", "/app", "/tmp/dittofs-agent")  # noqa: S108  # the container's
_PATH = re.compile(rf"(?<![\w./-])(?=(?:{'|'.join(_PLACES)})(?:[/\s\"'\\]|$))")
_PORT = r"((?:localhost|127\.0\.0\.1):|port\"?: ?|--api-port )({})\b"
_EVERYWHERE, _HERE = "host: 0.0.0.0", "host: 127.0.0.1"

Text = Callable[[str], str]


class Border:
    """Translates text; `root` is the folder in front of a container's paths.

    It is the same for all pods of a run, as `/` is: paths are in the server's own database.
    """

    def __init__(self, root: Path):
        self.root = root
        self.ports = {usual: bed.port(usual) for usual in PORTS}
        # The server begins with the usual ones: that must be seen to be another one.
        self._usual = {here: usual for usual, here in self.ports.items()} | self.ports

    def into(self, text: str) -> str:
        """Of the container, as it is here."""
        text = _PATH.sub(str(self.root), text).replace(_EVERYWHERE, _HERE)
        return _translate(text, self.ports)

    def back(self, text: str) -> str:
        """Of here, as it is in the container."""
        text = text.replace(str(self.root), "").replace(_HERE, _EVERYWHERE)
        return _translate(text, self._usual)

    def link(self, path: str, target: Path) -> None:
        """Put a folder where a container has it, in place of the last pod's."""
        place = self.root / path[1:]
        place.parent.mkdir(parents=True, exist_ok=True)
        place.unlink(missing_ok=True)
        place.symlink_to(target)

    def handle(self, transport: httpx.HTTPTransport, request: httpx.Request) -> httpx.Response:
        """What the charm asks of the server."""
        here = self.ports.get(request.url.port or 0)
        if here is None:
            return _handle(transport, request)
        asked = httpx.Request(
            request.method,
            request.url.copy_with(port=here),
            headers=_without_length(request.headers),
            content=_as_bytes(request.read(), self.into),
            extensions=request.extensions,
        )
        answer = _handle(transport, asked)
        try:
            content = answer.read()
        finally:
            answer.close()
        return httpx.Response(
            answer.status_code,
            headers=_without_length(answer.headers),
            content=_as_bytes(content, self.back),
            request=request,
        )


@functools.cache
def border() -> Border:
    """The border of this run."""
    return Border(folders.of_this_run() / "root")


_handle = httpx.HTTPTransport.handle_request


def handle_request(transport: httpx.HTTPTransport, request: httpx.Request) -> httpx.Response:
    """For the charm in place of `httpx.HTTPTransport.handle_request`."""
    return border().handle(transport, request)


class Client(pebble.Client):
    """Pebble's client at the border."""

    def __init__(self, socket: str, border: Border):
        super().__init__(socket)
        self._border = border

    def push(self, path: str | PurePath, source: Any, **options: Any) -> None:
        """Write a file, with what it says of paths and ports."""
        data = source if isinstance(source, str | bytes) else source.read()
        raw = data.encode() if isinstance(data, str) else data
        super().push(self._into(path), _as_bytes(raw, self._border.into), **options)

    def pull(self, path: str | PurePath, *, encoding: str | None = "utf-8") -> Any:
        """Read a file as it was pushed."""
        with super().pull(self._into(path), encoding=None) as file:
            content = _as_bytes(file.read(), self._border.back)  # pyright: ignore[reportArgumentType]  # bytes, without an encoding
        return io.BytesIO(content) if encoding is None else io.StringIO(content.decode(encoding))

    def list_files(self, path: str | PurePath, **options: Any) -> list[pebble.FileInfo]:
        """What is in a folder."""
        found = super().list_files(self._into(path), **options)
        for each in found:
            each.path = self._border.back(each.path)
        return found

    def make_dir(self, path: str | PurePath, **options: Any) -> None:
        """Make a folder."""
        super().make_dir(self._into(path), **options)

    def remove_path(self, path: str | PurePath, **options: Any) -> None:
        """Remove a file or a folder."""
        super().remove_path(self._into(path), **options)

    def add_layer(self, label: str, layer: Any, **options: Any) -> None:
        """Add a layer."""
        text = (layer if isinstance(layer, pebble.Layer) else pebble.Layer(layer)).to_yaml()
        super().add_layer(label, self._border.into(text), **options)

    def get_plan(self) -> pebble.Plan:
        """The plan, as it was made."""
        return pebble.Plan(self._border.back(super().get_plan().to_yaml()))

    def exec(self, command: list[str], **options: Any) -> Any:
        """Run a command."""
        environment = options.pop("environment", None) or {}
        return super().exec(
            [self._border.into(word) for word in command],
            environment={name: self._border.into(text) for name, text in environment.items()},
            **options,
        )

    def _into(self, path: str | PurePath) -> str:
        return self._border.into(str(path))


def _translate(text: str, ports: Mapping[int, int]) -> str:
    pattern = _PORT.format("|".join(map(str, ports)))
    return re.sub(pattern, lambda found: f"{found[1]}{ports[int(found[2])]}", text)


def _as_bytes(data: bytes, translate: Text) -> bytes:
    """Text, translated; a database or an archive as it is."""
    if b"\0" in data:
        return data
    try:
        return translate(data.decode()).encode()
    except UnicodeDecodeError:
        return data


def _without_length(headers: httpx.Headers) -> httpx.Headers:
    left = ("content-length", "content-encoding", "transfer-encoding", "host")
    return httpx.Headers([each for each in headers.multi_items() if each[0].lower() not in left])
