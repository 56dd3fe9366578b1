"""Names for containers that were given none: an adjective and something from a workshop."""

import os

_ADJECTIVES = """
able agile amber ample ardent blithe bold brave breezy bright brisk calm candid careful cheery
clear clever coral cosy crisp curious dapper daring dusky eager earnest easy fair fearless fleet
fluent fond frank fresh gentle glad golden grand hardy hasty hearty humble jolly jovial keen kind
lively loyal lucid lucky mellow merry mighty mild modest neat nimble noble patient placid plucky
polite prompt proud quick quiet rapid ready robust rosy rustic serene sharp shiny silent silver
simple sleek smart smooth snappy sober solid spry stable steady stellar sturdy sunny supple swift
tender tidy tranquil trusty upbeat vivid warm wise witty zesty
"""
_THINGS = """
adze anvil awl axle basin beam bellows bench bevel bobbin bolt brace bracket brush bucket burin
caliper chisel clamp cleat clinch cog crane crank dowel drill easel file flange flask forge funnel
gasket gauge gear gimlet girder gouge hammer handle hinge hoist hook jig joist kiln knob ladder
ladle lathe latch lever lintel loom mallet mandrel mitre mortar nail nozzle nut oilcan panel pawl
peg pestle pinion piston pivot plane plank plumb pulley punch quoin rafter ratchet reamer rivet
rotor ruler sander saw scribe shim shuttle sieve spanner spindle spline spool spring square
stapler tongs trestle trowel truss valve vise washer wedge wheel winch wrench
"""


def random_name(attempt: int = 0) -> str:
    """`brisk_lathe`; from the third attempt on with a number, when many names are taken."""
    first, second, number = os.urandom(3)
    adjectives, things = _ADJECTIVES.split(), _THINGS.split()
    name = f"{adjectives[first % len(adjectives)]}_{things[second % len(things)]}"
    return name if attempt < 2 else f"{name}{number % 100}"


def is_name(text: str, *, least: int = 2) -> bool:
    """Whether `text` may name a container or volume: docker's [a-zA-Z0-9][a-zA-Z0-9_.-]+.

    Args:
        least: how short it may be; docker lets a network be named by one letter.
    """
    if not least <= len(text) <= 128 or not text.isascii():
        return False
    return text[0].isalnum() and all(char.isalnum() or char in "_.-" for char in text)
