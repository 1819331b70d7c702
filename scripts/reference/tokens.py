"""The model's own small CLIP vocabulary: every byte, and the merges its captions earn."""

import json
from pathlib import Path

import torch
from tokenizers import Tokenizer, models, pre_tokenizers, trainers
from transformers import CLIPTokenizer

MERGES = 1024
MAX_TOKENS = 64  # start, end and padding included
START, END = "<|startoftext|>", "<|endoftext|>"
WORD_END = "</w>"
OLDER_FILES = ("vocab.json", "merges.txt")  # transformers before 5 reads these, not tokenizer.json


def train(texts: list[str], folder: Path) -> None:
    """Learn merges from `texts` and write the tokenizer to `folder`.

    All 256 bytes are in the vocabulary, inside a word and at its end, so no text becomes an unknown token.
    """
    rules = CLIPTokenizer().backend_tokenizer  # CLIP's own lower-casing and splitting
    learner = Tokenizer(models.BPE(end_of_word_suffix=WORD_END))
    learner.normalizer = rules.normalizer
    learner.pre_tokenizer = rules.pre_tokenizer
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    trainer = trainers.BpeTrainer(
        vocab_size=2 * len(alphabet) + MERGES,
        initial_alphabet=alphabet,
        end_of_word_suffix=WORD_END,
        min_frequency=2,
        show_progress=False,
    )
    learner.train_from_iterator(texts, trainer)
    merges = [tuple(pair) for pair in json.loads(learner.to_str())["model"]["merges"]]
    words = [*alphabet, *(letter + WORD_END for letter in alphabet), *("".join(pair) for pair in merges)]
    words += [START, END]
    vocabulary = {word: number for number, word in enumerate(dict.fromkeys(words))}
    tokenizer = CLIPTokenizer(vocab=vocabulary, merges=merges, model_max_length=MAX_TOKENS)
    tokenizer.save_pretrained(folder)
    words_file, merges_file = OLDER_FILES
    (folder / words_file).write_text(json.dumps(vocabulary, ensure_ascii=False))
    lines = ["#version: 0.2", *(" ".join(pair) for pair in merges)]
    (folder / merges_file).write_text("\n".join(lines) + "\n")


def load(folder: Path) -> CLIPTokenizer:
    return CLIPTokenizer.from_pretrained(folder)


def encode(tokenizer: CLIPTokenizer, texts: list[str], length: int = MAX_TOKENS) -> torch.Tensor:
    """Token numbers as the stock pipelines feed them: (n, length) int64, padded and cut."""
    return tokenizer(
        texts, padding="max_length", max_length=length, truncation=True, return_tensors="pt"
    ).input_ids
