"""Documents to JSON and back, and what is refused."""

import json
import os
import time
from typing import Any, cast

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from layerstore import descriptor as media
from layerstore.descriptor import Descriptor, Platform
from layerstore.digest import Digest, chain_ids
from layerstore.documents import (
    DEPTH_MAX,
    DOCUMENT_BYTES_MAX,
    LAYERS_MAX,
    ContainerConfig,
    HealthcheckConfig,
    History,
    ImageConfig,
    Index,
    Manifest,
    Reader,
    canonical_json,
    is_rfc3339,
    parse_json,
)
from layerstore.errors import MalformedDocumentError, StoreError
from tests.support.schemas import OCI, schema_error

DIGEST = Digest.of(b"x")
CREATED = "2024-05-06T07:08:09.123456789Z"

FULL_CONFIG = ImageConfig(
    architecture="arm64",
    os="linux",
    variant="v8",
    author="Ann <ann@example.org>",
    created=CREATED,
    config=ContainerConfig(
        user="1000:1000",
        exposed_ports=("53/udp", "80/tcp"),
        env=("PATH=/bin", "A=b=c", "EMPTY="),
        entrypoint=("/init",),
        cmd=("run", "me"),
        volumes=("/data",),
        working_dir="/srv",
        labels=(("a", "1"), ("b", "")),
        stop_signal="SIGUSR1",
        healthcheck=HealthcheckConfig(
            test=("CMD-SHELL", "true"),
            interval_ns=1,
            timeout_ns=2,
            start_period_ns=3,
            start_interval_ns=4,
            retries=5,
        ),
        shell=("/bin/bash", "-c"),
        on_build=("RUN true",),
    ),
    diff_ids=(DIGEST, Digest.of(b"y")),
    history=(
        History(created=CREATED, created_by="COPY", author="Ann", comment="c"),
        History(created_by="ENV", empty_layer=True),
        History(created="2024-05-06T07:08:09+02:00"),
    ),
)
MANIFEST = Manifest(
    config=Descriptor(media_type=media.OCI_CONFIG, digest=DIGEST, size_bytes=7),
    layers=(
        Descriptor(
            media_type="application/vnd.oci.image.layer.v1.tar+gzip", digest=DIGEST, size_bytes=9
        ),
    ),
    annotations=(("k", "v"),),
)
INDEX = Index(
    manifests=(
        Descriptor(
            media_type=media.OCI_MANIFEST,
            digest=DIGEST,
            size_bytes=3,
            annotations=((media.REF_NAME, "x:1"),),
            platform=Platform(os="linux", architecture="arm", variant="v7"),
        ),
    ),
    annotations=(("made", "here"),),
)


def json_of(document: ImageConfig | Manifest | Index) -> dict[str, Any]:
    return cast("dict[str, Any]", json.loads(document.encode()))


@pytest.mark.parametrize("document", [FULL_CONFIG, MANIFEST, INDEX], ids=lambda d: type(d).__name__)
def test_a_document_survives_encoding(document: ImageConfig | Manifest | Index) -> None:
    assert type(document).parse(document.encode()) == document


def test_the_config_has_dockers_and_ocis_field_names() -> None:
    assert json_of(FULL_CONFIG) == {
        "architecture": "arm64",
        "os": "linux",
        "variant": "v8",
        "author": "Ann <ann@example.org>",
        "created": CREATED,
        "config": {
            "User": "1000:1000",
            "ExposedPorts": {"53/udp": {}, "80/tcp": {}},
            "Env": ["PATH=/bin", "A=b=c", "EMPTY="],
            "Entrypoint": ["/init"],
            "Cmd": ["run", "me"],
            "Volumes": {"/data": {}},
            "WorkingDir": "/srv",
            "Labels": {"a": "1", "b": ""},
            "StopSignal": "SIGUSR1",
            "Healthcheck": {
                "Test": ["CMD-SHELL", "true"],
                "Interval": 1,
                "Timeout": 2,
                "StartPeriod": 3,
                "StartInterval": 4,
                "Retries": 5,
            },
            "Shell": ["/bin/bash", "-c"],
            "OnBuild": ["RUN true"],
        },
        "rootfs": {"type": "layers", "diff_ids": [DIGEST, Digest.of(b"y")]},
        "history": [
            {"created": CREATED, "created_by": "COPY", "author": "Ann", "comment": "c"},
            {"created_by": "ENV", "empty_layer": True},
            {"created": "2024-05-06T07:08:09+02:00"},
        ],
    }


def test_what_is_empty_is_left_out_and_comes_back_empty() -> None:
    config = ImageConfig(architecture="amd64", os="linux")
    assert json_of(config) == {
        "architecture": "amd64",
        "os": "linux",
        "config": {},
        "rootfs": {"type": "layers", "diff_ids": []},
        "history": [],
    }
    assert ImageConfig.parse(config.encode()) == config


def test_an_empty_command_is_not_a_missing_one() -> None:
    for cmd in (None, ()):
        config = ImageConfig(architecture="a", os="l", config=ContainerConfig(cmd=cmd))
        assert ImageConfig.parse(config.encode()).config.cmd == cmd


def test_null_is_absent_as_docker_writes_it() -> None:
    document = json_of(FULL_CONFIG)
    document["config"] = dict.fromkeys(document["config"])
    document["author"] = None
    document["history"] = None
    parsed = ImageConfig.parse(json.dumps(document).encode())
    assert parsed.config == ContainerConfig()
    assert parsed.author == ""
    assert parsed.history == ()


def test_unknown_fields_are_tolerated() -> None:
    document = json_of(FULL_CONFIG) | {"container_config": {"x": [1]}, "docker_version": "28"}
    document["config"]["ArgsEscaped"] = True
    assert ImageConfig.parse(json.dumps(document).encode()) == FULL_CONFIG


def test_field_names_are_case_sensitive() -> None:
    document = json_of(FULL_CONFIG)
    document["config"] = {"user": "root"}
    assert ImageConfig.parse(json.dumps(document).encode()).config.user == ""


def test_encoding_is_canonical() -> None:
    assert canonical_json({"b": 1, "a": ["é", {}]}) == '{"a":["é",{}],"b":1}'.encode()
    shuffled = dict(reversed(list(json_of(FULL_CONFIG).items())))
    assert ImageConfig.parse(json.dumps(shuffled).encode()).encode() == FULL_CONFIG.encode()


def test_names_that_are_not_utf8_become_replacement_characters() -> None:
    name = os.fsdecode(b"a\xff\xfeb")
    assert canonical_json([name]) == '["a\ufffd\ufffdb"]'.encode()


def test_half_a_surrogate_pair_does_not_get_in() -> None:
    document = json_of(FULL_CONFIG) | {"author": "\ud800x"}
    parsed = ImageConfig.parse(json.dumps(document).encode())
    assert parsed.author == "\ufffdx"
    parsed.encode()


def test_the_annotations_of_an_index_are_kept() -> None:
    assert json_of(INDEX)["manifests"][0]["annotations"] == {media.REF_NAME: "x:1"}
    assert json_of(INDEX)["manifests"][0]["platform"] == {
        "os": "linux",
        "architecture": "arm",
        "variant": "v7",
    }


def test_dockers_media_types_are_read_and_kept() -> None:
    document = json_of(MANIFEST) | {"mediaType": media.DOCKER_MANIFEST}
    parsed = Manifest.parse(json.dumps(document).encode())
    assert parsed.media_type == media.DOCKER_MANIFEST
    assert json_of(parsed)["mediaType"] == media.DOCKER_MANIFEST

    listed = json_of(INDEX) | {"mediaType": media.DOCKER_INDEX}
    assert Index.parse(json.dumps(listed).encode()).media_type == media.DOCKER_INDEX


def test_a_missing_media_type_is_ocis() -> None:
    document = json_of(MANIFEST)
    del document["mediaType"]
    assert Manifest.parse(json.dumps(document).encode()).media_type == media.OCI_MANIFEST


# ---- what is refused


def refused(kind: type[ImageConfig | Manifest | Index], data: bytes) -> str:
    with pytest.raises(MalformedDocumentError) as caught:
        kind.parse(data)
    assert len(str(caught.value)) <= 1000
    return str(caught.value)


WRONG_CONFIG = [
    {"architecture": None},
    {"os": 5},
    {"os": None},
    {"author": ["x"]},
    {"created": "yesterday"},
    {"created": 0},
    {"config": []},
    {"config": {"User": 0}},
    {"config": {"Env": "A=b"}},
    {"config": {"Env": [1]}},
    {"config": {"Env": {"A": "b"}}},
    {"config": {"Cmd": "/bin/sh"}},
    {"config": {"Entrypoint": {}}},
    {"config": {"Labels": []}},
    {"config": {"Labels": {"a": 1}}},
    {"config": {"Volumes": ["/x"]}},
    {"config": {"ExposedPorts": [80]}},
    {"config": {"Healthcheck": []}},
    {"config": {"Healthcheck": {"Interval": "1s"}}},
    {"config": {"Healthcheck": {"Interval": 1.5}}},
    {"config": {"Healthcheck": {"Interval": True}}},
    {"config": {"Healthcheck": {"Interval": 2**63}}},
    {"config": {"Healthcheck": {"Retries": -1}}},
    {"config": {"Shell": "x"}},
    {"config": {"OnBuild": [None]}},
    {"rootfs": None},
    {"rootfs": {"type": "tree", "diff_ids": []}},
    {"rootfs": {"type": "layers", "diff_ids": "x"}},
    {"rootfs": {"type": "layers", "diff_ids": ["sha256:abc"]}},
    {"rootfs": {"type": "layers", "diff_ids": ["sha512:" + "a" * 128]}},
    {"rootfs": {"type": "layers", "diff_ids": [str(DIGEST)] * (LAYERS_MAX + 1)}},
    {"history": {}},
    {"history": [5]},
    {"history": [{"empty_layer": "yes"}]},
    {"history": [{"created": "x"}]},
]


@pytest.mark.parametrize("wrong", WRONG_CONFIG, ids=lambda wrong: json.dumps(wrong)[:60])
def test_a_config_with_a_wrong_type_or_value_is_refused(wrong: dict[str, object]) -> None:
    message = refused(ImageConfig, json.dumps(json_of(FULL_CONFIG) | wrong).encode())
    assert message.startswith(("image config", "digest"))


WRONG_MANIFEST: list[dict[str, object]] = [
    {"schemaVersion": 1},
    {"schemaVersion": "2"},
    {"schemaVersion": None},
    {"mediaType": media.OCI_INDEX},
    {"mediaType": "text/html"},
    {"config": None},
    {"config": {}},
    {"config": {"mediaType": "a/b", "digest": str(DIGEST), "size": -1}},
    {"config": {"mediaType": "a/b", "digest": str(DIGEST), "size": 2**63}},
    {"config": {"mediaType": "a/b", "digest": str(DIGEST), "size": 1.0}},
    {"config": {"mediaType": "a/b", "digest": "sha256:../../etc/passwd", "size": 1}},
    {"config": {"mediaType": "a/b", "digest": f"{DIGEST}\n", "size": 1}},
    {"config": {"mediaType": 1, "digest": str(DIGEST), "size": 1}},
    {"layers": None},
    {"layers": {}},
    {"layers": [[]]},
    {"layers": [json_of(MANIFEST)["config"]] * (LAYERS_MAX + 1)},
    {"manifests": []},
    {"fsLayers": []},
    {"annotations": {"a": 1}},
]


@pytest.mark.parametrize("wrong", WRONG_MANIFEST, ids=lambda wrong: json.dumps(wrong)[:60])
def test_a_wrong_or_ambiguous_manifest_is_refused(wrong: dict[str, object]) -> None:
    refused(Manifest, json.dumps(json_of(MANIFEST) | wrong).encode())


WRONG_INDEX: list[dict[str, object]] = [
    {"schemaVersion": 1},
    {"mediaType": media.OCI_MANIFEST},
    {"manifests": None},
    {"manifests": "x"},
    {"manifests": [{}]},
    {"layers": []},
    {"config": {}},
    {"manifests": [json_of(INDEX)["manifests"][0] | {"platform": {"os": "linux"}}]},
    {"manifests": [json_of(INDEX)["manifests"][0] | {"platform": "linux/amd64"}]},
]


@pytest.mark.parametrize("wrong", WRONG_INDEX, ids=lambda wrong: json.dumps(wrong)[:60])
def test_a_wrong_or_ambiguous_index_is_refused(wrong: dict[str, object]) -> None:
    refused(Index, json.dumps(json_of(INDEX) | wrong).encode())


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"null",
        b"[]",
        b'"x"',
        b"{",
        b"{}",
        b"\xff\xfe",
        b'{"a":1}x',
        b'{"os": NaN}',
        b'{"os":' + b"1" * 5000 + b"}",
    ],
    ids=lambda data: repr(data[:12]),
)
@pytest.mark.parametrize("kind", [ImageConfig, Manifest, Index])
def test_what_is_no_such_document_is_refused(
    kind: type[ImageConfig | Manifest | Index], data: bytes
) -> None:
    refused(kind, data)


def test_a_key_that_occurs_twice_is_refused() -> None:
    data = MANIFEST.encode().replace(b'"schemaVersion":2', b'"schemaVersion":2,"layers":[]')
    assert "twice" in refused(Manifest, data)


@pytest.mark.parametrize(
    "data",
    [
        b"[" * 100_000,
        b'{"a":' * 100_000,
        b"[" * 2_000_000 + b"]" * 2_000_000,
        b'{"a":' * 500_000 + b"1" + b"}" * 500_000,
        b'["' + b"\\" * 1_000_000,
        b'"' * 3_999_999,
    ],
    ids=lambda data: f"{data[:6]!r} {len(data)}",
)
def test_depth_is_bounded_in_no_time(data: bytes) -> None:
    started = time.monotonic()
    with pytest.raises(MalformedDocumentError):
        parse_json(data, context="x")
    assert time.monotonic() - started < 5


def test_brackets_in_strings_are_no_depth() -> None:
    text = "[{" * 1000 + '\\"' + "[" * 100
    assert parse_json(json.dumps({"a": text}).encode(), context="x") == {"a": text}


def test_depth_up_to_the_limit_is_accepted() -> None:
    parse_json(b"[" * DEPTH_MAX + b"]" * DEPTH_MAX, context="x")
    with pytest.raises(MalformedDocumentError, match="nested"):
        parse_json(b"[" * (DEPTH_MAX + 1) + b"]" * (DEPTH_MAX + 1), context="x")


def test_many_shallow_brackets_are_accepted() -> None:
    many: dict[str, list[object]] = {str(number): [[], {}] for number in range(10_000)}
    assert parse_json(json.dumps(many).encode(), context="x") == many


def test_size_is_bounded() -> None:
    data = b'{"a":"' + b"x" * DOCUMENT_BYTES_MAX + b'"}'
    with pytest.raises(MalformedDocumentError, match="more than"):
        parse_json(data, context="x")


def test_errors_name_document_and_field() -> None:
    document = json_of(MANIFEST)
    document["layers"][0]["size"] = "9"
    message = refused(Manifest, json.dumps(document).encode())
    assert message == "image manifest: layers: 'size' is not an integer"


@settings(max_examples=200)
@given(
    st.recursive(
        st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
        lambda inner: (
            st.lists(inner, max_size=3)
            | st.dictionaries(
                st.sampled_from(
                    [
                        "config",
                        "layers",
                        "manifests",
                        "digest",
                        "size",
                        "rootfs",
                        "diff_ids",
                        "Env",
                        "os",
                    ]
                ),
                inner,
                max_size=4,
            )
        ),
        max_leaves=20,
    )
)
def test_any_json_gives_a_document_or_a_typed_error(value: object) -> None:
    data = json.dumps(value).encode()
    for kind in (ImageConfig, Manifest, Index):
        try:
            kind.parse(data)
        except StoreError:
            continue


@settings(max_examples=100)
@given(st.data())
def test_a_damaged_document_gives_a_document_or_a_typed_error(draw: st.DataObject) -> None:
    data = bytearray(FULL_CONFIG.encode())
    for _ in range(draw.draw(st.integers(1, 3))):
        data[draw.draw(st.integers(0, len(data) - 1))] = draw.draw(st.integers(0, 255))
    try:
        ImageConfig.parse(bytes(data)).encode()
    except MalformedDocumentError:
        return


@settings(max_examples=50)
@given(
    env=st.lists(st.text(max_size=10)),
    labels=st.dictionaries(st.text(max_size=5), st.text(max_size=5)),
    volumes=st.sets(st.text(max_size=5)),
    cmd=st.none() | st.lists(st.text(max_size=5)),
)
def test_any_config_survives_encoding(
    env: list[str], labels: dict[str, str], volumes: set[str], cmd: list[str] | None
) -> None:
    config = ImageConfig(
        architecture="amd64",
        os="linux",
        config=ContainerConfig(
            env=tuple(env),
            labels=tuple(sorted(labels.items())),
            volumes=tuple(sorted(volumes)),
            cmd=None if cmd is None else tuple(cmd),
        ),
    )
    assert ImageConfig.parse(config.encode()) == config


# ---- times


@pytest.mark.parametrize(
    "text",
    [
        "2015-10-31T22:22:56.015925234Z",
        "2015-10-31T22:22:56Z",
        "0001-01-01T00:00:00Z",
        "2015-10-31t22:22:56z",
        "2015-10-31T22:22:56+02:00",
        "2015-10-31T22:22:56.5-11:30",
    ],
)
def test_a_time_is_recognised(text: str) -> None:
    assert is_rfc3339(text)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "Z",
        "2015",
        "2015-10-31",
        "2015-10-31T22:22:56",
        "2015-10-31T22:22:56.Z",
        "2015-10-31T22:22:56,5Z",
        "2015-10-31X22:22:56Z",
        "2015/10/31T22:22:56Z",
        "2015-10-31T22:22:5Z",
        "2015-10-31T22:22:56+0200",
        "2015-10-31T22:22:56+2:00",
        "2015-10-31T22:22:56ZZ",
        "2015-10-31T22:22:56Z\n",
        "\x1b[31mT22:22:56Z",
        "२०१५-10-31T22:22:56Z",
        "1024-05-06T07:08:09.x1Z",
    ],
)
def test_what_is_no_time_is_told(text: str) -> None:
    assert not is_rfc3339(text)


# ---- the reader


def test_the_reader_gives_none_for_absent_objects_and_lists() -> None:
    reader = Reader.of(b'{"a": null, "list": [], "object": {}}', context="x")
    assert reader.child("a") is None
    assert reader.child("b") is None
    assert reader.child("object") is not None
    assert reader.texts("a") is None
    assert reader.texts("list") == ()
    assert reader.integer("a") == 0
    assert not reader.boolean("a")
    assert reader.keys("b") == ()


# ---- the specification's own schemas and cases


@pytest.mark.needs_material
@pytest.mark.parametrize(
    ("schema", "document"),
    [
        ("config-schema.json", FULL_CONFIG),
        ("config-schema.json", ImageConfig(architecture="amd64", os="linux")),
        ("image-manifest-schema.json", MANIFEST),
        ("image-index-schema.json", INDEX),
        ("image-index-schema.json", Index()),
    ],
)
def test_what_we_write_is_valid(schema: str, document: ImageConfig | Manifest | Index) -> None:
    assert schema_error(schema, json_of(document)) == ""


@pytest.mark.needs_material
def test_the_schemas_can_say_no() -> None:
    assert schema_error("image-manifest-schema.json", json_of(MANIFEST) | {"layers": []})


def schema_cases() -> list[Any]:
    path = OCI / "schema_cases.json"
    if not path.exists():
        return []
    cases = json.loads(path.read_bytes())["cases"]
    return [pytest.param(case, id=case["name"]) for case in cases]


@pytest.mark.needs_material
@pytest.mark.parametrize("case", schema_cases())
def test_the_specifications_cases_are_judged_as_it_says(case: dict[str, Any]) -> None:
    """Invalid ones are refused; valid ones are read, unless their digest is no sha256."""
    data = case["document"].encode()
    kinds: dict[str, type[ImageConfig] | type[Manifest] | type[Index]] = {
        "config-schema.json": ImageConfig,
        "image-manifest-schema.json": Manifest,
        "image-index-schema.json": Index,
    }
    kind = kinds.get(case["schema"])
    if kind is None:
        entry = data if data.lstrip().startswith(b"{") else b"{}"
        data = b'{"schemaVersion":2,"manifests":[' + entry + b"]}"
        kind = Index
    if not case["valid"]:
        refused(kind, data)
        return
    try:
        kind.parse(data)
    except MalformedDocumentError as error:
        assert "sha256" in str(error), "only digests of other kinds may be refused"


@pytest.mark.needs_material
def test_chain_ids_are_those_of_the_specification() -> None:
    for case in json.loads((OCI / "chainid_cases.json").read_bytes())["cases"]:
        assert chain_ids(map(Digest, case["digests"])) == case["chain"]
