"""Where webhooks may go, in all the ways that one can write an address."""

import pytest

from api.destinations import Destinations
from api.errors import InvalidRequestError, WebhookNotAllowedError

NAMED = ("hooks.example",)
ANY = ("*",)
INSIDE = ("hooks.example", "10.1.0.0/16", "192.168.1.5", "fd00::/8")


@pytest.mark.parametrize(
    ("allowed", "url", "address"),
    [
        (NAMED, "https://hooks.example/x?y=1", "93.184.215.14"),
        (NAMED, "https://HOOKS.example:8443/", "2606:2800:21f:cb07:6820:80da:af6b:8b2c"),
        (NAMED, "https://hooks.example./", "93.184.215.14"),
        (ANY, "https://anything.example/", "93.184.215.14"),
        (ANY, "https://93.184.215.14/", "93.184.215.14"),
        (INSIDE, "http://hooks.example/", "10.1.2.3"),
        (INSIDE, "http://10.1.2.3:8080/", "10.1.2.3"),
        (INSIDE, "http://192.168.1.5/", "192.168.1.5"),
        (INSIDE, "http://[fd00::1]/", "fd00::1"),
        (INSIDE, "http://[::ffff:10.1.2.3]/", "::ffff:10.1.2.3"),
    ],
)
def test_allowed(allowed: tuple[str, ...], url: str, address: str) -> None:
    destinations = Destinations(allowed)
    destinations.check_address(destinations.check(url), address)


@pytest.mark.parametrize(
    ("allowed", "url"),
    [
        (NAMED, "https://other.example/"),
        (NAMED, "https://x.hooks.example/"),
        (NAMED, "https://hooks.example.evil.example/"),
        (NAMED, "https://localhost/"),
        (NAMED, "http://hooks.example/"),
        (NAMED, "https://93.184.215.14/"),
        (ANY, "http://anything.example/"),
        (ANY, "http://2130706433/"),
        (ANY, "http://0x7f.1/"),
        (ANY, "http://93.184.215.14/"),
        *((ANY, f"https://{host}/") for host in (
            "127.0.0.1", "127.9.9.9", "0.0.0.0", "10.0.0.1", "172.16.0.1", "192.168.0.1",
            "169.254.169.254", "100.64.0.1", "192.0.2.1", "224.0.0.1", "240.0.0.1",
            "255.255.255.255", "[::1]", "[::]", "[::ffff:127.0.0.1]", "[::ffff:7f00:1]",
            "[::127.0.0.1]", "[fe80::1]", "[fd00::1]", "[ff02::1]", "[64:ff9b::7f00:1]",
            "[2002:7f00:1::]", "[2001::1]", "[2001:db8::1]",
        )),
        (INSIDE, "http://10.2.0.1/"),
        (INSIDE, "http://127.0.0.1/"),
        (INSIDE, "http://other.example/"),
        (("10.0.0.0/8",), "https://93.184.215.14/"),
    ],
)  # fmt: skip
def test_refused_at_once(allowed: tuple[str, ...], url: str) -> None:
    with pytest.raises(WebhookNotAllowedError):
        Destinations(allowed).check(url)


@pytest.mark.parametrize("allowed", [NAMED, ANY, INSIDE])
@pytest.mark.parametrize("url", ["https://hooks.example/", "https://hooks.example:22/"])
@pytest.mark.parametrize(
    "address", ["127.0.0.1", "::1", "::ffff:127.0.0.1", "169.254.169.254", "10.9.9.9", "fe80::1%lo"]
)
def test_a_name_does_not_lead_inside(allowed: tuple[str, ...], url: str, address: str) -> None:
    destinations = Destinations(allowed)
    destination = destinations.check(url)
    with pytest.raises(WebhookNotAllowedError):
        destinations.check_address(destination, address)


def test_without_tls_only_into_networks_that_are_listed() -> None:
    destinations = Destinations(INSIDE)
    with pytest.raises(WebhookNotAllowedError):
        destinations.check_address(destinations.check("http://hooks.example/"), "93.184.215.14")


@pytest.mark.parametrize(
    "url",
    [
        "", "x", "hooks.example", "//hooks.example", "ftp://hooks.example/", "file:///etc/passwd",
        "https://", "https:///x", "https://user@hooks.example/", "https://u:p@hooks.example/",
        "https://@hooks.example/", "https://hooks.example/#x", "https://hooks.example:0/",
        "https://hooks.example:99999/", "https://hooks.example:x/", "https://[::1/",
        "https://hooks.example\\@127.0.0.1/", "https://hooks .example/", "https://hooks.example/é",
        "https://hooks.example/\n", "https://hööks.example/", "javascript:alert(1)",
    ],
)  # fmt: skip
def test_what_is_no_url_to_post_to(url: str) -> None:
    with pytest.raises(InvalidRequestError) as refused:
        Destinations(ANY).check(url)
    assert refused.value.problems[0].field == "webhook_url"
