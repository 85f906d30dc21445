"""A certificate of our own making: ``python -P -m daemon.lan.certificate FOLDER NAME…``.

The daemon runs this as a program: the library behind it takes 15 MiB that would stay for good.
One line of JSON on stdout says what there is now (:class:`Made`). Without names it only reads
``FOLDER``, which is then the file of somebody else's certificate.

The certificate signs itself, so who connects has to be shown its fingerprint once. It is therefore
changed as seldom as can be: before it expires, and when somebody asks for other names in it.
"""

from __future__ import annotations

import argparse
import datetime
import ipaddress
import json
import os
import sys
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Final

from daemon.config.paths import ensure_private
from daemon.core.problems import ProblemError
from daemon.files import read_private, write_private

if TYPE_CHECKING:
    from cryptography import x509
    from cryptography.hazmat.primitives.asymmetric.ec import EllipticCurvePrivateKey

CERT: Final = "cert.pem"
KEY: Final = "key.pem"
_LIMIT: Final = 65536  # bytes of either file
_EARLIER: Final = datetime.timedelta(days=1)  # clocks of other machines are late, too


@dataclass(frozen=True, slots=True)
class Made:
    """What is there: ``names`` in it, ``not_after`` in Unix seconds; ``made``: just now."""

    cert: str
    key: str
    names: list[str]
    not_after: float
    made: bool


def ensure(
    folder: Path, names: Sequence[str], *, life: float, renewal: float, now: float, anew: bool
) -> Made:
    """The certificate of ``folder``, made where there is none, where it has less than ``renewal``
    seconds to live or cannot be read, or (``anew``) where a name is missing from it. Its private
    key stays the same. Raises ProblemError, OSError."""
    ensure_private(folder)
    key = _read_key(folder / KEY)
    found = _read_cert(folder / CERT, key)
    if found is not None:
        has, until = _names_of(found), found.not_valid_after_utc.timestamp()
        if until - now > renewal and not (anew and set(names) - set(has)):
            return Made(str(folder / CERT), str(folder / KEY), has, until, made=False)
    key = key or _new_key()
    cert = _signed(key, names, life, now)
    write_private(folder / KEY, _key_pem(key))
    write_private(folder / CERT, _cert_pem(cert))
    until = cert.not_valid_after_utc.timestamp()
    return Made(str(folder / CERT), str(folder / KEY), list(names), until, made=True)


def read(path: Path) -> Made:
    """What is in a certificate of the user's own. Raises OSError, ValueError."""
    from cryptography import x509

    cert = x509.load_pem_x509_certificates(path.read_bytes())[0]
    until = cert.not_valid_after_utc.timestamp()
    return Made(str(path), "", _names_of(cert), until, made=False)


def _read_key(path: Path) -> EllipticCurvePrivateKey | None:
    from cryptography.hazmat.primitives.asymmetric.ec import EllipticCurvePrivateKey
    from cryptography.hazmat.primitives.serialization import load_pem_private_key

    try:
        key = load_pem_private_key(read_private(path, _LIMIT), None)
    except (OSError, ValueError, TypeError):
        return None
    return key if isinstance(key, EllipticCurvePrivateKey) else None


def _read_cert(path: Path, key: EllipticCurvePrivateKey | None) -> x509.Certificate | None:
    """The certificate, if it is that of the key."""
    from cryptography import x509

    try:
        cert = x509.load_pem_x509_certificate(read_private(path, _LIMIT))
    except (OSError, ValueError):
        return None
    return cert if key is not None and cert.public_key() == key.public_key() else None


def _names_of(cert: x509.Certificate) -> list[str]:
    from cryptography import x509

    try:
        found = cert.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    except x509.ExtensionNotFound:
        return []
    return [str(name.value) for name in found]


def _new_key() -> EllipticCurvePrivateKey:
    from cryptography.hazmat.primitives.asymmetric import ec

    return ec.generate_private_key(ec.SECP256R1())


def _signed(
    key: EllipticCurvePrivateKey, names: Iterable[str], life: float, now: float
) -> x509.Certificate:
    """Self-signed (RFC 5280). It may be put into a client's trust store: for a server and nothing
    else, no authority over other names, and with the identifiers that strict clients ask for."""
    from cryptography import x509
    from cryptography.hazmat.primitives import hashes
    from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

    begin = datetime.datetime.fromtimestamp(now, datetime.UTC)
    public = key.public_key()
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "modelport")])
    identifier = x509.SubjectKeyIdentifier.from_public_key(public)
    usage = x509.KeyUsage(
        digital_signature=True,
        key_cert_sign=False,
        crl_sign=False,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        encipher_only=False,
        decipher_only=False,
    )
    return (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(public)
        .serial_number(x509.random_serial_number())
        .not_valid_before(begin - _EARLIER)
        .not_valid_after(begin + datetime.timedelta(seconds=life))
        .add_extension(x509.SubjectAlternativeName([_general(one) for one in names]), False)
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), True)
        .add_extension(usage, True)
        .add_extension(x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH]), False)
        .add_extension(identifier, False)
        .add_extension(
            x509.AuthorityKeyIdentifier.from_issuer_subject_key_identifier(identifier), False
        )
        .sign(key, hashes.SHA256())
    )


def _general(name: str) -> x509.GeneralName:
    from cryptography import x509

    try:
        return x509.IPAddress(ipaddress.ip_address(name))
    except ValueError:
        return x509.DNSName(name)


def _key_pem(key: EllipticCurvePrivateKey) -> bytes:
    from cryptography.hazmat.primitives import serialization as form

    return key.private_bytes(form.Encoding.PEM, form.PrivateFormat.PKCS8, form.NoEncryption())


def _cert_pem(cert: x509.Certificate) -> bytes:
    from cryptography.hazmat.primitives.serialization import Encoding

    return cert.public_bytes(Encoding.PEM)


def main(argv: list[str] | None = None) -> int:
    """See the module. What is wrong is said on stderr."""
    options = argparse.ArgumentParser(prog="python -P -m daemon.lan.certificate")
    options.add_argument("folder", type=Path)
    options.add_argument("names", nargs="*")
    for name in ("--life", "--renewal", "--now"):
        options.add_argument(name, type=float, default=0.0, metavar="SECONDS")
    options.add_argument("--anew", action="store_true")
    args = options.parse_args(argv)
    os.umask(0o077)
    try:
        made = (
            ensure(
                args.folder,
                args.names,
                life=args.life,
                renewal=args.renewal,
                now=args.now,
                anew=args.anew,
            )
            if args.names
            else read(args.folder)
        )
    except (ProblemError, OSError, ImportError, ValueError) as error:
        print(error, file=sys.stderr)
        return 1
    print(json.dumps(asdict(made)))
    return 0


if __name__ == "__main__":
    sys.exit(main())
