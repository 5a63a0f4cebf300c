"""What the fuzzer begins with, what it has found, and some thousand variations; ``make fuzz`` goes on."""

import random

import pytest
from fuzz.corpus import corpus
from fuzz.targets import TARGETS, found_nothing

VARIATIONS = {"request": 1500, "model": 60, "configuration": 300, "archive": 60, "upload": 300}


@pytest.mark.parametrize("target", TARGETS)
def test_nothing_is_found(target: str) -> None:
    inputs = corpus(target)
    for data in inputs:
        found_nothing(target, data)
    generator = random.Random(20)
    for _ in range(VARIATIONS[target]):
        found_nothing(target, _varied(generator.choice(inputs), generator))


def _varied(data: bytes, generator: random.Random) -> bytes:
    """Bits flipped, parts doubled, left out or replaced by numbers at the edge of what there is."""
    varied = bytearray(data)
    for _ in range(generator.randint(1, 6)):
        at = generator.randrange(len(varied) + 1)
        size = generator.randint(1, 16)
        match generator.randrange(4):
            case 0 if at < len(varied):
                varied[at] ^= 1 << generator.randrange(8)
            case 1:
                varied[at : at + size] = b""
            case 2:
                varied[at:at] = varied[at : at + size]
            case _:
                varied[at : at + size] = generator.choice(
                    [b"\xff" * size, bytes(size), b"\x80" * 9 + b"\x01"]
                )
    return bytes(varied)
