"""What can go wrong between a Dockerfile and a container.

BuilderError(message, hint)
  PlanError                          the Dockerfile cannot be planned
    UnknownStageError(name, nearest)
    UnknownTargetError(name, nearest)
    StageOrderError(name, stage)     a stage that needs itself or one below it
    CheckFailedError(rules)          a build check, where warnings are errors
  UnsupportedFeatureError(feature)   known, and not carried out by this version
  LoweringError                      an instruction whose words make no sense (bad port, bad user)
  OutputError                        what --output, --cache-to and the like ask for makes no sense
  ContextError                       the build context
    SourceNotFoundError(pattern, nearest)
    OutsideContextError(path)
  UrlError                           a URL that makes no sense
  FetchError                         something remote cannot be had
    ChecksumError(what, expected, actual)
  ForeignPlatformError(wanted, host) this machine cannot run programs of that platform
  MissingGrantError(kind, id)        a RUN needs a secret or an agent that was not given
  SecretLeakError(id, path)          a RUN wrote a secret into its layer
  NoSuchMomentError(name)            app@9 of an image with fewer instructions
  SquashedMomentError(number)        app@2 of a squashed image, after its cached steps were pruned
  StepFailedError(title, status)     the program of a RUN ended badly: the user's turn
  NotReproducibleError(differences)  two runs of a step gave different results
  ContainerError                     containers
    NoSuchContainerError(name)
    WrongStateError(name, state, wanted)
  NetworkError                       networks
    NoSuchNetworkError(name)
    NetworkUnavailableError          this host has no private networks

Sandbox errors (our turn) are in builder.sandbox.errors, store errors in layerstore.errors.
"""

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from grammar import Span


class BuilderError(Exception):
    """Base of this room's errors; `hint` says what to do about it, empty when nothing helps.

    `excerpt` is set by the engine: the Dockerfile lines of the instruction it happened in, which
    is the one at `span` where whoever raised it knew better.
    """

    def __init__(self, message: str, *, hint: str = "") -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint
        self.excerpt = ""
        self.span: Span | None = None


class PlanError(BuilderError):
    """The stages cannot be put together, or an option asks for what no stage has."""


class UnknownStageError(PlanError):
    def __init__(self, *, name: str, nearest: str | None) -> None:
        hint = f"did you mean {nearest!r}?" if nearest else "name a stage above, or an image"
        super().__init__(f"no stage or image named {name!r}", hint=hint)
        self.name = name
        self.nearest = nearest


class UnknownTargetError(PlanError):
    def __init__(self, *, name: str, nearest: str | None, known: tuple[str, ...]) -> None:
        if nearest:
            hint = f"did you mean {nearest!r}?"
        elif known:
            hint = "stages with a name: " + ", ".join(known)
        else:
            hint = "no stage of this Dockerfile has a name (FROM ... AS name)"
        super().__init__(f"target stage {name!r} could not be found", hint=hint)
        self.name = name
        self.nearest = nearest


class StageOrderError(PlanError):
    def __init__(self, *, name: str, stage: str, is_itself: bool) -> None:
        if is_itself:
            message = f"circular dependency detected on stage: {name}"
        else:
            message = (
                f"cannot copy from stage {name!r}, "
                f"it needs to be defined before current stage {stage!r}"
            )
        super().__init__(message, hint="a stage can only use stages above it")
        self.name = name
        self.stage = stage


class CheckFailedError(PlanError):
    """Warnings of build checks in a file that says `# check=error=true`."""

    def __init__(self, *, rules: tuple[str, ...]) -> None:
        super().__init__(
            f"lint violation found for rules: {', '.join(rules)}",
            hint="the file has `check=error=true`",
        )
        self.rules = rules


class UnsupportedFeatureError(BuilderError):
    def __init__(self, *, feature: str, hint: str = "") -> None:
        super().__init__(f"{feature} is not supported by this version of lamina", hint=hint)
        self.feature = feature


class NetworkError(BuilderError):
    """A network cannot be made, found or used."""


class NoSuchNetworkError(NetworkError):
    def __init__(self, *, name: str) -> None:
        super().__init__(f"no such network: {name}", hint="`lamina network ls` lists them")
        self.name = name


class NetworkUnavailableError(NetworkError):
    """This host, or this user, has no way to make private networks."""


class LoweringError(BuilderError):
    """An instruction that is well formed, and cannot be meant here."""


class OutputError(BuilderError):
    """A result cannot be written where it was asked for."""


class ContextError(BuilderError):
    """Something is wrong with a build context, or with what is copied from it."""


class SourceNotFoundError(ContextError):
    def __init__(self, *, pattern: str, where: str, nearest: str | None, hint: str = "") -> None:
        if nearest:
            hint = f"did you mean {nearest!r}?"
        super().__init__(f"{pattern!r} not found in {where}", hint=hint)
        self.pattern = pattern
        self.nearest = nearest


class OutsideContextError(ContextError):
    def __init__(self, *, path: str, where: str, taken: str) -> None:
        super().__init__(
            f"{path!r} leads outside of {where}, and {taken!r} is not in it",
            hint="give a directory above as the context (-f names the Dockerfile), or another one "
            "by --build-context",
        )
        self.path = path


class UrlError(BuilderError):
    """A URL that nothing can be fetched from, or with parameters it cannot have."""


class FetchError(BuilderError):
    """Messages hold no user names and passwords of URLs: see `urls.redacted`."""


class ChecksumError(FetchError):
    def __init__(self, *, what: str, expected: str, actual: str) -> None:
        super().__init__(
            f"digest mismatch for {what}: {actual} (expected: {expected})",
            hint="it is not what it was when --checksum was written",
        )
        self.expected = expected
        self.actual = actual


class ForeignPlatformError(BuilderError):
    def __init__(self, *, wanted: str, host: str) -> None:
        super().__init__(
            f"cannot run a program for {wanted} on {host}: "
            "binfmt_misc has no interpreter for it that is registered with the flag F",
            hint="install qemu-user-static, or run it in a stage FROM --platform=$BUILDPLATFORM",
        )
        self.wanted = wanted
        self.host = host


class MissingGrantError(BuilderError):
    """`kind` is the option that would have given it: `secret` or `ssh`."""

    def __init__(self, *, kind: str, id: str) -> None:
        what = "secret" if kind == "secret" else "ssh agent"
        value = f"id={id},src=FILE" if kind == "secret" else id
        super().__init__(
            f"the {what} {id!r} is required, and was not given", hint=f"build with --{kind} {value}"
        )
        self.kind = kind
        self.id = id


class SecretLeakError(BuilderError):
    def __init__(self, *, id: str, path: str) -> None:
        super().__init__(
            f"the secret {id!r} was written into the image, at '/{path}'",
            hint="whoever gets the image could read it: use it where it is mounted",
        )
        self.id = id
        self.path = path


class NoSuchMomentError(BuilderError):
    def __init__(self, *, name: str, hint: str) -> None:
        super().__init__(f"no such moment: {name}", hint=hint)
        self.name = name


class SquashedMomentError(BuilderError):
    """A moment from before a squash, whose layers are not here any more."""

    def __init__(self, *, number: int) -> None:
        super().__init__(
            f"the layers of @{number} were squashed, and the build cache has them no more",
            hint="build the image again",
        )
        self.number = number


class StepFailedError(BuilderError):
    """A RUN's program ended with another status than 0. `code` is the shell's view of it.

    `killed_for` says why it was not let live; `hint` what may have gone wrong with it.
    """

    def __init__(
        self,
        *,
        title: str,
        code: int,
        signal: int,
        tail: bytes,
        killed_for: str = "",
        hint: str = "",
    ) -> None:
        how = f"was killed by signal {signal}" if signal else f"did not complete: exit code: {code}"
        if killed_for:
            how = f"killed: {killed_for}"
        super().__init__(f"process {title!r} {how}", hint=hint)
        self.title = title
        self.code = code
        self.signal = signal
        self.tail = tail
        self.killed_for = killed_for


class NotReproducibleError(BuilderError):
    """`paths` are those that differ, each once, in the order they were found."""

    def __init__(self, *, paths: tuple[str, ...]) -> None:
        shown = ", ".join(paths[:5]) + (f" and {len(paths) - 5} more" if len(paths) > 5 else "")
        super().__init__(
            f"two runs gave different results: {shown}",
            hint="what each may be caused by, and what helps, stands above",
        )
        self.paths = paths


class ContainerError(BuilderError):
    """Something is wrong with a container, or is asked of one that cannot do it."""


class NoSuchContainerError(ContainerError):
    def __init__(self, *, name: str) -> None:
        super().__init__(f"no such container: {name}", hint="`lamina ps -a` lists them")
        self.name = name


class WrongStateError(ContainerError):
    def __init__(self, *, name: str, state: str, wanted: str) -> None:
        super().__init__(f"container {name} is {state}, not {wanted}")
        self.name = name
        self.state = state
        self.wanted = wanted
