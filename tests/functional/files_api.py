"""The files of a container through the stand-in for Pebble."""

import base64
import contextlib
import json
import os
import shutil
import time
from datetime import UTC, datetime
from pathlib import Path
from typing import Any


class ApiProblem(Exception):  # noqa: N818  # an answer, not a failure of this program
    """An answer that refuses."""

    def __init__(self, status: int, message: str, kind: str = ""):
        super().__init__(message)
        self.status, self.kind = status, kind


class Multipart:
    """An answer with a file in it."""

    def __init__(self, result: Any, path: str, content: bytes | None):
        boundary = base64.b16encode(os.urandom(16)).decode()
        self.content_type = f'multipart/form-data; boundary="{boundary}"'
        parts: list[bytes] = []
        if content is not None:
            parts += [
                f'--{boundary}\r\nContent-Disposition: form-data; name="files"; '
                f'filename="{path}"\r\n\r\n'.encode(),
                content,
                b"\r\n",
            ]
        answer = {"type": "sync", "status-code": 200, "status": "OK", "result": result}
        parts.append(
            f"--{boundary}\r\nContent-Type: application/json\r\nContent-Disposition: form-data; "
            f'name="response"\r\n\r\n{json.dumps(answer)}\r\n--{boundary}--\r\n'.encode()
        )
        self.body = b"".join(parts)


def list_files(path: Path, itself: bool) -> list[dict[str, Any]]:
    """GET, action list."""
    try:
        paths = [path] if itself or not path.is_dir() else sorted(path.iterdir())
        return [_file_info(each) for each in paths]
    except FileNotFoundError as error:
        raise ApiProblem(404, f"stat {path}: no such file or directory", "not-found") from error
    except PermissionError as error:
        raise ApiProblem(403, f"open {path}: permission denied", "permission-denied") from error


def _file_info(path: Path) -> dict[str, Any]:
    stat = path.lstat()
    kind = "symlink" if path.is_symlink() else "directory" if path.is_dir() else "file"
    info = {
        "path": str(path),
        "name": path.name,
        "type": kind,
        "permissions": f"{stat.st_mode & 0o777:03o}",
        "last-modified": datetime.fromtimestamp(stat.st_mtime, UTC).isoformat(),
        "user-id": stat.st_uid,
        "group-id": stat.st_gid,
    }
    return info | ({"size": stat.st_size} if kind == "file" else {})


def read_file(path: Path) -> Multipart:
    """GET, action read: the content, or the error in its place."""
    error: dict[str, Any] | None = None
    content = None
    try:
        content = path.read_bytes()
    except OSError as problem:
        error = _path_error(f"open {path}", problem)
    result = [{"path": str(path)} | ({"error": error} if error else {})]
    return Multipart(result, str(path), content)


def write_file(content_type: str, body: bytes) -> list[dict[str, Any]]:
    """POST of a multipart body: written beside and renamed."""
    boundary = content_type.partition('boundary="')[2].rstrip('"')
    # The first part is the request, the second the file; the email package would change line ends.
    first = body.index(b"\r\n\r\n") + 4
    request = json.loads(body[first : body.index(f"\r\n--{boundary}".encode(), first)])
    start = body.index(b"\r\n\r\n", body.index(b'name="files"', first)) + 4
    content = body[start : body.rindex(f"\r\n--{boundary}--".encode())]
    (asked,) = request["files"]
    path = Path(asked["path"])
    temporary = path.with_name(f"{path.name}.{time.monotonic_ns()}~")
    try:
        if asked.get("make-dirs"):
            path.parent.mkdir(parents=True, exist_ok=True)
        temporary.write_bytes(content)
        temporary.chmod(int(asked.get("permissions") or "644", 8))
        temporary.rename(path)
    except OSError as problem:
        with contextlib.suppress(OSError):
            temporary.unlink(missing_ok=True)
        return [{"path": str(path), "error": _path_error(f"open {temporary}", problem)}]
    return [{"path": str(path)}]


def change_files(asked: dict[str, Any]) -> list[dict[str, Any]]:
    """POST, actions make-dirs and remove."""
    results: list[dict[str, Any]] = []
    for each in asked.get("dirs") or asked.get("paths") or []:
        path = Path(each["path"])
        result: dict[str, Any] = {"path": str(path)}
        try:
            if asked["action"] == "make-dirs":
                path.mkdir(
                    parents=bool(each.get("make-parents")),
                    exist_ok=each.get("make-parents", False),
                )
                path.chmod(int(each.get("permissions") or "755", 8))
            elif not each.get("recursive"):
                path.rmdir() if path.is_dir() else path.unlink()
            elif path.is_dir():
                shutil.rmtree(path)
            else:
                path.unlink(missing_ok=True)
        except OSError as problem:
            word = "mkdir" if asked["action"] == "make-dirs" else "remove"
            result["error"] = _path_error(f"{word} {path}", problem)
        results.append(result)
    return results


def _path_error(what: str, problem: OSError) -> dict[str, Any]:
    kinds = {FileNotFoundError: "not-found", PermissionError: "permission-denied"}
    kind = kinds.get(type(problem), "generic-file-error")
    reason = (problem.strerror or str(problem)).lower()
    return {"kind": kind, "message": f"{what}: {reason}"}
