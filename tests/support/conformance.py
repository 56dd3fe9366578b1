"""Build cases of the conformance material: contexts on disk, the bases they name, the comparison.

The material lies beside the repository (`../shared/conformance`, format in its README.md) and is
data that nobody of this project wrote. `LAMINA_CONFORMANCE` names another place.
"""

import base64
import contextlib
import functools
import gzip
import http.server
import io
import json
import os
import re
import stat
import subprocess
import tarfile
import threading
from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from tests.support.cli import REPOSITORY, Lamina
from tests.support.imagetree import Entry, OciLayout

JSON = Any
MATERIAL = Path(os.environ.get("LAMINA_CONFORMANCE", REPOSITORY.parent / "shared/conformance"))
PEERS = REPOSITORY.parent / "shared/peers"
STATE = Path(os.environ.get("PEERS_STATE", "/var/lib/peers"))


def no_material() -> str | None:
    """Why its cases cannot be tried; None where they can."""
    return None if MATERIAL.is_dir() else f"the conformance material is not at {MATERIAL}"


@functools.cache
def cases() -> dict[str, JSON]:
    """All build cases by name; empty where the material is not there."""
    files = sorted((MATERIAL / "build_cases").glob("*.json"))
    return {case["name"]: case for file in files for case in json.loads(file.read_text())}


# Bases.


@functools.cache
def bases() -> JSON:
    return json.loads((MATERIAL / "bases.json").read_text())


def base_kinds(case: JSON) -> set[str]:
    """Which root file systems the images named anywhere in the case are made of."""
    text = json.dumps([step["dockerfile"] for step in case["steps"]])
    kinds = {step["reference"].get("base") for step in case["steps"]} - {None, "scratch"}
    for name, kind in bases()["names"].items():
        short = name.removeprefix("docker.io/library/").removesuffix(":latest")
        if re.search(rf"{re.escape(short)}\b", text):
            kinds.add(kind)
    return kinds


def base_tar(kind: str, work: Path) -> Path:
    """The root file system of one base as a tar, made in `work` once."""
    made = work / f"{kind}.tar"
    if made.exists():
        return made
    base = bases()["bases"][kind]
    with tarfile.open(_rootfs(base["tar"], work)) as source, tarfile.open(made, "w") as target:
        for member in source:
            if member.name.removeprefix("./") not in base["overlay"]:
                target.addfile(member, source.extractfile(member) if member.isreg() else None)
        for name, entry in base["overlay"].items():
            member = tarfile.TarInfo(name)
            content = entry.get("content", "").encode()
            member.mode = int(entry.get("mode", "0777"), 8)
            member.size = len(content)
            if entry["type"] == "symlink":
                member.type, member.linkname, member.size = tarfile.SYMTYPE, entry["target"], 0
            target.addfile(member, io.BytesIO(content))
    return made


def _rootfs(name: str, work: Path) -> Path:
    """A base tar of the peers' set-up, else one made the same way."""
    made = STATE / "rootfs" / name
    if not made.exists():
        made = work / "rootfs" / name
    if not made.exists():
        subprocess.run([str(PEERS / "cases/rootfs.sh"), str(made.parent)], check=True)
    return made


def base_changes(kind: str) -> list[str]:
    """The base's configuration, as `import -c` takes it."""
    base = bases()["bases"][kind]
    env = [f"ENV {name}={value}" for name, value in base["env"].items()]
    return [*env, f"CMD {json.dumps(base['cmd'])}"]


def base_names(kind: str) -> list[str]:
    return [name for name, of in bases()["names"].items() if of == kind]


def import_bases(lamina: Lamina, kinds: set[str], work: Path) -> None:
    for kind in sorted(kinds):
        first, *others = base_names(kind)
        changes = [word for change in base_changes(kind) for word in ("-c", change)]
        lamina("import", *changes, base_tar(kind, work), first)
        for name in others:
            lamina("tag", first, name)


# Contexts.


def write_tree(tree: Mapping[str, JSON], root: Path) -> None:
    """Make the files of a context; a name may point out of it (`../x`) where the case wants it."""
    root.mkdir(parents=True, exist_ok=True)
    folders = []
    for name, entry in tree.items():
        path = root / name.lstrip("/")
        path.parent.mkdir(parents=True, exist_ok=True)
        if entry["type"] == "dir":
            path.mkdir(exist_ok=True)
            folders.append((path, entry))
            continue
        if entry["type"] == "symlink":
            path.symlink_to(entry["target"])
        elif entry["type"] == "socket":
            os.mknod(path, stat.S_IFSOCK | 0o755)
        else:
            path.write_bytes(content_of(entry))
        _set_attributes(path, entry)
    for path, entry in reversed(folders):
        _set_attributes(path, entry)


def content_of(entry: JSON) -> bytes:
    if "content_b64" in entry:
        return base64.b64decode(entry["content_b64"])
    return str(entry.get("content", "")).encode()


def _set_attributes(path: Path, entry: JSON) -> None:
    if "uid" in entry or "gid" in entry:
        os.lchown(path, entry.get("uid", 0), entry.get("gid", 0))
    if "mode" in entry and entry["type"] != "symlink":
        path.chmod(int(entry["mode"], 8))
    for name, value in entry.get("xattrs", {}).items():
        os.setxattr(path, name, value.encode(), follow_symlinks=False)
    if "mtime" in entry:
        times = (entry["mtime"], entry["mtime"])
        os.utime(path, times, follow_symlinks=False)


@contextlib.contextmanager
def http_server(pages: Mapping[str, JSON]) -> Iterator[str]:
    """Serve a step's `http` pages on loopback; yields the address without a trailing slash."""

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            page = pages.get(self.path)
            if page is None:
                self.send_error(404)
                return
            body = content_of(page)
            self.send_response(200)
            if page.get("content_encoding") == "gzip":
                body = gzip.compress(body)
                self.send_header("Content-Encoding", "gzip")
            if page.get("etag"):
                self.send_header("ETag", f'"{page["etag"]}"')
            if page.get("last_modified"):
                self.send_header("Last-Modified", self.date_time_string(page["last_modified"]))
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            if self.command == "GET":
                self.wfile.write(body)

        do_HEAD = do_GET

        def log_message(self, *_args: object) -> None:
            pass

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()


def build_arguments(step: JSON, work: Path, server: str) -> list[str]:
    """The `build` command line of a step, its context written beneath `work`; without -t."""
    text = step["dockerfile"].replace("{{HTTP_SERVER}}", server)
    text = text.replace("{{REGISTRY}}", "registry.invalid")
    context = work / "context"
    tree = step.get("context", {})
    write_tree(tree, context)
    words: list[str] = []
    path = step.get("dockerfile_path", "Dockerfile")
    if path in tree and not step.get("dockerfile_outside_context"):
        (context / path).write_text(text)
        words += ["-f", str(context / path)] if path != "Dockerfile" else []
    else:
        outside = work / "dockerfile" / "Dockerfile"
        write_tree(step.get("dockerfile_dir", {}), outside.parent)
        outside.write_text(text)
        words += ["-f", str(outside)]
    for name, value in step.get("build_args", {}).items():
        words += ["--build-arg", f"{name}={value}".replace("{{HTTP_SERVER}}", server)]
    for name in step.get("build_args_from_env", []):
        words += ["--build-arg", name]
    for name, value in step.get("labels", {}).items():
        words += ["--label", f"{name}={value}"]
    for value in step.get("add_hosts_list", step.get("add_hosts", [])):
        words += ["--add-host", value]
    for name, secret in step.get("secrets", {}).items():
        file = work / f"secret-{name}"
        file.write_text(secret)
        words += ["--secret", f"id={name},src={file}"]
    for name, folder in step.get("build_context_dirs", {}).items():
        write_tree(folder, work / f"named-{name}")
        words += ["--build-context", f"{name}={work / f'named-{name}'}"]
    for name, value in step.get("named_contexts", {}).items():
        words += ["--build-context", f"{name}={value}"]
    for option in ("target", "network", "platform"):
        words += [f"--{option}", step[option]] if step.get(option) else []
    words += ["--no-cache"] if step.get("no_cache") else []
    return [*words, str(context)]


# The comparison with what the reference builder made.


def config_difference(reference: JSON, config: JSON) -> list[str]:
    """Fields that are set on either side. The order of variables is no part of it."""
    expected, actual = dict(reference["config"]), dict(config.get("config") or {})
    optional = reference.get("env_optional", [])
    lines = []
    for name in sorted({*expected, *actual}):
        wanted, got = expected.get(name), actual.get(name)
        if name == "Env":
            wanted, got = (sorted(set(value or []) - set(optional)) for value in (wanted, got))
        if name == "WorkingDir":
            wanted, got = wanted or "/", got or "/"
        if (wanted or None) != (got or None):
            lines.append(f"config {name} should be {json.dumps(wanted)}, is {json.dumps(got)}")
    return lines


def tree_difference(
    reference: JSON, base: Mapping[str, Entry], tree: Mapping[str, Entry]
) -> list[str]:
    """What was added or changed relative to the base, against the recorded paths."""
    changed = {
        path: replace(entry, links="")
        for path, entry in tree.items()
        if path not in base or replace(base[path], links="") != replace(entry, links="")
    }
    removed = sorted(path for path in base if path not in tree)
    expected = reference["fs"]
    lines = [f"- {path}" for path in expected if path not in tree]
    lines += [f"+ {path} ({entry.type})" for path, entry in changed.items() if path not in expected]
    lines += [f"- {path} was removed" for path in removed if path not in reference["removed"]]
    lines += [f"+ {path} was not removed" for path in reference["removed"] if path in tree]
    for path, wanted in expected.items():
        if path in tree:
            volatile = path in reference.get("volatile", [])
            lines += _entry_difference(path, wanted, tree[path], volatile=volatile)
    return lines


def _entry_difference(path: str, wanted: JSON, entry: Entry, *, volatile: bool) -> Iterator[str]:
    got = {
        "type": entry.type,
        "mode": f"{entry.mode:04o}",
        "uid": entry.uid,
        "gid": entry.gid,
        "size": entry.size,
        "sha256": entry.sha256,
        "target": entry.target,
        "xattrs": {name: value.decode("latin-1") for name, value in entry.xattrs},
    }
    for name, value in wanted.items():
        if volatile and name in ("size", "sha256"):
            continue
        if name in got and got[name] != value:
            yield f"~ {path}: {name} should be {value}, is {got[name]}"


# Upstream's own assertions.


def check(op: JSON, *, layout: OciLayout, names: list[str | None], lamina: Lamina) -> str | None:
    """One assertion about the last of `names`, the images of the steps so far; None when it holds.

    Assertions about wording are hints and are not looked at; those marked `drop` do not hold with
    the reference builder.
    """
    kind, name = op["op"], names[-1]
    if "drop" in op or name is None or kind.startswith(("log_", "error_")) or kind == "build":
        return None
    if kind in ("same_image", "different_image", "same_file", "different_file"):
        other = names[op["other_step"]]
        if other is None:
            return f"{kind} as step {op['other_step']}, which failed"
        got = _identity(op, layout, name) == _identity(op, layout, other, "other_path")
        return None if got == kind.startswith("same") else f"{kind} as step {op['other_step']}"
    got_value = _observed(op, layout=layout, name=name, lamina=lamina)
    return None if _holds(op, got_value) else f"check {json.dumps(op)}: got {got_value!r}"


def _identity(op: JSON, layout: OciLayout, name: str, key: str = "path") -> object:
    if "path" not in op:
        return layout.manifest(name)["config"]["digest"]
    return layout.tree(name)[op.get(key, op["path"]).strip("/")].sha256


def _observed(op: JSON, *, layout: OciLayout, name: str, lamina: Lamina) -> Any:
    kind = op["op"]
    if kind.startswith("run_out"):
        options = [word for word in op.get("opts") or [] if word != "--rm"]
        return lamina("run", "--rm", *options, name, *op["cmd"], check=False).stdout
    if kind.startswith("docker_config"):
        path = "." + ".".join(map(str, op["path"]))
        form = f"{{{{json {path}}}}}" if kind == "docker_config_eq" else f"{{{{{path}}}}}"
        text = lamina("inspect", "-f", form, name).stdout.rstrip("\n")
        return json.loads(text) if kind == "docker_config_eq" else text
    if kind.startswith(("config_", "manifest_")):
        value = layout.config(name) if kind.startswith("config_") else layout.manifest(name)
        for key in op["path"]:
            value = value[key] if isinstance(value, list) else (value or {}).get(key)
        return value
    if kind == "layer_count":
        return len(layout.layers(name))
    if kind == "layer_file_eq":
        return None  # about the creation time of layers; see the reproducibility tests
    entry = layout.tree(name).get(op["path"].strip("/"))
    if kind in ("present", "absent"):
        return entry is not None
    if kind == "mode_eq":
        return f"{entry.mode:04o}" if entry else None
    return (entry.content or b"").decode() if entry else None


def _holds(op: JSON, got: Any) -> bool:
    kind, value = op["op"], op.get("value")
    match kind.rpartition("_")[2]:
        case "present":
            return got is True
        case "absent":
            return got is False
        case "regexp":
            return bool(re.search(value, got or ""))
        case "ne":
            return bool(got != value)
        case "empty":
            return bool(got)
        case "len" | "count":
            return bool((got if isinstance(got, int) else len(got or [])) == value)
        case "contains" if "not_contains" in kind:
            return value not in (got or "")
        case "contains":
            return value in (got or "")
        case "eq" if kind == "run_out_trim_eq":
            return bool((got or "").strip() == value)
        case "eq" if kind in ("config_time_eq", "layer_file_eq"):
            return True
        case _:
            return bool((got or None) == (value or None) or got == value)
