"""What a requester checks of a picture before it is one: the announcement, then file, receipt and pixels."""

import hashlib
from dataclasses import dataclass

from protocol.errors import RemoteProtocolError
from protocol.wire.receipt import SignedReceipt, pixel_hash
from protocol.wire.statement import Statement
from protocol.wire.task import Result

from .picture import check_picture_untrusted

CHECKED = ("signature", "statement", "file", "pixels")  # what `Expected.receipt_untrusted` looked at


@dataclass(frozen=True)
class Expected:
    """What an attempt must give."""

    network: str
    statement: Statement
    attempt: bytes
    provider: str  # peer id
    requester: bytes  # public key
    price_cap_millionths: int | None = None  # of the offer

    def check_announced_untrusted(self, result: Result) -> None:
        """RemoteProtocolError unless RESULT announces a file that can be this picture."""
        wanted = self.statement
        if (result.width, result.height, result.codec) != (wanted.width, wanted.height, wanted.codec):
            raise RemoteProtocolError("the picture is not of the size or format that was asked for")
        if result.file_bytes > most_bytes(wanted):
            raise RemoteProtocolError(f"a file of {result.file_bytes} bytes is too large for this picture")

    def receipt_untrusted(self, envelope: bytes, file: bytes) -> SignedReceipt:
        """The receipt of exactly this picture, the file decoded for it: some milliseconds, so call it in a thread.

        RemoteProtocolError if anything does not hold.
        """
        wanted, signed = self.statement, self._signed_untrusted(envelope)
        receipt = signed.receipt
        if receipt.outcome != "done" or receipt.steps_done < 1:
            raise RemoteProtocolError("the receipt says that the picture was not finished")
        if receipt.file != hashlib.sha256(file).digest() or receipt.file_bytes != len(file):
            raise RemoteProtocolError("the receipt is for another file")
        rgb = check_picture_untrusted(file, wanted.width, wanted.height)
        if receipt.pixels != pixel_hash(rgb, width=wanted.width, height=wanted.height):
            raise RemoteProtocolError("the receipt is for other pixels")
        return signed

    def cancelled_untrusted(self, envelope: bytes, file: bytes) -> SignedReceipt | None:
        """The receipt of what was done before CANCEL was heard; `file`: what came of the picture, if it was faster.

        None: it was, and not all of the file came.  RemoteProtocolError if anything does not hold.
        """
        signed = self._signed_untrusted(envelope)
        receipt, steps = signed.receipt, self.statement.steps
        if receipt.outcome == "done":
            return self.receipt_untrusted(envelope, file) if receipt.file_bytes == len(file) else None
        if receipt.outcome != "cancelled" or receipt.steps_done > steps:
            raise RemoteProtocolError("the receipt is not of what was cancelled")
        cap = self.price_cap_millionths
        if cap is not None and receipt.price_millionths > -(-cap * receipt.steps_done // steps):
            raise RemoteProtocolError("the receipt asks for more than the steps that were done")
        return signed

    def _signed_untrusted(self, envelope: bytes) -> SignedReceipt:
        """What is looked at in every receipt."""
        signed = SignedReceipt.from_untrusted(envelope, network=self.network)
        receipt = signed.receipt
        if signed.provider != self.provider:
            raise RemoteProtocolError("the receipt was signed by another peer")
        if (receipt.attempt, receipt.statement, receipt.requester) != (
            self.attempt,
            self.statement.hash,
            self.requester,
        ):
            raise RemoteProtocolError("the receipt is for another picture")
        cap = self.price_cap_millionths
        if cap is not None and receipt.price_millionths > cap:
            raise RemoteProtocolError("the receipt asks for more than was offered")
        return signed


def most_bytes(statement: Statement) -> int:
    """No PNG of this size is larger: RGBA rows uncompressed, and as much again for chunks."""
    return 8 * statement.pixels + (1 << 16)
