from peer.service import _of_batch
from protocol.wire.statement import Statement
from tests.world import statement


def test_the_pictures_of_a_batch_differ_in_seed_and_salt_only():
    first = Statement.from_untrusted(statement(seed=2**32 - 1).to_bytes())  # as the service holds it
    batch = [_of_batch(first, index) for index in range(3)]
    assert [each.seed for each in batch] == [2**32 - 1, 0, 1]
    assert len({each.salt for each in batch}) == len({each.hash for each in batch}) == 3
    for each in batch:
        changed = {**each.to_value(), "seed": first.seed, "salt": first.salt}
        assert changed == first.to_value()
        assert Statement.from_untrusted(each.to_bytes()) == each
