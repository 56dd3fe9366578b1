"""The conformance material: all build cases against the recorded result, some beside buildah."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.endtoend.conformance_run import EXCEPTIONS, Runner
from tests.support import conformance
from tests.support.imagetree import Layout, difference
from tests.support.peers import Containers

pytestmark = [
    pytest.mark.needs_root,
    pytest.mark.needs_overlay,
    pytest.mark.skipif(
        not conformance.cases(), reason=f"no conformance material in {conformance.MATERIAL}"
    ),
]

# busybox or scratch alone; together: wildcards, links, modes, archives, ignore files, accounts,
# ONBUILD and every field of the configuration that both tools keep.
BESIDE_BUILDAH = (
    "buildah-bud/220-bud-with-ADD-file-construct",
    "buildah-conformance/add-archive-4",
    "buildah-conformance/copy folder contents to higher level",
    "buildah-conformance/dockerignore-includes-star",
    "buildah-conformance/setuid-file-in-other-stage",
    "buildah-conformance/stage-container-as-source-plus-hardlinks",
    "buildkit/testCopyRelative",
    "buildkit/testCopySymlinks",
    "imagebuilder/edgecases-31",
    "moby/TestBuildLabels",
    "moby/TestBuildOpaqueDirectory",
    "moby/TestBuildUsersAndGroups",
)

JSON = Any


@pytest.fixture(scope="module")
def runner(tmp_path_factory: pytest.TempPathFactory) -> Runner:
    return Runner(tmp_path_factory.mktemp("conformance"))


@pytest.fixture(scope="module")
def buildah(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Containers]:
    work = tmp_path_factory.mktemp("buildah")
    containers = Containers()
    try:
        containers.import_base("busybox", work)
        yield containers
    finally:
        containers.close()


@pytest.mark.parametrize("name", conformance.cases())
def test_the_result_is_the_recorded_one(runner: Runner, name: str) -> None:
    if "debian" in conformance.base_kinds(conformance.cases()[name]):
        _need_debian()
    verdict = runner.run(conformance.cases()[name])
    if verdict.outcome == "refused":
        pytest.skip(f"refused as not supported yet: {verdict.details[0]}")
    if name in EXCEPTIONS:
        assert verdict.outcome == "fail", "an exception that is none any more"
        return
    assert not verdict.details, "\n".join(verdict.details)


@pytest.mark.needs_peers("buildah", "podman")
@pytest.mark.parametrize("name", BESIDE_BUILDAH)
def test_buildah_makes_the_same_tree_and_configuration(
    runner: Runner, buildah: Containers, name: str, tmp_path: Path
) -> None:
    (step,) = conformance.cases()[name]["steps"]
    conformance.import_bases(runner.lamina, {"busybox"}, runner.work)
    words = conformance.build_arguments(step, tmp_path, "")
    runner.lamina("build", "-t", "beside", *words)
    buildah("buildah", *_BUILDAH, "-t", "beside", *words)
    theirs = buildah.layout_of("beside", tmp_path / "pushed")
    assert _differences(theirs, runner.layout, "beside:latest") == []


_BUILDAH = (
    "build",
    "-q",
    "--format=docker",
    "--identity-label=false",
    "--network=host",
    "--no-cache",
)


def _differences(theirs: Layout, ours: Layout, name: str) -> list[str]:
    wanted = theirs.tree("")
    for stub in ("etc/hosts", "etc/hostname", "etc/resolv.conf", "run"):
        wanted.pop(stub, None)  # buildah commits the mount points it needed, docker does not
    lines = difference(wanted, ours.tree(name))
    configs = (_config(theirs.config("")), _config(ours.config(name)))
    return lines + [
        f"config {key} should be {json.dumps(configs[0].get(key))}, "
        f"is {json.dumps(configs[1].get(key))}"
        for key in sorted({*configs[0], *configs[1]})
        if configs[0].get(key) != configs[1].get(key)
    ]


def _config(document: JSON) -> dict[str, JSON]:
    """The fields that say something, in comparable form."""
    config = {key: value for key, value in document["config"].items() if value}
    for name in ("ArgsEscaped", "Hostname", "Domainname", "Image"):  # Docker's builder's own notes
        config.pop(name, None)
    config["Env"] = sorted(config.get("Env", []))
    config["WorkingDir"] = config.get("WorkingDir", "/")
    config["architecture"], config["os"] = document["architecture"], document["os"]
    return config


def _need_debian() -> None:
    if not (conformance.STATE / "rootfs/debian.tar").exists():
        pytest.skip("needs a Debian root file system: run the peers' setup.sh")
