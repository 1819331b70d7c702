"""How many tokens a prompt has for a model's own tokenizers, counted without torch and before anything is loaded."""

from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

from ..renderer.messages import RenderFailed

TOKENIZERS_KEPT = 16  # some MB each; a model has one to three


@dataclass(frozen=True)
class TokenCounter:
    """Calls count the tokens of a text, marks included; RenderFailed where the tokenizer's files are broken."""

    folder: Path  # of the tokenizer

    def __call__(self, text: str) -> int:
        return len(_tokenizer(self.folder).encode(text).ids)


def can_count(folder: Path) -> bool:
    """Whether the folder has what `tokenizers` reads; a sentencepiece model alone is only read with transformers."""
    tables = ("vocab.json", "merges.txt")
    return (folder / "tokenizer.json").is_file() or all((folder / name).is_file() for name in tables)


@lru_cache(maxsize=TOKENIZERS_KEPT)
def _tokenizer(folder: Path) -> Any:
    from tokenizers import Tokenizer

    try:
        if (folder / "tokenizer.json").is_file():
            tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
        else:
            tokenizer = _clip(folder)
    except Exception as exc:
        raise RenderFailed("load_failed", f"The model's {folder.name} cannot be read.") from exc
    tokenizer.no_truncation()
    tokenizer.no_padding()
    return tokenizer


def _clip(folder: Path) -> Any:
    """CLIP's tokenizer from its tables alone, put together as transformers' tokenization_clip.py does."""
    from tokenizers import Regex, Tokenizer, models, normalizers, pre_tokenizers, processors

    begin, end = "<|startoftext|>", "<|endoftext|>"
    vocabulary, merges = models.BPE.read_file(str(folder / "vocab.json"), str(folder / "merges.txt"))
    tokenizer: Any = Tokenizer(
        models.BPE(vocabulary, merges, continuing_subword_prefix="", end_of_word_suffix="</w>", unk_token=end)
    )
    tokenizer.normalizer = normalizers.Sequence(
        [normalizers.NFC(), normalizers.Replace(Regex(r"\s+"), " "), normalizers.Lowercase()]
    )
    words = r"<\|startoftext\|>|<\|endoftext\|>|'s|'t|'re|'ve|'m|'ll|'d|[\p{L}]+|[\p{N}]|[^\s\p{L}\p{N}]+"
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(words), behavior="removed", invert=True),
            pre_tokenizers.ByteLevel(add_prefix_space=False),
        ]
    )
    tokenizer.add_special_tokens([begin, end])
    last, first = ((mark, tokenizer.token_to_id(mark)) for mark in (end, begin))
    tokenizer.post_processor = processors.RobertaProcessing(last, first, add_prefix_space=False)
    return tokenizer
