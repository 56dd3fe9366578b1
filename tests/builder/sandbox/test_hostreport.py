import os
from pathlib import Path

import pytest

from builder.sandbox import Feature, HostReport, probe, recorder
from tests.support import host, networks, traces
from tests.support.ordinary import Ordinary


@pytest.fixture(scope="module")
def report() -> HostReport:
    return probe()


def feature(report: HostReport, name: str) -> Feature:
    return next(feature for feature in report.features if feature.name == name)


def test_every_no_has_its_sentence(report: HostReport) -> None:
    for each in report.features:
        assert each.is_available or each.reason, each.name


def test_names_are_unique_and_steady(report: HostReport) -> None:
    assert [each.name for each in report.features] == [
        *("machine", "namespaces", "network namespaces", "private networks"),
        *("user namespaces", "subordinate ids"),
        *("recorded owners", "overlayfs", "seccomp", "openat2", "pids limit", "memory limit"),
    ]


def test_it_agrees_with_what_the_tests_found(report: HostReport) -> None:
    if os.geteuid() == 0:
        found = networks.no_private_networks() is None
        assert feature(report, "private networks").is_available == found
    assert feature(report, "overlayfs").is_available == (host.no_overlay() is None)


def test_it_changes_nothing(report: HostReport) -> None:
    namespaces = ("mnt", "user", "net", "pid", "uts")
    before = [Path(f"/proc/self/ns/{name}").readlink() for name in namespaces]
    mounts = traces.mount_table()
    probe()
    assert [Path(f"/proc/self/ns/{name}").readlink() for name in namespaces] == before
    assert traces.mount_table() == mounts


def test_root_needs_no_recorded_owners(report: HostReport) -> None:
    if os.geteuid() == 0:
        assert "not needed" in feature(report, "recorded owners").reason


@pytest.mark.needs_root
@pytest.mark.needs_userns
def test_a_user_with_one_id_has_them_recorded(ordinary: Ordinary) -> None:
    def play() -> None:
        found = feature(probe(), "recorded owners")
        assert (found.is_available, found.reason) == (True, "")

    ordinary.act(play)


@pytest.mark.needs_root
@pytest.mark.needs_userns
def test_an_old_kernel_is_named(ordinary: Ordinary, monkeypatch: pytest.MonkeyPatch) -> None:
    def play() -> None:
        monkeypatch.setattr(recorder, "is_offered", lambda: False)
        found = feature(probe(), "recorded owners")
        assert not found.is_available
        assert "Linux 5.14" in found.reason

    ordinary.act(play)
