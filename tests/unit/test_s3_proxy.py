"""The model's proxy: used for S3, never for what is near, and never one of the machine's own."""

import pytest
from ops import testing

import proxies
from tests.unit import archives

PROXY = "http://user:a-word@proxy.example:3128"


@pytest.fixture
def model(monkeypatch):
    """Set what Juju tells of the model's proxies."""

    def tell(**variables: str) -> None:
        for name, value in variables.items():
            monkeypatch.setenv(f"JUJU_CHARM_{name}", value)

    return tell


def test_without_one_s3_is_asked_directly(deployed, monkeypatch):
    for name in ("HTTPS_PROXY", "https_proxy", "ALL_PROXY"):
        monkeypatch.setenv(name, PROXY)
    deployed.relate_s3()
    assert deployed.agent.archive.config["s3"]["proxy"] is None


def test_the_agent_is_told_the_one_for_the_endpoint_s_scheme(deployed, model):
    model(HTTP_PROXY="http://plain:1", HTTPS_PROXY=PROXY, NO_PROXY="10.0.0.0/8")
    deployed.relate_s3()
    assert deployed.agent.archive.config["s3"]["proxy"] == PROXY
    deployed.relate_s3(archives.V1 | {"endpoint": "http://s3.example.com"})
    assert deployed.agent.archive.config["s3"]["proxy"] == "http://plain:1"
    deployed.relate_s3(archives.V1 | {"endpoint": "http://10.1.2.3:9000"})
    assert deployed.agent.archive.config["s3"]["proxy"] is None


def test_it_is_no_secret_of_a_status_or_a_result(deployed, model):
    model(HTTPS_PROXY=PROXY)
    deployed.relate_s3()
    assert "a-word" not in repr(deployed.run("update_status")) + str(deployed.act("status-detail"))


@pytest.mark.parametrize("proxy", ["ftp://proxy", "http://", "https://proxy:3128", "http://[x"])
def test_one_that_is_no_url_is_told_with_the_remedy(deployed, model, proxy):
    model(HTTPS_PROXY=proxy)
    assert deployed.relate_s3() == testing.BlockedStatus(
        "s3-backup: s3-integrator: run juju model-config juju-https-proxy=<URL>: the model's "
        "proxy is no URL; one is such as http://proxy:3128"
    )


@pytest.mark.parametrize("host", ["localhost", "minio.localhost", "127.0.0.1", "127.8.8.8", "::1"])
def test_never_for_loopback(model, host):
    model(HTTP_PROXY=PROXY)
    assert proxies.for_host("http", host, 9000) is None


@pytest.mark.parametrize(
    ("excluded", "host", "through"),
    [
        ("", "s3.example.com", True),
        ("example.com", "s3.example.com", False),
        (".example.com", "s3.example.com", False),
        ("*.example.com", "s3.example.com", False),
        ("s3.example.com", "s3.example.com", False),
        ("S3.Example.com", "s3.example.com", False),
        ("ample.com", "s3.example.com", True),
        ("other,s3.example.com other2", "s3.example.com", False),
        ("s3.example.com:9000", "s3.example.com", False),
        ("s3.example.com:9001", "s3.example.com", True),
        ("*", "s3.example.com", False),
        ("10.0.0.0/8", "10.1.2.3", False),
        ("10.0.0.0/8", "11.1.2.3", True),
        ("10.0.0.0/8", "s3.example.com", True),
        ("10.1.2.3", "10.1.2.3", False),
        ("fd00::/8", "fd00::7", False),
        ("[fd00::7]:9000", "fd00::7", False),
        (", ,:,[", "s3.example.com", True),
    ],
)
def test_what_is_to_be_reached_without(model, excluded, host, through):
    model(HTTP_PROXY="proxy.example:3128", NO_PROXY=excluded)
    found = proxies.for_host("http", host, 9000)
    assert found == ("http://proxy.example:3128" if through else None)
