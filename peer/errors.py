"""What a person is told when the command cannot do what was asked."""

JOB_FAILED = 1
WRONG_USAGE = 2
NOBODY = 3  # no peer can do it, or there are no peers
LOCAL_SETUP = 4  # key, port, lock, weights on this machine
CANCELLED = 130  # 128 + SIGINT, as shells have it


class UserError(Exception):
    """A sentence for the person, and the exit code of the command."""

    def __init__(self, sentence: str, exit_code: int = JOB_FAILED) -> None:
        super().__init__(sentence)
        self.sentence = sentence
        self.exit_code = exit_code
