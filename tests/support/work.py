"""Work of the scheduler, alone."""

from builder.schedule import Result, Work, run_all


def run_one(work: Work[Result]) -> Result:
    """Run a piece of work that needs no other one."""
    return run_all({0: ()}, lambda _: work, jobs=1)[0]
