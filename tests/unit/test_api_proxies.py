import pytest

from api.proxies import Proxies, limit_key

TRUSTED = ("10.0.0.0/8", "192.0.2.1", "fd00::/8")


@pytest.mark.parametrize(
    ("peer", "forwarded", "client"),
    [
        # A stranger's header is nothing but a claim.
        ("203.0.113.9", [], "203.0.113.9"),
        ("203.0.113.9", ["198.51.100.1"], "203.0.113.9"),
        # A trusted proxy appends what it saw.
        ("10.0.0.1", ["198.51.100.1"], "198.51.100.1"),
        ("10.0.0.1", ["6.6.6.6, 198.51.100.1"], "198.51.100.1"),
        ("10.0.0.1", ["6.6.6.6, 198.51.100.1, 10.0.0.2"], "198.51.100.1"),
        ("10.0.0.1", ["6.6.6.6, 198.51.100.1,192.0.2.1 , 10.0.0.2"], "198.51.100.1"),
        ("10.0.0.1", ["6.6.6.6", "198.51.100.1"], "198.51.100.1"),
        ("10.0.0.1", ["10.9.9.9, 10.0.0.2"], "10.9.9.9"),
        ("10.0.0.1", [], "10.0.0.1"),
        # A malformed entry stops the walk at the last address that is sure.
        ("10.0.0.1", ["198.51.100.1, unknown"], "10.0.0.1"),
        ("10.0.0.1", ["198.51.100.1, unknown, 10.0.0.2"], "10.0.0.2"),
        ("10.0.0.1", ["198.51.100.1, "], "10.0.0.1"),
        ("10.0.0.1", ["198.51.100.1:4711"], "10.0.0.1"),
        ("10.0.0.1", ["1e3"], "10.0.0.1"),
        # IPv6, and IPv4 as a dual-stack socket shows it.
        ("fd00::1", ["2001:db8::5"], "2001:db8::5"),
        ("::ffff:10.0.0.1", ["::ffff:198.51.100.1"], "198.51.100.1"),
        ("local", ["198.51.100.1"], "local"),
    ],
)
def test_the_client_is_the_first_address_nobody_trusted_vouches_against(
    peer: str, forwarded: list[str], client: str
) -> None:
    assert Proxies(TRUSTED).resolve(peer, forwarded) == client


def test_without_trusted_proxies_the_header_is_never_read() -> None:
    assert Proxies(()).resolve("127.0.0.1", ["198.51.100.1"]) == "127.0.0.1"


@pytest.mark.parametrize(
    ("client", "key"),
    [
        ("198.51.100.1", "198.51.100.1"),
        ("2001:db8:1:2:3:4:5:6", "2001:db8:1:2::/64"),
        ("2001:db8:1:2:ffff::", "2001:db8:1:2::/64"),
        ("2001:db8:1:3::", "2001:db8:1:3::/64"),
        ("::ffff:198.51.100.1", "::ffff:198.51.100.1"),
        ("local", "local"),
    ],
)
def test_ipv6_clients_are_counted_by_their_network(client: str, key: str) -> None:
    assert limit_key(client) == key
