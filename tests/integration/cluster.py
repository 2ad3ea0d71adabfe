"""What the how-tos do with kubectl: pods, claims and volumes of one model."""

import json
import os
import shlex
import shutil
import subprocess
from typing import Any

from tests.integration.reading import Claim, claims_of

_TIMEOUT = 180
_STORAGES = ("metadata", "content")
_KNOWN = ("kubectl", "microk8s", "k8s")


def kubectl() -> list[str]:
    """The command that reaches the cluster; empty where there is none.

    `$KUBECTL` names another one than the first of those that are known.
    """
    chosen = os.environ.get("KUBECTL")
    if chosen:
        return shlex.split(chosen)
    found = next((each for each in _KNOWN if shutil.which(each)), None)
    if found is None:
        return []
    return [found] if found == "kubectl" else [found, "kubectl"]


class ClusterError(Exception):
    """kubectl failed; the text is what it said."""


class Cluster:
    """The namespace of a model. Methods raise `ClusterError`."""

    def __init__(self, namespace: str, command: list[str]):
        self._namespace = namespace
        self._command = command
        self._kept: list[str] = []

    def missing(self) -> str:
        """Why it cannot be used; empty where it can."""
        if not self._command:
            return "there is no kubectl: install it, or name it in $KUBECTL"
        try:
            self._run("get", "namespace", self._namespace)
        except ClusterError:
            return f"{shlex.join(self._command)} does not reach the namespace {self._namespace}"
        return ""

    def exists(self) -> bool:
        """Whether the namespace is still there."""
        return bool(self._run("get", "namespace", self._namespace, "--ignore-not-found").strip())

    def pod(self, name: str) -> str:
        """What tells a pod from another one of the same name; empty where there is none."""
        return self._run(
            *("get", "pod", name, "--ignore-not-found", "-o", "jsonpath={.metadata.uid}")
        )

    def delete_pod(self, name: str) -> None:
        """Delete a pod as `kubectl` does: it ends in good order."""
        self._run("delete", "pod", name, "--wait=false")

    def scale(self, application: str, replicas: int) -> None:
        """Scale behind Juju's back; to 0: until the pod is gone."""
        self._run("scale", "statefulset", application, "--replicas", str(replicas))
        if replicas == 0:
            pod = f"pod/{application}-0"
            self._run("wait", "--for=delete", pod, "--timeout", f"{_TIMEOUT - 30}s")

    def claims(self, application: str) -> dict[str, Claim]:
        """The claims of unit 0 by the names of their storages."""
        return claims_of(self._list("pvc"), f"{application}-0", _STORAGES)

    def keep(self, volume: str) -> None:
        """Have a volume outlive its claim, until `close`."""
        self._set_policy(volume, "Retain")
        self._kept.append(volume)

    def delete_claims(self, *claims: str) -> None:
        """Delete claims that no pod uses."""
        self._run("delete", "pvc", *claims, "--ignore-not-found")

    def reserve(self, volume: str, claim: str) -> None:
        """Put a volume behind the claim that is made next under this name."""
        reference = {
            "apiVersion": "v1",
            "kind": "PersistentVolumeClaim",
            "namespace": self._namespace,
            "name": claim,
            "uid": None,
            "resourceVersion": None,
        }
        patch = json.dumps({"spec": {"claimRef": reference}})
        self._run("patch", "pv", volume, "--type", "merge", "-p", patch)

    def left_of(self, application: str) -> list[str]:
        """What is still there of an application."""
        kinds = ("statefulset", "pod", "service", "pvc")
        return [
            f"{kind} {name}"
            for kind in kinds
            for name in (each["metadata"]["name"] for each in self._list(kind))
            if name == application or name.startswith(f"{application}-")
        ]

    def logs(self, pod: str, container: str, seconds: int) -> str:
        """What a container has logged in the last seconds."""
        return self._run("logs", pod, "--container", container, "--since", f"{seconds}s")

    def close(self) -> None:
        """Let go of the volumes that were kept: they go with their claims again."""
        for volume in self._kept:
            try:
                self._set_policy(volume, "Delete")
            except ClusterError:
                continue  # it is gone already

    def _set_policy(self, volume: str, policy: str) -> None:
        patch = json.dumps({"spec": {"persistentVolumeReclaimPolicy": policy}})
        self._run("patch", "pv", volume, "-p", patch)

    def _list(self, kind: str) -> list[dict[str, Any]]:
        return json.loads(self._run("get", kind, "-o", "json"))["items"]

    def _run(self, *arguments: str) -> str:
        command = [*self._command, "--namespace", self._namespace, *arguments]
        try:
            finished = subprocess.run(
                command, check=False, capture_output=True, text=True, timeout=_TIMEOUT
            )
        except (OSError, subprocess.SubprocessError) as error:
            raise ClusterError(str(error)) from error
        if finished.returncode:
            raise ClusterError(f"{shlex.join(arguments)}: {finished.stderr.strip()}")
        return finished.stdout
