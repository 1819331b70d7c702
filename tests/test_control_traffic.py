"""What staying in touch costs, counted for swarms of any size."""

import json
import random

import pytest

from protocol.policy import shards
from testnet import command
from testnet.simulation.control import ADVERT_BYTES, PEERS, account, mesh_copies


@pytest.mark.parametrize("peers", PEERS)
def test_what_a_peer_spends_is_within_its_limits_at_any_size(peers):
    assert account(peers).met


@pytest.mark.parametrize("advert_bytes", [400, 4096])
def test_small_and_large_adverts_too(advert_bytes):
    dice = random.Random(advert_bytes)
    for peers in (2, 64, *(dice.randrange(2, 1_000_000) for _ in range(10))):
        assert account(peers, advert_bytes).idle_bytes_per_s <= 5_000


@pytest.mark.parametrize(("peers", "in_topic"), [(10, 9), (50, 32), (128, 4), (60, 10)])
def test_the_peers_own_guess_of_an_adverts_cost_is_what_is_counted_in_a_mesh(peers, in_topic):
    copies, _ = mesh_copies(peers, in_topic)
    guessed = shards.advert_cost_bytes(0, in_topic) - shards.advert_cost_bytes(-1, in_topic)
    assert guessed == pytest.approx(copies, rel=0.15)


def test_every_message_reaches_everyone_at_least_once_and_no_link_carries_it_more_than_both_ways():
    copies, links = mesh_copies(100, 20)
    assert 2 <= copies <= 2 * links


def test_the_command_prints_a_table_or_one_object(capsys):
    options = command.parse(["control", "--peers", "10", "100000", "--json"])
    assert command._run(options) == 0
    accounts = json.loads(capsys.readouterr().out)["accounts"]
    assert [each["peers"] for each in accounts] == [10, 100_000]
    assert accounts[1]["bits"] >= 9
    assert command._run(command.parse(["control", "--advert-bytes", str(ADVERT_BYTES)])) == 0
    assert "100,000" in capsys.readouterr().out
