import os
import subprocess
import sys
from pathlib import Path

import pytest

from peer.config import DEFAULT_LISTEN, ConfigError, PeerConfig, home_folder, load_config
from peer.store.identity import peer_id

PEER = peer_id(b"\x01" * 32)
JOIN = f"/ip4/192.168.1.7/tcp/4001/p2p/{PEER}"


def write(home, text):
    (home / "config.toml").write_text(text)


def test_a_peer_that_was_told_nothing_provides_nothing(tmp_path):
    config = load_config(tmp_path, environment={})
    assert config == PeerConfig(home=tmp_path)
    assert (config.provide, config.join, config.listen, config.psk) == (False, (), DEFAULT_LISTEN, None)


def test_a_flag_beats_the_environment_beats_the_file(tmp_path):
    write(tmp_path, 'name = "file"\ndevice = "cpu"\nnetwork = "garden"\nprovide = true\n')
    environment = {"NEARLIGHT_NAME": "environment", "NEARLIGHT_DEVICE": "cuda:1", "NEARLIGHT_PROVIDE": "no"}
    config = load_config(tmp_path, {"name": "flag", "device": None, "listen": [], "allow": ()}, environment)
    assert (config.name, config.device, config.network, config.provide) == ("flag", "cuda:1", "garden", False)
    assert config.listen == DEFAULT_LISTEN


def test_lists_come_from_all_three(tmp_path):
    (tmp_path / "model").mkdir()
    write(tmp_path, f'listen = ["/ip4/127.0.0.1/tcp/0", "/ip6/::/tcp/4001"]\nmodels = ["{tmp_path}/model"]\n')
    config = load_config(
        tmp_path, {"allow": [PEER]}, {"NEARLIGHT_JOIN": f"{JOIN}, /dns4/a.example/tcp/1/p2p/{PEER}"}
    )
    assert config.listen == ("/ip4/127.0.0.1/tcp/0", "/ip6/::/tcp/4001")
    assert config.join == (JOIN, f"/dns4/a.example/tcp/1/p2p/{PEER}")
    assert config.models == (tmp_path / "model",)
    assert config.allow == (PEER,)


def test_a_number_is_read_from_both(tmp_path):
    assert load_config(tmp_path, environment={}).memory_percent == 80
    write(tmp_path, "memory_percent = 50\n")
    assert load_config(tmp_path, environment={}).memory_percent == 50
    assert load_config(tmp_path, environment={"NEARLIGHT_MEMORY_PERCENT": "60"}).memory_percent == 60
    for wrong in ("half", "0", "101", "-1"):
        with pytest.raises(ConfigError, match="memory_percent must be"):
            load_config(tmp_path, environment={"NEARLIGHT_MEMORY_PERCENT": wrong})


@pytest.mark.parametrize(
    ("text", "millionths"),
    [
        ("0.5", 500_000),
        ('"0.5"', 500_000),
        ("0.1", 100_000),
        ("3", 3_000_000),
        ("1e-6", 1),
        ("0", None),
        ("0.0", None),
    ],
)
def test_a_price_is_read_to_the_digit(tmp_path, text, millionths):
    write(tmp_path, f"price = {text}\n")
    assert load_config(tmp_path, environment={}).price_millionths == millionths


def test_a_price_comes_from_the_flag_and_the_environment_too_and_is_nothing_unless_told(tmp_path):
    assert load_config(tmp_path, environment={}).price_millionths is None
    environment = {"NEARLIGHT_PRICE": "0.25"}
    assert load_config(tmp_path, environment=environment).price_millionths == 250_000
    assert load_config(tmp_path, {"price": "2"}, environment).price_millionths == 2_000_000


@pytest.mark.parametrize(
    "wrong", ["-1", "-0.000001", "0.0000001", "1000001", "inf", "nan", "cheap", "1e99999999"]
)
def test_a_price_that_cannot_be_is_a_sentence(tmp_path, wrong):
    with pytest.raises(ConfigError, match="price must be ") as told:
        load_config(tmp_path, {"price": wrong}, {})
    assert len(str(told.value)) < 200


def test_a_shared_key_is_read_and_not_shown(tmp_path):
    config = load_config(tmp_path, environment={"NEARLIGHT_PSK": "ab" * 32})
    assert config.psk == b"\xab" * 32
    assert "psk" not in repr(config)


@pytest.mark.parametrize(
    ("flags", "sentence"),
    [
        (
            {"listen": ["0.0.0.0:4001"]},
            "listen must be an address like /ip4/0.0.0.0/tcp/4001, not '0.0.0.0:4001'.",
        ),
        ({"listen": ["/ip4/0.0.0.0/tcp/70000"]}, "listen must be"),
        ({"listen": [JOIN]}, "listen must be"),
        ({"join": ["/ip4/10.0.0.1/tcp/1"]}, "join must be an address like .*/p2p/12D3KooW"),
        ({"join": ["/ip4/10.0.0.1/tcp/1/p2p/QmNoEd25519"]}, "join: 'QmNoEd25519' is not a peer id"),
        ({"allow": ["bob"]}, "allow: 'bob' is not a peer id"),
        ({"device": "tpu"}, "device must be auto, cpu, cuda, cuda:N or mps, not 'tpu'."),
        ({"name": "x" * 65}, "name must be at most 64 characters"),
        ({"name": "\x1b[31m"}, "without control characters"),
        ({"name": "\u202e"}, "without control characters"),
        ({"network": "My Net"}, "network must be 1 to 64 of a-z"),
        ({"network": "x" * 65}, "network must be"),
        ({"models": ["/nowhere/model"]}, "/nowhere/model is not a folder"),
        ({"psk": "ab"}, "--psk: psk must be 64 hexadecimal digits"),
    ],
)
def test_a_wrong_setting_is_a_sentence(tmp_path, flags, sentence):
    with pytest.raises(ConfigError, match=sentence):
        load_config(tmp_path, flags, {})


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("listen = 7", "config.toml: listen must be a list of texts, not 7"),
        ('listen = "x"', "must be a list of texts"),
        ('provide = "yes"', "provide must be true or false, not 'yes'"),
        ("name = 3", "name must be text, not 3"),
        ("joni = []", r"there is no setting 'joni'; there are adapters, allow, device, join"),
        ('home = "/x"', "there is no setting 'home'"),
        ("[", "config.toml are not TOML"),
        ("a = " + "[" * 5000, "config.toml are not TOML"),
        ('name = "' + "x" * (1 << 20) + '"', "larger than"),
    ],
)
def test_a_wrong_file_is_a_sentence_that_names_it(tmp_path, text, sentence):
    write(tmp_path, text)
    with pytest.raises(ConfigError, match=sentence):
        load_config(tmp_path, environment={})


def test_a_file_that_is_no_text_is_a_sentence(tmp_path):
    (tmp_path / "config.toml").write_bytes(b"\xff")
    with pytest.raises(ConfigError, match="not TOML"):
        load_config(tmp_path, environment={})
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "config.toml").mkdir()
    with pytest.raises(ConfigError, match="Is a directory"):
        load_config(tmp_path / "other", environment={})


def test_a_wrong_word_in_the_environment_names_the_variable(tmp_path):
    with pytest.raises(ConfigError, match="NEARLIGHT_PROVIDE: provide must be true or false, not 'perhaps'"):
        load_config(tmp_path, environment={"NEARLIGHT_PROVIDE": "perhaps"})


def test_the_home_is_the_option_then_the_variable_then_the_platforms(tmp_path):
    assert home_folder(str(tmp_path), {"NEARLIGHT_HOME": "/elsewhere"}) == tmp_path
    assert home_folder(None, {"NEARLIGHT_HOME": "/elsewhere"}) == Path("/elsewhere")
    assert home_folder("relative", {}) == Path(os.getcwd()) / "relative"
    assert home_folder("~/x", {}).is_absolute()
    assert "nearlight" in str(home_folder(None, {}))


def test_nothing_heavy_is_imported():
    code = (
        "import sys, peer.config, peer.journal, peer.picture, peer.store.identity, peer.store.ledger, peer.store.models\n"
        "print(sorted({'torch', 'libp2p', 'trio', 'PIL', 'numpy', 'diffusers', 'platformdirs'} & set(sys.modules)))"
    )
    assert subprocess.check_output([sys.executable, "-c", code], text=True).strip() == "[]"
