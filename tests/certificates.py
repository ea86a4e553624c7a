"""Certificates for a cluster with TLS."""

from pathlib import Path

import trustme
from distributed import Security


def write_certificates(folder: Path) -> Security:
    """Write certificates to files, as the owner of a cluster has them."""
    authority = trustme.CA()
    authority.cert_pem.write_to_path(folder / "authority.pem")
    roles = {}
    for role in ("client", "scheduler", "worker"):
        certificate = authority.issue_cert(f"{role}.test")
        key, cert = folder / f"{role}.key", folder / f"{role}.pem"
        certificate.private_key_pem.write_to_path(key)
        for blob in certificate.cert_chain_pems:
            blob.write_to_path(cert, append=True)
        roles |= {f"tls_{role}_key": str(key), f"tls_{role}_cert": str(cert)}
    return Security(
        require_encryption=True, tls_ca_file=str(folder / "authority.pem"), **roles
    )
