import functools

from protocol.policy import directory as module
from protocol.policy.directory import Directory
from protocol.policy.sources import MAX_ALLOWED, Allowance, Crowd, source_of
from protocol.wire.advert import SignedAdvert
from protocol.wire.identity import peer_id_of, public_key_of

from .truth import advert

S = 1_000_000


@functools.cache
def signed(number, ip, sequence=1):
    key = number.to_bytes(32, "big")
    what = advert(addresses=(f"/ip4/{ip}/tcp/4001/p2p/{peer(number)}",), sequence=sequence)
    return SignedAdvert.sign(what, network="test", private_key=key)


@functools.cache
def peer(number):
    return peer_id_of(public_key_of(number.to_bytes(32, "big")))


def test_a_source_is_the_network_of_the_first_address():
    def of(*addresses):
        return source_of(advert(addresses=addresses))

    assert of("/ip4/192.0.2.7/tcp/1", "/ip4/198.51.100.1/tcp/1") == of("/ip4/192.0.2.200/tcp/9")
    assert of("/ip4/192.0.2.7/tcp/1") != of("/ip4/192.0.3.7/tcp/1")
    assert of("/ip6/2001:db8:1::7/tcp/1") == of("/ip6/2001:db8:1:ffff::1/tcp/1")
    assert of("/ip6/2001:db8:1::7/tcp/1") != of("/ip6/2001:db8:2::7/tcp/1")
    assert of() is of("/dns4/example.org/tcp/1") is of("/ip4/999.0.0.1/tcp/1") is None


def test_of_the_largest_source_who_was_heard_of_least_lately_makes_way():
    crowd = Crowd()
    for name in ("a", "b", "c"):
        crowd.add(name, "many")
    crowd.add("d", "few")
    crowd.add("a", "many")
    assert crowd.makes_way_for("new") == "b"
    assert crowd.makes_way_for("few") == "b"
    assert crowd.makes_way_for("many") is None
    crowd.remove("b")
    assert crowd.makes_way_for("few") is None  # as many, once it is in


def test_thousands_of_one_source_take_no_place_that_others_want(monkeypatch):
    monkeypatch.setattr(module, "MAX_PEERS", 20)
    directory = Directory("own")
    for number in range(1, 41):
        directory.on_advert(signed(number, "192.0.2.1"), 0, 0)
    assert directory.statistics()["peers"] == 20
    for number in range(41, 51):
        assert directory.on_advert(signed(number, f"198.51.{number}.1"), 1, 0).outcome == "new"
    for number in range(51, 200):
        assert directory.on_advert(signed(number, "192.0.2.1"), 2, 0).outcome == "full"
    known = {candidate.peer for candidate in directory.candidates(3)}
    assert len(known) == 20
    assert {peer(number) for number in range(41, 51)} <= known


def test_connected_peers_never_make_way(monkeypatch):
    monkeypatch.setattr(module, "MAX_PEERS", 3)
    directory = Directory("own")
    for number in (1, 2, 3):
        directory.on_connected(peer(number))
        directory.on_advert(signed(number, "192.0.2.1"), 0, 0)
    assert directory.on_advert(signed(4, "198.51.100.1"), 1, 0).outcome == "full"
    directory.on_disconnected(peer(2))
    directory.on_disconnected(peer(3))
    assert directory.on_advert(signed(4, "198.51.100.1"), 1, 0).outcome == "new"
    assert {each.peer for each in directory.candidates(1)} == {peer(1), peer(3), peer(4)}


def test_who_made_way_is_not_revived_by_a_replay(monkeypatch):
    monkeypatch.setattr(module, "MAX_PEERS", 2)
    directory = Directory("own")
    for number in (1, 2):
        directory.on_advert(signed(number, "192.0.2.1"), 0, 0)
    directory.on_advert(signed(3, "198.51.100.1"), 0, 0)
    monkeypatch.setattr(module, "MAX_PEERS", 3)
    assert directory.on_advert(signed(1, "192.0.2.1"), 1, 0).outcome == "old"
    assert directory.on_advert(signed(1, "192.0.2.1", sequence=2), 1, 0).outcome == "new"


def test_an_allowance_is_a_burst_and_then_one_at_a_time():
    allowance = Allowance(burst=3, every_us=S)
    assert [allowance.take("a", 0) for _ in range(4)] == [True, True, True, False]
    assert allowance.take("b", 0)
    assert not allowance.take("a", S - 1)
    assert allowance.take("a", S)
    assert not allowance.take("a", S)
    assert [allowance.take("a", 100 * S) for _ in range(4)] == [True, True, True, False]


def test_allowances_are_bounded_in_number():
    allowance = Allowance(burst=1, every_us=S)
    for number in range(2 * MAX_ALLOWED):
        allowance.take(str(number), 0)
    assert len(allowance._left) == MAX_ALLOWED
