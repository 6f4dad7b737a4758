import pytest

from api.hosts import Hosts


@pytest.mark.parametrize(
    ("host", "allowed"),
    [
        ("localhost", True),
        ("LocalHost:8000", True),
        ("localhost.", True),
        ("app.localhost:8000", True),
        ("127.0.0.1:8000", True),
        ("192.168.1.5", True),
        ("[::1]:8000", True),
        ("[::1]", True),
        ("mine.example", True),
        ("MINE.example:443", True),
        ("evil.example", False),
        ("evil.example:8000", False),
        ("mine.example.evil.example", False),
        ("notmine.example", False),
        ("localhost.evil.example", False),
        ("127.0.0.1.evil.example", False),
        ("[evil.example]", False),
        ("mine.example@evil.example", False),
        ("", False),
        ("\xff", False),
    ],
)
def test_only_names_that_nobody_can_point_elsewhere(host: str, *, allowed: bool) -> None:
    assert Hosts(("mine.example",), "0.0.0.0").allow(host) is allowed


@pytest.mark.parametrize(
    ("names", "listens_on", "open_to_all"),
    [
        ((), "127.0.0.1", False),
        ((), "127.8.0.1", False),
        ((), "::1", False),
        ((), "localhost", False),
        ((), "0.0.0.0", True),
        ((), "::", True),
        ((), "192.168.1.5", True),
        ((), "box.example", True),
        (("mine.example",), "0.0.0.0", False),
        (("*",), "127.0.0.1", True),
    ],
)
def test_what_holds_by_default(
    names: tuple[str, ...], listens_on: str, *, open_to_all: bool
) -> None:
    assert Hosts(names, listens_on).allow("any.example") is open_to_all
