"""The endpoint mysql: what is asked for, and every way in which a provider may answer."""

import dataclasses
import json
import re
import shutil

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from ops import testing

from relations.mysql import database_name
from tests.unit import agents
from tests.unit.conftest import Server, Unit, install

MIRRORED = testing.ActiveStatus("nfs, smb: /export; metadata in MySQL")


def asked(unit) -> dict[str, str]:
    (relation,) = unit.state.get_relations("mysql")
    return dict(relation.local_app_data)


def test_a_database_is_asked_for_in_the_form_that_todays_providers_know(deployed):
    deployed.relate({})
    assert asked(deployed) == {
        "database": "dittofs",
        "requested-secrets": '["password", "tls", "tls-ca", "uris", "username"]',
    }
    (relation,) = deployed.state.get_relations("mysql")
    assert relation.local_unit_data.keys() <= {
        "egress-subnets",
        "ingress-address",
        "private-address",
    }


def test_only_the_leader_asks_whichever_unit_that_is(border, tmp_path):
    other = Unit(border, tmp_path / "unit-1", unit_id=1)
    other.relate({})
    assert asked(other) == {}
    other.change(leader=True)
    other.run("leader_elected")
    assert asked(other)["database"] == "dittofs"


@pytest.mark.parametrize(
    ("application", "name"),
    [
        ("dittofs", "dittofs"),
        ("files", "dittofs_files"),
        ("dittofs-b", "dittofs_dittofs_b"),
        ("b", "dittofs_b"),
    ],
)
def test_each_application_has_a_database_of_its_own(application, name):
    assert database_name(application) == name


def test_the_name_of_the_database_has_a_length_that_mysql_takes():
    long, other = "a-" * 60 + "x", "a-" * 60 + "y"
    for name in (database_name(long), database_name(other)):
        assert re.fullmatch(r"[a-z0-9_]{64}", name)
    assert database_name(long) != database_name(other)
    assert database_name(long) == database_name(long)


@pytest.mark.parametrize(
    ("databag", "endpoints", "tls"),
    [
        (agents.MYSQL_K8S, [["mysql-k8s-primary.files.svc.cluster.local", 3306]], True),
        (agents.ROUTER_K8S, [["mysql-router-k8s-service.files.svc.cluster.local", 6446]], False),
        (agents.PLAIN, [["10.1.44.20", 3306], ["10.1.44.21", 3306]], False),
        (agents.OF_V1, [["10.0.0.9", 3306]], True),
    ],
    ids=["mysql-k8s", "mysql-router-k8s", "plain", "a library of v1"],
)
def test_what_real_charms_answer_is_understood(deployed, databag, endpoints, tls):
    assert deployed.relate(databag) == MIRRORED
    mysql = deployed.agent.config["mysql"]
    assert mysql["endpoints"] == endpoints
    assert mysql["tls"] is tls
    assert mysql["ca"] == (agents.CA if tls else None)
    assert mysql["database"] == "dittofs"
    assert mysql["user"]
    assert mysql["password"]


@pytest.mark.parametrize(
    ("text", "endpoints"),
    [
        ("db", [["db", 3306]]),
        ("db:", None),
        (" a:1 , b:2,, a:1", [["a", 1], ["b", 2]]),
        ("DB.Example:3306,db.example:03306", [["db.example", 3306]]),
        ("[fd00::7]:3307", [["fd00::7", 3307]]),
        ("fd00::7", [["fd00::7", 3306]]),
        ("[fd00::7]", [["fd00::7", 3306]]),
        ("db:99999,db:0,db:x,db:-1", None),
        ("file:///var/snap/charmed-mysql/mysqld.sock", None),
        ("/run/mysqld.sock,db:3306", [["db", 3306]]),
        (" , ", None),
    ],
)
def test_endpoints_in_every_form(deployed, text, endpoints):
    status = deployed.relate({**agents.PLAIN, "endpoints": text})
    if endpoints is None:
        assert status == testing.WaitingStatus(
            "mysql: waiting for mysql-k8s: what it gives as endpoints are no addresses of a "
            "network"
        )
    else:
        assert status == MIRRORED
        assert deployed.agent.config["mysql"]["endpoints"] == endpoints


@pytest.mark.parametrize(
    ("databag", "missing"),
    [
        ({}, "it has not given endpoints, username, password yet"),
        ({"data": agents.REQUEST}, "it has not given endpoints, username, password yet"),
        (
            {**agents.PLAIN, "password": ""},
            "it has not given password yet",
        ),
        (
            {"endpoints": "db:3306", "secret-user": f"secret:{'never':a<20}"},
            "the secret it names in secret-user cannot be read yet",
        ),
        (
            {**agents.PLAIN, "secret-tls": "nonsense"},
            "the secret it names in secret-tls cannot be read yet",
        ),
        (
            {"endpoints": "db:3306", "secret-user": str(agents.TLS.id)},
            "it has not given username, password yet",
        ),
        (
            {**agents.PLAIN, "tls": "True", "tls-ca": "MIIB"},
            "what it gives as tls-ca is no certificate",
        ),
    ],
)
def test_what_is_missing_is_named_and_waited_for_while_the_server_serves(
    deployed, databag, missing
):
    assert deployed.relate(databag) == testing.WaitingStatus(
        f"mysql: waiting for mysql-k8s: {missing}"
    )
    assert deployed.agent.commands == []
    assert deployed.border.starts == 1
    assert deployed.relate(agents.MYSQL_K8S) == MIRRORED


def test_credentials_that_go_do_not_stop_a_mirror_that_runs(deployed):
    deployed.relate()
    status = deployed.relate({**agents.MYSQL_K8S, "endpoints": ""})
    assert status.name == "waiting"
    assert deployed.agent.commands == [["mirror"]]
    assert deployed.mirror is not None
    assert deployed.mirror.value == "active"


@pytest.mark.parametrize(
    ("tls", "expected"),
    [
        ("True", True),
        ("true", True),
        ("enabled", True),
        ("False", False),
        ("", False),
        ("?", False),
    ],
)
def test_tls_as_providers_write_it(deployed, tls, expected):
    deployed.relate({**agents.PLAIN, "tls": tls, "tls-ca": agents.CA})
    assert deployed.agent.config["mysql"]["tls"] is expected
    assert deployed.agent.config["mysql"]["ca"] == (agents.CA if expected else None)


def test_fields_that_only_v1_knows_are_passed_over(deployed):
    v1 = {
        "version": "v1",
        "requests": json.dumps([{"resource": "dittofs", "salt": "x", "request-id": "1"}]),
        "data": json.dumps({"resource": "dittofs"}),
        "status": "[]",
    }
    assert deployed.relate(v1).name == "waiting"
    assert deployed.relate({**agents.MYSQL_K8S, **v1}) == MIRRORED


def test_another_database_than_the_one_that_was_asked_for(deployed):
    deployed.relate({**agents.PLAIN, "database": "given"})
    assert deployed.agent.config["mysql"]["database"] == "given"


def test_a_secret_that_is_not_granted_any_more_is_waited_for(deployed):
    deployed.relate()
    deployed.change(secrets=[each for each in deployed.state.secrets if each.id != agents.USER.id])
    # An idle event does not read it, and does not forget what another one has found.
    for event in ("config_changed", "update_status"):
        assert deployed.run(event).message == (
            "mysql: waiting for mysql-k8s: the secret it names in secret-user cannot be read yet"
        )


def test_the_key_is_made_once_with_the_relation_and_can_be_found(deployed):
    labels = {secret.label for secret in deployed.state.secrets}
    assert "mirror-key" not in labels
    deployed.relate()
    (key,) = [each for each in deployed.state.secrets if each.label == "mirror-key"]
    assert key.owner == "app"
    assert "recover-metadata" in (key.description or "")
    (peers,) = deployed.state.get_relations("peers")
    assert peers.local_app_data["mirror-key"] == key.id
    assert deployed.agent.config["control_plane_key"] == key.latest_content["key"]
    deployed.unrelate()
    deployed.relate()
    assert [each for each in deployed.state.secrets if each.label == "mirror-key"] == [key]


def test_without_a_key_the_mirror_waits_for_the_leader(deployed):
    deployed.change(leader=False)
    assert deployed.relate() == testing.WaitingStatus(
        "mysql: waiting for the leader to make the key of the mirror"
    )
    deployed.change(leader=True)
    assert deployed.run("leader_elected") == MIRRORED


def test_a_key_that_juju_lost_is_made_anew(deployed):
    deployed.relate()
    old = deployed.agent.config["control_plane_key"]
    kept = [each for each in deployed.state.secrets if each.label != "mirror-key"]
    deployed.change(secrets=kept)
    assert deployed.run("config_changed") == MIRRORED
    assert deployed.agent.config["control_plane_key"] != old


def test_a_second_relation_is_passed_over(deployed):
    """Juju refuses it; a controller that lost count must not stop the server."""
    deployed.relate()
    second = agents.relation({**agents.PLAIN}, id=99)
    deployed.change(relations=[*deployed.state.relations, second])
    assert deployed.run("update_status") == MIRRORED


ODD = st.one_of(
    st.just(""), st.text(max_size=30), st.sampled_from([str(agents.USER.id), "{", "[]", "null"])
)
KEYS = [*agents.MYSQL_K8S, "username", "password", "tls", "tls-ca", "uris", "requests", "?"]


@given(databag=st.dictionaries(st.sampled_from(KEYS), ODD))
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
        assert unit.relate(databag).name in {"active", "waiting"}
        border.stop()
