"""RUN --mount: every option of every type, what is left out, and what makes no sense."""

from typing import TypeVar

import pytest

from builder.errors import BuilderError, LoweringError, SourceNotFoundError
from builder.lower import Lowered
from builder.lower.runmounts import check_mounts
from builder.sources import select
from builder.steps import (
    AgentMount,
    CacheMount,
    MemoryMount,
    SecretMount,
    SourceMount,
    StepMount,
)
from grammar import DockerfileError, Run, parse
from tests.support.lowering import Stage, exec_step
from tests.support.sources import DictTree, Items, Link

FILES: Items = {"a.txt": b"a", "d/b.txt": b"b", "d/deep/c.txt": b"c", "link": Link("d/deep")}
T = TypeVar("T", bound=StepMount)


def one(kind: type[T], options: str, stage: Stage | None = None, before: str = "") -> T:
    """The only mount of a RUN."""
    stage = stage or Stage(context=FILES, stages={"base": FILES})
    (mount,) = mounts_of(stage.run(f"{before}\nRUN --mount={options} true"))
    assert isinstance(mount, kind)
    return mount


def mounts_of(lowered: Lowered) -> tuple[StepMount, ...]:
    return exec_step(lowered).mounts


def refusal(options: str) -> DockerfileError:
    with pytest.raises(DockerfileError) as caught:
        Stage(context=FILES).run(f"RUN --mount={options} true")
    assert caught.value.span is not None
    assert caught.value.span.start_line == 2
    return caught.value


class TestBind:
    def test_all_of_the_context_is_shown_read_only(self) -> None:
        mount = one(SourceMount, "target=/src")
        assert (mount.target, mount.kind, mount.read_only) == ("/src", "dir", True)
        assert mount.selection.path == ""

    @pytest.mark.parametrize("option", ["target", "dst", "destination", "TARGET"])
    def test_the_target_has_three_names(self, option: str) -> None:
        assert one(SourceMount, f"type=bind,{option}=/x/./y/").target == "/x/y"

    def test_relative_and_missing_targets_are_in_the_working_directory(self) -> None:
        assert one(SourceMount, "target=sub", before="WORKDIR /w").target == "/w/sub"
        assert one(SourceMount, "type=bind", before="WORKDIR /w").target == "/w"

    @pytest.mark.parametrize("target", ["/", "", ".", "..", "/x/.."])
    def test_the_root_is_no_target(self, target: str) -> None:
        assert "invalid mount target" in str(refusal(f"target={target}"))

    @pytest.mark.parametrize("option", ["source", "src"])
    def test_a_source_is_a_file_or_a_directory_with_links_followed(self, option: str) -> None:
        mount = one(SourceMount, f"{option}=d/b.txt,target=/x")
        assert (mount.kind, mount.selection.path) == ("file", "d/b.txt")
        assert one(SourceMount, f"{option}=/link,target=/x").selection.path == "d/deep"

    def test_a_source_never_leaves_its_tree(self) -> None:
        assert one(SourceMount, "source=../../d,target=/x").selection.path == "d"

    def test_the_digest_is_that_of_exactly_what_is_shown(self) -> None:
        found = select(DictTree(FILES), "d")
        assert found is not None
        assert one(SourceMount, "source=d,target=/x").digest == found.digest
        other = Stage(context={**FILES, "a.txt": b"changed"})
        assert one(SourceMount, "source=d,target=/x", other).digest == found.digest
        changed = Stage(context={**FILES, "d/b.txt": b"changed"})
        assert one(SourceMount, "source=d,target=/x", changed).digest != found.digest

    def test_from_is_a_stage_or_an_image(self) -> None:
        assert one(SourceMount, "from=base,source=d,target=/x").kind == "dir"
        with pytest.raises(BuilderError, match="no source 'absent'"):
            one(SourceMount, "from=absent,target=/x")

    @pytest.mark.parametrize(
        ("option", "read_only"),
        [
            ("rw", False),
            ("readwrite", False),
            ("rw=true", False),
            ("rw=false", True),
            ("ro", True),
            ("readonly=1", True),
            ("ro=f", False),
            ("ro,rw", False),
        ],
    )
    def test_it_can_be_written_to_when_asked_for(self, option: str, read_only: bool) -> None:
        assert one(SourceMount, f"target=/x,{option}").read_only is read_only

    def test_a_missing_source_is_an_error_with_the_nearest_name(self) -> None:
        with pytest.raises(SourceNotFoundError) as caught:
            one(SourceMount, "source=d/b.tx,target=/x")
        assert caught.value.nearest == "d/b.txt"


class TestCache:
    def test_what_is_left_out(self) -> None:
        assert one(CacheMount, "type=cache,target=/root/.cache/") == CacheMount(
            target="/root/.cache",
            id="//root/.cache",
            sharing="shared",
            read_only=False,
            mode=0o755,
            uid=0,
            gid=0,
            initial=None,
        )

    def test_the_id_is_the_target_as_written(self) -> None:
        assert one(CacheMount, "type=cache,target=c/./d", before="WORKDIR /w").id == "/c/d"
        assert one(CacheMount, "type=cache,target=/c,id=mine").id == "/mine"

    def test_caches_of_a_namespace_are_apart(self) -> None:
        stage = Stage(build_args={"BUILDKIT_CACHE_MOUNT_NS": "team"})
        assert one(CacheMount, "type=cache,target=/c,id=mine", stage).id == "team/mine"

    @pytest.mark.parametrize("sharing", ["shared", "private", "locked"])
    def test_sharing_is_one_of_three(self, sharing: str) -> None:
        assert one(CacheMount, f"type=cache,target=/c,sharing={sharing.upper()}").sharing == sharing

    def test_owner_and_mode(self) -> None:
        mount = one(CacheMount, "type=cache,target=/c,mode=0751,uid=1001,gid=1002,ro")
        assert (mount.mode, mount.uid, mount.gid, mount.read_only) == (0o751, 1001, 1002, True)

    def test_it_may_begin_with_a_directory_of_a_stage(self) -> None:
        mount = one(CacheMount, "type=cache,from=base,source=d,target=/c")
        found = select(DictTree(FILES), "d")
        assert found is not None
        assert mount.initial == found.digest
        assert one(CacheMount, "type=cache,from=scratch,target=/c").initial is None

    def test_it_does_not_begin_with_a_file(self) -> None:
        with pytest.raises(LoweringError, match=r"'a\.txt' is not a directory"):
            one(CacheMount, "type=cache,from=base,source=a.txt,target=/c")

    def test_without_the_cache_it_begins_anew_where_it_begins_with_something(self) -> None:
        def is_renewed(options: str) -> bool:
            stage = Stage(stages={"base": FILES}, no_cache=True)
            return one(CacheMount, f"type=cache,target=/c{options}", stage).is_renewed

        assert not is_renewed("")
        assert is_renewed(",mode=0755")
        assert is_renewed(",from=base")
        assert not one(CacheMount, "type=cache,target=/c,mode=0755").is_renewed


class TestTmpfs:
    def test_it_has_no_limit_but_the_one_that_is_given(self) -> None:
        assert one(MemoryMount, "type=tmpfs,target=/t") == MemoryMount(
            target="/t", size_bytes=None, read_only=False
        )
        assert one(MemoryMount, "type=tmpfs,target=/t,size=64m").size_bytes == 64 << 20
        assert one(MemoryMount, "type=tmpfs,target=/t,size=0").size_bytes is None
        assert one(MemoryMount, "type=tmpfs,target=/t,ro").read_only


class TestSecret:
    def test_what_is_left_out(self) -> None:
        assert one(SecretMount, "type=secret,id=token") == SecretMount(
            id="token",
            target="/run/secrets/token",
            variable="",
            is_required=False,
            mode=0o400,
            uid=0,
            gid=0,
        )

    def test_the_id_is_the_name_of_the_target(self) -> None:
        mount = one(SecretMount, "type=secret,dst=/etc/deep/token")
        assert (mount.id, mount.target) == ("token", "/etc/deep/token")

    def test_a_path_for_an_id_gives_the_target_its_last_part(self) -> None:
        mount = one(SecretMount, "type=secret,source=keys/token")
        assert (mount.id, mount.target) == ("keys/token", "/run/secrets/token")

    def test_a_variable_instead_of_a_file_or_both(self) -> None:
        alone = one(SecretMount, "type=secret,id=token,env=TOKEN")
        assert (alone.variable, alone.target) == ("TOKEN", "")
        assert one(SecretMount, "type=secret,id=token,env=").variable == "token"
        both = one(SecretMount, "type=secret,id=token,env=TOKEN,target=/t")
        assert (both.variable, both.target) == ("TOKEN", "/t")

    def test_everything_can_be_said(self) -> None:
        mount = one(
            SecretMount,
            "required,type=secret,id=t,target=t,mode=741,uid=3,gid=4",
            before="WORKDIR /w",
        )
        assert mount == SecretMount(
            id="t", target="/w/t", variable="", is_required=True, mode=0o741, uid=3, gid=4
        )
        assert not one(SecretMount, "type=secret,id=t,required=false").is_required

    @pytest.mark.parametrize(
        ("options", "message"),
        [
            ("from=base", "no from"),
            ("id=a,source=b", "the same thing"),
            ("mode=0400", "needs an id or a target"),
            ("id=a,sharing=shared", "sharing is no option of a secret mount"),
        ],
    )
    def test_what_makes_no_sense(self, options: str, message: str) -> None:
        assert message in str(refusal(f"type=secret,{options}"))


class TestSsh:
    def test_what_is_left_out(self) -> None:
        text = "RUN --mount=type=ssh --mount=type=ssh,id=other,required true"
        first, second = mounts_of(Stage().run(text))
        assert first == AgentMount(
            id="default",
            target="/run/buildkit/ssh_agent.0",
            is_required=False,
            mode=0o600,
            uid=0,
            gid=0,
        )
        assert isinstance(second, AgentMount)
        assert (second.id, second.target) == ("other", "/run/buildkit/ssh_agent.1")
        assert second.is_required

    def test_it_has_no_source(self) -> None:
        assert "has no source" in str(refusal("type=ssh,source=x"))


class TestOptions:
    def test_values_are_expanded_with_the_variables_of_the_stage(self) -> None:
        before = "ARG KIND=cache\nENV WHERE=/c MODE=700"
        mount = one(CacheMount, "type=$KIND,target=${WHERE}/x,mode=$MODE", before=before)
        assert (mount.target, mount.mode) == ("/c/x", 0o700)

    def test_from_cannot_be_a_variable(self) -> None:
        assert "from= of a mount cannot have variables" in str(refusal("from=$BASE,target=/x"))

    def test_several_mounts_keep_their_order(self) -> None:
        text = "RUN --mount=type=tmpfs,target=/a --mount=type=cache,target=/b true"
        assert [mount.target for mount in mounts_of(Stage().run(text))] == ["/a", "/b"]

    @pytest.mark.parametrize(
        ("options", "message", "hint"),
        [
            ("typ=tmpfs", "unexpected key 'typ' in 'typ=tmpfs'", "did you mean type?"),
            ("target=/x,z", "unexpected key 'z' in 'z'", "there are src, "),
            ("type=tmp,target=/x", "unsupported mount type 'tmp'", "did you mean tmpfs?"),
            ("type=volume,target=/x", "unsupported mount type 'volume'", "there are bind, "),
            ("target", "it must be a key=value pair", "write target=VALUE"),
            ("type=cache,target=/x,sharing=lock", "unsupported sharing value", "mean locked?"),
            ("target=/x,ro=maybe", "invalid value 'maybe' for ro", "true or false"),
            ("type=secret,id=x,required=2", "invalid value '2' for required", "true or false"),
            ("type=cache,target=/x,mode=9", "invalid value '9' for mode", "octal"),
            ("type=cache,target=/x,mode=77777", "invalid value '77777' for mode", "octal"),
            ("type=cache,target=/x,mode=", "invalid value '' for mode", "octal"),
            ("type=cache,target=/x,uid=-1", "invalid value '-1' for uid", "from 0 to"),
            ("type=cache,target=/x,uid=2147483648", "for uid", "from 0 to 2147483647"),
            ("type=cache,target=/x,gid=root", "invalid value 'root' for gid", "from 0 to"),
            ("type=tmpfs,target=/x,size=big", "invalid value 'big' for size", "64m"),
            ("target=/x,size=1m", "size is no option of a bind mount", "tmpfs"),
            ("target=/x,required", "required is no option of a bind mount", "secret and ssh"),
            ("target=/x,mode=0700", "mode is no option of a bind mount", "cache and secret"),
            ("type=tmpfs,target=/x,uid=1", "uid is no option of a tmpfs mount", "cache"),
            ("type=tmpfs,target=/x,sharing=shared", "sharing is no option", "cache"),
        ],
    )
    def test_what_is_wrong_is_said_with_a_place_and_a_hint(
        self, options: str, message: str, hint: str
    ) -> None:
        error = refusal(options)
        assert message in str(error)
        assert hint in error.hint


class TestCheck:
    """What is found before anything is built."""

    def checked(self, options: str) -> None:
        (node,) = parse(f"FROM scratch\nRUN --mount={options} true\n").stages[0].instructions
        assert isinstance(node, Run)
        check_mounts(node, escape="\\")

    @pytest.mark.parametrize("options", ["typ=cache", "type=cach", "target", "target=/x,size=1"])
    def test_mistakes_are_found_without_a_stage(self, options: str) -> None:
        with pytest.raises(DockerfileError) as caught:
            self.checked(options)
        assert str(caught.value) == str(refusal(options))

    @pytest.mark.parametrize(
        "options",
        ["type=$KIND,size=1", "target=/x,source=absent,from=absent", "type=cache,target=/"],
    )
    def test_what_hangs_on_a_stage_is_left_for_later(self, options: str) -> None:
        self.checked(options)
