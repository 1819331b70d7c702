"""What a person typed, judged before anything is started: every refusal is a UserError with the code of wrong usage."""

import re
import unicodedata
from collections.abc import Mapping, Sequence
from decimal import Decimal, InvalidOperation
from pathlib import Path
from typing import TYPE_CHECKING, Any

from peer.errors import LOCAL_SETUP, WRONG_USAGE, UserError
from protocol.policy.credits import MAX_TIME_US, PRESETS_MILLIONTHS

if TYPE_CHECKING:
    from peer.config import PeerConfig

MAX_COUNT = 1000  # pictures of one job
_ADDRESS_PREFIXES = ("/ip4/", "/ip6/", "/dns")
_JOB_CHARS = frozenset("0123456789abcdef")
MAX_JOB_CHARS = 64
MAX_NAME_CHARS = 64  # of an adapter, and its id
MAX_VALUE_OF_TIME = 1_000_000  # credits a second
_UNITS_US = {"us": 1, "ms": 1_000, "s": 1_000_000, "min": 60_000_000}


def spread(arguments: list[str]) -> list[str]:
    """`--join A B` as `--join A --join B`, as click wants it; `up` has more options that take several."""
    takes_many = {"--join", "--listen"}
    words = [argument for argument in arguments if not argument.startswith("-")]
    if words[:1] == ["up"]:
        takes_many |= {"--model", "--adapter", "--allow"}
    result: list[str] = []
    option, values = None, 0
    for index, argument in enumerate(arguments):
        if argument == "--":
            return result + arguments[index:]
        if argument.startswith("-"):
            option, values = (argument if argument in takes_many else None), 0
        elif option is not None:
            values += 1
            if values > 1:
                if option in {"--join", "--listen"} and not argument.startswith(_ADDRESS_PREFIXES):
                    option = None  # the prompt
                else:
                    result.append(option)
        result.append(argument)
    return result


def configuration(home: str | None, flags: Mapping[str, Any] | None = None) -> "PeerConfig":
    """The settings that apply; UserError for wrong ones."""
    from peer.config import ConfigError, home_folder, load_config

    folder = home_folder(home)
    if folder.exists() and not folder.is_dir():
        raise UserError(f"The home {folder} is a file; it must be a folder.", LOCAL_SETUP)
    try:
        return load_config(folder, flags)
    except ConfigError as exc:
        raise UserError(str(exc), WRONG_USAGE) from exc


def render_request(
    prompt: str,
    *,
    negative: str,
    model: str | None,
    adapters: Sequence[str] = (),
    size: str | None,
    steps: int | None,
    guidance: str | None,
    sampler: str | None,
    seed: int | None,
    count: int,
    remote: bool,
) -> dict[str, Any]:
    """The body of the control socket's "render"."""
    from protocol.wire.fields import U32
    from protocol.wire.statement import MAX_ADAPTERS, MAX_STEPS, SAMPLERS

    check_words(prompt, "prompt")
    if not prompt.strip():
        raise UserError("The prompt is empty: say what to draw.", WRONG_USAGE)
    check_words(negative, "negative prompt")
    if len(adapters) > MAX_ADAPTERS:
        raise UserError(f"--adapter: at most {MAX_ADAPTERS} can be applied together.", WRONG_USAGE)
    if sampler is not None and sampler not in SAMPLERS:
        choice = ", ".join(sorted(SAMPLERS))
        raise UserError(f"There is no sampler {_shown(sampler)}; there are {choice}.", WRONG_USAGE)
    width, height = (None, None) if size is None else parse_size(size)
    return {
        "prompt": prompt,
        "negative": negative,
        "model": None if model is None else _model(model),
        "width": width,
        "height": height,
        "steps": None if steps is None else _within("--steps", steps, 1, MAX_STEPS),
        "guidance_millionths": None if guidance is None else parse_guidance(guidance),
        "sampler": sampler,
        "seed": None if seed is None else _within("--seed", seed, 0, U32),
        "count": _within("--count", count, 1, MAX_COUNT),
        "remote": remote,
        **({"~adapters": [parse_adapter(text) for text in adapters]} if adapters else {}),
    }


def wishes_request(
    *,
    value_of_time: str | None,
    presets: Sequence[str],
    deadline: str | None,
    within: str | None,
    refine: bool,
    count: int,
) -> dict[str, Any]:
    """What is added to a request about price and time: nothing where nothing was said.

    `refine` adds nothing: it is a second request.
    """
    said = [f"--{preset}" for preset in presets] + (["--value-of-time"] if value_of_time is not None else [])
    if len(said) > 1:
        raise UserError(
            f"{' and '.join(said)} say different things of what time is worth: give one.", WRONG_USAGE
        )
    value = PRESETS_MILLIONTHS[presets[0]] if presets else None
    if within is not None and deadline is not None:
        raise UserError(
            "--within gives up quality to be in time, and --deadline refuses instead: give one.", WRONG_USAGE
        )
    if within is not None and count > 1:
        raise UserError("--within is about one picture: it goes without --count.", WRONG_USAGE)
    if refine and within is None:
        raise UserError(
            "--refine draws what --within gave up: it goes with --within, like --within 300ms --refine.",
            WRONG_USAGE,
        )
    wishes = {
        "~value_of_time_millionths": value if value_of_time is None else parse_value_of_time(value_of_time),
        "~deadline_us": None if deadline is None else parse_time("--deadline", deadline),
        "~within_us": None if within is None else parse_time("--within", within),
    }
    return {"wishes": wishes} if any(each is not None for each in wishes.values()) else {}


def parse_value_of_time(text: str) -> int:
    """Credits x 10^-6 of a decimal number of credits."""
    number = _decimal(text)
    if number is None or not 0 <= number <= MAX_VALUE_OF_TIME:
        raise UserError(
            f"--value-of-time must be from 0 to {MAX_VALUE_OF_TIME} credits a second, not {_shown(text)}.",
            WRONG_USAGE,
        )
    return int((number * 1_000_000).to_integral_value())


def parse_time(name: str, text: str) -> int:
    """Microseconds of "300ms", "2s" or "1.5min"."""
    match = re.fullmatch(r"([0-9]{1,9}(?:\.[0-9]{1,6})?) ?(us|ms|s|min)", text.strip(), re.ASCII)
    if match is None:
        raise UserError(
            f"{name} must be a time with its unit (us, ms, s, min), like 2s or 300ms, not {_shown(text)}.",
            WRONG_USAGE,
        )
    us = int(Decimal(match[1]) * _UNITS_US[match[2]])
    if not 0 < us <= MAX_TIME_US:
        raise UserError(
            f"{name} must be more than nothing and at most a day, not {_shown(text)}.", WRONG_USAGE
        )
    return us


def check_words(text: str, what: str) -> None:
    """UserError unless `text` is short enough, and free of what a terminal or an encoder would stumble over."""
    from protocol.wire.statement import MAX_PROMPT_BYTES

    try:
        size_bytes = len(text.encode())
    except UnicodeEncodeError:
        raise UserError(f"The {what} is not valid UTF-8 text.", WRONG_USAGE) from None
    if size_bytes > MAX_PROMPT_BYTES:
        raise UserError(
            f"The {what} has {size_bytes} bytes; at most {MAX_PROMPT_BYTES} are possible.", WRONG_USAGE
        )
    if any(unicodedata.category(char) == "Cc" and char != "\n" for char in text):
        raise UserError(
            f"The {what} contains control characters; only text and line breaks are possible.", WRONG_USAGE
        )


def parse_size(text: str) -> tuple[int, int]:
    """Width and height in pixels of "512x768" or "512"."""
    from protocol.wire.statement import MAX_SIDE_PX, SIDE_MULTIPLE_PX

    match = re.fullmatch(r"([0-9]{1,6})(?:[xX×]([0-9]{1,6}))?", text.strip(), re.ASCII)
    if match is None:
        raise UserError(f"--size must be like 512x768, or 512 for a square, not {_shown(text)}.", WRONG_USAGE)
    width, height = int(match[1]), int(match[2] or match[1])
    for side in (width, height):
        if not 0 < side <= MAX_SIDE_PX or side % SIDE_MULTIPLE_PX:
            raise UserError(
                f"--size {_shown(text)} is not possible: each side must be a multiple of {SIDE_MULTIPLE_PX}, "
                f"from {SIDE_MULTIPLE_PX} to {MAX_SIDE_PX}.",
                WRONG_USAGE,
            )
    return width, height


def parse_adapter(text: str) -> list[Any]:
    """Name or id, and the weight in millionths, of "NAME" or "NAME=WEIGHT"."""
    from protocol.wire.statement import MAX_WEIGHT_MILLIONTHS, USUAL_WEIGHT_MILLIONTHS

    name, sign, weight = text.rpartition("=")
    name, millionths = (name if sign else text).strip(), USUAL_WEIGHT_MILLIONTHS
    if not name or len(name) > MAX_NAME_CHARS or any(unicodedata.category(char)[0] == "C" for char in name):
        raise UserError(
            "--adapter must be a name or the beginning of an id, or either with =WEIGHT.", WRONG_USAGE
        )
    if sign:
        number, most = _decimal(weight), MAX_WEIGHT_MILLIONTHS // 1_000_000
        if number is None or not 0 <= number <= most:
            raise UserError(
                f"--adapter {_shown(text)}: the weight must be a number from 0 to {most}.", WRONG_USAGE
            )
        millionths = int((number * 1_000_000).to_integral_value())
    return [name, millionths]


def parse_guidance(text: str) -> int:
    """Millionths of a decimal number."""
    from protocol.wire.statement import MAX_GUIDANCE_MILLIONTHS

    most = MAX_GUIDANCE_MILLIONTHS // 1_000_000
    number = _decimal(text)
    if number is None or not 0 <= number <= most:
        raise UserError(f"--guidance must be a number from 0 to {most}, not {_shown(text)}.", WRONG_USAGE)
    return int((number * 1_000_000).to_integral_value())


def job_prefix(text: str) -> str:
    """The beginning of a job's id, as `peer jobs` shows it."""
    prefix = text.strip().lower()
    if not prefix or len(prefix) > MAX_JOB_CHARS or not set(prefix) <= _JOB_CHARS:
        raise UserError(
            f"{_shown(text)} is not the beginning of a job's id; `peer jobs` lists them.", WRONG_USAGE
        )
    return prefix


def _model(text: str) -> str:
    """A name, the beginning of an id, or a folder: that one as an absolute path, for the daemon stands elsewhere."""
    if not text.strip() or any(unicodedata.category(char)[0] == "C" for char in text):
        raise UserError("--model must be a name, the beginning of a model's id, or a folder.", WRONG_USAGE)
    folder = Path(text).expanduser()
    if folder.is_dir():
        return str(folder.resolve())
    if "/" in text and (text.startswith((".", "/", "~")) or text.endswith("/")):
        raise UserError(f"--model {_shown(text)}: there is no such folder.", WRONG_USAGE)
    return text


def _decimal(text: str) -> Decimal | None:
    """None unless it is a finite number."""
    try:
        number = Decimal(text)
    except InvalidOperation:
        return None
    return number if number.is_finite() else None


def _within(name: str, number: int, low: int, high: int) -> int:
    if not low <= number <= high:
        raise UserError(f"{name} must be from {low} to {high}, not {_shown(number)}.", WRONG_USAGE)
    return number


def _shown(value: object) -> str:
    text = str(value) if isinstance(value, int) else ascii(value)
    return text if len(text) <= 60 else f"{text[:57]}..."
