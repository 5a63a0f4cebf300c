"""What a certificate says of itself, as far as a server needs to know: when it ends, and its kind of key.

Python's standard library keeps both to itself, and a library for X.509 is many times the size of this
server. So this reads the few fields that lead there from the certificate's DER:

    Certificate { tbsCertificate { [0] version, serialNumber, signature, issuer,
                                   validity { notBefore, notAfter }, subject,
                                   subjectPublicKeyInfo { algorithm { OID, parameters }, key }, ... }, ... }
"""

import re
import ssl
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime

PEM = re.compile(r"-----BEGIN CERTIFICATE-----.+?-----END CERTIFICATE-----", re.DOTALL)
VERSION, UTC_TIME = 0xA0, 0x17
RSA, ELLIPTIC = "2a864886f70d010101", "2a8648ce3d0201"
CURVES = {"2a8648ce3d030107": "P-256", "2b81040022": "P-384"}


@dataclass(frozen=True)
class Certificate:
    """The facts of one certificate."""

    expires: datetime
    key: str | None
    """``RSA``, ``P-256`` or ``P-384``; None for what gRPC's TLS library, or its clients', does not speak."""


def certificates(pem: bytes) -> list[Certificate]:
    """The certificates in the text of a PEM file, in its order; raises ValueError for what is none."""
    blocks = PEM.findall(pem.decode("ascii", "replace"))
    try:
        return [_certificate(ssl.PEM_cert_to_DER_cert(block)) for block in blocks]
    except (ValueError, IndexError, StopIteration):
        raise ValueError("a block that says it is a certificate is none") from None


def _certificate(der: bytes) -> Certificate:
    (_, whole), *_ = _elements(der)
    (_, body), *_ = _elements(whole)
    fields = [field for field in _elements(body) if field[0] != VERSION]
    (_, validity), (_, public_key) = fields[3], fields[5]
    kind, not_after = list(_elements(validity))[1]
    (_, algorithm), *_ = _elements(public_key)
    (_, name), *parameters = _elements(algorithm)
    return Certificate(_time(kind, not_after.decode("ascii")), _key(name, parameters))


def _time(kind: int, text: str) -> datetime:
    """A UTCTime has two digits for the year, which stand for 1950 to 2049."""
    if kind == UTC_TIME:
        text = ("19" if text[:2] >= "50" else "20") + text
    return datetime.strptime(text, "%Y%m%d%H%M%SZ").replace(tzinfo=UTC)


def _key(name: bytes, parameters: list[tuple[int, bytes]]) -> str | None:
    if name.hex() == RSA:
        return "RSA"
    return CURVES.get(parameters[0][1].hex()) if name.hex() == ELLIPTIC and parameters else None


def _elements(der: bytes) -> Iterator[tuple[int, bytes]]:
    """Tag and content of each element, one after the other."""
    while der:
        tag, length, start = der[0], der[1], 2
        if length & 0x80:
            start += length & 0x7F
            length = int.from_bytes(der[2:start])
        if len(der) < start + length:
            raise ValueError("an element ends beyond its certificate")
        yield tag, der[start : start + length]
        der = der[start + length :]
