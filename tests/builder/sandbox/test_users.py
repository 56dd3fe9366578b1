import pytest
from hypothesis import given
from hypothesis import strategies as st

from builder.sandbox import Ids, UnknownUserError, find_user
from builder.sandbox.users import find_groups

PASSWD = b"""\
root:x:0:0:root:/root:/bin/sh
# a comment:x:5:5::/:
daemon:x:1:1:daemon:/usr/sbin:/usr/sbin/nologin
ada:x:1000:1001:Ada,,,:/home/ada:/bin/sh
twin:x:1000:1002::/home/twin:/bin/sh
1234:x:77:78::/home/number:/bin/sh
broken:x:notanumber:0::/:/bin/sh
short:x:9
huge:x:99999999999:0::/:/bin/sh
negative:x:-5:0::/:/bin/sh
nohome:x:500:500:::/bin/sh
+nis:x:1:1::/:
"""
GROUP = b"""\
root:x:0:
wheel:x:10:root,ada
ada:x:1001:
staff:x:50:ada,daemon
staff2:x:50:ada
4242:x:99:
bad:x:y:ada
big:x:4294967295:ada
"""


@pytest.mark.parametrize(
    ("spec", "expected"),
    [
        ("", Ids(uid=0, gid=0, groups=(10,), home="/root")),
        ("root", Ids(uid=0, gid=0, groups=(10,), home="/root")),
        ("0", Ids(uid=0, gid=0, groups=(10,), home="/root")),
        ("ada", Ids(uid=1000, gid=1001, groups=(10, 50), home="/home/ada")),
        ("1000", Ids(uid=1000, gid=1001, groups=(10, 50), home="/home/ada")),
        ("01000", Ids(uid=1000, gid=1001, groups=(10, 50), home="/home/ada")),
        ("twin", Ids(uid=1000, gid=1002, groups=(), home="/home/twin")),
        ("ada:staff", Ids(uid=1000, gid=50, home="/home/ada")),
        ("ada:50", Ids(uid=1000, gid=50, home="/home/ada")),
        ("ada:7", Ids(uid=1000, gid=7, home="/home/ada")),
        ("ada:", Ids(uid=1000, gid=1001, groups=(10, 50), home="/home/ada")),
        (":staff", Ids(uid=0, gid=50, home="/root")),
        ("4711", Ids(uid=4711, gid=0, home="/")),
        ("4711:4712", Ids(uid=4711, gid=4712, home="/")),
        ("2147483647:2147483647", Ids(uid=2**31 - 1, gid=2**31 - 1, home="/")),
        ("nohome", Ids(uid=500, gid=500, home="/")),
        # Digits are a number, also where a user has them for a name.
        ("1234", Ids(uid=1234, gid=0, home="/")),
        ("ada:4242", Ids(uid=1000, gid=4242, home="/home/ada")),
    ],
)
def test_words_become_numbers(spec: str, expected: Ids) -> None:
    assert find_user(PASSWD, GROUP, spec) == expected


@pytest.mark.parametrize(
    "spec",
    [
        *("nobody", "ada:nogroup", "broken", "short", "huge", "negative", "+nis", "a comment"),
        *("-1", "2147483648", "4294967295", "4294967296", "99999999999999999999", "0:-1", "0:bad"),
        *("0:2147483648", "1e3", "0x0", " 0", "0 ", "root ", "ada:staff:x", "٣", "1_0", "+0"),
    ],
)
def test_what_cannot_be_found_is_an_error_and_never_root(spec: str) -> None:
    with pytest.raises(UnknownUserError):
        find_user(PASSWD, GROUP, spec)


def test_without_files_only_numbers_work() -> None:
    assert find_user(b"", b"", "12:13") == Ids(uid=12, gid=13)
    assert find_user(b"", b"", "") == Ids(uid=0, gid=0)
    with pytest.raises(UnknownUserError, match="/etc/passwd"):
        find_user(b"", b"", "root")
    with pytest.raises(UnknownUserError, match="/etc/group"):
        find_user(b"", b"", "0:root")


def test_names_need_not_be_utf8() -> None:
    passwd = b"\xff\xfe:x:5:6::/home/\xff:/bin/sh\n"
    ids = find_user(passwd, b"", "\udcff\udcfe")
    assert (ids.uid, ids.gid, ids.home) == (5, 6, "/home/\udcff")


def test_very_many_groups_are_cut_to_what_the_kernel_takes() -> None:
    group = b"".join(b"g%d:x:%d:ada\n" % (number, number) for number in range(70_000))
    assert len(find_user(PASSWD, group, "ada").groups) == 65536


@given(passwd=st.binary(max_size=300), group=st.binary(max_size=300), spec=st.text(max_size=20))
def test_whatever_the_files_say_the_answer_is_in_range_or_an_error(
    passwd: bytes, group: bytes, spec: str
) -> None:
    try:
        ids = find_user(passwd, group, spec)
    except UnknownUserError as error:
        assert error.user == spec
        return
    assert all(0 <= number < 2**31 for number in (ids.uid, ids.gid, *ids.groups))


@given(
    uid=st.integers(0, 2**31 - 1),
    gid=st.integers(0, 2**31 - 1),
    name=st.from_regex(r"[a-z_][a-z0-9_-]{0,30}", fullmatch=True),
)
def test_a_listed_user_is_found_by_name(uid: int, gid: int, name: str) -> None:
    passwd = f"{name}:x:{uid}:{gid}::/h:/bin/sh\n".encode()
    assert find_user(passwd, b"", name) == Ids(uid=uid, gid=gid, home="/h")


class TestGroups:
    def test_names_and_numbers(self) -> None:
        assert find_groups(GROUP, ("staff", "77", "4242", "wheel")) == (50, 77, 4242, 10)
        assert find_groups(b"", ()) == ()

    @pytest.mark.parametrize("word", ["nobodys", "bad", "big", "-1", "4294967295"])
    def test_what_is_no_group_is_told(self, word: str) -> None:
        with pytest.raises(UnknownUserError, match=word):
            find_groups(GROUP, (word,))
