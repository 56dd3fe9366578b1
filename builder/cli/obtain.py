"""The image of `run` and `create`: pulled where it is not here, with words on standard error."""

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from builder.cli.access import Access
from builder.cli.arguments import Arguments
from builder.cli.output import printable
from builder.cli.transfers import shown
from builder.pulling import POLICIES, Pulling

if TYPE_CHECKING:
    from builder.pulling import Report
    from layerstore import Reference, Store
    from layerstore.registry import Transfer


def obtained(store: "Store", name: str, arguments: Arguments) -> "Store":
    """`store`, with the image `name` in it; an open one is closed if it cannot be had.

    Raises:
        StoreError: there is none, and the policy or the registry does not give it.
    """
    policy = POLICIES[arguments.value("pull") or "missing"]
    quiet = arguments.flag("quiet")

    @contextmanager
    def watch(reference: "Reference") -> "Iterator[Report]":
        is_told = quiet or policy != "missing"

        def report(event: "Transfer") -> None:
            nonlocal is_told
            if not is_told:  # it can be had: what cannot is told in one line
                is_told = True
                _tell(f"Unable to find image {reference.familiar!r} locally")
            view.report(event)

        with shown(None, quiet=quiet) as view:
            yield report

    try:
        if _is_moment(name):  # of an image that is here
            return store
        with Access(arguments) as access:
            pulling = Pulling(policy=policy, client=access.client)
            pulling.image(store, name, None, watch)
        store.flush()
    except BaseException:
        store.close()
        raise
    return store


def _is_moment(name: str) -> bool:
    from builder.timetravel import is_address

    return is_address(name)


def _tell(text: str) -> None:
    sys.stderr.write(printable(text) + "\n")
    sys.stderr.flush()
