"""Private networks of the host: bridges, addresses, rules, and what is said about names in them.

Names are loaded when they are first asked for: a container without a network pays for none.
"""

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from builder.network.attachments import DEFAULT_NETWORK, DEFAULT_PLAN, Attachment, Wish, attach
    from builder.network.bridges import Bridge, Plan
    from builder.network.files import (
        HOST_GATEWAY,
        Resolvers,
        host_hosts,
        host_resolv_conf,
        hosts,
        resolv_conf,
    )
    from builder.network.ports import Publication, displayed, parse_exposed, parse_publication
    from builder.network.proxy import forward

_HOMES = {
    "Attachment": "attachments",
    "Bridge": "bridges",
    "DEFAULT_NETWORK": "attachments",
    "DEFAULT_PLAN": "attachments",
    "HOST_GATEWAY": "files",
    "Plan": "bridges",
    "Publication": "ports",
    "Resolvers": "files",
    "Wish": "attachments",
    "attach": "attachments",
    "displayed": "ports",
    "forward": "proxy",
    "host_hosts": "files",
    "host_resolv_conf": "files",
    "hosts": "files",
    "parse_exposed": "ports",
    "parse_publication": "ports",
    "resolv_conf": "files",
}

__all__ = [
    "DEFAULT_NETWORK",
    "DEFAULT_PLAN",
    "HOST_GATEWAY",
    "Attachment",
    "Bridge",
    "Plan",
    "Publication",
    "Resolvers",
    "Wish",
    "attach",
    "displayed",
    "forward",
    "host_hosts",
    "host_resolv_conf",
    "hosts",
    "parse_exposed",
    "parse_publication",
    "resolv_conf",
]


def __getattr__(name: str) -> object:
    home = _HOMES.get(name)
    if home is None:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    module = __import__(f"{__name__}.{home}", fromlist=[name])  # importlib is not yet imported
    value: object = getattr(module, name)
    globals()[name] = value
    return value
