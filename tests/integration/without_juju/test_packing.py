"""The charms of the integration tests are packed so that Juju can deploy them."""

import os
import subprocess
import zipfile

import pytest
import yaml

from tests.integration import counterparts, packing
from tests.integration.packing import PackingError

PROJECT = {
    "name": "small",
    "type": "charm",
    "title": "Small",
    "summary": "A charm.",
    "base": "ubuntu@24.04",
    "platforms": {"amd64": None},
    "containers": {"one": {"resource": "one-image"}},
    "config": {"options": {"colour": {"type": "string"}}},
    "parts": {"charm": {"plugin": "charm"}},
}
LIBRARY = {"charm-libs": [{"lib": "data_platform_libs.data_interfaces", "version": "0"}]}


@pytest.fixture
def folder(tmp_path):
    """Makes the folder of a charm."""

    def make(**more):
        made = tmp_path / "small"
        (made / "src").mkdir(parents=True)
        (made / "charmcraft.yaml").write_text(yaml.safe_dump(PROJECT | more))
        (made / "requirements.txt").touch()
        program = made / "src/charm.py"
        program.write_text("print(__file__)\n")
        program.chmod(0o755)
        return made

    return make


def pack(folder, target, extra=None):
    """Pack a charm that needs no packages; that takes uv, but no package index."""
    try:
        return zipfile.ZipFile(packing.pack(folder, target, extra))
    except PackingError as error:
        if "there is no uv" in str(error):
            pytest.skip(str(error))
        raise


def test_it_has_what_juju_reads(folder, tmp_path):
    with pack(folder(), tmp_path) as archive:
        assert archive.namelist() == [
            "config.yaml",
            "dispatch",
            "manifest.yaml",
            "metadata.yaml",
            "src/charm.py",
        ]
        metadata = yaml.safe_load(archive.read("metadata.yaml"))
        assert metadata == {
            "name": "small",
            "display-name": "Small",
            "summary": "A charm.",
            "containers": {"one": {"resource": "one-image"}},
        }
        assert yaml.safe_load(archive.read("config.yaml")) == PROJECT["config"]
        (base,) = yaml.safe_load(archive.read("manifest.yaml"))["bases"]
        assert (base["name"], base["channel"]) == ("ubuntu", "24.04")
        assert base["architectures"] == [packing.architecture()]


def test_an_event_runs_the_charm(folder, tmp_path):
    with pack(folder(), tmp_path) as archive:
        modes = {each.filename: each.external_attr >> 16 & 0o777 for each in archive.infolist()}
        archive.extractall(tmp_path / "unpacked")
    assert modes["dispatch"] == modes["src/charm.py"] == 0o755
    assert modes["metadata.yaml"] == 0o644
    dispatch = tmp_path / "unpacked/dispatch"
    dispatch.chmod(modes["dispatch"])
    said = subprocess.run(
        [dispatch], cwd=dispatch.parent, check=True, capture_output=True, text=True
    )
    assert said.stdout.strip().endswith("src/charm.py")


def test_files_of_the_project_are_taken_along(folder, tmp_path):
    own = tmp_path / "own.py"
    own.write_text("x = 1\n")
    with pack(folder(), tmp_path, {"lib/own/own.py": own}) as archive:
        assert archive.read("lib/own/own.py") == b"x = 1\n"


@pytest.mark.parametrize("place", ["lib/charms/data_platform_libs/v0", "data_platform_libs/v0"])
def test_libraries_come_from_the_folder_that_is_named(folder, tmp_path, monkeypatch, place):
    given = tmp_path / "given" / place
    given.mkdir(parents=True)
    (given / "data_interfaces.py").write_text("LIBAPI = 0\n")
    monkeypatch.setenv(packing.LIBRARIES, str(tmp_path / "given"))
    with pack(folder(**LIBRARY), tmp_path) as archive:
        fetched = [each for each in archive.namelist() if each.startswith("lib/")]
        assert fetched == ["lib/charms/data_platform_libs/v0/data_interfaces.py"]
    assert not (tmp_path / "small/lib").exists()


def test_libraries_are_fetched_by_charmcraft_into_a_copy(folder, tmp_path, monkeypatch):
    program = tmp_path / "bin/charmcraft"
    program.parent.mkdir()
    program.write_text(
        "#!/bin/sh\n"
        '[ "$*" = fetch-libs ] && grep -q charm-libs charmcraft.yaml || exit 1\n'
        "mkdir -p lib/charms/data_platform_libs/v0\n"
        "echo LIBAPI = 0 > lib/charms/data_platform_libs/v0/data_interfaces.py\n"
    )
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{program.parent}:{os.environ['PATH']}")
    monkeypatch.delenv(packing.LIBRARIES, raising=False)
    with pack(folder(**LIBRARY), tmp_path) as archive:
        assert "lib/charms/data_platform_libs/v0/data_interfaces.py" in archive.namelist()
        assert not [each for each in archive.namelist() if each.startswith("fetched")]
    assert not (tmp_path / "small/lib").exists()


def test_a_library_that_cannot_be_had_is_named(folder, tmp_path, monkeypatch):
    monkeypatch.setenv(packing.LIBRARIES, str(tmp_path))
    with pytest.raises(PackingError, match="has no lib/charms/data_platform_libs"):
        packing.pack(folder(**LIBRARY), tmp_path)


def test_charmcraft_s_own_words_are_told_where_it_fails(folder, tmp_path, monkeypatch):
    program = tmp_path / "bin/charmcraft"
    program.parent.mkdir()
    program.write_text("#!/bin/sh\necho no network >&2\nexit 1\n")
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{program.parent}:{os.environ['PATH']}")
    monkeypatch.delenv(packing.LIBRARIES, raising=False)
    with pytest.raises(PackingError, match=r"fetches no libraries.*no network"):
        packing.pack(folder(**LIBRARY), tmp_path)


@pytest.mark.parametrize("name", ["mysql-provider", "s3-provider", "nfs-client"])
def test_each_charm_of_the_tests_says_all_that_is_needed(name):
    project = packing.read_project(packing.CHARMS / name)
    assert project["name"] == name
    assert (
        project["base"] == yaml.safe_load((packing.ROOT / "charmcraft.yaml").read_text())["base"]
    )
    assert {each["resource"] for each in project.get("containers", {}).values()} == set(
        project.get("resources", {})
    )
    assert os.access(packing.CHARMS / name / "src/charm.py", os.X_OK)


def test_an_image_of_the_environment_goes_before_the_one_that_is_named(monkeypatch):
    project = packing.read_project(packing.CHARMS / "s3-provider")
    monkeypatch.delenv("MOTO_IMAGE", raising=False)
    named = project["resources"]["moto-image"]["upstream-source"]
    assert counterparts.images(project) == {"moto-image": named}
    monkeypatch.setenv("MOTO_IMAGE", "registry/moto:1")
    assert counterparts.images(project) == {"moto-image": "registry/moto:1"}
    assert counterparts.images({}) == {}
