"""What `juju deploy dittofs` gives, and each relation with a real counterpart."""

import json

import jubilant


def message(juju) -> str:
    return juju.status().apps["dittofs"].units["dittofs/0"].workload_status.message


def detail(juju):
    results = juju.run("dittofs/0", "status-detail", {"format": "json"}).results
    return json.loads(results["status"])


def test_it_serves_without_configuration(deployed):
    assert message(deployed) == "nfs, smb: /export"
    assert deployed.status().apps["dittofs"].version
    assert all(each["status"] == "healthy" for each in detail(deployed)["shares"])


def test_both_containers_run_as_the_image_s_own_user(deployed):
    for container in ("dittofs", "agent"):
        said = deployed.cli("ssh", "--container", container, "dittofs/0", "id", "-u")
        assert said.strip() == "65532"


def test_a_share_is_added_and_a_mistake_is_named(deployed):
    deployed.config("dittofs", {"shares": "- name: /export\n- name: /projects"})
    deployed.wait(lambda _: message(deployed) == "nfs, smb: /export, /projects")
    deployed.config("dittofs", {"shares": "- name: a:b"})
    deployed.wait(lambda status: jubilant.all_blocked(status, "dittofs"))
    assert "entry 1" in message(deployed)
    deployed.config("dittofs", {"shares": "- name: /export"})
    deployed.wait(lambda status: jubilant.all_active(status, "dittofs"))


def test_its_metadata_is_in_mysql(deployed):
    deployed.deploy("mysql-k8s", "mysql", channel="8.0/stable", trust=True)
    deployed.integrate("dittofs:mysql", "mysql:database")
    deployed.wait(lambda _: message(deployed).endswith("; metadata in MySQL"))
    assert deployed.run("dittofs/0", "verify-metadata").results["equal"] == "true"
    deployed.remove_relation("dittofs:mysql", "mysql:database")
    deployed.wait(lambda _: message(deployed) == "nfs, smb: /export")


def test_a_second_unit_is_refused_and_the_first_serves_on(deployed):
    deployed.add_unit("dittofs")
    deployed.wait(
        lambda status: (
            status.apps["dittofs"].units["dittofs/1"].workload_status.current == "blocked"
        )
    )
    assert message(deployed) == "nfs, smb: /export"
    deployed.remove_unit("dittofs", num_units=1)
    deployed.wait(lambda status: len(status.apps["dittofs"].units) == 1)


def test_a_pod_that_is_lost_comes_back_with_its_volumes(deployed):
    before = [each["instance"] for each in detail(deployed)["volumes"]]
    deployed.cli("ssh", "dittofs/0", "kill", "1")
    deployed.wait(lambda status: jubilant.all_active(status, "dittofs"), successes=6)
    assert [each["instance"] for each in detail(deployed)["volumes"]] == before
