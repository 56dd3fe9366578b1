"""What can be said of a Dockerfile without building it: checks, and what it offers.

    rules       the checks by name, as BuildKit has them: texts and addresses
    options     which of them are in force: `# check=...`, and the build argument that replaces it
    comments    the comments above an instruction: options for it, and descriptions
    survey      one pass over the file, with every check on the way: filechecks, stagechecks
    findings    what is looked at, and what was found so far
    remembered  the same for a build, which has seldom anything new to say
    offers      the arguments and secrets a build takes, and the targets there are
    excerpt     lines of the file with some of them marked

Nothing is read but values: the file, the ignore file's text, the configs of known base images.
Where a base image is unknown, it is taken for one that sets PATH and nothing else.

In: `grammar.Dockerfile`. Out: `builder.events.CheckWarning`, `Outline`, `Target`.

Source: moby/buildkit frontend/dockerfile: linter, dockerfile2llb, instructions; docker/buildx
commands/build.go for what is shown.
"""

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from builder.check.excerpt import excerpt_of
    from builder.check.findings import Subject
    from builder.check.offers import Outline, Target, outline_of, targets_of
    from builder.check.remembered import check_build
    from builder.check.survey import Survey, survey_of

# Loaded when first used: a cached build needs `remembered` alone.
_HOMES = {
    "Outline": "offers",
    "Subject": "findings",
    "Survey": "survey",
    "Target": "offers",
    "check_build": "remembered",
    "excerpt_of": "excerpt",
    "outline_of": "offers",
    "survey_of": "survey",
    "targets_of": "offers",
}

__all__ = [
    "Outline",
    "Subject",
    "Survey",
    "Target",
    "check_build",
    "excerpt_of",
    "outline_of",
    "survey_of",
    "targets_of",
]


def __getattr__(name: str) -> object:
    home = _HOMES.get(name)
    if home is None:
        raise AttributeError(name)
    value: object = getattr(import_module(f"builder.check.{home}"), name)
    globals()[name] = value
    return value
