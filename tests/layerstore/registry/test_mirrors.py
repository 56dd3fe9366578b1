"""registries.conf: which places a name stands for."""

from pathlib import Path

import pytest

from layerstore import Reference
from layerstore.registry import BlockedRegistryError, RegistryError
from layerstore.registry.mirrors import Place, RegistriesConf

DIGEST = "sha256:" + "0" * 64


@pytest.fixture
def conf(tmp_path: Path) -> Path:
    return tmp_path / "registries.conf"


def load(conf: Path, text: str = "") -> RegistriesConf:
    conf.write_text(text)
    return RegistriesConf.load({"CONTAINERS_REGISTRIES_CONF": str(conf)})


def places(rules: RegistriesConf, name: str, *, pull: bool = True) -> list[str]:
    found = rules.places(Reference.parse(name), pull=pull)
    return [place.repository + (" insecure" if place.insecure else "") for place in found]


def test_without_a_file_a_name_is_its_own_place(tmp_path: Path) -> None:
    rules = RegistriesConf.load({"CONTAINERS_REGISTRIES_CONF": str(tmp_path / "none")})
    assert places(rules, "hello") == ["docker.io/library/hello"]
    assert rules.places(Reference.parse("a.b/c"), pull=False) == [Place(host="a.b", path="c")]


def test_mirrors_come_first_and_are_not_pushed_to(conf: Path) -> None:
    rules = load(
        conf,
        """
        [[registry]]
        location = "docker.io"
        [[registry.mirror]]
        location = "mirror.example/hub"
        [[registry.mirror]]
        location = "127.0.0.1:5000"
        insecure = true
        """,
    )
    assert places(rules, "hello") == [
        "mirror.example/hub/library/hello",
        "127.0.0.1:5000/library/hello insecure",
        "docker.io/library/hello",
    ]
    assert places(rules, "hello", pull=False) == ["docker.io/library/hello"]
    assert places(rules, "other.example/hello") == ["other.example/hello"]


def test_the_longest_prefix_counts_and_ends_at_a_slash(conf: Path) -> None:
    rules = load(
        conf,
        """
        [[registry]]
        prefix = "a.b"
        location = "one.example"
        [[registry]]
        prefix = "a.b/team"
        location = "two.example/x"
        """,
    )
    assert places(rules, "a.b/team/c") == ["two.example/x/c"]
    assert places(rules, "a.b/team") == ["two.example/x"]
    assert places(rules, "a.b/teamwork") == ["one.example/teamwork"]


def test_a_prefix_may_be_all_hosts_of_a_domain(conf: Path) -> None:
    rules = load(
        conf,
        """
        [[registry]]
        prefix = "*.a.b"
        insecure = true
        [[registry]]
        prefix = "*.moved.example"
        location = "new.example"
        """,
    )
    assert places(rules, "x.a.b/c") == ["x.a.b/c insecure"]
    assert places(rules, "a.b/c") == ["a.b/c"]
    assert places(rules, "y.moved.example/c/d") == ["new.example/c/d"]


def test_a_mirror_may_be_for_digests_or_tags_alone(conf: Path) -> None:
    rules = load(
        conf,
        """
        [[registry]]
        location = "a.b"
        [[registry.mirror]]
        location = "digests.example"
        pull-from-mirror = "digest-only"
        [[registry.mirror]]
        location = "tags.example"
        pull-from-mirror = "tag-only"
        """,
    )
    assert places(rules, "a.b/c:1") == ["tags.example/c", "a.b/c"]
    assert places(rules, f"a.b/c@{DIGEST}") == ["digests.example/c", "a.b/c"]


def test_all_mirrors_of_a_registry_may_be_for_digests_alone(conf: Path) -> None:
    rules = load(
        conf,
        """
        [[registry]]
        location = "a.b"
        mirror-by-digest-only = true
        [[registry.mirror]]
        location = "m.example"
        """,
    )
    assert places(rules, "a.b/c:1") == ["a.b/c"]
    assert places(rules, f"a.b/c@{DIGEST}") == ["m.example/c", "a.b/c"]


def test_a_blocked_registry_is_an_error(conf: Path) -> None:
    rules = load(conf, '[[registry]]\nlocation = "a.b"\nblocked = true\n')
    with pytest.raises(BlockedRegistryError, match=r"a\.b/c"):
        places(rules, "a.b/c")


def test_an_insecure_registry_is_known_by_its_host(conf: Path) -> None:
    rules = load(conf, '[[registry]]\nlocation = "a.b:1"\ninsecure = true\n')
    assert rules.is_insecure("a.b:1")
    assert not rules.is_insecure("a.b")


def test_the_users_file_comes_before_the_systems_and_drop_ins_after_it(tmp_path: Path) -> None:
    folder = tmp_path / ".config" / "containers"
    (folder / "registries.conf.d").mkdir(parents=True)
    (folder / "registries.conf").write_text('[[registry]]\nprefix = "a.b"\nlocation = "one"\n')
    more = '[[registry]]\nprefix = "a.b"\nlocation = "two"\n'
    (folder / "registries.conf.d" / "1.conf").write_text(more)
    (folder / "registries.conf.d" / "2.txt").write_text("not [[[ TOML")
    rules = RegistriesConf.load({"HOME": str(tmp_path)})
    assert places(rules, "a.b/c") == ["two/c"]


@pytest.mark.parametrize(
    "text",
    [
        "[[[",
        "registry = 1",
        "registry = [1]",
        '[[registry]]\nprefix = 1\nlocation = "a"',
        "[[registry]]\ninsecure = true",
        '[[registry]]\nlocation = "a"\nblocked = "yes"',
        '[[registry]]\nlocation = "a"\n[[registry.mirror]]\ninsecure = true',
        '[[registry]]\nlocation = "a"\n[[registry.mirror]]\nlocation = "b"\npull-from-mirror = "x"',
    ],
)
def test_what_makes_no_sense_is_an_error_that_names_the_file(conf: Path, text: str) -> None:
    with pytest.raises(RegistryError, match=r"registries\.conf"):
        load(conf, text)


def test_a_directory_in_its_place_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(RegistryError, match="cannot read"):
        RegistriesConf.load({"CONTAINERS_REGISTRIES_CONF": str(tmp_path)})
