"""Asking before something is thrown away."""

import sys


def confirmed(warning: str) -> bool:
    """Ask on standard error as docker does; whoever answers nothing says no."""
    sys.stdout.flush()
    sys.stderr.write(f"WARNING! {warning}\nAre you sure you want to continue? [y/N] ")
    sys.stderr.flush()
    return sys.stdin.readline().strip().lower() in ("y", "yes")
