"""What a person may set about a peer: from flags, the environment and ``config.toml`` in its home, in this order.

Every setting has one name: ``join`` is the flag ``--join``, the variable ``NEARLIGHT_JOIN`` (lists are separated by
commas) and the key ``join`` in the file.
"""

import os
import re
import tomllib
import unicodedata
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from decimal import Decimal, InvalidOperation
from pathlib import Path
from typing import Any

from protocol.errors import MalformedMessage
from protocol.wire.hello import MAX_NETWORK_BYTES
from protocol.wire.identity import key_of_untrusted

FILE = "config.toml"
ENVIRONMENT_PREFIX = "NEARLIGHT_"
MAX_FILE_BYTES = 1 << 20
MAX_NAME_CHARS = 64
PSK_BYTES = 32
MAX_PRICE = 1_000_000  # credits: of the largest picture that a peer takes, a receipt can still say the price
PRICE_DIGITS = 6  # behind the point: prices are told in millionths
# Any free port: several peers on one machine do not get in each other's way.
DEFAULT_LISTEN = ("/ip4/0.0.0.0/tcp/0",)
DEFAULT_NETWORK = "main"

_LISTS = frozenset({"listen", "join", "models", "adapters", "allow"})
_FOLDERS = frozenset({"models", "adapters"})
_FLAGS = frozenset({"provide"})
_NUMBERS = frozenset({"memory_percent"})
_AMOUNTS = frozenset({"price"})
_WORDS = {
    "1": True,
    "true": True,
    "yes": True,
    "on": True,
    "0": False,
    "false": False,
    "no": False,
    "off": False,
}
_ADDRESS = re.compile(
    r"/(?:ip4/[0-9.]{7,15}|ip6/[0-9a-fA-F:.]{2,45}|dns[46]?/[A-Za-z0-9.-]{1,253})/tcp/([0-9]{1,5})(/p2p/([^/]{1,64}))?"
)
_NETWORK = re.compile(r"[a-z0-9][a-z0-9._-]*")
_DEVICE = re.compile(r"auto|cpu|cuda(:[0-9]{1,2})?|mps")


class ConfigError(Exception):
    """The setting NAME is wrong: what it must be, what it is, and where it was read."""


@dataclass(frozen=True)
class PeerConfig:
    """One peer's settings, checked; ConfigError from the constructor."""

    home: Path
    listen: tuple[str, ...] = DEFAULT_LISTEN  # multiaddrs
    join: tuple[str, ...] = ()  # multiaddrs that end in /p2p/ID
    provide: bool = False  # render for others
    models: tuple[Path, ...] = ()  # folders in the format of diffusers
    adapters: tuple[Path, ...] = ()  # folders with LoRA weights as diffusers saves them, for these models
    device: str = "auto"  # auto, cpu, cuda, cuda:0, mps
    allow: tuple[str, ...] = ()  # peer ids to render for; none: for everyone
    name: str = ""  # shown to others
    network: str = DEFAULT_NETWORK  # peers of another network are strangers
    psk: bytes | None = field(default=None, repr=False)  # 32 bytes that every peer of a private swarm has
    # Credits for one step of one megapixel; none are moved, it steers who is asked.
    price: Decimal = Decimal(0)
    memory_percent: int = 80  # of this machine's, for peer and renderer; with more, the renderer is restarted

    def __post_init__(self) -> None:
        for address in self.listen:
            _check_address(address, "listen", "an address like /ip4/0.0.0.0/tcp/4001", with_peer=False)
        for address in self.join:
            _check_address(
                address, "join", "an address like /ip4/192.168.1.7/tcp/4001/p2p/12D3KooW...", with_peer=True
            )
        if not self.listen:
            raise ConfigError("listen must name at least one address, like /ip4/0.0.0.0/tcp/4001.")
        for peer in self.allow:
            _check_peer(peer, "allow")
        if not _DEVICE.fullmatch(self.device):
            raise ConfigError(f"device must be auto, cpu, cuda, cuda:N or mps, not {_shown(self.device)}.")
        if len(self.name) > MAX_NAME_CHARS or any(unicodedata.category(char)[0] == "C" for char in self.name):
            raise ConfigError(f"name must be at most {MAX_NAME_CHARS} characters without control characters.")
        if not _NETWORK.fullmatch(self.network) or len(self.network) > MAX_NETWORK_BYTES:
            raise ConfigError(
                f"network must be 1 to {MAX_NETWORK_BYTES} of a-z, 0-9, dot, dash and underscore, "
                f"not {_shown(self.network)}."
            )
        for name, folders in (("models", self.models), ("adapters", self.adapters)):
            for folder in folders:
                if not folder.is_dir():
                    raise ConfigError(f"{name} must name folders, and {folder} is not a folder.")
        if self.psk is not None and len(self.psk) != PSK_BYTES:
            raise ConfigError(f"psk must be {2 * PSK_BYTES} hexadecimal digits.")
        price = self.price
        if not price.is_finite() or not 0 <= price <= MAX_PRICE or price != round(price, PRICE_DIGITS):
            raise ConfigError(
                f"price must be from 0 to {MAX_PRICE} credits for one step of one megapixel, "
                f"with at most {PRICE_DIGITS} digits behind the point, not {_shown(str(price))}."
            )
        if not 1 <= self.memory_percent <= 100:
            raise ConfigError(f"memory_percent must be from 1 to 100, not {self.memory_percent}.")

    @property
    def price_millionths(self) -> int | None:
        """As an advert has it: credits x 10^-6, None where nothing is asked."""
        return int(self.price.scaleb(PRICE_DIGITS)) or None


def home_folder(option: str | None, environment: Mapping[str, str] = os.environ) -> Path:
    """Where the peer lives: `option` (--home), else NEARLIGHT_HOME, else the platform's folder for user data."""
    chosen = option or environment.get(f"{ENVIRONMENT_PREFIX}HOME")
    if chosen:
        return Path(os.path.abspath(Path(chosen).expanduser()))
    import platformdirs

    return Path(platformdirs.user_data_dir("nearlight", appauthor=False))


def load_config(
    home: Path, flags: Mapping[str, Any] | None = None, environment: Mapping[str, str] = os.environ
) -> PeerConfig:
    """The settings of the peer in `home`: a flag beats the environment beats the file beats the default; ConfigError.

    `flags` maps names of PeerConfig's fields to text, flag or list of texts; None and empty lists were not given.
    """
    names = {each.name for each in fields(PeerConfig)} - {"home"}
    settings: dict[str, Any] = {}
    path = home / FILE
    for name, value in _read_file(path).items():
        if name not in names:
            raise ConfigError(
                f"{path}: there is no setting {_shown(name)}; there are {', '.join(sorted(names))}."
            )
        settings[name] = _typed(name, value, str(path))
    for name in names:
        variable = ENVIRONMENT_PREFIX + name.upper()
        if text := environment.get(variable):
            settings[name] = _typed(name, _from_text(name, text, variable), variable)
    for name, value in (flags or {}).items():
        if name not in names:
            raise TypeError(f"no setting {name!r}")
        if value is not None and value != [] and value != ():
            settings[name] = _typed(name, value, f"--{name}")
    return PeerConfig(home=home, **settings)


def _read_file(path: Path) -> dict[str, Any]:
    try:
        with path.open("rb") as file:
            text = file.read(MAX_FILE_BYTES + 1)
    except FileNotFoundError:
        return {}
    except OSError as exc:
        raise ConfigError(f"The settings in {path} cannot be read: {exc.strerror}.") from exc
    if len(text) > MAX_FILE_BYTES:
        raise ConfigError(f"The settings in {path} are larger than {MAX_FILE_BYTES} bytes.")
    try:
        return tomllib.loads(text.decode())
    except (tomllib.TOMLDecodeError, UnicodeDecodeError, RecursionError) as exc:
        raise ConfigError(f"The settings in {path} are not TOML: {exc}.") from exc


def _from_text(name: str, text: str, where: str) -> Any:
    if name in _LISTS:
        return [part.strip() for part in text.split(",") if part.strip()]
    if name in _FLAGS:
        if text.lower() not in _WORDS:
            raise ConfigError(f"{where}: {name} must be true or false, not {_shown(text)}.")
        return _WORDS[text.lower()]
    if name in _NUMBERS and re.fullmatch("[0-9]{1,9}", text):
        return int(text)
    return text


def _typed(name: str, value: Any, where: str) -> Any:
    """The value of a setting in PeerConfig's type; ConfigError names `where` it was read."""
    if name in _FLAGS:
        if not isinstance(value, bool):
            raise ConfigError(f"{where}: {name} must be true or false, not {_shown(value)}.")
        return value
    if name in _NUMBERS:
        if not isinstance(value, int) or isinstance(value, bool):
            raise ConfigError(f"{where}: {name} must be a whole number, not {_shown(value)}.")
        return value
    if name in _AMOUNTS:
        try:
            if isinstance(value, bool):
                raise InvalidOperation
            return Decimal(str(value))  # of a float in a file, the digits that were written
        except InvalidOperation:
            raise ConfigError(f"{where}: {name} must be a number, not {_shown(value)}.") from None
    if name in _LISTS:
        if not isinstance(value, list | tuple) or not all(isinstance(item, str | Path) for item in value):
            raise ConfigError(f"{where}: {name} must be a list of texts, not {_shown(value)}.")
        if name in _FOLDERS:
            return tuple(Path(os.path.abspath(Path(item).expanduser())) for item in value)
        return tuple(str(item) for item in value)
    if not isinstance(value, str):
        raise ConfigError(f"{where}: {name} must be text, not {_shown(value)}.")
    if name == "psk":
        if not re.fullmatch(f"[0-9a-fA-F]{{{2 * PSK_BYTES}}}", value):
            raise ConfigError(f"{where}: psk must be {2 * PSK_BYTES} hexadecimal digits.")
        return bytes.fromhex(value)
    return value


def _check_address(address: str, name: str, expected: str, *, with_peer: bool) -> None:
    match = _ADDRESS.fullmatch(address)
    if match is None or int(match[1]) > 65535 or with_peer != (match[2] is not None):
        raise ConfigError(f"{name} must be {expected}, not {_shown(address)}.")
    if match[3] is not None:
        _check_peer(match[3], name)


def _check_peer(peer: str, name: str) -> None:
    try:
        key_of_untrusted(peer)
    except MalformedMessage:
        raise ConfigError(f"{name}: {_shown(peer)} is not a peer id like 12D3KooW...") from None


def _shown(value: object) -> str:
    """Someone's input, short and without anything a terminal would obey."""
    text = repr(value)
    return text if len(text) <= 100 else f"{text[:97]}..."
