"""Trees of git repositories, by the git that is installed.

    commit_of(url)            which commit a branch or tag is now; a whole commit id asks nobody
    checkout(url, commit)     a directory with its files

A repository is data from an enemy. git runs with no configuration of the host, no hooks, no
prompts, no credential helpers, and no protocol but http, https, ssh and git, for submodules too
(`ext::` runs programs, `file` reads the host). It writes beneath a temporary directory of ours, and
links in what it wrote are followed by nobody but `sources.resolve`.

Files are 0644 or 0755 as in the repository. Differs: their times are the commit's, where BuildKit's
are those of the checkout; equal commits give equal layers.

Source: BuildKit source/git; git's manual pages ("git", "Environment Variables"; git-config).
"""

import os
import signal
from collections.abc import Mapping
from pathlib import Path

from builder.errors import ChecksumError, FetchError
from builder.urls import GitUrl, is_commit, is_commit_prefix, is_ssh, redacted
from layerstore import remove_tree

_PROTOCOLS = "http:https:ssh:git"
_COMPLAINT_CHARS = 300
_TIMEOUT_S = 3600.0  # of everything else; git:// and ssh notice no server that has gone silent
_CHATTER = ("warning:", "hint:", "Cloning into", "Submodule ")
_CONFIG = (
    "core.hooksPath=/dev/null",
    "core.fsmonitor=false",
    "core.autocrlf=false",
    "core.symlinks=true",
    "credential.helper=",
    "init.defaultBranch=master",
    "advice.detachedHead=false",
    "gc.auto=0",
    "maintenance.auto=false",
    "protocol.ext.allow=never",
    "protocol.file.allow=never",
    "http.lowSpeedLimit=1",
    "http.lowSpeedTime=60",
)
# Keys are the agent's alone: those in files of the host are nobody's to use.
_SSH = (
    "ssh -F /dev/null -o BatchMode=yes -o IdentityFile=/dev/null"
    " -o ConnectTimeout=30 -o ServerAliveInterval=20"
)
_NO_AGENT = "no SSH agent was lent: start one, and build with --ssh default"
# Of the environment only what says where programs and proxies are.
_PASSED = ("PATH",)
_PROXIES = ("http_proxy", "https_proxy", "all_proxy", "no_proxy", "HTTPS_PROXY", "NO_PROXY")


class Git:
    """One remote repository, fetched beneath `work`, a directory that is empty and ours.

    Args:
        agent: the socket of the SSH agent whose keys may be used; None: there are no keys.
        ask_timeout_s: how long a server may take to say what branches and tags there are.
    """

    def __init__(
        self, work: Path, agent: Path | None = None, *, ask_timeout_s: float = 180
    ) -> None:
        self._work = work
        self._agent = agent
        self._ask_timeout_s = ask_timeout_s
        self._name = ""  # the branch or tag that was looked up, in full

    def commit_of(self, url: GitUrl) -> str:
        """The commit that `url` means now.

        Raises:
            FetchError: no git, no such repository, no such branch or tag.
            ChecksumError: it is not the commit that the URL asks for.
        """
        if is_commit(url.ref):
            commit = tag = url.ref
        else:
            commit, tag = self._look_up(url)
        if url.checksum and not (commit.startswith(url.checksum) or tag.startswith(url.checksum)):
            raise ChecksumError(what=redacted(url.remote), expected=url.checksum, actual=commit)
        return commit

    def checkout(self, url: GitUrl, commit: str, *, keep_git_dir: bool) -> tuple[Path, int]:
        """Check `commit` out; gives the directory and the commit's time in seconds.

        Raises:
            FetchError: it cannot be fetched, or the files not be written.
        """
        tree = self._work / "tree"
        tree.mkdir(mode=0o755)
        self._run(url, "init", "--quiet", "--template=", ".", cwd=tree)
        self._run(url, "remote", "add", "origin", url.remote, cwd=tree)
        self._fetch(url, commit, tree)
        if keep_git_dir and self._name:
            self._run(url, "update-ref", self._name, commit, cwd=tree)
        self._run(url, "checkout", "--quiet", "--force", "--detach", commit, cwd=tree)
        seconds = int(self._run(url, "show", "-s", "--format=%ct", commit, cwd=tree))
        if url.submodules:
            self._run(
                url,
                *("submodule", "--quiet", "update", "--init", "--recursive", "--depth=1"),
                cwd=tree,
            )
        if keep_git_dir:
            self._tidy(url, tree)
        return tree, max(seconds, 0)

    def _tidy(self, url: GitUrl, tree: Path) -> None:
        """Take out of `.git` what is not the repository's: passwords, moments, inodes."""
        self._run(url, "remote", "set-url", "origin", redacted(url.remote), cwd=tree)
        self._run(url, "read-tree", "HEAD", cwd=tree)  # an index that knows no files of this host
        remove_tree(tree / ".git" / "logs")
        (tree / ".git" / "FETCH_HEAD").unlink(missing_ok=True)

    # ---- asking

    def _look_up(self, url: GitUrl) -> tuple[str, str]:
        """The commit, and the object that was named: an annotated tag is one of its own."""
        ref = url.ref or "HEAD"
        found: dict[str, str] = {}
        for row in self._run(
            url, "ls-remote", "--quiet", url.remote, ref, f"{ref}^{{}}"
        ).splitlines():
            commit, _, name = row.partition("\t")
            if is_commit(commit):
                found[name] = commit
        for name in (ref, f"refs/{ref}", f"refs/tags/{ref}", f"refs/heads/{ref}"):
            if name in found:
                self._name = name if name.startswith("refs/") else ""
                return found.get(f"{name}^{{}}", found[name]), found[name]
        if is_commit_prefix(ref):
            return (self._complete(url, ref),) * 2
        raise FetchError(f"repository {redacted(url.remote)} does not contain ref {ref}")

    def _complete(self, url: GitUrl, prefix: str) -> str:
        """The commit whose id begins with `prefix`: servers do not tell, so all are fetched."""
        store = self._work / "all"
        store.mkdir()
        self._run(url, "init", "--quiet", "--bare", "--template=", ".", cwd=store)
        self._fetch_all(url, store)
        parsed = self._run(url, "rev-parse", "--verify", f"{prefix}^{{commit}}", cwd=store)
        return parsed.strip()

    # ---- fetching

    def _fetch(self, url: GitUrl, commit: str, tree: Path) -> None:
        """Fetch one commit: alone where the server can, else with all that there is."""
        try:
            self._run(
                url, *("fetch", "--quiet", "--no-tags", "--depth=1", "origin", commit), cwd=tree
            )
        except FetchError:
            self._fetch_all(url, tree)

    def _fetch_all(self, url: GitUrl, store: Path) -> None:
        refs = ("+refs/heads/*:refs/remotes/origin/*", "+refs/tags/*:refs/tags/*")
        self._run(url, "fetch", "--quiet", "--no-tags", url.remote, *refs, cwd=store)

    # ---- running git

    def _run(self, url: GitUrl, *words: str, cwd: Path | None = None) -> str:
        import subprocess

        options = [word for pair in _CONFIG for word in ("-c", pair)]
        try:
            process = subprocess.Popen(
                ["git", *options, *words],
                cwd=cwd or self._work,
                env=self._environment(os.environ),
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                umask=0o022,
                process_group=0,
            )
        except FileNotFoundError as error:
            raise FetchError(
                f"cannot fetch {redacted(url.remote)}: there is no git on this machine",
                hint="install git",
            ) from error
        with process:
            timeout_s = self._ask_timeout_s if words[0] == "ls-remote" else _TIMEOUT_S
            try:
                output, errors = process.communicate(timeout=timeout_s)
            except BaseException as error:  # git has helpers, which talk to the network
                os.killpg(process.pid, signal.SIGKILL)
                if isinstance(error, subprocess.TimeoutExpired):
                    raise FetchError(
                        f"cannot fetch {redacted(url.remote)}: git {words[0]}: "
                        f"no end after {timeout_s:g} s"
                    ) from error
                raise
        if process.returncode != 0:
            said = _first_complaint(os.fsdecode(errors)) or f"exit code {process.returncode}"
            raise FetchError(
                f"cannot fetch {redacted(url.remote)}: git {words[0]}: "
                f"{redacted(said)[:_COMPLAINT_CHARS]}",
                hint=_NO_AGENT if self._agent is None and is_ssh(url.remote) else "",
            )
        return os.fsdecode(output)

    def _environment(self, host: Mapping[str, str]) -> dict[str, str]:
        return {
            **{name: host[name] for name in (*_PASSED, *_PROXIES) if name in host},
            **({} if self._agent is None else {"SSH_AUTH_SOCK": str(self._agent)}),
            "HOME": str(self._work),
            "XDG_CONFIG_HOME": str(self._work),
            "GIT_CONFIG_NOSYSTEM": "1",
            "GIT_CONFIG_GLOBAL": os.devnull,
            "GIT_TERMINAL_PROMPT": "0",
            "GIT_ASKPASS": "true",
            "GIT_ALLOW_PROTOCOL": _PROTOCOLS,
            "GIT_LFS_SKIP_SMUDGE": "1",
            "GIT_SSH_COMMAND": _SSH,
            "LC_ALL": "C",
        }


def _first_complaint(text: str) -> str:
    """Of what git wrote the line that says why: ssh's before git's own, which follows from it."""
    lines = [line.strip() for line in text.splitlines()]
    first = next((line for line in lines if line and not line.startswith(_CHATTER)), "")
    return first.removeprefix("fatal: ").removeprefix("error: ")
