"""Which commands there are, and in which module each lives.

To add one: a `Command` in the file of its family, and a line here.
"""

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from builder.cli.arguments import Command

VERSION = "0.1.0"

# name as typed -> module of this package and the name of the Command in it
COMMANDS = {
    "build": "build:BUILD",
    "plan": "explain:PLAN",
    "why": "explain:WHY",
    "run": "run:RUN",
    "create": "run:CREATE",
    "exec": "containers:EXEC",
    "ps": "containers:PS",
    "logs": "containers:LOGS",
    "start": "containers:START",
    "pause": "containers:PAUSE",
    "unpause": "containers:UNPAUSE",
    "stop": "containers:STOP",
    "restart": "containers:RESTART",
    "kill": "containers:KILL",
    "wait": "containers:WAIT",
    "rm": "containers:RM",
    "network connect": "network:CONNECT",
    "network create": "network:CREATE",
    "network disconnect": "network:DISCONNECT",
    "network inspect": "network:INSPECT",
    "network ls": "network:LS",
    "network prune": "network:PRUNE",
    "network rm": "network:RM",
    "port": "containers:PORT",
    "images": "images:IMAGES",
    "history": "images:HISTORY",
    "layers": "layers:LAYERS",
    "step": "moments:STEP",
    "bisect": "moments:BISECT",
    "inspect": "inspect:INSPECT",
    "tag": "images:TAG",
    "untag": "images:UNTAG",
    "rmi": "images:RMI",
    "import": "transfer:IMPORT",
    "pull": "registry:PULL",
    "push": "registry:PUSH",
    "login": "registry:LOGIN",
    "logout": "registry:LOGOUT",
    "save": "transfer:SAVE",
    "copy": "copy:COPY",
    "load": "transfer:LOAD",
    "bootstrap": "transfer:BOOTSTRAP",
    "parse": "parse:PARSE",
    "check": "check:CHECK",
    "fsck": "system:FSCK",
    "info": "system:INFO",
    "version": "system:VERSION",
    "system df": "system:DF",
    "system info": "system:INFO",
    "system prune": "system:PRUNE",
    "image build": "build:BUILD",
    "image exists": "images:IMAGE_EXISTS",
    "image history": "images:HISTORY",
    "image import": "transfer:IMPORT",
    "image inspect": "inspect:IMAGE_INSPECT",
    "image layers": "layers:LAYERS",
    "image list": "images:IMAGES",
    "image load": "transfer:LOAD",
    "image ls": "images:IMAGES",
    "image prune": "images:IMAGE_PRUNE",
    "image remove": "images:RMI",
    "image rm": "images:RMI",
    "image pull": "registry:PULL",
    "image push": "registry:PUSH",
    "image save": "transfer:SAVE",
    "image tag": "images:TAG",
    "image untag": "images:UNTAG",
    "container create": "run:CREATE",
    "container exec": "containers:EXEC",
    "container exists": "containers:CONTAINER_EXISTS",
    "container inspect": "inspect:CONTAINER_INSPECT",
    "container kill": "containers:KILL",
    "container list": "containers:PS",
    "container logs": "containers:LOGS",
    "container ls": "containers:PS",
    "container prune": "containers:CONTAINER_PRUNE",
    "container ps": "containers:PS",
    "container remove": "containers:RM",
    "container restart": "containers:RESTART",
    "container rm": "containers:RM",
    "container pause": "containers:PAUSE",
    "container unpause": "containers:UNPAUSE",
    "container port": "containers:PORT",
    "container run": "run:RUN",
    "container start": "containers:START",
    "container stop": "containers:STOP",
    "container wait": "containers:WAIT",
    "manifest create": "manifest:CREATE",
    "manifest add": "manifest:ADD",
    "manifest annotate": "manifest:ANNOTATE",
    "manifest remove": "manifest:REMOVE",
    "manifest inspect": "manifest:INSPECT",
    "manifest push": "manifest:PUSH",
    "manifest rm": "manifest:RM",
    "manifest exists": "manifest:EXISTS",
    "builder build": "build:BUILD",
    "builder prune": "cache:BUILDER_PRUNE",
    "builder du": "cache:DU",
    "buildx build": "build:BUILD",
    "buildx prune": "cache:BUILDER_PRUNE",
    "buildx du": "cache:DU",
    "bud": "build:BUILD",
    "builds ls": "builds:LS",
    "builds list": "builds:LS",
    "builds show": "builds:SHOW",
    "builds inspect": "builds:SHOW",
    "builds logs": "builds:LOGS",
    "builds rm": "builds:RM",
    "builds trace": "builds:TRACE",
    "buildx history ls": "builds:LS",
    "buildx history inspect": "builds:SHOW",
    "buildx history logs": "builds:LOGS",
    "buildx history rm": "builds:RM",
    "buildx history trace": "builds:TRACE",
    "debug expand": "debug:EXPAND",
    "debug ignore": "debug:IGNORE",
}
GROUPS = {
    "image": "Images: the same commands by docker's longer names.",
    "container": "Containers: the same commands by docker's longer names.",
    "network": "Networks that containers share.",
    "manifest": "Indexes of images for several platforms.",
    "builder": "The build cache, and `build` by docker's longer name.",
    "buildx": "Builds and their cache by buildx's names.",
    "system": "The store as a whole.",
    "builds": "Builds made here: what each step did, and how long it took.",
    "buildx history": "The commands of `builds` by buildx's names.",
    "debug": "Single rules of the Dockerfile language, as filters for other programs.",
}


def find(words: list[str]) -> tuple[list[str], list[str]]:
    """Split `words` into the name of a command or group (none if it is empty) and the rest."""
    for length in (3, 2, 1):
        name = " ".join(words[:length])
        if len(words) >= length and (name in COMMANDS or name in GROUPS):
            return words[:length], words[length:]
    return [], words


def load(name: list[str], rest: list[str]) -> "Command":
    """Import the command `name`; `rest` is what follows it, for the message if there is none.

    Raises:
        HelpWanted: `name` is a group's, or there is no word at all.
        UsageError: no such command.
    """
    target = COMMANDS.get(" ".join(name))
    if target is not None:
        module, _, attribute = target.partition(":")
        # not importlib.import_module: importlib is not yet imported
        package = __import__(f"builder.cli.{module}", fromlist=[attribute])
        command: Command = getattr(package, attribute)
        return command
    from builder.cli.arguments import HelpWanted, UsageError

    if not rest or rest[0] in ("--help", "-h"):
        raise HelpWanted
    from builder.nearest import nearest

    typed = " ".join([*name, rest[0]])
    near = nearest(typed, COMMANDS)
    hint = f"did you mean `lamina {near}`?" if near else "`lamina --help` lists the commands"
    raise UsageError(f"unknown command: {typed}", hint=hint, is_count=True)
