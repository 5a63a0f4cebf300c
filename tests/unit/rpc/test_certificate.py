"""What a certificate says of itself, read from real ones that openssl made."""

import random
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path

import pytest
from certificates import Pki, run
from foldserve.rpc.certificate import certificates


@pytest.fixture(scope="module")
def pki(tmp_path_factory: pytest.TempPathFactory) -> Pki:
    return Pki(tmp_path_factory.mktemp("pki"))


def _end_by_openssl(file: Path) -> datetime:
    run(f"openssl x509 -in {file} -noout -enddate -dateopt iso_8601 > end", file.parent)
    text = (file.parent / "end").read_text().strip().removeprefix("notAfter=")
    return datetime.strptime(text, "%Y-%m-%d %H:%M:%SZ").replace(tzinfo=UTC)


@pytest.mark.parametrize("days", [1, 40_000], ids=["two digits for the year", "four digits"])
@pytest.mark.parametrize(
    ("new_key", "kind"),
    [
        ("rsa:2048", "RSA"),
        ("ec -pkeyopt ec_paramgen_curve:P-256", "P-256"),
        ("ec -pkeyopt ec_paramgen_curve:P-384", "P-384"),
        ("ec -pkeyopt ec_paramgen_curve:P-521", None),
        ("ed25519", None),
    ],
)
def test_its_end_and_key_are_those_that_openssl_tells(
    tmp_path: Path, days: int, new_key: str, kind: str | None
) -> None:
    command = f"openssl req -x509 -newkey {new_key} -noenc -days {days} -keyout k -out c -subj /C=DE/O=x/CN=y"
    run(command, tmp_path)
    (found,) = certificates((tmp_path / "c").read_bytes())
    assert (found.expires, found.key) == (_end_by_openssl(tmp_path / "c"), kind)


def test_a_chain_has_all_of_its_certificates_in_order(pki: Pki) -> None:
    chain = b"words before\n" + pki["server.crt"].read_bytes() + b"\n" + pki["ca.crt"].read_bytes()
    assert [one.expires for one in certificates(chain)] == [
        _end_by_openssl(pki["server.crt"]),
        _end_by_openssl(pki["ca.crt"]),
    ]
    assert certificates(pki["server.key"].read_bytes()) == []


def test_what_is_damaged_is_a_value_error_or_read_all_the_same(pki: Pki) -> None:
    good = pki["server.crt"].read_bytes()
    chance = random.Random(1)
    for _ in range(300):
        spoilt = bytearray(good)
        for _ in range(chance.randint(1, 3)):
            spoilt[chance.randrange(30, len(good) - 30)] = chance.choice(b"ABCDabcd0123+/=\n ")
        with suppress(ValueError):
            certificates(bytes(spoilt))
