"""Which proxy is on the way."""

import pytest

from layerstore.registry.proxies import proxy_for


@pytest.mark.parametrize(
    ("url", "environment", "proxy"),
    [
        ("https://a/", {}, ""),
        ("https://a/", {"HTTPS_PROXY": "http://p:1"}, "http://p:1"),
        ("https://a/", {"https_proxy": "p:1"}, "http://p:1"),
        ("https://a/", {"https_proxy": "http://l", "HTTPS_PROXY": "http://u"}, "http://l"),
        ("https://a/", {"HTTP_PROXY": "http://p:1"}, ""),
        ("http://a/", {"HTTP_PROXY": "http://p:1"}, "http://p:1"),
        ("http://a/", {"ALL_PROXY": "http://p:1"}, "http://p:1"),
        ("https://a/", {"ALL_PROXY": "http://p:1", "NO_PROXY": "a"}, ""),
        ("https://b.a/", {"ALL_PROXY": "http://p:1", "no_proxy": "x, .a"}, ""),
        ("https://ba/", {"ALL_PROXY": "http://p:1", "no_proxy": "a"}, "http://p:1"),
        ("https://a/", {"ALL_PROXY": "http://p:1", "no_proxy": "*"}, ""),
        ("https://a/", {"ALL_PROXY": "http://p:1", "no_proxy": ""}, "http://p:1"),
    ],
)
def test_a_proxy_is_found_by_scheme_and_host(
    url: str, environment: dict[str, str], proxy: str
) -> None:
    assert proxy_for(url, environment) == proxy
