"""A real file system of a limited size for a volume: ext4 in a file, else a tmpfs."""

import contextlib
import os
import shutil
import subprocess
from pathlib import Path

from tests.functional.pod import Pod, Volume


class RealVolume(Volume):
    """ext4 by a loop device, mounted in the place of a volume of a pod that is not started yet."""

    def __init__(self, path: Path, size: int):
        self.path = path
        self.image = path.with_suffix(".img")
        with self.image.open("wb") as file:
            file.truncate(size)
        _run("mkfs.ext4", "-q", "-m", "0", str(self.image))
        _run("mount", "-o", "loop", str(self.image), str(path))
        # As a volume's folder for backups of the file system: nothing of ours.
        shutil.rmtree(path / "lost+found", ignore_errors=True)

    def unmount(self) -> None:
        """It is used no more."""
        super().unmount()
        self.image.unlink()


def limit(pod: Pod, name: str, size: int) -> str:
    """Put a volume of this size in the place of the pod's; what it is."""
    volume = pod.volumes[name]
    volume.unmount()
    try:
        pod.volumes[name] = RealVolume(volume.path, size)
    except (OSError, subprocess.CalledProcessError):
        with contextlib.suppress(OSError):
            volume.path.with_suffix(".img").unlink()
        volume.path.rmdir()
        pod.volumes[name] = Volume(volume.path, size)
        return "tmpfs"
    return "ext4"


def usable(path: Path) -> int:
    """What a file system gives to its users, in bytes."""
    info = os.statvfs(path)
    return (info.f_blocks - info.f_bfree + info.f_bavail) * info.f_frsize


def free(path: Path) -> int:
    """What is free, in bytes."""
    info = os.statvfs(path)
    return info.f_bavail * info.f_frsize


def _run(*command: str) -> None:
    subprocess.run(command, check=True, capture_output=True)
