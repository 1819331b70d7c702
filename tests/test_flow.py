"""A flow of bytes beside real peers, over emulated links."""

import json
import os
import subprocess
import sys

import pytest

from testnet import tun
from testnet.swarm import ROOT


def can_emulate() -> bool:
    try:
        descriptors = tun.make_host("10.66.255.1", 1500)
    except tun.CannotEmulate:
        return False
    for each in descriptors:
        os.close(each)
    return True


@pytest.mark.slow
@pytest.mark.skipif(not can_emulate(), reason="no network namespaces or TUN devices here")
def test_a_flow_gets_its_rate_beside_peers() -> None:
    command = [sys.executable, "-m", "testnet", "goodput", "--peers", "3", "--rate", "50", "--json"]
    told = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    found = json.loads(told.stdout.splitlines()[-1])
    assert told.returncode == 0, (found, told.stderr)
    assert 0.9 <= found["share"] < 1
