"""For all tests."""

import signal

# A shell that starts them in the background ignores Ctrl-C for them, and so would every process that they start.
signal.signal(signal.SIGINT, signal.default_int_handler)
