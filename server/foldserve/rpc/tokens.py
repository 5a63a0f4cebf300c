"""Bearer tokens: who holds which, and what it lets them do."""

import hashlib
import os
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Self

from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    SecretStr,
    StringConstraints,
    TypeAdapter,
    ValidationError,
    model_validator,
)

from foldserve.errors import ConfigurationError
from foldserve.rpc.renewal import Renewed
from foldserve.settings import Right
from foldserve.yaml_file import read_list

if TYPE_CHECKING:
    from pydantic_core import ErrorDetails

HEADER, SCHEME = "authorization", "bearer"
SHORTEST, LONGEST = 16, 4096
PATTERNS = {"name": "has characters that cannot be", "token_sha256": "is no SHA-256 in lower-case hex"}
"""What is said of text that is not as it must be."""

SENDABLE = re.compile("[!-~]+")
"""Text that fits behind the scheme in a header."""

Metadata = Iterable[tuple[str, str | bytes]]


@dataclass(frozen=True)
class Holder:
    """Whose token it is, and what it lets them do."""

    name: str
    rights: frozenset[Right]


class _Entry(BaseModel):
    """One token in the file: itself, or its SHA-256."""

    model_config = ConfigDict(frozen=True, extra="forbid", hide_input_in_errors=True)

    name: Annotated[str, StringConstraints(min_length=1, max_length=100, pattern=r"^[\w .@/-]+$")]
    rights: frozenset[Right] = Field(min_length=1)
    token: SecretStr | None = Field(default=None, min_length=SHORTEST, max_length=LONGEST)
    token_sha256: Annotated[str, StringConstraints(pattern="^[0-9a-f]{64}$")] | None = None

    @model_validator(mode="after")
    def _one_of_both(self) -> Self:
        if (self.token is None) is (self.token_sha256 is None):
            raise ValueError("needs either token or token_sha256")
        if self.token is not None and not SENDABLE.fullmatch(self.token.get_secret_value()):
            raise ValueError("has spaces, line ends or letters beyond ASCII in its token: none can be sent")
        return self

    @property
    def sha256(self) -> bytes:
        """The hash that a caller's token is known by."""
        if self.token_sha256 is not None:
            return bytes.fromhex(self.token_sha256)
        assert self.token is not None
        return hashlib.sha256(self.token.get_secret_value().encode()).digest()


class Tokens:
    """The holders by their tokens' hashes.

    They are hashed once more with a key that nobody knows: however long it takes to find one or none in a
    table of such hashes tells nothing about the tokens, so the time of a check needs not be constant.
    """

    def __init__(self, holders: Mapping[bytes, Holder]) -> None:
        """``holders`` by the SHA-256 of their tokens."""
        self._key = os.urandom(32)
        self._holders = {self._known_by(sha256): holder for sha256, holder in holders.items()}

    def holder(self, token: str) -> Holder | None:
        """Whose token it is; None if nobody's."""
        sha256 = hashlib.sha256(token.encode("utf-8", "surrogatepass")).digest()
        return self._holders.get(self._known_by(sha256))

    def _known_by(self, sha256: bytes) -> bytes:
        return hashlib.blake2b(sha256, key=self._key, digest_size=32).digest()


def token_in(metadata: Metadata | None) -> str | None:
    """The token that came with a call; None if there is none."""
    for name, value in metadata or ():
        if name == HEADER and isinstance(value, str):
            scheme, _, token = value.partition(" ")
            return token.strip() if scheme.lower() == SCHEME else None
    return None


def tokens_of(file: Path | None) -> Renewed[Tokens] | None:
    """The tokens in a file, as it is now and as it becomes; None for no file.

    Raises :class:`ConfigurationError`; its text, like that of every later failure, quotes no value.
    """
    return None if file is None else Renewed("the token file", [file], partial(_parse, file))


def _parse(file: Path, contents: Sequence[bytes]) -> Tokens:
    try:
        entries = TypeAdapter(list[_Entry]).validate_python(read_list(file, contents[0]))
    except ValidationError as error:
        raise ConfigurationError(f"{file}: {'; '.join(map(_told, error.errors()))}") from None
    if not entries:
        raise ConfigurationError(f"{file} holds no token, so nobody could call; leave token_file out instead")
    holders: dict[bytes, Holder] = {}
    for entry in entries:
        if entry.sha256 in holders:
            both = f"'{holders[entry.sha256].name}' and '{entry.name}'"
            raise ConfigurationError(f"{file}: {both} have the same token; give each its own")
        holders[entry.sha256] = Holder(entry.name, entry.rights)
    return Tokens(holders)


def _told(one: "ErrorDetails") -> str:
    """What is wrong with an entry, without its values and unknown keys: they may be secrets."""
    number, *keys = one["loc"]
    known = [str(key) for key in keys if key in _Entry.model_fields]
    place = f"token {int(number) + 1}" + "".join(f", {key}" for key in known[:1])
    match one["type"]:
        case "extra_forbidden":
            fault = f"has a key that is none of {', '.join(_Entry.model_fields)}"
        case "model_type":
            fault = "should hold name, rights and token as 'name: value'"
        case "missing":
            fault = "is missing"
        case "too_short" | "string_too_short":
            fault = "is too short; make one with: openssl rand -hex 32" if known == ["token"] else "is empty"
        case "value_error":
            fault = one["msg"].removeprefix("Value error, ")
        case "string_pattern_mismatch":
            fault = PATTERNS[known[0]]
        case _:
            fault = f"should {one['msg'].removeprefix('Input should ')}"
    return f"{place} {fault}"
