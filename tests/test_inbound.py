from peer.inbound import InboundGate, InboundLimits


def gate(**changed):
    limits = {"total": 100, "before_handshake": 4, "per_address": 2, "loopback_unlimited": True}
    return InboundGate(InboundLimits(**limits | changed))


def test_an_address_gets_so_many_connections_and_others_are_not_touched():
    inbound = gate()
    first = inbound.admit("192.0.2.1")
    assert first
    assert inbound.admit("192.0.2.1")
    assert inbound.admit("192.0.2.1") is None
    assert inbound.admit("192.0.2.2")
    first.finished_handshake()
    assert inbound.admit("192.0.2.1") is None  # established ones count too
    first.left()
    assert inbound.admit("192.0.2.1")


def test_so_many_handshakes_run_at_once():
    inbound = gate()
    admitted = [inbound.admit(f"192.0.2.{host}") for host in range(4)]
    assert inbound.admit("192.0.2.9") is None
    admitted[0].finished_handshake()
    assert inbound.admit("192.0.2.9")


def test_a_handshake_that_fails_gives_its_place_back_once():
    inbound = gate()
    admitted = inbound.admit("192.0.2.1")
    admitted.left()
    assert inbound.statistics() == {
        "inbound": 0,
        "inbound_handshaking": 0,
        "inbound_addresses": 0,
        "inbound_refused": 0,
    }


def test_the_total_is_bounded():
    inbound = gate(total=3, before_handshake=10)
    assert all(inbound.admit(f"192.0.2.{host}") for host in range(3))
    assert inbound.admit("192.0.2.9") is None
    assert inbound.statistics()["inbound_refused"] == 1


def test_loopback_is_unlimited_only_if_it_is_meant_to_be():
    open_gate, strict = gate(before_handshake=100), gate(before_handshake=100, loopback_unlimited=False)
    for ip in ("127.0.0.1", "::1", "::ffff:127.0.0.1"):
        assert all(open_gate.admit(ip) for _ in range(20))
    assert [strict.admit("127.0.0.1") is None for _ in range(3)] == [False, False, True]


def test_a_customers_whole_ip6_network_is_one_address():
    inbound = gate(before_handshake=100)
    assert inbound.admit("2001:db8::1")
    assert inbound.admit("2001:db8::2%eth0")
    assert inbound.admit("2001:db8::3") is None
    assert inbound.admit("2001:db8:0:1::1")
    assert inbound.admit("::ffff:192.0.2.1")
    assert inbound.admit("192.0.2.1")
    assert inbound.admit("192.0.2.1") is None
