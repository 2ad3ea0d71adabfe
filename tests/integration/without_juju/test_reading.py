"""What Juju and Kubernetes print is read, of Juju 3.6 and of Juju 4.0."""

import json

import pytest

from tests.integration import reading
from tests.integration.application import ADMIN, BACKUP_KEY
from tests.integration.cluster import Cluster, ClusterError, kubectl
from tests.integration.reading import Claim

# As Juju prints them; a secret of a user has a name, and a description only where it was given.
SECRETS = {
    "d1": {"revision": 1, "owner": "dittofs", "description": ADMIN},
    "d2": {"revision": 1, "owner": "dittofs/0", "description": f"{ADMIN}, until this unit leads"},
    "d3": {
        "revision": 1,
        "owner": "dittofs",
        "description": f"{BACKUP_KEY[0]}. Keep a copy",
        "label": "backup-key",
    },
    "d4": {"revision": 2, "owner": "<model>", "name": "admin"},
    "d5": {"revision": 1, "owner": "mysql-provider", "label": "backup-key-of-another"},
}


def claim(name, volume="pv-1"):
    spec = {"volumeName": volume} if volume else {}
    return {"metadata": {"name": name}, "spec": spec}


def test_a_secret_is_found_by_its_whole_description_first():
    assert reading.find_secret(json.dumps(SECRETS), ADMIN) == "secret:d1"


@pytest.mark.parametrize("label", ["", "backup-key", "backup-key-that-juju-does-not-tell"])
def test_a_secret_is_found_with_a_label_and_without_one(label):
    assert reading.find_secret(json.dumps(SECRETS), BACKUP_KEY[0], label) == "secret:d3"


@pytest.mark.parametrize("text", ["{}", "null", json.dumps(SECRETS)])
def test_a_secret_that_is_not_there_is_named(text):
    with pytest.raises(LookupError, match="0 secrets begin with 'of nobody'"):
        reading.find_secret(text, "of nobody")


def test_more_than_one_secret_is_none():
    rows = {"a": {"description": "twice"}, "b": {"description": "twice"}}
    with pytest.raises(LookupError, match="2 secrets"):
        reading.find_secret(json.dumps(rows), "twice")


def test_the_secrets_of_an_application_are_its_own_and_its_units():
    text = json.dumps(SECRETS)
    assert reading.owned_secrets(text, "dittofs") == ["d1", "d2", "d3"]
    assert reading.owned_secrets("{}", "dittofs") == []


@pytest.mark.parametrize("content", [{"Data": {"key": "k"}}, {"key": "k"}])
def test_the_content_of_a_secret_is_read_in_both_forms(content):
    assert reading.revealed(json.dumps({"d1": {"content": content}})) == {"key": "k"}


def test_claims_are_those_of_the_pod_by_their_storage():
    claims = [
        claim("dittofs-metadata-5b8c3a1f-dittofs-0", "pv-m"),
        claim("dittofs-content-5b8c3a1f-dittofs-0", ""),
        claim("dittofs-content-5b8c3a1f-dittofs-1"),
        claim("other-metadata-5b8c3a1f-other-0"),
        claim("metadata-of-nobody"),
    ]
    assert reading.claims_of(claims, "dittofs-0", ("metadata", "content")) == {
        "metadata": Claim("dittofs-metadata-5b8c3a1f-dittofs-0", "pv-m"),
        "content": Claim("dittofs-content-5b8c3a1f-dittofs-0", ""),
    }


def test_results_of_an_action_are_text():
    assert reading.as_text({"equal": True, "size": 3, "id": "a"}) == {
        "equal": "true",
        "size": "3",
        "id": "a",
    }


@pytest.fixture
def recorded(tmp_path):
    """A kubectl that writes down what it was told, and prints what the test says."""
    program, log, answer = tmp_path / "kubectl", tmp_path / "log", tmp_path / "answer"
    program.write_text(
        f'#!/bin/sh\nprintf "%s\\n" "$*" >> {log}\n[ -e {answer} ] || exit 1\ncat {answer}\n'
    )
    program.chmod(0o755)
    answer.touch()
    return Cluster("files", [str(program)]), log, answer


def test_a_volume_is_put_behind_a_claim_as_the_how_to_says(recorded):
    cluster, log, _ = recorded
    cluster.keep("pv-1")
    cluster.scale("dittofs", 0)
    cluster.delete_claims("claim-1", "claim-2")
    cluster.reserve("pv-1", "claim-1")
    cluster.scale("dittofs", 1)
    cluster.close()
    reserved = {
        "apiVersion": "v1",
        "kind": "PersistentVolumeClaim",
        "namespace": "files",
        "name": "claim-1",
        "uid": None,
        "resourceVersion": None,
    }
    policy = 'patch pv pv-1 -p {"spec": {"persistentVolumeReclaimPolicy": "%s"}}'
    assert [line.removeprefix("--namespace files ") for line in log.read_text().splitlines()] == [
        policy % "Retain",
        "scale statefulset dittofs --replicas 0",
        "wait --for=delete pod/dittofs-0 --timeout 150s",
        "delete pvc claim-1 claim-2 --ignore-not-found",
        f"patch pv pv-1 --type merge -p {json.dumps({'spec': {'claimRef': reserved}})}",
        "scale statefulset dittofs --replicas 1",
        policy % "Delete",
    ]


def test_what_is_left_of_an_application_is_named(recorded):
    cluster, _, answer = recorded
    items = [{"metadata": {"name": name}} for name in ("dittofs", "dittofs-0", "nfs-client")]
    answer.write_text(json.dumps({"items": items}))
    assert cluster.left_of("dittofs")[:2] == ["statefulset dittofs", "statefulset dittofs-0"]
    answer.write_text('{"items": []}')
    assert cluster.left_of("dittofs") == []


def test_a_cluster_that_cannot_be_reached_says_so(recorded, monkeypatch, tmp_path):
    cluster, _, answer = recorded
    assert cluster.missing() == ""
    answer.unlink()
    assert "does not reach the namespace files" in cluster.missing()
    with pytest.raises(ClusterError):
        cluster.claims("dittofs")
    assert "there is no kubectl" in Cluster("files", []).missing()
    monkeypatch.setenv("PATH", str(tmp_path / "empty"))
    monkeypatch.delenv("KUBECTL", raising=False)
    assert kubectl() == []
    monkeypatch.setenv("KUBECTL", "microk8s kubectl")
    assert kubectl() == ["microk8s", "kubectl"]
