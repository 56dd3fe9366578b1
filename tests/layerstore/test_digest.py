import hashlib
import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from layerstore.digest import Digest, chain_ids
from layerstore.errors import MalformedDocumentError, StoreError
from tests.support.conformance import MATERIAL

HEX = "0123456789abcdef" * 4


@given(st.binary(max_size=100))
def test_a_digest_names_the_bytes(data: bytes) -> None:
    digest = Digest.of(data)
    assert digest == "sha256:" + hashlib.sha256(data).hexdigest()
    assert Digest.parse(str(digest)) == digest
    assert (digest.hex, digest.short) == (digest[7:], digest[7:19])


def test_a_digest_is_a_string_of_its_own_type() -> None:
    digest = Digest.parse(f"sha256:{HEX}")
    assert isinstance(digest, str)
    assert type(digest) is Digest
    assert json.dumps(digest) == f'"sha256:{HEX}"'
    assert {digest: 1}[Digest("sha256:" + HEX)] == 1


@pytest.mark.parametrize(
    "text",
    [
        "",
        HEX,
        f"sha256:{HEX[:-1]}",
        f"sha256:{HEX}0",
        f"sha256:{HEX.upper()}",
        f"SHA256:{HEX}",
        f"sha512:{HEX}{HEX}",
        f"sha256:{HEX}\n",
        f" sha256:{HEX}",
        f"sha256:{HEX[:-1]}g",
        f"sha256:{'٠' * 64}",
        "sha256:../../../../etc/passwd",
        "x" * 100_000,
    ],
)
def test_anything_else_is_refused(text: str) -> None:
    with pytest.raises(MalformedDocumentError) as caught:
        Digest.parse(text)
    assert len(str(caught.value)) < 500
    assert isinstance(caught.value, StoreError)


def test_chain_ids_name_every_prefix_of_the_stack() -> None:
    first, second, third = (Digest.of(name) for name in (b"1", b"2", b"3"))
    chain = chain_ids([first, second, third])
    assert chain[0] == first
    assert chain[1] == Digest.of(f"{first} {second}".encode())
    assert chain[2] == Digest.of(f"{chain[1]} {third}".encode())
    assert chain_ids([first, second]) == chain[:2]
    assert chain_ids(iter([first])) == [first]
    assert chain_ids([]) == []


def test_chain_ids_depend_on_the_order() -> None:
    first, second = Digest.of(b"1"), Digest.of(b"2")
    assert chain_ids([first, second])[-1] != chain_ids([second, first])[-1]


def test_chain_ids_are_those_of_the_specification() -> None:
    path = MATERIAL / "oci/chainid_cases.json"
    if not path.exists():
        pytest.skip(f"conformance data is not at {path}")
    cases = json.loads(path.read_text())["cases"]
    assert cases
    for case in cases:
        # The names there are no real digests ("sha256:a"), hence not parsed.
        assert chain_ids(map(Digest, case["digests"])) == case["chain"]
