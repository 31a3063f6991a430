"""CLIP's tokenizer, from the vocabulary file that OpenAI publishes with CLIP (see `data/LICENSE.txt`)."""

from __future__ import annotations

import gzip
import json
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from transformers import CLIPTokenizer

_VOCABULARY = Path(__file__).parent / "data" / "bpe_simple_vocab_16e6.txt.gz"
_TOKENS = 49152
"""What CLIP uses of the file's merges: 2 * 256 byte tokens, 48894 merges and two marks make 49408 tokens."""


def clip(pad: str = "<|endoftext|>") -> CLIPTokenizer:
    """The tokenizer of CLIP ViT-L; OpenCLIP's differs in what it pads with, `pad="!"` (token 0)."""
    from transformers import CLIPTokenizer

    with TemporaryDirectory() as folder:  # transformers 4 wants files and 5 wants objects; both read a folder
        write(Path(folder))
        return CLIPTokenizer.from_pretrained(
            folder, local_files_only=True, model_max_length=77, pad_token=pad
        )


def write(folder: Path) -> None:
    """Write the vocabulary as `vocab.json` and `merges.txt`, which every version of transformers reads."""
    merges = _merges()
    vocabulary = {token: i for i, token in enumerate(_tokens(merges))}
    (folder / "vocab.json").write_text(json.dumps(vocabulary), encoding="utf-8")
    lines = "\n".join(["#version: 0.2", *(" ".join(pair) for pair in merges)])
    (folder / "merges.txt").write_text(lines + "\n", encoding="utf-8")


def _merges() -> list[tuple[str, ...]]:
    lines = gzip.decompress(_VOCABULARY.read_bytes()).decode("utf-8").split("\n")
    return [tuple(line.split()) for line in lines[1 : 1 + _TOKENS - 256 - 2]]


def _tokens(merges: list[tuple[str, ...]]) -> list[str]:
    """Every byte, every byte that ends a word, every merge, and the two marks, in the order of their ids."""
    letters = _byte_letters()
    words_end = [letter + "</w>" for letter in letters]
    return [*letters, *words_end, *("".join(pair) for pair in merges), "<|startoftext|>", "<|endoftext|>"]


def _byte_letters() -> list[str]:
    """A printable letter for every byte, as in GPT-2's byte-level BPE: visible Latin-1, then from U+0100."""
    visible = [*range(ord("!"), ord("~") + 1), *range(ord("¡"), ord("¬") + 1), *range(ord("®"), ord("ÿ") + 1)]
    return [chr(b) for b in visible] + [chr(256 + n) for n in range(256 - len(visible))]
