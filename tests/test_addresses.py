import pytest
from hypothesis import given
from hypothesis import strategies as st

from peer.addresses import dialable_from_advert, reachable_at

PUBLIC = ("/ip4/8.8.8.8/tcp/4001/p2p/12D3KooWLPYqcECmhfAg2m3MMyZVBgWJt3B4s7ZH2jjhN244q6gk",)
NEAR = ("/ip4/127.0.0.1/tcp/4001", "/ip4/192.168.1.7/tcp/4001")


@pytest.mark.parametrize(
    "address",
    [
        "/ip4/127.0.0.1/tcp/22",
        "/ip4/10.1.2.3/tcp/4001",
        "/ip4/172.16.0.1/tcp/4001",
        "/ip4/192.168.1.1/tcp/80",
        "/ip4/100.64.0.1/tcp/4001",
        "/ip6/::1/tcp/4001",
        "/ip6/fd00::1/tcp/4001",
        "/ip6/::ffff:127.0.0.1/tcp/4001",
        "/ip6/2002:7f00:1::/tcp/4001",
        "/ip6/64:ff9b::7f00:1/tcp/4001",
    ],
)
def test_near_addresses_are_dialled_only_by_peers_without_a_public_one(address):
    assert not dialable_from_advert(address, own_addresses=PUBLIC)
    assert not dialable_from_advert(address, own_addresses=PUBLIC + NEAR)
    assert not dialable_from_advert(address, own_addresses=())
    assert dialable_from_advert(address, own_addresses=NEAR)


@pytest.mark.parametrize("address", [*PUBLIC, "/ip4/1.1.1.1/tcp/65535", "/ip6/2606:4700::1111/tcp/1"])
def test_public_addresses_are_dialled_by_all(address):
    assert dialable_from_advert(address, own_addresses=PUBLIC)
    assert dialable_from_advert(address, own_addresses=NEAR)


@pytest.mark.parametrize(
    "address",
    [
        "",
        "/dns4/example.org/tcp/4001",
        "/ip4/0.0.0.0/tcp/4001",
        "/ip4/169.254.169.254/tcp/80",
        "/ip6/fe80::1/tcp/4001",
        "/ip4/224.0.0.1/tcp/4001",
        "/ip4/240.0.0.1/tcp/4001",
        "/ip4/8.8.8.8/tcp/0",
        "/ip4/8.8.8.8/tcp/65536",
        "/ip4/8.8.8.8/udp/4001/quic-v1",
        "/ip4/8.8.8.8/tcp/4001/ws",
        "/ip4/8.8.8.8/tcp/4001/p2p/x",
        "/ip4/010.0.0.1/tcp/4001",
        "/ip4/8.8.8.8/tcp/4001" + "/" * 200,
    ],
)
def test_never_dialled(address):
    assert not dialable_from_advert(address, own_addresses=NEAR)


@given(st.text() | st.from_regex(r"/ip[46]/[0-9a-f:.]*/tcp/[0-9]*", fullmatch=True))
def test_any_text_is_answered(address):
    assert dialable_from_advert(address, own_addresses=PUBLIC) in (True, False)


def test_an_unspecified_address_is_reached_by_the_machines_own():
    ips = ["127.0.0.1", "192.168.1.7", "::1", "fe80::1%eth0", "fd00::7", "00:11:22:33:44:55"]
    assert reachable_at("/ip4/0.0.0.0/tcp/4001", ips) == ["/ip4/192.168.1.7/tcp/4001"]
    assert reachable_at("/ip6/::/tcp/4001", ips) == ["/ip6/fd00::7/tcp/4001"]
    assert reachable_at("/ip4/0.0.0.0/tcp/4001", ["127.0.0.1"]) == ["/ip4/127.0.0.1/tcp/4001"]
    assert reachable_at("/ip4/10.0.0.1/tcp/4001", ips) == ["/ip4/10.0.0.1/tcp/4001"]
