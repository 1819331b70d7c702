"""Errors out of nurseries: which one is told, and whom it blames."""

import pytest

from peer.groups import is_their_fault, one_error
from protocol.errors import LocalProtocolError, MalformedMessage, RemoteProtocolError, UnknownCriticalField


def test_one_error_of_the_first_kind_comes_out_of_a_group():
    wrong = RemoteProtocolError("wrong")
    group = ExceptionGroup("", [OSError("gone"), ExceptionGroup("", [wrong])])
    with pytest.raises(RemoteProtocolError) as caught, one_error(RemoteProtocolError, OSError):
        raise group
    assert caught.value is wrong
    with pytest.raises(OSError, match="gone"), one_error(RemoteProtocolError, OSError):
        raise ExceptionGroup("", [OSError("gone")])


def test_a_group_with_anything_else_in_it_stays_whole():
    group = ExceptionGroup("", [OSError("gone"), KeyError("ours")])
    with pytest.raises(ExceptionGroup) as caught, one_error(RemoteProtocolError, OSError):
        raise group
    assert caught.value is group


@pytest.mark.parametrize(
    ("error", "theirs"),
    [
        (MalformedMessage("bytes"), True),
        (ExceptionGroup("", [OSError(), ExceptionGroup("", [RemoteProtocolError("a lie")])]), True),
        (UnknownCriticalField("newer"), False),
        (LocalProtocolError("ours"), False),
        (ExceptionGroup("", [OSError(), KeyError()]), False),
    ],
)
def test_whose_fault(error, theirs):
    assert is_their_fault(error) is theirs
