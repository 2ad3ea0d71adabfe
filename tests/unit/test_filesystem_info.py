"""The filesystem_info library, both sides."""

import ops
import pytest
from hypothesis import given
from hypothesis import strategies as st
from ops import testing

from charms.dittofs.v0.filesystem_info import (
    FilesystemInfo,
    FilesystemInfoError,
    FilesystemProvider,
    FilesystemRequirer,
    Host,
    NfsInfo,
)


class Provider(ops.CharmBase):
    def __init__(self, framework: ops.Framework):
        super().__init__(framework)
        self.filesystem = FilesystemProvider(self, "filesystem")
        framework.observe(self.on.config_changed, self._publish)

    def _publish(self, _: ops.EventBase) -> None:
        path = str(self.config["path"])
        info = NfsInfo(hostname="10.1.2.3", port=12049, path=path) if path else None
        for relation in self.model.relations["filesystem"]:
            self.filesystem.publish(relation, info)


class Requirer(ops.CharmBase):
    def __init__(self, framework: ops.Framework):
        super().__init__(framework)
        self.filesystem = FilesystemRequirer(self, "mount")
        framework.observe(self.filesystem.on.filesystem_available, self._mount)
        framework.observe(self.filesystem.on.filesystem_gone, self._unmount)

    def _mount(self, event: ops.RelationEvent) -> None:
        self.unit.status = ops.ActiveStatus(str(self.filesystem.get(event.relation)))

    def _unmount(self, event: ops.RelationEvent) -> None:
        assert self.filesystem.get(event.relation) is None
        self.unit.status = ops.BlockedStatus("nothing to mount")


@pytest.fixture
def provider():
    return testing.Context(
        Provider,
        meta={"name": "p", "provides": {"filesystem": {"interface": "filesystem_info"}}},
        config={"options": {"path": {"type": "string", "default": "/export"}}},
    )


@pytest.fixture
def requirer():
    return testing.Context(
        Requirer,
        meta={"name": "r", "requires": {"mount": {"interface": "filesystem_info", "limit": 1}}},
    )


def published(context, state):
    out = context.run(context.on.config_changed(), state)
    (relation,) = out.relations
    return out, relation.local_app_data


def test_the_leader_publishes_and_withdraws(provider):
    state = testing.State(leader=True, relations=[testing.Relation("filesystem")])
    out, data = published(provider, state)
    assert data == {"endpoint": "nfs://(10.1.2.3:12049)/export"}
    state = testing.State(leader=True, relations=out.relations, config={"path": "/other"})
    assert published(provider, state)[1] == {"endpoint": "nfs://(10.1.2.3:12049)/other"}
    state = testing.State(leader=True, relations=out.relations, config={"path": ""})
    assert published(provider, state)[1] == {}


@pytest.mark.parametrize("path", ["/export", ""])
def test_what_is_published_already_is_not_written_again(provider, monkeypatch, path):
    state = testing.State(
        leader=True, relations=[testing.Relation("filesystem")], config={"path": path}
    )
    out, _ = published(provider, state)

    def refuse(*_: object):
        pytest.fail("the databag was written")

    monkeypatch.setattr(ops.RelationDataContent, "__setitem__", refuse)
    again, _ = published(provider, out)
    assert again.relations == out.relations


def test_other_units_write_nothing(provider):
    state = testing.State(leader=False, relations=[testing.Relation("filesystem")])
    assert published(provider, state)[1] == {}


def test_the_requirer_hears_of_a_file_system_of_its_move_and_of_its_end(requirer):
    offered = testing.Relation("mount", remote_app_data={"endpoint": "nfs://10.1.2.3/export"})
    out = requirer.run(requirer.on.relation_changed(offered), testing.State(relations=[offered]))
    assert out.unit_status == testing.ActiveStatus("nfs://(10.1.2.3)/export")
    empty = testing.Relation("mount")
    out = requirer.run(requirer.on.relation_changed(empty), testing.State(relations=[empty]))
    assert out.unit_status == testing.BlockedStatus("nothing to mount")
    out = requirer.run(requirer.on.relation_broken(offered), testing.State(relations=[offered]))
    assert out.unit_status == testing.BlockedStatus("nothing to mount")


def test_reserved_characters_and_addresses_of_version_6():
    info = NfsInfo(hostname="fd00::1", port=12049, path="/a b?c#d,e")
    assert str(info) == "nfs://([fd00::1]:12049)/a%20b%3Fc%23d%2Ce"
    assert FilesystemInfo.parse(str(info)) == FilesystemInfo(
        "nfs", (Host("fd00::1", 12049),), "/a b?c#d,e"
    )


def test_several_hosts_a_user_and_options_of_other_providers():
    info = FilesystemInfo.parse("ceph://fsuser@(10.0.0.1:6789,10.0.0.2:6789)/data?fsid=1&x=%20")
    assert info.hosts == (Host("10.0.0.1", 6789), Host("10.0.0.2", 6789))
    assert (info.user, dict(info.options)) == ("fsuser", {"fsid": "1", "x": " "})


@pytest.mark.parametrize(
    "uri",
    [
        "",
        "nfs",
        "nfs://",
        "nfs://host",
        "://host/p",
        "nfs:///p",
        "nfs://(host:x)/p",
        "nfs://(host:70000)/p",
        "nfs://@(host)/p",
        "nfs://(a,)/p",
        "nfs://(a/p",
        "nfs://a)/p",
        "nfs://([fd00::1)/p",
        "nfs://([fd00::1]2)/p",
        "nfs://fd00::1/p",
    ],
)
def test_what_is_no_endpoint_is_an_error(uri):
    with pytest.raises(FilesystemInfoError):
        FilesystemInfo.parse(uri)


names = st.text(st.characters(codec="utf-8", exclude_categories=["Cs"]), min_size=1)
hosts = st.builds(
    Host,
    st.from_regex(r"[a-z0-9.-]{1,20}", fullmatch=True) | st.ip_addresses().map(str),
    st.none() | st.integers(1, 65535),
)


@given(
    st.builds(
        FilesystemInfo,
        scheme=st.sampled_from(["nfs", "ceph", "lustre"]),
        hosts=st.lists(hosts, min_size=1, max_size=3).map(tuple),
        path=names.map(lambda path: f"/{path}"),
        user=st.text(st.characters(codec="utf-8", exclude_categories=["Cs"])),
        options=st.dictionaries(names, names, max_size=3),
    )
)
def test_what_is_written_is_read_again(info):
    assert FilesystemInfo.parse(str(info)) == info
