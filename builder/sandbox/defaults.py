"""What a program gets when nobody says otherwise. Apart from the specification, whose classes cost
time at every start: a build that finds all in its cache needs the names alone.
"""

DEFAULT_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
