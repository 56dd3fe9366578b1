"""Programs that change owners and users, where the kernel knows one id."""

import errno
import os
import signal
import stat
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from builder.sandbox import (
    BindMount,
    ExitStatus,
    ForkServer,
    LocalExecutor,
    Program,
    Stdio,
    TmpfsMount,
    enter_user_namespace,
)
from builder.sandbox.recorder import decode, encode_owned, is_offered
from builder.sandbox.spec import OWNER_XATTR
from builder.sandbox.statbuf import Owned
from layerstore.owners import XATTR, Device, Record
from layerstore.owners import decode as decode_for_layers
from tests.support import host, traces
from tests.support.ordinary import USER, Ordinary
from tests.support.sandboxes import PRELUDE
from tests.support.waiting import wait_until

IDS = st.integers(0, 2**31 - 1)
DEVICES = st.tuples(st.sampled_from([stat.S_IFCHR, stat.S_IFBLK]), *[st.integers(1, 4095)] * 2)
KINDS = {stat.S_IFCHR: "char", stat.S_IFBLK: "block"}


@given(st.builds(Owned, IDS, IDS, st.none() | DEVICES))
def test_a_record_is_read_as_it_was_written(owned: Owned) -> None:
    assert decode(encode_owned(owned)) == owned


@given(st.binary(max_size=40) | st.from_regex(rb"[0-9:]{0,40}", fullmatch=True))
def test_no_value_crashes_the_reader(value: bytes) -> None:
    owned = decode(value)
    assert owned is None or max(owned.uid, owned.gid) < 2**31


@given(st.builds(Owned, IDS, IDS, st.none() | DEVICES))
def test_the_store_reads_the_same(owned: Owned) -> None:
    assert XATTR == OWNER_XATTR
    record = decode_for_layers(encode_owned(owned))
    device = None
    if owned.device is not None:
        kind, major, minor = owned.device
        device = Device("char" if kind == stat.S_IFCHR else "block", major, minor)
    assert record == Record(owned.uid, owned.gid, device)


def test_this_kernel_can_do_it() -> None:
    words = [int(word) for word in os.uname().release.split(".")[:2]]
    assert is_offered() == (words >= [5, 14])


WHO = """
#include <stdio.h>
#include <unistd.h>
int main(void) { return printf("%d %d %d %d\\n", getuid(), geteuid(), getgid(), getegid()) < 0; }
"""


@pytest.fixture(params=[LocalExecutor, ForkServer])
def shell(request: pytest.FixtureRequest, ordinary: Ordinary) -> Callable[..., str]:
    """Run a script as a user without subordinate ids; gives what it wrote."""

    def run(script: str, status: int = 0, user: str = "") -> str:
        outcome = ordinary.home / "outcome"

        def play() -> None:
            enter_user_namespace()
            with request.param() as executor:
                ended, output = ordinary.run(executor, script, user=user)
            outcome.write_text(output)
            assert ended == ExitStatus(code=status), (ended, output)

        ordinary.act(play)
        return outcome.read_text()

    return run


@pytest.mark.needs_root
@pytest.mark.needs_userns
@pytest.mark.needs_overlay
class TestFiles:
    def test_an_owner_is_shown_by_every_kind_of_stat(self, shell: Callable[..., str]) -> None:
        script = """
            cd /tmp && touch f && chown 33:34 f && chmod 640 f && ln -s f link
            stat -c '%u:%g %a' f; stat -Lc %u link; stat -c %u link; stat -c %u /tmp/f
            ls -ln f | awk '{print $3, $4}'; find /tmp -user 33
        """
        assert shell(script).splitlines() == ["33:34 640", "33", "0", "33", "33 34", "/tmp/f"]

    def test_it_goes_with_the_file(self, shell: Callable[..., str]) -> None:
        script = """
            cd /tmp && touch f && chown 33:34 f && mv f g && ln g h && stat -c %u:%g g h
            rm g h && touch g && stat -c %u:%g g
            mkdir d && touch d/f && chown -R 5 d && mv d e && stat -c %u:%g e e/f
        """
        assert shell(script).split() == ["33:34", "33:34", "0:0", "5:0", "5:0"]

    def test_one_id_alone_changes_alone(self, shell: Callable[..., str]) -> None:
        script = """
            cd /tmp && touch f && chown 33 f && stat -c %u:%g f && chgrp 7 f && stat -c %u:%g f
            chown 0 f && stat -c %u:%g f && chown 0:0 f && stat -c %u:%g f
        """
        assert shell(script).split() == ["33:0", "33:7", "0:7", "0:0"]

    def test_giving_takes_the_rights_that_go_with_a_file(self, shell: Callable[..., str]) -> None:
        script = "cd /tmp && touch f && chmod 6755 f && chown 33 f && stat -c %a:%u f"
        assert shell(script) == "755:33\n"

    def test_a_file_below_is_copied_up(self, shell: Callable[..., str], ordinary: Ordinary) -> None:
        assert shell("chown 33:34 /etc/passwd /home; stat -c %u /etc/passwd") == "33\n"
        (upper,) = ordinary.home.glob("upper*")
        assert os.getxattr(upper / "etc/passwd", OWNER_XATTR) == b"33:34"
        assert os.getxattr(upper / "home", OWNER_XATTR) == b"33:34"
        assert os.listxattr(ordinary.root / "etc/passwd") == []

    def test_links_and_fifos_stay_roots(self, shell: Callable[..., str]) -> None:
        script = """
            cd /tmp && ln -s nowhere link && chown -h 33 link && mkfifo p && chown 33 p
            stat -c %u link p
        """
        assert shell(script).split() == ["0", "0"]

    def test_a_tmpfs_has_owners_too(self, ordinary: Ordinary) -> None:
        def play() -> None:
            enter_user_namespace()
            with LocalExecutor() as executor:
                ended, output = ordinary.run(
                    executor,
                    "cd /scratch && touch f && chown 33 f && stat -c %u f",
                    mounts=(TmpfsMount(target="/scratch"),),
                )
                assert (ended, output) == (ExitStatus(), "33\n")

        ordinary.act(play)

    def test_devices_are_said_to_be_devices(
        self, shell: Callable[..., str], ordinary: Ordinary
    ) -> None:
        script = """
            cd /tmp && mknod -m 640 n c 1 3 && mknod b b 8 1 && chown 0:6 b
            stat -c '%F %a %t:%T %u:%g' n b; cat n b; test -c n && test -b b && echo tested
            mkfifo p && stat -c %F p
        """
        assert shell(script).splitlines() == [
            "character special file 640 1:3 0:0",
            "block special file 644 8:1 0:6",
            "tested",
            "fifo",
        ]
        (upper,) = ordinary.home.glob("upper*")
        assert stat.S_ISREG((upper / "tmp/n").lstat().st_mode)
        assert os.getxattr(upper / "tmp/b", OWNER_XATTR) == b"0:6:block:8:1"

    def test_errors_are_the_kernels(self, shell: Callable[..., str]) -> None:
        script = """
            chown 33 /missing; chown 33 /etc/passwd/x; mknod /etc c 1 3; mknod /no/dir c 1 3
            ln -s loop /tmp/loop; chown 33 /tmp/loop; chown 33 /proc/version; stat /missing
        """
        said = shell(script, status=1)
        for text in (
            "chown: /missing: No such file or directory",
            "chown: /etc/passwd/x: Not a directory",
            "mknod: /etc: File exists",
            "mknod: /no/dir: No such file or directory",
            "chown: /tmp/loop: ",
            "stat: can't stat '/missing': No such file or directory",
        ):
            assert text in said

    def test_who_has_changed_its_root_is_understood(self, shell: Callable[..., str]) -> None:
        script = """
            mkdir -p /new/tmp && cp -a /bin /new/bin && touch /tmp/f /new/tmp/f && chown 5 /tmp/f
            chroot /new sh -c 'chown 33 /tmp/f; cd /tmp; stat -c %u f ../tmp/f /../tmp/f'
            stat -c %u /tmp/f /new/tmp/f
        """
        assert shell(script).split() == ["33", "33", "33", "5", "33"]

    def test_nothing_outside_of_the_root_is_reached(
        self, shell: Callable[..., str], ordinary: Ordinary
    ) -> None:
        (ordinary.home / "canary").touch()
        os.chown(ordinary.home / "canary", 54321, 54321)
        names = [
            f"{ordinary.home}/canary",
            f"../../../../../..{ordinary.home}/canary",
            "/proc/1/root/etc/passwd",
            f"{os.getpid()}/cwd/x",
        ]
        shell(f"ln -s {ordinary.home}/canary /tmp/l; chown 33 /tmp/l {' '.join(names)}; true")
        assert os.listxattr(ordinary.home / "canary") == []


@pytest.mark.needs_root
@pytest.mark.needs_userns
@pytest.mark.needs_overlay
class TestUsers:
    def test_a_program_starts_as_whom_it_was_asked_to(self, shell: Callable[..., str]) -> None:
        assert shell("id; whoami", user="ada").splitlines() == [
            "uid=1000(ada) gid=1000(ada) groups=10(wheel),50(staff),1000(ada)",
            "ada",
        ]
        assert shell("id -u; id -g", user="33:34").split() == ["33", "34"]

    def test_what_it_makes_is_its_own(self, shell: Callable[..., str], ordinary: Ordinary) -> None:
        script = """
            cd /tmp && touch f && mkdir -m 700 d && echo x > d/g && echo y >> f
            umask 077; touch h; stat -c '%u:%g %a' f d d/g h; cat d/g
        """
        assert shell(script, user="33:34").splitlines() == [
            *("33:34 644", "33:34 700", "33:34 644", "33:34 600", "x"),
        ]
        (upper,) = ordinary.home.glob("upper*")
        assert os.getxattr(upper / "tmp/d/g", OWNER_XATTR) == b"33:34"

    def test_a_group_is_inherited_where_the_directory_says_so(
        self, shell: Callable[..., str]
    ) -> None:
        script = """
            mkdir /s && chown 5:50 /s && chmod 2777 /s && touch /s/f && mkdir /s/d && touch /s/d/g
            stat -c '%u:%g %a' /s/f /s/d /s/d/g; cd /s && touch h && stat -c %g h
        """
        assert shell(script).splitlines() == ["0:50 644", "0:50 2755", "0:50 644", "50"]

    def test_a_set_user_id_program_acts_as_its_owner(
        self, shell: Callable[..., str], ordinary: Ordinary
    ) -> None:
        source = ordinary.home / "whoami.c"
        source.write_text(WHO)
        for name in ("as-root", "as-ada", "plain"):
            target = ordinary.root / "bin" / name
            subprocess.run(["gcc", "-static", "-o", target, source], check=True)
            os.chown(target, USER, USER)
            target.chmod(0o755 if name == "plain" else 0o6755)
        os.setxattr(ordinary.root / "bin/as-ada", OWNER_XATTR, b"1000:50")
        (ordinary.root / "bin/script").write_text("#!/bin/sh\nid -u\n")
        (ordinary.root / "bin/script").chmod(0o4755)
        script = "as-root; as-ada; plain; script; sh -c as-root; id -u"
        expected = ["33 0 34 0", "33 1000 34 50", "33 33 34 34", "33", "33 0 34 0", "33"]
        assert shell(script, user="33:34").splitlines() == expected

    def test_it_has_no_rights(self, shell: Callable[..., str]) -> None:
        script = "grep CapEff /proc/self/status; sh -c 'grep CapPrm /proc/self/status'"
        assert shell(script, user="33").split() == ["CapEff:", "0" * 16, "CapPrm:", "0" * 16]
        assert shell(script).split()[1] == "00000000a80425fb"

    def test_it_may_give_away_nothing(self, shell: Callable[..., str]) -> None:
        script = """
            cd /tmp && touch f && chgrp 10 f && stat -c %g f; chgrp 11 f; chown 0 f
            chown 1000 /etc/passwd; mknod n c 1 3; stat -c %u:%g f /etc/passwd
        """
        said = shell(script, user="ada")
        assert said.count("Operation not permitted") == 4
        assert said.split()[0] == "10"
        assert said.split()[-2:] == ["1000:10", "0:0"]

    def test_a_login_is_for_its_children_only(self, shell: Callable[..., str]) -> None:
        script = """
            su ada -c 'id -u; touch /tmp/f; sh -c "sh -c \\"id -g\\"; true"; cd; pwd'
            id -u; stat -c %u:%g /tmp/f
        """
        assert shell(script).split() == ["1000", "1000", "/home/ada", "0", "1000:1000"]

    @pytest.mark.needs_public_python
    def test_who_has_dropped_rights_does_not_get_them_back(self, ordinary: Ordinary) -> None:
        python = host.public_python()
        assert python is not None
        script = (
            PRELUDE
            + """
            os.setgroups([50, 60]); os.setresgid(34, 34, 34); os.setresuid(33, 33, 33)
            assert os.getresuid() == (33, 33, 33) and os.getresgid() == (34, 34, 34)
            assert os.getuid() == os.geteuid() == 33 and os.getgroups() == [50, 60]
            for call in (lambda: os.setuid(0), lambda: os.setgid(0), lambda: os.setgroups([]),
                         lambda: os.setresuid(33, 0, 33), lambda: os.setregid(0, 0)):
                try:
                    call()
                except PermissionError:
                    print("refused")
            fd = os.open("/tmp/f", os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o640)
            os.write(fd, b"12"); os.lseek(fd, 0, 0)
            status = os.fstat(fd)
            print(os.read(fd, 9), status.st_uid, oct(status.st_mode), os.get_inheritable(fd))
            try:
                os.open("/tmp/f", os.O_CREAT | os.O_EXCL)
            except FileExistsError:
                print("exists")
            print(os.stat("f", dir_fd=os.open("/tmp", os.O_PATH)).st_uid)
        """.replace("\n            ", "\n")
        )

        def play() -> None:
            enter_user_namespace()
            with LocalExecutor() as executor:
                argv = (str(python), "-I", "-S", "-c", script)
                mounts = tuple(
                    BindMount(source=Path(place), target=place, read_only=True)
                    for place in ("/usr", "/lib", "/lib64")
                    if Path(place).exists()
                )
                ended, output = ordinary.run(executor, "", argv=argv, mounts=mounts)
                assert ended == ExitStatus(), output
                assert output.splitlines() == [
                    *["refused"] * 5,
                    "b'12' 33 0o100640 False",
                    *("exists", "33"),
                ], output

        ordinary.act(play)


HOSTILE = """
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>
static void try(const char *name, long result) {
    printf("%s %d\\n", name, result < 0 ? errno : 0);
}
int main(void) {
    static const unsigned long bad[] = {8, 1UL << 47, 1UL << 63, ~0UL - 7};
    static const char long_path[9000] = {[0 ... 8998] = 'x'};
    for (unsigned i = 0; i < 4; i++) {
        void *at = (void *)bad[i];
        try("chown", syscall(SYS_fchownat, AT_FDCWD, at, 33, 33, 0));
        try("stat-path", syscall(SYS_newfstatat, AT_FDCWD, at, at, 0));
        try("stat-buffer", syscall(SYS_newfstatat, AT_FDCWD, "/tmp/f", at, 0));
        try("statx-buffer", syscall(SYS_statx, AT_FDCWD, "/tmp/f", 0, 0xfff, at));
        try("getresuid", syscall(SYS_getresuid, at, at, at));
        try("setgroups", syscall(SYS_setgroups, 4, at));
        try("getgroups", syscall(SYS_getgroups, 100, at));
        try("mknod", syscall(SYS_mknodat, AT_FDCWD, at, S_IFCHR, 0x103));
    }
    try("long", syscall(SYS_fchownat, AT_FDCWD, long_path, 33, 33, 0));
    try("long-stat", syscall(SYS_statx, AT_FDCWD, long_path, 0, 0xfff, long_path));
    try("no-descriptor", syscall(SYS_fchown, 77, 33, 33));
    try("no-directory", syscall(SYS_fchownat, 77, "x", 33, 33, 0));
    try("empty", syscall(SYS_fchownat, AT_FDCWD, "", 33, 33, 0));
    try("many-groups", syscall(SYS_setgroups, 65537, 0));
    try("no-id", syscall(SYS_setresuid, 0x80000000, 0, 0));
    try("flags", syscall(SYS_newfstatat, AT_FDCWD, "/tmp/f", long_path, 0x10000));
    try("by-descriptor", syscall(SYS_fchownat, open("/tmp/f", O_PATH), "", 5, 6, AT_EMPTY_PATH));
    struct stat status;
    stat("/tmp/f", &status);
    return printf("owner %d %d\\n", status.st_uid, status.st_gid) < 0;
}
"""


@pytest.mark.needs_root
@pytest.mark.needs_userns
@pytest.mark.needs_overlay
def test_what_an_enemy_asks_gets_the_kernels_errors(
    shell: Callable[..., str], ordinary: Ordinary
) -> None:
    source, target = ordinary.home / "hostile.c", ordinary.root / "bin/hostile"
    source.write_text(HOSTILE)
    subprocess.run(["gcc", "-static", "-w", "-o", target, source], check=True)
    said = shell("touch /tmp/f && chown 33:33 /tmp/f && hostile && id -u")
    rows = [line.split() for line in said.splitlines()]
    for name in ("chown", "stat-path", "stat-buffer", "statx-buffer", "getresuid", "mknod"):
        assert [row[1] for row in rows if row[0] == name] == ["14"] * 4, name
    assert [row[1] for row in rows if row[0] in ("setgroups", "getgroups")] == ["14"] * 8
    found = {row[0]: " ".join(row[1:]) for row in rows}
    assert (found["long"], found["long-stat"]) == ("36", "36")
    assert (found["no-descriptor"], found["no-directory"], found["empty"]) == ("9", "9", "2")
    assert (found["many-groups"], found["no-id"], found["flags"]) == ("22", "22", "22")
    assert (found["by-descriptor"], found["owner"]) == ("0", "5 6")
    assert rows[-1] == ["0"]


@pytest.mark.needs_root
@pytest.mark.needs_userns
@pytest.mark.needs_overlay
class TestLife:
    def test_nothing_is_left_of_it(self, ordinary: Ordinary) -> None:
        def play() -> None:
            enter_user_namespace()
            with ForkServer() as server:
                for _ in range(5):
                    assert ordinary.run(server, "stat / >/dev/null")[0] == ExitStatus()
            with LocalExecutor() as executor:
                assert ordinary.run(executor, "stat / >/dev/null")[0] == ExitStatus()
                try:
                    os.waitpid(-1, os.WNOHANG)
                except ChildProcessError:
                    return
                raise AssertionError("a child is left")

        ordinary.act(play)
        wait_until(lambda: traces.processes_with(str(ordinary.home)) == [], seconds=5)

    def test_it_ends_with_a_sandbox_that_is_killed(self, ordinary: Ordinary) -> None:
        def play() -> None:
            enter_user_namespace()
            with LocalExecutor() as executor:
                script = "stat / && echo asked; while true; do stat / >/dev/null; done"
                program = Program(argv=("/bin/sh", "-c", script))
                null = os.open("/dev/null", os.O_RDWR)
                reader, writer = os.pipe()
                spec = ordinary.spec(program)
                running = executor.start(spec, Stdio(stdin=null, stdout=writer, stderr=null))
                os.close(writer)
                said = b""
                while not said.endswith(b"asked\n"):
                    part = os.read(reader, 1024)
                    assert part, said
                    said += part
                running.kill()
                assert running.wait().signal == signal.SIGKILL

        ordinary.act(play)

    def test_a_program_that_cannot_be_started_leaves_none(self, ordinary: Ordinary) -> None:
        def play() -> None:
            enter_user_namespace()
            with LocalExecutor() as executor:
                for _ in range(3):
                    try:
                        ordinary.run(executor, "", argv=("/missing",))
                    except Exception as error:  # noqa: BLE001 - whatever it is, it is looked at
                        assert getattr(error, "errno", 0) == errno.ENOENT
                assert ordinary.run(executor, "id -u")[1] == "0\n"

        ordinary.act(play)

    def test_many_at_once_are_served(self, ordinary: Ordinary) -> None:
        def play() -> None:
            enter_user_namespace()
            script = """
                cd /tmp
                for i in 1 2 3 4 5 6 7 8; do
                  (for j in 1 2 3 4 5 6; do touch $i.$j; chown $i:$j $i.$j; done) &
                done
                wait; stat -c '%n %u.%g' * | awk '$1 != $2'; ls | wc -l
            """
            with ForkServer() as server:
                ended, output = ordinary.run(server, script)
                assert (ended, output) == (ExitStatus(), "48\n")

        ordinary.act(play)

    def test_a_program_that_joins_is_recorded_too(self, ordinary: Ordinary) -> None:
        def play() -> None:
            enter_user_namespace()
            with LocalExecutor() as executor:
                null = os.open("/dev/null", os.O_RDWR)
                reader, writer = os.pipe2(os.O_CLOEXEC)
                stdio = Stdio(stdin=null, stdout=writer, stderr=writer)
                running = executor.start(ordinary.spec(Program(argv=("/bin/sleep", "60"))), stdio)
                script = "id -u; touch /tmp/f; stat -c %u:%g /tmp/f"
                words = Program(argv=("/bin/sh", "-c", script), user="33:34")
                assert executor.join(running.init_pid, words, stdio).wait() == ExitStatus()
                words = Program(argv=("/bin/sh", "-c", "id -u; stat -c %u:%g /tmp/f"))
                assert executor.join(running.init_pid, words, stdio).wait() == ExitStatus()
                assert os.read(reader, 100) == b"33\n33:34\n0\n33:34\n"
                running.kill()
                running.wait()

        ordinary.act(play)
