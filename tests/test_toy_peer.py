"""protocol/README.md is enough to write a peer: tests/toy_peer.py was, and has a picture drawn by a real one."""

import ast
import hashlib
import json
import sys
from pathlib import Path

import pytest
import trio
from PIL import Image

from peer.store.ledger import FILE as LEDGER
from peer.store.ledger import Ledger
from testnet import processes
from testnet.swarm import SwarmConfig, swarm

TOY = Path(__file__).with_name("toy_peer.py")
SIDE_PX = 512  # a file of several chunks
READY_WITHIN_S = 90  # on two cores that train a model at the same time
DRAWN_WITHIN_S = 120


def test_the_toy_imports_neither_peer_nor_protocol() -> None:
    imported = set()
    for node in ast.walk(ast.parse(TOY.read_text())):
        if isinstance(node, ast.Import):
            imported |= {name.name.partition(".")[0] for name in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0
            imported.add((node.module or "").partition(".")[0])
    assert "libp2p" in imported
    assert imported & {"peer", "protocol", "testnet", "tests", "importlib"} == set()


@pytest.mark.slow
async def test_the_toy_joins_and_has_a_picture_drawn(tmp_path: Path) -> None:
    config = SwarmConfig(peers=1, home=tmp_path / "net", ready_within_s=READY_WITHIN_S)
    async with swarm(config) as running:
        provider = running.peers[0]
        picture = tmp_path / "picture.png"
        with trio.fail_after(DRAWN_WITHIN_S):
            done = await trio.run_process(
                [sys.executable, str(TOY), provider.address, str(picture), str(SIDE_PX)],
                cwd=tmp_path,  # so that the repository's packages are not even on its path
                env=processes.environment(),
                capture_stdout=True,
                capture_stderr=True,
                check=False,
            )
        assert done.returncode == 0, done.stderr.decode()
        told = json.loads(done.stdout)
    _check_picture(told, picture, provider.peer_id)
    _check_ledger(told, provider.home / LEDGER)


def _check_picture(told: dict, picture: Path, provider: str) -> None:
    assert told["provider"] == provider
    assert told["name"] == "p0"
    assert told["opened_link"] == (told["requester"] < provider)
    assert told["pings"] > 0
    assert told["said"]["chunk"] > 2
    assert told["said"]["receipt"] == 1
    data = picture.read_bytes()
    assert told["file_bytes"] == len(data)
    assert told["file"] == hashlib.sha256(data).hexdigest()
    with Image.open(picture) as image:
        assert (image.format, image.size, image.mode) == ("PNG", (SIDE_PX, SIDE_PX), "RGB")
        size = SIDE_PX.to_bytes(4, "big") * 2
        assert told["pixels"] == hashlib.sha256(b"nearlight/pixels/1\0" + size + image.tobytes()).hexdigest()


def _check_ledger(told: dict, path: Path) -> None:
    ledger = Ledger(path)
    try:
        kept = ledger.get_receipt(bytes.fromhex(told["attempt"]), "provider")
    finally:
        ledger.close()
    assert kept is not None
    assert kept.peer == told["requester"]
    assert kept.settled is not None
