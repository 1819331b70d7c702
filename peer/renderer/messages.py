"""What goes over the pipe between a peer and its renderer: frames of [kind, map], and how a render fails."""

MAX_PIPE_BYTES = 64 << 20  # one frame; a picture's file is the only large one
MAX_FILE_BYTES = MAX_PIPE_BYTES - (1 << 16)  # leaves room for the other fields of "done"
MAX_PREVIEW_SIDE_PX = 64
CANCEL_GRACE_S = 2.0  # a renderer that has not let go of a cancelled task by then is killed

CODES = frozenset(
    {"load_failed", "out_of_memory", "unsupported", "prompt_too_long", "black_picture", "internal"}
)


class RenderFailed(Exception):
    """{sentence}"""

    def __init__(self, code: str, sentence: str, fault: str = "provider") -> None:
        super().__init__(sentence)
        self.code = code  # one of CODES
        self.sentence = sentence  # holds nothing of the prompt
        self.fault = fault  # "provider" or "requester"


def unsupported(sentence: str) -> RenderFailed:
    """What was asked for cannot be drawn here; asking again changes nothing."""
    return RenderFailed("unsupported", sentence, "requester")
