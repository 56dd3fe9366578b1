import subprocess
import sys
from pathlib import Path

import pytest

from builder.errors import ContainerError, NoSuchContainerError, WrongStateError
from builder.runner import liveness
from builder.runner.container import ContainerRecord, MountPoint
from builder.runner.store import KILLED_CODE, ContainerStore, ended
from tests.support.cli import REPOSITORY
from tests.support.containers import names_in, record_with
from tests.support.stores import flip


@pytest.fixture
def containers(tmp_path: Path) -> ContainerStore:
    store = ContainerStore(tmp_path)
    store.prepare()
    return store


def add(containers: ContainerStore, letter: str = "a", **changes: object) -> ContainerRecord:
    container_id = letter * 64
    name = containers.claim_name(str(changes.pop("name", f"name_{letter}")), container_id)
    record = record_with(id=container_id, name=name, **changes)
    containers.make(record)
    return record


def left_by_a_killed_process(containers: ContainerStore, record: ContainerRecord) -> None:
    """The container's minder was here, and is not any more."""
    program = (
        "import os, sys; from pathlib import Path; from builder.runner import liveness\n"
        "liveness.take(Path(sys.argv[1])); os.kill(os.getpid(), 9)"
    )
    path = containers.live_path(record.id)
    subprocess.run([sys.executable, "-c", program, str(path)], cwd=REPOSITORY, check=False)
    assert path.exists()


def names_of(containers: ContainerStore) -> list[str]:
    return names_in(containers.private / "names")


def test_a_container_is_written_and_found(containers: ContainerStore) -> None:
    record = add(containers)
    assert containers.read(record.id) == record
    assert list(containers.all()) == [record]
    for word in (record.id, record.name, "a", "aaaa"):
        assert containers.find(word) == record


def test_its_directory_is_as_overlayfs_wants_it(containers: ContainerStore) -> None:
    directory = containers.directory(add(containers).id)
    assert directory.stat().st_mode & 0o777 == 0o700
    assert (directory / "upper").is_dir()
    assert (directory / "work").is_dir()


def test_what_is_not_there_is_not_found(containers: ContainerStore) -> None:
    add(containers)
    for word in ("b", "", "../x", "name_b", "\0", "a" * 65):
        with pytest.raises(NoSuchContainerError):
            containers.find(word)


def test_a_prefix_must_fit_one_container(containers: ContainerStore) -> None:
    add(containers)
    containers.make(record_with(id="ab" * 32, name="other"))
    assert containers.find("aa").id == "a" * 64
    with pytest.raises(ContainerError, match="beginning of 2 container ids"):
        containers.find("a")


def test_a_name_goes_before_a_prefix(containers: ContainerStore) -> None:
    add(containers, "a", name="bb")
    add(containers, "b")
    assert containers.find("bb").id == "a" * 64
    assert containers.find("bbb").id == "b" * 64


def test_names_are_unique(containers: ContainerStore) -> None:
    add(containers, name="web")
    with pytest.raises(ContainerError, match="'web' is in use by aaaaaaaaaaaa"):
        containers.claim_name("web", "b" * 64)


@pytest.mark.parametrize("name", ["", "a", "a b", "../x", "a/b", "-x"])
def test_names_are_checked(containers: ContainerStore, name: str) -> None:
    with pytest.raises(ContainerError, match="invalid container name"):
        containers.claim_name(name, "b" * 64)


def test_the_name_of_a_container_that_is_gone_can_be_had(containers: ContainerStore) -> None:
    (containers.private / "names/web").symlink_to("0" * 64)
    assert add(containers, name="web").name == "web"


def test_made_up_names_differ(containers: ContainerStore) -> None:
    names = {containers.claim_name(None, letter * 64) for letter in "abcdef"}
    assert len(names) == 6


def test_a_record_is_replaced_at_once(containers: ContainerStore) -> None:
    record = add(containers)
    changed = record._replace(exit_code=3)
    containers.write(changed)
    assert containers.read(record.id) == changed
    assert names_in(containers.directory(record.id)) == [
        "container.json",
        "upper",
        "work",
    ]


def test_a_damaged_record_is_no_container(containers: ContainerStore) -> None:
    record = add(containers)
    (containers.directory(record.id) / "container.json").write_text("{")
    assert containers.read(record.id) is None
    assert list(containers.all()) == []
    with pytest.raises(NoSuchContainerError):
        containers.find(record.name)


def test_damaged_records_are_named(containers: ContainerStore) -> None:
    for letter in "abc":
        add(containers, letter)
    assert list(containers.damaged()) == []
    ids = containers.ids()
    flip(containers.directory(ids[0]) / "container.json", 50)
    (containers.directory(ids[1]) / "container.json").unlink()
    assert list(containers.damaged()) == [
        (ids[0], "its record is damaged"),
        (ids[1], "its record is missing"),
    ]


def test_a_container_with_a_damaged_record_can_be_removed(containers: ContainerStore) -> None:
    first, second, whole = (add(containers, letter) for letter in "abc")
    for record in (first, second):
        (containers.directory(record.id) / "container.json").write_text("{")
    assert not containers.remove_damaged(whole.id)
    assert not containers.remove_damaged("")
    assert containers.remove_damaged(first.name)
    assert not containers.remove_damaged("")  # although only one is left
    assert containers.remove_damaged(second.id[:12])
    assert list(containers.damaged()) == []
    assert containers.ids() == [whole.id]
    assert [containers.id_of_name(each.name) for each in (first, second)] == ["", ""]


def test_a_running_container_cannot_be_owned(containers: ContainerStore) -> None:
    record = add(containers)
    hold, _ = containers.own(record)
    assert containers.is_running(record.id)
    with pytest.raises(WrongStateError, match="is running"):
        containers.own(record)
    hold.release()
    assert not containers.is_running(record.id)


def test_owning_gives_the_record_as_it_is_now(containers: ContainerStore) -> None:
    record = add(containers)
    containers.write(record._replace(exit_code=9))
    hold, fresh = containers.own(record)
    hold.release()
    assert fresh.exit_code == 9


def test_what_was_removed_meanwhile_cannot_be_owned(containers: ContainerStore) -> None:
    record = add(containers)
    containers.remove(*containers.own(record)[::-1])
    with pytest.raises(NoSuchContainerError):
        containers.own(record)
    assert names_in(containers.private / "live") == []


def test_removing_removes_all_of_it(containers: ContainerStore) -> None:
    record = add(containers)
    directory = containers.directory(record.id)
    (directory / "upper/deep/er").mkdir(parents=True)
    (directory / "upper/deep/file").write_text("x")
    (directory / "upper/deep/locked").mkdir(mode=0)
    (directory / "work/work").mkdir(mode=0)
    (directory / "log").write_text("x")
    hold, record = containers.own(record)
    containers.remove(record, hold)
    for name in ("containers", "names", "live"):
        assert names_in(containers.private / name) == []


def test_removing_follows_no_link(containers: ContainerStore, tmp_path: Path) -> None:
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / "precious").touch()
    record = add(containers)
    (containers.directory(record.id) / "upper/link").symlink_to(outside)
    hold, record = containers.own(record)
    containers.remove(record, hold)
    assert (outside / "precious").exists()


@pytest.mark.parametrize("with_volumes", [True, False])
def test_anonymous_volumes_go_with_their_container_when_asked(
    containers: ContainerStore, with_volumes: bool
) -> None:
    for name in ("f" * 64, "named"):
        (containers.private / "volumes" / name / "_data").mkdir(parents=True)
    mounts = (
        MountPoint("volume", "/a", source="f" * 64, anonymous=True),
        MountPoint("volume", "/b", source="named"),
    )
    hold, record = containers.own(add(containers, mounts=mounts))
    containers.remove(record, hold, with_volumes=with_volumes)
    left = names_in(containers.private / "volumes")
    assert left == (["named"] if with_volumes else ["f" * 64, "named"])


def test_sweeping_leaves_the_living_alone(containers: ContainerStore) -> None:
    record = add(containers, state="running", auto_remove=True)
    hold, _ = containers.own(record)
    containers.sweep()
    assert containers.read(record.id) == record
    hold.release()


def test_sweeping_notes_the_end_of_a_container_whose_minder_was_killed(
    containers: ContainerStore,
) -> None:
    record = add(containers, state="running", pid=1)
    left_by_a_killed_process(containers, record)
    containers.sweep()
    now = containers.read(record.id)
    assert now is not None
    assert (now.state, now.exit_code, now.pid) == ("exited", KILLED_CODE, 0)
    assert now.error == "its minder was killed"
    assert not containers.live_path(record.id).exists()


def test_sweeping_removes_what_was_to_be_removed(containers: ContainerStore) -> None:
    record = add(containers, state="running", auto_remove=True)
    (containers.directory(record.id) / "upper/file").touch()
    left_by_a_killed_process(containers, record)
    containers.sweep()
    assert containers.ids() == []
    assert names_of(containers) == []
    assert not containers.live_path(record.id).exists()


def test_sweeping_ends_a_removal_that_was_begun(containers: ContainerStore) -> None:
    record = add(containers, state="dead")
    left_by_a_killed_process(containers, record)
    containers.sweep()
    assert containers.ids() == []


def test_sweeping_removes_what_never_had_a_record(containers: ContainerStore) -> None:
    record = record_with()
    containers.claim_name("web", record.id)
    containers.directory(record.id).mkdir()
    left_by_a_killed_process(containers, record)
    containers.sweep()
    assert containers.ids() == []
    assert names_of(containers) == []


def test_sweeping_keeps_a_container_that_was_only_created(containers: ContainerStore) -> None:
    record = add(containers)
    left_by_a_killed_process(containers, record)
    containers.sweep()
    assert containers.read(record.id) == record


def test_discarding_takes_back_what_was_begun(containers: ContainerStore) -> None:
    hold = liveness.take(containers.live_path("b" * 64))
    assert hold is not None
    containers.claim_name("web", "b" * 64)
    containers.discard("b" * 64)
    hold.release()
    assert names_of(containers) == []
    add(containers, "c", name="web")
    containers.discard("c" * 64)
    assert containers.ids() == []
    assert names_of(containers) == []


def test_an_end_has_a_time_and_no_process() -> None:
    record = ended(record_with(state="running", pid=5), code=3)
    assert (record.state, record.exit_code, record.pid) == ("exited", 3, 0)
    assert record.finished > 0
