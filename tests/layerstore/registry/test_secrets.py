"""What is taken out of messages."""

from layerstore.registry.secrets import Secrets


def test_a_secret_is_hidden_wherever_it_stands() -> None:
    secrets = Secrets()
    secrets.add("hunter22")
    assert secrets.hide("hunter22, and ahunter22b") == "***, and a***b"


def test_it_is_hidden_in_a_url_and_in_a_header() -> None:
    secrets = Secrets()
    secrets.add("p/s s", user="me")
    assert secrets.hide("x?password=p%2Fs%20s") == "x?password=***"
    assert secrets.hide("Basic bWU6cC9zIHM=") == "Basic ***"


def test_of_two_that_overlap_the_longer_goes_first() -> None:
    secrets = Secrets()
    secrets.add("pass")
    secrets.add("password")
    assert secrets.hide("password pass") == "*** ***"


def test_what_could_be_any_word_stays() -> None:
    secrets = Secrets()
    secrets.add("")
    secrets.add("abc")
    assert secrets.hide("an abc") == "an abc"
