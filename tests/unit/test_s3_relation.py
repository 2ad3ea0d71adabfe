"""The endpoint s3-backup: what is asked for, and every way in which a provider may answer."""

import base64
import dataclasses
import json
import shutil

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from ops import testing

from tests.unit import archives
from tests.unit.agents import CA
from tests.unit.conftest import Server, Unit, install

SERVED = testing.ActiveStatus("nfs, smb: /export")
BACKUPS = 9092


def asked(unit) -> dict[str, str]:
    (relation,) = unit.state.get_relations("s3-backup")
    return dict(relation.local_app_data)


def waiting(text: str) -> testing.WaitingStatus:
    return testing.WaitingStatus(f"s3-backup: waiting for s3-integrator: {text}")


def test_the_keys_are_asked_for_in_a_secret_and_no_bucket(deployed):
    deployed.relate_s3({})
    assert asked(deployed) == {
        "version": "1",
        "requested-secrets": '["access-key", "secret-key"]',
    }
    deployed.relate_s3()
    assert "bucket" not in asked(deployed)


def test_a_provider_of_v0_is_asked_for_a_bucket_it_waits_for_that(deployed):
    deployed.relate_s3({"data": "{}"})
    (relation,) = deployed.state.get_relations("s3-backup")
    assert asked(deployed)["bucket"] == f"relation-{relation.id}"


def test_nothing_of_the_provider_is_copied_into_a_databag_of_ours(deployed):
    deployed.relate_s3(archives.V0)
    (relation,) = deployed.state.get_relations("s3-backup")
    for databag in (relation.local_app_data, relation.local_unit_data):
        assert archives.SECRET not in json.dumps(dict(databag))


def test_only_the_leader_asks_whichever_unit_that_is(border, tmp_path):
    other = Unit(border, tmp_path / "unit-1", unit_id=1)
    other.relate_s3({})
    assert asked(other) == {}
    other.change(leader=True)
    other.run("leader_elected")
    assert asked(other)["version"] == "1"


S3 = {
    "v1": {
        "endpoint": "https://s3.example.com",
        "region": None,
        "bucket": "backups",
        "prefix": "files",
        "path_style": True,
        "access_key": archives.ACCESS,
        "secret_key": archives.SECRET,
        "ca": None,
        "proxy": None,
    },
    "v0": {
        "endpoint": "http://10.1.2.3:9000",
        "region": "eu-west-1",
        "bucket": "backups",
        "prefix": "",
        # No host is below a number, whatever the provider says.
        "path_style": True,
        "access_key": archives.ACCESS,
        "secret_key": archives.SECRET,
        "ca": None,
        "proxy": None,
    },
}


@pytest.mark.parametrize(("databag", "version"), [(archives.V1, "v1"), (archives.V0, "v0")])
def test_what_real_charms_answer_is_understood(deployed, databag, version):
    assert deployed.relate_s3(databag) == SERVED
    assert deployed.agent.archive.config["s3"] == S3[version]
    assert BACKUPS in {port.port for port in deployed.state.opened_ports}


@pytest.mark.parametrize(
    ("fields", "expected"),
    [
        ({"endpoint": ""}, {"endpoint": None, "region": "us-east-1", "path_style": True}),
        (
            {"endpoint": "", "s3-uri-style": ""},
            {"endpoint": None, "region": "us-east-1", "path_style": False},
        ),
        (
            {"endpoint": "https://s3.eu-west-1.amazonaws.com", "s3-uri-style": ""},
            {"endpoint": None, "region": "eu-west-1", "path_style": False},
        ),
        ({"s3-uri-style": ""}, {"path_style": True}),
        ({"s3-uri-style": "HOST"}, {"path_style": False}),
        ({"endpoint": "http://[fd00::7]:9000/"}, {"endpoint": "http://[fd00::7]:9000"}),
        ({"path": ""}, {"prefix": ""}),
        ({"path": "a/b"}, {"prefix": "a/b"}),
        ({"region": "eu"}, {"region": "eu"}),
    ],
)
def test_every_field(deployed, fields, expected):
    assert deployed.relate_s3(archives.V1 | fields) == SERVED
    s3 = deployed.agent.archive.config["s3"]
    assert {key: s3[key] for key in expected} == expected


def test_keys_that_look_like_numbers_stay_text(deployed):
    deployed.relate_s3(archives.V0 | {"access-key": "0012", "secret-key": "1e5", "bucket": "007"})
    s3 = deployed.agent.archive.config["s3"]
    assert (s3["access_key"], s3["secret_key"], s3["bucket"]) == ("0012", "1e5", "007")


DER = base64.b64encode(b"\x30\x82\x01\x02 a certificate").decode()
AS_PEM = f"-----BEGIN CERTIFICATE-----\n{DER}\n-----END CERTIFICATE-----\n"
PEM = CA.strip()


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("", None),
        ("[]", None),
        ("null", None),
        ('[""]', None),
        (PEM, f"{PEM}\n"),
        (json.dumps([PEM, PEM]), f"{PEM}\n{PEM}\n"),
        (json.dumps(json.dumps([PEM])), f"{PEM}\n"),
        (base64.b64encode(PEM.encode()).decode(), f"{PEM}\n"),
        (json.dumps([base64.b64encode(PEM.encode()).decode()]), f"{PEM}\n"),
        (json.dumps([DER]), AS_PEM),
    ],
)
def test_certificates_in_every_form(deployed, text, expected):
    assert deployed.relate_s3(archives.V1 | {"tls-ca-chain": text}) == SERVED
    assert deployed.agent.archive.config["s3"]["ca"] == expected


@pytest.mark.parametrize("text", ["nonsense", "AAAA", '["?"]', "[" * 5000])
def test_what_is_no_certificate_has_to_be_mended_there(deployed, text):
    assert deployed.relate_s3(archives.V1 | {"tls-ca-chain": text}) == testing.BlockedStatus(
        "s3-backup: s3-integrator: what it gives as tls-ca-chain is no certificate: set it anew "
        "there"
    )


@pytest.mark.parametrize(
    ("databag", "text"),
    [
        ({}, "it has not given access-key, secret-key, bucket yet"),
        ({"version": "1", "bucket": "b"}, "it has not given access-key, secret-key yet"),
        (archives.V0 | {"secret-key": ""}, "it has not given secret-key yet"),
        (
            archives.V1 | {"secret-extra": f"secret:{'never':a<20}"},
            "the secret it names in secret-extra cannot be read yet: it is not granted, or gone",
        ),
    ],
)
def test_what_is_missing_is_named_and_waited_for_while_the_server_serves(deployed, databag, text):
    assert deployed.relate_s3(databag) == waiting(text)
    assert deployed.agent.archive.starts == []
    assert deployed.border.starts == 1
    assert deployed.relate_s3() == SERVED


def test_a_provider_without_a_bucket_has_to_be_told_one(deployed):
    assert deployed.relate_s3(archives.V1 | {"bucket": ""}) == testing.BlockedStatus(
        "s3-backup: s3-integrator: it has no bucket; run: juju config s3-integrator bucket=<name>"
    )
    assert deployed.relate_s3() == SERVED


@pytest.mark.parametrize("endpoint", ["s3.example.com", "ftp://x", "https://", "http://[x"])
def test_an_endpoint_that_is_no_url_has_to_be_mended_there(deployed, endpoint):
    status = deployed.relate_s3(archives.V1 | {"endpoint": endpoint})
    assert status == testing.BlockedStatus(
        "s3-backup: s3-integrator: its endpoint is no URL such as https://s3.example.com; run: "
        "juju config s3-integrator endpoint=<URL>"
    )


def test_keys_that_are_rotated_are_used_at_once(deployed):
    deployed.relate_s3()
    content = {"access-key": "new", "secret-key": "newer"}
    rotated = dataclasses.replace(
        archives.KEYS, tracked_content=archives.KEYS.tracked_content, latest_content=content
    )
    others = [each for each in deployed.state.secrets if each.id != archives.KEYS.id]
    deployed.change(secrets=[*others, rotated])
    assert deployed.run("secret_changed", rotated) == SERVED
    assert deployed.agent.archive.config["s3"]["secret_key"] == "newer"
    assert len(deployed.agent.archive.starts) == 2
    assert deployed.border.starts == 1


def test_credentials_that_go_do_not_stop_the_service(deployed):
    deployed.relate_s3()
    assert deployed.relate_s3({}).name == "waiting"
    assert deployed.backups is not None
    assert deployed.backups.value == "active"


def test_the_service_ends_with_the_relation_and_begins_again_with_it(deployed):
    deployed.relate_s3()
    assert deployed.unrelate_s3() == SERVED
    assert deployed.backups is not None
    assert deployed.backups.value == "inactive"
    assert BACKUPS not in {port.port for port in deployed.state.opened_ports}
    deployed.relate_s3()
    assert deployed.backups.value == "active"
    assert deployed.border.starts == 1


def test_a_second_relation_is_passed_over(deployed):
    """Juju refuses it; a controller that lost count must not stop the server."""
    deployed.relate_s3()
    second = archives.relation(archives.V0, id=10**6)
    deployed.change(relations=[*deployed.state.relations, second])
    assert deployed.run("update_status") == SERVED
    assert deployed.agent.archive.config["s3"] == S3["v1"]


def test_the_key_is_made_once_with_the_relation_and_can_be_found(deployed):
    assert "backup-key" not in {secret.label for secret in deployed.state.secrets}
    deployed.relate_s3()
    (key,) = [each for each in deployed.state.secrets if each.label == "backup-key"]
    assert key.owner == "app"
    assert "Keep a copy" in (key.description or "")
    assert len(base64.b64decode(key.latest_content["key"])) == 32
    (peers,) = deployed.state.get_relations("peers")
    assert peers.local_app_data["backup-key"] == key.id
    assert deployed.agent.archive.config["key"] == key.latest_content["key"]
    deployed.unrelate_s3()
    deployed.relate_s3()
    assert [each for each in deployed.state.secrets if each.label == "backup-key"] == [key]


def test_without_a_key_backups_wait_for_the_leader(deployed):
    deployed.change(leader=False)
    assert deployed.relate_s3() == testing.WaitingStatus(
        "s3-backup: waiting for the leader to make the key of the backups"
    )
    deployed.change(leader=True)
    assert deployed.run("leader_elected") == SERVED


ODD = st.one_of(
    st.just(""), st.text(max_size=30), st.sampled_from([str(archives.KEYS.id), "{", "[]", "null"])
)


@example(databag={**archives.V1, "tls-ca-chain": "\x80"})
@given(databag=st.dictionaries(st.sampled_from([*archives.V1, *archives.V0, "tls-ca-chain"]), ODD))
@settings(
    max_examples=60,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
def test_no_databag_fails_a_hook_or_the_server(databag, template, tmp_path_factory):
    with pytest.MonkeyPatch.context() as patch:
        border = Server()
        install(border, patch)
        unit = Unit(border, tmp_path_factory.mktemp("unit"))
        shutil.copytree(template.root, unit.root, dirs_exist_ok=True)
        unit.state = dataclasses.replace(template.state, containers=unit.state.containers)
        unit.storages, unit.mounted = template.storages, set(template.mounted)
        assert unit.relate_s3(databag).name in {"active", "waiting", "blocked"}
        assert unit.service is not None
        border.stop()
