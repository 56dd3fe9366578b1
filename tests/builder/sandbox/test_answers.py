"""Programs that change owners and users, where the kernel knows one id."""

import os
import stat
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from builder.sandbox import (
    BindMount,
    ExitStatus,
    LocalExecutor,
    TmpfsMount,
    enter_user_namespace,
)
from builder.sandbox.ownerattribute import OWNER_XATTR
from tests.support import host
from tests.support.ordinary import USER, Ordinary
from tests.support.sandboxes import PRELUDE

WHO = """
#include <stdio.h>
#include <unistd.h>
int main(void) { return printf("%d %d %d %d\\n", getuid(), geteuid(), getgid(), getegid()) < 0; }
"""

KEEPS_RIGHTS = """
#define _GNU_SOURCE
#include <stdio.h>
#include <stdlib.h>
#include <sys/prctl.h>
#include <unistd.h>
int main(int count, char **words) {
    prctl(PR_SET_KEEPCAPS, atoi(words[1]));
    setresuid(33, 33, 33);
    printf("%d ", setresgid(34, 34, 34));
    printf("%d %d\\n", getuid(), getgid());
    fflush(stdout);
    return execl("/bin/sh", "sh", "-c", "id -u; chown 5 /tmp 2> /dev/null || echo no", NULL);
}
"""
ASKS_PEER = """
#define _GNU_SOURCE
#include <signal.h>
#include <stdio.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <sys/wait.h>
#include <unistd.h>
int tell(int fd, pid_t other) {
    struct ucred found;
    socklen_t size = sizeof found;
    int failed = getsockopt(fd, SOL_SOCKET, SO_PEERCRED, &found, &size);
    return printf("%d %d %d %d\\n", failed, found.uid, found.gid, found.pid == other) < 0;
}
int main(void) {
    struct sockaddr_un name = {.sun_family = AF_UNIX, .sun_path = "/tmp/socket"};
    struct sockaddr *address = (struct sockaddr *)&name;
    pid_t own = getpid();
    int server = socket(AF_UNIX, SOCK_STREAM, 0), pair[2];
    bind(server, address, sizeof name);
    listen(server, 1);
    pipe(pair);
    pid_t client = fork();
    if (!client) {
        setresgid(34, 34, 34);
        setresuid(33, 33, 33);
        int fd = socket(AF_UNIX, SOCK_STREAM, 0);
        connect(fd, address, sizeof name);
        tell(fd, own);
        fflush(stdout);
        close(pair[1]);
        pause();
    }
    close(pair[1]);
    char none;
    read(pair[0], &none, 1);
    tell(accept(server, NULL, NULL), client);
    fflush(stdout);
    struct ucred none_such;
    socklen_t size = sizeof none_such;
    printf("%d ", getsockopt(pair[0], SOL_SOCKET, SO_PEERCRED, &none_such, &size));
    printf("%d\\n", getsockopt(server, SOL_SOCKET, SO_PEERCRED, NULL, &size));
    return kill(client, 9);
}
"""


def compiled(source: str, target: Path) -> None:
    """A program for a root that has no libraries."""
    path = target.with_suffix(".c")
    path.write_text(source)
    subprocess.run(["gcc", "-static", "-o", target, path], check=True)
    path.unlink()


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
        for name in ("as-root", "as-ada", "plain"):
            target = ordinary.root / "bin" / name
            compiled(WHO, target)
            os.chown(target, USER, USER)
            target.chmod(0o755 if name == "plain" else 0o6755)
        os.setxattr(ordinary.root / "bin/as-ada", OWNER_XATTR, b"1000:50")
        (ordinary.root / "bin/script").write_text("#!/bin/sh\nid -u\n")
        (ordinary.root / "bin/script").chmod(0o4755)
        script = "as-root; as-ada; plain; script; sh -c as-root; id -u"
        expected = ["33 0 34 0", "33 1000 34 50", "33 33 34 34", "33", "33 0 34 0", "33"]
        assert shell(script, user="33:34").splitlines() == expected

    @pytest.mark.parametrize(("keeps", "said"), [(1, "0 33 34"), (0, "-1 33 0")])
    def test_who_keeps_its_capabilities_becomes_others_later(
        self, shell: Callable[..., str], ordinary: Ordinary, keeps: int, said: str
    ) -> None:
        compiled(KEEPS_RIGHTS, ordinary.root / "bin/keeps")
        assert shell(f"keeps {keeps}").splitlines() == [said, "33", "no"]

    def test_who_is_somebody_else_has_nothing_to_keep(
        self, shell: Callable[..., str], ordinary: Ordinary
    ) -> None:
        compiled(KEEPS_RIGHTS, ordinary.root / "bin/keeps")
        assert shell("keeps 1", user="ada").splitlines() == ["-1 1000 1000", "1000", "no"]

    def test_a_socket_says_who_is_at_its_other_end(
        self, shell: Callable[..., str], ordinary: Ordinary
    ) -> None:
        compiled(ASKS_PEER, ordinary.root / "bin/asks")
        assert shell("asks").splitlines() == ["0 0 0 1", "0 33 34 1", "-1 -1"]

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
