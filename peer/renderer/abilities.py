"""What a model can draw exactly as it is asked for: said once, known before any weights are loaded.  No torch.

Whoever has a model's folder makes its Abilities from the configs; the renderer makes them from the pipeline it loaded,
and has the last word.
"""

from collections.abc import Callable
from dataclasses import dataclass

from protocol.wire.statement import SAMPLERS, Statement

from .messages import RenderFailed, unsupported

SAMPLERS_OF = {  # README section 8; the first is the one that a fresh pipeline is given
    "sd": ("ddim", "euler"),
    "sdxl": ("ddim", "euler"),
    "sd3": ("flow_euler",),
    "flux": ("flow_euler",),
}
assert {name for names in SAMPLERS_OF.values() for name in names} == SAMPLERS
SIDE_MULTIPLE_CELLS = {"sd": 1, "sdxl": 1, "sd3": 2, "flux": 2}  # width and height, in latent cells
T5_TOKENS = {
    "sd3": 256,
    "flux": 512,
}  # max_sequence_length of diffusers' pipeline_stable_diffusion_3.py, pipeline_flux.py
MARKS = 4  # more tokens than these no tokenizer adds to a text: a begin, an end, a space before it
NO_GUIDANCE_MILLIONTHS = 1_000_000


@dataclass(frozen=True)
class Reader:
    """One tokenizer: the encoder behind it reads `limit` tokens, marks included."""

    limit: int
    count: Callable[[str], int]  # the tokens of a text, marks included


@dataclass(frozen=True)
class Abilities:
    family: str  # sd, sdxl, sd3, flux
    cell_px: int  # side of the square of pixels that one latent cell stands for
    most_steps: int
    guided: bool  # a Flux model that takes a guidance
    readers: tuple[Reader, ...]

    def check(self, statement: Statement) -> None:
        """RenderFailed, with a sentence that holds nothing of the prompt, where it cannot be drawn exactly."""
        self.check_shape(statement)
        self.check_prompts(statement)

    def check_shape(self, statement: Statement) -> None:
        """All but the length of the prompts, and the adapters, which are not the model's: takes no time."""
        multiple_px = SIDE_MULTIPLE_CELLS[self.family] * self.cell_px
        if statement.width % multiple_px or statement.height % multiple_px:
            asked = f"{statement.width}x{statement.height}"
            raise unsupported(f"This model draws sizes that are multiples of {multiple_px} px, not {asked}.")
        samplers = SAMPLERS_OF[self.family]
        if statement.sampler not in samplers:
            raise unsupported(
                f"A model of the family {self.family} is sampled with {' or '.join(samplers)}, "
                f"not {statement.sampler}."
            )
        if statement.steps > self.most_steps:
            raise unsupported(
                f"This model's sampler takes at most {self.most_steps} steps, not {statement.steps}."
            )
        if self.family == "flux":
            if statement.negative:
                raise unsupported("A Flux model takes no negative prompt.")
            if not self.guided and statement.guidance_millionths > NO_GUIDANCE_MILLIONTHS:
                raise unsupported("This model was distilled without guidance: ask for guidance 0.")
        elif statement.negative and statement.guidance_millionths <= NO_GUIDANCE_MILLIONTHS:
            raise unsupported("A negative prompt does nothing at a guidance of 1 or less.")

    def check_prompts(self, statement: Statement) -> None:
        for text, what in ((statement.prompt, "prompt"), (statement.negative, "negative prompt")):
            for reader in self.readers:
                count = reader.count(text)
                if count > reader.limit:
                    raise RenderFailed(
                        "prompt_too_long",
                        f"The {what} is {count} tokens long; this model reads {reader.limit}, "
                        "its two end marks included.",
                        "requester",
                    )

    def surely_reads(self, statement: Statement) -> bool:
        """The prompts fit however they are cut: no token is less than one ASCII character."""
        limit = min((reader.limit for reader in self.readers), default=0) - MARKS
        return all(text.isascii() and len(text) <= limit for text in (statement.prompt, statement.negative))
