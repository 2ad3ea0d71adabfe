"""The files around the code: what Juju, Charmhub and charmcraft read, and the pinned packages."""

import hashlib
import json
import os
import re
import subprocess
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

import bundle
import version

ROOT = Path(__file__).parents[2]
NAME = re.compile(r"[a-z][a-z0-9]*(-[a-z0-9]+)*")
# A quoted value may have several lines.
COMMAND = re.compile(r"""juju (?:'[^'`]*'|"[^"`]*"|\\\n|[^'"`\n])+""")
TOLD = [ROOT / "README.md", ROOT / "config.yaml", ROOT / "actions.yaml"]
TOLD += sorted(ROOT.glob("docs/**/*.md"))


def read_yaml(name: str) -> dict[str, Any]:
    return yaml.safe_load((ROOT / name).read_text(encoding="utf-8"))


CHARMCRAFT, METADATA = read_yaml("charmcraft.yaml"), read_yaml("metadata.yaml")
OPTIONS, ACTIONS = read_yaml("config.yaml")["options"], read_yaml("actions.yaml")
PYPROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))


def test_the_storage_section_is_frozen():
    # Juju refuses to refresh a charm whose storage section differs in any way: when this fails
    # after the first release, the section has to be put back, not the digest changed.
    section = json.dumps(METADATA["storage"], sort_keys=True).encode()
    assert hashlib.sha256(section).hexdigest() == (
        "843465221ac658ab780e205cdbf782ee3e02a711d1c0db9055aa2fd0ad43d5e6"
    )


@pytest.mark.parametrize("container", METADATA["containers"].values(), ids=METADATA["containers"])
def test_every_container_has_the_images_user_and_both_volumes(container):
    assert container["uid"] == container["gid"] == 65532
    assert {mount["storage"]: mount["location"] for mount in container["mounts"]} == {
        "metadata": "/data/metadata",
        "content": "/data/content",
    }
    assert METADATA["resources"][container["resource"]]["upstream-source"]


@pytest.mark.parametrize("path", TOLD, ids=lambda path: str(path.relative_to(ROOT)))
def test_shell_and_juju_take_every_command_that_is_told(path):
    for command in COMMAND.findall(path.read_text(encoding="utf-8")):
        bare = re.sub(r"""'[^']*'|"[^"]*"|<[^<>]*>| +#.*""", "", command)
        assert not re.search(r"=['\"]?@", command), f"a file's name: {command}"
        assert not re.search(r"""[*;&|<>'"]""", bare), f"the shell's own: {command}"


def test_the_charm_runs_without_root():
    assert METADATA["charm-user"] == "non-root"
    assert os.access(ROOT / "src" / "charm.py", os.X_OK)


def test_charmcraft_yaml_has_only_what_the_build_needs():
    assert set(CHARMCRAFT) == {"type", "base", "platforms", "parts"}
    assert not set(CHARMCRAFT) & set(METADATA)
    assert set(CHARMCRAFT["platforms"]) == {"amd64", "arm64"}


def test_everything_the_code_reads_is_packed():
    charm, files = CHARMCRAFT["parts"]["charm"], CHARMCRAFT["parts"]["files"]
    assert charm["python-requirements"] == ["requirements.txt"]
    assert {"PIP_REQUIRE_HASHES": "1"} in charm["build-environment"]
    assert files["stage"] == ["templates", "icon.svg", "LICENSE"]
    assert all((ROOT / name).exists() for name in files["stage"])


@pytest.mark.parametrize("link", ["docs", "issues", "source", "website", "contact"])
def test_the_charm_says_where_to_find_more(link):
    assert METADATA[link].startswith("https://")


@pytest.mark.parametrize("name", [*OPTIONS, *ACTIONS])
def test_options_and_actions_have_names_in_lower_case_with_hyphens(name):
    assert NAME.fullmatch(name)


@pytest.mark.parametrize("option", OPTIONS.values(), ids=OPTIONS)
def test_every_option_is_described(option):
    assert option["description"]


@pytest.mark.parametrize("action", ACTIONS.values(), ids=ACTIONS)
def test_every_action_is_described_and_closed(action):
    assert action["description"]
    assert action["additionalProperties"] is False
    assert all(parameter["description"] for parameter in action.get("params", {}).values())
    assert set(action.get("required", [])) <= set(action.get("params", {}))


ENDPOINTS = METADATA.get("provides", {}) | METADATA.get("requires", {})


@pytest.mark.parametrize("endpoint", ENDPOINTS.values(), ids=ENDPOINTS)
def test_every_endpoint_says_whether_it_is_optional(endpoint):
    assert isinstance(endpoint["optional"], bool)
    assert endpoint["description"]


def test_the_icon_is_a_square():
    tag = re.search(r"<svg[^>]*>", (ROOT / "icon.svg").read_text(encoding="utf-8"))
    assert tag
    assert all(part in tag[0] for part in ('width="100"', 'height="100"', '"0 0 100 100"'))


def test_the_licence_is_the_one_that_is_named():
    assert PYPROJECT["project"]["license"] == "Apache-2.0"
    text = (ROOT / "LICENSE").read_bytes()
    assert hashlib.sha256(text).hexdigest() == (
        "cfc7749b96f63bd31c3c42b5c471bf756814053e847c10f3eb003417bc523d30"
    )


@pytest.mark.parametrize("name", ["README.md", "CONTRIBUTING.md", "SECURITY.md", "CHANGELOG.md"])
def test_the_project_has_the_pages_people_look_for(name):
    assert (ROOT / name).read_text(encoding="utf-8").startswith("# ")


def test_the_changelog_knows_the_version():
    text = (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")
    assert f"## {PYPROJECT['project']['version']} " in text


def test_the_charm_knows_its_version():
    assert PYPROJECT["project"]["version"] == version.VERSION


def pinned(name: str) -> dict[str, str]:
    """The packages of a requirements file and their versions; each has to have hashes."""
    versions: dict[str, str] = {}
    text = (ROOT / name).read_text(encoding="utf-8").replace("\\\n", " ")
    for line in text.splitlines():
        if line and not line.lstrip().startswith("#"):
            requirement = Requirement(re.split(r"\s+--hash=|\s+#", line)[0])
            assert "--hash=sha256:" in line, f"{name}: {requirement} has no hash"
            versions[canonicalize_name(requirement.name)] = str(requirement.specifier)[2:]
    return versions


def wanted(group: str) -> Iterator[Requirement]:
    for entry in PYPROJECT["dependency-groups"][group]:
        if isinstance(entry, str):
            yield Requirement(entry)
        else:
            yield from wanted(entry["include-group"])


@pytest.mark.parametrize(
    ("name", "requirements"),
    [
        (
            "requirements.txt",
            [*map(Requirement, PYPROJECT["project"]["dependencies"]), *wanted("agent")],
        ),
        ("requirements-dev.txt", list(wanted("dev"))),
        ("requirements-charmlint.txt", list(wanted("charmlint"))),
        ("requirements-tools.txt", list(wanted("tools"))),
        ("requirements-pack.txt", list(wanted("pack"))),
    ],
)
def test_every_package_is_pinned_with_hashes_as_the_project_allows_it(name, requirements):
    versions = pinned(name)
    for requirement in requirements:
        version = versions[canonicalize_name(requirement.name)]
        assert requirement.specifier.contains(version), f"{requirement}: {version}"


def test_the_tests_run_with_the_packages_of_the_charm():
    assert pinned("requirements.txt").items() <= pinned("requirements-dev.txt").items()


def test_the_charm_brings_what_it_puts_into_the_agents_container():
    names = {canonicalize_name(name) for name in bundle.PACKAGES}
    assert names == {canonicalize_name(each.name) for each in wanted("agent")}
    assert names <= set(pinned("requirements.txt"))


@pytest.mark.parametrize("name", ["unpack.py", "serve.sh", "check-hang.sh", "config.yaml.j2"])
def test_the_templates_that_the_code_reads_are_there(name):
    assert (ROOT / "templates" / name).is_file()


@pytest.fixture
def charmcraft(tmp_path: Path):
    """A function that runs a program of charmcraft's environment in the project."""
    # An installed snap has its Python inside; only the environment that the Makefile makes is
    # open to a program of ours.
    folder = ROOT / ".cache" / "charmcraft" / "bin"
    if not (folder / "charmcraft").exists():
        pytest.skip("charmcraft is not installed in .cache/charmcraft; `make test` does that")
    environment = os.environ | {"HOME": str(tmp_path), "XDG_RUNTIME_DIR": str(tmp_path)}
    environment |= {f"XDG_{kind}_HOME": str(tmp_path) for kind in ("STATE", "CACHE", "DATA")}

    def run(program: str, *arguments: str) -> str:
        done = subprocess.run(
            [folder / program, *arguments],
            cwd=ROOT,
            env=environment,
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 0, done.stderr
        return done.stdout

    return run


def test_charmcraft_accepts_the_build_with_the_split_files(charmcraft):
    project = yaml.safe_load(charmcraft("charmcraft", "expand-extensions"))
    assert project["name"] == METADATA["name"]
    assert set(project["config"]["options"]) == set(OPTIONS)
    assert set(project["actions"]) == set(ACTIONS)


MODELS = """
import pathlib, yaml
from charmcraft.models.config import JujuConfig
from charmcraft.models.metadata import CharmMetadataLegacy

for model, file in ((JujuConfig, "config.yaml"), (CharmMetadataLegacy, "metadata.yaml")):
    model.unmarshal(yaml.safe_load(pathlib.Path(file).read_text()))
"""


def test_charmcrafts_own_models_accept_options_and_metadata(charmcraft):
    charmcraft("python", "-c", MODELS)
