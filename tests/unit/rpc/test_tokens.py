"""The token file: who is known by it, and that a wrong one is explained without quoting it."""

import hashlib
from pathlib import Path
from typing import Any

import pytest
import yaml
from foldserve.errors import ConfigurationError
from foldserve.rpc.tokens import Holder, Tokens, token_in, tokens_of
from foldserve.settings import Right

SECRET = "s3cr3t-0123456789-abcdef"
SHA256 = hashlib.sha256(SECRET.encode()).hexdigest()


def _tokens(file: Path, *entries: Any) -> Tokens:
    file.write_text(yaml.safe_dump(list(entries)))
    renewed = tokens_of(file)
    assert renewed is not None
    return renewed.value


def _entry(**changes: Any) -> dict[str, Any]:
    entry = {"name": "alice", "rights": ["inference"], "token": SECRET} | changes
    return {key: value for key, value in entry.items() if value is not None}


@pytest.mark.parametrize("known_by", [{"token": SECRET}, {"token": None, "token_sha256": SHA256}])
def test_a_holder_is_known_by_the_token_or_its_hash(tmp_path: Path, known_by: dict[str, Any]) -> None:
    other = _entry(name="bob", token="another-token-of-some-length", rights=["metadata", "management"])
    tokens = _tokens(tmp_path / "tokens", _entry(**known_by), other)
    assert tokens.holder(SECRET) == Holder("alice", frozenset({Right.INFERENCE}))
    assert tokens.holder("another-token-of-some-length") == Holder(
        "bob", frozenset({Right.METADATA, Right.MANAGEMENT})
    )
    for wrong in ("", SECRET[:-1], SECRET + "0", SECRET.upper(), SHA256, "\udcff", "ü" * 20):
        assert tokens.holder(wrong) is None


@pytest.mark.parametrize(
    ("entries", "text"),
    [
        ([_entry(rights=[])], "token 1, rights is empty"),
        (
            [_entry(rights=["inferences"])],
            "token 1, rights should be 'inference', 'metadata' or 'management'",
        ),
        ([_entry(rights=None)], "token 1, rights is missing"),
        ([_entry(name=None)], "token 1, name is missing"),
        ([_entry(name="")], "token 1, name is empty"),
        ([_entry(name="two\nlines")], "token 1, name has characters that cannot be"),
        ([_entry(), _entry(token=SECRET[:15])], "token 2, token is too short; make one with: openssl rand"),
        ([_entry(token=12345678901234567890)], "token 1, token should be a valid string"),
        ([_entry(token=None)], "token 1 needs either token or token_sha256"),
        ([_entry(token_sha256=SHA256)], "token 1 needs either token or token_sha256"),
        ([_entry(token=None, token_sha256=SHA256.upper())], "token_sha256 is no SHA-256 in lower-case hex"),
        ([_entry(**{SECRET: 1})], "token 1 has a key that is none of name, rights, token, token_sha256"),
        ([SECRET], "token 1 should hold name, rights and token as 'name: value'"),
        ([_entry(token=SECRET + "\n")], "token 1 has spaces, line ends or letters beyond ASCII in its token"),
        ([_entry(token=f"{SECRET} {SECRET}")], "token 1 has spaces"),
        ([_entry(token=SECRET + "ü")], "token 1 has spaces"),
        ([_entry(), _entry(name="bob")], "'alice' and 'bob' have the same token"),
        ([_entry(), _entry(name="bob", token=None, token_sha256=SHA256)], "'alice' and 'bob' have the same"),
        ([], "holds no token, so nobody could call"),
    ],
)
def test_a_wrong_file_is_explained_without_its_secrets(tmp_path: Path, entries: list[Any], text: str) -> None:
    with pytest.raises(ConfigurationError) as failure:
        _tokens(tmp_path / "tokens", *entries)
    told = str(failure.value)
    assert text in told
    assert told.startswith(str(tmp_path / "tokens"))
    assert SECRET[:8] not in told
    assert SHA256[:8] not in told.lower()


@pytest.mark.parametrize(
    "content",
    [
        f"*{SECRET}",
        f"!{SECRET} x",
        f"{SECRET}: 1",
        f"- {SECRET}: 1\n  {SECRET}: 2",
        f"- [{SECRET}",
        f"%{SECRET}",
        SECRET,
        "",
        f"- token: '{SECRET}",
        f"{SECRET}\x00",
        "- " * 5000,
    ],
)
def test_what_is_no_list_in_yaml_is_not_quoted_either(tmp_path: Path, content: str) -> None:
    (tmp_path / "tokens").write_text(content)
    with pytest.raises(ConfigurationError) as failure:
        tokens_of(tmp_path / "tokens")
    assert SECRET[:8] not in str(failure.value)
    cause: BaseException | None = failure.value
    while cause is not None:
        assert cause.__suppress_context__ or cause.__context__ is None
        cause = cause.__cause__


@pytest.mark.parametrize(
    ("metadata", "token"),
    [
        ([("authorization", "Bearer abc")], "abc"),
        ([("user-agent", "x"), ("authorization", "bearer  abc ")], "abc"),
        ([("authorization", "Basic abc")], None),
        ([("authorization", "abc")], None),
        ([("authorization", b"Bearer abc")], None),
        ([("authorization", "Basic abc"), ("authorization", "Bearer abc")], None),
        ([("x-authorization", "Bearer abc")], None),
        ([], None),
        (None, None),
    ],
)
def test_where_the_token_is(metadata: Any, token: str | None) -> None:
    assert token_in(metadata) == token
