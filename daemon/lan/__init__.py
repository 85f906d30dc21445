"""Being reached from other machines: addresses, certificates, being found."""
