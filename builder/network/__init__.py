"""Private networks of the host: bridges, addresses, rules, and what is said about names in them.

Names are loaded when they are first asked for: a container without a network pays for none.
"""

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from builder.network.attachments import (
        DEFAULT_PLAN,
        Attachment,
        Wish,
        attach,
        without_network,
    )
    from builder.network.bridges import Bridge, Plan, check_is_free, taken_subnets
    from builder.network.bridges import known as known_bridge
    from builder.network.bridges import remove as remove_bridge
    from builder.network.files import (
        DEFAULT_NETWORK,
        HOST_GATEWAY,
        Resolvers,
        host_hosts,
        host_resolv_conf,
        hosts,
        resolv_conf,
    )
    from builder.network.ports import Publication, displayed, parse_exposed, parse_publication
    from builder.network.proxy import forward
    from builder.network.subnets import (
        Subnet,
        first_choice,
        free_subnet,
        parse_subnet,
        unique_local_subnet,
    )
    from builder.network.usermode import UserNetwork
    from builder.network.usermode import connect as connect_user

_HOMES = {
    "Attachment": "attachments",
    "Bridge": "bridges",
    "DEFAULT_NETWORK": "files",
    "DEFAULT_PLAN": "attachments",
    "HOST_GATEWAY": "files",
    "Plan": "bridges",
    "Publication": "ports",
    "Resolvers": "files",
    "Subnet": "subnets",
    "UserNetwork": "usermode",
    "Wish": "attachments",
    "attach": "attachments",
    "check_is_free": "bridges",
    "connect_user": "usermode:connect",
    "displayed": "ports",
    "first_choice": "subnets",
    "forward": "proxy",
    "free_subnet": "subnets",
    "host_hosts": "files",
    "host_resolv_conf": "files",
    "hosts": "files",
    "known_bridge": "bridges:known",
    "parse_exposed": "ports",
    "parse_publication": "ports",
    "parse_subnet": "subnets",
    "remove_bridge": "bridges:remove",
    "resolv_conf": "files",
    "taken_subnets": "bridges",
    "unique_local_subnet": "subnets",
    "without_network": "attachments",
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
    "Subnet",
    "UserNetwork",
    "Wish",
    "attach",
    "check_is_free",
    "connect_user",
    "displayed",
    "first_choice",
    "forward",
    "free_subnet",
    "host_hosts",
    "host_resolv_conf",
    "hosts",
    "known_bridge",
    "parse_exposed",
    "parse_publication",
    "parse_subnet",
    "remove_bridge",
    "resolv_conf",
    "taken_subnets",
    "unique_local_subnet",
    "without_network",
]


def __getattr__(name: str) -> object:
    home = _HOMES.get(name)
    if home is None:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    file, _, own_name = home.partition(":")
    module = __import__(f"{__name__}.{file}", fromlist=[name])  # importlib is not yet imported
    value: object = getattr(module, own_name or name)
    globals()[name] = value
    return value
